"""The arena: how long each temporary lives, and where it lies for given sizes.

Addresses are assigned when the sizes are known, in the executor (``compiler/runtime/native/layout.c``). This is the
same algorithm, for reports: greedy with best fit (Pisarchyk and Lee, arXiv:2001.03288), in several orders of which the
first that gives the smallest arena is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from tilewright.ir.symbolic import Expr
from tilewright.plan.plan import (
    Allocate,
    Buffer,
    Call,
    Copy,
    EntryPoint,
    Free,
    HostLaunch,
    Instruction,
    Jump,
    Launch,
    LoadScalar,
    Space,
)

#: Bytes to which temporaries and constants are aligned.
ALIGNMENT = 64


def buffers_used(instruction: Instruction) -> tuple[int, ...]:
    """Indices of the buffers that an instruction reads or writes."""
    match instruction:
        case Launch() | HostLaunch():
            return instruction.buffers
        case Copy(source, target):
            return (source, target)
        case LoadScalar(buffer=buffer) | Allocate(buffer) | Free(buffer):
            return (buffer,)
        case Call():
            return instruction.inputs + instruction.outputs
    return ()


def expressions_used(instruction: Instruction) -> Iterator[Expr]:
    """The size expressions of an instruction."""
    for name in type(instruction).__dataclass_fields__:
        value = getattr(instruction, name)
        if isinstance(value, Expr):
            yield value
        elif isinstance(value, tuple):
            yield from (v for v in value if isinstance(v, Expr))


def root_of(buffers: Sequence[Buffer], buffer: int) -> int:
    """The buffer whose memory ``buffer`` lies in: the end of its chain of views."""
    while (base := buffers[buffer].base) is not None:
        buffer = base
    return buffer


def allocated_buffers(entry: EntryPoint) -> frozenset[int]:
    """Temporaries that the program allocates and frees itself."""
    return frozenset(i.buffer for i in entry.code if isinstance(i, Allocate | Free))


def live_intervals(entry: EntryPoint) -> dict[int, tuple[int, int]]:
    """First and last instruction at which each temporary of the arena is needed; views count for their base.

    A buffer used anywhere in a loop (between a backward jump and its target) lives through the whole loop. Temporaries
    that no instruction uses, and those with an :class:`Allocate` of their own, are left out.
    """
    own = allocated_buffers(entry)
    live: dict[int, tuple[int, int]] = {}
    for at, instruction in enumerate(entry.code):
        for used in buffers_used(instruction):
            buffer = root_of(entry.buffers, used)
            if entry.buffers[buffer].kind == "temporary" and buffer not in own:
                first, last = live.get(buffer, (at, at))
                live[buffer] = (min(first, at), max(last, at))
    loops = [(i.to, at) for at, i in enumerate(entry.code) if isinstance(i, Jump) and i.to <= at]
    changed = True
    while changed:
        changed = False
        for buffer in list(live):
            for start, end in loops:
                first, last = live[buffer]
                if first <= end and last >= start and not (first <= start and end <= last):
                    live[buffer] = (min(first, start), max(last, end))
                    changed = True
    return live


@dataclass(frozen=True, slots=True)
class ArenaLayout:
    """Offsets in bytes of the temporaries by buffer index, the arena's size, and the most bytes live at a time."""

    offsets: Mapping[int, int]
    size: int
    live_maximum: int


def plan_memory(entry: EntryPoint, symbols: Mapping[str, int], space: Space = "device") -> ArenaLayout:
    """Where the temporaries of ``entry`` in one space lie for these values of its dimension symbols."""
    live = {b: life for b, life in live_intervals(entry).items() if entry.buffers[b].space == space}
    sizes = {b: -(-entry.buffers[b].size.evaluate(symbols) // ALIGNMENT) * ALIGNMENT for b in live}
    at_once = _live_bytes(live, sizes, len(entry.code))
    best = ArenaLayout({}, 0, max(at_once, default=0))
    for number, order in enumerate(ORDERS):
        keys = {b: order(sizes[b], live[b], at_once) for b in live}
        offsets = _place(sorted(live, key=lambda b: (-keys[b], -sizes[b], b)), sizes, live)
        size = max((offset + sizes[b] for b, offset in offsets.items()), default=0)
        if number == 0 or size < best.size:
            best = ArenaLayout(offsets, size, best.live_maximum)
        if best.size == best.live_maximum:
            break
    return best


#: What is placed first: the largest key, then the largest size, then the lowest index. Keys are of the size, the first
#: and last instruction, and the bytes live at each instruction; they end at the largest 64-bit integer.
ORDERS: tuple[Callable[[int, tuple[int, int], Sequence[int]], int], ...] = (
    lambda size, life, live: 0,  # by size alone
    lambda size, life, live: max(live[life[0] : life[1] + 1]),  # by the fullest instruction of its life (by breadth)
    lambda size, life, live: min(size * (life[1] - life[0] + 1), 2**63 - 1),  # by size and length of life
    lambda size, life, live: life[1] - life[0],  # by length of life
    lambda size, life, live: -life[0],  # as the program goes
    lambda size, life, live: life[1],  # from the program's end
)


def _live_bytes(live: Mapping[int, tuple[int, int]], sizes: Mapping[int, int], count: int) -> list[int]:
    """Bytes live at each instruction."""
    change = [0] * (count + 1)
    for buffer, (first, last) in live.items():
        change[first] += sizes[buffer]
        change[last + 1] -= sizes[buffer]
    return list(accumulate(change[:count]))


def _place(order: Sequence[int], sizes: Mapping[int, int], live: Mapping[int, tuple[int, int]]) -> dict[int, int]:
    """Offsets of buffers that are placed in this order."""
    placed: list[tuple[int, int]] = []  # (offset, buffer), in ascending order of offset
    for buffer in order:
        offset = _best_fit(placed, buffer, sizes, live)
        at = len(placed)
        while at > 0 and placed[at - 1][0] > offset:
            at -= 1
        placed.insert(at, (offset, buffer))
    return {b: offset for offset, b in placed}


def _best_fit(
    placed: list[tuple[int, int]], buffer: int, sizes: Mapping[int, int], live: Mapping[int, tuple[int, int]]
) -> int:
    """The smallest gap that fits between buffers placed already that live at the same time, else the end of them."""
    first, last = live[buffer]
    best, best_gap, end = -1, 0, 0
    for offset, other in placed:
        if live[other][1] < first or last < live[other][0]:
            continue
        gap = offset - end
        if gap >= sizes[buffer] and (best < 0 or gap < best_gap):
            best, best_gap = end, gap
        end = max(end, offset + sizes[other])
    return best if best >= 0 else end
