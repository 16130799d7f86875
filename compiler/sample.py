"""Inputs made up from a signature, for running, measuring and checking a model without data."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIMENSION = 4  # a symbolic dimension that nothing else says a size for


def sample_input(name: str, dtype: np.dtype[Any], shape: Sequence[int], seed: int = 0) -> NDArray[Any]:
    """Seeded values for one input, the same for the same name.

    Floats are standard normal. Integers and booleans are 0 or 1: valid as a mask, and as an index into any table.
    """
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if dtype.kind in "iub":
        return random.integers(0, 2, shape).astype(dtype)
    return random.standard_normal(shape).astype(dtype)


def concrete_shape(shape: Sequence[int | str], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Numbers for a signature's shape: names (and ``name=lo..hi``) take their size from ``sizes``."""
    return tuple(d if isinstance(d, int) else sizes.get(d, DIMENSION) for d in shape)
