"""Whole artifacts with no GPU: the executor over the mock driver, whose kernels are computed by Triton's interpreter.

Everything is the real thing but the machine: the file, its loader, the plan with its copies and launches, and the text
of the kernels, which the interpreter runs on the memory and the parameters that the executor hands to the driver. What
stays untried is the machine code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tilewright as tw
from tilewright.backends.cuda import toolchain
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.driver import plan
from tilewright.options import Options

ROOT = Path(__file__).resolve().parents[2]
Array = np.ndarray[Any, np.dtype[Any]]


def emulate(
    model: Path, feeds: Sequence[Mapping[str, Array]], options: Options, *, states: Mapping[str, str] | None = None
) -> tuple[list[list[Array]], dict[str, Any]]:
    """Outputs for each feed, one run after the other in one session, and what the session says of its device.

    ``options`` name one ``cuda`` target. ``states`` (input → output) are handed on from run to run where they lie.
    """
    (spelling,) = options.targets
    (found,) = plan(model, options=options).values()
    source = CudaBackend().emit(found.kernels, CudaBackend().targets()[spelling])
    with tempfile.TemporaryDirectory(prefix="tilewright-emulation-") as name:
        folder = Path(name)
        tw.driver.compile(model, options=options).save(folder / "model.tw")
        for file, text in source.files.items():
            (folder / file).write_text(text, encoding="utf-8")
        for n, feed in enumerate(feeds):
            np.savez(folder / f"feed{n}.npz", **feed)
        job = {"arch": int(spelling.rpartition("_")[2]), "feeds": len(feeds), "states": dict(states or {})}
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        env = {**toolchain.environment(folder), "TRITON_INTERPRET": "1"}
        env["PYTHONPATH"] = os.pathsep.join([str(Path(tw.__file__).absolute().parents[1]), str(ROOT)])
        command = [sys.executable, "-W", "ignore", "-m", "tests.cuda.emulation_process", str(folder)]
        run = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=ROOT)
        if run.returncode:
            raise AssertionError(f"the emulated run failed ({run.returncode}):\n{run.stdout}\n{run.stderr}")
        outputs = []
        for n in range(len(feeds)):
            with np.load(folder / f"out{n}.npz") as data:
                outputs.append([data[k] for k in sorted(data.files, key=int)])
        return outputs, json.loads((folder / "told.json").read_text(encoding="utf-8"))
