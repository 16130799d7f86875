"""Places for blocks of bytes that are needed at known times, so that the highest byte is low.

Packing intervals is NP-hard (dynamic storage allocation; M. R. Garey and D. S. Johnson, Computers and Intractability,
1979, SR2); largest-first into the tightest gap comes near the largest sum of sizes at one time, below which no packing
is. Several orders are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """``size`` bytes that are needed at the ``times`` whose bits are set."""

    name: str
    size: int
    times: int


#: Ways to order the items before they are placed one by one, each with a rule of its own.
_ORDERS: tuple[Callable[[Item], tuple[int, ...]], ...] = (
    lambda i: (-i.size, -i.times.bit_count()),
    lambda i: (-i.size * i.times.bit_count(), -i.size),
    lambda i: (-i.times.bit_count(), -i.size),
    lambda i: ((i.times & -i.times).bit_length(), -i.size),
)


def pack(items: Sequence[Item], align: int) -> Mapping[str, int]:
    """The first byte of each item, a multiple of ``align``; items that are needed at one time share no byte.

    Deterministic: equal items in equal order get equal places.
    """
    found = [_placed(sorted(items, key=order), align) for order in _ORDERS]
    return min(found, key=lambda p: _top(p, items))


def peak(items: Sequence[Item], align: int) -> int:
    """The largest sum of sizes, rounded up to ``align``, of what is needed at one time: no packing is smaller."""
    times = max((i.times.bit_length() for i in items), default=0)
    sizes = [(i.times, _round_up(i.size, align)) for i in items]
    return max((sum(size for when, size in sizes if when >> t & 1) for t in range(times)), default=0)


def _placed(items: Sequence[Item], align: int) -> dict[str, int]:
    done: dict[str, int] = {}
    by_name = {i.name: i for i in items}
    for item in items:
        taken = sorted((at, at + by_name[name].size) for name, at in done.items() if by_name[name].times & item.times)
        done[item.name] = _tightest(taken, item.size, align)
    return done


def _tightest(taken: Sequence[tuple[int, int]], size: int, align: int) -> int:
    """The beginning of the smallest gap that ``size`` bytes fit in, else behind everything."""
    best: tuple[int, int] | None = None
    free = 0
    for low, high in taken:
        if low - free >= size and (best is None or low - free < best[0]):
            best = (low - free, free)
        free = max(free, _round_up(high, align))
    return free if best is None else best[1]


def _top(places: Mapping[str, int], items: Sequence[Item]) -> int:
    return max((places[i.name] + i.size for i in items), default=0)


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step
