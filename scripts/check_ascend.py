"""The small zoo on Ascend NPUs, run with no NPU: every launch in the simulator of the cores, beside ONNX Runtime.

``.venv/bin/python scripts/check_ascend.py [ROW ...]`` after ``./scripts/test`` has made the environment; rows that
are there are kept, those that begin as one of ROW (``bert-base:int8``) are made anew. The plan of the artifact is
followed step by step (``tests/ascend/session.py``); launches of the host part run on this machine. Each launch is also
computed by its Ascend C, compiled against the header model of ``tests/ascend/model``, on the same inputs, and the bits
are compared. The reference is ONNX Runtime on the same graph, with nothing fused where it has integers, or
onnx.reference where ONNX Runtime lacks an operator.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tilewright as tw
from resumable_table import Table
from tilewright.accuracy import TOLERANCE
from tilewright.verification import reference_outputs

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models import zoo  # noqa: E402 (a folder of the checkout, not of the package)
from tests.ascend import modelled  # noqa: E402
from tests.ascend.session import GROUPS, SimulatedSession, Started, recorded  # noqa: E402

Array = np.ndarray[Any, Any]
HEAD = (
    "model",
    "precision",
    "target",
    "on the device",
    "on the host",
    "largest error",
    "bits",
    "simulated s",
    "seconds",
)
TABLE = Table(ROOT / "models" / "results" / "ascend-models.md", HEAD, 3)
HOST = "+host=x86-64"
RUNS = (*((p, "ascend:910b3") for p in ("fp16", "bf16", "int8")), ("fp16", "ascend:310p3"))
#: The element type whose tolerance a precision is held to.
JUDGED = {"fp16": "f16", "bf16": "bf16", "int8": "f16"}


def main() -> None:
    """Fill the table."""
    rows = TABLE.read()
    for name in zoo.small():
        for precision, target in RUNS:
            key = f"{name}:{precision}:{target}"
            if (
                any(key.startswith(word) for word in sys.argv[1:])
                if sys.argv[1:]
                else (name, precision, target) not in rows
            ):
                rows[name, precision, target] = row = _row(name, precision, target)
                _write(list(rows.values()))
                print(" | ".join(row), flush=True)


@dataclass
class _Bits:
    """Compares each launch with its Ascend C. ``refused``: what the header model refused, by kernel."""

    same: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    differ: Counter[str] = field(default_factory=Counter)
    made: dict[str, modelled.Modelled] = field(default_factory=dict)

    def see(self, launch: Started) -> None:
        name = launch.placed.kernel.name
        try:
            if name not in self.made:
                self.made[name] = modelled.build([launch.placed], "launch")
            outputs, _ = self.made[name].run(launch.placed, launch.inputs, launch.dims, GROUPS)
        except (modelled.ModelRefusedError, RuntimeError) as error:
            lines = str(error).splitlines() or ["?"]
            self.refused[name] = next((line.partition("error: ")[2] for line in lines if "error: " in line), lines[0])
            return
        if all(modelled.same_bits(value, launch.outputs[n]) for n, value in outputs.items()):
            self.same += 1
        else:
            self.differ[name] += 1

    @property
    def told(self) -> str:
        parts = [f"same in {self.same} launches"]
        parts += [f"**{count} of {name} differ**" for name, count in self.differ.items()]
        parts += [f"**{name} refused: {why}**" for name, why in self.refused.items()]
        return "; ".join(parts).replace("|", "/")


def _row(name: str, precision: str, target: str) -> tuple[str, ...]:
    model = zoo.small()[name]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = model.build(Path(folder))
        feeds = [model.make_feed(batch, length, seed) for seed, (batch, length) in enumerate(model.checks[:2])]
        data = feeds if precision == "int8" else None
        try:
            quantized = tw.quantize(path, method=precision, calibration=data, targets=(target,))
            path = Path(folder) / "quantized.onnx"
            quantized.save(path)
            with recorded() as placed:
                artifact = tw.compile(
                    str(path),
                    targets=(target + HOST,),
                    input_shapes=model.input_shapes,
                    states=model.in_place,
                    verify=False,
                )
            artifact.save(Path(folder) / "model.tw")
            (facts,) = artifact.report.targets
            bits = _Bits()
            session = SimulatedSession(Path(folder) / "model.tw", placed, bits.see)
            wanted = reference_outputs(path, feeds)
            errors = [_error(session.run(f), w) for f, w in zip(feeds, wanted.outputs, strict=True)]
        except Exception as error:  # a row says what happened, whatever it was
            lines = str(error).strip().splitlines() or [type(error).__name__]
            told = f"**{type(error).__name__}: {lines[0]}**".replace("|", "/")
            return name, precision, target, told, "", "", "", "", f"{time.perf_counter() - started:.0f}"
    worst, limit = max(errors), TOLERANCE[JUDGED[precision]]
    at = f"{worst:.1e}" if worst <= limit else f"**{worst:.1e}**, table {limit:.0e}"
    on_host = len(facts.fallback)
    device = f"{facts.launches - on_host} of {facts.launches} launches, {facts.distinct} kernels"
    seconds = time.perf_counter() - started
    return (
        *(name, precision, target, device, _reasons(facts.fallback), at, bits.told),
        f"{session.seconds:.0f}",
        f"{seconds:.0f}",
    )


def _error(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    """Largest difference of any output from the reference's, relative to the largest value of that output."""
    worst = 0.0
    for name, value in wanted.items():
        a, b = got[name].astype(np.float64), value.astype(np.float64)
        if a.size:
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)))
    return worst if np.isfinite(worst) else float("inf")


def _reasons(fallback: tuple[str, ...]) -> str:
    counts = Counter(line.partition(": ")[2] for line in fallback)
    return "; ".join(f"{count} × {why}" for why, count in counts.most_common()).replace("|", "/") or "none"


def _write(rows: list[tuple[str, ...]]) -> None:
    head = [
        "# The small zoo on Ascend NPUs, simulated",
        "",
        f"`.venv/bin/python scripts/check_ascend.py`, last row {datetime.now(UTC):%Y-%m-%d}, onnxruntime",
        f"{onnxruntime.__version__}. Nothing of this ran on an NPU: the plan of each artifact was followed step by",
        "step, each launch by the simulator of the cores, which refuses races, unwritten bytes and what the machine",
        "does not allow; the host part ran on this machine. Errors are relative to the largest value of each output of",
        "ONNX Runtime on the same graph (of integers with nothing fused; of bf16 onnx.reference), at two sizes; bold",
        "where the table of tolerances has less. *Bits*: the same launches by their Ascend C, compiled by g++ against",
        "our model of CANN's headers, beside the simulator.",
        "",
        f"| {' | '.join(TABLE.head)} |",
        f"|{'---|' * len(TABLE.head)}",
    ]
    TABLE.path.write_text("\n".join([*head, *(f"| {' | '.join(r)} |" for r in rows)]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
