"""Models with weights in blocks, as ONNX Runtime's quantizers write them, compiled and compared with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tilewright as tw
from onnx import TensorProto, helper, numpy_helper
from tilewright.errors import UnsupportedError

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)
MICROSOFT = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]


def model(
    nodes: list[onnx.NodeProto], inputs: list[Any], constants: dict[str, Array], rank: int = 2
) -> onnx.ModelProto:
    """A model with the output ``y``."""
    initializers = [numpy_helper.from_array(a, n) for n, a in constants.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)
    graph = helper.make_graph(nodes, "g", inputs, [output], initializers)
    return helper.make_model(graph, opset_imports=MICROSOFT, ir_version=10)


def product(
    depth: int, columns: int, size: int, bits: int = 4, level: int = 0, zero: bool = False, bias: bool = False
) -> onnx.ModelProto:
    """``MatMulNBits`` of ``x[M, depth]``."""
    count = -(-depth // size)
    constants: dict[str, Array] = {
        "b": RNG.integers(0, 256, (columns, count, size * bits // 8)).astype(np.uint8),
        "s": RNG.uniform(0.01, 0.1, (columns, count)).astype(np.float32),
    }
    names = ["x", "b", "s", "z" if zero else "", "", "bias" if bias else ""]
    if zero:
        constants["z"] = RNG.integers(0, 256, (columns, -(-count * bits // 8))).astype(np.uint8)
    if bias:
        constants["bias"] = RNG.standard_normal(columns).astype(np.float32)
    while not names[-1]:
        names.pop()
    node = helper.make_node(
        "MatMulNBits", names, ["y"], domain="com.microsoft", K=depth, N=columns, bits=bits, block_size=size,
        accuracy_level=level,
    )  # fmt: skip
    return model([node], [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["M", depth])], constants)


def dequantized(proto: onnx.ModelProto) -> Array:
    """The weights ``[K, N]`` of a ``MatMulNBits``, in f64."""
    node = proto.graph.node[0]
    given = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    a = {x.name: x.i for x in node.attribute}
    count = -(-a["K"] // a["block_size"])
    codes = unpacked(given["b"].reshape(a["N"], -1), a["bits"]).reshape(a["N"], count, a["block_size"])
    zero = np.full((a["N"], count), 1 << a["bits"] - 1)
    if "z" in given:
        zero = unpacked(given["z"], a["bits"])[:, :count]
    real = (codes.astype(np.float64) - zero[..., None]) * given["s"][..., None]
    return real.reshape(a["N"], -1)[:, : a["K"]].T


def unpacked(rows: Array, bits: int) -> Array:
    return rows if bits == 8 else np.stack([rows & 15, rows >> 4], -1).reshape(len(rows), -1)


def run(proto: onnx.ModelProto, feed: dict[str, Array], folder: Path) -> Array:
    """The output of the compiled model."""
    artifact = tw.compile(proto, targets=("cpu:native",), verify=False)
    artifact.save(folder / "m.tw")
    (y,) = tw.load(folder / "m.tw").run(None, feed)
    return np.asarray(y)


PRODUCTS = {
    "plain": {"depth": 96, "columns": 40, "size": 32},
    "zero points": {"depth": 96, "columns": 33, "size": 32, "zero": True},
    "a short last block, a bias": {"depth": 100, "columns": 40, "size": 64, "bias": True},
    "8 bits": {"depth": 64, "columns": 48, "size": 16, "bits": 8},
    "8 bits, zero points": {"depth": 64, "columns": 48, "size": 32, "bits": 8, "zero": True},
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_with_floats(name: str, tmp_path: Path) -> None:
    """As the definition says, whatever the rows."""
    proto = product(**PRODUCTS[name])
    x = RNG.standard_normal((5, PRODUCTS[name]["depth"])).astype(np.float32)
    bias = next((numpy_helper.to_array(i) for i in proto.graph.initializer if i.name == "bias"), 0)
    expected = x.astype(np.float64) @ dequantized(proto) + bias
    np.testing.assert_allclose(run(proto, {"x": x}, tmp_path), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["plain", "zero points", "a short last block, a bias", "8 bits"])
def test_products_with_integers(name: str, tmp_path: Path) -> None:
    """Level 4: rows in 8 bits, a scale for each block."""
    given = {**PRODUCTS[name], "level": 4}
    proto = product(**given)
    depth, size = given["depth"], given["size"]
    x = RNG.standard_normal((3, depth)).astype(np.float32)
    x[1, :size] = 0  # a block of zeros
    blocks = np.pad(x, ((0, 0), (0, -depth % size))).reshape(3, -1, size)
    scale = np.abs(blocks).max(-1, keepdims=True).astype(np.float32) * np.float32(1 / 127)
    whole = np.rint(blocks / np.where(scale > 0, scale, np.float32(1)))
    rows = (whole * scale.astype(np.float64)).reshape(3, -1)[:, :depth]
    bias = next((numpy_helper.to_array(i) for i in proto.graph.initializer if i.name == "bias"), 0)
    expected = rows @ dequantized(proto) + bias
    np.testing.assert_allclose(run(proto, {"x": x}, tmp_path), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_like_onnxruntime(tmp_path: Path) -> None:
    """The model that stands for a decoder's product gives what ONNX Runtime gives."""
    for level in (0, 4):
        proto = product(128, 96, 32, level=level)
        x = RNG.standard_normal((1, 128)).astype(np.float32)
        session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        (expected,) = session.run(None, {"x": x})
        tolerance = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(run(proto, {"x": x}, tmp_path), expected, rtol=0, atol=tolerance)


