"""Every pointwise operator with attributes that matter, and numbers that it is defined for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

Array = np.ndarray[Any, Any]

#: Element types of ONNX by their name there.
DTYPES = (
    "float", "double", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "bool",
)  # fmt: skip


@dataclass(frozen=True)
class Pointwise:
    """An operator, how many operands it has, its attributes, and bounds of each operand."""

    op: str
    operands: int = 1
    attributes: dict[str, Any] = field(default_factory=dict)
    low: Sequence[float] = (-4.0,)
    high: Sequence[float] = (4.0,)
    #: Element types of the operands where they are not all that of the first.
    dtypes: Sequence[str] = ()
    #: For operands that integers cannot have.
    only_floats: bool = False
    #: The opset that has the operator in this form.
    opset: int = 24

    def __str__(self) -> str:
        return f"{self.op}{self.attributes or ''}"

    def bounds(self, i: int) -> tuple[float, float]:
        """Of operand ``i``; the last ones given stand for all that follow."""
        return self.low[min(i, len(self.low) - 1)], self.high[min(i, len(self.high) - 1)]

    def takes(self, dtype: str) -> bool:
        """Whether ONNX defines it for this element type of the first operand."""
        if self.only_floats and dtype.startswith(("int", "uint", "bool")):
            return False
        schema = onnx.defs.get_schema(self.op, self.opset)
        name = schema.inputs[0].type_str
        return any(
            t.type_param_str == name and f"tensor({dtype})" in t.allowed_type_strs for t in schema.type_constraints
        )


_ANY = (
    "Abs Ceil Celu Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity LeakyRelu Mish Neg Relu Round Selu Shrink "
    "Sigmoid Sign Sin Cos Softplus Softsign Swish Tanh ThresholdedRelu Atan Sinh Cosh Asinh BitwiseNot Not IsNaN IsInf"
)
_TWO = "Add Sub Mul Equal Less LessOrEqual Greater GreaterOrEqual And Or Xor BitwiseAnd BitwiseOr BitwiseXor PRelu"

CASES = (
    *(Pointwise(op) for op in _ANY.split()),
    *(Pointwise(op, 2) for op in _TWO.split()),
    *(Pointwise(op, n) for op in ("Min", "Max", "Sum", "Mean") for n in (1, 3)),
    *(Pointwise(op, low=(0.1,)) for op in ("Log", "Sqrt", "Reciprocal")),
    *(Pointwise(op, low=(-0.95,), high=(0.95,)) for op in ("Acos", "Asin", "Atanh")),
    Pointwise("Acosh", low=(1.0,)),
    Pointwise("Tan", low=(-1.5,), high=(1.5,)),
    Pointwise("Div", 2, low=(-100, 1), high=(100, 9)),
    Pointwise("Div", 2, low=(-100, -9), high=(100, -1)),
    *(Pointwise("Mod", 2, {"fmod": 1}, low=(-100, low), high=(100, low + 8)) for low in (-9, 1)),
    *(Pointwise("Mod", 2, low=(-100, low), high=(100, low + 8)) for low in (-9, 1)),
    Pointwise("BitShift", 2, {"direction": "LEFT"}, low=(-50, 0), high=(50, 7), opset=28),
    Pointwise("BitShift", 2, {"direction": "RIGHT"}, low=(-50, 0), high=(50, 70), opset=28),
    Pointwise("Pow", 2, low=(0.1, -2.0), high=(3.0, 3.0), only_floats=True),
    Pointwise("Pow", 2, low=(1, 0), high=(3, 3)),
    Pointwise("Pow", 2, low=(-3, 0), high=(3, 3), dtypes=("", "int32")),
    Pointwise("Pow", 2, low=(-3, 0), high=(3, 3), dtypes=("", "uint8")),
    Pointwise("Pow", 2, low=(0, 0), high=(3, 2), dtypes=("", "float")),
    Pointwise("Where", 3, dtypes=("bool", "", "")),
    Pointwise("Clip", 3, low=(-4, -2, 1), high=(4, 0, 3)),
    Pointwise("Celu", 1, {"alpha": 2.0}),
    Pointwise("Elu", 1, {"alpha": 0.5}),
    Pointwise("Gelu", 1, {"approximate": "tanh"}),
    Pointwise("HardSigmoid", 1, {"alpha": 0.3, "beta": 0.4}),
    Pointwise("LeakyRelu", 1, {"alpha": -0.1}),
    Pointwise("Selu", 1, {"alpha": 2.0, "gamma": 3.0}),
    Pointwise("Shrink", 1, {"lambd": 1.5, "bias": 1.0}),
    Pointwise("Swish", 1, {"alpha": 0.5}),
    Pointwise("ThresholdedRelu", 1, {"alpha": 0.5}),
    Pointwise("IsInf", 1, {"detect_negative": 0}),
    Pointwise("IsInf", 1, {"detect_positive": 0}),
    Pointwise("IsInf", 1, {"detect_negative": 0, "detect_positive": 0}),
)


def draw(rng: np.random.Generator, dtype: str, shape: Sequence[int], low: float, high: float) -> Array:
    """Numbers within the bounds; unsigned ones from 0, booleans either."""
    kind = np_dtype(dtype)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.startswith(("int", "uint")):
        if dtype.startswith("uint"):
            low, high = (-high, -low) if high <= 0 else (max(low, 0), high)
        return rng.integers(int(low), max(int(high), int(low) + 1), shape, endpoint=True).astype(kind)
    return rng.uniform(low, high, shape).astype(kind)


def np_dtype(dtype: str) -> np.dtype[Any]:
    """The NumPy type of an ONNX element type."""
    return helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(dtype.upper()))
