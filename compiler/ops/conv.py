"""Convolutions, and the window arithmetic they share with pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tilewright.ir.symbolic import Expr, ceildiv, constant, maximum, minimum, product
from tilewright.ir.types import DType, TensorType
from tilewright.ops.context import Infer
from tilewright.ops.quantize import check_channel_parameters, check_single
from tilewright.ops.registry import shape_rule


@dataclass(frozen=True, slots=True)
class Window:
    """The window attributes of a convolution or pool, one entry per spatial axis (``pads``: begins, then ends)."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str
    ceil_mode: bool

    def extent(self, axis: int) -> int:
        """Input positions that one window spans."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def padding(self, axis: int) -> tuple[int, int]:
        """Explicit padding before and after; (0, 0) under ``VALID``."""
        return self.pads[axis], self.pads[axis + len(self.kernel)]


def window(ctx: Infer, kernel: list[int]) -> Window:
    """Read and check the window attributes of ``ctx``'s node."""
    rank = len(kernel)

    def filled(name: str, default: int, count: int) -> tuple[int, ...]:
        values = tuple(ctx.integers(name) or [default] * count)
        return values if len(values) == count else ctx.fail(f"{name} has {len(values)} entries, not {count}")

    auto_pad = ctx.string("auto_pad", "NOTSET")
    pads = filled("pads", 0, 2 * rank) if auto_pad == "NOTSET" else (0,) * (2 * rank)
    strides, dilations = filled("strides", 1, rank), filled("dilations", 1, rank)
    if min((*strides, *dilations, *kernel), default=1) < 1:
        ctx.fail("kernel, strides and dilations must be positive")
    return Window(tuple(kernel), strides, dilations, pads, auto_pad, bool(ctx.integer("ceil_mode", 0)))


