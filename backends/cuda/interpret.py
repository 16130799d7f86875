"""Emitted kernels in Triton's interpreter: the numbers of the very text that is compiled, with no GPU.

The interpreter needs torch. It multiplies the raw bits of bfloat16 and the 8-bit floats (seen with 3.9), so kernels
with them are refused. It does not see padding beyond tensors differently from a GPU, but it does bound no access:
a wrong mask shows as a wrong number or a crash of the process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tilewright.backends.base import Source
from tilewright.backends.cuda import interpreter_process, toolchain
from tilewright.backends.cuda.launch import LAUNCHES, from_json
from tilewright.errors import InternalError, UnsupportedError

Arrays = Mapping[str, npt.NDArray[Any]]

#: Signature types whose arithmetic the interpreter gets wrong.
_WRONG = ("bf16", "fp8e4nv", "fp8e5")


@dataclass(frozen=True, slots=True)
class Run:
    """One launch: ``arrays`` by parameter (outputs as well, whatever they hold), ``sizes`` by dimension symbol."""

    kernel: str
    arrays: Arrays
    sizes: Mapping[str, int]
    outputs: tuple[str, ...]


def interpret(source: Source, runs: Sequence[Run]) -> list[dict[str, npt.NDArray[Any]]]:
    """The outputs of each run. Raises ``UnsupportedError`` for types that the interpreter gets wrong."""
    launches = {x.kernel: x for x in from_json(source.files[LAUNCHES])}
    with tempfile.TemporaryDirectory(prefix="tilewright-interpret-") as name:
        folder = Path(name)
        for file, text in source.files.items():
            (folder / file).write_text(text, encoding="utf-8")
        jobs: list[dict[str, Any]] = []
        for n, run in enumerate(runs):
            launch = launches[run.kernel]
            for a in launch.arguments:
                if a.type.removeprefix("*") in _WRONG:
                    raise UnsupportedError(
                        "interpreter-type",
                        where=f"kernel {run.kernel}, parameter {a.name}",
                        cause=f"Triton's interpreter computes {a.type.removeprefix('*')} wrongly",
                        fix="interpret the kernel in f16 or f32, or run it on a GPU",
                    )
            files = {key: f"{n}_{key}.npy" for key in run.arrays}
            for key, array in run.arrays.items():
                np.save(folder / files[key], _stored(np.ascontiguousarray(array)))
            jobs.append(
                {
                    "file": f"{run.kernel}.py",
                    "entry": launch.entry,
                    "arrays": files,
                    "sizes": dict(run.sizes),
                    "grid": launch.grid.evaluate(run.sizes),
                    "outputs": run.outputs,
                    "workspace": {
                        a.name: launch.workspace.evaluate(run.sizes) for a in launch.arguments if a.role == "workspace"
                    },
                    "counters": launch.counters,
                }
            )
        (folder / "job.json").write_text(json.dumps(jobs), encoding="utf-8")
        command = [sys.executable, "-s", interpreter_process.__file__, str(folder / "job.json")]
        done = subprocess.run(command, env=toolchain.environment(folder), capture_output=True, text=True, check=False)
        if done.returncode:
            raise InternalError(f"Triton's interpreter failed ({done.returncode}):\n{done.stderr}")
        return [{key: np.load(folder / job["arrays"][key]) for key in job["outputs"]} for job in jobs]


def _stored(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``array`` as it lies in memory: of 4-bit integers two in a byte, the first in its low half."""
    if array.dtype.name not in ("int4", "uint4"):
        return array
    codes = array.astype(np.int8).view(np.uint8).ravel() & 15
    codes = np.append(codes, np.zeros(codes.size % 2, np.uint8))
    return codes[::2] | codes[1::2] << 4
