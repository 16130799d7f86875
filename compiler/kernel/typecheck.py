"""Dtypes of tile expressions: no promotion, every operation on the kinds it is defined for."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.ir.types import DType
from tilewright.kernel.expr import BINARY, COMPARE, UNARY, Binary, Cast, Const, Load, Select, Unary, Value, operands
from tilewright.kernel.print import print_value

_LOGICAL = frozenset(["and", "or", "xor", "not"])
_BITS = frozenset(["bitand", "bitor", "bitxor", "shl", "shr", "bitnot"])
_ANY_NUMBER = frozenset("neg abs sign add sub mul div mod fmod pow min max".split())
_ANY_TYPE = frozenset(["eq", "ne"])


def type_problems(value: Value) -> Iterator[str]:
    """Type errors in ``value``, operands first."""
    for x in operands(value):
        yield from type_problems(x)
    match value:
        case Const(value=number, dtype=dtype):
            yield from _literal(number, dtype)
        case Load(fill=fill, dtype=dtype) if fill is not None:
            yield from _literal(fill, dtype, exact=False)
        case Unary(op=op, x=x):
            yield from _operation(op, x.dtype, op in UNARY)
        case Binary(op=op, a=a, b=b):
            if a.dtype is not b.dtype:
                yield f"{op} of {a.dtype} and {b.dtype} in {print_value(value)}: cast one of them"
            yield from _operation(op, a.dtype, op in BINARY or op in COMPARE)
        case Select(cond=c, a=a, b=b):
            if c.dtype is not DType.BOOL:
                yield f"select on {c.dtype}, expected bool"
            if a.dtype is not b.dtype:
                yield f"select of {a.dtype} or {b.dtype}: cast one of them"
        case Cast(dtype=dtype, x=x) if dtype is x.dtype:
            yield f"cast of {dtype} to itself"


def _literal(number: float | int | bool, dtype: DType, exact: bool = True) -> Iterator[str]:
    """A literal has the kind of its dtype; a fill may be any number that the dtype holds."""
    if dtype is DType.BOOL:
        if not isinstance(number, bool) and exact:
            yield f"literal {number!r} of type bool"
    elif isinstance(number, bool) or (exact and dtype.is_float != isinstance(number, float)):
        yield f"literal {number!r} of type {dtype}"
    elif dtype.is_integer:
        low = -(2 ** (dtype.bits - 1)) if dtype.is_signed else 0
        if not low <= number < 2 ** (dtype.bits - dtype.is_signed) or number != int(number):
            yield f"literal {number!r} does not fit {dtype}"


def _operation(op: str, dtype: DType, known: bool) -> Iterator[str]:
    if not known:
        yield f"unknown operation {op}"
    elif op in _ANY_TYPE:
        return
    elif op in _LOGICAL:
        if dtype is not DType.BOOL:
            yield f"{op} of {dtype}, expected bool"
    elif op in _BITS:
        if not dtype.is_integer and not (dtype is DType.BOOL and op not in ("shl", "shr")):
            yield f"{op} of {dtype}, expected an integer"
    elif op in _ANY_NUMBER or op in COMPARE:
        if dtype is DType.BOOL:
            yield f"{op} of bool"
    elif not dtype.is_float:
        yield f"{op} of {dtype}, expected a float"
