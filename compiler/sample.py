"""Inputs made up from a signature, for running, measuring and checking a model without data."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tilewright.errors import UsageError
from tilewright.ir.parse import parse
from tilewright.ir.symbolic import Expr, Symbol, as_expr

Array = NDArray[Any]

#: Sizes of the made-up samples for symbols in order of appearance: the smallest there are, and unequal odd ones.
SAMPLES = ((1, 8, 4, 2), (3, 13, 7, 5))


@dataclass(frozen=True, slots=True)
class Input:
    """Name, element type and shape of an input; sizes are numbers or expressions as text (``"N"``, ``"P + S"``)."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]


def numpy_dtype(spelling: str) -> np.dtype[Any]:
    """The NumPy dtype of ``f32``, ``i64``, ``bool`` …; those that NumPy lacks (``bf16``) come from ml_dtypes."""
    kinds = {"f": "float", "i": "int", "u": "uint"}
    plain = kinds.get(spelling[0], "") + spelling[1:] if spelling[1:].isdigit() else spelling
    try:
        return np.dtype(plain)
    except TypeError:
        from tilewright.ir.types import DType

        return DType.parse(spelling).numpy


def symbols_of(inputs: Sequence[Input]) -> list[str]:
    """Dimension symbols in order of appearance."""
    found: dict[str, None] = {}
    for each in inputs:
        for size in each.shape:
            found |= dict.fromkeys(sorted(_expr(size).symbols))
    return list(found)


def bind(inputs: Sequence[Input], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The symbols' sizes that concrete shapes of some inputs say. Raises :class:`UsageError` where they cannot."""
    known = {each.name: each for each in inputs}
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        where = f"--input-shape of {name!r}"
        if name not in known:
            raise UsageError("input-shape-name", where=where, cause="no such input", fix=f"inputs: {', '.join(known)}")
        own = known[name].shape
        if len(own) != len(shape):
            cause = f"{len(shape)} sizes for an input of {len(own)} axes"
            raise UsageError("input-shape-rank", where=where, cause=cause, fix="give one size per axis")
        for size, number in zip(own, shape, strict=True):
            expr = _expr(size)
            if len(expr.atoms) == 1 and isinstance(expr.atoms[0], Symbol) and expr == parse(expr.atoms[0].name):
                sizes.setdefault(expr.atoms[0].name, number)
        for size, number in zip(own, shape, strict=True):
            expr = _expr(size)
            if expr.symbols <= set(sizes) and expr.evaluate(sizes) != number:
                cause = f"{number} where the file has {size}"
                raise UsageError("input-shape-conflict", where=where, cause=cause, fix="give sizes that the file takes")
    return sizes


def within(size: int, low: int, high: int, multiple: int = 1) -> int:
    """The size that is nearest to ``size`` among the multiples from ``low`` to ``high``."""
    return min(max(-(-size // multiple) * multiple, low), high)


def make_inputs(inputs: Sequence[Input], sizes: Mapping[str, int], seed: int = 0) -> dict[str, Array]:
    """Seeded values for every input, at these sizes of the symbols."""
    return {i.name: sample_input(i.name, i.dtype, [_expr(s).evaluate(sizes) for s in i.shape], seed) for i in inputs}


def sample_input(name: str, dtype: np.dtype[Any], shape: Sequence[int], seed: int = 0) -> Array:
    """Seeded values for one input, the same for the same name.

    Floats are standard normal. Integers and booleans are 0 or 1, but never 0 first on the last axis: valid as an index
    into any table, and as a mask that leaves something. A boolean scalar is false: a switch that is off.
    """
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if dtype.kind in "iub" or "int" in dtype.name:
        if not shape:
            return np.asarray(dtype.kind != "b").astype(dtype)
        values = random.integers(0, 2, shape)
        values[..., :1] = 1
        return values.astype(dtype)
    return np.asarray(random.standard_normal(shape)).astype(dtype)


def _expr(size: int | str) -> Expr:
    return parse(size) if isinstance(size, str) else as_expr(size)
