"""Lowering of products with constant weights that share scales: in blocks of their rows, or one a column.

    x · DQ(W[K, N], s[K/g, N], axis=0, block_size=g)
        acc[m, n] = Σ_b (Σ_j x[m, b·g + j] · W[b·g + j, n]) · s[b, n]
    DQ(X, t[…, K/g], axis=-1, block_size=g) · DQ(W[K, N], s[K/g, N], axis=0, block_size=g)
        acc[m, n] = Σ_b f32(Σ_j X[m, b·g + j] · W[b·g + j, n]) · (t[m, b] · s[b, n])
    x · DQ(W[K, N], s[N], axis=1)
        y[m, n] = (Σ_k x[m, k] · W[k, n]) · s[n]

The inner sum of the second form is one of integers and exact; sums of 16-bit floats are in f32, and rounded once to
their type. A zero point of the weights is taken off a block at a time:
Σ x·(w - z) = Σ x·w - z·Σ x.
"""

from __future__ import annotations

from tilewright.ir.types import DType
from tilewright.kernel.expr import Value
from tilewright.ops.compose import Index, Operand, Quantized, binary, cast
from tilewright.ops.lower import Context
from tilewright.ops.lowering.integer import MOST_TERMS


def block_product(ctx: Context, a: Operand, b: Operand) -> Operand | None:
    """The product of MatMul operands ``a`` and ``b`` on the integers of ``b``; ``None`` where ``b`` is no such matrix,
    or where ``a`` has integers that are for another rule."""
    weights = b.quantized
    if weights is None or b.type.rank != 2 or a.type.dtype not in (DType.F32, DType.F16, DType.BF16):
        return None
    if not ctx.composer.is_weight(weights.stored):
        return None
    depth = b.type.shape[0]
    if weights.stored.type.dtype not in _INTEGERS or not depth.is_constant:
        return None
    if weights.block and weights.axis == 0 and depth.value % weights.block == 0:
        rows = a.quantized if a.quantized is not None and _fits(a.quantized, weights.block, a.type.rank) else None
        return _blocks(ctx, a, rows, weights)
    if not weights.block and weights.axis in (1, None) and _is_zero(weights.zero) and a.quantized is None:
        return _by_column(ctx, a, weights)
    return None


_INTEGERS = (DType.I4, DType.U4, DType.I8, DType.U8)


def _is_zero(zero: Operand | None) -> bool:
    return zero is None or zero.is_zero


def _fits(rows: Quantized, block: int, rank: int) -> bool:
    """Whether rows are symmetric i8 in blocks of that size, whose sums of products fit in 32 bits."""
    symmetric = rows.zero is None and rows.stored.type.dtype is DType.I8
    return rows.block == block <= MOST_TERMS and rows.axis == rank - 1 and symmetric


def _blocks(ctx: Context, a: Operand, rows: Quantized | None, weights: Quantized) -> Operand:
    """Products of integers where the rows are quantized as well, else of floats; ``rows`` are those of ``a``."""
    size = weights.block
    x = a if rows is None else rows.stored
    wide = DType.F32 if rows is None else DType.I32
    zero = None if _is_zero(weights.zero) else weights.zero

    def at(index: tuple[Index, ...]) -> Value:
        composer = ctx.composer
        *left, column = index
        block = composer.axis(a.type.shape[-1] // size, "block")
        j = composer.axis(size, "j")
        k = block * size + j
        element = cast(x.at((*left, k)), wide)
        part = composer.reduce("sum", [j], binary("mul", element, cast(weights.stored.at((k, column)), wide)), "part")
        if zero is not None:
            row_sum = composer.reduce("sum", [j], element, "row_sum")
            part = binary("sub", part, binary("mul", row_sum, cast(zero.at((block, column)), wide)))
        scale = cast(weights.scale.at((block, column)), DType.F32)
        if rows is not None:
            scale = binary("mul", cast(rows.scale.at((*left, block)), DType.F32), scale)
        acc = composer.reduce("sum", [block], binary("mul", cast(part, DType.F32), scale), "acc")
        return cast(acc, a.type.dtype)

    return ctx.result(at)


def _by_column(ctx: Context, a: Operand, weights: Quantized) -> Operand:
    def at(index: tuple[Index, ...]) -> Value:
        *left, column = index
        k = ctx.composer.axis(a.type.shape[-1], "k")
        integer = cast(weights.stored.at((k, column)), DType.F32)
        element = cast(a.at((*left, k)), DType.F32)
        acc = ctx.composer.reduce("sum", [k], binary("mul", element, integer), "acc")
        scale = weights.scale.scalar() if weights.axis is None else weights.scale.at((column,))
        return cast(binary("mul", acc, cast(scale, DType.F32)), a.type.dtype)

    return ctx.result(at)
