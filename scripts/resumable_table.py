"""A table of results in Markdown that is filled row by row, so that what makes it can be ended and started again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Where a table is, its columns, and how many of them (the first) say which row it is."""

    path: Path
    head: Row
    key: int

    def read(self) -> dict[Row, Row]:
        """The rows that are there, by their first cells."""
        found = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                cells = tuple(cell.strip() for cell in line.strip("|").split("|"))
                if line.startswith("|") and len(cells) == len(self.head) and cells != self.head and cells[0].strip("-"):
                    found[cells[: self.key]] = cells
        return found

    def put(self, row: Row, about: Sequence[str], order: Iterable[Row] = ()) -> None:
        """One row into the file as it is now, in place of the one of its key; the others stay as they are.

        The file changes at once or not at all. ``about``: the lines above the table; ``order``: keys in the order that
        rows have, others behind them.
        """
        rows = {**self.read(), row[: self.key]: row}
        places = {key: n for n, key in enumerate(order)}
        listed = sorted(rows, key=lambda key: places.get(key, len(places)))
        lines = [*about, "", _line(self.head), "|" + "---|" * len(self.head), *(_line(rows[key]) for key in listed)]
        made = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        made.write_text("\n".join(lines) + "\n", encoding="utf-8")
        made.replace(self.path)


def _line(cells: Row) -> str:
    return f"| {' | '.join(cells)} |"


def chosen(row: Row, words: Sequence[str]) -> bool:
    """Whether a row is asked for: its key, joined by ``:``, begins as one of ``words`` does, or there are none."""
    return not words or any(":".join(row).startswith(word) for word in words)


def bound(dim: int | str, batch: int, length: int) -> str:
    """A dimension of the zoo at one size: ``batch=1..32`` is the batch, other names the length."""
    name, _, _ = str(dim).partition("=")
    return str(dim) if name == str(dim) else str(batch if name == "batch" else length)
