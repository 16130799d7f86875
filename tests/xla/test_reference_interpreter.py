"""StableHLO's own reference interpreter gives the numbers of the CPU client and of onnx.reference.

So the programs mean what they are meant to mean by StableHLO's text, and not only as one compiler takes them. The
interpreter has no transforms of Fourier.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("jaxlib")

from onnx.reference import ReferenceEvaluator
from tilewright.accuracy import compare
from tilewright.backends.xla.dialect import bindings, context, stablehlo
from tilewright.ir.graph import constant_array

from tests.xla.reference import model_of, normal
from tests.xla.run import Array, Program, compiled

_IDS = np.array([[1, -1], [0, 2]])

#: Graphs by what they are made of; the arrays of their inputs.
CASES: dict[str, tuple[str, dict[str, Array]]] = {
    "add": ("g (float[2,3] x, float[3] z) => (float[2,3] y) { y = Add(x, z) }", {"x": normal(2, 3), "z": normal(3)}),
    "divide-integers": (
        "g (int32[4] x, int32[4] z) => (int32[4] y) { y = Div(x, z) }",
        {"x": np.array([7, 8, 9, 10], np.int32), "z": np.array([2, 3, 3, 4], np.int32)},
    ),
    "compare-and-choose": (
        "g (float[2,3] x, float[2,3] z) => (float[2,3] y) { c = Less(x, z)\n y = Where(c, x, z) }",
        {"x": normal(2, 3), "z": normal(2, 3, seed=1)},
    ),
    "erf": ("g (float[6] x) => (float[6] y) { y = Erf(x) }", {"x": normal(6)}),
    "gelu": ("g (float[6] x) => (float[6] y) { y = Gelu(x) }", {"x": normal(6)}),
    "sigmoid-tanh": ("g (float[6] x) => (float[6] y) { s = Sigmoid(x)\n y = Tanh(s) }", {"x": normal(6)}),
    "clip": (
        "g (float[6] x) => (float[6] y) <float l = {-0.5}, float h = {0.5}> { y = Clip(x, l, h) }",
        {"x": normal(6)},
    ),
    "cast": ("g (float[6] x) => (int32[6] y) { y = Cast<to=6>(x) }", {"x": normal(6) * 4}),
    "transpose-reshape": (
        "g (float[2,3,4] x) => (float[6,4] y) <int64[2] s = {6, 4}> "
        "{ t = Transpose<perm=[1,0,2]>(x)\n y = Reshape(t, s) }",
        {"x": normal(2, 3, 4)},
    ),
    "concat-slice": (
        "g (float[2,3] x, float[2,2] z) => (float[2,3] y) <int64[1] a = {1}, int64[1] b = {4}, int64[1] d = {1}> "
        "{ c = Concat<axis=1>(x, z)\n y = Slice(c, a, b, d) }",
        {"x": normal(2, 3), "z": normal(2, 2)},
    ),
    "pad": (
        'g (float[2,3] x) => (float[4,5] y) <int64[4] p = {1, 1, 1, 1}> { y = Pad<mode="reflect">(x, p) }',
        {"x": normal(2, 3)},
    ),
    "sum": (
        "g (float[2,3,4] x) => (float[2,4] y) <int64[1] a = {1}> { y = ReduceSum<keepdims=0>(x, a) }",
        {"x": normal(2, 3, 4)},
    ),
    "arg-max": ("g (float[2,5] x) => (int64[2,1] y) { y = ArgMax<axis=1>(x) }", {"x": normal(2, 5)}),
    "cumulative": (
        "g (float[2,5] x) => (float[2,5] y) <int64 a = {1}> { y = CumSum(x, a) }",
        {"x": normal(2, 5)},
    ),
    "softmax": ("g (float[2,5] x) => (float[2,5] y) { y = Softmax<axis=-1>(x) }", {"x": normal(2, 5)}),
    "layer-norm": (
        "g (float[2,8] x, float[8] w, float[8] b) => (float[2,8] y) { y = LayerNormalization(x, w, b) }",
        {"x": normal(2, 8), "w": normal(8), "b": normal(8, seed=1)},
    ),
    "matmul": (
        "g (float[2,3,4] x, float[4,5] w) => (float[2,3,5] y) { y = MatMul(x, w) }",
        {"x": normal(2, 3, 4), "w": normal(4, 5)},
    ),
    "gemm": (
        "g (float[4,3] x, float[4,5] w, float[5] c) => (float[3,5] y) { y = Gemm<transA=1, alpha=0.5>(x, w, c) }",
        {"x": normal(4, 3), "w": normal(4, 5), "c": normal(5)},
    ),
    "convolution": (
        "g (float[1,4,5,5] x, float[4,2,3,3] w) => (float[1,4,3,3] y) "
        "{ y = Conv<group=2, strides=[2,2], pads=[1,1,1,1]>(x, w) }",
        {"x": normal(1, 4, 5, 5), "w": normal(4, 2, 3, 3)},
    ),
    "transposed-convolution": (
        "g (float[1,2,3,3] x, float[2,3,3,3] w) => (float[1,3,7,7] y) { y = ConvTranspose<strides=[2,2]>(x, w) }",
        {"x": normal(1, 2, 3, 3), "w": normal(2, 3, 3, 3)},
    ),
    "pools": (
        "g (float[1,2,6,6] x) => (float[1,2,3,3] y) { m = MaxPool<kernel_shape=[2,2]>(x)\n"
        " y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[2,2,2,2]>(x) }",
        {"x": normal(1, 2, 6, 6)},
    ),
    "integer-product": (
        "g (uint8[3,4] x, int8[4,2] w) => (int32[3,2] y) { y = MatMulInteger(x, w) }",
        {"x": np.arange(12, dtype=np.uint8).reshape(3, 4) * 20, "w": np.arange(-4, 4, dtype=np.int8).reshape(4, 2)},
    ),
    "quantize-dequantize": (
        "g (float[2,3] x) => (float[2,3] y) <float s = {0.1}, uint8 z = {128}> "
        "{ q = QuantizeLinear(x, s, z)\n y = DequantizeLinear(q, s, z) }",
        {"x": normal(2, 3)},
    ),
    "gather": (
        "g (float[3,4] x, int64[2,2] i) => (float[2,2,4] y) { y = Gather(x, i) }",
        {"x": normal(3, 4), "i": _IDS},
    ),
    "gather-elements": (
        "g (float[3,2] x, int64[2,2] i) => (float[2,2] y) { y = GatherElements(x, i) }",
        {"x": normal(3, 2), "i": _IDS},
    ),
    "scatter": (
        'g (float[3,4] x, int64[2,1] i, float[2,4] u) => (float[3,4] y) { y = ScatterND<reduction="add">(x, i, u) }',
        {"x": normal(3, 4), "i": np.array([[1], [1]]), "u": normal(2, 4)},
    ),
    "one-hot": (
        "g (int64[2,2] i, float[2] v) => (float[2,2,3] y) <int64 d = {3}> { y = OneHot(i, d, v) }",
        {"i": _IDS, "v": np.array([0.5, 2], np.float32)},
    ),
    "top-k": (
        "g (float[2,6] x) => (float[2,3] y, int64[2,3] p) <int64[1] k = {3}> { y, p = TopK(x, k) }",
        {"x": normal(2, 6)},
    ),
    "resize": (
        "g (float[1,2,4,4] x) => (float[1,2,6,8] y) <float[4] s = {1.0, 1.0, 1.5, 2.0}> "
        '{ y = Resize<mode="linear">(x, , s) }',
        {"x": normal(1, 2, 4, 4)},
    ),
    "grid-sample": (
        "g (float[1,2,4,4] x, float[1,3,3,2] p) => (float[1,2,3,3] y) { y = GridSample(x, p) }",
        {"x": normal(1, 2, 4, 4), "p": normal(1, 3, 3, 2)},
    ),
    "recurrent": (
        "g (float[3,2,4] x, float[1,12,4] w, float[1,12,3] r) => (float[3,1,2,3] y, float[1,2,3] h) "
        "{ y, h = LSTM<hidden_size=3>(x, w, r) }",
        {"x": normal(3, 2, 4), "w": normal(1, 12, 4), "r": normal(1, 12, 3)},
    ),
    "determinant": ("g (float[2,3,3] x) => (float[2] y) { y = Det(x) }", {"x": normal(2, 3, 3)}),
    "loss": (
        "g (float[3,4] x, int64[3] t) => (float y) { y = SoftmaxCrossEntropyLoss(x, t) }",
        {"x": normal(3, 4), "t": np.array([0, 3, 1])},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_interpreter_agrees(name: str) -> None:
    text, feeds = CASES[name]
    model = model_of(text)
    program = compiled(model)
    want = ReferenceEvaluator(model).run(None, dict(feeds))
    run, interpreted = program.run(feeds), evaluated(program, feeds)
    for (output, got), other, wanted in zip(run.items(), interpreted, want, strict=True):
        assert compare(output, np.asarray(got), np.asarray(wanted)).ok, (got, wanted)
        assert compare(output, np.asarray(other), np.asarray(wanted)).ok, (other, wanted)


def evaluated(program: Program, feeds: dict[str, Array]) -> list[Array]:
    """The outputs of a program of static sizes, from its portable bytes."""
    mlir = bindings()
    assert program.region is not None and program.compiled is not None
    arrays = [np.asarray(feeds[str(v.name)]) for v in program.region.inputs]
    arrays += [constant_array(v) for v in program.compiled.weights]
    with context(), mlir.Location.unknown():
        module = stablehlo().deserialize_portable_artifact(context(), program.compiled.members["program.vhlo"])
        results = stablehlo().eval_module(module, [_attribute(a) for a in arrays])
        found = {str(v.name): _array(r) for v, r in zip(program.region.outputs, results, strict=True)}
    return [found[str(v.name)] for v in program.model.graph.outputs]


def _attribute(array: Array) -> Any:
    mlir = bindings()
    if array.dtype == np.bool_:
        bits = np.packbits(array, bitorder="little")
        return mlir.DenseElementsAttr.get(bits, type=mlir.IntegerType.get_signless(1), shape=list(array.shape))
    kind = f"ui{array.itemsize * 8}" if array.dtype.kind == "u" else None
    type_ = None if kind is None else mlir.Type.parse(kind)
    return mlir.DenseElementsAttr.get(np.ascontiguousarray(array), type=type_, shape=list(array.shape))


def _array(attribute: Any) -> Array:
    return np.array(attribute)
