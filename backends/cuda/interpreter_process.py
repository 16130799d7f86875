"""The process that runs emitted kernels in Triton's interpreter, on the CPU: ``python interpreter_process.py JOB``.

It imports nothing of Tilewright. A job is ``[{"file", "entry", "arrays", "sizes", "grid", "outputs", "workspace",
"counters"}]`` with ``.npy`` files beside it; the outputs are written over their files. ``workspace`` has the bytes of
that parameter, where there is one, and ``counters`` how many of them are zero before a launch and after it.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

#: NVIDIA's own functions that emitted text calls, in f64.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{op: getattr(np, op) for op in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp", "log", "log2", "fmod")},
    **{f"a{op}": getattr(np, f"arc{op}") for op in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "pow": np.power,
}


def main(job_file: Path) -> None:
    """Run every kernel of the job."""
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is decorated: before any import of Triton
    stand_in()
    for run in json.loads(job_file.read_text(encoding="utf-8")):
        interpret(job_file.parent, run)


def stand_in() -> None:
    """Give the interpreter what it cannot call: NVIDIA's functions, and the error function of f64."""
    import triton.language as tl
    from triton.language.extra.cuda import libdevice
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def called(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            given = [a for a in arguments if isinstance(a, tl.tensor)]
            with np.errstate(all="ignore"):
                wide = [np.asarray(a.handle.data if isinstance(a, tl.tensor) else a, np.float64) for a in arguments]
                result = function(*wide).astype(given[0].handle.data.dtype)
            shapes = [a.type.shape for a in given if a.type.is_block()]
            scalar = given[0].type.scalar
            shape = np.broadcast_shapes(*shapes) if shapes else ()
            return tl.tensor(TensorHandle(result, scalar), tl.block_type(scalar, list(shape)) if shape else scalar)

        return call

    for name, function in FUNCTIONS.items():
        setattr(libdevice, name, called(function))
    splat = InterpreterBuilder.create_splat

    def create_splat(self: Any, kind: Any, value: Any) -> Any:
        made = splat(self, kind, value)  # a truth value becomes a number there, which is no mask
        return TensorHandle(made.data.astype(np.bool_), made.dtype) if value.data.dtype == np.bool_ else made

    InterpreterBuilder.create_splat = create_splat
    erf = np.vectorize(math.erf, otypes=[np.float64])
    InterpreterBuilder.create_erf = lambda self, x: TensorHandle(erf(x.data).astype(x.data.dtype), x.dtype.scalar)


def interpret(folder: Path, run: dict[str, Any]) -> None:
    """Run one kernel over its whole grid."""
    import torch

    spec = importlib.util.spec_from_file_location(run["entry"], folder / run["file"])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tensors = {name: torch.from_numpy(np.load(folder / file)) for name, file in run["arrays"].items()}
    memory = {n: torch.full((size // 4,), float("nan")) for n, size in run["workspace"].items()}
    counters = [array[: run["counters"] // 4].view(torch.int32).zero_() for array in memory.values()]
    if run["grid"]:
        getattr(module, run["entry"])[(run["grid"],)](**tensors, **memory, **run["sizes"])
    if any(c.any() for c in counters):
        raise SystemExit(f"{run['entry']} left counters of its workspace that are not zero")
    for name in run["outputs"]:
        np.save(folder / run["arrays"][name], tensors[name].numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
