"""How the lanes of a vector instruction become calls: runs of elements, or rows taken as repeats with a mask.

A call of the vector unit covers up to 255 repeats of 256 bytes; in each repeat ``mask`` lanes take part, and blocks of
32 bytes and repeats may lie apart (Ascend C reference, "high-dimensional tiling"). Calls that take a count instead
cover one run of elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tilewright.backends.ascend.ascendc.code import finite
from tilewright.backends.ascend.ascendc.program import Program
from tilewright.backends.ascend.placed.form import View
from tilewright.ir.symbolic import Expr

REPEAT_BYTES, BLOCK_BYTES, MAX_REPEATS = 256, 32, 255


@dataclass(frozen=True, slots=True)
class Lanes:
    """The views of one instruction over common dimensions.

    Attributes:
        counts: lanes of each dimension, the last one running within a row.
        strides: of each operand (destination first) and dimension, in elements.
        sizes: bytes of an element of each operand.
    """

    views: tuple[View, ...]
    counts: tuple[Expr, ...]
    strides: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]

    @property
    def per_repeat(self) -> int:
        """Lanes of one repeat."""
        return REPEAT_BYTES // max(self.sizes)

    @property
    def contiguous(self) -> bool:
        """Whether all lanes are one run in every operand."""
        return len(self.counts) == 1 and all(s == (1,) for s in self.strides)


@dataclass(frozen=True, slots=True)
class Repeats:
    """Strides of a call: within a repeat and between repeats, in blocks, of each operand."""

    blocks: tuple[int, ...]
    repeats: tuple[int, ...]


#: Spells one call: operands, mask (or count, where there are no repeats), repeats and their strides.
Call = Callable[[Sequence[str], str, str, Repeats], str]
CountCall = Callable[[Sequence[str], str], str]


def lanes_of(program: Program, views: Sequence[View]) -> Lanes:
    """Common dimensions of ``views``, joined where all of them allow."""
    first = views[0]
    counts = [n for n, _ in first.dims]
    strides: list[list[int]] = []
    for v in views:
        if len(v.dims) != len(counts):
            raise program.refuse(f"{v.buffer} has {len(v.dims)} dimensions where {first.buffer} has {len(counts)}")
        if any(not s.is_constant for _, s in v.dims):
            raise program.refuse(f"the distance of lanes of {v.buffer} is known only at run time")
        strides.append([s.value for _, s in v.dims])
    for d in range(len(counts) - 2, -1, -1):
        inner = counts[d + 1]
        if inner.is_constant and all(s[d] == s[d + 1] * inner.value for s in strides):
            counts[d : d + 2] = [counts[d] * inner]
            for s in strides:
                s[d : d + 2] = [s[d + 1]]
    keep = [d for d, n in enumerate(counts) if n != 1 or d == len(counts) - 1]
    kept = tuple(counts[d] for d in keep)
    sizes = tuple(program.buffer(v.buffer).element_bytes for v in views)
    return Lanes(tuple(views), kept, tuple(tuple(s[d] for d in keep) for s in strides), sizes)


@contextmanager
def outer_loops(program: Program, lanes: Lanes, keep: int) -> Iterator[list[str]]:
    """Loops over all dimensions but the last ``keep``; yields each operand's offset in them."""
    offsets: list[list[str]] = [[] for _ in lanes.views]
    with ExitStack() as stack:
        for d in range(len(lanes.counts) - keep):
            name = f"i{d}"
            count = program.code.value(lanes.counts[d], program.rows_of(lanes.views[0].buffer))
            stack.enter_context(program.code.block(f"for (int64_t {name} = 0; {name} < {count}; ++{name})"))
            for o, strides in zip(offsets, lanes.strides, strict=True):
                if strides[d]:
                    o.append(name if strides[d] == 1 else f"{name} * {strides[d]}")
        yield [" + ".join(o) for o in offsets]


def run_name(program: Program, view: View) -> str:
    """What to call the number of lanes of a run: rows of one number each, or lanes of several rows."""
    wide = sum(n != 1 for n, _ in view.dims) > 1
    return f"{program.tensor[view.buffer]}_{'lanes' if wide else 'rows'}"


def operands(program: Program, lanes: Lanes, more: Sequence[str]) -> list[str]:
    """Each operand's tensor, ``more`` elements into its view."""
    return [program.at(v, v.offset, m) for v, m in zip(lanes.views, more, strict=True)]


def spell_lanes(program: Program, views: Sequence[View], call: Call, count_call: CountCall | None) -> None:
    """Calls for every lane of ``views``, whose first is the destination."""
    lanes = lanes_of(program, views)
    code = program.code
    if lanes.strides[0][-1] != 1 and lanes.counts[-1] != 1:
        raise program.refuse(f"lanes of {views[0].buffer} lie {lanes.strides[0][-1]} elements apart")
    if lanes.contiguous and count_call is not None:
        count = code.value(lanes.counts[0], run_name(program, views[0]))
        code.line(count_call(operands(program, lanes, [""] * len(views)), count) + ";")
        return
    if len(lanes.counts) == 1:
        _columns(program, lanes, [""] * len(views), call, count_call)
        return
    if _rows_repeat(program, lanes):
        with outer_loops(program, lanes, 2) as more:
            _rows(program, lanes, more, call)
    else:
        with outer_loops(program, lanes, 1) as more:
            _columns(program, lanes, more, call, count_call)


