"""Sums of products: which axes are rows, columns and depth of a matrix product, derived from the named axes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tilewright.ir.types import DType
from tilewright.kernel.analysis import used_symbols
from tilewright.kernel.expr import Binary, Cast, Value
from tilewright.kernel.schedule import Compute
from tilewright.kernel.scope import Scope
from tilewright.kernel.tile import Reduction

#: Narrow operand types whose products the matrix unit sums exactly in the wide type.
_EXACT = {
    DType.F32: (DType.F16, DType.BF16, DType.F8E4M3, DType.F8E5M2),
    DType.I32: (DType.I8, DType.U8),
}
#: Types of operands (after the above) and of sums that ``tl.dot`` takes.
_SUMS = {
    DType.F32: (DType.F32, *_EXACT[DType.F32]),
    DType.F64: (DType.F64,),
    DType.F16: (DType.F16,),
    DType.I32: _EXACT[DType.I32],
}
_BYTES = frozenset(_EXACT[DType.I32])


@dataclass(frozen=True, slots=True)
class Contraction:
    """``sum(depth, left * right)`` with ``rows`` of the left and ``columns`` of the right operand; ``batch`` axes are
    on both sides and in the result. Operands come without casts that the matrix unit does itself; unsigned bytes as
    they are, from which the text takes 128 (the unit's language has signed ones alone), to add 128 times the other
    operand's sums in the end. ``total`` is the type of the sums."""

    left: Value
    right: Value
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    depth: tuple[str, ...]
    batch: tuple[str, ...]
    total: DType

    @property
    def on_unit(self) -> bool:
        """Whether ``tl.dot`` takes these types."""
        alike = self.left.dtype is self.right.dtype or {self.left.dtype, self.right.dtype} <= _BYTES
        return alike and self.left.dtype in _SUMS.get(self.total, ())


def contraction(axes: tuple[str, ...], value: Value, reduce: Reduction | None) -> Contraction | None:
    """The product that a definition of a tile over ``axes`` is; ``None`` when it is none.

    The operand with the first axis of the tile that is not a batch axis is the left.
    """
    if reduce is None or reduce.op != "sum" or not isinstance(value, Binary) or value.op != "mul":
        return None
    left, right = _operands(value)
    in_left, in_right = used_symbols(left), used_symbols(right)
    batch = tuple(a for a in axes if a in in_left and a in in_right)
    rows = tuple(a for a in axes if a in in_left and a not in batch)
    columns = tuple(a for a in axes if a in in_right and a not in batch)
    if not (in_left & in_right).issuperset(reduce.axes) or len(batch) + len(rows) + len(columns) != len(axes):
        return None
    found = Contraction(left, right, rows, columns, reduce.axes, batch, value.dtype)
    return _swapped(found) if axes and _first(found, axes) in columns else found


def matrix_product(node: Compute, scope: Scope) -> Contraction | None:
    """``node`` as a product of two matrices, without the axes that have one lane in ``scope``; ``None`` where it is
    no product, or one of vectors or too short a depth, or of types that ``tl.dot`` does not take, or has a batch of
    more than one lane."""
    found = contraction(node.axes, node.value, node.reduce)
    if found is None or not found.on_unit:
        return None
    rows, columns, depth, batch = (
        tuple(a for a in axes if scope.ranges[a].size != 1)
        for axes in (found.rows, found.columns, found.depth, found.batch)
    )
    if batch or not (rows and columns and depth):
        return None
    if math.prod(scope.ranges[a].lanes or 0 for a in depth) < (32 if found.left.dtype.bits == 8 else 16):
        return None  # less than one instruction of the unit
    found = replace(found, rows=rows, columns=columns, depth=depth, batch=())
    return _swapped(found) if _first(found, node.axes) in columns else found


def _first(found: Contraction, axes: tuple[str, ...]) -> str | None:
    return next((a for a in axes if a in found.rows or a in found.columns), None)


def _swapped(c: Contraction) -> Contraction:
    return replace(c, left=c.right, right=c.left, rows=c.columns, columns=c.rows)


def _operands(product: Binary) -> tuple[Value, Value]:
    """The factors without widening casts, when both then have a type that the matrix unit widens by itself. Integers
    of at most 8 bits beside 16-bit floats, and of 4 beside 8, become those: that is exact."""
    a, b = product.a, product.b
    narrow = _EXACT.get(product.dtype, ())
    if isinstance(a, Cast) and isinstance(b, Cast):
        types = {a.x.dtype, b.x.dtype}
        if types <= set(narrow) and (len(types) == 1 or types <= _BYTES):
            return a.x, b.x
        if b.x.dtype in narrow and _holds(b.x.dtype, a.x.dtype):
            return Cast(b.x.dtype, a.x), b.x
        if a.x.dtype in narrow and _holds(a.x.dtype, b.x.dtype):
            return a.x, Cast(a.x.dtype, b.x)
    return a, b


def _holds(wide: DType, narrow: DType) -> bool:
    """Whether ``wide`` has every integer of type ``narrow``."""
    if not narrow.is_integer:
        return False
    if wide in (DType.F16, DType.BF16):
        return narrow.bits <= 8
    return wide is DType.I8 and narrow.bits <= 4
