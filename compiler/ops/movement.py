"""Operators that move elements without computing: reshape, transpose, join, repeat."""

from __future__ import annotations

import numpy as np
from tilewright.ir.graph import KNOWN_LIMIT, Known
from tilewright.ir.symbolic import Expr, constant, maximum
from tilewright.ir.types import TensorType
from tilewright.ops.axes import are_constant, inserted_sizes, kept_sizes, marked_axes, named_axes
from tilewright.ops.choose import choose, is_negative, is_zero
from tilewright.ops.context import Infer
from tilewright.ops.registry import shape_rule


@shape_rule("Reshape")
def reshape(ctx: Infer) -> TensorType:
    """``-1`` is what is left over, ``0`` copies the input's size (unless ``allowzero``)."""
    x = ctx.input(0)
    target = list(ctx.known_shape(1, lo=-1))
    if any(ctx.bounds(e)[0] < 0 and not e.is_constant for e in target):
        return _reshaped_at_run_time(ctx, x, target)
    if not ctx.integer("allowzero", 0):
        for i, e in enumerate(target):
            if e == 0:
                target[i] = x.shape[i] if i < x.rank else ctx.fail(f"size {i} is 0, but the input has rank {x.rank}")
    open_at = [i for i, e in enumerate(target) if e == -1]
    if len(open_at) > 1:
        ctx.fail("more than one size is -1")
    have, want = _cancel(list(x.shape), [e for i, e in enumerate(target) if i not in open_at])
    if open_at:
        rest = ctx.product(want)
        if rest == 0:
            ctx.fail("-1 beside a size of 0")
        target[open_at[0]] = ctx.product(have) // rest
        want.append(target[open_at[0]])
    ctx.equal(ctx.product(have), ctx.product(want))
    known = ctx.known(0)
    if known is not None and all(e.is_constant for e in target):
        ctx.set_known(known.reshape([e.value for e in target]))
    return TensorType(x.dtype, tuple(target))


