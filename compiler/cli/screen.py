"""What a user sees while a command works, and the block at its end."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

import click

LABEL = 11  # columns

Rows = Sequence[Sequence[str]]


class Progress(AbstractContextManager["Progress"]):
    """A line per stage on stderr: live with times on a terminal, plain elsewhere.

    Args:
        mode: ``auto``, ``plain`` or ``none``.
    """

    def __init__(self, mode: str):
        live = mode == "auto" and sys.stderr.isatty()
        self._mode = "live" if live else mode
        self._stage, self._detail = "", ""
        self._start = self._begin = time.perf_counter()
        self._status: Any = None
        self._console: Any = None
        if live:
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False)

    def __call__(self, stage: str, detail: str = "") -> None:
        """A stage begins (and the one before has ended); ``observe`` is no stage but a line that was asked for."""
        if stage == "observe":
            self.say(detail)
            return
        self._end()
        self._stage, self._detail, self._start = stage, detail, time.perf_counter()
        if self._mode == "live":
            self._status = self._console.status(f"[bold]{stage:<10}[/] {_escaped(detail)}")
            self._status.start()
        elif self._mode != "none":
            click.echo(f"[{self._start - self._begin:6.1f} s] {stage:<10} {detail}".rstrip(), err=True)

    def say(self, text: str) -> None:
        """A line between stages; shown in every mode, since it was asked for."""
        if self._mode == "live":
            self._console.print(_escaped(text))
        else:
            click.echo(text, err=True)

    def _end(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
            seconds = time.perf_counter() - self._start
            self._console.print(f"[green]✓[/] {self._stage:<10} [dim]{seconds:6.2f} s[/]  {_escaped(self._detail)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._end()
        elif self._status is not None:
            self._status.stop()


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def table(head: Sequence[str], rows: Rows) -> None:
    """A table: drawn by rich on a terminal, in aligned columns elsewhere. Rows with a cell ``no`` are red."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        drawn = Table(*head, box=None, header_style="bold", width=min(shutil.get_terminal_size().columns, 140))
        for row in rows:
            refused = any(cell == "no" or cell.startswith("no (") for cell in row[2:])
            drawn.add_row(*map(_escaped, row), style="red" if refused else None)
        Console(highlight=False).print(drawn)
        return
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def block(lines: Iterable[tuple[str, str]]) -> None:
    """Print labelled lines; an empty label continues the line above."""
    for label, text in lines:
        gap = "" if len(label) < LABEL or label.endswith(" ") else "  "
        click.echo(f"{label:<{LABEL}}{gap}{text}".rstrip())


def verdict(passed: bool) -> None:
    """The last line of a command that judges."""
    click.secho("PASSED" if passed else "FAILED", fg="green" if passed else "red", bold=True)


def size(count: float) -> str:
    """Bytes for a reader: ``26.4 MB`` (powers of ten)."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Seconds for a reader: ``0.412 ms``, ``18.2 s``."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.3f} ms" if seconds < 0.01 else f"{seconds * 1e3:.1f} ms"
