"""What the vector unit computes, lane by lane and row by row, as the page of instructions says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tilewright.backends.ascend.simulator.number import BF16, F16, F32, F64, FLOATS, Array, cast, narrowed, one_nan

#: Comparisons: two operands to a mask.
COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}

_SUMS: dict[str, Callable[[Array, Array], Array]] = {"add": np.add, "sub": np.subtract, "mul": np.multiply}
_BITS: dict[str, Callable[..., Array]] = {"and": np.bitwise_and, "or": np.bitwise_or, "not": np.invert}
#: Computed in f64 and rounded once.
_ROUNDED: dict[str, Callable[..., Array]] = {"exp": np.exp, "ln": np.log, "sqrt": np.sqrt, "div": np.divide}
#: Bits that go to their place unchanged.
_MOVED = frozenset(["copy", "duplicate", "brcb", "gather"])


def maximum(a: Array, b: Array) -> Array:
    """The larger one; NaN where either is; +0 before -0."""
    return _zeros(np.maximum(a, b), a, b, lambda x, y: x + y)


def minimum(a: Array, b: Array) -> Array:
    """The smaller one; NaN where either is; -0 before +0."""
    return _zeros(np.minimum(a, b), a, b, lambda x, y: -(-x - y))


def _zeros(result: Array, a: Array, b: Array, join: Callable[[Array, Array], Array]) -> Array:
    if result.dtype not in FLOATS:
        return result
    zero = (result == 0) & (a == b)
    if zero.any():
        result = np.where(zero, join(a, b), result)
    return one_nan(result)


def relu(x: Array) -> Array:
    """``max(x, +0)``."""
    cut = np.where(x > 0, x, x.dtype.type(0))
    return one_nan(np.where(np.isnan(x), x, cut)) if x.dtype in FLOATS else cut


def row_sum(x: Array) -> Array:
    """Sums along the last dimension in a binary tree of neighbours, each addition rounded."""
    while x.shape[-1] > 1:
        even = x.shape[-1] // 2 * 2
        pairs = _sum("add", x[..., 0:even:2], x[..., 1:even:2])
        x = np.concatenate([pairs, x[..., even:]], axis=-1)
    return one_nan(np.array(x[..., 0]))


def row_extreme(x: Array, largest: bool) -> Array:
    """The largest or smallest element along the last dimension."""
    result = np.asarray(np.max(x, axis=-1) if largest else np.min(x, axis=-1))
    zero = result == 0
    if x.dtype in FLOATS and zero.any():
        signs = np.signbit(x) | (x != 0)
        positive = ~signs.all(axis=-1) if largest else ~(np.signbit(x) & (x == 0)).any(axis=-1)
        result = np.where(zero, np.where(positive, 0.0, -0.0).astype(x.dtype), result)
    return one_nan(result)


def _sum(op: str, a: Array, b: Array) -> Array:
    if a.dtype in (F16, BF16):
        return _SUMS[op](a.astype(F32), b.astype(F32)).astype(a.dtype)
    return _SUMS[op](a, b)


def shifted(op: str, x: Array, by: int) -> Array:
    """Bits moved left or right; the sign of a signed type stays."""
    distance = x.dtype.type(by)
    return np.asarray(np.left_shift(x, distance) if op == "shift_left" else np.right_shift(x, distance))


def packed_bits(mask: Array) -> Array:
    """One bit a lane, lane 0 in bit 0 of byte 0 of each row."""
    return np.packbits(mask, axis=-1, bitorder="little")


def selected(mask: Array, a: Array, b: Array) -> Array:
    """``a`` where the bit of ``mask`` is set, else ``b``; bits of neither change."""
    bits = np.unpackbits(mask, axis=-1, bitorder="little")[..., : a.shape[-1]].astype(bool)
    return np.where(bits, a, b)


def widened(x: Array, dtype: np.dtype[Any]) -> Array:
    """Two signed integers of 4 bits from each byte, that of the lower half first."""
    halves = np.stack([x & np.uint8(15), x >> np.uint8(4)], axis=-1).astype(np.int8)
    signed = (halves ^ np.int8(8)) - np.int8(8)
    return signed.reshape(*x.shape[:-1], -1).astype(dtype)


def vector(op: str, sources: list[Array], dtype: np.dtype[Any], mode: str = "rint", by: int = 0) -> Array:
    """The result of a vector instruction on lanes of one shape (numbers have shape ``()``), or on rows.

    ``mode`` is the rounding of a cast, ``by`` the distance of a shift. Masks are packed bytes of the last dimension.
    """
    with np.errstate(all="ignore"):
        match op:
            case "add" | "sub" | "mul":
                return one_nan(_sum(op, sources[0], sources[1]))
            case "max":
                return maximum(sources[0], sources[1])
            case "min":
                return minimum(sources[0], sources[1])
            case "exp" | "ln" | "sqrt" | "div":
                return narrowed(np.asarray(_ROUNDED[op](*(s.astype(F64) for s in sources))), dtype)
            case "abs":
                return one_nan(np.abs(sources[0]))
            case "relu":
                return relu(sources[0])
            case "and" | "or" | "not":
                return _BITS[op](*sources)
            case "shift_left" | "shift_right":
                return shifted(op, sources[0], by)
            case "cast":
                return cast(sources[0], dtype, mode)
            case "widen":
                return widened(sources[0], dtype)
            case "select":
                return selected(sources[0], sources[1], sources[2])
            case "row_sum" | "block_sum":
                return row_sum(sources[0])
            case "row_max" | "row_min" | "block_max" | "block_min":
                return row_extreme(sources[0], op.endswith("_max"))
            case "transpose":
                return sources[0].swapaxes(-1, -2)
    if op.startswith("compare_"):
        return packed_bits(COMPARE[op[8:]](*np.broadcast_arrays(*sources)))
    if op == "copy" and sources[0].dtype != dtype:
        return np.ascontiguousarray(sources[0]).view(dtype)  # the bits
    if op in _MOVED:
        return sources[0]
    raise KeyError(op)


def iota(first: int | float, lanes: int, dtype: np.dtype[Any]) -> Array:
    """``first``, ``first`` + 1, …, each rounded once."""
    if isinstance(first, float) and not first.is_integer():
        return narrowed(first + np.arange(lanes, dtype=F64), dtype)
    return cast(int(first) + np.arange(lanes, dtype=np.int64), dtype)
