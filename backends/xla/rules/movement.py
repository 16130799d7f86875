"""Operators that move elements: views, transposes, repetition, blocks of pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilewright.backends.xla import build
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.dialect import stablehlo
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.backends.xla.sizes import Unmaskable
from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType
from tilewright.ops.lowering.movement import reshape_groups


@rule("Identity", padding=Padding.POINTWISE)
def identity(ctx: Rule) -> Tensor:
    """The same value."""
    return ctx.input(0)


@rule("Transpose", padding=Padding.MASKED)
def transpose(ctx: Rule) -> Tensor:
    """Dimensions in the order of ``perm``, reversed by default; valid elements stay a prefix of each."""
    x = ctx.input(0)
    return ctx.result(build.transpose(x.value, ctx.attribute("perm") or list(range(x.rank))[::-1]))


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze", padding=Padding.MASKED)
def reshape(ctx: Rule) -> Tensor:
    """The same elements in row-major order."""
    x = ctx.input(0)
    return ctx.result(reshaped(ctx, x.value, x.type.shape, ctx.type().shape))


def reshaped(ctx: Rule, x: Value, source: Sequence[Expr], target: Sequence[Expr]) -> Value:
    """``x`` of sizes ``source`` as one of sizes ``target``, of as many elements.

    Dimensions are matched in groups of equal products. The valid elements of a group are a prefix of it on both sides
    when only the outermost dimension (but those of size 1) is padded: it is a plain reshape. Other groups are gathered
    by their true sizes.
    """
    sizes = ctx.sizes
    groups = [([source[d] for d in a], [target[d] for d in b]) for a, b in reshape_groups(source, target)]
    flat = [math.prod(map(sizes.static, a)) for a, _ in groups]
    hard = [not (_is_prefix(ctx, a) and _is_prefix(ctx, b)) for a, b in groups]
    new = [math.prod(map(sizes.static, b)) for _, b in groups]
    if any(hard) or flat != new:
        x = build.reshape(x, flat)
        for d, (a, b) in enumerate(groups):
            if hard[d]:
                x = build.take(x, _sources(ctx, a, b), d) if flat[d] else build.fit(x, [*new[: d + 1], *flat[d + 1 :]])
            elif flat[d] != new[d]:  # sizes that a run has to find equal differ in the bucket
                x = build.fit(x, [*new[: d + 1], *flat[d + 1 :]])
    return build.reshape(x, sizes.shape(tuple(target)))


def _is_prefix(ctx: Rule, shape: Sequence[Expr]) -> bool:
    inner = [e for e in shape if e != 1][1:]
    return not any(map(ctx.sizes.is_padded, inner))


def _sources(ctx: Rule, source: Sequence[Expr], target: Sequence[Expr]) -> Value:
    """Where each element of a group stands in the source: static positions, of the same true position."""
    sizes = ctx.sizes
    count = math.prod(map(sizes.static, target))
    return positions(ctx, true_position(ctx, build.iota(DType.I32, (count,), 0), target), source)


def true_position(ctx: Rule, place: Value, shape: Sequence[Expr]) -> Value:
    """Positions among the elements of static sizes as positions among those of true sizes."""
    hlo, count = stablehlo(), build.shape_of(place)
    total, stride = build.splat(0, DType.I32, count), build.splat(1, DType.I32)
    for expr in reversed(shape):
        size = build.splat(max(ctx.sizes.static(expr), 1), DType.I32, count)
        index, place = hlo.remainder(place, size), hlo.divide(place, size)
        total = hlo.add(total, hlo.multiply(index, build.broadcast(stride, count, ())))
        stride = hlo.multiply(stride, ctx.sizes.true(expr))
    return total


def positions(ctx: Rule, place: Value, shape: Sequence[Expr]) -> Value:
    """Positions among the elements of true sizes as positions among those of static sizes."""
    hlo, count = stablehlo(), build.shape_of(place)
    total, stride = build.splat(0, DType.I32, count), 1
    one = build.splat(1, DType.I32)
    for expr in reversed(shape):
        size = build.broadcast(hlo.maximum(ctx.sizes.true(expr), one), count, ())
        index, place = hlo.remainder(place, size), hlo.divide(place, size)
        total = hlo.add(total, hlo.multiply(index, build.splat(stride, DType.I32, count)))
        stride *= ctx.sizes.static(expr)
    return total


@rule("Expand", padding=Padding.POINTWISE)
def expand(ctx: Rule) -> Tensor:
    """Repeated to the sizes of the result."""
    return ctx.result(ctx.broadcast(ctx.input(0), ctx.type()))


@rule("Tile", padding=Padding.MASKED)
def tile(ctx: Rule) -> Tensor:
    """Repeated whole, along each dimension; of a padded one only the true part."""
    x, shape = ctx.input(0), ctx.shape()
    value = x.value
    for d, (old, new) in enumerate(zip(x.type.shape, ctx.type().shape, strict=True)):
        have = build.shape_of(value)
        if old == new and shape[d] == have[d]:
            continue
        if not have[d] or not shape[d]:
            value = build.fit(value, [shape[d] if i == d else s for i, s in enumerate(have)])
        elif ctx.sizes.is_padded(old):
            place = build.iota(DType.I32, (shape[d],), 0)
            size = build.broadcast(stablehlo().maximum(ctx.sizes.true(old), build.splat(1, DType.I32)), (shape[d],), ())
            value = build.take(value, stablehlo().remainder(place, size), d)
        else:
            times = [*have[:d], shape[d] // have[d], *have[d:]]
            value = build.broadcast(value, times, [i + (i >= d) for i in range(len(have))])
            value = build.reshape(value, [*have[:d], shape[d], *have[d + 1 :]])
    return ctx.result(value)


@rule("DepthToSpace", padding=Padding.MASKED)
def depth_to_space(ctx: Rule) -> Tensor:
    """Channels into blocks of pixels. ``DCR``: the block's position is the slow part of a channel; ``CRD``: the fast
    one. Height and width are the outer part of the new ones: they may be padded."""
    x, b = ctx.input(0), ctx.attribute("blocksize")
    _refuse_channels(ctx, x)
    n, c, h, w = x.shape
    if ctx.attribute("mode", "DCR") == "DCR":
        apart = build.transpose(build.reshape(x.value, (n, b, b, c // (b * b), h, w)), (0, 3, 4, 1, 5, 2))
    else:
        apart = build.transpose(build.reshape(x.value, (n, c // (b * b), b, b, h, w)), (0, 1, 4, 2, 5, 3))
    return ctx.result(build.reshape(apart, ctx.shape()))


@rule("SpaceToDepth", padding=Padding.MASKED)
def space_to_depth(ctx: Rule) -> Tensor:
    """Blocks of pixels into channels; a bucket's last pixels that are no whole block are padding."""
    x, b = ctx.input(0), ctx.attribute("blocksize")
    _refuse_channels(ctx, x)
    n, c = x.shape[:2]
    h, w = (s // b for s in x.shape[2:])
    whole = build.reshape(build.fit(x.value, (n, c, h * b, w * b)), (n, c, h, b, w, b))
    order = (0, 3, 5, 1, 2, 4) if ctx.attribute("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return ctx.result(build.reshape(build.transpose(whole, order), ctx.shape()))


def _refuse_channels(ctx: Rule, x: Tensor) -> None:
    if ctx.padded(x, [1]):
        raise Unmaskable(f"{ctx.node.op_type} cannot split or join a padded number of channels ({x.type.shape[1]})")
