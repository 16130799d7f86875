"""Quantized graphs: what one kernel takes, and that nothing but integers lies in memory between products."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx_ir as ir
import pytest
from tilewright.backends.cpu.machine import targets
from tilewright.frontend.onnx import import_model
from tilewright.ir.graph import type_of
from tilewright.ir.types import DType
from tilewright.ops.program import Run, lower_graph
from tilewright.passes.base import Pass
from tilewright.passes.fusion.duplicate_dequantize import DuplicateDequantize
from tilewright.passes.fusion.dynamic_quantize import FuseDynamicQuantize
from tilewright.passes.fusion.layer_norm_residual import FuseLayerNormResidual
from tilewright.passes.fusion.matmul_epilogue import FuseMatMulEpilogue
from tilewright.passes.fusion.quantized_pool import FuseQuantizedPool
from tilewright.passes.pipeline import canonicalization, fusion, run_pipeline
from tilewright.passes.quantize.base import Capability, Settings
from tilewright.passes.quantize.methods import quantize

from models.zoo import small
from tests.passes.harness import graph, run

WEIGHTS = """
  <int8[4,6] w = {1,-2,3,-4,5,-6, 7,-8,9,-10,11,-12, 13,-14,15,-16,17,-18, 19,-20,21,-22,23,-24},
   float[6] sw = {0.01,0.02,0.03,0.04,0.05,0.06}, float[6] bias = {1,2,3,4,5,6}, float sx = {0.05}, uint8 zx = {128},
   float sy = {0.1}, uint8 zy = {3}, int64[1] last = {-1}, float full = {127}, float tiny = {0.000001}>"""

#: Name, passes, graph, and the operators that are left.
CASES: list[tuple[str, list[Pass], str, dict[str, int]]] = [
    (
        "a product, its bias, a residual, an activation and its quantization",
        [FuseMatMulEpilogue()],
        f"""g (float[B,4] x, float[B,6] r) => (uint8[B,6] y) {WEIGHTS}
        {{ q = QuantizeLinear(x, sx, zx)  a = DequantizeLinear(q, sx, zx)  b = DequantizeLinear<axis=1>(w, sw)
           p = MatMul(a, b)  t = Add(p, bias)  rq = QuantizeLinear(r, sy, zy)  rd = DequantizeLinear(rq, sy, zy)
           s = Add(t, rd)  u = Relu(s)  y = QuantizeLinear(u, sy, zy) }}""",
        {"QuantizeLinear": 2, "FusedMatMul": 1},
    ),
    (
        "what several read is dequantized in each",
        [DuplicateDequantize(), FuseMatMulEpilogue()],
        f"""g (float[B,4] x) => (float[B,6] y, float[B,6] z) {WEIGHTS}
        {{ q = QuantizeLinear(x, sx, zx)  a = DequantizeLinear(q, sx, zx)  b = DequantizeLinear<axis=1>(w, sw)
           y = MatMul(a, b)  t = MatMul(a, b)  z = Add(t, bias) }}""",
        {"QuantizeLinear": 1, "FusedMatMul": 2},
    ),
    (
        "a product whose result is dequantized by others ends with integers",
        [DuplicateDequantize(), FuseMatMulEpilogue()],
        f"""g (float[B,4] x) => (float[B,6] y, float[B,6] z) {WEIGHTS}
        {{ q = QuantizeLinear(x, sx, zx)  a = DequantizeLinear(q, sx, zx)  b = DequantizeLinear<axis=1>(w, sw)
           p = MatMul(a, b)  k = QuantizeLinear(p, sy, zy)  d = DequantizeLinear(k, sy, zy)
           y = Softmax(d)  z = LogSoftmax(d) }}""",
        {"QuantizeLinear": 1, "FusedMatMul": 1, "DequantizeLinear": 2, "Softmax": 1, "LogSoftmax": 1},
    ),
    (
        "rows that are quantized by their largest element",
        [FuseDynamicQuantize(), FuseMatMulEpilogue()],
        f"""g (float[B,S,4] x) => (float[B,S,6] y) {WEIGHTS}
        {{ m = Abs(x)  t = ReduceMax(m, last)  u = Max(t, tiny)  s = Div(u, full)
           q = QuantizeLinear<axis=-1, block_size=4, output_dtype=3>(x, s)
           a = DequantizeLinear<axis=-1, block_size=4>(q, s)  b = DequantizeLinear<axis=1>(w, sw)
           y = MatMul(a, b) }}""",
        {"FusedQuantize": 1, "FusedMatMul": 1},
    ),
    (
        "a norm that quantizes its rows",
        [FuseLayerNormResidual(), FuseMatMulEpilogue()],
        f"""g (float[B,S,4] x, float[B,S,4] r, float[4] c, float[4] d) => (float[B,S,6] y, float[B,S,4] n) {WEIGHTS}
        {{ e = Add(x, r)  n = LayerNormalization(e, c, d)  q = QuantizeLinear(n, sx, zx)
           a = DequantizeLinear(q, sx, zx)  b = DequantizeLinear<axis=1>(w, sw)  y = MatMul(a, b) }}""",
        {"FusedLayerNorm": 1, "FusedMatMul": 1},
    ),
    (
        "an average of integers",
        [FuseQuantizedPool()],
        f"""g (uint8[B,4,5,5] x) => (uint8[B,4,1,1] y) {WEIGHTS}
        {{ a = DequantizeLinear(x, sx, zx)  p = GlobalAveragePool(a)  y = QuantizeLinear(p, sy, zy) }}""",
        {"FusedPool": 1},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0])
def test_takes(case: tuple[str, list[Pass], str, dict[str, int]]) -> None:
    _, passes, text, left = case
    model = graph(text)
    for p in passes:
        assert run(p, model).modified
    assert Counter(n.op_type for n in model.graph) == left


def test_a_scale_of_another_value_is_left_alone() -> None:
    model = graph(
        f"""g (float[B,S,4] x, float[B,S,4] z) => (int8[B,S,4] q) {WEIGHTS}
        {{ m = Abs(z)  t = ReduceMax(m, last)  u = Max(t, tiny)  s = Div(u, full)
           q = QuantizeLinear<axis=-1, block_size=4, output_dtype=3>(x, s) }}"""
    )
    result = FuseDynamicQuantize().run(model)
    assert not result.modified
    assert "does not hang on the row alone" in str(result.misses[0])


#: Launches of small models quantized for the CPU, by operator; a change here needs its reason.
LAUNCHES = {
    ("bert-base", "int8-dynamic"): {
        "FusedMatMul": 13,
        "FusedQuantize": 5,
        "FusedLayerNorm": 4,
        "FusedAttention": 2,
        "FusedElementwise": 1,
        "LayerNormalization": 1,
        "Gather": 1,
    },
}


@pytest.mark.parametrize(("name", "method"), LAUNCHES, ids="-".join)
def test_launches(name: str, method: str, tmp_path: Path) -> None:
    model = small()[name]
    shapes = {k: tuple(map(str, v)) for k, v in model.input_shapes.items()}
    state = import_model(model.build(tmp_path), shapes)
    run_pipeline(state, canonicalization())
    quantize(state, Settings(method), Capability.of(targets()["cpu:x86-64-v3"]))  # type: ignore[arg-type]
    run_pipeline(state, fusion(2))
    assert Counter(n.op_type for n in state.graph) == LAUNCHES[name, method]
    assert all(_is_narrow(n) for n in state.graph if n.op_type == "FusedMatMul")


def _is_narrow(node: ir.Node) -> bool:
    """Whether both factors of a product are read as integers."""
    return all(v is not None and type_of(v).dtype.bits == 8 for v in node.inputs[:2])


def test_narrow_weights_are_known_to_kernels(tmp_path: Path) -> None:
    model = small()["bert-base"]
    shapes = {k: tuple(map(str, v)) for k, v in model.input_shapes.items()}
    limits: dict[bool, set[int | None]] = {}
    for narrow in (False, True):
        state = import_model(model.build(tmp_path), shapes)
        run_pipeline(state, canonicalization())
        settings = Settings("int8-dynamic", narrow_weights=narrow)
        quantize(state, settings, Capability.of(targets()["cpu:x86-64-v3"]))
        run_pipeline(state, fusion(2))
        kernels = [s.kernel for s in lower_graph(state) if isinstance(s, Run) and s.kernel.name == "fused_matmul"]
        limits[narrow] = {p.limit for k in kernels for p in k.params if p.dtype is DType.I8 and p.role == "const"}
    assert limits == {False: {None}, True: {64}}
