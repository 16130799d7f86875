"""Every lowering rule against the ONNX reference evaluator, through the lowered interpreter, at symbolic sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tilewright.ir.ranges import Range

from tests.ops.interpret import run_interpreted, typed

F, L, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    """One operator: the declared (symbolic) shapes of its run-time inputs, constants, and the actual sizes."""

    op: str
    shapes: tuple[tuple[Any, ...], ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: tuple[Any, ...] = ()
    dtypes: tuple[int, ...] = ()
    outputs: int = 1
    low: float = -2.0
    high: float = 2.0

    def __str__(self) -> str:
        return f"{self.op}-{'-'.join('x'.join(map(str, s)) for s in self.shapes)}-{self.attributes}"


SIZES = {"A": 3, "C": 5, "T": 7}
UNARY = (
    "Neg Abs Exp Sin Cos Tan Atan Sinh Cosh Tanh Asinh Erf Floor Ceil Round Sign Sigmoid Relu LeakyRelu Elu Selu Celu "
    "Gelu Softplus Softsign HardSigmoid HardSwish Mish Shrink ThresholdedRelu"
).split()
POSITIVE = "Log Sqrt Reciprocal Acosh".split()
BINARY = "Add Sub Mul Div Max Min Mean Equal Less LessOrEqual Greater GreaterOrEqual PRelu".split()
REDUCE = "Sum Mean Prod Max Min SumSquare L1 L2 LogSumExp".split()

CASES = [
    *(Case(op, (("A", 4),)) for op in UNARY),
    *(Case(op, (("A", 4),), low=1.1) for op in POSITIVE),
    *(Case(op, (("A", 4, "C"), (4, 1))) for op in BINARY),
    *(Case(f"Reduce{op}", (("A", 4, "C"),), {"keepdims": 0}, (np.array([1]),)) for op in REDUCE),
    *(Case(f"Reduce{op}", (("A", 4, "C"),), {"keepdims": 1}, (np.array([-1, 0]),)) for op in REDUCE),
    Case("Pow", (("A", 4),), constants=(np.float32(2),)),
    Case("Pow", (("A", 4), (4,)), low=0.1),
    Case("Pow", (("A", 4),), constants=(np.float32(0.5),), low=0.1),
    Case("Gelu", (("A", 4),), {"approximate": "tanh"}),
    Case("Where", (("A", 1), ("A", 4), (4,)), dtypes=(B, F, F)),
    Case("Cast", (("A", 4),), {"to": L}),
    Case("Cast", (("A", 4),), {"to": B}),
    Case("Clip", (("A", 4),), constants=(np.float32(-0.5), np.float32(0.5))),
    Case("Softmax", (("A", "C"),)),
    Case("Softmax", (("A", "C", 4),), {"axis": 1}),
    Case("LogSoftmax", (("A", "C"),)),
    Case("ArgMax", (("A", "C"),), {"axis": 1, "keepdims": 0}),
    Case("ArgMin", (("A", "C"),), {"axis": 0}),
    Case("LayerNormalization", (("A", "C", 8), (8,), (8,))),
    Case("LayerNormalization", (("A", 2, 8), (2, 8)), {"axis": 1}, outputs=3),
    Case("RMSNormalization", (("A", "C", 8), (8,))),
    Case("BatchNormalization", (("A", 4, "C"), (4,), (4,), (4,), (4,)), low=0.1),
    *(
        Case("RotaryEmbedding", (("A", 2, "C", 8), ("A", "C", half), ("A", "C", half)), attributes)
        for half, attributes in (
            (4, {}),
            (4, {"interleaved": 1}),
            (2, {"rotary_embedding_dim": 4}),
            (3, {"rotary_embedding_dim": 6, "interleaved": 1}),
        )
    ),
    Case("RotaryEmbedding", (("A", 2, "C", 8), (1, "C", 4), (1, "C", 4))),
    Case("RotaryEmbedding", (("A", "C", 24), ("A", "C", 4), ("A", "C", 4)), {"num_heads": 3}),
    Case("RotaryEmbedding", (("A", "C", 24), ("A", "C", 4), ("A", "C", 4)), {"num_heads": 3, "interleaved": 1}),
    Case(
        "RotaryEmbedding", (("A", "C", 24), ("A", "C", 2), ("A", "C", 2)), {"num_heads": 3, "rotary_embedding_dim": 4}
    ),
    Case("RotaryEmbedding", (("A", 2, "C", 8), (20, 4), (20, 4), ("A", "C")), dtypes=(F, F, F, L), low=0, high=19),
    Case("MatMul", (("A", "C", 8), (8, 6))),
    Case("MatMul", (("A", 2, "C", 4), ("A", 2, 4, "C"))),
    Case("MatMul", ((8,), (8, 6))),
    Case("MatMul", (("A", 8), (8,))),
    Case("Gemm", (("A", 8), (6, 8), (6,)), {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    Case("Conv", (("A", 4, 9, 9), (6, 4, 3, 3), (6,)), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("Conv", (("A", 4, 9), (4, 2, 3)), {"group": 2, "auto_pad": "SAME_UPPER", "strides": [2]}),
    Case("MaxPool", (("A", 4, 9, 9),), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("AveragePool", (("A", 4, 9, 9),), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    *(
        Case(
            "AveragePool",
            (("A", 2, 8, 10),),
            {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [1, 1, 0, 1], "ceil_mode": 1, "count_include_pad": n},
        )
        for n in (0, 1)
    ),
    Case("Conv", ((1, 4, 6), ("C", 4, 3))),
    Case("Conv", ((2, 4, 6, 6), (4, 4, 3, 3))),  # filters in memory as they came; a tile of rows crosses an image row
    Case("GlobalAveragePool", (("A", 4, 9, 9),)),
    Case("Transpose", (("A", "C", 4),), {"perm": [2, 0, 1]}),
    Case("Reshape", (("A", "C", 12),), constants=(np.array([0, 0, 3, 4]),)),
    Case("Reshape", (("A", "C", 12),), constants=(np.array([-1, 12]),)),
    Case("Expand", (("A", 1),), constants=(np.array([2, 1, 4]),)),
    Case(
        "Slice", (("A", "C", 8),), constants=(np.array([1, 6]), np.array([100, 0]), np.array([1, 2]), np.array([1, -2]))
    ),
    Case("Split", (("A", 8),), {"axis": 1, "num_outputs": 2}, outputs=2),
    Case("Split", (("T", 3),), {"axis": 0, "num_outputs": 2}, outputs=2),
    Case("Concat", (("A", "C"), ("A", 3), ("A", "T")), {"axis": 1}),
    Case("Pad", (("A", "C"),), constants=(np.array([1, 0, 0, 2]), np.float32(9))),
    *(Case("Pad", ((4, "T"),), {"mode": m}, (np.array([2, 1, 0, 3]),)) for m in ("edge", "reflect")),
    Case("Slice", (("A", "T"),), constants=(np.array([0]), np.array([2**62]), np.array([1]), np.array([2]))),
    Case("Slice", (("A", "T"),), constants=(np.array([-1]), np.array([-(2**62)]), np.array([1]), np.array([-3]))),
    Case("Tile", (("A", "C"),), constants=(np.array([2, 3]),)),
    Case("Trilu", (("A", "C", "C"),), {"upper": 0}),
    Case("Gather", ((20, 4), ("A", "C")), dtypes=(F, L), low=-9, high=9),
    Case("GatherElements", (("A", 4), ("A", 2)), {"axis": 1}, dtypes=(F, L)),
    Case("Shape", (("A", "C", 8),)),
    Case("EyeLike", (("A", "C"),), {"k": 1}),
]


def build(case: Case) -> tuple[onnx.ModelProto, dict[str, np.ndarray[Any, Any]]]:
    dtypes = case.dtypes or (F,) * len(case.shapes)
    names = [f"x{i}" for i in range(len(case.shapes))]
    infos = [helper.make_tensor_value_info(n, t, s) for n, t, s in zip(names, dtypes, case.shapes, strict=True)]
    constants = [numpy_helper.from_array(np.asarray(c), f"c{i}") for i, c in enumerate(case.constants)]
    outputs = [helper.make_empty_tensor_value_info(f"y{i}") for i in range(case.outputs)]
    node = helper.make_node(
        case.op, [*names, *(c.name for c in constants)], [o.name for o in outputs], name="n", **case.attributes
    )
    graph = helper.make_graph([node], "g", infos, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    arrays = {}
    for name, dtype, shape in zip(names, dtypes, case.shapes, strict=True):
        sizes = [SIZES.get(s, s) for s in shape]
        values = RNG.uniform(case.low, case.high, sizes)
        arrays[name] = values.astype(helper.tensor_dtype_to_np_dtype(dtype)) if dtype != B else values > 0
    return model, arrays


@pytest.mark.parametrize("case", CASES, ids=str)
def test_lowering_agrees_with_the_reference(case: Case) -> None:
    model, arrays = build(case)
    expected = ReferenceEvaluator(model).run(None, arrays)
    facts = {s: Range(1, 64) for shape in case.shapes for s in shape if isinstance(s, str)}
    actual = run_interpreted(typed(model, facts), arrays)
    for got, want in zip(actual.values(), expected, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
def test_the_extreme_position_of_a_row_with_nan_is_that_of_the_nan(op: str, last: int) -> None:
    model, arrays = build(Case(op, (("A", "C"),), {"axis": 1, "keepdims": 0, "select_last_index": last}))
    arrays["x0"][1, 2] = np.nan
    arrays["x0"][2, :] = np.nan
    (got,) = run_interpreted(typed(model, {n: Range(1, 64) for n in ("A", "C")}), arrays).values()
    assert got[1:].tolist() == ([2, 4] if last else [2, 0])
