"""Products of dequantized tensors: computed on the integers, exactly, for every kind of scale and zero point."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from tilewright.entries import import_entries
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.print import print_kernel
from tilewright.ops.program import lower_graph
from tilewright.ops.steps import Run
from tilewright.options import Options
from tilewright.passes.pipeline import default_pipeline, run_pipeline

RANDOM = np.random.default_rng(3)


def _integers(dtype: str, *shape: int) -> NDArray[np.generic]:
    limits = np.iinfo(dtype)
    return RANDOM.integers(limits.min, limits.max + 1, shape).astype(dtype)


def _model(
    nodes: list[onnx.NodeProto], x: tuple[str, list[int]], y: list[int], constants: dict[str, NDArray[np.generic]]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", {"uint8": T.UINT8, "int8": T.INT8}[x[0]], x[1])],
        [helper.make_tensor_value_info("y", T.FLOAT, y)],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _lowered(model: onnx.ModelProto) -> list[Run]:
    graph = import_entries({"main": model}, Options())["main"]
    run_pipeline(graph, default_pipeline(2))
    return [s for s in lower_graph(graph) if isinstance(s, Run)]


def _run(step: Run, x: NDArray[np.generic]) -> NDArray[np.generic]:
    feeds = {}
    for p, v in zip(step.kernel.params, step.values, strict=True):
        if p.role == "const":
            assert v.const_value is not None
            feeds[p.name] = v.const_value.numpy().reshape([s.value for s in p.shape])
        elif p.role == "in":
            feeds[p.name] = x.reshape([s.value for s in p.shape])
    (out,) = (p for p in step.kernel.params if p.role == "out")
    return run_lowered(step.kernel, feeds)[out.name]


@pytest.mark.parametrize("weight", ["int8", "uint8"])
@pytest.mark.parametrize("activation", ["int8", "uint8"])
@pytest.mark.parametrize("zeros", ["none", "activation", "weight", "both"])
@pytest.mark.parametrize("columns", ["tensor", "channel"])
def test_matmul(activation: str, weight: str, zeros: str, columns: str) -> None:
    m, k, n = 5, 7, 6
    x, w = _integers(activation, m, k), _integers(weight, k, n)
    scale = RANDOM.uniform(0.01, 0.1, n).astype(np.float32) if columns == "channel" else np.array(0.05, np.float32)
    constants: dict[str, NDArray[np.generic]] = {"w": w, "sx": np.array(0.1, np.float32), "sw": scale}
    zx, zw = np.zeros((), activation), np.zeros(scale.shape, weight)
    inputs = {"x": ["x", "sx"], "w": ["w", "sw"]}
    if zeros in ("activation", "both"):
        zx = np.array(3, activation)
        constants["zx"] = zx
        inputs["x"].append("zx")
    if zeros in ("weight", "both"):
        zw = np.arange(scale.size).reshape(scale.shape).astype(weight)
        constants["zw"] = zw
        inputs["w"].append("zw")
    nodes = [
        helper.make_node("DequantizeLinear", inputs["x"], ["a"]),
        helper.make_node("DequantizeLinear", inputs["w"], ["b"], axis=1),
        helper.make_node("MatMul", ["a", "b"], ["y"]),
    ]
    (step,) = _lowered(_model(nodes, (activation, [m, k]), [m, n], constants))
    assert "f32(x0[" not in print_kernel(step.kernel)  # nothing is dequantized before the sum
    exact = (x.astype(np.int64) - int(zx)) @ (w.astype(np.int64) - zw.astype(np.int64))
    want = exact.astype(np.float32) * (scale * np.float32(0.1))
    np.testing.assert_allclose(_run(step, x).reshape(m, n), want, rtol=3e-7)


@pytest.mark.parametrize("activation", ["int8", "uint8"])
@pytest.mark.parametrize("zero", [0, 5, 101])
def test_convolution_is_padded_with_the_zero_point(activation: str, zero: int) -> None:
    x, w = _integers(activation, 1, 3, 5, 5), _integers("int8", 4, 3, 3, 3)
    scale = RANDOM.uniform(0.01, 0.1, 4).astype(np.float32)
    zx = np.array(zero, activation)
    bias = RANDOM.integers(-1000, 1000, 4).astype(np.int32)
    constants = {
        "w": w,
        "sx": np.array(0.1, np.float32),
        "sw": scale,
        "zx": zx,
        "b": bias,
        "sb": scale * np.float32(0.1),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "sx", "zx"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "sw"], ["v"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "sb"], ["c"], axis=0),
        helper.make_node("Conv", ["a", "v", "c"], ["y"], pads=[1, 1, 1, 1]),
    ]
    (step,) = _lowered(_model(nodes, (activation, [1, 3, 5, 5]), [1, 4, 5, 5], constants))
    padded = np.pad(x.astype(np.int64) - zero, ((0, 0), (0, 0), (1, 1), (1, 1)))
    exact = np.zeros((1, 4, 5, 5), np.int64)
    for i in range(3):
        for j in range(3):
            exact += np.einsum("bchw,oc->bohw", padded[:, :, i : i + 5, j : j + 5], w[:, :, i, j].astype(np.int64))
    factor = (scale * np.float32(0.1))[None, :, None, None]
    want = exact.astype(np.float32) * factor + bias[None, :, None, None].astype(np.float32) * factor
    got = _run(step, x).reshape(1, 4, 5, 5)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * float(np.abs(want).max()))


def test_sums_of_weights_are_constants() -> None:
    w = _integers("int8", 64, 32)
    constants = {"w": w, "s": np.array(0.1, np.float32), "z": np.array(7, np.uint8)}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["b"]),
        helper.make_node("MatMul", ["a", "b"], ["y"]),
    ]
    (step,) = _lowered(_model(nodes, ("uint8", [3, 64]), [3, 32], constants))
    sums = [v for p, v in zip(step.kernel.params, step.values, strict=True) if p.role == "const" and p.name == "c0"]
    assert sums[0].const_value is not None
    np.testing.assert_array_equal(sums[0].const_value.numpy(), 7 * w.astype(np.int32).sum(0))


@pytest.mark.parametrize(("block", "kind"), [(33_000, "i32"), (34_000, "f32")])
def test_sums_that_may_leave_32_bits_are_of_floats(block: int, kind: str) -> None:
    """Blocks of products of i8 and u8: from some length on they need not fit."""
    constants = {"s": np.ones((1, 2), np.float32), "w": np.full((2 * block, 1), 255, np.uint8)}
    constants["t"] = np.ones((2, 1), np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s"], ["a"], axis=-1, block_size=block),
        helper.make_node("DequantizeLinear", ["w", "t"], ["b"], axis=0, block_size=block),
        helper.make_node("MatMul", ["a", "b"], ["y"]),
    ]
    (step,) = _lowered(_model(nodes, ("int8", [1, 2 * block]), [1, 1], constants))
    part = next(line for line in print_kernel(step.kernel).splitlines() if line.strip().startswith("part"))
    assert f" * {kind}(x" in part and ("i32(x" in part) == (kind == "i32"), part
