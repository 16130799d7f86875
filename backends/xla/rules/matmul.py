"""Products of matrices."""

from __future__ import annotations

from string import ascii_letters

from tilewright.backends.xla import build
from tilewright.backends.xla.contract import Operand, accumulator, product
from tilewright.backends.xla.dialect import stablehlo
from tilewright.backends.xla.integer import integer_product, with_scaled_weight
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.ir.types import DType, TensorType


def matmul_labels(left: int, right: int) -> tuple[str, str, str]:
    """Labels of ``[…, M, K] × […, K, N]`` for two ranks, and of the result. A vector has no M, or no N."""
    m, k, n, batch = "m", "k", "n", [c for c in ascii_letters if c not in "mkn"][: max(left, right, 2) - 2]
    x = "".join(batch[len(batch) - (left - 2) :]) + m + k if left > 1 else k
    y = "".join(batch[len(batch) - (right - 2) :]) + k + n if right > 1 else k
    return x, y, "".join(batch) + (m if left > 1 else "") + (n if right > 1 else "")


@rule("MatMul", padding=Padding.MASKED)
def matmul(ctx: Rule) -> Tensor:
    """``[…, M, K] × […, K, N]``: weights are contracted as they lie; K, where padded, is masked on both sides."""
    x, y = ctx.input(0), ctx.input(1)
    left, right, out = matmul_labels(x.rank, y.rank)
    a, b = Operand(x, left), Operand(y, right)
    found = integer_product(ctx, a, b, out) or with_scaled_weight(ctx, a, b, out)
    if found is None:
        found = build.convert(product(ctx, a, b, out, accumulator(x.dtype, ctx)), x.dtype)
    return ctx.result(found)


@rule("Gemm", padding=Padding.MASKED)
def gemm(ctx: Rule) -> Tensor:
    """``alpha·A'·B' + beta·C``, transposition in the dimension numbers."""
    x, y, hlo = ctx.input(0), ctx.input(1), stablehlo()
    a = Operand(x, "km" if ctx.attribute("transA", 0) else "mk")
    b = Operand(y, "nk" if ctx.attribute("transB", 0) else "kn")
    wide = accumulator(x.dtype, ctx)
    found = integer_product(ctx, a, b, "mn") or with_scaled_weight(ctx, a, b, "mn")
    found = product(ctx, a, b, "mn", wide) if found is None else build.convert(found, wide)
    for factor, more in ((ctx.attribute("alpha", 1.0), None), (ctx.attribute("beta", 1.0), 2)):
        if more is None:
            if factor != 1:
                found = hlo.multiply(found, build.splat(_number(factor, wide), wide, build.shape_of(found)))
        elif ctx.has(more):
            term = build.convert(ctx.broadcast(ctx.input(more), ctx.type()), wide)
            if factor != 1:
                term = hlo.multiply(term, build.splat(_number(factor, wide), wide, build.shape_of(term)))
            found = hlo.add(found, term)
    return ctx.result(build.convert(found, ctx.type().dtype))


def _number(factor: float, dtype: DType) -> float | int:
    return factor if dtype.is_float else int(factor)


@rule("MatMulInteger", padding=Padding.MASKED)
def matmul_integer(ctx: Rule) -> Tensor:
    """``(A - a) × (B - b)`` in i32: zero points are of all, of the rows of A or of the columns of B."""
    x, y = ctx.input(0), ctx.input(1)
    left, right, out = matmul_labels(x.rank, y.rank)
    a, b = (_centred(ctx, v, i, row) for v, i, row in ((x, 2, True), (y, 3, False)))
    return ctx.result(product(ctx, Operand(a, left), Operand(b, right), out, DType.I32))


def _centred(ctx: Rule, x: Tensor, zero: int, row: bool) -> Tensor:
    """``x`` minus its zero point, in i32."""
    value = build.convert(x.value, DType.I32)
    if ctx.has(zero):
        z = ctx.input(zero)
        shape = z.shape
        if z.rank == 1 and shape[0] != 1 and row:
            shape = (*shape, 1)
        elif z.rank == 1 and shape[0] == 1:
            shape = ()
        moved = build.trailing(build.reshape(build.convert(z.value, DType.I32), shape), x.shape)
        value = stablehlo().subtract(value, moved)
    return Tensor(value, TensorType(DType.I32, x.type.shape))