def window_sizes(ctx: Infer, w: Window, spatial: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """Output sizes of sliding ``w`` over ``spatial``."""
    if len(spatial) != len(w.kernel):
        ctx.fail(f"{len(w.kernel)}-d window over {len(spatial)} spatial axes")
    return tuple(_slid(ctx, w, i, size) for i, size in enumerate(spatial))


def _slid(ctx: Infer, w: Window, axis: int, size: Expr) -> Expr:
    stride = w.strides[axis]
    if w.auto_pad.startswith("SAME"):
        return ceildiv(size, stride)
    before, after = w.padding(axis)
    least = w.extent(axis) - before - after
    if ctx.bounds(size - least)[1] < 0:
        ctx.fail(f"a window of {w.extent(axis)} does not fit {size} with padding {before} and {after}")
    if ctx.bounds(size - least)[0] < 0:
        ctx.equal(size, maximum(size, least))
    room = size - least
    if not w.ceil_mode:
        slid = room // stride + 1
    else:
        # The last window starts inside the input or the padding before it.
        slid = minimum(ceildiv(room, stride) + 1, ceildiv(size + before, stride))
    return slid if ctx.bounds(slid)[0] >= 0 else maximum(0, slid)


def _kernel(ctx: Infer, weight: TensorType) -> list[int]:
    given = ctx.integers("kernel_shape")
    if given is not None:
        for a, b in zip(given, weight.shape[2:], strict=False):
            ctx.equal(a, b)
        return given
    if not all(s.is_constant for s in weight.shape[2:]):
        ctx.unsupported("a kernel of symbolic size")
    return [s.value for s in weight.shape[2:]]


def _convolved(ctx: Infer, x: TensorType, weight: TensorType) -> tuple[Expr, ...]:
    if x.rank < 3 or x.rank != weight.rank:
        ctx.fail(f"input rank {x.rank} and weight rank {weight.rank}")
    group = ctx.integer("group", 1)
    if group < 1 or (weight.shape[0].is_constant and weight.shape[0].value % group):
        ctx.fail(f"{weight.shape[0]} filters in {group} groups")
    ctx.equal(x.shape[1], weight.shape[1] * group)
    return (x.shape[0], weight.shape[0], *window_sizes(ctx, window(ctx, _kernel(ctx, weight)), x.shape[2:]))


@shape_rule("Conv")
def conv(ctx: Infer) -> TensorType:
    """``[N, C, *spatial]`` with weights ``[M, C / group, *kernel]``."""
    if ctx.has(2):
        ctx.equal(ctx.input(2).shape[0], ctx.input(1).shape[0])
    return TensorType(ctx.input(0).dtype, _convolved(ctx, ctx.input(0), ctx.input(1)))


@shape_rule("ConvInteger")
def conv_integer(ctx: Infer) -> TensorType:
    """A convolution with 32-bit sums."""
    check_single(ctx, 2)
    check_channel_parameters(ctx, 1, 3)
    return TensorType(DType.I32, _convolved(ctx, ctx.input(0), ctx.input(1)))


@shape_rule("QLinearConv")
def qlinear_conv(ctx: Infer) -> TensorType:
    """Inputs: x, scale, zero point, w, scale, zero point, then scale and zero point of the output."""
    check_single(ctx, 1, 2, 6, 7)
    check_channel_parameters(ctx, 3, 4, 5)
    if ctx.has(8):
        ctx.equal(ctx.input(8).shape[0], ctx.input(3).shape[0])
    return TensorType(ctx.input(7).dtype, _convolved(ctx, ctx.input(0), ctx.input(3)))


@shape_rule("DeformConv")
def deform_conv(ctx: Infer) -> TensorType:
    """A convolution with offsets per position, and maybe a weight."""
    x, weight, offset = ctx.input(0), ctx.input(1), ctx.input(2)
    shape = _convolved(ctx, x, weight)
    moved, taps, rank = ctx.integer("offset_group", 1), product(weight.shape[2:]), x.rank - 2
    if moved < 1 or (x.shape[1].is_constant and x.shape[1].value % moved):
        ctx.fail(f"{x.shape[1]} channels in {moved} groups of offsets")
    if ctx.has(3):
        ctx.equal(ctx.input(3).shape[0], weight.shape[0])
    for given, count in ((offset, rank), *([(ctx.input(4), 1)] if ctx.has(4) else [])):
        if given.rank != x.rank:
            ctx.fail(f"offsets or weights {given} of images {x}")
        for a, b in zip(given.shape, (x.shape[0], taps * moved * count, *shape[2:]), strict=True):
            ctx.equal(a, b)
    return TensorType(x.dtype, shape)


@dataclass(frozen=True, slots=True)
class Spread:
    """How a transposed convolution spreads along one dimension; sizes in elements."""

    kernel: Expr
    stride: int
    dilation: int
    before: Expr
    after: Expr

    @property
    def extent(self) -> Expr:
        """Output positions that one input element reaches."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def padding(self) -> Expr:
        """Positions that are cut off, at both ends together."""
        return self.before + self.after


#: The value of an attribute, or the default.
Attribute = Callable[[str, Any], Any]


def spread(
    attribute: Attribute, spatial: Sequence[Expr], kernel: Sequence[Expr], out: Sequence[Expr]
) -> tuple[Spread, ...]:
    """The attributes of a transposed convolution from ``spatial`` to ``out`` sizes, padding worked out."""
    rank = len(kernel)
    strides, dilations = attribute("strides", None) or [1] * rank, attribute("dilations", None) or [1] * rank
    extra, mode = attribute("output_padding", None) or [0] * rank, attribute("auto_pad", "NOTSET")
    pads = (attribute("pads", None) if mode in ("NOTSET", "") else None) or [0] * 2 * rank
    computed = mode.startswith("SAME") or attribute("output_shape", None) is not None
    result = []
    for d in range(rank):
        before, after = constant(pads[d]), constant(pads[d + rank])
        if computed:
            reach = (spatial[d] - 1) * strides[d] + extra[d] + (kernel[d] - 1) * dilations[d] + 1
            total = maximum(0, reach - out[d])
            before, after = (total // 2, ceildiv(total, 2)) if mode == "SAME_UPPER" else (ceildiv(total, 2), total // 2)
        result.append(Spread(kernel[d], strides[d], dilations[d], before, after))
    return tuple(result)


@shape_rule("ConvTranspose")
def conv_transpose(ctx: Infer) -> TensorType:
    """``[N, C, *spatial]`` with weights ``[C, M / group, *kernel]``."""
    x, weight = ctx.input(0), ctx.input(1)
    if x.rank < 3 or x.rank != weight.rank:
        ctx.fail(f"input rank {x.rank} and weight rank {weight.rank}")
    ctx.equal(x.shape[1], weight.shape[0])
    group = ctx.integer("group", 1)
    if group < 1 or ((weight.shape[0] % group).is_constant and weight.shape[0] % group != 0):
        ctx.fail(f"{weight.shape[0]} channels in {group} groups")
    w = window(ctx, _kernel(ctx, weight))
    channels = weight.shape[1] * group
    if ctx.has(2):
        ctx.equal(ctx.input(2).shape[0], channels)
    given = ctx.integers("output_shape")
    extra = ctx.integers("output_padding") or [0] * len(w.kernel)
    if len(extra) != len(w.kernel) or min(extra) < 0:
        ctx.fail(f"output_padding {extra} for {len(w.kernel)} axes")
    if given is not None:
        spatial: list[Expr] = [constant(s) for s in given[-len(w.kernel) :]]
        if len(given) not in (len(w.kernel), x.rank) or min(given) < 0:
            ctx.fail(f"output_shape {given} for {len(w.kernel)} axes")
    else:
        spatial = [_spread(w, i, size, extra[i]) for i, size in enumerate(x.shape[2:])]
    return TensorType(x.dtype, (x.shape[0], channels, *spatial))


def _spread(w: Window, axis: int, size: Expr, extra: int) -> Expr:
    if w.auto_pad.startswith("SAME"):
        return size * w.strides[axis]
    before, after = w.padding(axis)
    # An input without elements reaches nothing.
    return maximum(0, (size - 1) * w.strides[axis] + extra + w.extent(axis) - before - after)


@shape_rule("Col2Im")
def col2im(ctx: Infer) -> TensorType:
    """``[N, C * block, L]`` to ``[N, C, *image]``."""
    x = ctx.input(0)
    image, block = ctx.known_list(1, "image_shape", lo=0, hi=2**31 - 1), ctx.known_list(2, "block_shape", lo=1)
    if x.rank != 3 or len(image) != len(block) or not image:
        ctx.fail(f"columns {x}, {len(image)} sizes of an image and {len(block)} of a block")
    window(ctx, [1] * len(block))  # checks the attributes
    size = ctx.define("block", ctx.product(block))
    channels = ctx.define("channels", x.shape[1] // size)
    ctx.equal(channels * size, x.shape[1])
    columns = constant(1)
    for n, s in enumerate(spread(ctx.attribute, image, block, image)):
        steps = ctx.define(f"steps{n}", (image[n] + s.padding - s.extent) // s.stride + 1)
        columns = ctx.define(f"columns{n}", columns * steps)
    ctx.equal(columns, x.shape[2])
    return TensorType(x.dtype, (x.shape[0], channels, *image))
