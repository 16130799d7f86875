"""Random quantized models: what several exporters make of a small network, with scales of all kinds.

Weights have 7 bits, since ONNX Runtime's products of u8 and s8 saturate in 16 bits without VNNI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.fuzz.graph import SIZES, Graph, Skip
from tests.fuzz.oracles import Array

#: Seeds from here on are of quantized models.
FIRST = 1_000_000

_DTYPES = ("uint8", "uint8", "uint8", "int8", "int8", "uint16", "int16")


def grow(g: Graph) -> None:
    """Build a model of a few quantized operators."""
    x = g.input("float32", [g.size(), *(g.pick([2, 4, 5, 7, 8, 9]) for _ in range(g.pick([1, 2, 3, 3])))])
    for n in range(g.integer(2, 6)):
        if n == 0 or g.maybe(0.6):
            x = _tried(g, [_quantized], x)
        x = _tried(g, STEPS, x)
    _tried(g, [_quantized], x)
    # Constants may lie along an axis that has a name and happens to be as long.
    g.pinned = any(n in SIZES[0].values() for c in g.constants.values() for n in c.shape)


def _tried(g: Graph, steps: Sequence[Callable[[Graph, str], str]], x: str) -> str:
    """What one of ``steps`` makes of ``x``; ``x`` itself where none that was tried fits."""
    for _ in range(12):
        try:
            return str(g.pick(steps)(g, x))
        except Skip:
            continue
    return x


def _scale(g: Graph, shape: tuple[int, ...], reach: float) -> Array:
    """Scales with which about ``reach`` fits 8 bits, or a power of two, or one number for all."""
    about = max(reach, 1e-3) / 127
    match g.integer(0, 5):
        case 0:
            return np.full(shape, 2.0 ** np.round(np.log2(about)), np.float32)
        case 1:
            return np.full(shape, about * g.rng.uniform(0.1, 1.5), np.float32)
        case _:
            return (about * g.rng.uniform(0.3, 1.5, shape)).astype(np.float32)


def _zero(g: Graph, dtype: str, shape: tuple[int, ...]) -> Array:
    info = np.iinfo(dtype)
    low, high = (info.min, info.max) if info.bits == 8 else (info.min // 64, info.max // 64)
    match g.integer(0, 3):
        case 0:
            return np.full(shape, 0, dtype)
        case 1:
            return np.full(shape, info.min, dtype)
        case _:
            return np.full(shape, (low + high) // 2 + g.integer(-20, 20), dtype)


def _parameters(g: Graph, dtype: str, shape: tuple[int, ...], reach: float) -> tuple[str, str | None]:
    zero = _zero(g, dtype, shape)
    return g.constant(_scale(g, shape, reach), "float32"), None if g.maybe(0.1) else g.constant(zero, dtype)


def _quantized(g: Graph, x: str) -> str:
    """``x`` through a Q and a DQ, with the same parameters as a rule; a bound before it sometimes."""
    value = g.values[x]
    if value.dtype != np.float32 or not value.size:
        return x
    if g.maybe(0.3):
        x = g.pick([_relu, _clipped])(g, x)
    dtype = g.pick(_DTYPES)
    axis, shape = 0, g.pick([(), (), (), (1,)])
    if value.ndim > 1 and g.maybe(0.15) and isinstance(g.sizes[x][axis := g.integer(0, value.ndim - 1)], int):
        shape = (value.shape[axis],)
    reach = float(np.abs(value).max()) * (1 / 200 if "16" in dtype else 1)
    scale, zero = _parameters(g, dtype, shape, reach)
    if zero is None:
        dtype, zero = "uint8", None
    (q,) = g.add("QuantizeLinear", [x, scale, zero], **({"axis": axis} if shape not in ((), (1,)) else {}))
    if g.maybe(0.15) and dtype in ("uint8", "int8"):
        q = g.pick([_moved, _moved, _pooled])(g, q)
        if shape not in ((), (1,)):
            raise Skip
    if g.maybe(0.08) and shape in ((), (1,)):
        scale = g.constant(_scale(g, shape, reach), "float32")
    (d,) = g.add("DequantizeLinear", [q, scale, zero], **({"axis": axis} if shape not in ((), (1,)) else {}))
    return d


# -- weights ---------------------------------------------------------------------------------------------------------


def _weight(g: Graph, shape: tuple[int, ...], axis: int) -> str:
    """A constant of ``shape`` in f32, as an exporter spells a quantized one; channels lie along ``axis``."""
    dtype = g.pick(["int8", "int8", "uint8"])
    several: tuple[int, ...] = (shape[axis],) if g.maybe(0.5) else g.pick([(), (1,)])
    along = {"axis": axis if g.maybe() else axis - len(shape)} if several not in ((), (1,)) else {}
    low, high = (0, 127) if dtype == "uint8" else (-64, 63)
    scale = g.constant(_scale(g, several, 1.0), "float32")
    given = None
    if dtype == "uint8" or g.maybe(0.7):
        number = g.integer(40, 90) if dtype == "uint8" else g.pick([0, 0, 0, 5])
        given = g.constant(np.full(several, number, dtype), dtype)
    if g.maybe(0.2):
        real = g.constant(g.rng.uniform(-1, 1, shape) * 0.4, "float32")
        (integers,) = g.add("QuantizeLinear", [real, scale, given or g.constant(np.zeros(several), dtype)], **along)
    else:
        integers = g.constant(g.rng.integers(low, high, shape, endpoint=True), dtype)
    return g.add("DequantizeLinear", [integers, scale, given], **along)[0]


def _bias(g: Graph, count: int) -> str:
    if g.maybe(0.5):
        return g.constant(g.rng.uniform(-1, 1, count), "float32")
    several = g.pick([(), (count,)])
    integers = g.constant(g.rng.integers(-500, 500, count), "int32")
    scale = g.constant(_scale(g, several, 0.3), "float32")
    return g.add("DequantizeLinear", [integers, scale, None], axis=0)[0]


# -- steps -----------------------------------------------------------------------------------------------------------


def _relu(g: Graph, x: str) -> str:
    return g.add("Relu", [x])[0]


def _clipped(g: Graph, x: str) -> str:
    low, high = sorted(g.rng.uniform(-4, 6, 2))
    return g.add("Clip", [x, g.constant(low, "float32"), g.constant(high + 0.5, "float32")])[0]


def _curve(g: Graph, x: str) -> str:
    return g.add(g.pick(["Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Erf"]), [x])[0]


def _moved(g: Graph, x: str) -> str:
    value = g.values[x]
    match g.integer(0, 3):
        case 0 if value.ndim > 1:
            return g.add("Transpose", [x], perm=[int(p) for p in g.rng.permutation(value.ndim)])[0]
        case 1 if value.ndim > 2:
            return g.add("Reshape", [x, g.constant([0, -1])])[0]
        case 2:
            return g.add("Unsqueeze", [x, g.constant([g.integer(0, value.ndim)])])[0]
        case _ if value.shape[-1] > 2:
            return g.add("Slice", [x, g.constant([1]), g.constant([2**31 - 1]), g.constant([-1])])[0]
    raise Skip


def _pooled(g: Graph, x: str) -> str:
    if g.values[x].ndim != 4 or min(g.values[x].shape[2:]) < 3:
        raise Skip
    pads = {"pads": [1, 1, 1, 1]} if g.maybe() else {}
    return g.add("MaxPool", [x], kernel_shape=[2, 2], strides=g.pick([[1, 1], [2, 2]]), **pads)[0]


def _averaged(g: Graph, x: str) -> str:
    if g.values[x].ndim != 4:
        raise Skip
    return g.add("GlobalAveragePool", [x])[0]


def _sum(g: Graph, x: str) -> str:
    return g.add(g.pick(["Add", "Add", "Mul"]), [x, g.pick([x, _quantized(g, x)])])[0]


def _with_constant(g: Graph, x: str) -> str:
    if not isinstance(g.sizes[x][-1], int):
        raise Skip
    return g.add(g.pick(["Add", "Mul"]), [x, _weight(g, g.values[x].shape[-1:], 0)])[0]


def _joined(g: Graph, x: str) -> str:
    return g.add("Concat", [x, g.pick([x, _quantized(g, x)])], axis=-1)[0]


def _product(g: Graph, x: str) -> str:
    value, columns = g.values[x], g.pick([1, 2, 4, 5, 7, 8])
    if value.ndim < 2 or value.shape[-1] > 200 or not isinstance(g.sizes[x][-1], int):
        raise Skip
    if g.maybe(0.4):
        w = g.add("Transpose", [_weight(g, (columns, value.shape[-1]), 0)], perm=[1, 0])[0]
    else:
        w = _weight(g, (value.shape[-1], columns), 1)
    y = g.add("MatMul", [x, w])[0]
    return g.add("Add", [y, _bias(g, columns)])[0] if g.maybe(0.6) else y


def _gemm(g: Graph, x: str) -> str:
    value, columns = g.values[x], g.pick([1, 2, 4, 5, 7, 8])
    if value.ndim != 2 or not isinstance(g.sizes[x][-1], int):
        raise Skip
    factors = {"alpha": 0.7, "beta": 1.5} if g.maybe(0.3) else {}
    return g.add("Gemm", [x, _weight(g, (columns, value.shape[-1]), 0), _bias(g, columns)], transB=1, **factors)[0]


def _conv(g: Graph, x: str) -> str:
    value, filters = g.values[x], 2 * g.integer(1, 4)
    if value.ndim < 3 or not all(isinstance(s, int) for s in g.sizes[x][1:]) or min(value.shape[2:]) < 2:
        raise Skip
    group = 2 if value.shape[1] % 2 == 0 and g.maybe(0.3) else 1
    kernel = [g.pick([k for k in (1, 2, 3) if k <= size]) for size in value.shape[2:]]
    pads = {"pads": [1] * 2 * len(kernel)} if g.maybe() else {}
    w = _weight(g, (filters, value.shape[1] // group, *kernel), 0)
    return g.add("Conv", [x, w, *([_bias(g, filters)] if g.maybe(0.7) else [])], group=group, **pads)[0]


def _normalized(g: Graph, x: str) -> str:
    value = g.values[x]
    if value.ndim < 3 or not isinstance(g.sizes[x][1], int):
        raise Skip
    drawn = [g.constant(g.rng.uniform(low, 1.5, value.shape[1]), "float32") for low in (-0.2, -1, -1, 0.3)]
    return g.add("BatchNormalization", [x, *drawn])[0]


def _attention(g: Graph, x: str) -> str:
    value = g.values[x]
    if value.ndim != 3:
        raise Skip
    scores = g.add("MatMul", [x, g.add("Transpose", [x], perm=[0, 2, 1])[0]])[0]
    weights = _quantized(g, g.add("Softmax", [_quantized(g, scores)], axis=-1)[0])
    return g.add("MatMul", [weights, x])[0]


def _dynamic(g: Graph, x: str) -> str:
    value, columns = g.values[x], g.pick([1, 2, 4, 5, 7, 8])
    if value.ndim < 2 or not isinstance(g.sizes[x][-1], int):
        raise Skip
    q, scale, zero = g.add("DynamicQuantizeLinear", [x], 3)
    w = g.constant(g.rng.integers(-64, 63, (value.shape[-1], columns)), "int8")
    factor = g.constant(_scale(g, g.pick([(), (columns,)]), 1.0), "float32")
    (sums,) = g.add("MatMulInteger", [q, w, zero])
    (real,) = g.add("Cast", [sums], to=1)
    return g.add("Mul", [real, g.add("Mul", [scale, factor])[0]])[0]


def _integer_operator(g: Graph, x: str) -> str:
    """QLinearMatMul or QLinearConv between its own Q and DQ."""
    value, dtype, columns = g.values[x], g.pick(["uint8", "int8"]), g.pick([1, 2, 4, 5, 7, 8])
    if value.ndim < 2 or not all(isinstance(s, int) for s in g.sizes[x][1:]):
        raise Skip
    one: list[Any] = [g.constant(_scale(g, (), float(np.abs(value).max())), "float32")]
    one.append(g.constant(_zero(g, dtype, ()), dtype))
    (q,) = g.add("QuantizeLinear", [x, *one])
    out = [g.constant(_scale(g, (), 4.0), "float32"), g.constant(_zero(g, dtype, ()), dtype)]
    convolves = value.ndim == 4
    shape = (columns, value.shape[1], 1, 1) if convolves else (value.shape[-1], columns)
    several = g.pick([(), (columns,)]) if convolves or value.ndim == 2 else ()
    w = g.constant(g.rng.integers(-64, 63, shape), "int8")
    weight = [w, g.constant(_scale(g, several, 1.0), "float32"), g.constant(np.zeros(several), "int8")]
    (r,) = g.add("QLinearConv" if convolves else "QLinearMatMul", [q, *one, *weight, *out])
    return g.add("DequantizeLinear", [r, *out])[0]


STEPS: tuple[Callable[[Graph, str], str], ...] = (
    _relu, _clipped, _curve, _moved, _moved, _pooled, _averaged, _sum, _with_constant, _joined, _product, _product,
    _product, _gemm, _gemm, _conv, _conv, _conv, _normalized, _attention, _dynamic, _integer_operator,
)  # fmt: skip
