"""Which operators compute each output element from the input elements at the same (broadcast) position."""

from __future__ import annotations

#: One input.
UNARY = frozenset(
    """Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid
    HardSwish IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus
    Softsign Sqrt Swish Tan Tanh ThresholdedRelu""".split()
)
#: Several inputs that broadcast.
BROADCASTING = frozenset(
    """Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Clip Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean
    Min Mod Mul Or Pow PRelu Sub Sum Where Xor""".split()
)
ELEMENTWISE = UNARY | BROADCASTING
