"""Loop nests for statements that are no contraction: vectors along one axis, scalar loops along the others.

Consecutive statements over the same axes share one nest; what one of them computes for the next stays in a variable.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Union

from tilewright.backends.cpu.lanes import Vectorized, offset_of
from tilewright.backends.cpu.place import Place
from tilewright.backends.cpu.values import Buffer, Values, register_type
from tilewright.codegen.cstyle import constant_text
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import ZERO, Expr
from tilewright.ir.types import DType
from tilewright.kernel.analysis import gathered, identity, loads_of, refs_of, used_symbols, walk
from tilewright.kernel.expr import Const, IndexValue, Load, Ref, Value
from tilewright.kernel.print import print_node
from tilewright.kernel.schedule import Compute, Write

Statement = Union[Compute, Write]

#: How a reduction combines two vectors, given the register type and the two operands.
COMBINE = {
    "sum": "({a} + {b})",
    "prod": "({a} * {b})",
    "max": "max_{t}({a}, {b})",
    "min": "min_{t}({a}, {b})",
    "any": "({a} | {b})",
    "all": "({a} & {b})",
}
_ACROSS = {"any": "min", "all": "max"}  # of 0 and -1


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
            nests[n] = Nest((*nests[n].statements, s), nests[n].axes, vector)
        else:
            nests.append(Nest((s,), axes, vector, between=down))
    return nests


def _home(nests: list[Nest], s: Statement, shape: Nest, place: Place) -> int | None:
    """The latest nest that ``s`` may join: nothing after that nest makes what ``s`` reads."""
    read = {r.tile for r in refs_of(s.value)}
    for n in range(len(nests) - 1, -1, -1):
        if _joins(nests[n], s, shape, place):
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
    written = {x.tensor for x in nest.statements if isinstance(x, Write)}
    aliased = written | {place.params[t].alias for t in written}
    read = [s.value, *(gathered(s.index) if isinstance(s, Write) else ())]
    return not any(load.tensor in aliased for v in read for load in loads_of(v))


def _plain(index: tuple[Expr | Value, ...]) -> tuple[Expr, ...]:
    """An index with 0 for the entries that are known at run time only."""
    return tuple(i if isinstance(i, Expr) else ZERO for i in index)


def _loop_axes(place: Place, s: Statement) -> tuple[str, ...]:
    """The axes of a statement, those with the largest steps in memory first."""
    if isinstance(s, Compute):
        return (*s.axes, *_reduced(s))
    offset = offset_of(place.params[s.tensor], _plain(s.index))

    def size(axis: str) -> int:
        step = Vectorized(axis, place.scope.facts, place.lanes).stride(offset)
        return 0 if step is None else bounds(step, place.scope.facts)[1]

    return tuple(sorted(s.axes, key=size, reverse=True))


def vector_axis(place: Place, s: Statement) -> str | None:
    """The axis along which a statement is best vectorized; ``None`` when no axis has more than one element."""
    best: tuple[float, str | None] = (float("inf"), None)
    for axis in (*s.axes, *_reduced(s)):
        count = place.count(axis)
        if count == 1:
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
        steps.append(None if scattered else lane.stride(offset_of(place.params[s.tensor], _plain(s.index))))
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
        for axis in nest.axes:
            place.open_loop(stack, axis)
        across = [s for s in nest.statements if isinstance(s, Compute) and s.reduce is not None and not nest.reduced]
        sums = {s.tile: _start(place, s) for s in across}
        with ExitStack() as inner:
            for axis in nest.between:
                place.open_loop(inner, axis)
            live = place.open_vector_loop(inner, nest.vector)
            values = place.values(nest.vector, live)
            if nest.reduced:
                _emit_down(place, nest, values)
            for s in () if nest.reduced else nest.statements:
                _emit_statement(place, s, values, sums, local)
        for s in across:
            _finish(place, s, sums[s.tile])


def _start(place: Place, s: Compute) -> str:
    assert s.reduce is not None
    kind = register_type(s.value.dtype)
    name = place.fresh(f"{s.tile}_lanes")
    place.out.line(f"{kind}v {name} = {_identity_text(s.reduce.op, s.value.dtype)};")
    return name


def _identity_text(op: str, dtype: DType) -> str:
    const = identity(op, dtype)
    return f"set_{register_type(dtype)}({constant_text(const.value, dtype)})"


def _op(op: str, dtype: DType) -> str:
    return {"max": "any", "min": "all"}.get(op, op) if dtype is DType.BOOL else op


def _combine(op: str, dtype: DType, a: str, b: str) -> str:
    text = COMBINE[_op(op, dtype)].format(t=register_type(dtype), a=a, b=b)
    return f"round_{dtype}({text})" if dtype in (DType.F16, DType.BF16) and op in ("sum", "prod") else text


def _emit_statement(place: Place, s: Statement, values: Values, sums: dict[str, str], local: frozenset[str]) -> None:
    text = values.spell(s.value)
    kind = register_type(s.value.dtype)
    if isinstance(s, Write):
        values.store(place.params[s.tensor], s.index, text)
        return
    if s.tile in sums:
        assert s.reduce is not None
        if values.live is not None:
            text = f"select_{kind}(live({values.live}), {text}, {_identity_text(s.reduce.op, s.value.dtype)})"
        place.out.line(f"{sums[s.tile]} = {_combine(s.reduce.op, s.value.dtype, sums[s.tile], text)};")
        return
    name = values.assign(s.tile, s.value.dtype, text)
    values.local[s.tile] = name
    if s.tile not in local:
        values.store_tile(place.buffers[s.tile], s.axes, name)


def _finish(place: Place, s: Compute, lanes: str) -> None:
    """Combine the lanes of a reduction, and what the tile held before where the statement accumulates."""
    assert s.reduce is not None
    dtype, op = s.value.dtype, s.reduce.op
    kind = register_type(dtype)
    tile: Buffer = place.buffers[s.tile]
    target = f"{tile.name}[{place.index(tile.offset(s.axes))}]"
    across = f"{_ACROSS.get(_op(op, dtype), op)}_across_{kind}({lanes})"
    if s.accumulate:
        across = f"({_combine(op, dtype, f'set_{kind}({target})', f'set_{kind}({across})')})[0]"
    place.out.line(f"{target} = {across};")


def _emit_down(place: Place, nest: Nest, values: Values) -> None:
    """A reduction over axes that are not the vector's: one accumulator vector, scalar loops."""
    (s,) = nest.statements
    assert isinstance(s, Compute) and s.reduce is not None
    dtype = s.value.dtype
    name = place.fresh(s.tile)
    tile = place.buffers[s.tile]
    start = _identity_text(s.reduce.op, dtype)
    if s.accumulate:
        start = values.spell(_own(s))
    place.out.line(f"{register_type(dtype)}v {name} = {start};")
    with ExitStack() as stack:
        for axis in nest.reduced:
            place.open_loop(stack, axis)
        text = values.spell(s.value)
        place.out.line(f"{name} = {_combine(s.reduce.op, dtype, name, text)};")
    values.store_tile(tile, s.axes, name)


def _own(s: Compute) -> Value:
    return Ref(s.tile, s.axes, s.value.dtype)


def emit_fill(place: Place, tile: Buffer, value: Const) -> None:
    """Every lane of a tile becomes ``value``: all of its memory, padding included."""
    kind = register_type(tile.dtype)
    place.out.comment(f"{tile.name} = {value.value}")
    size = place.index(place.elements[tile.name])
    text = f"set_{kind}({constant_text(value.value, value.dtype)})"
    place.out.line(f"for (int64_t i = 0; i < {size}; i += TW_LANES) store_{kind}({tile.name} + i, {text});")
