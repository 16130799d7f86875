"""Emitted kernels in Triton's interpreter: the numbers of the very text that is compiled, with no GPU.

The interpreter needs torch. It multiplies the raw bits of bfloat16 and the 8-bit floats (seen with 3.9), so kernels
with them are refused. It does not see padding beyond tensors differently from a GPU, but it does bound no access:
a wrong mask shows as a wrong number or a crash of the process.
"""

from __future__ import annotations

import json
import math
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
from tilewright.ir.types import DType

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
            pointers = {a.name: a.type for a in launch.arguments if a.is_pointer}
            arrays = {key: in_memory(array, pointers[key]) for key, array in run.arrays.items()}
            arrays |= {a.name: np.zeros(4, np.int32) for a in launch.arguments if a.role == "fault"}
            files = {key: f"{n}_{key}.npy" for key in arrays}
            for key, array in arrays.items():
                np.save(folder / files[key], array)
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
        return [
            {key: _as_before(np.load(folder / job["arrays"][key]), run.arrays.get(key)) for key in run.outputs}
            for job, run in zip(jobs, runs, strict=True)
        ]


def in_memory(array: npt.NDArray[Any], pointer: str) -> npt.NDArray[Any]:
    """``array`` as a kernel with a ``pointer`` (``*u8`` …) to it finds it.

    Elements of less than 8 bits share bytes, the first in the lowest bits (written in whole words, ``*i32``); floats of
    8 bits are their codes.
    """
    array = np.ascontiguousarray(array)
    bits = DType.from_numpy(array.dtype).bits
    if bits < 8:
        each = (32 if pointer == "*i32" else 8) // bits
        codes = array.reshape(-1).view(np.uint8).astype(np.uint32) & ((1 << bits) - 1)
        codes = np.pad(codes, (0, -codes.size % each)).reshape(-1, each)
        words = np.bitwise_or.reduce(codes << (np.arange(each, dtype=np.uint32) * bits), axis=1)
        return np.asarray(words.view(np.int32) if pointer == "*i32" else words.astype(np.uint8))
    return array.view(np.uint8) if pointer == "*u8" and array.dtype != np.bool_ else array


def _as_before(memory: npt.NDArray[Any], like: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """What :func:`in_memory` made, as the array that it was made of."""
    if like is None or like.dtype == memory.dtype:
        return memory
    dtype = DType.from_numpy(like.dtype)
    return unpacked(memory.view(np.uint8), dtype, like.shape)


def unpacked(memory: npt.NDArray[np.uint8], dtype: DType, shape: Sequence[int]) -> npt.NDArray[Any]:
    """The elements that ``memory`` holds, a byte each where they have less than 8 bits."""
    if dtype.bits >= 8:
        return memory.view(dtype.numpy).reshape(shape)
    codes = memory[:, None] >> (np.arange(8 // dtype.bits, dtype=np.uint8) * dtype.bits) & ((1 << dtype.bits) - 1)
    codes = codes.reshape(-1)[: math.prod(shape)].reshape(shape)
    if dtype.is_float:
        return codes.view(dtype.numpy)
    sign = 1 << (dtype.bits - 1) if dtype.is_signed else 0
    return ((codes.astype(np.int8) ^ sign) - sign).astype(dtype.numpy)
