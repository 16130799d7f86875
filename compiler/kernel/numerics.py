"""What each scalar operation of the tile IR means, on NumPy arrays: the reference that targets are compared with.

Floats narrower than 32 bits are computed in f32 and rounded after every operation, which for + - * / and sqrt gives the
correctly rounded result. Transcendental functions of f32 are computed in f64 and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from tilewright.ir.types import DType
from tilewright.kernel.analysis import identity

Array = npt.NDArray[Any]

_erf = np.frompyfunc(math.erf, 1, 1)


def _erf64(x: Array) -> Array:
    return np.asarray(_erf(x), np.float64)


def _sigmoid(x: Array) -> Array:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


#: Computed in f64 for f32 and f64 operands.
_TRANSCENDENTAL: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp, "log": np.log, "log2": np.log2, "exp2": np.exp2, "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "erf": _erf64, "sigmoid": _sigmoid,
    "rsqrt": lambda x: 1 / np.sqrt(x),
}  # fmt: skip
_EXACT: dict[str, Callable[[Array], Array]] = {
    "neg": np.negative, "abs": np.abs, "sqrt": np.sqrt, "reciprocal": lambda x: 1 / x, "floor": np.floor,
    "ceil": np.ceil, "round": np.rint, "sign": np.sign,
}  # fmt: skip
_TESTS: dict[str, Callable[[Array], Array]] = {"isnan": np.isnan, "isinf": np.isinf, "not": np.logical_not}
_COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip


def _integer_div(a: Array, b: Array) -> Array:
    """Towards zero, as in C. Division by zero gives 0 here and anything on a target."""
    quotient = np.floor_divide(a, b)
    return np.asarray(quotient + ((quotient < 0) & (quotient * b != a)).astype(quotient.dtype))


def _integer_pow(a: Array, b: Array) -> Array:
    """Integer power; a negative exponent truncates towards zero."""
    power = np.power(a, np.maximum(b, 0))
    if a.dtype.kind == "u":
        return np.asarray(power)
    return np.where(b < 0, np.where(a == 1, 1, np.where(a == -1, np.where(b % 2 == 0, 1, -1), 0)), power)


_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "mod": np.mod, "fmod": np.fmod,
    "pow": np.power, "min": np.minimum, "max": np.maximum, "and": np.logical_and, "or": np.logical_or,
    "xor": np.logical_xor, "bitand": np.bitwise_and, "bitor": np.bitwise_or, "bitxor": np.bitwise_xor,
    "shl": np.left_shift, "shr": np.right_shift,
}  # fmt: skip
_REDUCE: dict[str, np.ufunc] = {
    "sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum, "any": np.logical_or,
    "all": np.logical_and,
}  # fmt: skip


def widen(x: Array, dtype: DType) -> Array:
    """``x`` in the type its operations are computed in."""
    if dtype.is_float and dtype.bits < 32:
        return x.astype(np.float32)
    return x.astype(np.int16) if dtype.bits < 8 else x


def narrow(x: Array, dtype: DType) -> Array:
    """``x`` rounded or wrapped to ``dtype``."""
    if dtype.bits < 8 and dtype.is_integer:
        offset = 1 << (dtype.bits - 1) if dtype.is_signed else 0
        return (((x + offset) & ((1 << dtype.bits) - 1)) - offset).astype(np.int8).astype(dtype.numpy)
    return np.asarray(x).astype(dtype.numpy, copy=False)


def unary(op: str, x: Array, dtype: DType) -> Array:
    """Operation ``op`` on operands of ``dtype``."""
    if op in _TESTS:
        return np.asarray(_TESTS[op](widen(x, dtype)))
    if op == "bitnot":
        return narrow(np.invert(widen(x, dtype)), dtype)
    if op in _TRANSCENDENTAL:
        return narrow(_TRANSCENDENTAL[op](x.astype(np.float64)), dtype)
    return narrow(_EXACT[op](widen(x, dtype)), dtype)


def binary(op: str, a: Array, b: Array, dtype: DType) -> Array:
    """Operation or comparison ``op`` on operands of ``dtype``."""
    a, b = widen(a, dtype), widen(b, dtype)
    if op in _COMPARE:
        return np.asarray(_COMPARE[op](a, b))
    if dtype.is_integer and op in ("div", "pow"):
        return narrow(_integer_div(a, b) if op == "div" else _integer_pow(a, b), dtype)
    if dtype.is_float and op == "pow":
        return narrow(np.power(a.astype(np.float64), b.astype(np.float64)), dtype)
    return narrow(_BINARY[op](a, b), dtype)


def cast(x: Array, source: DType, target: DType) -> Array:
    """``x`` of ``source`` as ``target``: float to integer truncates, integers wrap, floats round to nearest even."""
    if target is DType.BOOL:
        return np.asarray(widen(x, source) != 0)
    if target.bits < 8 and target.is_integer:
        return narrow(widen(x, source).astype(np.int64), target)
    # Through f32: ml_dtypes has no direct conversion between some of its types and the others.
    if target.bits < 32 and target.is_float and source.bits <= 16:
        return widen(x, source).astype(np.float32).astype(target.numpy)
    if source.is_float and target.is_integer:
        return np.trunc(widen(x, source)).astype(np.int64 if target.is_signed else np.uint64).astype(target.numpy)
    return widen(x, source).astype(target.numpy)


def reduce(op: str, x: Array, axes: tuple[int, ...], dtype: DType) -> Array:
    """``op`` over dimensions ``axes``, which stay with size 1. Narrow floats are summed in f32 and rounded once."""
    wide = widen(x, dtype)
    if op in ("any", "all"):
        return np.asarray(_REDUCE[op].reduce(wide, axis=axes, keepdims=True))
    initial: dict[str, Any] = {} if wide.size else {"initial": identity(op, dtype).value}
    return narrow(np.asarray(_REDUCE[op].reduce(wide, axis=axes, keepdims=True, dtype=wide.dtype, **initial)), dtype)


def contract(a: Array, b: Array, axes: tuple[int, ...], dtype: DType) -> Array:
    """The sum of ``a * b`` over dimensions ``axes`` of two broadcastable arrays, without making the product."""
    labels = [[n for n in range(x.ndim) if x.shape[n] != 1] for x in (a, b)]
    kept = [n for n in sorted({*labels[0], *labels[1]}) if n not in axes]
    squeezed = [x.reshape([x.shape[n] for n in ls]) for x, ls in zip((a, b), labels, strict=True)]
    result = np.einsum(squeezed[0], labels[0], squeezed[1], labels[1], kept, optimize=True)
    shape = [1 if n in axes else size for n, size in enumerate(np.broadcast_shapes(a.shape, b.shape))]
    return np.asarray(result, dtype.numpy).reshape(shape)


def poison(dtype: DType) -> Any:
    """A value that should never be seen: NaN, or an improbable integer."""
    if dtype.is_float:
        return np.nan
    return {2: 1, 4: 5, 8: 90}.get(dtype.bits, 23130) if dtype is not DType.BOOL else True
