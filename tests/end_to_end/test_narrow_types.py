"""Element types of 8 bits and less as weights, inputs, outputs and in between."""

from __future__ import annotations

import warnings
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import tilewright
from onnx import TensorProto, helper, numpy_helper
from tilewright import driver
from tilewright.options import Options
from tilewright.runtime import load
from tilewright.runtime.errors import InputError

TYPES = {
    TensorProto.INT4: ml_dtypes.int4, TensorProto.UINT4: ml_dtypes.uint4, TensorProto.INT2: ml_dtypes.int2,
    TensorProto.UINT2: ml_dtypes.uint2, TensorProto.FLOAT4E2M1: ml_dtypes.float4_e2m1fn,
    TensorProto.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn, TensorProto.FLOAT8E4M3FNUZ: ml_dtypes.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: ml_dtypes.float8_e5m2, TensorProto.FLOAT8E5M2FNUZ: ml_dtypes.float8_e5m2fnuz,
}  # fmt: skip


def _compiled(nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any], constants: list[Any]) -> Any:
    graph = helper.make_graph(nodes, "narrow", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
    return load(driver.compile(model, options=Options(targets=("cpu:native",))).to_bytes())


def _numbers(code: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.random.default_rng(code).integers(-4, 4, shape).astype(np.float32).astype(TYPES[code])


@pytest.mark.parametrize("code", TYPES, ids=TensorProto.DataType.Name)
def test_weights_are_dequantized_by_block(code: int) -> None:
    weight, scale = _numbers(code, (6, 7)), np.random.default_rng(0).uniform(0.1, 1, (3, 7)).astype(np.float32)
    session = _compiled(
        [
            helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=0, block_size=2),
            helper.make_node("MatMul", ["x", "f"], ["y"]),
        ],
        [helper.make_tensor_value_info("x", 1, ("N", 6))],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(scale, "s")],
    )
    x = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)
    (y,) = session.run(None, {"x": x})
    np.testing.assert_allclose(y, x @ (weight.astype(np.float32) * np.repeat(scale, 2, 0)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("code", TYPES, ids=TensorProto.DataType.Name)
def test_tensors_are_moved_and_converted(code: int) -> None:
    """Rows of 7 elements: of those that share a byte, some are in two rows, which different threads may write."""
    session = _compiled(
        [
            helper.make_node("Transpose", ["x"], ["t"]),
            helper.make_node("Cast", ["t"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["f"], ["c"], to=code),
            helper.make_node("Transpose", ["c"], ["y"]),
        ],
        [helper.make_tensor_value_info("x", code, ("N", 7))],
        [helper.make_tensor_value_info("t", code, None), helper.make_tensor_value_info("y", code, None)],
        [],
    )
    for rows in (1, 5, 301):
        x = _numbers(code, (rows, 7))
        t, y = session.run(None, {"x": x})
        bits = x.view(np.uint8) if y.dtype == np.uint8 else x.astype(np.int8)
        np.testing.assert_array_equal(y, bits)
        np.testing.assert_array_equal(t, bits.T)
        given = np.zeros((7, rows), x.dtype)
        assert session.run(["t"], {"x": x}, out={"t": given})[0] is given
        np.testing.assert_array_equal(given.astype(np.float32), x.astype(np.float32).T)


@pytest.mark.parametrize("code", TYPES, ids=TensorProto.DataType.Name)
def test_a_conversion_inside_a_kernel_rounds(code: int) -> None:
    """There and back, fused with what stands around."""
    session = _compiled(
        [
            helper.make_node("Mul", ["x", "x"], ["s"]),
            helper.make_node("Cast", ["s"], ["c"], to=code),
            helper.make_node("Cast", ["c"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["f", "s"], ["y"]),
        ],
        [helper.make_tensor_value_info("x", 1, ("N",))],
        [helper.make_tensor_value_info("y", 1, None)],
        [],
    )
    x = np.random.default_rng(2).uniform(0, 1.2, 29).astype(np.float32)
    (y,) = session.run(None, {"x": x})
    np.testing.assert_array_equal(y, (x * x).astype(TYPES[code]).astype(np.float32) - x * x)


def test_a_number_that_does_not_fit_is_refused() -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    inputs = [helper.make_tensor_value_info("x", TensorProto.INT4, (3,))]
    session = _compiled([node], inputs, [helper.make_tensor_value_info("y", 1, None)], [])
    np.testing.assert_array_equal(session.run(None, {"x": np.array([-8, 0, 7], np.int8)})[0], [-8, 0, 7])
    with pytest.raises(InputError, match="i4 holds -8 to 7"):
        session.run(None, {"x": np.array([-8, 0, 8], np.int8)})


def test_verification_knows_narrow_types() -> None:
    types = (*TYPES, TensorProto.BFLOAT16)
    nodes, outputs = [], []
    for code in types:
        nodes.append(helper.make_node("Cast", ["x"], [f"y{code}"], to=code))
        nodes.append(helper.make_node("Cast", [f"z{code}"], [f"w{code}"], to=TensorProto.FLOAT))
        outputs.append(helper.make_tensor_value_info(f"y{code}", code, None))
        outputs.append(helper.make_tensor_value_info(f"w{code}", TensorProto.FLOAT, None))
    inputs = [helper.make_tensor_value_info("x", 1, ("N", 7))]
    inputs += [helper.make_tensor_value_info(f"z{code}", code, ("N",)) for code in types]
    graph = helper.make_graph(nodes, "narrow", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # compiled, but not verified
        tilewright.compile(model, targets=("cpu:native",))
