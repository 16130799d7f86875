"""Products with constant weights of 4 and 8 bits: fused, lowered, compiled, compared with the tile IR's interpreter.

Scales are powers of two and sums small, so that every f32 on the way is exact: results must have the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tilewright.backends.cpu import machine
from tilewright.backends.cpu.backend import CpuBackend
from tilewright.backends.cpu.byte_product import byte_products, plan_bytes
from tilewright.ir.graph import constant_array, is_constant
from tilewright.ir.ranges import Range
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.tile import Kernel
from tilewright.ops.program import Run, lower_graph
from tilewright.passes.fusion.dequantized_weights import FuseDequantizedWeights

from tests.cpu import harness
from tests.cpu.harness import LEVELS, by_level, compile_kernel
from tests.ops.interpret import typed

Array = np.ndarray[Any, Any]

TYPES = {
    "i4": TensorProto.INT4,
    "u4": TensorProto.UINT4,
    "i8": TensorProto.INT8,
    "u8": TensorProto.UINT8,
}
ROWS = (1, 2, 3, 4, 5, 8, 61)


@dataclass(frozen=True)
class Case:
    """``x[M, depth] · w[depth, columns]`` with scales for blocks of ``group`` (0: one a column)."""

    weights: str
    depth: int
    columns: int
    group: int
    rows: str = "i8"  # or f32
    zero: bool = False
    epilogue: bool = False
    scales: str = "f32"

    def __str__(self) -> str:
        words = ["zero"] * self.zero + ["bias"] * self.epilogue + [self.scales] * (self.scales != "f32")
        return "-".join([self.rows, self.weights, f"{self.depth}x{self.columns}", f"g{self.group}", *words])


CASES = [
    Case("i4", 64, 96, 32),
    Case("i4", 96, 71, 32, epilogue=True),
    Case("i4", 256, 33, 128),
    Case("i4", 48, 2100, 16),
    Case("i4", 64, 64, 64, zero=True),
    Case("u4", 96, 40, 32),
    Case("u4", 96, 40, 32, zero=True),
    Case("i8", 64, 72, 32),
    Case("u8", 64, 72, 16, zero=True),
    Case("i4", 64, 96, 32, rows="f32"),
    Case("u4", 96, 71, 32, rows="f32", zero=True, epilogue=True),
    Case("i8", 64, 40, 32, rows="f32"),
    Case("i8", 60, 40, 0, rows="f32"),
    Case("i4", 64, 33, 0, rows="f32", epilogue=True),
    Case("u8", 64, 33, 0, rows="f32"),
    Case("i4", 64, 96, 32, scales="f16"),
]
QUICK = ("i8-i4-96x71-g32-bias", "i8-u4-96x40-g32-zero", "i8-i8-64x72-g32", "f32-i4-64x96-g32")


def _integers(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> onnx.TensorProto:
    """Every code occurs, the most negative one as well."""
    bits, signed = int(kind[1]), kind[0] == "i"
    low = -(1 << bits - 1) if signed else 0
    return helper.make_tensor("w", TYPES[kind], shape, rng.integers(low, low + (1 << bits), shape).reshape(-1).tolist())


def _powers(shape: tuple[int, ...], rng: np.random.Generator, dtype: type = np.float32) -> Array:
    return np.exp2(rng.integers(-3, 2, shape)).astype(dtype)


def model_of(case: Case) -> onnx.ModelProto:
    """The product as quantization leaves it, with a symbolic number of rows."""
    rng = np.random.default_rng(0)
    count = case.depth // case.group if case.group else 0
    shape = (count, case.columns) if case.group else (case.columns,)
    kind: Any = {"f32": np.float32, "f16": np.float16}[case.scales]
    constants = [_integers(case.weights, (case.depth, case.columns), rng)]
    constants.append(numpy_helper.from_array(_powers(shape, rng, kind), "s"))
    nodes, given = [], ["w", "s"]
    if case.zero:
        zero = _integers(case.weights, shape, rng)
        zero.name = "z"
        constants.append(zero)
        given.append("z")
    how: dict[str, Any] = {"axis": 0, "block_size": case.group} if case.group else {"axis": 1}
    if case.scales != "f32":
        how["output_dtype"] = TensorProto.FLOAT
    nodes.append(helper.make_node("DequantizeLinear", given, ["real"], **how))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["M", case.depth])]
    if case.rows == "i8":
        inputs = [
            helper.make_tensor_value_info("q", TensorProto.INT8, ["M", case.depth]),
            helper.make_tensor_value_info("t", TensorProto.FLOAT, ["M", count]),
        ]
        nodes.append(helper.make_node("DequantizeLinear", ["q", "t"], ["x"], axis=1, block_size=case.group))
    nodes.append(helper.make_node("MatMul", ["x", "real"], ["y"]))
    if case.epilogue:
        constants.append(numpy_helper.from_array(rng.integers(-9, 9, case.columns).astype(np.float32), "b"))
        nodes[-1].output[0] = "product"
        nodes += [helper.make_node("Add", ["product", "b"], ["sum"]), helper.make_node("Relu", ["sum"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", case.columns])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10)


def kernel_of(case: Case) -> tuple[Kernel, dict[str, Array]]:
    """The one kernel that the product becomes, and its constants."""
    model = typed(model_of(case), {"M": Range(1, 4096)})
    assert FuseDequantizedWeights().run(model).modified
    (step,) = lower_graph(model)
    assert isinstance(step, Run)
    pairs = zip(step.kernel.params, step.values, strict=True)
    constants = {p.name: np.asarray(constant_array(v)) for p, v in pairs if p.role == "const" and is_constant(v)}
    return step.kernel, constants


def tensors_of(kernel: Kernel, case: Case, rows: int) -> dict[str, Array]:
    rng = np.random.default_rng(rows)
    found: dict[str, Array] = {}
    for p in kernel.params:
        if p.role != "in":
            continue
        shape = [s.evaluate({"M": rows}) for s in p.shape]
        if str(p.dtype) == "i8":
            found[p.name] = rng.integers(-128, 128, shape).astype(np.int8)
        elif case.rows == "i8":
            found[p.name] = _powers(tuple(shape), rng)
        else:
            found[p.name] = rng.integers(-64, 64, shape).astype(np.float32)
    return found


@pytest.mark.parametrize(("case", "level"), by_level(CASES, QUICK))
def test_exact(case: Case, level: str) -> None:
    """Same bits as the interpreter for any number of rows; memory beyond a tensor is not touched."""
    kernel, constants = kernel_of(case)
    assert len(byte_products(kernel)) == 1
    compiled = compile_kernel(kernel, level)
    assert len(plan_bytes(compiled.scheduled)) == 1
    for rows in ROWS:
        tensors = {**constants, **tensors_of(kernel, case, rows)}
        expected = run_lowered(kernel, tensors, {"M": rows})
        got = compiled(tensors, {"M": rows}, splits=(1,))
        for name, array in expected.items():
            np.testing.assert_array_equal(got[name], array, err_msg=f"{rows} rows")


@pytest.mark.parametrize("weights", ["i4", "u4", "i8", "u8"])
def test_extreme_sums(weights: str) -> None:
    """Products of the largest integers do not saturate on the way."""
    case = Case(weights, 128, 32, 128)
    kernel, constants = kernel_of(case)
    for weight, x in ((-1, -128), (-1, 127), (0, -128), (0, 127)):
        tensors = {**constants, **tensors_of(kernel, case, 3)}
        for name, array in tensors.items():
            if array.dtype == np.int8 and array.shape == (3, 128):
                tensors[name] = np.full_like(array, x)
            elif array.shape == (128, 32):  # all bits, or the sign alone
                bits = int(weights[1])
                code = (1 << bits) - 1 if weight else 1 << bits - 1
                value = code - (1 << bits) if weights[0] == "i" else code
                tensors[name] = np.full(array.shape, value).astype(array.dtype)
        expected = run_lowered(kernel, tensors, {"M": 3})
        got = compile_kernel(kernel, LEVELS[-1])(tensors, {"M": 3})
        for name, array in expected.items():
            np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("case", [c for c in CASES[:7] if c.rows == "i8"], ids=str)
def test_quads(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of machines that add four products in one instruction, by two instructions that are here."""
    level = LEVELS[-1]
    table = {**machine.codegen(harness.TARGETS[level]), "flags": ["-DTW_QUADS_BY_PAIRS"]}
    target = harness.TARGETS[level]
    made = replace(target, extra={**target.extra, "codegen": table})
    monkeypatch.setitem(harness.TARGETS, "quads", made)
    kernel, constants = kernel_of(case)
    compiled = compile_kernel(kernel, "quads")
    for rows in (1, 3, 4, 7):
        tensors = {**constants, **tensors_of(kernel, case, rows)}
        expected = run_lowered(kernel, tensors, {"M": rows})
        got = compiled(tensors, {"M": rows})
        for name, array in expected.items():
            np.testing.assert_array_equal(got[name], array, err_msg=f"{rows} rows")


@pytest.mark.parametrize("spelling", ["cpu:x86-64-v4", "cpu:x86-64-v4+vnni", "cpu:aarch64"])
def test_compiles_elsewhere(spelling: str) -> None:
    """Levels that this machine need not have."""
    target, backend = machine.targets()[spelling], CpuBackend()
    kernels = []
    for n, case in enumerate(CASES[:1] + CASES[7:10]):
        kernel, _ = kernel_of(case)
        scheduled = apply(kernel, next(iter(backend.schedules(kernel, target))))
        assert plan_bytes(scheduled), n
        kernels.append(scheduled)
    for scheduled in kernels:
        assert backend.build(backend.emit([scheduled], target), target).members
