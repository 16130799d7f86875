"""What a quantized graph means: integers exactly, everything real in float64, ties to even, one operator at a time.

Nothing of the compiler is used. :func:`differences` holds the integers that an implementation gives for every quantized
tensor against this, each computed from the integers that the implementation had before: so a result that is rounded
the other way has no consequences, and only one that lies at a tie, as float32 tells it, may be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]
Values = dict[str, Array]

#: Steps from a tie within which float32 may round either way: values of up to 255 steps, whose unit in the last place
#: is 2^-16 steps, through a scale, a bias, a residual and an activation.
TIE = 16 * 2.0**-16
#: Of float results, relative to the largest: float32 with a sum of up to a few thousand terms.
REAL = 1e-5


def evaluate(model: onnx.ModelProto, feed: Mapping[str, Array], given: Mapping[str, Array] | None = None) -> Values:
    """Every value. What ``given`` has is taken from there by those who read it.

    Reals are float64, integers int64. Of a quantized value, ``name + "!"`` has what was rounded, in steps.
    """
    known: Values = {t.name: wide(numpy_helper.to_array(t)) for t in model.graph.initializer}
    known |= {name: wide(array) for name, array in feed.items()}
    results = dict(known)
    for node in model.graph.node:
        made = step(node, [known[n] if n else None for n in node.input], types(model))
        for name, array in zip([*node.output, f"{node.output[0]}!"], made, strict=False):
            results[name] = array
            known[name] = wide(given[name]) if given and name in given else array
    return results


def differences(model: onnx.ModelProto, feed: Mapping[str, Array], got: Mapping[str, Array]) -> list[str]:
    """Every output of ``got`` that is not what the graph means, with how far it is off. Outputs are quantized tensors
    and results."""
    want = evaluate(model, feed, got)
    told = []
    for name, array in got.items():
        right = want[name]
        if array.shape != right.shape:
            told.append(f"{name}: {array.shape} beside {right.shape}")
        elif right.dtype == np.int64:
            off = np.abs(wide(array) - right)
            before = want.get(f"{name}!")
            tie = np.zeros(off.shape, bool) if before is None else np.abs(before % 1 - 0.5) <= TIE
            wrong = (off > 1) | ((off == 1) & ~tie)
            if wrong.any():
                told.append(f"{name}: {int(wrong.sum())} of {off.size} off, by up to {int(off.max())}")
        else:
            off = np.abs(array.astype(np.float64) - right).max(initial=0.0)
            if not off <= REAL * max(np.abs(right).max(initial=0.0), 1e-30):
                told.append(f"{name}: off by {off:.3g}, largest {np.abs(right).max(initial=0.0):.3g}")
    return told


def wide(array: Array) -> Array:
    """Integers as int64, reals as float64."""
    array = np.asarray(array)
    integral = array.dtype.kind in "iub" or "int" in array.dtype.name
    return array.astype(np.int64 if integral else np.float64)


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of initializers: that of a zero point is the one that is quantized to."""
    return {t.name: t.data_type for t in model.graph.initializer}


def step(node: onnx.NodeProto, x: list[Array | None], kinds: Mapping[str, int]) -> list[Array]:
    """The outputs of a node; of QuantizeLinear also what was rounded."""
    a: dict[str, Any] = {p.name: helper.get_attribute_value(p) for p in node.attribute}
    if node.op_type == "QuantizeLinear":
        zero = node.input[2] if len(node.input) > 2 else ""
        kind = a.get("output_dtype") or kinds.get(zero, onnx.TensorProto.UINT8)
        return quantize(x[0], x[1], x[2] if zero else None, kind, a.get("axis", 1), a.get("block_size", 0))
    return OPERATORS[node.op_type](a, *x)


def limits(kind: int) -> tuple[int, int]:
    """The least and the largest integer of an element type."""
    found = ml_dtypes.iinfo(helper.tensor_dtype_to_np_dtype(kind))
    return int(found.min), int(found.max)


def quantize(x: Any, scale: Any, zero: Any, kind: int, axis: int = 1, block: int = 0) -> list[Array]:
    """``clip(round(x / scale) + zero)``, and what was rounded, within the limits."""
    low, high = limits(kind)
    offset = 0 if zero is None else _spread(zero, x, axis, block)
    steps = np.clip(x / _spread(scale, x, axis, block), low - offset, high - offset)
    return [(np.rint(steps) + offset).astype(np.int64), steps]


def _spread(parameter: Any, x: Any, axis: int, block: int) -> Any:
    """A scale or zero point in a shape that broadcasts to ``x``."""
    if parameter.size == 1 and parameter.ndim <= 1:
        return parameter.reshape(())
    if block:
        return np.repeat(parameter, block, axis)[tuple(slice(0, n) for n in x.shape)]
    return parameter.reshape([-1 if d == axis % x.ndim else 1 for d in range(x.ndim)])


def _dequantize(a: Any, x: Any, scale: Any, zero: Any = None) -> list[Array]:
    axis, block = a.get("axis", 1), a.get("block_size", 0)
    whole = x if zero is None else x - _spread(zero, x, axis, block)
    return [whole * _spread(scale, x, axis, block)]


