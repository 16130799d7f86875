"""Generated Ascend C compiled against the header model and run: the developer's way, and that of the tests.

``python -m tests.ascend.modelled softmax`` runs a trial and says whether its bits are those of the simulator.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tilewright.backends.ascend.ascendc.emit import Form, Sources, emit_kernel
from tilewright.backends.ascend.ascendc.signature import Signature, signature
from tilewright.backends.ascend.placed.form import Placed
from tilewright.errors import InternalError, TilewrightError

Array = np.ndarray[Any, Any]
MODEL = Path(__file__).parent / "model"
#: What every byte behind the end of a tensor is.
_BEHIND = 0x5A
_CPP = {"tensor": "void*", "workspace": "void*", "fault": "void*", "dimension": "int64_t"}
_SHAPES = {"mix": "Mix", "cube": "Cube", "vector": "Vector", "fused": "Fused"}


class ModelRefusedError(Exception):
    """What the header model refused, in its words."""


def compiler() -> list[str]:
    """A C++ compiler: g++ where it is, else the one in the ``ziglang`` package, which is slow the first time."""
    found = shutil.which("g++")
    return [found] if found else [sys.executable, "-m", "ziglang", "c++"]


def launcher(sources: Sources) -> str:
    """C++ that launches each kernel by the name and arguments that CANN's builds give: ``aclrtlaunch_<kernel>``.

    It returns 0, or 1 and leaves the reason to ``model_error()``.
    """
    lines = ['#include "kernel_operator.h"']
    lines += [f'#include "{name}"' for name in sources.files if not name.endswith(".h")]
    lines.append('extern "C" const char* model_error() { return model::last_error().c_str(); }')
    for name, sig in sources.signatures.items():
        parameters = "".join(f", {_CPP[a.kind]} a{i}" for i, a in enumerate(sig.arguments))
        values = ", ".join(f"a{i}" if a.kind == "dimension" else f"(uint8_t*)a{i}" for i, a in enumerate(sig.arguments))
        lines += [
            f'extern "C" uint32_t aclrtlaunch_{name}(uint32_t blockDim, void*{parameters})',
            "{",
            f"    return model::launch(blockDim, model::Shape::{_SHAPES[sig.kind]}, [=] {{ {name}({values}); }});",
            "}",
        ]
    return "\n".join(lines) + "\n"


def compile_library(
    files: Mapping[str, str], main: str, architecture: int, command: Sequence[str] = (), level: str = "-O1"
) -> Path:
    """A shared library of ``main`` among ``files``, beside the model's headers; made once for the same text. It is
    empty where ``level`` is ``-fsyntax-only``: that judges the text."""
    command = list(command) or compiler()
    flags = ["-std=c++17", level, "-shared", "-fPIC", "-ffp-contract=off", "-pthread", "-Wall", "-Wextra", "-Werror"]
    flags += ["-Wno-unused-parameter", "-Wno-missing-field-initializers", f"-D__NPU_ARCH__={architecture}"]
    texts = {**{p.name: p.read_text(encoding="utf-8") for p in sorted(MODEL.glob("*.h"))}, **files}
    key = hashlib.sha256(repr((command, flags, sorted(texts.items()), main)).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"tilewright-ascend-model-{key}"
    library = folder / "kernels.so"
    if not library.exists():
        folder.mkdir(exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        made = folder / f"{np.random.default_rng().integers(1 << 40):x}.so"
        call = [*command, *flags, "-x", "c++", str(folder / main), "-o", str(made)]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{main} does not compile:\n{done.stderr[:4000]}")
        made.touch()
        made.replace(library)
    return library


@dataclass(frozen=True)
class Modelled:
    """A compiled library of kernels."""

    library: ctypes.CDLL
    signatures: Mapping[str, Signature]

    def run(
        self, placed: Placed, inputs: Mapping[str, Array], dims: Mapping[str, int], groups: int = 2, symbol: str = ""
    ) -> tuple[dict[str, Array], bool]:
        """The outputs, and whether the fault word was set. Raises :class:`ModelRefusedError`."""
        symbol = symbol or placed.kernel.name
        sig = self.signatures[symbol]
        memory: dict[str, Array] = {}
        for p in placed.kernel.params:
            if p.role == "out" and p.alias is None:
                memory[p.name] = _allocated(np.zeros([e.evaluate(dims) for e in p.shape], p.dtype.numpy))
            else:
                memory[p.name] = _allocated(inputs[p.alias or p.name])
        memory["\0workspace"] = np.full(max(1, sig.workspace * groups), 0xFF, np.uint8)
        memory["\0fault"] = np.zeros(1, np.int32)
        values: list[Any] = []
        for a in sig.arguments:
            if a.kind == "dimension":
                values.append(ctypes.c_int64(dims[a.name]))
            else:
                name = a.name if a.kind == "tensor" else f"\0{a.kind}"
                values.append(ctypes.c_void_p(memory[name].ctypes.data))
        launch = getattr(self.library, f"aclrtlaunch_{symbol}")
        launch.restype = ctypes.c_uint32
        if launch(ctypes.c_uint32(groups * sig.cores_a_block), None, *values):
            raise ModelRefusedError(self.error())
        for name, array in memory.items():
            if array.base is not None and (array.base[array.nbytes :] != _BEHIND).any():
                raise ModelRefusedError(f"bytes behind the end of {name} are changed")
        outputs = {p.name: memory[p.name] for p in placed.kernel.params if p.role == "out"}
        return outputs, bool(memory["\0fault"][0])

    def error(self) -> str:
        """What the last launch was refused for."""
        said = self.library.model_error
        said.restype = ctypes.c_char_p
        return bytes(said()).decode()


def _allocated(values: Array) -> Array:
    """``values`` as aclrtMalloc gives memory: rounded up to 32 bytes, and 32 more."""
    room = np.full(-(-values.nbytes // 32) * 32 + 32, _BEHIND, np.uint8)
    room[: values.nbytes] = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return np.ndarray(values.shape, values.dtype, room)


def build(
    kernels: Sequence[Placed] | Mapping[str, Placed],
    form: Form = "asc",
    command: Sequence[str] = (),
    level: str = "-O1",
) -> Modelled:
    """Emit ``kernels`` of one architecture, compile them together, and load them. Their symbols are the keys of a
    mapping, else their names."""
    named = kernels if isinstance(kernels, Mapping) else {k.kernel.name: k for k in kernels}
    if len(named) != len(kernels):
        raise ValueError("two kernels of one name")
    files: dict[str, str] = {}
    for symbol, placed in named.items():
        files |= emit_kernel(placed, symbol, form)
    architecture = int(next(iter(named.values())).target.extra["architecture"])
    sources = Sources(files, {symbol: signature(placed) for symbol, placed in named.items()})
    return load(sources, architecture, command, level)


def load(sources: Sources, architecture: int, command: Sequence[str] = (), level: str = "-O1") -> Modelled:
    """Compile ``sources`` together, and load them."""
    files = {**sources.files, "launcher.cpp": launcher(sources)}
    library = compile_library(files, "launcher.cpp", architecture, command, level)
    return Modelled(ctypes.CDLL(str(library)), sources.signatures)


def build_each(kernels: Sequence[Placed], parts: int = 2) -> dict[str, Modelled | str]:
    """A library for every kernel, or why there is none, by name. Several kernels are compiled in one call, ``parts``
    calls at a time; those of a call that fails one by one."""
    shares = [list(kernels[n::parts]) for n in range(parts)]
    with ThreadPoolExecutor(parts) as pool:
        found = list(pool.map(_built, [s for s in shares if s]))
    return {name: made for part in found for name, made in part.items()}


def _built(kernels: Sequence[Placed]) -> dict[str, Modelled | str]:
    try:
        library = build(kernels)
    except (RuntimeError, InternalError, TilewrightError) as error:
        if len(kernels) == 1:
            return {kernels[0].kernel.name: str(error)}
        return {name: made for k in kernels for name, made in _built([k]).items()}
    return dict.fromkeys((k.kernel.name for k in kernels), library)


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays have the same bits, NaN included."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def main(names: Sequence[str]) -> None:
    """Compare trials with the simulator."""
    from tilewright.backends.ascend.simulator.machine import check

    from tests.ascend.trials import TRIALS, placed

    for name in names or TRIALS:
        trial = TRIALS[name]
        got, _ = build([placed(name)]).run(placed(name), trial.inputs(), trial.dims)
        want = check(placed(name), trial.inputs(), trial.dims).outputs
        for output, value in got.items():
            print(f"{name} {output}: {'same bits' if same_bits(value, want[output]) else 'DIFFERENT'}")


if __name__ == "__main__":
    main(sys.argv[1:])
