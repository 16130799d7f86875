"""Compiles the models of the zoo for NVIDIA GPUs with no GPU at hand, and writes what came of each into a table.

Run as ``.venv/bin/python scripts/check_cuda.py [--folder FOLDER] [--small] [--full] [--count N] [TEXT ...]``, with
Triton installed. Nothing is run: the table has what the compiler made, what the machine code contains, and what a
roofline predicts. Rows that ``models/results/cuda-compile.md`` has already are kept, failures too; a row that contains
one of the TEXTs is made anew. Each row is written as soon as it is there, so that the script can be ended and started
again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from tilewright.backends.cuda import sass, toolchain
from tilewright.backends.cuda.timing.modules import Code, decode_modules
from tilewright.benchmark.records import RunRecord, describe, sizes_of, target_of
from tilewright.errors import TilewrightError
from tilewright.plan.decode import decode_plan
from tilewright.plan.plan import HostLaunch, Launch, Plan

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from resumable_table import Table  # noqa: E402 (beside this file)

from models import zoo  # noqa: E402 (a folder of the checkout, not of the package)

FOLDER = ROOT / "build" / "zoo"
#: Kernels compiled for the table: of its own, so that a row can say what was compiled for it.
CACHE = ROOT / "build" / "cuda-cache"
RESULTS = ROOT / "models" / "results" / "cuda-compile.md"
TARGETS = ("sm_80", "sm_90")
HEAD = (
    *("model", "precision", "target", "seconds", "compiled", "kernels", "modules.bin", "PTX in it", "beyond weights"),
    *("tensor cores", "spills", "host part", "predicted", "at", "remark"),
)
#: Columns that say which row it is.
KEY = 3
TABLE = Table(RESULTS, HEAD, KEY)
LIMIT_S = 3600

OWN, FP16, BF16, INT8, WEIGHTS8, WEIGHTS4 = "fp32", "fp16", "bf16", "int8", "int8 weights", "int4 weights"
#: How each precision is asked for; weights are rounded to nearest, with no data.
PRECISIONS: Mapping[str, tuple[str, ...]] = {
    OWN: (),
    FP16: ("--precision", "fp16", "--allow-precision", "f32"),
    BF16: ("--precision", "bf16", "--allow-precision", "f32"),
    INT8: ("--precision", "int8", "--allow-precision", "f32", "--calibrator", "minmax"),
    WEIGHTS8: ("--precision", "int8", "--method", "int8-weights", "--algorithm", "rtn", "--allow-precision", "f32"),
    WEIGHTS4: ("--precision", "int4", "--algorithm", "rtn", "--allow-precision", "f32"),
}
#: Classes of kernels that hold products (:data:`tilewright.cost.KINDS`).
PRODUCTS = ("contraction", "scan")
#: How instructions of the tensor cores begin.
TENSOR = ("HMMA", "IMMA", "DMMA", "QMMA", "OMMA", "HGMMA", "IGMMA", "QGMMA", "UTCHMMA", "UTCIMMA", "UTCQMMA")


@dataclass(frozen=True, slots=True)
class Case:
    """A model in one precision on one target; ``small`` of the small zoo."""

    model: str
    precision: str
    target: str
    small: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """The first cells of its row."""
        return (f"{self.model} (small)" if self.small else self.model, self.precision, self.target)

    @property
    def zoo(self) -> zoo.Model:
        """The model."""
        return (zoo.small() if self.small else zoo.zoo())[self.model]


def cases() -> Iterator[Case]:
    """Every row: the full sizes, then the small zoo."""
    for small in (False, True):
        for asked in (FP16, OWN, "", BF16):
            for name in zoo.zoo():
                for precision in (asked,) if asked else _quantized(name):
                    yield from (Case(name, precision, target, small) for target in TARGETS)


def _quantized(name: str) -> tuple[str, ...]:
    """The precisions of integers that suit a model: of decoding, which reads weights, those of weights alone."""
    return (WEIGHTS8, WEIGHTS4) if "decode" in name else (INT8,)


def main() -> None:
    """Make the rows that are missing or named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="models that are built already, or where to")
    parser.add_argument("--small", action="store_true", help="only the small zoo")
    parser.add_argument("--full", action="store_true", help="only the full sizes")
    parser.add_argument("--only", action="append", metavar="TEXT", help="rows whose first cells contain it")
    parser.add_argument("--count", type=int, default=10**6, help="rows that are made at most")
    parser.add_argument("anew", nargs="*", metavar="TEXT", help="rows that contain it are made anew")
    given = parser.parse_args()
    rows, made = TABLE.read(), 0
    for case in cases():
        line = " | ".join(rows.get(case.key, case.key))
        if (given.small and not case.small) or (given.full and case.small):
            continue
        if given.only and not any(text in " | ".join(case.key) for text in given.only):
            continue
        if case.key in rows and not any(text in line for text in given.anew):
            continue
        made += 1
        if made > given.count:
            break
        print(" | ".join(case.key), flush=True)
        rows[case.key] = row_of(case, given.folder)
        write(TABLE.read() | {case.key: rows[case.key]})  # another process may have written rows meanwhile
        print("   ", " | ".join(rows[case.key][KEY:]), flush=True)


