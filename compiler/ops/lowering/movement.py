"""Lowering of operators that only move elements: index maps, and selects between them."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr, constant, maximum, minimum
from tilewright.ir.types import DType
from tilewright.kernel.expr import IndexValue, Value
from tilewright.ops.compose import PERMUTED, Index, Operand, binary, cast, const, select
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
    """Along an axis that may turn out to have size 1 or not, the last position is never passed."""
    x, shape = ctx.input(0), ctx.outputs[0].shape
    tail = shape[len(shape) - x.type.rank :]
    open_ = [bool(ctx.definitions) and s not in (1, e) for s, e in zip(x.type.shape, tail, strict=True)]
    if not any(open_):
        return ctx.result(x.broadcast)

    def at(index: tuple[Index, ...]) -> Value:
        moved = [
            minimum(i, size - 1) if near and isinstance(i, Expr) else constant(0) if size == 1 else i
            for i, size, near in zip(index[len(shape) - x.type.rank :], x.type.shape, open_, strict=True)
        ]
        return ctx.composer.padded(x, moved, 0)

    return ctx.result(at)


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
    """Modulo the size; an axis that may be empty is not divided by."""
    x, facts = ctx.input(0), ctx.composer.facts
    sure = all(bounds(s, facts)[0] >= 1 for s in x.type.shape)

    def at(index: tuple[Index, ...]) -> Value:
        within = tuple(
            e % (s if sure else maximum(s, 1)) if isinstance(e, Expr) else e
            for e, s in zip(index, x.type.shape, strict=True)
        )
        return x.at(within) if sure else ctx.composer.padded(x, within, 0)

    return ctx.result(at)


@lowering("Trilu")
def _lower_trilu(ctx: Context) -> Operand:
    x, upper, k = ctx.input(0), ctx.attribute("upper", 1), ctx.optional(1)
    zero = const(0, x.type.dtype)

    def at(index: tuple[Index, ...]) -> Value:
        row, column = index[-2], index[-1]
        assert isinstance(row, Expr) and isinstance(column, Expr)
        if k is None or k.known is not None:
            fixed = 0 if k is None or k.known is None else int(k.known.reshape(-1)[0])
            keep = binary("ge" if upper else "le", IndexValue(column), IndexValue(row + fixed))
        else:
            keep = binary("ge" if upper else "le", IndexValue(column - row), cast(k.scalar(), DType.I64))
        return select(keep, x.at(index), zero)

    return ctx.result(at)


@lowering("DepthToSpace")
def _lower_depth_to_space(ctx: Context) -> Operand:
    """``DCR``: the block's position is the slow part of a channel; ``CRD``: the fast one."""
    b = ctx.attribute("blocksize")
    deep = ctx.attribute("mode", "DCR") == "DCR"

    def at(index: tuple[Index, ...]) -> Value:
        n, c, h, w = (i for i in index if isinstance(i, Expr))
        within = (h % b) * b + w % b
        channel = within * ctx.outputs[0].shape[1] + c if deep else c * (b * b) + within
        return _read_whole_blocks(ctx, (n, channel, h // b, w // b))

    return ctx.result(at)


@lowering("SpaceToDepth")
def _lower_space_to_depth(ctx: Context) -> Operand:
    """``DCR``: the block's position is the slow part of a channel of the result; ``CRD``: the fast one."""
    b = ctx.attribute("blocksize")
    channels, deep = ctx.input(0).type.shape[1], ctx.attribute("mode", "DCR") == "DCR"

    def at(index: tuple[Index, ...]) -> Value:
        n, c, h, w = (i for i in index if isinstance(i, Expr))
        if b == 1:
            return ctx.input(0).at(index)
        within, channel = (c // channels, c % channels) if deep else (c % (b * b), c // (b * b))
        return _read_whole_blocks(ctx, (n, channel, h * b + within // b, w * b + within % b))

    return ctx.result(at)


def _read_whole_blocks(ctx: Context, index: tuple[Expr, ...]) -> Value:
    """A read of the input, of which a run has seen that it is cut into blocks without a rest."""
    x = ctx.input(0)
    sure = all(s.is_constant for s in x.type.shape[1:])
    return x.at(index) if sure else ctx.composer.padded(x, index, 0)


@lowering("ReverseSequence")
def _lower_reverse_sequence(ctx: Context) -> Operand:
    """The first ``lengths[b]`` positions of each sequence in reverse, the others as they are."""
    x, lengths = ctx.input(0), ctx.input(1)
    batch, time = (ctx.attribute(n, d) % x.type.rank for n, d in (("batch_axis", 1), ("time_axis", 0)))

    def at(index: tuple[Index, ...]) -> Value:
        t = index[time]
        assert isinstance(t, Expr)
        length = cast(lengths.at((index[batch],)), DType.I64)
        mirrored = binary("sub", length, IndexValue(t + 1))
        where = select(binary("lt", mirrored, 0), IndexValue(t), mirrored)
        return x.at([where if d == time else i for d, i in enumerate(index)])

    return ctx.result(at)
