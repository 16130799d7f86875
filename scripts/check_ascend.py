"""The small zoo on Ascend NPUs, run with no NPU: every launch in the simulator of the cores, beside ONNX Runtime.

    .venv/bin/python scripts/check_ascend.py [--again] [ROW ...]        after ./scripts/test has made the environment

A row of the table stays while its artifact and what runs it are the same (its column *of* says which they were);
``--again`` makes it anew. ROW is how its first cells begin, ``bert-base:int8``. The plan of the artifact is followed
step by step (``tests/ascend/session.py``); launches of the host part run on this machine. Each launch is also computed
by its Ascend C, compiled against the header model of ``tests/ascend/model``, on the same inputs, and the bits are
compared. The reference is ONNX Runtime on the same graph, with nothing fused where it has integers, or onnx.reference
where ONNX Runtime lacks an operator.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import onnxruntime
import tilewright as tw
from resumable_table import Row, Table, chosen
from tilewright.accuracy import TOLERANCE
from tilewright.backends.ascend.placed.form import Placed
from tilewright.verification import reference_outputs
from zoo_rows import ROOT, Prepared, largest_error, prepared, problem, zoo

sys.path.insert(0, str(ROOT))

from tests.ascend import modelled
from tests.ascend.session import GROUPS, SimulatedSession, Started, recorded

HEAD = (
    "model",
    "precision",
    "target",
    "on the device",
    "on the host",
    "largest error",
    "beside f32 (the graph itself)",
    "bits",
    "simulated s",
    "seconds",
    "of",
)
TABLE = Table(ROOT / "models" / "results" / "ascend-models.md", HEAD, 3)
HOST = "+host=x86-64"
#: What every model is tried in, and what one of them is.
RUNS = (
    *((p, "ascend:910b3") for p in ("fp16", "int8", "bf16")),
    *((p, "ascend:310p3") for p in ("fp16", "int8")),
)
MORE = (
    ("llama-prefill", "int8-weights", "ascend:910b3"),
    ("llama-prefill", "int4", "ascend:910b3"),
    ("llama-decode", "int8-weights", "ascend:910b3"),
    ("llama-decode", "int4", "ascend:910b3"),
    *(
        (name, precision, target)
        for name in ("llama-prefill", "llama-decode")
        for precision, target in (
            ("fp16+int8-weights", "ascend:910b3"),
            ("fp16+int4", "ascend:910b3"),
            ("bf16+int4", "ascend:910b3"),
            ("fp16+int8-weights", "ascend:310p3"),
        )
    ),
    ("bert-base", "fp16", "ascend:910b1"),
    ("resnet50", "int8", "ascend:910b4"),
)
#: The element type whose tolerance a precision is held to.
JUDGED = {"bf16": "bf16", "bf16+int4": "bf16"}
#: An error beside f32 may be this much more than that of the graph as its reference computes it.
_SLACK = 1.2


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("rows", nargs="*", help="how the first cells of rows begin: bert-base:int8")
    parser.add_argument("--again", action="store_true", help="rows that are there anew, too")
    options = parser.parse_args()
    for key in _keys():
        if chosen(key, options.rows):
            known = TABLE.read().get(key)
            row = _row(*key, "" if known is None or options.again else known[-1])
            if row is not None:
                TABLE.put(row, _about(), _keys())
                print(" | ".join(row), flush=True)


def _keys() -> Iterator[Row]:
    for name in zoo.small():
        yield from ((name, precision, target) for precision, target in RUNS)
        yield from (key for key in MORE if key[0] == name)


@dataclass
class _Bits:
    """Compares each launch with its Ascend C. ``refused``: what the header model refused, by kernel."""

    made: Mapping[str, modelled.Modelled | str]
    same: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    differ: Counter[str] = field(default_factory=Counter)

    def see(self, launch: Started) -> None:
        name = launch.placed.kernel.name
        kernel = self.made[name]
        try:
            if isinstance(kernel, str):
                raise RuntimeError(kernel)
            outputs, _ = kernel.run(launch.placed, launch.inputs, launch.dims, GROUPS)
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


def _row(name: str, precision: str, target: str, known: str) -> Row | None:
    """One row; ``None`` where what it is of is ``known`` already."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = prepared(name, precision, target, Path(folder))
            with recorded() as placed:
                artifact = tw.compile(
                    str(made.path),
                    targets=(target + HOST,),
                    input_shapes=made.model.input_shapes,
                    states=made.model.in_place,
                    verify=False,
                )
            artifact.save(Path(folder) / "model.tw")
            of = _identity(Path(folder) / "model.tw")
            if of == known:
                return None
            (facts,) = artifact.report.targets
            cells = _numbers(made, Path(folder) / "model.tw", placed, precision)
        except Exception as error:  # a row says what happened, whatever it was
            return name, precision, target, problem(error), *([""] * 5), f"{time.perf_counter() - started:.0f}", ""
    on_host = len(facts.fallback)
    device = f"{facts.launches - on_host} of {facts.launches} launches, {facts.distinct} kernels"
    seconds = f"{time.perf_counter() - started:.0f}"
    return name, precision, target, device, _reasons(facts.fallback), *cells, seconds, of


