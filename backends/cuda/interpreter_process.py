"""The process that runs emitted kernels in Triton's interpreter, on the CPU: ``python interpreter_process.py JOB``.

It imports nothing of Tilewright. A job is ``[{"file", "entry", "arrays", "sizes", "grid", "outputs", "workspaces"}]``
with ``.npy`` files beside it; the outputs are written over their files. A workspace is full of ones but for its
counters, which have to be 0 again in the end.
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
    spaces = {w["name"]: torch.full((w["bytes"],), 1, dtype=torch.uint8) for w in run["workspaces"]}
    for w in run["workspaces"]:
        spaces[w["name"]][: w["counters"]] = 0
    views = {w["name"]: spaces[w["name"]].view(getattr(torch, w["type"])) for w in run["workspaces"]}
    getattr(module, run["entry"])[(run["grid"],)](**tensors, **run["sizes"], **views)
    for w in run["workspaces"]:
        if spaces[w["name"]][: w["counters"]].any():
            raise SystemExit(f"{run['entry']} leaves its counters at other values than 0")
    for name in run["outputs"]:
        np.save(folder / run["arrays"][name], tensors[name].numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
