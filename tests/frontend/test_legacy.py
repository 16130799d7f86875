"""Operators in the form that the first opsets gave them, beside NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tilewright.errors import CompileError
from tilewright.frontend.legacy import PARKED
from tilewright.frontend.onnx import import_model
from tilewright.ir.evaluate import Evaluator

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)
X = RNG.uniform(0.5, 2, (2, 3, 4)).astype(np.float32)
NODES: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power, "Less": np.less,
    "Greater": np.greater, "Equal": np.equal, "And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor,
}  # fmt: skip


def _operand(operator: str, shape: tuple[int, ...]) -> Array:
    numbers = RNG.uniform(0.5, 2, shape)
    if operator in ("And", "Or", "Xor"):
        return numbers > 1
    return np.rint(numbers).astype(np.int64) if operator == "Equal" else numbers.astype(np.float32)


def _run(opset: int, operator: str, inputs: list[Array], **attributes: Any) -> Array:
    names = [f"x{i}" for i in range(len(inputs))]
    infos = [
        helper.make_tensor_value_info(
            n, helper.np_dtype_to_tensor_dtype(a.dtype), ["N", *a.shape[1:]] if not i else a.shape
        )
        for i, (n, a) in enumerate(zip(names, inputs, strict=True))
    ]
    node = helper.make_node(operator, names, ["y"], **attributes)
    graph = helper.make_graph([node], "old", infos, [helper.make_tensor_value_info("y", 1, None)])
    model = import_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4))
    assert PARKED not in model.opset_imports
    return np.asarray(Evaluator(model).all_values(dict(zip(names, inputs, strict=True)))["y"])


@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize("operator", NODES)
def test_a_second_operand_lies_along_an_axis(operator: str, opset: int) -> None:
    left = _operand(operator, (2, 3, 4))
    for shape, axis in (((3,), 1), ((2, 3), 0), ((3, 4), -2), ((4,), None), ((1,), None)):
        right = _operand(operator, shape)
        attributes = {"broadcast": 1} if axis is None else {"broadcast": 1, "axis": axis}
        begin = 3 - len(shape) if axis is None else axis % 3
        aligned = right.reshape([1] * begin + list(shape) + [1] * (3 - begin - len(shape)))
        expected = NODES[operator](left, aligned)
        np.testing.assert_allclose(_run(opset, operator, [left, right], **attributes), expected, rtol=1e-6)


@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize("slopes", [3, 1])
def test_slopes_of_prelu_lie_along_the_channels(opset: int, slopes: int) -> None:
    x, slope = X - 1, RNG.uniform(0, 1, slopes).astype(np.float32)
    expected = np.where(x < 0, x * slope.reshape(-1, 1), x)
    np.testing.assert_allclose(_run(opset, "PRelu", [x, slope]), expected, rtol=1e-6)


def test_a_type_in_words() -> None:
    np.testing.assert_array_equal(_run(1, "Cast", [X], to="INT32"), X.astype(np.int32))


def test_a_word_that_is_no_type() -> None:
    with pytest.raises(CompileError, match="there is no element type 'NUMBER'"):
        _run(1, "Cast", [X], to="NUMBER")


def test_a_rank_that_nothing_tells() -> None:
    node = helper.make_node("Add", ["x", "z"], ["y"], broadcast=1, axis=1)
    infos = [helper.make_tensor_value_info("x", 1, (2, 3)), helper.make_tensor_value_info("s", 7, (1,))]
    reshaped = helper.make_node("Reshape", ["x", "s"], ["z"])
    graph = helper.make_graph([reshaped, node], "old", infos, [helper.make_tensor_value_info("y", 1, None)])
    model = helper.make_model(graph, opset_imports=[onnx.OperatorSetIdProto(domain="", version=6)], ir_version=4)
    with pytest.raises(CompileError, match="how its operands line up hangs on their ranks"):
        import_model(model)


@pytest.mark.parametrize("opset", [1, 11, 12])
def test_axes_from_one_on_were_one(opset: int) -> None:
    for axis in (0, 1, 2):
        rows = X.reshape(int(np.prod(X.shape[:axis])), -1)
        expected = (np.arange(rows.shape[1]) == rows.argmax(1)[:, None]).astype(np.float32).reshape(X.shape)
        np.testing.assert_array_equal(_run(opset, "Hardmax", [X], axis=axis), expected)
