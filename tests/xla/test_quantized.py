"""Products of dequantized tensors: on integers where both are, the weight next to the product where one is."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("jaxlib")

import onnx
from onnx import TensorProto, helper, numpy_helper
from tilewright.accuracy import compare

from tests.xla.reference import agree, normal
from tests.xla.run import Array, Shapes, compiled

RNG = np.random.default_rng(7)
TYPES = {"u8": (TensorProto.UINT8, np.uint8), "i8": (TensorProto.INT8, np.int8)}


def quantized_model(
    operator: str,
    x: tuple[str, Array | None],
    w: Array,
    w_scale: Array,
    w_zero: Array | None,
    axis: int,
    **more: object,
) -> onnx.ModelProto:
    """``operator(DQ(Q(x)), DQ(w))`` with x quantized to a type by 0.02 and a zero point."""
    kind, zero = x
    code, dtype = TYPES[kind]
    constants = {"w": w, "ws": w_scale, "xs": np.array(0.02, np.float32)}
    nodes = []
    inputs = ["x", "xs"]
    if zero is not None:
        constants["xz"] = np.asarray(zero, dtype)
        inputs.append("xz")
    attributes = {"output_dtype": code} if zero is None else {}
    nodes.append(helper.make_node("QuantizeLinear", inputs, ["xq"], **attributes))
    nodes.append(helper.make_node("DequantizeLinear", ["xq", *inputs[1:]], ["xd"]))
    weights = ["w", "ws"]
    if w_zero is not None:
        constants["wz"] = w_zero
        weights.append("wz")
    nodes.append(helper.make_node("DequantizeLinear", weights, ["wd"], axis=axis))
    nodes.append(helper.make_node(operator, ["xd", "wd"], ["y"], **more))
    return _model(nodes, constants)


def _model(nodes: list[onnx.NodeProto], constants: dict[str, Array], rank: int | None = None) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(v, n) for n, v in constants.items()]
    rank = rank or (4 if nodes[-1].op_type == "Conv" else 2)
    shape = ["n", "k", "h", "v"][:rank]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def dequantized(w: Array, scale: Array, zero: Array | None, axis: int) -> Array:
    """In f64."""
    shape = [-1 if d == axis and scale.ndim else 1 for d in range(w.ndim)]
    moved = 0 if zero is None else np.reshape(zero, shape).astype(np.int64)
    return (w.astype(np.int64) - moved) * np.reshape(scale, shape).astype(np.float64)


def quantize(x: Array, zero: Array | None, dtype: type) -> Array:
    """In f64, dequantized again."""
    z = 0 if zero is None else int(zero)
    info = np.iinfo(dtype)
    ratio = (x / np.float32(0.02)).astype(np.float32)
    return (np.clip(np.round(ratio) + z, info.min, info.max) - z) * np.float64(np.float32(0.02))


def check(model: onnx.ModelProto, x: Array, want: Array, shapes: Shapes, buckets: dict[str, tuple[int, ...]]) -> str:
    program = compiled(model, shapes, buckets)
    found = compare("y", program.run({"x": x})["y"], want.astype(np.float32), 1e-6)
    assert found.ok, f"{found.distance} {found.problem}\n{program.text}"
    return program.text


@pytest.mark.parametrize("kind, zero", [("u8", 113), ("i8", None), ("i8", -5)])
@pytest.mark.parametrize("columns", [False, True], ids=["one scale", "a scale a column"])
@pytest.mark.parametrize("moved", [False, True], ids=["symmetric", "zero points"])
def test_matmul_on_integers(kind: str, zero: int | None, columns: bool, moved: bool) -> None:
    w = RNG.integers(-128, 128, (32, 6)).astype(np.int8)
    scale = (RNG.random(6) if columns else np.array(0.03)).astype(np.float32)
    w_zero = RNG.integers(-9, 9, scale.shape).astype(np.int8) if moved else None
    x = normal(5, 32)
    zero_point = None if zero is None else np.array(zero)
    model = quantized_model("MatMul", (kind, zero_point), w, scale, w_zero, 1)
    want = quantize(x, zero_point, TYPES[kind][1]) @ dequantized(w, scale, w_zero, 1)
    text = check(model, x, want, {"x": ("n=1..8", 32)}, {"n": (8,)})
    assert "(tensor<8x32xi8>, tensor<32x6xi8>) -> tensor<8x6xi32>" in text


@pytest.mark.parametrize("kind, zero", [("u8", 113), ("i8", None), ("i8", -5)])
@pytest.mark.parametrize(
    "attributes", [{}, {"pads": [1, 1, 1, 1], "strides": [2, 1]}, {"group": 2, "pads": [1, 0, 0, 1]}]
)
def test_conv_on_integers(kind: str, zero: int | None, attributes: dict[str, object]) -> None:
    torch = pytest.importorskip("torch")
    groups = int(attributes.get("group", 1))  # type: ignore[call-overload]
    w = RNG.integers(-128, 128, (6, 4 // groups, 3, 3)).astype(np.int8)
    scale = RNG.random(6).astype(np.float32)
    x = normal(2, 4, 7, 6)
    zero_point = None if zero is None else np.array(zero)
    model = quantized_model("Conv", (kind, zero_point), w, scale, None, 0, **attributes)
    top, left, bottom, right = attributes.get("pads", [0] * 4)  # type: ignore[misc]
    real = np.pad(quantize(x, zero_point, TYPES[kind][1]), ((0, 0), (0, 0), (top, bottom), (left, right)))
    filters = torch.from_numpy(dequantized(w, scale, None, 0))
    want = torch.nn.functional.conv2d(
        torch.from_numpy(real), filters, stride=attributes.get("strides", 1), groups=groups
    ).numpy()
    shapes = {"x": ("n=1..3", 4, "h=5..9", "v=5..8")}
    text = check(model, x, want, shapes, {"n": (3,), "h": (9,), "v": (8,)})
    assert "stablehlo.convolution" in text and "xi8>) -> tensor" in text


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("block", [0, 8])
@pytest.mark.parametrize("moved", [False, True], ids=["symmetric", "zero points"])
def test_narrow_weights_stay_narrow(bits: int, block: int, moved: bool) -> None:
    dtype = np.int8 if bits == 8 else ml_dtypes.int4
    half = 2 ** (bits - 1)
    w = RNG.integers(-half, half, (32, 6))
    scale = RNG.random((4, 6) if block else 6).astype(np.float32)
    zero = RNG.integers(-half, half, scale.shape)
    attributes = {"axis": 0, "block_size": 8} if block else {"axis": 1}
    inputs = ["w", "ws", *(["wz"] if moved else [])]
    nodes = [
        helper.make_node("DequantizeLinear", inputs, ["wd"], **attributes),
        helper.make_node("MatMul", ["x", "wd"], ["y"]),
    ]
    constants = {"w": w.astype(dtype), "ws": scale} | ({"wz": zero.astype(dtype)} if moved else {})
    spread = np.repeat(scale, 8, 0) if block else scale
    shift = (np.repeat(zero, 8, 0) if block else zero) if moved else 0
    x = normal(5, 32)
    want = x.astype(np.float64) @ ((w - shift) * spread.astype(np.float64))
    text = check(_model(nodes, constants), x, want, {"x": ("n=1..8", 32)}, {"n": (8,)})
    main = next(line for line in text.splitlines() if "@main" in line)
    assert ("tensor<32x6xi8>" if bits == 8 else "tensor<96xui8>") in main


@pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "uint16"])
@pytest.mark.parametrize("shape, axis, block", [("", 1, 0), ("6", 1, 0), ("4", 0, 0), ("4,2", 1, 3)])
def test_there_and_back(kind: str, shape: str, axis: int, block: int) -> None:
    sizes = tuple(int(n) for n in shape.split(",") if n)
    scale = RNG.random(sizes).astype(np.float32) * 0.1 + 0.01
    zero = RNG.integers(0, 100, sizes).astype(kind)
    more, brackets = f"axis={axis},block_size={block}", f"[{shape}]" if shape else ""
    agree(
        f"g (float[4,6] x, float{brackets} s, {kind}{brackets} z) => ({kind}[4,6] q, float[4,6] y) "
        f"{{ q = QuantizeLinear<{more}>(x, s, z)\n y = DequantizeLinear<{more}>(q, s, z) }}",
        {"x": normal(4, 6) * 20, "s": scale, "z": zero},
    )


def test_dynamic_quantization_of_padded_tensors() -> None:
    for x in (normal(3, 5), normal(3, 5) + 9):
        agree(
            "g (float[N,K] x) => (uint8[N,K] q, float s, uint8 z) { q, s, z = DynamicQuantizeLinear(x) }",
            {"x": x},
            {"x": ("N=1..4", "K=1..8")},
            {"N": (4,), "K": (8,)},
        )