def row_of(case: Case, folder: Path) -> tuple[str, ...]:
    """The row of a case, whatever becomes of it."""
    with tempfile.TemporaryDirectory(prefix="tilewright-cuda-table-") as scratch:
        path = (Path(scratch) if case.small else folder) / f"{case.model}.onnx"
        if not path.exists():
            case.zoo.build(path.parent)
        before, spent = _cached(), _processor_seconds()
        told = compiled(path, Path(scratch), case)
        spent = _processor_seconds() - spent
        if "report" not in told:
            error = told.get("error") or {}
            remark = f"{error.get('code') or 'failed'}: {error.get('cause') or error.get('message')}"
            return (*case.key, *[""] * (len(HEAD) - KEY - 1), remark[:300])
        seconds = f"{told['report']['build_seconds']:.0f} ({spent:.0f})"
        return (*case.key, seconds, *_cells(case, Path(scratch) / "model.tw", told["report"], _cached() - before))


def _cells(case: Case, artifact: Path, report: Mapping[str, Any], compiled_now: int) -> tuple[str, ...]:
    folder = f"cuda/{case.target}"
    with zipfile.ZipFile(artifact) as opened:
        modules = opened.read(f"{folder}/modules.bin")
        plan = decode_plan(opened.read(f"{folder}/plan.bin"))
    assert isinstance(plan, Plan)
    _, codes = decode_modules(modules)
    sizes = case.zoo.checks if case.small else case.zoo.benches
    batch, length = (1, 128) if (1, 128) in sizes else sizes[0]
    record, size = _described(artifact, case, batch, length)
    return (
        f"{min(compiled_now, len(codes))} of {len(codes)}",
        f"{len(codes)}, {_count(plan, Launch)} launches",
        f"{len(modules) / 1e3:.0f} kB",
        f"{sum(len(p) for p in {c.ptx for c in codes}) / 1e3:.0f} kB",
        f"{(report['artifact_bytes'] - report['weight_bytes']) / 1e6:.2f} MB",
        _tensor_cores(codes, plan, record),
        _spills(codes),
        f"{_count(plan, HostLaunch)} launches: {', '.join(plan.host_kernels)}"[:120] if plan.host_kernels else "none",
        "" if record is None else f"{sum(k.predicted for k in record.kernels) * 1e3:.3g} ms",
        size,
        "",
    )


def _count(plan: Plan, kind: type) -> int:
    return sum(isinstance(i, kind) for e in plan.entries for i in e.code)


def _described(artifact: Path, case: Case, batch: int, length: int) -> tuple[RunRecord | None, str]:
    """What a run at a size does, where its sizes are known beforehand, and the size."""
    feed = case.zoo.feed(batch, length)
    try:
        sizes = sizes_of(artifact, {name: array.shape for name, array in feed.items()})
        target = target_of(f"cuda:{case.target}")
        return describe(artifact, sizes, target=target.spelling, threads=target.units), f"{batch} × {length}"
    except TilewrightError:
        return None, ""


