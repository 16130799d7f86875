"""Operators that compute each output element from the input elements at the same (broadcast) position."""

from __future__ import annotations

from tilewright.ir.types import DType, TensorType
from tilewright.ops.context import Infer
from tilewright.ops.registry import shape_rule

#: One input, output of the same type.
UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid "
    "HardSwish Identity LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus "
    "Softsign Sqrt Swish Tan Tanh ThresholdedRelu"
).split()

#: Broadcast inputs of one element type, output of that type.
BROADCAST = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Max Mean Min Mod Mul Or Pow PRelu Sub Sum Xor"
).split()

#: Broadcast inputs of one element type, boolean output.
COMPARE = "Equal Greater GreaterOrEqual Less LessOrEqual".split()


@shape_rule(*UNARY)
def unary(ctx: Infer) -> TensorType:
    """Same type as the first input."""
    return ctx.input(0)


@shape_rule(*BROADCAST)
def broadcast(ctx: Infer) -> TensorType:
    """Element type of the first input, NumPy broadcasting."""
    return TensorType(ctx.input(0).dtype, ctx.broadcast(*(t.shape for t in ctx.types())))


@shape_rule(*COMPARE)
def compare(ctx: Infer) -> TensorType:
    """Boolean, NumPy broadcasting."""
    return TensorType(DType.BOOL, ctx.broadcast(*(t.shape for t in ctx.types())))
