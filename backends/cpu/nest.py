"""Loop nests for statements that are no contraction: vectors along one axis, scalar loops along the others.

Consecutive statements over the same axes share one nest; what one of them computes for the next stays in a variable.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from tilewright.backends.cpu.down import emit_down
from tilewright.backends.cpu.lanes import Vectorized, plain_index
from tilewright.backends.cpu.place import Place
from tilewright.backends.cpu.statements import Statement, across, combine, emit_partial, emit_statement, identity_text
from tilewright.backends.cpu.values import Buffer, register_type
from tilewright.codegen.cstyle import constant_text
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr, symbol
from tilewright.kernel.analysis import gathered, loads_of, offset_of, refs_of, used_symbols, walk
from tilewright.kernel.expr import Const, IndexValue, Load, Unary
from tilewright.kernel.print import print_node
from tilewright.kernel.schedule import Compute, Write

#: What takes longer than the sum of vectors that follows it: one accumulator is enough then.
_SLOW = frozenset("exp log log2 exp2 sin cos tan tanh erf sigmoid asin acos atan sinh cosh asinh acosh atanh".split())
#: Accumulators of a reduction along the lanes: an addition takes four cycles and two begin in each (Zen 3, Skylake).
_PARTIAL = 4


@dataclass(frozen=True, slots=True)
class Nest:
    """Statements that share loops. ``axes`` outermost first, without ``vector``; ``reduced``: loops inside the vector
    loop (a reduction down the lanes); ``between``: reduced loops around a vector loop that is reduced too."""

    statements: tuple[Statement, ...]
    axes: tuple[str, ...]
    vector: str | None
    reduced: tuple[str, ...] = ()
    between: tuple[str, ...] = ()


def plan_nests(place: Place, statements: Sequence[Statement]) -> list[Nest]:
    """Group consecutive statements into nests."""
    nests: list[Nest] = []
    for s in statements:
        vector = vector_axis(place, s)
        across = _reduced(s)
        down = tuple(a for a in across if a != vector)
        axes = tuple(a for a in _loop_axes(place, s) if a != vector and a not in down)
        if across and vector not in across:
            nests.append(Nest((s,), axes, vector, down))
        elif not down and (n := _home(nests, s, Nest((), axes, vector), place)) is not None:
            nests[n] = replace(nests[n], statements=(*nests[n].statements, s))
        else:
            nests.append(Nest((s,), axes, vector, between=down))
    return nests


def _home(nests: list[Nest], s: Statement, shape: Nest, place: Place) -> int | None:
    """The latest nest that ``s`` may join: nothing after that nest makes what ``s`` reads."""
    read = {r.tile for r in refs_of(s.value)}
    for n in range(len(nests) - 1, -1, -1):
        if _joins(nests[n], s, shape, place) or _follows(nests[n], s, shape, place):
            return n
        made = {x.tile for x in nests[n].statements if isinstance(x, Compute)}
        if read & made or isinstance(s, Write) or any(isinstance(x, Write) for x in nests[n].statements):
            return None
    return None


def _reduced(s: Statement) -> tuple[str, ...]:
    return s.reduce.axes if isinstance(s, Compute) and s.reduce is not None else ()


def _joins(nest: Nest, s: Statement, shape: Nest, place: Place) -> bool:
    if nest.reduced or nest.between or nest.vector != shape.vector or set(nest.axes) != set(shape.axes):
        return False
    if any(len(_reduced(x)) > 1 for x in (s, *nest.statements)):
        return False
    finished = {x.tile for x in nest.statements if isinstance(x, Compute) and x.reduce is not None}
    if any(r.tile in finished for r in refs_of(s.value)):
        return False
    return not _reads_back(nest, s, place)


def _follows(nest: Nest, s: Statement, shape: Nest, place: Place) -> bool:
    """Whether ``s`` may be computed from the sums of a reduction down the lanes while they are in registers."""
    if not nest.reduced or _reduced(s) or nest.vector != shape.vector or set(nest.axes) != set(shape.axes):
        return False
    own = nest.statements[0]
    assert isinstance(own, Compute)
    made = {x.tile for x in nest.statements if isinstance(x, Compute)}
    refs = [r for r in refs_of(s.value) if r.tile in made]
    if own.accumulate or any(set(r.axes) != set(own.axes) for r in refs):
        return False
    return not _reads_back(nest, s, place)


def _reads_back(nest: Nest, s: Statement, place: Place) -> bool:
    """Whether ``s`` reads a tensor that the nest writes: at which element is not known."""
    written = {x.tensor for x in nest.statements if isinstance(x, Write)}
    aliased = written | {place.params[t].alias for t in written}
    read = [s.value, *(gathered(s.index) if isinstance(s, Write) else ())]
    return any(load.tensor in aliased for v in read for load in loads_of(v))


def _loop_axes(place: Place, s: Statement) -> tuple[str, ...]:
    """The axes of a statement, those with the largest steps in memory first."""
    if isinstance(s, Compute):
        return (*s.axes, *_reduced(s))
    offset = offset_of(place.params[s.tensor], plain_index(s.index))

    def size(axis: str) -> int:
        step = Vectorized(axis, place.scope.facts, place.lanes).stride(offset)
        return 0 if step is None else bounds(step, place.scope.facts)[1]

    return tuple(sorted(s.axes, key=size, reverse=True))


def vector_axis(place: Place, s: Statement) -> str | None:
    """The axis along which a statement is best vectorized; ``None`` when no axis has more than one element."""
    best: tuple[float, str | None] = (float("inf"), None)
    for axis in (*s.axes, *_reduced(s)):
        count = place.count(axis)
        if count in (0, 1):
            continue
        n = count if count is not None else 4 * place.lanes
        waste = -(-n // place.lanes) * place.lanes / n
        cost = waste * (1 + _access_cost(place, s, axis))
        if cost <= best[0]:
            best = (cost, axis)
    return best[1]


def _access_cost(place: Place, s: Statement, axis: str) -> float:
    lane = place.vectorized(axis)
    steps: list[Expr | None] = []
    for v in walk(s.value):
        if isinstance(v, Load):
            plain = tuple(i for i in v.index if isinstance(i, Expr))
            irregular = v.fill is not None and any(axis in i.symbols for i in plain)
            steps.append(
                None
                if len(plain) < len(v.index) or irregular
                else lane.stride(offset_of(place.params[v.tensor], plain))
            )
        elif isinstance(v, IndexValue):
            steps.append(lane.stride(v.index))
    steps += [lane.stride(place.buffers[r.tile].offset(r.axes)) for r in refs_of(s.value)]
    reduced = _reduced(s)
    if isinstance(s, Write):
        scattered = any(axis in used_symbols(i) for i in gathered(s.index))
        steps.append(None if scattered else lane.stride(offset_of(place.params[s.tensor], plain_index(s.index))))
    elif axis not in reduced:
        steps.append(lane.stride(place.buffers[s.tile].offset(s.axes)))
    cost = 0.0 if axis not in reduced else 0.25
    for step in steps:
        cost += place.lanes if step is None or step not in (0, 1) else 0.3 if step == 0 else 1
    return cost


def emit_nest(place: Place, nest: Nest, local: frozenset[str]) -> None:
    """Spell a nest. Tiles in ``local`` are used in this nest only and need no memory."""
    out = place.out
    for s in nest.statements:
        out.comment(print_node(s))
    with ExitStack() as stack:
        if nest.axes or nest.vector is not None:
            stack.enter_context(out.block(""))
        if nest.reduced:
            emit_down(place, nest.statements, nest.axes, nest.vector, local)
            return
        for axis in nest.axes:
            place.open_loop(stack, axis)
        reductions = [s for s in nest.statements if isinstance(s, Compute) and s.reduce is not None]
        vectors = _side_by_side(place, nest) if reductions else 1
        sums = {s.tile: _start(place, s, vectors) for s in reductions}
        with ExitStack() as inner:
            for axis in nest.between:
                place.open_loop(inner, axis)
            for count, live in place.vector_loops(nest.vector, vectors):
                for n in range(count):
                    values = place.values(nest.vector, live)
                    if n and nest.vector is not None:
                        values.at = {nest.vector: symbol(nest.vector) + n * place.lanes}
                    for s in nest.statements:
                        if isinstance(s, Compute) and s.tile in sums:
                            emit_partial(place, s, values, sums[s.tile][n])
                        else:
                            emit_statement(place, s, values, local)
        for s in reductions:
            _finish(place, s, sums[s.tile])


def _side_by_side(place: Place, nest: Nest) -> int:
    """Vectors that a reduction along the lanes takes at a time, each into a sum of its own."""
    count = None if nest.vector is None else place.count(nest.vector)
    if nest.vector is None or (count is not None and count < 2 * place.lanes):
        return 1
    slow = any(isinstance(v, Unary) and v.op in _SLOW for s in nest.statements for v in walk(s.value))
    return 1 if slow else min(_PARTIAL, _PARTIAL if count is None else count // place.lanes)


def _start(place: Place, s: Compute, count: int) -> list[str]:
    assert s.reduce is not None
    names = [place.fresh(f"{s.tile}_lanes") for _ in range(count)]
    for name in names:
        place.out.line(f"{register_type(s.value.dtype)}v {name} = {identity_text(s.reduce.op, s.value.dtype)};")
    return names


def _finish(place: Place, s: Compute, lanes: list[str]) -> None:
    """Combine the lanes of a reduction, and what the tile held before where the statement accumulates."""
    assert s.reduce is not None
    dtype, op = s.value.dtype, s.reduce.op
    kind = register_type(dtype)
    while len(lanes) > 1:  # in pairs, so that additions run side by side
        pairs = list(zip(lanes[::2], lanes[1::2], strict=False))
        lanes = [combine(op, dtype, a, b) for a, b in pairs] + lanes[2 * len(pairs) :]
    tile: Buffer = place.buffers[s.tile]
    target = f"{tile.name}[{place.index(tile.offset(s.axes))}]"
    total = across(op, dtype, lanes[0])
    if s.accumulate:
        total = f"({combine(op, dtype, f'set_{kind}({target})', f'set_{kind}({total})')})[0]"
    place.out.line(f"{target} = {total};")


def emit_fill(place: Place, tile: Buffer, value: Const) -> None:
    """Every lane of a tile becomes ``value``: all of its memory, padding included."""
    kind = register_type(tile.dtype)
    place.out.comment(f"{tile.name} = {value.value}")
    size = place.index(place.elements[tile.name])
    text = f"set_{kind}({constant_text(value.value, value.dtype)})"
    place.out.line(f"for (int64_t i = 0; i < {size}; i += TW_LANES) store_{kind}({tile.name} + i, {text});")
