"""Lowering of operators that only move elements: index maps, and selects between them."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.ir.symbolic import Expr, constant
from tilewright.kernel.expr import IndexValue, Value
from tilewright.ops.compose import PERMUTED, Index, Operand, binary, select
from tilewright.ops.lower import Context, common_cuts, lowering


@lowering("Identity")
def _lower_identity(ctx: Context) -> Operand:
    return ctx.input(0)


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
