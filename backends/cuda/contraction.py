"""Sums of products: which axes are rows, columns and depth of a matrix product, derived from the named axes."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.ir.types import DType
from tilewright.kernel.analysis import used_symbols
from tilewright.kernel.expr import Binary, Cast, Value
from tilewright.kernel.schedule import Compute
from tilewright.kernel.scope import Scope

#: Narrow operand types whose products a tensor core sums exactly in the wide type.
_EXACT = {
    DType.F32: (DType.F16, DType.BF16, DType.F8E4M3, DType.F8E5M2),
    DType.I32: (DType.I8, DType.U8),
}


@dataclass(frozen=True, slots=True)
class Contraction:
    """``sum(depth, left * right)`` with ``rows`` of the left and ``columns`` of the right operand. Axes of which one
    position is taken at a time are left out; operands come without casts that the matrix unit does itself."""

    left: Value
    right: Value
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    depth: tuple[str, ...]


def contraction(node: Compute, scope: Scope) -> Contraction | None:
    """``node`` as a matrix product; ``None`` when it is none. The operand with the tile's first axis is the left."""
    if node.reduce is None or node.reduce.op != "sum" or not isinstance(node.value, Binary) or node.value.op != "mul":
        return None
    left, right = _operands(node.value)
    out, depth = lanes(node.axes, scope), lanes(node.reduce.axes, scope)
    rows = tuple(a for a in out if a in used_symbols(left))
    columns = tuple(a for a in out if a in used_symbols(right))
    shared = used_symbols(left) & used_symbols(right)
    if not rows or not columns or not depth or not shared.issuperset(depth) or not shared.isdisjoint(out):
        return None
    if len(rows) + len(columns) != len(out):
        return None
    if out[0] in columns:
        left, right, rows, columns = right, left, columns, rows
    return Contraction(left, right, rows, columns, depth)


def lanes(axes: tuple[str, ...], scope: Scope) -> tuple[str, ...]:
    """Those of ``axes`` that have more than one lane."""
    return tuple(a for a in axes if scope.ranges[a].size != 1)


def _operands(product: Binary) -> tuple[Value, Value]:
    """The factors without widening casts, when both then have one type that the matrix unit widens by itself."""
    a, b = product.a, product.b
    if isinstance(a, Cast) and isinstance(b, Cast) and a.x.dtype is b.x.dtype:
        if a.x.dtype in _EXACT.get(product.dtype, ()):
            return a.x, b.x
    return a, b
