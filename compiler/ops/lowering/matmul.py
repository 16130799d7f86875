"""Lowering of matrix products, and of softmax · V in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from tilewright.ir.symbolic import ZERO
from tilewright.ir.types import DType, TensorType
from tilewright.kernel.expr import Value
from tilewright.ops.compose import Index, Operand, binary, cast, const, free_axes, select, unary
from tilewright.ops.lower import Context, lowering
from tilewright.ops.lowering.blocks import block_product
from tilewright.ops.lowering.integer import Factor, Place, factors, scaled_product
from tilewright.ops.lowering.reduction import accumulator


@lowering("MatMul")
def _lower_matmul(ctx: Context) -> Operand:
    a, b = ctx.input(0), ctx.input(1)
    if a.origin[0] == "Softmax" and a.type.rank > 1 and b.type.rank > 1:
        return _lower_softmax_matmul(ctx, a.origin[1][0], b, "keep" if len(a.origin[1]) == 1 else "zero")

    if (by_blocks := block_product(ctx, a, b)) is not None:
        return by_blocks
    if (sides := factors(ctx, a, b, ({a.type.rank - 1}, {max(0, b.type.rank - 2)}))) is not None:
        return ctx.result(_quantized_products(ctx, sides))
    wide = accumulator(a.type.dtype)
    at = products(ctx, _widened(a, wide), _widened(b, wide))
    return ctx.result(lambda index: cast(at(index), a.type.dtype))


def _widened(x: Operand, wide: DType) -> Operand:
    return Operand(TensorType(wide, x.type.shape), lambda index: cast(x.at(index), wide))


def products(ctx: Context, a: Operand, b: Operand) -> Callable[[tuple[Index, ...]], Value]:
    """The elements of ``numpy.matmul(a, b)``, for operands of the element type that the sums run in."""

    def at(index: tuple[Index, ...]) -> Value:
        left, right = _places(index, a, b)
        k = ctx.composer.axis(a.type.shape[-1], "k")
        return ctx.composer.reduce("sum", [k], binary("mul", a.at(left([k])), b.at(right([k]))), "acc")

    return at


def _quantized_products(ctx: Context, sides: tuple[Factor, Factor]) -> Callable[[tuple[Index, ...]], Value]:
    """The same for dequantized integers."""
    a, b = (side.stored for side in sides)

    def at(index: tuple[Index, ...]) -> Value:
        places = _places(index, a, b)
        k = [ctx.composer.axis(a.type.shape[-1], "k")]
        return scaled_product(ctx, sides, places, k, cast(a.at(places[0](k)), DType.I32))

    return at


def _places(index: tuple[Index, ...], a: Operand, b: Operand) -> tuple[Place, Place]:
    """Where both operands are read for an element of the result, by the position along the sum."""
    batch, rest = _split(index, a.type.rank, b.type.rank)
    row, column = rest[: a.type.rank > 1], rest[len(rest) - (b.type.rank > 1) :]
    left, right = _tail(batch, a), _tail(batch, b)
    return lambda k: (*left, *row, *k), lambda k: (*right, *k, *column)


def _split(index: tuple[Index, ...], rank_a: int, rank_b: int) -> tuple[tuple[Index, ...], tuple[Index, ...]]:
    """An output index as (batch, row and column); a vector operand has no row or column."""
    matrix = (rank_a > 1) + (rank_b > 1)
    return index[: len(index) - matrix], index[len(index) - matrix :]


def _tail(batch: tuple[Index, ...], operand: Operand) -> tuple[Index, ...]:
    count = max(0, operand.type.rank - 2)
    sizes = operand.type.shape[:count]
    return tuple(ZERO if size == 1 else i for i, size in zip(batch[len(batch) - count :], sizes, strict=True))


def _lower_softmax_matmul(ctx: Context, scores: Operand, v: Operand, empty: str) -> Operand:
    """``softmax(scores) · V`` in one pass over the summed axis: the online softmax of Milakov and Gimelshein (2018).

    The running maximum starts at -∞ and a row with nothing but -∞ so far subtracts 0, so that no ∞ - ∞ arises. A row
    that is -∞ throughout gives NaN as softmax does (``empty='keep'``) or 0 (``'zero'``, as does then a row with a NaN
    or +∞ in it: its softmax is NaN throughout).
    """
    dtype = ctx.outputs[0].dtype
    wide = accumulator(dtype)
    composer = ctx.composer

    def at(index: tuple[Index, ...]) -> Value:
        *batch, row, column = index
        t = composer.axis(scores.type.shape[-1], "t")
        rows = frozenset[str]().union(*(free_axes(i) for i in (*batch, row)))
        lowest, zero = const(-math.inf, wide), const(0.0, wide)

        def step(now: Mapping[str, Value]) -> dict[str, Value]:
            score = composer.define(cast(scores.at((*_tail(tuple(batch), scores), row, t)), wide), "s")
            top = composer.define(binary("max", now["top"], composer.reduce("max", [t], score, "new_top")), "next_top")
            base = composer.define(select(binary("eq", top, lowest), zero, top), "base")
            p = composer.define(unary("exp", binary("sub", score, base)), "p")
            shrink = composer.define(unary("exp", binary("sub", now["top"], base)), "shrink")
            total = binary("add", binary("mul", now["total"], shrink), composer.reduce("sum", [t], p, "p_sum"))
            value = cast(v.at((*_tail(tuple(batch), v), t, column)), wide)
            pv = composer.reduce("sum", [t], binary("mul", cast(cast(p, dtype), wide), value), "pv")
            return {"top": top, "total": total, "acc": binary("add", binary("mul", now["acc"], shrink), pv)}

        everything = rows | free_axes(column)
        inits = {"top": (rows, lowest), "total": (rows, zero), "acc": (everything, zero)}
        last = composer.scan(t, inits, step)
        result = binary("div", last["acc"], last["total"])
        if empty == "zero":
            result = select(binary("gt", last["total"], zero), result, zero)
        return cast(result, dtype)

    return ctx.result(at)


@lowering("Gemm")
def _lower_gemm(ctx: Context) -> Operand:
    a, b, c = ctx.input(0), ctx.input(1), ctx.optional(2)
    alpha, beta = ctx.attribute("alpha", 1.0), ctx.attribute("beta", 1.0)
    trans_a, trans_b = ctx.attribute("transA", 0), ctx.attribute("transB", 0)
    wide = accumulator(a.type.dtype)
    # Integers times a fraction are no integers until the end.
    whole = wide.is_float or all(f.is_integer() and abs(f) < 2**31 for f in (alpha, beta))
    scaled = wide if whole else DType.F64

    def at(index: tuple[Index, ...]) -> Value:
        m, n = index
        k = ctx.composer.axis(a.type.shape[0 if trans_a else 1], "k")
        left, right = a.at((k, m) if trans_a else (m, k)), b.at((n, k) if trans_b else (k, n))
        acc = ctx.composer.reduce("sum", [k], binary("mul", cast(left, wide), cast(right, wide)), "acc")
        acc = _scaled(cast(acc, scaled), alpha)
        if c is not None:
            acc = binary("add", acc, _scaled(cast(c.broadcast(index), scaled), beta))
        return cast(acc, a.type.dtype)

    return ctx.result(at)


def _scaled(x: Value, factor: float) -> Value:
    return x if factor == 1 else binary("mul", x, factor if x.dtype.is_float else int(factor))
