"""In what products of each element type are computed, and at which rate.

Products of f32 are three products of tf32 by default ("tf32x3": each operand is a tf32 number and what it leaves, and
only the product of the two remainders is dropped), where the target has tf32. That keeps about 21 of the 24 bits of a
product, against 10 of plain tf32, and runs at a third of the rate of tf32: faster than the ordinary units on every
target (52 against 19.5 Tflop/s on sm_80, 165 against 67 on sm_90). Infinities and NaN come out as in f32 (the cross
terms that infinities would spoil count as zero). What is lost: operands beyond 3.4011e38, within 2**-12 of the
largest f32, round to an infinity, and sums with them are NaN. ``tests/cuda/test_precision.py`` has the numbers, in a
model of the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.backends.cuda.contraction import Contraction
from tilewright.ir.types import DType
from tilewright.target import F32_PRODUCTS, Target

#: ``input_precision`` of an f32 product: full precision on the ordinary units, or matrix units with rounded operands.
PRECISIONS = ("ieee", "tf32", "tf32x3")
#: Products of the matrix unit for one product of f32.
_PASSES = {"tf32x3": 3}
#: Least depth of one instruction, in elements: 32 bytes of each row (PTX ISA, shapes of mma and wgmma).
_LEAST_BYTES = 32


#: The same of tf32: an instruction takes 8, but Triton 3.9 was seen to compute steps of 8 that cover several axes
#: without the matrix unit, in programs of ten thousand instructions.
_LEAST_TF32 = 16
#: By how much products that ``tl.dot`` does not take are slower than those of f32. An assumption.
_PLAIN = 4


@dataclass(frozen=True, slots=True)
class Unit:
    """What computes a product.

    Attributes:
        operations: a second of the whole device, of the products that were asked for; a multiply-add is two.
        matrix: whether it is the matrix unit.
        size: bytes of an operand's element.
        least_depth: elements of depth that one instruction takes.
        halves: whether operands are taken apart, and a product is several.
    """

    operations: float
    matrix: bool
    size: int
    least_depth: int
    halves: bool = False


def precision_of(dtype: DType, target: Target) -> str:
    """How products of ``dtype`` are computed: one of :data:`PRECISIONS` for f32, empty for other types."""
    if dtype is not DType.F32:
        return ""
    return str(target.extra.get(F32_PRODUCTS, "ieee"))


def _unit(dtype: DType, precision: str, target: Target) -> Unit:
    """That of operands of ``dtype``; the rate of f32 where the target's data states none for the type."""
    size = max(1, dtype.bits // 8)
    if dtype is DType.F32 and precision != "ieee":
        passes = _PASSES.get(precision, 1)
        return Unit(target.peak["tf32"] / passes, True, size, _LEAST_TF32, passes > 1)
    name = "i8" if dtype is DType.U8 else str(dtype)
    matrix = dtype not in (DType.F32, DType.F64)
    return Unit(target.peak.get(name, target.peak["f32"]), matrix, size, _LEAST_BYTES // size if matrix else 1)


def unit_of(c: Contraction, precision: str, target: Target) -> Unit:
    """The unit of ``target`` for a product, which may be of types that no ``tl.dot`` takes."""
    if c.on_unit:
        return _unit(c.left.dtype, precision, target)
    return Unit(target.peak["f32"] / _PLAIN, False, max(1, c.left.dtype.bits // 8), 1)
