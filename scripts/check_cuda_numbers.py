"""The small zoo as artifacts for NVIDIA GPUs, run with no GPU, beside ONNX Runtime; a table of the outcome.

``.venv/bin/python scripts/check_cuda_numbers.py [MODEL ...]`` after ``./scripts/test`` has made the environment; rows
that are there are kept. Each model is compiled once, for ranges of sizes, and run at two sizes by the executor over
the mock driver, with kernels that Triton's interpreter computes from their text (``tests/cuda/emulation.py``): what is
not tried is the machine code and the machine. The reference of a quantized model is ONNX Runtime on the same graph.
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import onnxruntime
import tilewright as tw
from resumable_table import Table
from tilewright.options import Options
from zoo_rows import ROOT, largest_error, prepared, problem, zoo

sys.path.insert(0, str(ROOT))

from tests.cuda.emulation import emulate

TABLE = Table(
    ROOT / "models" / "results" / "cuda-emulated.md",
    ("model", "precision", "target", "largest error", "at batch × length", "launches of both runs", "seconds"),
    3,
)
#: (precision, target): f32 as schedules of two architectures compute it; halves; integers with scales.
RUNS = (("fp32", "cuda:sm_80"), ("fp32", "cuda:sm_90"), ("fp16", "cuda:sm_80"), ("int8", "cuda:sm_80"))


def main() -> None:
    """Fill the table."""
    known = TABLE.read()
    for name in sys.argv[1:] or list(zoo.small()):
        for precision, target in RUNS:
            if sys.argv[1:] or (name, precision, target) not in known:
                row = _row(name, precision, target)
                TABLE.put(row, _about(), known)
                print(" | ".join(row), flush=True)


def _row(name: str, precision: str, target: str) -> tuple[str, ...]:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        made = prepared(name, precision, target, Path(folder))
        shapes = tuple((n, tuple(map(str, s))) for n, s in made.model.input_shapes.items())
        try:
            outputs, told = emulate(made.path, made.feeds, Options(targets=(target,), input_shapes=shapes))
        except (AssertionError, tw.TilewrightError) as error:
            return name, precision, target, problem(error), "", "", ""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if precision == "int8":  # as the graph says: fused 8-bit products saturate their sums on some processors
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        reference = onnxruntime.InferenceSession(str(made.path), options, providers=["CPUExecutionProvider"])
        names = [o.name for o in reference.get_outputs()]
        errors = [
            largest_error(dict(zip(names, out, strict=True)), dict(zip(names, reference.run(None, feed), strict=True)))
            for out, feed in zip(outputs, made.feeds, strict=True)
        ]
    at = ", ".join(f"{b} × {n}: {e:.1e}" for (b, n), e in zip(made.model.checks[:2], errors, strict=True))
    seconds = time.perf_counter() - started
    return name, precision, target, f"{max(errors):.1e}", at, str(told["launches"]), f"{seconds:.0f}"


def _about() -> list[str]:
    return [
        "# The small zoo as artifacts for NVIDIA GPUs, emulated",
        "",
        f"`.venv/bin/python scripts/check_cuda_numbers.py`, last row {datetime.now(UTC):%Y-%m-%d}, triton",
        f"{version('triton')}, onnxruntime {version('onnxruntime')}. Nothing of this ran on a GPU: the executor ran",
        "the artifact over a mock of the driver, whose kernels Triton's interpreter computed from their text. Errors",
        "are relative to the largest value of each output of ONNX Runtime on the same graph. The interpreter computes",
        "products of f32 in f32, whatever a schedule says of tf32.",
    ]


if __name__ == "__main__":
    main()
