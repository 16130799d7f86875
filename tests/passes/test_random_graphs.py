"""Random graphs of elementwise operators, views, reductions and products: only numbers have to stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from tilewright.frontend.onnx import import_model
from tilewright.passes.pipeline import default_pipeline

from tests.passes.harness import check_each

_F32 = onnx.TensorProto.FLOAT
#: Row-like shapes: every value has one of them, so that any two broadcast.
_SHAPES: list[tuple[str | int, ...]] = [("B", 1, 4), ("B", "S", 4), (1, "S", 4), ("B", "S", 1)]
_UNARY = ["Tanh", "Neg", "Sigmoid", "Relu", "Identity", "Gelu", "Abs"]
_BINARY = ["Add", "Sub", "Mul", "Max"]


class _Builder:
    """A graph in the making; ``shapes`` has every value."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.shapes: dict[str, tuple[str | int, ...]] = {f"x{i}": s for i, s in enumerate(_SHAPES)}
        self.constants: list[onnx.TensorProto] = []

    def node(self, op_type: str, inputs: list[str], shape: tuple[str | int, ...], **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
        self.shapes[name] = shape
        return name

    def constant(self, array: np.ndarray) -> str:  # type: ignore[type-arg]
        name = f"c{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(array, name))
        return name


def _broadcast(a: tuple[str | int, ...], b: tuple[str | int, ...]) -> tuple[str | int, ...]:
    return tuple(y if x == 1 else x for x, y in zip(a, b, strict=True))


def _unary(draw: Callable[..., object], b: _Builder, x: str) -> None:
    b.node(str(draw(st.sampled_from(_UNARY))), [x], b.shapes[x])


def _binary(draw: Callable[..., object], b: _Builder, x: str) -> None:
    y = str(draw(st.sampled_from(sorted(b.shapes))))
    b.node(str(draw(st.sampled_from(_BINARY))), [x, y], _broadcast(b.shapes[x], b.shapes[y]))


def _scalar(draw: Callable[..., object], b: _Builder, x: str) -> None:
    number = b.constant(np.array(draw(st.sampled_from([0.0, 1.0, 0.5, 2.0, 3.0])), np.float32))
    b.node(str(draw(st.sampled_from(["Add", "Mul", "Sub"]))), [x, number], b.shapes[x])


def _product(draw: Callable[..., object], b: _Builder, x: str) -> None:
    if b.shapes[x][-1] == 4:
        seed = draw(st.integers(0, 9))
        assert isinstance(seed, int)
        weights = np.random.default_rng(seed).standard_normal((4, 4)).astype(np.float32) / 2
        b.node("MatMul", [x, b.constant(weights)], b.shapes[x])


def _norm(draw: Callable[..., object], b: _Builder, x: str) -> None:
    if b.shapes[x][-1] == 4:
        b.node("LayerNormalization", [x, b.constant(np.arange(1, 5, dtype=np.float32))], b.shapes[x])


def _softmax(draw: Callable[..., object], b: _Builder, x: str) -> None:
    b.node("Softmax", [x], b.shapes[x], axis=draw(st.sampled_from([-1, 1])))


def _reduce(draw: Callable[..., object], b: _Builder, x: str) -> None:
    axis = draw(st.sampled_from([1, 2]))
    shape = tuple(1 if i == axis else s for i, s in enumerate(b.shapes[x]))
    axes = b.constant(np.array([axis], np.int64))
    b.node(str(draw(st.sampled_from(["ReduceSum", "ReduceMean", "ReduceMax"]))), [x, axes], shape, keepdims=1)


def _turn(draw: Callable[..., object], b: _Builder, x: str) -> None:
    """There and back again."""
    there = b.node("Transpose", [x], tuple(b.shapes[x][i] for i in (0, 2, 1)), perm=[0, 2, 1])
    op_type = str(draw(st.sampled_from(["Relu", "Identity"])))
    moved = b.node(op_type, [there], b.shapes[there])
    b.node("Transpose", [moved], b.shapes[x], perm=[0, 2, 1])
    del b.shapes[there], b.shapes[moved]


def _view(draw: Callable[..., object], b: _Builder, x: str) -> None:
    axes = b.constant(np.array([1], np.int64))
    up = b.node("Unsqueeze", [x, axes], ())
    b.node("Squeeze", [up, axes], b.shapes[x])
    del b.shapes[up]


_STEPS = [_unary, _unary, _binary, _binary, _scalar, _product, _norm, _softmax, _reduce, _turn, _view]


@st.composite
def models(draw: Callable[..., object]) -> onnx.ModelProto:
    """Up to 12 steps; the last value and one other are outputs."""
    b = _Builder()
    for _ in range(int(draw(st.integers(2, 12)))):  # type: ignore[call-overload]
        step = draw(st.sampled_from(_STEPS))
        x = str(draw(st.sampled_from(sorted(b.shapes))))
        step(draw, b, x)  # type: ignore[operator]
    made = [v for v in b.shapes if v.startswith("v")] or [b.node("Relu", ["x0"], b.shapes["x0"])]
    outputs = {made[-1], str(draw(st.sampled_from(made)))}
    return helper.make_model(
        helper.make_graph(
            b.nodes,
            "random",
            [helper.make_tensor_value_info(f"x{i}", _F32, s) for i, s in enumerate(_SHAPES)],
            [helper.make_tensor_value_info(o, _F32, b.shapes[o]) for o in sorted(outputs)],
            b.constants,
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(models())
def test_pipeline_keeps_numbers(proto: onnx.ModelProto) -> None:
    check_each(import_model(proto), default_pipeline())
