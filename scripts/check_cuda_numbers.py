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

import numpy as np
import onnxruntime
import tilewright as tw
from resumable_table import Table
from tilewright.options import Options

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models import zoo  # noqa: E402 (a folder of the checkout, not of the package)
from tests.cuda.emulation import emulate  # noqa: E402

TABLE = Table(
    ROOT / "models" / "results" / "cuda-emulated.md",
    ("model", "precision", "target", "largest error", "at batch × length", "launches of both runs", "seconds"),
    3,
)
#: (precision, target): f32 as schedules of two architectures compute it; halves; integers with scales.
RUNS = (("fp32", "cuda:sm_80"), ("fp32", "cuda:sm_90"), ("fp16", "cuda:sm_80"), ("int8", "cuda:sm_80"))


def main() -> None:
    """Fill the table."""
    names = sys.argv[1:] or list(zoo.small())
    rows = TABLE.read()
    for name in names:
        for precision, target in RUNS:
            if sys.argv[1:] or (name, precision, target) not in rows:
                rows[name, precision, target] = row = _row(name, precision, target)
                _write(list(rows.values()))
                print(" | ".join(row), flush=True)


def _row(name: str, precision: str, target: str) -> tuple[str, ...]:
    model = zoo.small()[name]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = model.build(Path(folder))
        feeds = [model.make_feed(batch, length, seed) for seed, (batch, length) in enumerate(model.checks[:2])]
        if precision != "fp32":
            data = feeds if precision == "int8" else None
            quantized = tw.quantize(path, method=precision, calibration=data, targets=(target,))
            path = Path(folder) / "quantized.onnx"
            quantized.save(path)
        shapes = tuple((n, tuple(map(str, s))) for n, s in model.input_shapes.items())
        try:
            outputs, told = emulate(path, feeds, Options(targets=(target,), input_shapes=shapes))
        except (AssertionError, tw.TilewrightError) as error:
            lines = str(error).strip().splitlines()
            return name, precision, target, f"**{lines[0]} {lines[-1]}**".replace("|", "/"), "", "", ""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if precision == "int8":  # as the graph says: fused 8-bit products saturate their sums on some processors
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        reference = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        errors = [
            max(_error(o, r) for o, r in zip(out, reference.run(None, feed), strict=True))
            for out, feed in zip(outputs, feeds, strict=True)
        ]
    at = ", ".join(f"{b} × {n}: {e:.1e}" for (b, n), e in zip(model.checks[:2], errors, strict=True))
    seconds = time.perf_counter() - started
    return name, precision, target, f"{max(errors):.1e}", at, str(told["launches"]), f"{seconds:.0f}"


def _error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, relative to the largest value of the reference."""
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)) if a.size else 0.0


def _write(rows: list[tuple[str, ...]]) -> None:
    head = [
        "# The small zoo as artifacts for NVIDIA GPUs, emulated",
        "",
        f"`.venv/bin/python scripts/check_cuda_numbers.py`, last row {datetime.now(UTC):%Y-%m-%d}, triton",
        f"{version('triton')}, onnxruntime {version('onnxruntime')}. Nothing of this ran on a GPU: the executor ran",
        "the artifact over a mock of the driver, whose kernels Triton's interpreter computed from their text. Errors",
        "are relative to the largest value of each output of ONNX Runtime on the same graph. The interpreter computes",
        "products of f32 in f32, whatever a schedule says of tf32.",
        "",
        f"| {' | '.join(TABLE.head)} |",
        f"|{'---|' * len(TABLE.head)}",
    ]
    TABLE.path.write_text("\n".join([*head, *(f"| {' | '.join(r)} |" for r in rows)]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
