"""The process of an emulated run, ``python -m tests.cuda.emulation_process FOLDER``; see ``emulation.py``."""

from __future__ import annotations

import ctypes
import faulthandler
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tilewright import runtime
from tilewright.backends.cuda import interpreter_process
from tilewright.runtime.devices import cuda

from tests.cuda.mock.driver import Mock

PARAMS_MOST = 128

#: Element types by Triton's spelling. Those are left out whose bits the interpreter multiplies: bf16, 8-bit floats.
TYPES = {
    "fp32": torch.float32, "fp16": torch.float16, "fp64": torch.float64, "i1": torch.bool, "i8": torch.int8,
    "i16": torch.int16, "i32": torch.int32, "i64": torch.int64, "u8": torch.uint8, "u16": torch.uint16,
    "u32": torch.uint32, "u64": torch.uint64,
}  # fmt: skip


class Launch(ctypes.Structure):
    """``Launch`` of ``mock.h``."""

    _fields_ = (
        ("grid", ctypes.c_uint),
        ("block", ctypes.c_uint),
        ("shared", ctypes.c_uint),
        ("param", ctypes.c_uint64 * PARAMS_MOST),
    )


RUN = ctypes.CFUNCTYPE(None, ctypes.POINTER(Launch))


class Interpreted:
    """Kernels of the mock that are computed from their text. What goes wrong in one is kept, and told at the end."""

    def __init__(self, folder: Path, mock: Mock):
        self._folder, self._mock = folder, mock
        self._kept: list[Any] = []
        self.problems: list[str] = []
        self.launches = 0
        mock.lib.mock_extent.restype = ctypes.c_size_t
        mock.lib.mock_extent.argtypes = (ctypes.c_void_p,)
        for told in json.loads((folder / "launches.json").read_text(encoding="utf-8")):
            self._register(told)

    def _register(self, told: dict[str, Any]) -> None:
        name, arguments = told["entry"], told["arguments"]
        spec = importlib.util.spec_from_file_location(name, self._folder / f"{told['kernel']}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        run = RUN(self._runner(getattr(module, name), arguments))
        self._kept.append(run)
        self._mock.lib.mock_register(name.encode(), run)

    def _runner(self, kernel: Any, arguments: list[dict[str, Any]]) -> Callable[[Any], None]:
        def run(launch: Any) -> None:
            given = launch.contents
            try:
                values = {a["name"]: self._value(a, given.param[n]) for n, a in enumerate(arguments)}
                kernel[(given.grid,)](**values)
                self.launches += 1
            except BaseException:
                self.problems.append(f"{kernel.fn.__name__}: {traceback.format_exc()}")

        return run

    def _value(self, argument: dict[str, Any], value: int) -> Any:
        spelled = argument["type"]
        if not spelled.startswith("*"):
            bits = 64 if spelled == "i64" else 32
            return value - (1 << bits) if value >= 1 << (bits - 1) else value
        dtype = TYPES[spelled[1:]]
        extent = self._mock.lib.mock_extent(value) // dtype.itemsize * dtype.itemsize
        if not extent:
            raise AssertionError(f"{argument['name']} at {value:#x} points to no memory")
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * extent).from_address(value))
        return torch.from_numpy(memory).view(dtype)


def main(folder: Path) -> None:
    """Run the job of a folder."""
    faulthandler.enable()  # the interpreter bounds no access: one outside of all memory ends the process
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    interpreter_process.stand_in()
    mock = Mock()
    mock.lib.mock_reset()
    mock.set(major=job["arch"] // 10, minor=job["arch"] % 10)
    kernels = Interpreted(folder, mock)
    cuda.LIBRARY = mock.path.decode()
    session = runtime.load(folder / "model.tw", "cuda", 1)
    kept: dict[str, Any] = {}
    names = [o.name for o in session.outputs]
    for n in range(job["feeds"]):
        with np.load(folder / f"feed{n}.npz") as data:
            feed = {**{k: data[k] for k in data.files}, **kept}
        outputs = session.run(None, feed, **({"outputs": "device"} if job["states"] else {}))
        by_name = dict(zip(names, outputs, strict=True))
        kept = {i: by_name[o] for i, o in job["states"].items()}
        np.savez(folder / f"out{n}.npz", **{str(k): np.asarray(v) for k, v in enumerate(outputs)})
    told = {"target": session.target, "launches": kernels.launches}
    session.close()
    del session
    if kernels.problems or mock.rules():
        raise SystemExit("\n".join([*kernels.problems[:3], mock.rules()]))
    (folder / "told.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