def test_what_is_refused(tmp_path: Path) -> None:
    """With the reason."""
    ordered = product(64, 32, 32)
    ordered.graph.node[0].input.extend(["", "order"])
    ordered.graph.initializer.append(numpy_helper.from_array(np.arange(64, dtype=np.int32), "order"))
    odd = product(64, 32, 32)
    next(a for a in odd.graph.node[0].attribute if a.name == "bits").i = 2
    short = product(64, 32, 32)
    short.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((32, 1, 16), np.uint8), "b"))
    for proto, word in ((ordered, "g_idx"), (odd, "2 bits"), (short, "bytes")):
        with pytest.raises(UnsupportedError, match=word):
            run(proto, {}, tmp_path)


def test_weights_stay_small(tmp_path: Path) -> None:
    """An artifact has the bytes of its integers and scales, not of floats."""
    columns, depth = 2048, 1024
    proto = product(depth, columns, 32)
    artifact = tw.compile(proto, targets=("cpu:native",), verify=False)
    artifact.save(tmp_path / "m.tw")
    packed = columns * depth // 2 + columns * depth // 32 * 4
    assert (tmp_path / "m.tw").stat().st_size <= packed + 300_000  # code and executor


@pytest.mark.parametrize("form", ["short last block", "transposed"])
@pytest.mark.parametrize("rows", [1, 9])
def test_other_forms(form: str, rows: int, tmp_path: Path) -> None:
    """Blocks that do not divide the depth, and weights that lie column by column."""
    depth, columns, size = (80, 40, 32) if form == "short last block" else (96, 40, 32)
    w = RNG.integers(-8, 8, (depth, columns)).astype(np.int8)
    s = RNG.uniform(0.01, 0.1, (-(-depth // size), columns)).astype(np.float32)
    if form == "transposed":
        constants, axis = {"w": np.ascontiguousarray(w.T), "s": np.ascontiguousarray(s.T)}, 1
        tail = [helper.make_node("Transpose", ["real"], ["turned"]), helper.make_node("MatMul", ["x", "turned"], ["y"])]
    else:
        constants, axis = {"w": w, "s": s}, 0
        tail = [helper.make_node("MatMul", ["x", "real"], ["y"])]
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["real"], axis=axis, block_size=size), *tail]
    x = RNG.standard_normal((rows, depth)).astype(np.float32)
    proto = model(nodes, [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["M", depth])], constants)
    expected = x.astype(np.float64) @ (w * np.repeat(s, size, 0)[:depth].astype(np.float64))
    np.testing.assert_allclose(run(proto, {"x": x}, tmp_path), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["f16", "bf16"])
def test_halves_stay_narrow(dtype: Any, tmp_path: Path) -> None:
    """Weights that are cast to f32 where they are used are 16 bits wide in the artifact."""
    depth, columns = 320, 1100
    w = RNG.standard_normal((depth, columns)).astype(dtype)
    nodes = [
        helper.make_node("Cast", ["w"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "real"], ["product"]),
        helper.make_node("Relu", ["product"], ["y"]),
    ]
    proto = model(nodes, [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["M", depth])], {"w": w})
    for rows in (1, 30):
        x = RNG.standard_normal((rows, depth)).astype(np.float32)
        expected = np.maximum(x.astype(np.float64) @ w.astype(np.float64), 0)
        np.testing.assert_allclose(run(proto, {"x": x}, tmp_path), expected, rtol=0, atol=2e-6 * expected.max())
    assert (tmp_path / "m.tw").stat().st_size < 2 * w.size + 300_000


def _ids(feed: list[int]) -> dict[str, Array]:
    return {"ids": np.array([feed], np.int64)}


@pytest.mark.parametrize("bits", [4, 8])
def test_gather_block_quantized(bits: int, tmp_path: Path) -> None:
    """Rows of a table in blocks; negative positions count from the end."""
    width, size = 64, 32
    table = RNG.integers(0, 256, (50, width * bits // 8)).astype(np.uint8)
    scales = RNG.uniform(0.01, 0.1, (50, width // size)).astype(np.float32)
    node = helper.make_node(
        "GatherBlockQuantized", ["table", "ids", "s"], ["y"], domain="com.microsoft", block_size=size, bits=bits,
        gather_axis=0, quantize_axis=1,
    )  # fmt: skip
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "n"])
    proto = model([node], [ids], {"table": table, "s": scales}, 3)
    real = (unpacked(table, bits).astype(np.float64) - (1 << bits - 1)) * np.repeat(scales, size, 1)
    got = run(proto, _ids([3, 0, 49, -1]), tmp_path)
    np.testing.assert_allclose(got, real[[3, 0, 49, -1]][None], rtol=1e-6)


@pytest.mark.parametrize("scales", ["rows", "blocks"])
def test_table_stays_integers(scales: str, tmp_path: Path) -> None:
    """A lookup in a table of i8 reads integers: the artifact holds no floats of it."""
    rows, width = 3000, 256
    table = RNG.integers(-128, 128, (rows, width)).astype(np.int8)
    shape = (rows,) if scales == "rows" else (rows, width // 64)
    s = RNG.uniform(0.01, 0.1, shape).astype(np.float32)
    how = {"axis": 0} if scales == "rows" else {"axis": 1, "block_size": 64}
    nodes = [
        helper.make_node("DequantizeLinear", ["table", "s"], ["real"], **how),
        helper.make_node("Gather", ["real", "ids"], ["y"]),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "n"])
    got = run(model(nodes, [ids], {"table": table, "s": s}, 3), _ids([7, 2999]), tmp_path)
    spread = s[:, None] if scales == "rows" else np.repeat(s, 64, 1)
    np.testing.assert_allclose(got, (table * spread)[[7, 2999]][None], rtol=1e-6)
    assert (tmp_path / "m.tw").stat().st_size < rows * width + s.nbytes + 300_000
