"""The process that runs emitted kernels in Triton's interpreter, on the CPU: ``python interpreter_process.py JOB``.

It imports nothing of Tilewright. A job is ``[{"file", "entry", "arrays", "sizes", "grid", "outputs", "workspace",
"counters"}]`` with ``.npy`` files beside it; the outputs are written over their files. ``workspace`` has the bytes of
that parameter, where there is one, and ``counters`` how many of them are zero before a launch and after it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(job_file: Path) -> None:
    """Run every kernel of the job."""
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is decorated: before any import of Triton
    for run in json.loads(job_file.read_text(encoding="utf-8")):
        interpret(job_file.parent, run)


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
    getattr(module, run["entry"])[(run["grid"],)](**tensors, **memory, **run["sizes"])
    if any(c.any() for c in counters):
        raise SystemExit(f"{run['entry']} left counters of its workspace that are not zero")
    for name in run["outputs"]:
        np.save(folder / run["arrays"][name], tensors[name].numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