def _reshaped_at_run_time(ctx: Infer, x: TensorType, target: list[Expr]) -> TensorType:
    """Which sizes are 0 or -1 is known at run time. Two that are -1 leave a number of elements that does not fit."""
    given = []
    for i, e in enumerate(target):
        copied = x.shape[i] if i < x.rank and not ctx.integer("allowzero", 0) else constant(0)
        given.append(ctx.define(f"given{i}", choose(is_zero(e), copied, e), lo=-1))
    # -1 is taken for 1 until it is known.
    others = [ctx.define(f"other{i}", choose(is_negative(e), 1, e)) for i, e in enumerate(given)]
    count = ctx.define("count", ctx.product(others))
    rest = ctx.define("rest", ctx.product(x.shape) // maximum(count, 1))
    sizes = [ctx.define(f"size{i}", choose(is_negative(e), rest, e)) for i, e in enumerate(given)]
    ctx.equal(ctx.product(x.shape), ctx.product(sizes))
    return TensorType(x.dtype, tuple(sizes))


def _cancel(have: list[Expr], want: list[Expr]) -> tuple[list[Expr], list[Expr]]:
    """Remove equal factors from both lists, so that the rest divides exactly where it can."""
    for size in list(want):
        if size in have and size != 0:
            have.remove(size)
            want.remove(size)
    return have, want


@shape_rule("Flatten")
def flatten(ctx: Infer) -> TensorType:
    """Rank 2: the axes before ``axis``, and the others."""
    x, axis = ctx.input(0), ctx.integer("axis", 1)
    axis = axis if axis == x.rank else ctx.axis(axis, max(x.rank, 1))
    return TensorType(x.dtype, (ctx.product(x.shape[:axis]), ctx.product(x.shape[axis:])))


@shape_rule("Transpose")
def transpose(ctx: Infer) -> TensorType:
    """Axes in the order of ``perm``, reversed by default."""
    x = ctx.input(0)
    order = ctx.integers("perm") or list(reversed(range(x.rank)))
    if sorted(order) != list(range(x.rank)):
        ctx.fail(f"perm {order} is no permutation of {x.rank} axes")
    known = ctx.known(0)
    ctx.set_known(None if known is None else known.transpose(order))
    return TensorType(x.dtype, tuple(x.shape[i] for i in order))


@shape_rule("Squeeze")
def squeeze(ctx: Infer) -> TensorType:
    """Drops axes of size 1."""
    x = ctx.input(0)
    if ctx.has(1) and not are_constant(ctx.known_list(1, "axes", -x.rank, x.rank - 1)):
        marks = marked_axes(ctx, named := named_axes(ctx, 1, x.rank), x.rank)
        for mark, size in zip(marks, x.shape, strict=True):
            ctx.equal(choose(mark, size, 1), 1)
        return TensorType(x.dtype, kept_sizes(ctx, x.shape, marks, x.rank - len(named)))
    if ctx.has(1) or ctx.integers("axes") is not None:
        axes = ctx.known_ints(1, "axes") if ctx.has(1) else ctx.integers("axes") or []
        gone = {ctx.axis(a, x.rank) for a in axes}
    else:
        doubtful = [s for s in x.shape if s != 1 and ctx.bounds(s)[0] <= 1 <= ctx.bounds(s)[1]]
        if doubtful:
            ctx.unsupported(f"without axes, where size {doubtful[0]} may or may not be 1")
        gone = {i for i, s in enumerate(x.shape) if s == 1}
    for i in gone:
        ctx.equal(x.shape[i], 1)
    shape = tuple(s for i, s in enumerate(x.shape) if i not in gone)
    ctx.set_known(_reshaped(ctx.known(0), shape))
    return TensorType(x.dtype, shape)


@shape_rule("Unsqueeze")
def unsqueeze(ctx: Infer) -> TensorType:
    """Inserts axes of size 1, counted in the result."""
    x = ctx.input(0)
    if ctx.has(1) and not are_constant(given := ctx.known_list(1, "axes")):
        rank = x.rank + len(given)
        marks = marked_axes(ctx, named_axes(ctx, 1, rank), rank)
        return TensorType(x.dtype, inserted_sizes(ctx, x.shape, marks))
    axes = ctx.known_ints(1, "axes") if ctx.has(1) else ctx.integers("axes") or []
    rank = x.rank + len(axes)
    new = {ctx.axis(a, rank) for a in axes}
    if len(new) != len(axes):
        ctx.fail(f"axes {axes} repeat")
    sizes = iter(x.shape)
    shape = tuple(constant(1) if i in new else next(sizes) for i in range(rank))
    ctx.set_known(_reshaped(ctx.known(0), shape))
    return TensorType(x.dtype, shape)


@shape_rule("Concat")
def concat(ctx: Infer) -> TensorType:
    """Sizes along ``axis`` add up; the others are equal."""
    types = ctx.types()
    first = types[0]
    axis = ctx.axis(ctx.integer("axis"), first.rank)
    sizes = list(first.shape)
    for t in types[1:]:
        if t.rank != first.rank:
            ctx.fail("inputs of different rank")
        sizes = [a + b if i == axis else ctx.equal(a, b) for i, (a, b) in enumerate(zip(sizes, t.shape, strict=True))]
    known = [ctx.known(i) for i in range(len(ctx.inputs))]
    parts = [k for k in known if k is not None]
    if len(parts) == len(types):
        ctx.set_known(np.concatenate(parts, axis))
    return TensorType(first.dtype, tuple(sizes))


@shape_rule("Tile")
def tile(ctx: Infer) -> TensorType:
    """Each size times its repeats."""
    x, repeats = ctx.input(0), ctx.known_list(1, "repeats", 0)
    if len(repeats) != x.rank:
        ctx.fail(f"{len(repeats)} repeats for rank {x.rank}")
    for n, r in enumerate(repeats):
        ctx.at_most(0, r)
        repeats[n] = maximum(r, 0)
    known = ctx.known(0)
    shape = tuple(s * r for s, r in zip(x.shape, repeats, strict=True))
    if known is not None and all(r.is_constant for r in repeats) and ctx.bounds(ctx.product(shape))[1] <= KNOWN_LIMIT:
        ctx.set_known(np.tile(known, [r.value for r in repeats]))
    return TensorType(x.dtype, shape)


@shape_rule("DepthToSpace")
def depth_to_space(ctx: Infer) -> TensorType:
    """Channels into blocks of pixels."""
    x, b = ctx.input(0), _block(ctx)
    n, c, h, w = _image(ctx, x)
    ctx.equal(c % (b * b), 0)
    return TensorType(x.dtype, (n, c // (b * b), h * b, w * b))


@shape_rule("SpaceToDepth")
def space_to_depth(ctx: Infer) -> TensorType:
    """Blocks of pixels into channels."""
    x, b = ctx.input(0), _block(ctx)
    n, c, h, w = _image(ctx, x)
    ctx.equal(h % b, 0)
    ctx.equal(w % b, 0)
    return TensorType(x.dtype, (n, c * (b * b), h // b, w // b))


def _block(ctx: Infer) -> int:
    b = ctx.integer("blocksize")
    return b if 1 <= b < 2**15 else ctx.fail(f"blocksize is {b}")


@shape_rule("Trilu")
def trilu(ctx: Infer) -> TensorType:
    """Same type as the input."""
    return ctx.input(0) if ctx.input(0).rank >= 2 else ctx.fail("needs rank 2 or more")


@shape_rule("ReverseSequence")
def reverse_sequence(ctx: Infer) -> TensorType:
    """Same type as the input; a length for each position of the batch axis."""
    x, lengths = ctx.input(0), ctx.input(1)
    batch, time = (ctx.axis(ctx.integer(n, d), x.rank) for n, d in (("batch_axis", 1), ("time_axis", 0)))
    if batch == time or lengths.rank != 1:
        ctx.fail("needs different axes for batch and time, and lengths of rank 1")
    ctx.equal(lengths.shape[0], x.shape[batch])
    return x


def _image(ctx: Infer, x: TensorType) -> tuple[Expr, Expr, Expr, Expr]:
    if x.rank != 4:
        ctx.fail(f"needs rank 4, not {x.rank}")
    n, c, h, w = x.shape
    return n, c, h, w


def _reshaped(known: Known | None, shape: tuple[Expr, ...]) -> Known | None:
    if known is None or not all(s.is_constant for s in shape):
        return None
    return known.reshape([s.value for s in shape])
