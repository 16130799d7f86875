"""Compiles the models of the zoo for TPUs with no TPU at hand, and writes what libtpu says of each into a table.

Run as ``.venv/bin/python scripts/check_tpu.py [--folder FOLDER] [--small] [--count N] [TEXT ...]``, with
jaxlib and libtpu installed.
Nothing is executed on a TPU: the table has what a compiler counts and what a roofline predicts. Rows that
``models/results/tpu-compile.md`` has already are kept, failures too; a row that contains one of the TEXTs is made
anew. Each row is written as soon as it is there, so that the script can be ended and started again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from resumable_table import Table, bound  # noqa: E402 (beside this file)

from models import zoo  # noqa: E402 (a folder of the checkout, not of the package)

FOLDER = ROOT / "build" / "zoo"
RESULTS = ROOT / "models" / "results" / "tpu-compile.md"
TARGETS = ("v5e", "v6e", "tpu7x")
HEAD = (
    *("model", "batch × length", "precision", "target", "operations", "bytes moved", "HBM", "fits", "executable"),
    *("compiled in", "predicted", "remark"),
)
#: Columns that say which row it is.
KEY = 4
TABLE = Table(RESULTS, HEAD, KEY)
#: How each precision is asked for. Weights of 8 bits are rounded to nearest, with no data.
PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "own (f32)": (),
    "bf16": ("--precision", "bf16", "--allow-precision", "f32"),
    "int8 weights": ("--precision", "int8", "--method", "int8-weights", "--allow-precision", "f32"),
}
LIMIT_S = 3600


@dataclass(frozen=True, slots=True)
class Case:
    """A model at one size, in one precision, on one target; ``small`` of the small zoo."""

    model: str
    batch: int
    length: int
    precision: str
    target: str
    small: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """The first cells of its row."""
        name = f"{self.model} (small)" if self.small else self.model
        return (name, f"{self.batch} × {self.length}", self.precision, self.target)


def cases() -> Iterator[Case]:
    """Every row, those first that are asked about most."""
    own, bf16, int8 = PRECISIONS
    for name, model in zoo.small().items():
        batch, length = model.checks[0]
        yield from (Case(name, batch, length, own, target, small=True) for target in TARGETS)
    yield from (Case("bert-base", 1, 128, bf16, target) for target in TARGETS)
    for precision in (bf16, int8):
        for name in ("llama-prefill", "llama-decode"):
            yield from (Case(name, 1, 128, precision, target) for target in TARGETS)
    yield from (Case("resnet50", 1, 224, bf16, target) for target in TARGETS)
    for name, length in (("bert-base", 128), ("resnet50", 224)):
        yield from (Case(name, 64, length, bf16, target) for target in TARGETS)
    for name, length in (("mobilenetv2", 224), ("vit-b16", 224), ("gpt2", 128), ("llama-decode-static", 128)):
        yield from (Case(name, 1, length, bf16, target) for target in TARGETS)
    for name, length in (("resnet50", 224), ("bert-base", 128)):
        yield from (Case(name, 1, length, own, target) for target in TARGETS)


def main() -> None:
    """Make the rows that are missing or named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="models that are built already, or where to build them"
    )
    parser.add_argument("--small", action="store_true", help="only the small zoo")
    parser.add_argument("--count", type=int, default=10**6, help="rows that are made at most")
    parser.add_argument("anew", nargs="*", metavar="TEXT", help="rows that contain it are made anew")
    given = parser.parse_args()
    rows, made = TABLE.read(), 0
    for case in cases():
        line = " | ".join(rows.get(case.key, case.key))
        if (given.small and not case.small) or (case.key in rows and not any(text in line for text in given.anew)):
            continue
        made += 1
        if made > given.count:
            break
        print(" | ".join(case.key), flush=True)
        rows[case.key] = row_of(case, given.folder)
        write(rows)
        print("   ", " | ".join(rows[case.key][KEY:]), flush=True)


def row_of(case: Case, folder: Path) -> tuple[str, ...]:
    """The row of a case, whatever becomes of it."""
    model = (zoo.small() if case.small else zoo.zoo())[case.model]
    with tempfile.TemporaryDirectory(prefix="tilewright-tpu-") as scratch:
        path = (Path(scratch) if case.small else folder) / f"{case.model}.onnx"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            model.build(path.parent)
        shapes = [
            f"{name}:{','.join(bound(d, case.batch, case.length) for d in dims)}"
            for name, dims in model.input_shapes.items()
        ]
        told = compiled(path, Path(scratch), case, shapes)
    if "report" not in told:
        error = told.get("error") or {}
        return (*case.key, *[""] * 7, f"{error.get('code') or 'failed'}: {error.get('cause') or error.get('message')}")
    (target,) = told["report"]["targets"]
    programs = target["programs"]
    remarks = [f"{len(target['fallback'])} of {target['launches']} nodes on the host"] if target["fallback"] else []
    remarks += [f"{len(programs)} programs, summed"] if len(programs) > 1 else []
    remarks += sorted({p["note"] for p in programs if p["note"]})
    return (
        *case.key,
        f"{sum(p['flops'] for p in programs) / 1e9:.4g} GFLOP",
        f"{sum(p['bytes'] for p in programs) / 1e6:.4g} MB",
        f"{max(p['memory'] for p in programs) / 1e6:.4g} MB",
        "yes" if all(p["fits"] for p in programs) else "no",
        f"{sum(p['code_bytes'] for p in programs) / 1e6:.4g} MB",
        f"{sum(p['compile_seconds'] for p in programs):.1f} s",
        f"{sum(p['predicted_seconds'] or 0.0 for p in programs) * 1e3:.4g} ms",
        "; ".join(remarks),
    )


def compiled(path: Path, scratch: Path, case: Case, shapes: list[str]) -> dict[str, Any]:
    """What ``tilewright compile`` tells."""
    words = [sys.executable, "-m", "tilewright", "compile", str(path), "-o", str(scratch / "model.tw")]
    words += ["-t", f"tpu:{case.target}", "--no-verify", "-q", "--json", str(scratch / "told.json")]
    words += [*PRECISIONS[case.precision], *(word for shape in shapes for word in ("--input-shape", shape))]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=LIMIT_S)
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
    lines = [
        "# The zoo compiled for TPUs",
        "",
        f"Written by `python scripts/check_tpu.py`; last row {today}. libtpu {version('libtpu')},",
        f"jaxlib {version('jaxlib')}, on a machine with no TPU, busy with other work: seconds of compiling are an",
        "upper bound. Nothing was executed on a TPU. Operations and bytes are those that libtpu counts (bytes between",
        "HBM and VMEM among them); HBM is arguments (weights among them), results, temporaries and code; the time is",
        "predicted by the peak rates and the bandwidth of `backends/xla/targets`, never measured. Sizes are static; of",
        "decoders the length is that of the cache. In `bf16` and `int8 weights` what these methods leave alone stays",
        "f32; products of f32 run as 6 passes of bf16 (HIGHEST).",
        "",
        f"| {' | '.join(HEAD)} |",
        f"|{'---|' * len(HEAD)}",
    ]
    order = [case.key for case in cases()]
    lines += [
        f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in rows[k])} |"
        for k in order
        if k in rows
    ]
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
