"""Damage placed kernels of each family in every way, and count what is refused and what is proved equivalent.

    python scripts/mutate_ascend.py                     every family; rows that are there already are kept
    python scripts/mutate_ascend.py matmul softmax      these families, made anew
    python scripts/mutate_ascend.py --every 10          one mutant in ten, to the screen only

A mutant is refused by the simulator, or a proof says that it computes the same (tests/ascend/equivalence.py:
happens-before for all trip counts, and the source of each byte that is read; no number is looked at). One that is
neither ends the run with status 1. The table is models/results/ascend-mutations.md, written after each family.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from resumable_table import Table
from tilewright.errors import TilewrightError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.ascend.families import subjects  # noqa: E402 (a folder of the checkout, not of the package)
from tests.ascend.mutations import MUTATIONS  # noqa: E402
from tests.ascend.verdicts import Subject, verdicts  # noqa: E402

TABLE = Table(
    ROOT / "models" / "results" / "ascend-mutations.md",
    ("family", "damage", "mutants", "refused", "rules broken", "equivalent", "proofs", "neither"),
    2,
)
TITLE = """# Damaged Ascend kernels

Written by `python scripts/mutate_ascend.py` on the CPU model of the machine; nothing here ran on an NPU. Each kernel is
placed for ascend:910b3, or for the target behind its name where that makes another program (on 910B4 none is).
*Refused*: the simulator refuses the mutant, and which rule it breaks. *Equivalent*: it is accepted, and proved to
compute the same by a comparison that looks at no number. *Same queues*: each pipe gets the same
statements in the same order. *Same sources*: happens-before of the mutant orders all that may touch one byte, for all
trip counts, and each instruction reads each byte from where it came before, at the sizes that were run. *Neither* would
be a hole.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("families", nargs="*", help="made anew; without: those that have no rows yet")
    parser.add_argument("--every", type=int, default=1, help="only one mutant in so many; writes no table")
    options = parser.parse_args()
    made = subjects()
    if unknown := set(options.families) - made.keys():
        parser.error(f"no family {', '.join(sorted(unknown))}; there are {', '.join(made)}")
    rows = TABLE.read()
    holes = 0
    for name in options.families or made:
        if not options.families and options.every == 1 and all((name, kind) in rows for kind in MUTATIONS):
            continue
        try:
            subject = made[name]()
        except TilewrightError as error:
            print(f"{name}: not placed: {' '.join(str(error).split())[:160]}")
            continue
        for kind in MUTATIONS:
            started = time.perf_counter()
            row, wrong = judged(subject, kind, options.every)
            rows[name, kind] = row
            holes += len(wrong)
            print(" | ".join(row), f"({time.perf_counter() - started:.0f} s)", flush=True)
            for what in wrong:
                print(f"  ACCEPTED AND NOT PROVED: {what}")
        if options.every == 1:
            fresh = {key: row for key, row in rows.items() if key[0] == name}
            write({key: row for key, row in {**TABLE.read(), **fresh}.items() if key[0] in made})
    return 1 if holes else 0


def judged(subject: Subject, kind: str, every: int) -> tuple[tuple[str, ...], list[str]]:
    """The row of one family and kind of damage, and the mutants that are neither refused nor proved."""
    refused: Counter[str] = Counter()
    proved: Counter[str] = Counter()
    wrong: list[str] = []
    for v in verdicts(subject, kind, every):
        if v.refused:
            refused[v.refused] += 1
        elif v.proof:
            proved[v.proof] += 1
        else:
            wrong.append(v.what)
    total = refused.total() + proved.total() + len(wrong)
    counts = (str(total), str(refused.total()), _list(refused), str(proved.total()), _list(proved), str(len(wrong)))
    return (subject.name, kind, *counts), wrong


def _list(found: Counter[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(found.items())) or "-"


def write(rows: dict[tuple[str, ...], tuple[str, ...]]) -> None:
    """The table, families in their order, and the sums."""
    order = {name: n for n, name in enumerate(subjects())}
    kinds = {kind: n for n, kind in enumerate(MUTATIONS)}
    listed = sorted(rows.values(), key=lambda r: (order[r[0]], kinds.get(r[1], len(kinds))))
    sums = [sum(int(r[c]) for r in listed) for c in (2, 3, 5, 7)]
    lines = [
        TITLE,
        f"{sums[0]} mutants of {len({r[0] for r in listed})} kernels: {sums[1]} refused, {sums[2]} proved equivalent, "
        f"{sums[3]} neither.\n",
        "| " + " | ".join(TABLE.head) + " |",
        "|" + "---|" * len(TABLE.head),
        *("| " + " | ".join(row) + " |" for row in listed),
    ]
    TABLE.path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
