"""Addresses for the buffers of a placed program, by liveness where bytes have to be shared.

Each way shares more than the one before, and none is taken as long as that one fits: sharing orders instructions that
nothing else orders, so it must buy something. What pipes do at the same time is what the ways keep apart:

1. Nothing is shared.
2. Buffers that a single pipe both writes and reads share bytes where they do not live at one time. The pipe takes its
   instructions in order, so this costs barriers at most.
3. The outermost loops share as well: a later one starts when an earlier one has ended with its buffers.
4. What still does not fit loses slots, the largest first, and shares by 1 to 3.
5. Everything shares: transfers wait until the bytes that they fill are free.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from enum import IntEnum

from tilewright.backends.ascend.memory.lifetimes import Lifetimes, lifetimes
from tilewright.backends.ascend.memory.packing import Item, pack
from tilewright.backends.ascend.placed.form import Buffer, Placed
from tilewright.backends.ascend.placed.layout import round_up
from tilewright.kernel.schedule import ScheduleError


class Sharing(IntEnum):
    """What may share bytes; each includes those before it."""

    NOTHING = 0
    ONE_PIPE = 1
    NESTS = 2
    EVERYTHING = 3


def with_addresses(placed: Placed, kept: Collection[str] = ()) -> Placed:
    """``placed`` with addresses in every memory of a core. Buffers in ``kept``, whose slots hold what later turns of a
    loop read again, never lose one. Raises :class:`ScheduleError` where a memory is too small."""
    buffers = {b.name: b for b in placed.buffers}
    known: list[Lifetimes] = []
    for scope in sorted({b.scope for b in placed.buffers} - {"gm"}):
        own = [b for b in placed.buffers if b.scope == scope]
        buffers |= {b.name: b for b in _fitted(placed, own, kept, known)}
    return replace(placed, buffers=tuple(buffers[b.name] for b in placed.buffers))


def _fitted(placed: Placed, own: list[Buffer], kept: Collection[str], known: list[Lifetimes]) -> list[Buffer]:
    """Buffers of one memory with addresses. ``known`` holds the lifetimes as soon as somebody has asked for them."""
    target, scope = placed.target, own[0].scope
    align, size = int(target.extra["alignment"][scope]), target.memory[scope].size
    end = 0
    while True:
        for sharing in (Sharing.NOTHING, Sharing.ONE_PIPE, Sharing.NESTS):
            if sharing and not known:
                known.append(lifetimes(placed))
            done = shared(own, known[0] if known else None, sharing, align, kept)
            end = max(b.end for b in done)
            if end <= size:
                return done
        double = [b for b in own if b.slots > 1 and b.name not in kept]
        if not double:
            break
        largest = max(double, key=lambda b: b.slot_bytes)
        fewer = replace(largest, slots=largest.slots - 1, rotates=largest.rotates if largest.slots > 2 else None)
        own = [fewer if b is largest else b for b in own]
    done = shared(own, known[0], Sharing.EVERYTHING, align, kept)
    end = max(b.end for b in done)
    if end <= size:
        return done
    raise ScheduleError(placed.kernel.name, f"{end} bytes of {scope} are needed, {target.spelling} has {size}")


def shared(
    buffers: list[Buffer], times: Lifetimes | None, sharing: Sharing, align: int, kept: Collection[str] = ()
) -> list[Buffer]:
    """Buffers of one memory with addresses, which share as much as ``sharing`` allows."""
    if sharing is Sharing.NOTHING or times is None:
        end, done = 0, []
        for b in buffers:
            done.append(replace(b, address=round_up(end, align)))
            end = done[-1].end
        return done
    items = [Item(b.name, b.slots * b.slot_bytes, _times(b, times, sharing, b.name in kept)) for b in buffers]
    places = pack(items, align)
    return [replace(b, address=places[b.name]) for b in buffers]


def _times(b: Buffer, times: Lifetimes, sharing: Sharing, kept: bool) -> int:
    """When the bytes of ``b`` are its own."""
    alone = b.slots == 1 and len(times.pipes.get(b.name, ())) <= 1
    if alone:
        return times.live[b.name]
    if sharing is Sharing.ONE_PIPE:
        return (1 << times.count) - 1
    if sharing is Sharing.NESTS or kept:
        return times.nest[b.name]
    return times.rotation[b.name] if b.slots > 1 else times.live[b.name]
