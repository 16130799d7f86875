"""What each instruction computes, in NumPy: fp16 and bf16 rounding, fp32 and int32 sums.

Vector instructions compute in the dtype of their destination. Comparisons write one bit a lane, eight lanes a byte, as
the hardware's masks are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: Instructions that move bytes, undefined ones included; any other use of an undefined byte is refused.
MOVES = frozenset(["load"])


def _binary(fn: Callable[[Array, Array], Array]) -> Callable[[list[Array]], Array]:
    return lambda a: fn(a[0], a[1])


def _unary(fn: Callable[[Array], Array]) -> Callable[[list[Array]], Array]:
    return lambda a: fn(a[0])


#: Element-wise vector instructions (Ascend C names in capitals: Add, Sub … Duplicate, Brcb).
VECTOR: dict[str, Callable[[list[Array]], Array]] = {
    "add": _binary(np.add),
    "sub": _binary(np.subtract),
    "mul": _binary(np.multiply),
    "div": _binary(np.divide),
    "max": _binary(np.maximum),
    "min": _binary(np.minimum),
    "exp": _unary(np.exp),
    "ln": _unary(np.log),
    "abs": _unary(np.abs),
    "sqrt": _unary(np.sqrt),
    "relu": _unary(lambda x: np.maximum(x, x.dtype.type(0))),
    "neg": _unary(np.negative),
    "copy": _unary(lambda x: x),
    "cast": _unary(lambda x: x),
    "duplicate": _unary(lambda x: x),
    "brcb": _unary(lambda x: x),
}

#: Comparisons: two operands to a mask.
COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}

#: Reductions along the last dimension of the source.
REDUCE: dict[str, Callable[..., Array]] = {"row_sum": np.sum, "row_max": np.max, "row_min": np.min}


def vector(op: str, sources: list[Array], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The result of a vector instruction whose destination has ``shape`` elements of ``dtype``.

    Sources have the shape of their views; masks come as packed bytes of the last dimension.
    """
    with np.errstate(all="ignore"):
        if op in REDUCE:
            return REDUCE[op](sources[0], axis=-1, keepdims=sources[0].ndim == len(shape)).astype(dtype).reshape(shape)
        if op.startswith("compare_"):
            return np.packbits(COMPARE[op[8:]](*np.broadcast_arrays(*sources)), axis=-1, bitorder="little")
        if op == "select":
            mask = np.unpackbits(sources[0], axis=-1, bitorder="little")[..., : shape[-1]].astype(bool)
            return np.where(mask, sources[1], sources[2]).astype(dtype)
        if op == "iota":
            return (sources[0] + np.arange(shape[-1])).astype(dtype)
        wide = sources if op in ("cast", "copy", "brcb") else [s.astype(dtype) for s in sources]
        return np.broadcast_to(VECTOR[op](wide).astype(dtype), shape)


def mmad(a: Array, b: Array, accumulator: Array | None, dtype: np.dtype[Any]) -> Array:
    """``accumulator + a @ b`` in the accumulator's dtype (fp32 for floats, int32 for int8).

    Takes the real m, k and n, not whole fractals: lanes of the last fractal beyond k are taken to have no part in the
    sum, as the parameters of ``Mmad`` say. The order of summation inside one instruction is not modelled.
    """
    total: Array = np.matmul(a.astype(dtype), b.astype(dtype))
    return total if accumulator is None else accumulator + total


def fixpipe(source: Array, dtype: np.dtype[Any], relu: bool) -> Array:
    """The way out of L0C: optional relu, then the cast."""
    return (np.maximum(source, source.dtype.type(0)) if relu else source).astype(dtype)
