"""A schedule as one line of JSON: what a search writes down and a build reads."""

from __future__ import annotations

import json
from typing import Any, cast

from tilewright.errors import UsageError
from tilewright.ir.parse import parse
from tilewright.ir.symbolic import Expr
from tilewright.kernel.schedule import Loop, LoopKind, Pack, Schedule, Stage

_KINDS = ("block", "tile", "pipeline")


def schedule_to_json(schedule: Schedule) -> str:
    """One line, the same for equal schedules; what is empty is left out."""
    record: dict[str, Any] = {
        "loops": [_loop(x) for x in schedule.loops],
        "reduce": [_loop(x) for x in schedule.reduce],
        "stages": [[s.tensor, s.depth, s.space, s.pad, *(["window"] if s.window else [])] for s in schedule.stages],
        "packs": [[p.tensor, [str(e) for e in p.index], [str(e) for e in p.shape]] for p in schedule.packs],
        "spaces": [list(pair) for pair in schedule.spaces],
        "extra": [list(pair) for pair in schedule.extra],
    }
    return json.dumps({k: v for k, v in record.items() if v}, separators=(",", ":"))


def _loop(loop: Loop) -> list[Any]:
    return [loop.axis, loop.size, loop.kind, *_flags(loop)]


def _flags(loop: Loop) -> list[str | int]:
    return [] if not loop.balanced else ["balanced"] if loop.unit == 1 else ["balanced", loop.unit]


def schedule_from_json(text: str) -> Schedule:
    """The schedule that :func:`schedule_to_json` wrote. Raises :class:`UsageError` (``schedule-record``)."""
    try:
        record = json.loads(text)
        if not isinstance(record, dict) or not record.keys() <= {
            "loops", "reduce", "stages", "packs", "spaces", "extra",
        }:  # fmt: skip
            raise ValueError("not the fields of a schedule")
        return Schedule(
            loops=tuple(_read_loop(*x) for x in record.get("loops", ())),
            reduce=tuple(_read_loop(*x) for x in record.get("reduce", ())),
            stages=tuple(_stage(*x) for x in record.get("stages", ())),
            packs=tuple(Pack(_text(t), _exprs(i), _exprs(s)) for t, i, s in record.get("packs", ())),
            spaces=tuple((_text(t), _text(s)) for t, s in record.get("spaces", ())),
            extra=tuple((_text(n), _option(v)) for n, v in record.get("extra", ())),
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(
            "schedule-record",
            where=f"schedule record {text[:60]!r}",
            cause=str(error),
            fix="delete the record, or write it again by tuning",
        ) from error


def _read_loop(axis: object, size: object, kind: object, *flags: object) -> Loop:
    if kind not in _KINDS or flags[:1] not in ((), ("balanced",)) or len(flags) > 2:
        raise ValueError(f"loop of kind {kind!r} {flags}")
    unit = _integer(flags[1]) if len(flags) > 1 else 1
    if unit < 1 or _integer(size) % unit:
        raise ValueError(f"pieces of {size} in units of {unit}")
    return Loop(_text(axis), _integer(size), cast(LoopKind, kind), bool(flags), unit)


def _stage(tensor: object, depth: object, space: object, pad: object, *flags: object) -> Stage:
    if flags not in ((), ("window",)):
        raise ValueError(f"stage of {tensor!r} {flags}")
    return Stage(_text(tensor), _integer(depth), _text(space), _integer(pad), bool(flags))


def _text(x: object) -> str:
    if not isinstance(x, str):
        raise ValueError(f"expected text, got {x!r}")
    return x


def _integer(x: object) -> int:
    if not isinstance(x, int) or isinstance(x, bool):
        raise ValueError(f"expected an integer, got {x!r}")
    return x


def _option(x: object) -> int | str | bool:
    if not isinstance(x, int | str):
        raise ValueError(f"expected a number, text or a truth value, got {x!r}")
    return x


def _exprs(items: list[object]) -> tuple[Expr, ...]:
    return tuple(parse(_text(x)) for x in items)
