"""A table of results in Markdown that is filled row by row, so that what makes it can be ended and started again."""

from __future__ import annotations

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


def bound(dim: int | str, batch: int, length: int) -> str:
    """A dimension of the zoo at one size: ``batch=1..32`` is the batch, other names the length."""
    name, _, _ = str(dim).partition("=")
    return str(dim) if name == str(dim) else str(batch if name == "batch" else length)
