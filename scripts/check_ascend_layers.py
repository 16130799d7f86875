"""Layers of known models at full size on the model of Ascend cores, with data, beside ONNX Runtime.

    .venv/bin/python scripts/check_ascend_layers.py [--again] [ROW ...]    after ./scripts/test has made the environment

As ``check_ascend.py`` for whole models: a row stays while its artifact and what runs it are the same; ROW is how its
first cells begin. Each launch runs in the simulator under all rules and by its Ascend C, which is given up after two
minutes; its cycles are modelled as ``simulate_ascend.py`` does, from the numbers in ``backends/ascend/targets``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import onnxruntime
import tilewright as tw
from ascend_layers import LAYERS, Layer
from ascend_run import Compiled
from resumable_table import Row, Table, chosen
from tilewright.accuracy import TOLERANCE
from tilewright.backends.ascend.simulator.timing import launch_time
from tilewright.verification import reference_outputs
from zoo_rows import ROOT, largest_error, problem

from tests.ascend.session import Started

HEAD = (
    *("layer", "sizes", "precision", "target", "on the device", "on the host", "largest error", "bits"),
    *("cycles", "µs", "cube", "simulated s", "seconds", "of"),
)
TABLE = Table(ROOT / "models" / "results" / "ascend-layers.md", HEAD, 4)
TARGETS = ("ascend:910b3", "ascend:310p3")
#: Seconds that a launch may take by its Ascend C.
LIMIT = 120.0


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("rows", nargs="*", help='how the first cells of rows begin: "bert-base up"')
    parser.add_argument("--again", action="store_true", help="rows that are there anew, too")
    options = parser.parse_args()
    rows = dict(_rows())
    for key, layer in rows.items():
        if chosen(key, options.rows):
            known = TABLE.read().get(key)
            row = _row(layer, key, "" if known is None or options.again else known[-1])
            if row is not None:
                TABLE.put(row, _about(), rows)
                print(" | ".join(row), flush=True)


def _rows() -> Iterator[tuple[Row, Layer]]:
    for target in TARGETS:
        for layer in LAYERS:
            yield from (((layer.name, layer.says, precision, target), layer) for precision in layer.precisions)


def _row(layer: Layer, key: Row, known: str) -> Row | None:
    """One row; ``None`` where what it is of is ``known`` already."""
    precision, target = key[2:]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            feed, path = layer.feed(), Path(folder) / "quantized.onnx"
            if layer.halves:
                path = layer.build(Path(folder))
            else:
                data = [feed, layer.feed(1)] if precision == "int8" else None
                tw.quantize(layer.build(Path(folder)), method=precision, calibration=data, targets=(target,)).save(path)
            compiled = Compiled(path, target, Path(folder), input_shapes=layer.shapes)
            if compiled.identity == known:
                return None
            ran = compiled.run([feed], LIMIT)
            error = max(map(largest_error, ran.outputs, reference_outputs(path, [feed]).outputs))
            cycles = _cycles(ran.launches)
        except Exception as error:  # a row says what happened, whatever it was
            return *key, problem(error), *([""] * 7), f"{time.perf_counter() - started:.0f}", ""
    limit = TOLERANCE["f16"]
    told = f"{error:.1e}" if error <= limit else f"**{error:.1e}, table {limit:.0e}**"
    seconds = f"{ran.seconds:.1f}", f"{time.perf_counter() - started:.0f}"
    return *key, ran.device, ran.host, "exact" if error == 0 else told, ran.bits, *cycles, *seconds, compiled.identity


def _cycles(launches: tuple[Started, ...]) -> Row:
    """Cycles of all launches on the device, one after the other, their µs, and the share of the cube units' work in the
    cycles of the launches that have products."""
    times = [launch_time(x.placed, x.dims) for x in launches]
    peak = sum(t.peak for t in times if t.macs)
    share = f"{sum(t.macs for t in times) / peak:.1%}" if peak else ""
    return f"{sum(t.cycles for t in times):,.0f}", f"{sum(t.microseconds for t in times):,.1f}", share


def _about() -> list[str]:
    return [
        "# Layers at full size on Ascend NPUs, simulated with data",
        "",
        f"`.venv/bin/python scripts/check_ascend_layers.py`, last row {datetime.now(UTC):%Y-%m-%d}, onnxruntime",
        f"{onnxruntime.__version__}. **Nothing of this ran on an NPU.** Each layer is an ONNX graph of its own,",
        "compiled with open batch or rows and run at the sizes given: every launch in the simulator of the cores under",
        "all rules (two groups of cores), its bits compared with those of its Ascend C, compiled by g++ against our",
        "model of CANN's headers, where that took less than two minutes. Errors are relative to the largest value of",
        "ONNX Runtime's output on the same graph of that precision. *Cycles* are modelled for the whole device, all",
        "launches one after the other, inputs in DRAM; *cube* is the share of the multiply-adds that its cube units",
        "could have done in the launches with products. *Of*: the artifact and the model of the machine.",
    ]


if __name__ == "__main__":
    main()
