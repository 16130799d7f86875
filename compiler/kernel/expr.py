"""Typed scalar expressions of the tile IR: what one element of a tile is.

No promotion: both operands of a binary operation have one dtype, and every change of dtype is a :class:`Cast`.
Index expressions are :class:`tilewright.ir.symbolic.Expr` over axis names and dimension symbols.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType

#: name → number of operands. ``rsqrt`` … are one operation so that a target can use its own instruction.
UNARY = frozenset(
    "neg abs exp log log2 exp2 sqrt rsqrt reciprocal sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf "
    "floor ceil round sign not bitnot isnan isinf sigmoid".split()
)
#: ``div`` is true division on floats, truncating on integers; ``mod`` takes the sign of the divisor, ``fmod`` of the
#: dividend; ``min``/``max`` propagate NaN.
BINARY = frozenset("add sub mul div mod fmod pow min max and or xor bitand bitor bitxor shl shr".split())
COMPARE = frozenset("eq ne lt le gt ge".split())


@dataclass(frozen=True, slots=True)
class Const:
    """A literal of a dtype."""

    value: float | int | bool
    dtype: DType


@dataclass(frozen=True, slots=True)
class IndexValue:
    """The value of an index expression (an iota), as ``dtype``."""

    index: Expr
    dtype: DType = DType.I64


@dataclass(frozen=True, slots=True)
class Load:
    """One element of a parameter. An index is an expression, or an integer value for a gathered read.

    ``fill`` is what is read outside the tensor; ``None`` means that no index is ever outside for a valid lane.
    """

    tensor: str
    index: tuple[Union[Expr, Value], ...]
    dtype: DType
    fill: float | int | None = None


@dataclass(frozen=True, slots=True)
class Ref:
    """The element of a tile at the current position of its named axes; missing axes broadcast."""

    tile: str
    axes: tuple[str, ...]
    dtype: DType


@dataclass(frozen=True, slots=True)
class Unary:
    """``op`` is of :data:`UNARY`; tests (``not``, ``isnan``, ``isinf``) give ``bool``, the others that of ``x``."""

    op: str
    x: Value

    @property
    def dtype(self) -> DType:
        return DType.BOOL if self.op in ("isnan", "isinf", "not") else self.x.dtype


@dataclass(frozen=True, slots=True)
class Binary:
    """``op`` is of :data:`BINARY` (result dtype of the operands) or :data:`COMPARE` (result ``bool``)."""

    op: str
    a: Value
    b: Value

    @property
    def dtype(self) -> DType:
        return DType.BOOL if self.op in COMPARE else self.a.dtype


@dataclass(frozen=True, slots=True)
class Select:
    """``a`` where ``cond`` (a ``bool``) holds, else ``b``; both may be computed, so reads in either have to be safe."""

    cond: Value
    a: Value
    b: Value

    @property
    def dtype(self) -> DType:
        return self.a.dtype


@dataclass(frozen=True, slots=True)
class Cast:
    """Conversion; float to integer truncates, integers wrap, float to float rounds to nearest even."""

    dtype: DType
    x: Value


Value = Union[Const, IndexValue, Load, Ref, Unary, Binary, Select, Cast]


def operands(v: Value) -> tuple[Value, ...]:
    """The direct sub-values of ``v``, gathered indices of a load included."""
    match v:
        case Unary(x=x) | Cast(x=x):
            return (x,)
        case Binary(a=a, b=b):
            return (a, b)
        case Select(cond=c, a=a, b=b):
            return (c, a, b)
        case Load(index=index):
            return tuple(i for i in index if not isinstance(i, Expr))
    return ()
