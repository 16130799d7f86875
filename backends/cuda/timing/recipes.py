"""Inputs made from a recipe: the same bytes wherever they are made, from integer arithmetic alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: Bits of an element and how its values are made: ``float`` types from values of mean 0 and variance 1.
BITS = {
    "f64": 64, "f32": 32, "f16": 16, "bf16": 16, "f8e4m3": 8, "f8e5m2": 8, "i64": 64, "u64": 64, "i32": 32, "u32": 32,
    "i16": 16, "u16": 16, "i8": 8, "u8": 8, "bool": 8, "i4": 4, "u4": 4, "i2": 2, "u2": 2,
}  # fmt: skip
_NUMPY = {"f64": "<f8", "f32": "<f4", "f16": "<f2"}


def noise(count: int, seed: int) -> Array:
    """``count`` numbers of 32 random bits, by position and ``seed`` (SplitMix64: Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        z = (np.arange(count, dtype=np.uint64) + np.uint64(seed << 40 | 1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z >> np.uint64(32)).astype(np.uint32)


def codes(recipe: Mapping[str, Any], seed: int) -> Array:
    """The elements of a buffer in its logical order, as unsigned integers of their bits.

    ``values`` of a recipe is ``["normal", scale]`` or ``["integers", low, high]`` with ``high`` not among them.
    """
    count, dtype = int(np.prod(recipe["shape"], dtype=np.int64)), recipe["dtype"]
    bits = noise(count, seed)
    kind, *given = recipe["values"]
    if kind == "integers":
        low, high = given
        integers = (bits.astype(np.uint64) * np.uint64(max(1, high - low)) >> np.uint64(32)).astype(np.int64) + low
        kept: Array = integers.view(np.uint64) & np.uint64((1 << BITS[dtype]) - 1)
        return kept
    # Uniform, of variance 1: sums of products then grow as those of normal values do.
    values = ((bits.astype(np.float64) + 0.5) / 2**32 - 0.5) * (12**0.5 * given[0])
    return _float_codes(values, dtype)


def _float_codes(values: Array, dtype: str) -> Array:
    if dtype in _NUMPY:
        array = values.astype(_NUMPY[dtype])
        return array.view(f"<u{array.dtype.itemsize}").astype(np.uint64)
    wide = values.astype("<f4").view(np.uint32).astype(np.uint64)
    if dtype == "bf16":
        rounded: Array = (wide + np.uint64(0x7FFF) + (wide >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)
        return rounded
    # 8-bit floats: sign, and an exponent and mantissa cut from those of f16, which e5m2 is the upper half of.
    half = values.astype("<f2").view(np.uint16).astype(np.uint64)
    if dtype == "f8e5m2":
        return half >> np.uint64(8)
    sign = half >> np.uint64(8) & np.uint64(0x80)
    magnitude = np.maximum((half & np.uint64(0x7FFF)).astype(np.int64) - (8 << 10), 0) >> 7  # bias 15 to bias 7
    cut: Array = sign | np.minimum(magnitude, 0x7E).astype(np.uint64)
    return cut


def stored(elements: Array, dtype: str) -> bytes:
    """Elements as memory holds them: of less than 8 bits several in a byte, the first in the lowest bits."""
    bits = BITS[dtype]
    if bits >= 8:
        return elements.astype(f"<u{bits // 8}").tobytes()
    per_byte = 8 // bits
    padded = np.zeros(-(-elements.size // per_byte) * per_byte, np.uint8)
    padded[: elements.size] = elements.astype(np.uint8)
    places = np.arange(0, 8, bits, dtype=np.uint8)
    return bytes(np.bitwise_or.reduce(padded.reshape(-1, per_byte) << places, axis=1).astype(np.uint8).tobytes())


def packed(elements: Array, shape: Sequence[int], pack: Mapping[str, Any]) -> Array:
    """Elements of a tensor of ``shape`` in the layout of a pack: ``index`` are expressions over ``d0``, ``d1`` …, and
    what no element goes to is 0."""
    result = np.zeros(pack["shape"], np.uint64)
    grids = {f"d{n}": g for n, g in enumerate(np.meshgrid(*map(np.arange, shape), indexing="ij", sparse=True))}
    names = {"__builtins__": {}, "min": np.minimum, "max": np.maximum, **grids}
    index = tuple(np.broadcast_to(eval(text, names), shape) for text in pack["index"])
    result[index] = elements.reshape(shape)
    return result.reshape(-1)


def decoded(data: bytes, dtype: str) -> Array:
    """The elements of a buffer as numbers, for comparing."""
    if dtype == "bf16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype in _NUMPY:
        return np.frombuffer(data, _NUMPY[dtype]).astype(np.float64)
    bits = BITS[dtype]
    if dtype.startswith("f8") or bits < 8:
        return np.frombuffer(data, np.uint8).astype(np.float64)
    kind = "i" if dtype.startswith("i") else "u"
    return np.frombuffer(data, f"<{kind}{bits // 8}").astype(np.float64)
