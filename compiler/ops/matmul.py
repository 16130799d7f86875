"""Matrix products."""

from __future__ import annotations

from tilewright.ir.symbolic import Expr, constant
from tilewright.ir.types import DType, TensorType
from tilewright.ops.context import Infer
from tilewright.ops.quantize import check_matrix_parameters
from tilewright.ops.registry import shape_rule


def matmul_shape(ctx: Infer, a: tuple[Expr, ...], b: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The shape of ``numpy.matmul``."""
    if not a or not b:
        ctx.fail("a matrix product needs inputs of rank 1 or more")
    left = a if len(a) > 1 else (constant(1), *a)
    right = b if len(b) > 1 else (*b, constant(1))
    ctx.equal(left[-1], right[-2])
    rows = left[-2:-1] if len(a) > 1 else ()
    columns = right[-1:] if len(b) > 1 else ()
    return (*ctx.broadcast(left[:-2], right[:-2]), *rows, *columns)


@shape_rule("MatMul")
def matmul(ctx: Infer) -> TensorType:
    """``numpy.matmul``."""
    return TensorType(ctx.input(0).dtype, matmul_shape(ctx, ctx.input(0).shape, ctx.input(1).shape))


@shape_rule("MatMulInteger")
def matmul_integer(ctx: Infer) -> TensorType:
    """``numpy.matmul`` with 32-bit sums."""
    check_matrix_parameters(ctx, 0, -2, 2)
    check_matrix_parameters(ctx, 1, -1, 3)
    return TensorType(DType.I32, matmul_shape(ctx, ctx.input(0).shape, ctx.input(1).shape))


@shape_rule("QLinearMatMul")
def qlinear_matmul(ctx: Infer) -> TensorType:
    """Inputs: a, its scale and zero point, b, likewise, then scale and zero point of the output."""
    check_matrix_parameters(ctx, 0, -2, 1, 2, 6, 7)
    check_matrix_parameters(ctx, 3, -1, 4, 5)
    return TensorType(ctx.input(7).dtype, matmul_shape(ctx, ctx.input(0).shape, ctx.input(3).shape))


@shape_rule("Gemm")
def gemm(ctx: Infer) -> TensorType:
    """``alpha * A' @ B' + beta * C``, both of rank 2."""
    a, b = ctx.input(0).shape, ctx.input(1).shape
    if len(a) != 2 or len(b) != 2:
        ctx.fail("Gemm needs matrices")
    m, k = a[::-1] if ctx.integer("transA", 0) else a
    k2, n = b[::-1] if ctx.integer("transB", 0) else b
    ctx.equal(k, k2)
    c = ctx.optional(2)
    if c is not None and len(ctx.broadcast((m, n), c.shape)) != 2:
        ctx.fail(f"C {c} does not broadcast to {m} x {n}")
    return TensorType(ctx.input(0).dtype, (m, n))


@shape_rule("Det")
def determinant(ctx: Infer) -> TensorType:
    """Of the last two axes."""
    x = ctx.input(0)
    if x.rank < 2:
        ctx.fail(f"{x} is no matrix")
    ctx.equal(x.shape[-1], x.shape[-2])
    return TensorType(x.dtype, x.shape[:-2])
