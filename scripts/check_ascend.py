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
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import onnxruntime
from ascend_run import Compiled, Ran
from resumable_table import Row, Table, chosen
from tilewright.accuracy import TOLERANCE
from tilewright.verification import reference_outputs
from zoo_rows import ROOT, Prepared, largest_error, prepared, problem, zoo

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
    ("bert-base", "fp16", "ascend:910b1"),
    ("resnet50", "int8", "ascend:910b4"),
)
#: The element type whose tolerance a precision is held to.
JUDGED = {"bf16": "bf16"}
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


def _row(name: str, precision: str, target: str, known: str) -> Row | None:
    """One row; ``None`` where what it is of is ``known`` already."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = prepared(name, precision, target, Path(folder))
            options = {"input_shapes": made.model.input_shapes, "states": made.model.in_place}
            compiled = Compiled(made.path, target, Path(folder), **options)
            if compiled.identity == known:
                return None
            ran = compiled.run(made.feeds)
            errors = _errors(made, ran, precision)
        except Exception as error:  # a row says what happened, whatever it was
            return name, precision, target, problem(error), *([""] * 5), f"{time.perf_counter() - started:.0f}", ""
    seconds = f"{ran.seconds:.0f}", f"{time.perf_counter() - started:.0f}"
    return name, precision, target, ran.device, ran.host, *errors, ran.bits, *seconds, compiled.identity


def _errors(made: Prepared, ran: Ran, precision: str) -> Row:
    """Beside the same graph, and beside the model in f32."""
    graph = reference_outputs(made.path, made.feeds).outputs
    f32 = reference_outputs(made.original, made.feeds).outputs
    error = max(map(largest_error, ran.outputs, graph))
    whole, itself = max(map(largest_error, ran.outputs, f32)), max(map(largest_error, graph, f32))
    limit = TOLERANCE[JUDGED.get(precision, "f16")]
    told = f"{error:.1e}" if error <= limit else f"{error:.1e}, table {limit:.0e}"
    if error > limit and whole > _SLACK * itself:
        told = f"**{told}**"
    return told, f"{whole:.1e} ({itself:.1e})"


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