def _dynamic(a: Any, x: Any) -> list[Array]:
    low, high = min(x.min(), 0.0), max(x.max(), 0.0)
    scale = np.float64((high - low) / 255 or 1.0)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    steps = np.clip(x / scale, -zero, 255 - zero)
    return [(np.rint(steps) + zero).astype(np.int64), scale, zero.astype(np.int64), steps]


def _windows(a: Any, x: Any, kernel: tuple[int, ...], fill: float) -> Array:
    """``[batch, channel, row, column, tap row, tap column]`` of a padded image."""
    strides, dilations = a.get("strides", [1, 1]), a.get("dilations", [1, 1])
    pads = a.get("pads", [0, 0, 0, 0])
    whole = [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])]
    padded = np.pad(x, whole, constant_values=fill)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    found = np.lib.stride_tricks.sliding_window_view(padded, spans, (2, 3))
    return found[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def _conv(a: Any, x: Any, w: Any, bias: Any = None) -> list[Array]:
    group = a.get("group", 1)
    views = _windows(a, x, w.shape[2:], 0)
    parts = zip(np.split(views, group, 1), np.split(w, group, 0), strict=True)
    y = np.concatenate([np.einsum("bchwij,ocij->bohw", v, k) for v, k in parts], 1)
    return [y if bias is None else y + bias.reshape(1, -1, 1, 1)]


def _gemm(a: Any, x: Any, w: Any, c: Any = None) -> list[Array]:
    y = (x.T if a.get("transA") else x) @ (w.T if a.get("transB") else w)
    return [a.get("alpha", 1.0) * y + (0 if c is None else a.get("beta", 1.0) * c)]


def _integer_product(a: Any, x: Any, w: Any, zx: Any = None, zw: Any = None) -> list[Array]:
    return [(x - (0 if zx is None else zx)) @ (w - (0 if zw is None else zw))]


def _integer_conv(a: Any, x: Any, w: Any, zx: Any = None, zw: Any = None) -> list[Array]:
    zw = 0 if zw is None else zw.reshape(-1, *[1] * (w.ndim - 1)) if zw.ndim else zw
    return _conv(a, x - (0 if zx is None else zx), w - zw)


def _clip(a: Any, x: Any, low: Any = None, high: Any = None) -> list[Array]:
    return [np.clip(x, -np.inf if low is None else low, np.inf if high is None else high)]


def _reshape(a: Any, x: Any, shape: Any) -> list[Array]:
    return [x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape)])]


def _max_pool(a: Any, x: Any) -> list[Array]:
    least = np.iinfo(np.int64).min if x.dtype == np.int64 else -np.inf
    return [_windows(a, x, tuple(a["kernel_shape"]), least).max((-2, -1))]


def _average_pool(a: Any, x: Any) -> list[Array]:
    views = _windows(a, x, tuple(a["kernel_shape"]), 0.0)
    inside = _windows(a, np.ones_like(x), tuple(a["kernel_shape"]), 0.0)
    count = views[0, 0, 0, 0].size if a.get("count_include_pad") else inside.sum((-2, -1))
    return [views.sum((-2, -1)) / count]


def _softmax(a: Any, x: Any) -> list[Array]:
    e = np.exp(x - x.max(a.get("axis", -1), keepdims=True))
    return [e / e.sum(a.get("axis", -1), keepdims=True)]


def _cast(a: Any, x: Any) -> list[Array]:
    real = a["to"] in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    return [x.astype(np.float64 if real else np.int64)]


OPERATORS: dict[str, Callable[..., list[Array]]] = {
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic,
    "Conv": _conv,
    "ConvInteger": _integer_conv,
    "MatMul": lambda a, x, y: [x @ y],
    "MatMulInteger": _integer_product,
    "Gemm": _gemm,
    "Add": lambda a, x, y: [x + y],
    "Sub": lambda a, x, y: [x - y],
    "Mul": lambda a, x, y: [x * y],
    "Div": lambda a, x, y: [x / y],
    "Max": lambda a, x, y: [np.maximum(x, y)],
    "Abs": lambda a, x: [np.abs(x)],
    "ReduceMax": lambda a, x, axes: [x.max(tuple(axes), keepdims=bool(a.get("keepdims", 1)))],
    "Relu": lambda a, x: [np.maximum(x, 0)],
    "LeakyRelu": lambda a, x: [np.where(x < 0, x * np.float64(np.float32(a.get("alpha", 0.01))), x)],
    "HardSwish": lambda a, x: [x * np.clip(x / 6 + 0.5, 0, 1)],
    "Sigmoid": lambda a, x: [1 / (1 + np.exp(-x))],
    "Clip": _clip,
    "Softmax": _softmax,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda a, x: [x.mean((2, 3), keepdims=True)],
    "Flatten": lambda a, x: [x.reshape(int(np.prod(x.shape[: a.get("axis", 1)])), -1)],
    "Reshape": _reshape,
    "Transpose": lambda a, x: [x.transpose(a["perm"])],
    "Concat": lambda a, *x: [np.concatenate(x, a["axis"])],
    "Cast": _cast,
}
