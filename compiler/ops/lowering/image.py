"""Lowering of sampled images: grids, and the affine maps that make them."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.ir.symbolic import Expr, constant, maximum
from tilewright.ir.types import DType
from tilewright.kernel.expr import IndexValue, Value
from tilewright.ops.compose import Index, Operand, binary, cast, const, select, size_of, unary
from tilewright.ops.lower import Context, lowering
from tilewright.ops.lowering.reduction import accumulator
from tilewright.ops.lowering.sampling import Neighbour, all_of, clamp, interpolated, is_inside, neighbours, reflected

#: The names of the interpolations before opset 20.
_MODES = {"bilinear": "linear", "bicubic": "cubic"}


@lowering("GridSample")
def _lower_grid_sample(ctx: Context) -> Operand:
    """``y[n, c, p] = x[n, c, grid[n, p]]``, interpolated; grids give the last dimension's position first."""
    x, grid = ctx.input(0), ctx.input(1)
    mode = ctx.attribute("mode", "linear")
    mode, padding = _MODES.get(mode, mode), ctx.attribute("padding_mode", "zeros")
    corners, sizes = bool(ctx.attribute("align_corners", 0)), x.type.shape[2:]
    dtype = x.type.dtype

    def positions(n: Index, where: Sequence[Index]) -> list[Value]:
        found = []
        for d, size in enumerate(sizes):
            normal = cast(grid.at((n, *where, constant(len(sizes) - 1 - d))), accumulator(grid.type.dtype))
            at = _pixel(normal, size, corners)
            at = unary("round", at) if mode == "nearest" else at
            # A cubic kernel at the border takes its part of the pixels inside: only what it reads is led back.
            stays = mode == "cubic" and padding == "border"
            found.append(at if stays else _led_back(at, size, padding, corners))
        return found

    shared: dict[tuple[Index, ...], list[list[Neighbour]]] = {}

    def at(index: tuple[Index, ...]) -> Value:
        n, c, *where = index
        key = (n, *where)
        if key not in shared:
            shared[key] = [neighbours(p, s, mode) for p, s in zip(positions(n, where), sizes, strict=True)]

        def read(place: Sequence[Value]) -> Value:
            if padding == "reflection":
                return x.at((n, c, *(clamp(reflected(i, s, corners), s) for i, s in zip(place, sizes, strict=True))))
            pixel = x.at((n, c, *(clamp(i, s) for i, s in zip(place, sizes, strict=True))))
            if padding == "border":
                return pixel
            return select(all_of([is_inside(i, s) for i, s in zip(place, sizes, strict=True)]), pixel, 0)

        if mode == "nearest":
            return read([near[0].index for near in shared[key]])
        return cast(interpolated(shared[key], read, _weighted(dtype)), dtype)

    return ctx.result(at)


def _weighted(dtype: DType) -> DType:
    """The dtype in which pixels of ``dtype`` are weighted."""
    return DType.F64 if dtype is DType.F64 or (dtype.bits > 16 and dtype.is_integer) else DType.F32


def _pixel(normal: Value, size: Expr, corners: bool) -> Value:
    """The position in pixels of a coordinate between -1 and 1: centres of the last pixels, or their outer edges."""
    shifted = binary("add", normal, 1.0)
    if corners:
        return binary("mul", binary("div", shifted, 2.0), size_of(size - 1, normal.dtype))
    scaled = binary("mul", shifted, size_of(size, normal.dtype))
    return binary("div", binary("sub", scaled, 1.0), 2.0)


def _led_back(position: Value, size: Expr, padding: str, corners: bool) -> Value:
    """A position beyond the ends as the padding has it; those between an end and its pixel's edge stay."""
    if padding == "zeros":
        return position
    dtype = position.dtype
    low = const(0.0 if corners else -0.5, dtype)
    high = binary("sub", size_of(size, dtype), 1.0 if corners else 0.5)
    outside = binary("or", binary("lt", position, low), binary("gt", position, high))
    if padding == "border":
        inside = binary("max", binary("min", position, size_of(size - 1, dtype)), 0.0)
        return select(outside, inside, position)
    # Back and forth between the ends is a wave of twice their distance.
    length = size_of(maximum(1, size - 1) if corners else maximum(1, size), dtype)
    wave = binary("mul", length, 2.0)
    turn = binary("sub", position, low)
    turn = binary("sub", turn, binary("mul", unary("floor", binary("div", turn, wave)), wave))
    back = binary("sub", length, unary("abs", binary("sub", turn, length)))
    return select(outside, binary("add", back, low), position)


@lowering("AffineGrid")
def _lower_affine_grid(ctx: Context) -> Operand:
    """``y[n, p, d] = Σ theta[n, d, j] · base_j(p) + theta[n, d, last]``; base positions of the last axis come first."""
    theta, corners = ctx.input(0), bool(ctx.attribute("align_corners", 0))
    sizes = ctx.outputs[0].shape[1:-1]
    dtype = accumulator(theta.type.dtype)

    def base(i: Index, size: Expr) -> Value:
        assert isinstance(i, Expr)
        # -1 to 1 between the centres of the first and the last pixel, or between their outer edges.
        steps = maximum(1, size - 1) if corners else maximum(1, size)
        from_end = cast(IndexValue(2 * i + (0 if corners else 1)), dtype)
        return binary("sub", binary("div", from_end, size_of(steps, dtype)), 1.0)

    def at(index: tuple[Index, ...]) -> Value:
        n, *where, d = index
        total = cast(theta.at((n, d, constant(len(sizes)))), dtype)
        for j, (i, size) in enumerate(zip(reversed(where), reversed(sizes), strict=True)):
            total = binary("add", total, binary("mul", cast(theta.at((n, d, constant(j))), dtype), base(i, size)))
        return cast(total, theta.type.dtype)

    return ctx.result(at)
