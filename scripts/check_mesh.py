"""Compiles models of the zoo for several TPUs at a time, with none at hand, and writes what each of them has to do.

Run as ``.venv/bin/python scripts/check_mesh.py [--folder FOLDER] [--count N] [TEXT ...]``, with jaxlib and libtpu
installed. Nothing is executed on a TPU. Rows that ``models/results/tpu-mesh.md`` has already are kept; a row that
contains one of the TEXTs is made anew. Each row is written as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from resumable_table import Table, bound  # noqa: E402 (beside this file)

from models import zoo  # noqa: E402 (a folder of the checkout, not of the package)

FOLDER = ROOT / "build" / "zoo"
RESULTS = ROOT / "models" / "results" / "tpu-mesh.md"
HEAD = (
    *("model", "batch × length", "target", "mesh", "exchanges", "weights a device", "operations a device"),
    *("bytes moved a device", "HBM a device", "executable", "compiled in", "remark"),
)
#: Columns that say which row it is.
KEY = 4
TABLE = Table(RESULTS, HEAD, KEY)
LIMIT_S = 1800


@dataclass(frozen=True, slots=True)
class Case:
    """A model in bf16 at one size on one target; ``mesh`` and ``shard`` are empty on one device."""

    model: str
    batch: int
    length: int
    target: str
    mesh: str = ""
    shard: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """The first cells of its row."""
        spread = f"{self.mesh} {self.shard}" if self.mesh else "one device"
        return (self.model, f"{self.batch} × {self.length}", f"tpu:{self.target}", spread)


def cases() -> Iterator[Case]:
    """Every row, those first that are asked about most."""
    models = ("bert-base", "llama-prefill", "llama-decode")
    for target in ("v5e", "v6e"):
        yield from (Case(name, 4, 128, target, "2x2", "auto") for name in models)
    yield from (Case(name, 4, 128, "v5e", "2x2", "tensor") for name in models)
    yield from (Case(name, 4, 128, "v5e") for name in models)
    yield from (Case(name, 4, 128, "v5e", "4", "batch") for name in models)


def main() -> None:
    """Make the rows that are missing or named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="models that are built, or where to build them")
    parser.add_argument("--count", type=int, default=10**6, help="rows that are made at most")
    parser.add_argument("anew", nargs="*", metavar="TEXT", help="rows that contain it are made anew")
    given = parser.parse_args()
    rows, made = TABLE.read(), 0
    for case in cases():
        line = " | ".join(rows.get(case.key, case.key))
        if case.key in rows and not any(text in line for text in given.anew):
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
    model = zoo.zoo()[case.model]
    path = folder / f"{case.model}.onnx"
    if not path.exists():
        model.build(folder)
    words = [sys.executable, "-m", "tilewright", "compile", str(path), "-t", f"tpu:{case.target}", "--no-verify", "-q"]
    words += ["--precision", "bf16", "--allow-precision", "f32"]
    for name, dims in model.input_shapes.items():
        words += ["--input-shape", f"{name}:{','.join(bound(dim, case.batch, case.length) for dim in dims)}"]
    if case.mesh:
        words += ["--mesh", case.mesh, "--shard", case.shard]
    with tempfile.TemporaryDirectory(prefix="tilewright-mesh-") as scratch:
        told = Path(scratch) / "told.json"
        words += ["-o", f"{scratch}/model.tw", "--json", str(told)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=LIMIT_S)
            data = json.loads(told.read_text(encoding="utf-8"))
        except subprocess.TimeoutExpired:
            return (*case.key, *[""] * 7, f"over {LIMIT_S} s")
        except (OSError, ValueError):
            return (*case.key, *[""] * 7, done.stderr.strip()[-300:])
    if done.returncode:
        error = data.get("error") or {}
        return (*case.key, *[""] * 7, f"{error.get('code') or 'failed'}: {error.get('cause') or error.get('message')}")
    (target,) = data["report"]["targets"]
    exchanges: Counter[str] = Counter()
    for program in target["programs"]:
        exchanges.update(program["collectives"])
    spread = target["mesh"]
    weights = spread["bytes_per_device"] if spread else target["weight_bytes"]
    remarks = list(spread["notes"]) if spread else []
    remarks += [f"{w['name']} whole: {w['reason']}" for w in (spread["weights"] if spread else []) if w["reason"]]
    if target["fallback"]:
        remarks.append(f"{len(target['fallback'])} of {target['launches']} nodes on the host")
    programs = target["programs"]
    return (
        *case.key,
        ", ".join(f"{name} {number}" for name, number in sorted(exchanges.items())) or "none",
        f"{weights / 1e6:.4g} MB of {target['weight_bytes'] / 1e6:.4g}",
        f"{sum(p['flops'] for p in programs) / 1e9:.4g} GFLOP",
        f"{sum(p['bytes'] for p in programs) / 1e6:.4g} MB",
        f"{max(p['memory'] for p in programs) / 1e6:.4g} MB",
        f"{sum(p['code_bytes'] for p in programs) / 1e6:.4g} MB",
        f"{sum(p['compile_seconds'] for p in programs):.1f} s",
        "; ".join(remarks),
    )


def write(rows: Mapping[tuple[str, ...], tuple[str, ...]]) -> None:
    """The table, in the order of the cases."""
    lines = [
        "# The zoo compiled for several TPUs at a time",
        "",
        f"Written by `python scripts/check_mesh.py`; last row {datetime.now(UTC):%Y-%m-%d}. libtpu",
        f"{version('libtpu')}, jaxlib {version('jaxlib')}, on a machine with no TPU, busy with other work: seconds of",
        "compiling are an upper bound. Nothing was executed on a TPU: that the numbers of four devices are those of",
        "one is tested on virtual devices of a CPU, with the small zoo. In bf16; the length of decoders is that of",
        "the cache. Exchanges are the operations between devices in the program as libtpu leaves it, where what it",
        "merged counts once; operations, bytes and HBM (arguments, weights among them, results, temporaries and",
        "code) are those of one device, as libtpu counts them.",
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