def _numbers(made: Prepared, artifact: Path, placed: Mapping[str, Placed], precision: str) -> Row:
    """Both errors, what became of the bits, and the seconds in the simulator."""
    bits = _Bits(modelled.build_each(list(placed.values())))
    session = SimulatedSession(artifact, placed, bits.see)
    ours = [session.run(feed) for feed in made.feeds]
    graph = reference_outputs(made.path, made.feeds).outputs
    f32 = reference_outputs(made.original, made.feeds).outputs
    error = max(map(largest_error, ours, graph))
    whole, itself = max(map(largest_error, ours, f32)), max(map(largest_error, graph, f32))
    limit = TOLERANCE[JUDGED.get(precision, "f16")]
    told = f"{error:.1e}" if error <= limit else f"{error:.1e}, table {limit:.0e}"
    if error > limit and whole > _SLACK * itself:
        told = f"**{told}**"
    return told, f"{whole:.1e} ({itself:.1e})", bits.told, f"{session.seconds:.0f}"


def _identity(artifact: Path) -> str:
    """The start of a hash of an artifact and of the model of the machine that runs it."""
    total = hashlib.sha256(artifact.read_bytes())
    folders = ("backends/ascend/placed", "backends/ascend/simulator", "tests/ascend/model")
    for folder in folders:
        for path in sorted((ROOT / folder).iterdir()):
            if path.suffix in (".py", ".h"):
                total.update(path.read_bytes())
    return total.hexdigest()[:8]


def _reasons(fallback: tuple[str, ...]) -> str:
    counts = Counter(line.partition(": ")[2] for line in fallback)
    return "; ".join(f"{count} × {why}" for why, count in counts.most_common()).replace("|", "/") or "none"


def _about() -> list[str]:
    return [
        "# The small zoo on Ascend NPUs, simulated",
        "",
        f"`.venv/bin/python scripts/check_ascend.py`, last row {datetime.now(UTC):%Y-%m-%d}, onnxruntime",
        f"{onnxruntime.__version__}. Nothing of this ran on an NPU: the plan of each artifact was followed step by",
        "step, each launch by the simulator of the cores, which refuses races, unwritten bytes and what the machine",
        "does not allow; the host part ran on this machine. Errors are relative to the largest value of each output,",
        "at two sizes: first beside ONNX Runtime on the same graph (of integers with nothing fused; of bf16",
        "onnx.reference), then beside the model in f32, and in brackets how far that graph itself is from the model",
        "in f32 where its reference computes it: what rounding weights and activations costs. Bold where the table of",
        f"tolerances has less and the second number is more than {_SLACK} of the third. *Bits*: the same launches by",
        "their Ascend C, compiled by g++ against our model of CANN's headers, beside the simulator. *Of*: the artifact",
        "and the model of the machine.",
    ]


if __name__ == "__main__":
    main()
