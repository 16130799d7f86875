"""Pieces that several transformers spell alike, as exporters write them."""

from __future__ import annotations

import numpy as np

from models.builder import GraphBuilder


def gelu(b: GraphBuilder, x: str, name: str) -> str:
    """``x · (1 + erf(x / √2)) / 2``."""
    scaled = b.node("Div", [x, b.constant("sqrt2", np.sqrt(2.0))], f"{name}/scaled")
    erf = b.node("Erf", [scaled], f"{name}/erf")
    cdf2 = b.node("Add", [erf, b.constant("one", 1.0)], f"{name}/cdf2")
    return b.node("Mul", [b.node("Mul", [x, cdf2], f"{name}/twice"), b.constant("half", 0.5)], name)


def dense(b: GraphBuilder, x: str, checkpoint: str, sizes: tuple[int, int], name: str, gain: float = 1.0) -> str:
    """A product with seeded weights ``[in, out]`` and a bias; ``gain`` is the standard deviation of its result."""
    weight = b.seeded(f"{checkpoint}.weight", sizes, gain * sizes[0] ** -0.5)
    return b.node("Add", [b.node("MatMul", [x, weight], f"{name}/product"), bias(b, checkpoint, sizes[1])], name)


def bias(b: GraphBuilder, checkpoint: str, size: int) -> str:
    """A seeded bias."""
    return b.seeded(f"{checkpoint}.bias", (size,), 0.1)


def layer_norm(b: GraphBuilder, x: str, checkpoint: str, size: int, epsilon: float, name: str) -> str:
    """Layer normalization over the last axis."""
    scale = b.seeded(f"{checkpoint}.weight", (size,), 0.1, 1.0)
    return b.node("LayerNormalization", [x, scale, bias(b, checkpoint, size)], name, axis=-1, epsilon=epsilon)


def size_of(b: GraphBuilder, x: str, axis: int, name: str) -> str:
    """The size of one axis, a scalar, as ``Shape`` and ``Gather``."""
    index = b.constant(f"i64_scalar_{axis}", axis, np.int64)
    return b.node("Gather", [b.node("Shape", [x], f"{name}/shape"), index], name, axis=0)


def joined_sizes(b: GraphBuilder, sizes: list[str | int], name: str) -> str:
    """A shape from scalars in the graph and numbers, as ``Unsqueeze`` and ``Concat``."""
    parts = [
        b.integers(s) if isinstance(s, int) else b.node("Unsqueeze", [s, b.integers(0)], f"{name}/{i}")
        for i, s in enumerate(sizes)
    ]
    return b.node("Concat", parts, name, axis=0)
