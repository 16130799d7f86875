"""Quantization, and products and convolutions of integers, with every operand given at run time, at several sizes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tilewright import driver
from tilewright.options import Options
from tilewright.runtime import load

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]
RNG = np.random.default_rng(7)
F32, F16, U8, I8, I16, U16, I32 = (
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8, TensorProto.INT8, TensorProto.INT16, TensorProto.UINT16,
    TensorProto.INT32,
)  # fmt: skip


class Case:
    """An operator, its inputs as (element type, declared shape), what NumPy makes of them, and its attributes."""

    def __init__(
        self,
        op: str,
        inputs: Sequence[tuple[int, tuple[Any, ...]] | None],
        expected: Callable[..., Sequence[Array]],
        results: Sequence[int],
        **attributes: Any,
    ):
        self.op, self.inputs, self.expected, self.results = op, inputs, expected, results
        self.attributes = attributes

    def __str__(self) -> str:
        shapes = ["-" if i is None else f"{TensorProto.DataType.Name(i[0])}{list(i[1])}" for i in self.inputs]
        return f"{self.op}{self.attributes or ''}({', '.join(shapes)})"


def _clipped(values: Array, code: int) -> Array:
    kind = helper.tensor_dtype_to_np_dtype(code)
    return np.clip(values, np.iinfo(kind).min, np.iinfo(kind).max).astype(kind)


def _spread(parameter: Array | None, x: Array, axis: int = 1, block: int = 0) -> Array:
    """A scale or zero point of ``x`` in a shape that broadcasts to it."""
    if parameter is None:
        return np.zeros((), x.dtype)
    if block:
        return np.repeat(parameter, block, axis)[tuple(slice(0, s) for s in x.shape)]
    return (
        parameter
        if parameter.size == 1
        else parameter.reshape([-1 if d == axis % x.ndim else 1 for d in range(x.ndim)])
    )


def quantized(code: int, axis: int = 1, block: int = 0) -> Callable[..., Sequence[Array]]:
    """``QuantizeLinear``."""

    def expected(x: Array, scale: Array, zero: Array | None = None) -> Sequence[Array]:
        real = x.astype(scale.dtype) / _spread(scale, x, axis, block)
        return [_clipped(np.rint(real.astype(np.float64)) + _spread(zero, x, axis, block), code)]

    return expected


def dequantized(axis: int = 1, block: int = 0) -> Callable[..., Sequence[Array]]:
    """``DequantizeLinear``."""

    def expected(x: Array, scale: Array, zero: Array | None = None) -> Sequence[Array]:
        whole = x.astype(np.float64) - _spread(zero, x, axis, block)
        return [(whole * _spread(scale, x, axis, block)).astype(scale.dtype)]

    return expected


def dynamic(x: Array) -> Sequence[Array]:
    """``DynamicQuantizeLinear``."""
    low, high = min(x.min(initial=0), np.float32(0)), max(x.max(initial=0), np.float32(0))
    scale = np.float32((high - low) / np.float32(255)) if high > low else np.float32(1)
    zero = _clipped(np.rint(-low / scale), U8)
    return [_clipped(np.rint(x / scale) + zero, U8), np.float32(scale), zero]


def _of_rows(parameter: Array | None, default: float = 0) -> Array:
    if parameter is None:
        return np.array(default)
    return parameter if parameter.ndim != 1 or parameter.size == 1 else parameter[:, None]


def product(a: Array, b: Array, a_zero: Array | None = None, b_zero: Array | None = None) -> Sequence[Array]:
    """``MatMulInteger``."""
    left = a.astype(np.int32) - _of_rows(a_zero).astype(np.int32)
    return [left @ (b.astype(np.int32) - (0 if b_zero is None else b_zero.astype(np.int32)))]


def scaled_product(
    a: Array, a_scale: Array, a_zero: Array, b: Array, b_scale: Array, b_zero: Array, scale: Array, zero: Array
) -> Sequence[Array]:
    """``QLinearMatMul``."""
    (total,) = product(a, b, a_zero, b_zero)
    factor = _of_rows(a_scale).astype(np.float64) * b_scale / _of_rows(scale)
    return [_clipped(np.rint(total * factor) + _of_rows(zero), helper.np_dtype_to_tensor_dtype(zero.dtype))]


def convolved(
    x: Array, w: Array, x_zero: Array | None = None, w_zero: Array | None = None, pads: int = 0, groups: int = 1
) -> Array:
    """``ConvInteger`` over two dimensions."""
    x = np.pad(
        x.astype(np.int32) - (0 if x_zero is None else int(x_zero)), [(0, 0), (0, 0), (pads, pads), (pads, pads)]
    )
    w = w.astype(np.int32) - (0 if w_zero is None else w_zero.astype(np.int32).reshape(-1, 1, 1, 1))
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))
    parts = zip(np.split(windows, groups, 1), np.split(w, groups, 0), strict=True)
    return np.concatenate([np.einsum("ncijkl,ockl->noij", a, b) for a, b in parts], 1)


def _conv(pads: int = 0, groups: int = 1) -> Callable[..., Sequence[Array]]:
    return lambda *inputs: [convolved(*inputs, pads=pads, groups=groups)]


def scaled_conv(
    x: Array, x_scale: Array, x_zero: Array, w: Array, w_scale: Array, w_zero: Array, scale: Array, zero: Array,
    bias: Array | None = None,
) -> Sequence[Array]:  # fmt: skip
    """``QLinearConv`` with a padding of 1."""
    total = convolved(x, w, x_zero, w_zero, pads=1) + (0 if bias is None else bias.reshape(1, -1, 1, 1))
    factor = x_scale.astype(np.float64) * w_scale.reshape(1, -1, 1, 1) / scale
    return [_clipped(np.rint(total * factor) + zero, helper.np_dtype_to_tensor_dtype(zero.dtype))]


def _quantize_cases() -> list[Case]:
    cases = [Case("QuantizeLinear", [(F32, ("N", 3, "M")), (F32, ())], quantized(U8), [U8])]
    for code in (U8, I8, U16, I16):
        x, scale = (F32, ("N", 3, "M")), (F32, ())
        cases.append(Case("QuantizeLinear", [x, scale, (code, ())], quantized(code), [code]))
        cases.append(Case("QuantizeLinear", [x, (F32, (3,)), (code, (3,))], quantized(code), [code]))
        cases.append(Case("DequantizeLinear", [(code, ("N", 3)), (F32, (3,)), (code, (3,))], dequantized(), [F32]))
        cases.append(Case("DequantizeLinear", [(code, ("N", "M")), (F16, (1,))], dequantized(), [F16]))
    return [
        *cases,
        Case("QuantizeLinear", [(I32, ("M",)), (F32, ()), (I8, ())], quantized(I8), [I8]),
        Case("QuantizeLinear", [(F16, ("N", "M")), (F32, ("M",)), (I8, ("M",))], quantized(I8, -1), [I8], axis=-1),
        Case(
            "QuantizeLinear",
            [(F32, ("N", 7)), (F32, ("N", 3)), (I8, ("N", 3))],
            quantized(I8, 1, 3),
            [I8],
            block_size=3,
        ),
        Case("DequantizeLinear", [(I32, ("M",)), (F32, ())], dequantized(), [F32]),
        Case("DequantizeLinear", [(U8, (6, "M")), (F32, (2, "M"))], dequantized(0, 3), [F32], axis=0, block_size=3),
        Case("DynamicQuantizeLinear", [(F32, ("N", "M"))], dynamic, [U8, F32, U8]),
        Case("DynamicQuantizeLinear", [(F32, ())], dynamic, [U8, F32, U8]),
    ]


CASES = [
    *_quantize_cases(),
    Case("MatMulInteger", [(U8, ("N", 5)), (I8, (5, "M"))], product, [I32]),
    Case("MatMulInteger", [(U8, (2, "N", 5)), (U8, (5, "M")), (U8, ()), (U8, ("M",))], product, [I32]),
    Case("MatMulInteger", [(I8, ("N", 5)), (U8, (5, "M")), (I8, ("N",)), (U8, ())], product, [I32]),
    Case("MatMulInteger", [(I8, (2, "N", 5)), (I8, (2, 5, "M")), (I8, (2, "N", 1)), (I8, (2, 1, "M"))], product, [I32]),
    Case("MatMulInteger", [(U8, (5,)), (U8, (5, "M")), (U8, ())], product, [I32]),
    Case(
        "QLinearMatMul",
        [(U8, ("N", 5)), (F32, ()), (U8, ()), (I8, (5, "M")), (F32, ("M",)), (I8, ("M",)), (F32, ()), (I8, ())],
        scaled_product, [I8],
    ),
    Case(
        "QLinearMatMul",
        [(U8, ("N", 5)), (F16, ("N",)), (U8, ("N",)), (U8, (5, "M")), (F16, ()), (U8, ()), (F16, ("N",)), (U8, ("N",))],
        scaled_product, [U8],
    ),
    Case("ConvInteger", [(U8, ("N", 3, 6, "M")), (U8, (4, 3, 3, 1)), (U8, ()), (U8, (4,))], _conv(), [I32]),
    Case("ConvInteger", [(I8, ("N", 4, 6, 6)), (I8, (4, 2, 3, 3)), (I8, ())], _conv(1, 2), [I32], pads=[1] * 4,
         group=2),
    Case(
        "QLinearConv",
        [(U8, ("N", 3, 6, "M")), (F32, ()), (U8, ()), (I8, (4, 3, 3, 3)), (F32, (4,)), (I8, (4,)), (F32, ()), (U8, ()),
         (I32, (4,))],
        scaled_conv, [U8], pads=[1] * 4,
    ),
    Case(
        "QLinearConv",
        [(I8, ("N", 3, 6, 6)), (F32, ()), (I8, ()), (I8, (2, 3, 3, 3)), (F32, (1,)), (I8, (1,)), (F32, ()), (I8, ())],
        scaled_conv, [I8], pads=[1] * 4,
    ),
]  # fmt: skip
SIZES = ({"N": 2, "M": 7}, {"N": 1, "M": 1}, {"N": 9, "M": 20})


def _draw(code: int, shape: Sequence[int], scale: bool) -> Array:
    kind = helper.tensor_dtype_to_np_dtype(code)
    if kind.kind == "f":
        return (RNG.uniform(0.05, 0.3, shape) if scale else RNG.uniform(-9, 9, shape)).astype(kind)
    info = np.iinfo(kind)
    return RNG.integers(max(info.min, -1000), min(info.max, 1000), shape, endpoint=True).astype(kind)


def _models() -> tuple[onnx.ModelProto, list[list[str]], list[list[str]]]:
    """One model of all cases; the inputs and outputs of each."""
    nodes, inputs, outputs, given, made = [], [], [], [], []
    for n, case in enumerate(CASES):
        names = [f"x{n}_{i}" if x is not None else "" for i, x in enumerate(case.inputs)]
        results = [f"y{n}_{i}" for i in range(len(case.results))]
        nodes.append(helper.make_node(case.op, names, results, name=f"n{n}", **case.attributes))
        for name, x in zip(names, case.inputs, strict=True):
            inputs += [] if x is None else [helper.make_tensor_value_info(name, x[0], x[1])]
        outputs += [helper.make_tensor_value_info(r, c, None) for r, c in zip(results, case.results, strict=True)]
        given.append(names)
        made.append(results)
    graph = helper.make_graph(nodes, "quantized", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10), given, made


@pytest.fixture(scope="module")
def session() -> Any:
    return load(driver.compile(_models()[0], options=Options(targets=("cpu:native",))).to_bytes())


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_quantized_operators(sizes: dict[str, int], session: Any) -> None:
    _, given, made = _models()
    feeds: Feeds = {}
    for case, names in zip(CASES, given, strict=True):
        for name, x in zip(names, case.inputs, strict=True):
            if x is not None:
                feeds[name] = _draw(x[0], [sizes.get(s, s) for s in x[1]], scale=name[-1] != "0")
    results = iter(session.run(None, feeds))
    wrong = []
    for case, names, outputs in zip(CASES, given, made, strict=True):
        want = case.expected(*(feeds[n] for n in names))
        for got, expected in zip(itertools.islice(results, len(outputs)), want, strict=True):
            same = got.shape == np.shape(expected) and got.dtype == expected.dtype
            # A quotient that is halfway in f32 may not be in f64: off by one there, and only there.
            limit = 0 if case.op in ("MatMulInteger", "ConvInteger") else 1e-3 if got.dtype.kind == "f" else 1
            distance = np.abs(got.astype(np.float64) - expected).max(initial=0) if same else np.inf
            many = same and got.dtype.kind != "f" and np.mean(got != expected) > 0.02
            wrong += [f"{case}: off by {distance}"] if distance > limit or many else []
    assert not wrong, "\n".join(wrong)
