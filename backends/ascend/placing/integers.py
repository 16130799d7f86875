"""Integers on a vector core: positions that are no equal steps, arithmetic that wraps around, bits, words."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import Scalar
from tilewright.backends.ascend.placing.numbers import range_of
from tilewright.backends.ascend.placing.strips import Piece, Strip
from tilewright.ir.ranges import Facts, bounds
from tilewright.ir.symbolic import Expr, Operation, Symbol, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.expr import Binary, IndexValue, Value

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.arithmetic import Arithmetic

_OPERATIONS = {"//": "div", "%": "mod", "min": "min", "max": "max"}
_BITS = {"bitand": "and", "bitor": "or", "bitxor": "xor"}


def positions_of(index: Expr, axes: Collection[str], dtype: DType, facts: Facts) -> Value:
    """``index`` as arithmetic on positions that go along each of ``axes`` in equal steps."""
    if _is_linear(index, axes):
        return IndexValue(index, dtype)
    total: Value | None = None
    for monomial, factor in index.terms:
        term: Value | None = None
        plain = constant(factor)
        for atom, power in monomial:
            for _ in range(power):
                if isinstance(atom, Symbol):
                    plain = plain * symbol(atom.name)
                    continue
                made = _operation(atom, axes, dtype, facts)
                term = made if term is None else Binary("mul", term, made)
        if term is None:
            term = positions_of(plain, axes, dtype, facts)
        elif plain != 1:
            term = Binary("mul", term, positions_of(plain, axes, dtype, facts))
        total = term if total is None else Binary("add", total, term)
    return total if total is not None else IndexValue(index, dtype)


def _operation(atom: Operation, axes: Collection[str], dtype: DType, facts: Facts) -> Value:
    alone = Expr([(((atom, 1),), 1)])
    if not alone.symbols & set(axes):
        return IndexValue(alone, dtype)
    first, *rest = (positions_of(a, axes, dtype, facts) for a in atom.args)
    if atom.op == "//" and bounds(atom.args[0], facts)[0] < 0:  # towards minus infinity: nothing is left to round
        first = Binary("sub", first, Binary("mod", first, rest[0]))
    for other in rest:
        first = Binary(_OPERATIONS[atom.op], first, other)
    return first


def _is_linear(index: Expr, axes: Collection[str]) -> bool:
    try:
        return all(index.coefficient(a).symbols.isdisjoint(axes) for a in axes)
    except ValueError:
        return False


def wrapped(core: Arithmetic, op: str, a: Value, b: Value, dtype: DType) -> Piece:
    """A sum, difference or product of integers of up to 16 bits, of which ``dtype`` keeps the low bits."""
    if op == "mul" and dtype.bits == 16:  # beyond what f32 holds
        product = core.binary("mul", core.operand(a, DType.I32), core.operand(b, DType.I32), DType.I32)
        return core.wrapped_low(core.strip(core.carry(product, DType.I16), (), DType.I16), dtype)
    made = core.binary(op, core.operand(a, DType.F32), core.operand(b, DType.F32), DType.F32)
    return core.wrapped_low(core.strip(made, (), DType.F32), dtype)


def bitwise(core: Arithmetic, op: str, a: Value, b: Value, dtype: DType) -> Piece:
    """``and``, ``or`` and ``xor`` of integers that an i16 holds, as f32."""
    low, high = range_of(DType.I16)
    kept = range_of(dtype)
    if op not in _BITS or kept[0] < low or kept[1] > high:
        raise core.unsupported(f"{op} of {dtype}")
    x, y = (core.carry(core.strip(core.operand(v, DType.F32), (), DType.F32), DType.I16) for v in (a, b))
    if _BITS[op] != "xor":
        return core.carry(_of_bits(core, _BITS[op], x, y), DType.F32)
    either = core.carry(_of_bits(core, "or", core.lend(x), core.lend(y)), DType.F32)
    both = core.carry(_of_bits(core, "and", x, y), DType.F32)
    return core.binary("sub", either, both, DType.F32)


def _of_bits(core: Arithmetic, op: str, x: Piece, y: Piece) -> Strip:
    axes = core.joined(x, y)
    result = core.temporary(axes, DType.I16)
    core.emit(op, result, axes, x, y)
    core.recycle(x)
    core.recycle(y)
    return result


def inverted(core: Arithmetic, x: Value, dtype: DType) -> Piece:
    """``bitnot``: ``-1 - x``, or what is left of the largest number of an unsigned type."""
    carrier = core.carrier(x)
    last = -1.0 if dtype.is_signed else range_of(dtype)[1]
    return core.binary(
        "add", core.binary("mul", core.operand(x, carrier), Scalar(-1.0), carrier), Scalar(last), carrier
    )


def words(core: Arithmetic, piece: Strip) -> tuple[Piece, Piece]:
    """The low and the high 32 bits of a whole number that an i32 holds."""
    low = core.carry(piece, DType.I32)
    assert isinstance(low, Strip)
    high = core.temporary(low.axes, DType.I32)
    core.emit("shift_right", high, low.axes, low, parameters=(("by", 31),))
    return low, high
