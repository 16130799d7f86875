"""The programs of a target, for a reader: what they do, what they need, and what is predicted of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tilewright.cli.screen import duration, size

if TYPE_CHECKING:
    from tilewright.backends.base import ProgramFacts
    from tilewright.report import TargetFacts

Line = tuple[str, str]
HEAD = ("program", "operations", "bytes", "memory", "fits", "code", "predicted", "padding", "compiled")
#: Rows that are shown unless all are asked for.
MOST = 12


def lines(programs: Sequence[ProgramFacts], whole: bool = False) -> Iterator[Line]:
    """A row for each program under a head, in aligned columns; columns that no program fills are left out. Then
    what is missing, with the reason. Of many the first and the last are shown, unless the ``whole`` is wanted."""
    if not programs:
        return
    named = len({_sizes(facts) for facts in programs}) < len(programs) or not all(f.sizes for f in programs)
    rows = [_row(facts, named) for facts in programs]
    kept = [i for i in range(len(HEAD)) if any(row[i] for row in rows)]
    widths = [max(len(row[i]) for row in (HEAD, *rows)) for i in kept]
    table = len(kept) > 1 or len(rows) > 1  # else there is only a name
    for n, row in enumerate(_shown(rows, whole) if table else ()):
        cells = [f"{row[i] or '–':<{width}}" for i, width in zip(kept, widths, strict=True)] if row else ["…"]
        yield "" if n else "programs", "  ".join(cells).rstrip()
    if any(facts.padding for facts in programs):
        mean = sum(f.share * f.mean_padding for f in programs) / sum(f.share for f in programs)
        worst = max(facts.padding for facts in programs)
        told = f"padding {mean:.0%} of the operations on average, each size in range as often; {worst:.0%} at worst"
        yield "", f"{told} (--bucket)"
    for note in dict.fromkeys(facts.note for facts in programs if facts.note):
        where = [facts.name for facts in programs if facts.note == note]
        yield "" if table else "programs", note if len(where) == len(programs) else f"{', '.join(where)}: {note}"


def latency(target: TargetFacts) -> str:
    """The predicted time of one run; of several buckets, of the smallest and the largest."""
    times = [facts.predicted_seconds for facts in target.programs if facts.predicted_seconds is not None]
    if not times or len(times) < len(target.programs):
        return ""
    span = time_of(times[0]) if len(times) == 1 else f"{time_of(min(times))} to {time_of(max(times))} a program"
    return f"predicted {span} on {target.spelling}, by peak rates and bandwidth; no device here"


def _shown(rows: Sequence[tuple[str, ...]], whole: bool) -> list[tuple[str, ...]]:
    """The head and the rows, with nothing in the place of those that are left out."""
    if whole or len(rows) <= MOST:
        return [HEAD, *rows]
    return [HEAD, *rows[: MOST // 2], (), *rows[-MOST // 2 :]]


def _row(facts: ProgramFacts, named: bool) -> tuple[str, ...]:
    compiled = facts.code_bytes > 0
    return (
        " ".join(part for part in (facts.name if named else "", _sizes(facts)) if part),
        count_of(facts.flops) if compiled else "",
        size(facts.bytes) if compiled else "",
        size(facts.memory) if compiled else "",
        "" if facts.fits is None else "yes" if facts.fits else "no",
        size(facts.code_bytes) if compiled else "",
        "" if facts.predicted_seconds is None else time_of(facts.predicted_seconds),
        f"{facts.padding:.0%}, mean {facts.mean_padding:.0%}" if facts.padding else "",
        "kept" if facts.cached else f"in {duration(facts.compile_seconds)}" if facts.compile_seconds else "",
    )


def _sizes(facts: ProgramFacts) -> str:
    return " ".join(f"{name}={count}" for name, count in facts.sizes.items())


def time_of(seconds: float) -> str:
    """Seconds for a reader, short ones in microseconds."""
    return duration(seconds) if seconds >= 1e-4 else f"{seconds * 1e6:.2f} µs"


def count_of(number: float) -> str:
    """Operations for a reader: ``22.6 GFLOP``."""
    for unit, scale in (("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6), ("kFLOP", 1e3)):
        if number >= scale:
            return f"{number / scale:.1f} {unit}"
    return f"{number:.0f} FLOP"


def read(member: Any) -> tuple[ProgramFacts, ...]:
    """The programs of ``facts.json`` of an artifact. Raises ``ValueError`` for anything but what a compiler writes."""
    from dataclasses import fields

    from tilewright.backends.base import ProgramFacts

    if not isinstance(member, list):
        raise ValueError("facts.json is no list")
    kinds = {
        "name": str,
        "note": str,
        "sizes": dict,
        "collectives": dict,
        "products": dict,
        "fits": bool,
        "cached": bool,
    }
    found = []
    for told in member:
        for field in fields(ProgramFacts):
            value = told.get(field.name) if isinstance(told, dict) else None
            expected = kinds.get(field.name, (int, float))
            if value is not None and (not isinstance(value, expected) or not _plain(value)):
                raise ValueError(f"{field.name} of a program is {value!r}")
        if not isinstance(told, dict) or "name" not in told or set(told) - {f.name for f in fields(ProgramFacts)}:
            raise ValueError("a program of facts.json is malformed")
        arguments: dict[str, Any] = {"sizes": {}} | told
        found.append(ProgramFacts(**arguments))
    return tuple(found)


def _plain(value: Any) -> bool:
    if not isinstance(value, dict):
        return True
    return all(isinstance(k, str) and isinstance(v, int | float) for k, v in value.items())