def _tensor_cores(codes: tuple[Code, ...], plan: Plan, record: RunRecord | None) -> str:
    """Of how many kernels that hold products the machine code has which instructions of the tensor cores."""
    kinds = {k.name: k.kind for k in record.kernels} if record else {}
    products = [c for name, c in zip(plan.kernels, codes, strict=True) if kinds.get(name, PRODUCTS[0]) in PRODUCTS]
    found: Counter[str] = Counter()
    with_any = 0
    for code in products:
        used = {op.split(".")[0] for op in sass.opcodes(code.cubin)} & set(TENSOR)
        with_any += bool(used)
        found.update(used)
    told = ", ".join(f"{op} {n}" for op, n in sorted(found.items()))
    return f"{with_any} of {len(products)}" + (f": {told}" if told else "")


def _spills(codes: tuple[Code, ...]) -> str:
    """Kernels with local memory, and the most bytes a thread has there."""
    local = [n for c in codes if (n := sass.resources(c.cubin).stack)]
    return f"{len(local)} kernels, ≤ {max(local)} B" if local else "none"


def _processor_seconds() -> float:
    """What processes that this one waited for took of processors."""
    times = os.times()
    return times.children_user + times.children_system


def _cached() -> int:
    return sum(1 for _ in (CACHE / "tilewright" / "cuda" / "objects").glob("*/*"))


def compiled(path: Path, scratch: Path, case: Case) -> dict[str, Any]:
    """What ``tilewright compile`` tells."""
    words = [sys.executable, "-m", "tilewright", "compile", str(path), "-o", str(scratch / "model.tw")]
    words += ["-t", f"cuda:{case.target}", "--no-verify", "-q", "--json", str(scratch / "told.json")]
    words += PRECISIONS[case.precision]
    for name, dims in case.zoo.input_shapes.items():
        words += ["--input-shape", f"{name}:{','.join(map(str, dims))}"]
    if case.precision == INT8:
        np.savez(scratch / "samples.npz", **case.zoo.feed(*case.zoo.checks[0]))
        words += ["--calib", str(scratch / "samples.npz")]
    environment = os.environ | {"XDG_CACHE_HOME": str(CACHE)}
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=LIMIT_S, env=environment)
    except subprocess.TimeoutExpired:
        return {"error": {"code": "timeout", "cause": f"over {LIMIT_S} s"}}
    try:
        told: dict[str, Any] = json.loads((scratch / "told.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"error": {"code": f"exit {done.returncode}", "cause": done.stderr.strip()[-300:]}}
    if done.returncode:
        told.pop("report", None)
    return told


def write(rows: Mapping[tuple[str, ...], tuple[str, ...]]) -> None:
    """The table, in the order of the cases."""
    today = datetime.now(UTC).date()
    order = [case.key for case in cases()]
    lines = [
        "# The zoo compiled for NVIDIA GPUs",
        "",
        f"Written by `python scripts/check_cuda.py`; last row {today}. Triton {toolchain.triton_version()},",
        f"ptxas {toolchain.ptxas_version()}, on two CPUs busy with other work and with no GPU: **nothing was run**.",
        "",
        "`seconds` are of the whole compilation, in brackets those of processors (a dozen other processes ran at the",
        "time); `compiled` is how many of the kernels were compiled for this row (the others were there from rows",
        "before; where rows are made at once, at most). `beyond weights` is all of the file that is no weight: machine",
        "code, PTX (sm_80 alone), the plan, the executor, the host part, padding. `tensor cores`:",
        "of the kernels with products, in how many the machine code has which of these instructions; the others are",
        "products with vectors. `spills` is stack of a thread. The time is **predicted** by the peak rates and the",
        "bandwidth of `backends/cuda/targets`, a lower bound, at the size beside it.",
        "",
        f"{sum(k in rows for k in order)} of {len(order)} rows are there; the script makes those that are not. A row",
        "is of the compiler as it was when the row was made.",
        "",
        f"| {' | '.join(HEAD)} |",
        f"|{'---|' * len(HEAD)}",
    ]
    lines += [
        f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in rows[k])} |"
        for k in order
        if k in rows
    ]
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