def at_least_one(program: Program, count: Expr, text: str, stack: ExitStack) -> None:
    """A mask has at least one lane: where there may be none, nothing is called."""
    if program.code.low(count) < 1:
        stack.enter_context(program.code.block(f"if ({text} > 0)"))


def row_bound(program: Program, lanes: Lanes, d: int = -2) -> int:
    """Most rows there can be: by what is known of the count, and by the room in the operands."""
    high = program.code.high(lanes.counts[d])
    for v, strides in zip(lanes.views, lanes.strides, strict=True):
        b = program.buffer(v.buffer)
        if strides[d]:
            high = min(high, b.slot_bytes // b.element_bytes // strides[d] or 1)
    return high


def _rows_repeat(program: Program, lanes: Lanes) -> bool:
    """Whether rows are taken as repeats: they lie at most 255 blocks apart, and that gives no more calls."""
    for strides, size in zip(lanes.strides, lanes.sizes, strict=True):
        if strides[-2] * size % BLOCK_BYTES:
            raise program.refuse(f"rows {strides[-2] * size} bytes apart are no whole blocks")
        if strides[-2] * size // BLOCK_BYTES > MAX_REPEATS:
            return False
    columns = program.code.high(lanes.counts[-1])
    calls = -(-columns // lanes.per_repeat) if finite(columns) else 1 << 30
    return calls <= 2 * row_bound(program, lanes)


def _block_strides(program: Program, lanes: Lanes) -> tuple[int, ...]:
    """1, or 0 for an operand whose one block serves the whole row."""
    result = []
    for v, strides in zip(lanes.views, lanes.strides, strict=True):
        if strides[-1] not in (0, 1) and lanes.counts[-1] != 1:
            raise program.refuse(f"lanes of {v.buffer} lie {strides[-1]} elements apart")
        result.append(0 if strides[-1] == 0 else 1)
    return tuple(result)


def _rows(program: Program, lanes: Lanes, more: list[str], call: Call) -> None:
    """Rows as repeats; wide rows take a call for every 256 bytes of columns."""
    code, per = program.code, lanes.per_repeat
    blocks = _block_strides(program, lanes)
    pitch = tuple(s[-2] * size // BLOCK_BYTES for s, size in zip(lanes.strides, lanes.sizes, strict=True))
    rows = code.value(lanes.counts[-2], program.rows_of(lanes.views[0].buffer))
    columns = code.value(lanes.counts[-1], program.columns_of(lanes.views[0].buffer))
    repeats = Repeats(blocks, pitch)
    with ExitStack() as stack:
        if code.high(lanes.counts[-1]) <= per:
            at_least_one(program, lanes.counts[-1], columns, stack)
        if row_bound(program, lanes) > MAX_REPEATS:
            stack.enter_context(code.block(f"for (int64_t r = 0; r < {rows}; r += {MAX_REPEATS})"))
            rows = f"Smaller({MAX_REPEATS}, {rows} - r)"
            more = [_sum(m, "" if not s[-2] else f"r * {s[-2]}") for m, s in zip(more, lanes.strides, strict=True)]
        if code.high(lanes.counts[-1]) > per:
            stack.enter_context(code.block(f"for (int64_t c = 0; c < {columns}; c += {per})"))
            mask = f"Smaller({per}, {columns} - c)"
            more = [_sum(m, "c" if block else "") for m, block in zip(more, blocks, strict=True)]
        else:
            mask = columns
        code.line(call(operands(program, lanes, more), mask, rows, repeats) + ";")


def _columns(program: Program, lanes: Lanes, more: list[str], call: Call, count_call: CountCall | None) -> None:
    """One row at a time: a count where every operand is a run, else full repeats and a masked rest."""
    code, per = program.code, lanes.per_repeat
    columns = code.value(lanes.counts[-1], program.columns_of(lanes.views[0].buffer))
    blocks = _block_strides(program, lanes)
    if all(blocks) and count_call is not None:
        code.line(count_call(operands(program, lanes, more), columns) + ";")
        return
    high = min(code.high(lanes.counts[-1]), row_bound(program, lanes, -1))
    step = tuple(per * size // BLOCK_BYTES if block else 0 for block, size in zip(blocks, lanes.sizes, strict=True))
    repeats = Repeats(blocks, step)
    if high <= per:
        with ExitStack() as stack:
            at_least_one(program, lanes.counts[-1], columns, stack)
            code.line(call(operands(program, lanes, more), columns, "1", repeats) + ";")
        return
    if high > per * MAX_REPEATS:
        raise program.refuse(f"rows of up to {high} lanes are more than {MAX_REPEATS} repeats")
    code.line(call(operands(program, lanes, more), str(per), f"{columns} / {per}", repeats) + ";")
    with code.block(f"if ({columns} % {per} != 0)"):
        rest = [_sum(m, f"{columns} / {per} * {per}" if b else "") for m, b in zip(more, blocks, strict=True)]
        code.line(call(operands(program, lanes, rest), f"{columns} % {per}", "1", repeats) + ";")


def _sum(*terms: str) -> str:
    return " + ".join(t for t in terms if t)
