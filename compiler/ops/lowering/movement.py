"""Lowering of operators that only move elements: index maps, and selects between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr, constant, maximum, minimum
from tilewright.ir.types import DType
from tilewright.kernel.expr import IndexValue, Value
from tilewright.ops.compose import PERMUTED, Index, Operand, binary, const, select
from tilewright.ops.lower import Context, common_cuts, lowering, unsupported


@lowering("Identity")
def _lower_identity(ctx: Context) -> Operand:
    return ctx.input(0)


@lowering("Dropout")
def _lower_dropout(ctx: Context) -> tuple[Operand, ...]:
    """Outside training nothing is dropped, and the mask, if it is wanted, keeps everything."""
    mask = [ctx.result(lambda i: const(True, DType.BOOL), 1)] if len(ctx.outputs) > 1 else []
    return (ctx.input(0), *mask)


@lowering("Transpose")
def _lower_transpose(ctx: Context) -> Operand:
    x = ctx.input(0)
    order = ctx.attribute("perm") or list(range(x.type.rank))[::-1]
    inverse = [list(order).index(d) for d in range(x.type.rank)]

    def forward(index: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(index[d] for d in order)

    cuts = {inverse[d]: starts for d, starts in x.cuts.items()}
    return ctx.result(lambda i: x.at([i[d] for d in inverse]), view=(x, forward), origin=(PERMUTED, (x,)), cuts=cuts)


@lowering("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _lower_reshape(ctx: Context) -> Operand:
    """Row-major order is kept; dimensions are matched in groups of equal products, so most need no division."""
    x, y = ctx.input(0), ctx.outputs[0]
    groups = reshape_groups(x.type.shape, y.shape)

    def back(index: tuple[Index, ...]) -> Value:
        return x.at(regroup(index, y.shape, x.type.shape, [(o, i) for i, o in groups]))

    def forward(index: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(i for i in regroup(tuple(index), x.type.shape, y.shape, groups) if isinstance(i, Expr))

    return ctx.result(back, view=(x, forward))


Groups = list[tuple[range, range]]


def reshape_groups(source: Sequence[Expr], target: Sequence[Expr]) -> Groups:
    """Smallest runs of source and target dimensions with equal products."""
    groups: Groups = []
    i = j = 0
    while i < len(source) or j < len(target):
        i0, j0 = i, j
        if i < len(source) and j < len(target) and source[i] == target[j]:
            i, j = i + 1, j + 1
        else:
            i, j = _grow(source, target, i, j)
        groups.append((range(i0, i), range(j0, j)))
    return groups


def _grow(source: Sequence[Expr], target: Sequence[Expr], i: int, j: int) -> tuple[int, int]:
    """The ends of the shortest pair of runs from ``i``, ``j`` with equal products."""
    left: Expr = constant(1)
    for i1 in range(i, len(source) + 1):
        right: Expr = constant(1)
        for j1 in range(j, len(target) + 1):
            if left == right and (i1, j1) != (i, j):
                return i1, j1
            if j1 < len(target):
                right = right * target[j1]
        if i1 < len(source):
            left = left * source[i1]
    return len(source), len(target)


def regroup(
    index: Sequence[Index], source: Sequence[Expr], target: Sequence[Expr], groups: Groups
) -> tuple[Index, ...]:
    """Carry an index over ``source`` to the index over ``target`` of the same element."""
    out: list[Index] = []
    for a, b in groups:
        if len(a) == 1 and len(b) == 1:
            out.append(index[a[0]])
            continue
        linear: Expr = constant(0)
        for d in a:
            i = index[d]
            if not isinstance(i, Expr):
                raise TypeError("a gathered index cannot be reshaped")
            linear = linear * source[d] + i
        rest: list[Expr] = []
        for n, d in enumerate(reversed(b)):
            last = n == len(b) - 1
            rest.append(linear if last else linear % target[d])
            linear = linear // target[d] if not last else linear
        out.extend(constant(0) if target[d] == 1 else r for d, r in zip(b, reversed(rest), strict=True))
    return tuple(out)


@lowering("Expand")
def _lower_expand(ctx: Context) -> Operand:
    x = ctx.input(0)
    return ctx.result(x.broadcast)


@lowering("Slice")
def _lower_slice(ctx: Context) -> Operand:
    x = ctx.input(0)
    starts = ctx.integers(1, "starts")  # the ends are in the type of the result
    assert starts is not None
    axes = ctx.integers(3, "axes") or list(range(len(starts)))
    steps = ctx.integers(4, "steps") or [1] * len(starts)
    begin: dict[int, Expr] = {}
    step = dict(zip((a % x.type.rank for a in axes), steps, strict=True))
    for axis, start in zip(axes, starts, strict=True):
        size = x.type.shape[axis % x.type.rank]
        at_start = size + start if start < 0 else constant(start)
        highest = size if step[axis % x.type.rank] > 0 else size - 1
        begin[axis % x.type.rank] = minimum(maximum(at_start, 0), highest)

    def moved(d: int, i: Index) -> Index:
        if d not in begin or not isinstance(i, Expr):
            return i
        size, taken = x.type.shape[d], ctx.outputs[0].shape[d]
        where = begin[d] + i * step[d]
        # A size that is assumed to fit (the plan asserts it) does not tell a reader of the kernel that it does.
        inside = size.symbols <= taken.symbols or bounds(begin[d] + taken * step[d] - size, ctx.composer.facts)[1] <= 0
        return where if inside else minimum(where, size - 1)

    def at(index: tuple[Index, ...]) -> Value:
        return x.at([moved(d, i) for d, i in enumerate(index)])

    return ctx.result(at)


@lowering("Split")
def _lower_split(ctx: Context) -> tuple[Operand, ...]:
    x, axis = ctx.input(0), ctx.attribute("axis", 0) % ctx.input(0).type.rank
    results, start = [], constant(0)
    for n, type_ in enumerate(ctx.outputs):
        results.append(ctx.result(_shifted(x, axis, start), n))
        start = start + type_.shape[axis]
    return tuple(results)


def _shifted(x: Operand, axis: int, start: Expr) -> Callable[[tuple[Index, ...]], Value]:
    return lambda i: x.at([e + start if d == axis and isinstance(e, Expr) else e for d, e in enumerate(i)])


@lowering("Concat")
def _lower_concat(ctx: Context) -> Operand:
    """The part in which an element falls where that is certain (a store of each piece by itself), else a chain of
    selects; each part is read only inside its own range."""
    parts = [o for o in ctx.inputs if o is not None]
    axis = ctx.attribute("axis", 0) % parts[0].type.rank
    starts = [constant(0)]
    for part in parts[:-1]:
        starts.append(starts[-1] + part.type.shape[axis])

    def at(index: tuple[Index, ...]) -> Value:
        position = index[axis]
        assert isinstance(position, Expr)
        inner = [tuple(position - start if d == axis else i for d, i in enumerate(index)) for start in starts]
        for part, within in zip(parts, inner, strict=True):
            if ctx.composer.inside(within[axis : axis + 1], part.type.shape[axis : axis + 1]) is None:
                return part.at(within)
        result = ctx.composer.padded(parts[-1], inner[-1], 0)
        for part, within, end in zip(parts[-2::-1], inner[-2::-1], starts[:0:-1], strict=True):
            value = ctx.composer.padded(part, within, 0)
            result = select(binary("lt", IndexValue(position), IndexValue(end)), value, result)
        return result

    cuts = common_cuts(ctx.outputs[0], parts)  # along the other axes
    cuts[axis] = tuple(starts[1:])
    return ctx.result(at, cuts=cuts)


#: Pad modes that read the input again beyond its ends: the position and the size give the position that is read.
_OUTSIDE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "edge": lambda i, size: i,
    "reflect": lambda i, size: minimum(maximum(i, -i), 2 * (size - 1) - i),
}


def _beyond(x: Operand, mode: str, before: dict[int, int]) -> Callable[[tuple[Index, ...]], Value]:
    """Reads of ``x`` moved by ``before`` and led back inside; a crop at the front needs no leading back."""

    def moved(d: int, i: Index) -> Index:
        if d not in before or not isinstance(i, Expr):
            return i
        size = x.type.shape[d]
        return maximum(0, minimum(_OUTSIDE[mode](i - before[d], size), size - 1))

    return lambda index: x.at([moved(d, i) for d, i in enumerate(index)])


@lowering("Pad")
def _lower_pad(ctx: Context) -> Operand:
    x, mode = ctx.input(0), ctx.attribute("mode", "constant")
    pads, axes = ctx.integers(1, "pads"), ctx.integers(3, "axes") or list(range(ctx.input(0).type.rank))
    assert pads is not None
    if mode in _OUTSIDE:
        return ctx.result(_beyond(x, mode, {a % x.type.rank: pads[n] for n, a in enumerate(axes)}))
    if mode != "constant":
        raise unsupported(ctx.node, f"pad mode {mode}")
    value = ctx.optional(2)
    if value is not None and value.known is None:
        raise unsupported(ctx.node, "the pad value is computed at run time")
    fill = 0 if value is None or value.known is None else value.known.reshape(-1)[0].item()
    before = {a % x.type.rank: pads[n] for n, a in enumerate(axes)}

    def at(index: tuple[Index, ...]) -> Value:
        moved = [i - before.get(d, 0) if isinstance(i, Expr) else i for d, i in enumerate(index)]
        return ctx.composer.padded(x, tuple(moved), fill)

    return ctx.result(at)


@lowering("Tile")
def _lower_tile(ctx: Context) -> Operand:
    x = ctx.input(0)
    return ctx.result(
        lambda i: x.at([e % s if isinstance(e, Expr) else e for e, s in zip(i, x.type.shape, strict=True)])
    )


@lowering("Trilu")
def _lower_trilu(ctx: Context) -> Operand:
    x, upper = ctx.input(0), ctx.attribute("upper", 1)
    k = (ctx.integers(1, "k") or [0])[0]

    def at(index: tuple[Index, ...]) -> Value:
        row, column = index[-2], index[-1]
        assert isinstance(row, Expr) and isinstance(column, Expr)
        keep = binary("ge" if upper else "le", IndexValue(column), IndexValue(row + k))
        return select(keep, x.at(index), 0)

    return ctx.result(at)
