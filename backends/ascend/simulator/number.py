"""Numbers as the cores write them: each rounding, saturation, and the one bit pattern of NaN.

The rules are those of :mod:`tilewright.backends.ascend.placed.instructions`.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]

BF16 = np.dtype(ml_dtypes.bfloat16)
F16, F32, F64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
FLOATS = (F16, BF16, F32)

#: Of each float type: bits of the significand without the hidden one, least exponent, bits of NaN and their type.
_FORMATS: dict[np.dtype[Any], tuple[int, int, int, Any]] = {
    F16: (10, -14, 0x7E00, np.uint16),
    BF16: (7, -126, 0x7FC0, np.uint16),
    F32: (23, -126, 0x7FC00000, np.uint32),
}
_LARGEST = {F16: 65504.0, BF16: float.fromhex("0x1.fep127"), F32: float(np.finfo(np.float32).max)}


def one_nan(values: Array) -> Array:
    """``values`` with every NaN as the positive quiet one without payload; changed in place where it is writable."""
    if values.dtype not in _FORMATS:
        return values
    nan = np.isnan(values)
    if nan.any():
        values = values if values.flags.writeable else values.copy()
        _, _, bits, kind = _FORMATS[values.dtype]
        values.view(kind)[nan] = bits
    return values


def whole(values: Array, mode: str) -> Array:
    """Floats rounded to whole numbers: ``rint``, ``floor``, ``ceil``, ``trunc`` or ``round`` (half away from zero)."""
    match mode:
        case "rint":
            return np.rint(values)
        case "floor":
            return np.floor(values)
        case "ceil":
            return np.ceil(values)
        case "trunc":
            return np.trunc(values)
        case "round":
            cut = np.trunc(values)
            return np.asarray(np.where(np.abs(values - cut) >= 0.5, cut + np.copysign(1.0, values), cut), values.dtype)
    raise ValueError(f"no rounding {mode}")


def narrowed(values: Array, dtype: np.dtype[Any], mode: str = "rint") -> Array:
    """f32 or f64 ``values`` as the float type ``dtype``, rounded once; what is too large becomes infinity."""
    with np.errstate(all="ignore"):
        if mode == "rint" and not (dtype == BF16 and values.dtype == F64):
            return one_nan(values.astype(dtype))
        wide = values.astype(F64)
        bits, least, _, _ = _FORMATS[dtype]
        exponent = np.maximum(np.frexp(wide)[1] - 1, least) - bits
        exponent = np.where(np.isfinite(wide), exponent, 0)
        rounded = np.ldexp(whole(np.ldexp(wide, -exponent), mode), exponent)
        rounded = np.where(np.abs(rounded) > _LARGEST[dtype], np.copysign(np.inf, rounded), rounded)
        return one_nan(np.where(np.isfinite(wide), rounded, wide).astype(F32).astype(dtype))


def to_integer(values: Array, dtype: np.dtype[Any], mode: str) -> Array:
    """Floats rounded, then cut off at the range of the integer type; NaN becomes 0."""
    with np.errstate(all="ignore"):
        wide = whole(values.astype(F64), mode)
        info = np.iinfo(dtype)
        low, high = float(info.min), float(info.max)
        inside = np.where((wide >= low) & (wide < high), wide, 0.0).astype(dtype)
        result = np.where(wide >= high, info.max, np.where(wide < low, info.min, inside))
        return np.asarray(np.where(np.isnan(wide), 0, result), dtype)


def from_integer(values: Array, dtype: np.dtype[Any], mode: str) -> Array:
    """Integers as the float type ``dtype``, rounded once."""
    if mode == "rint" and dtype == F32:
        return values.astype(dtype)
    number = values.astype(np.int64)
    bits = _FORMATS[dtype][0] + 1
    # f64 may round a large number up to the next power of two, which one step back corrects.
    shift = np.maximum(np.frexp(np.abs(number.astype(F64)))[1] - bits, 0).astype(np.int64)
    small = (np.abs(number.astype(F64)) > 0) & (shift > 0) & (_magnitude(number >> shift) < 1 << (bits - 1))
    shift = shift - small
    cut = number >> shift
    rest = (number - (cut << shift)).astype(F64) * np.exp2(-shift.astype(F64))
    up = _rounds_up(cut, rest, mode)
    with np.errstate(over="ignore"):
        return np.asarray(np.ldexp((cut + up).astype(F64), shift.astype(np.int32)).astype(F32).astype(dtype))


def _magnitude(number: Array) -> Array:
    """The size of what arithmetic shifts to the right leave: those round down, so -n - 1 has the bits of n."""
    return np.where(number < 0, ~number, number)


def _rounds_up(cut: Array, rest: Array, mode: str) -> Array:
    """Whether ``cut`` + ``rest`` (0 <= rest < 1) goes to ``cut`` + 1."""
    match mode:
        case "floor":
            return np.zeros(cut.shape, np.int64)
        case "ceil":
            up = rest > 0
        case "trunc":
            up = (rest > 0) & (cut < 0)
        case "rint":
            up = (rest > 0.5) | ((rest == 0.5) & (cut % 2 != 0))
        case "round":
            up = (rest > 0.5) | ((rest == 0.5) & (cut >= 0))
        case _:
            raise ValueError(f"no rounding {mode}")
    return np.asarray(up, np.int64)


def cast(values: Array, dtype: np.dtype[Any], mode: str = "rint") -> Array:
    """One element type turned into another."""
    source = values.dtype
    if source in FLOATS and dtype in FLOATS:
        if source == dtype:
            return one_nan(whole(values.astype(F32), mode).astype(dtype))
        wide = values.astype(F32)
        return one_nan(wide) if dtype == F32 else narrowed(wide, dtype, mode)
    if source in FLOATS:
        return to_integer(values.astype(F32), dtype, mode)
    if dtype in FLOATS:
        return from_integer(values, dtype, mode)
    return values.astype(dtype)


def number(value: float | int, dtype: np.dtype[Any]) -> Array:
    """A number among the operands, in the type of its instruction. Raises ``ValueError`` where it is none of those."""
    if dtype in FLOATS:
        if isinstance(value, int):
            return from_integer(np.asarray([value], np.int64), dtype, "rint")[0:1].reshape(())
        return np.array(narrowed(np.asarray([value], F64), dtype)[0], dtype)
    if value != int(value) or not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        raise ValueError(f"{value} is no {dtype}")
    return np.asarray(int(value), dtype)
