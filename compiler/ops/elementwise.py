"""Operators that compute each output element from the input elements at the same (broadcast) position."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tilewright.ir.graph import KNOWN_LIMIT, Known
from tilewright.ir.symbolic import Expr, maximum, minimum
from tilewright.ir.types import DType, TensorType
from tilewright.ops.context import Infer
from tilewright.ops.registry import shape_rule

#: One input, output of the same type.
UNARY = (
    "Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish "
    "LeakyRelu Log Mish Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh "
    "ThresholdedRelu"
).split()

#: Broadcast inputs of one element type, output of that type; integers are not followed through these.
BROADCAST = "BitShift BitwiseAnd BitwiseOr BitwiseXor Mean Pow".split()


#: Attributes that are one of a few words, the first by default; ``None``: there is no default.
WORDS: dict[str, tuple[str, tuple[str | None, ...]]] = {
    "BitShift": ("direction", (None, "LEFT", "RIGHT")),
    "Gelu": ("approximate", ("none", "tanh")),
    "Cast": ("round_mode", ("up", "down", "nearest")),
    "CastLike": ("round_mode", ("up", "down", "nearest")),
}


def check_word(ctx: Infer) -> None:
    """Fail for a word that the node's operator does not know."""
    if ctx.node.op_type in WORDS:
        name, known = WORDS[ctx.node.op_type]
        given = ctx.attribute(name, known[0])
        if given is None or given not in known:
            ctx.fail(f"{name} is {given!r}, not one of {', '.join(w for w in known if w is not None)}")


@shape_rule(*UNARY)
def unary(ctx: Infer) -> TensorType:
    """Same type as the first input."""
    check_word(ctx)
    return ctx.input(0)


@shape_rule(*BROADCAST)
def broadcast(ctx: Infer) -> TensorType:
    """Element type of the first input, NumPy broadcasting."""
    check_word(ctx)
    return TensorType(ctx.input(0).dtype, ctx.broadcast(*(t.shape for t in ctx.types())))


@shape_rule("PRelu")
def prelu(ctx: Infer) -> TensorType:
    """Type of the input, to which the slope broadcasts."""
    x, slope = ctx.input(0), ctx.input(1)
    if slope.rank > x.rank:
        ctx.fail(f"a slope of rank {slope.rank} for an input of rank {x.rank}")
    for size, whole_size in zip(slope.shape, x.shape[x.rank - slope.rank :], strict=True):
        if size != 1:
            ctx.equal(size, whole_size)
    return x


@shape_rule("Clip")
def clip(ctx: Infer) -> TensorType:
    """Type of the input; the bounds are one number each."""
    for i in (1, 2):
        bound = ctx.optional(i)
        for size in bound.shape if bound is not None else ():
            ctx.equal(size, 1)
    return ctx.input(0)


# -- arithmetic that shapes are computed with ------------------------------------------------------------------------


#: Element types whose arithmetic on sizes does not wrap round: only these are followed.
WIDE = (DType.I32, DType.I64)


def _divide(a: Expr, b: Expr, ctx: Infer) -> Expr | None:
    """Integer division of ONNX truncates; it is ``//`` where nothing is negative."""
    return a // b if ctx.bounds(a)[0] >= 0 and ctx.bounds(b)[0] > 0 else None


def _modulo(a: Expr, b: Expr, ctx: Infer) -> Expr | None:
    return a % b if ctx.bounds(a)[0] >= 0 and ctx.bounds(b)[0] > 0 else None


def _absolute(a: Expr, ctx: Infer) -> Expr | None:
    lo, hi = ctx.bounds(a)
    return a if lo >= 0 else -a if hi <= 0 else None


KNOWN_BINARY: dict[str, Callable[[Expr, Expr, Infer], Expr | None]] = {
    "Add": lambda a, b, _: a + b,
    "Sub": lambda a, b, _: a - b,
    "Mul": lambda a, b, _: a * b,
    "Div": _divide,
    "Mod": _modulo,
    "Min": lambda a, b, _: minimum(a, b),
    "Max": lambda a, b, _: maximum(a, b),
    "Sum": lambda a, b, _: a + b,
}

KNOWN_UNARY: dict[str, Callable[[Expr, Infer], Expr | None]] = {
    "Neg": lambda a, _: -a,
    "Identity": lambda a, _: a,
    "Abs": _absolute,
}


@shape_rule(*KNOWN_BINARY)
def arithmetic(ctx: Infer) -> TensorType:
    """As :func:`broadcast`; known integers are computed."""
    combine = KNOWN_BINARY[ctx.node.op_type]
    known = ctx.known(0) if ctx.input(0).dtype in WIDE else None
    for i in range(1, len(ctx.inputs)):
        known = combine_known(known, ctx.known(i), lambda a, b: combine(a, b, ctx))
    ctx.set_known(known)
    if ctx.node.op_type == "Add" and known is None and ctx.input(0).dtype.is_integer:
        parts = ctx.largest(0), ctx.largest(1)
        if parts[0] is not None and parts[1] is not None:
            ctx.largest_output = parts[0] + parts[1]
    return broadcast(ctx)


@shape_rule(*KNOWN_UNARY)
def followed_unary(ctx: Infer) -> TensorType:
    """Same type as the input; known integers are computed."""
    compute = KNOWN_UNARY[ctx.node.op_type]
    known = ctx.known(0)
    if known is not None and (ctx.input(0).dtype in WIDE or ctx.node.op_type == "Identity"):
        ctx.set_known(whole([compute(e, ctx) for e in known.flat], known.shape))
    return ctx.input(0)


@shape_rule("Cast")
def cast(ctx: Infer) -> TensorType:
    """The element type of ``to``. Integers stay known between integer types."""
    return _converted(ctx, ctx.dtype("to"))


@shape_rule("CastLike")
def cast_like(ctx: Infer) -> TensorType:
    """The element type of the second input."""
    return _converted(ctx, ctx.input(1).dtype)


@shape_rule("BitCast")
def bit_cast(ctx: Infer) -> TensorType:
    """The same bits read as another type of the same width."""
    to = ctx.dtype("to")
    if to.bits != ctx.input(0).dtype.bits:
        ctx.fail(f"{ctx.input(0).dtype} and {to} differ in width")
    return TensorType(to, ctx.input(0).shape)


@shape_rule("Dropout")
def dropout(ctx: Infer) -> list[TensorType | None]:
    """Identity when nothing is dropped, which a run has to confirm where it gives ``training_mode`` or the ratio; the
    mask is boolean."""
    x, ratio, training = ctx.input(0), ctx.constant(1), ctx.known(2)
    off = not ctx.has(2) or (training is not None and all(e == 0 for e in training.flat))
    if not off and not (ratio is not None and not ratio.any()):
        if training is not None and (ratio is not None or not ctx.has(1)):
            ctx.unsupported("training mode, whose results are random; set training_mode to False or ratio to 0")
        for i in (1, 2):
            for size in ctx.input(i).shape if ctx.has(i) else ():
                ctx.equal(size, 1)
        ctx.new_size("drops_at_random", 0)
    return [x, TensorType(DType.BOOL, x.shape)]


def combine_known(a: Known | None, b: Known | None, combine: Callable[[Expr, Expr], Expr | None]) -> Known | None:
    """``combine`` over two broadcast arrays of expressions; ``None`` when any element is not known."""
    if a is None or b is None:
        return None
    if max(a.size, 1) * max(b.size, 1) > KNOWN_LIMIT and a.shape != b.shape and 1 not in (a.size, b.size):
        return None
    left, right = np.broadcast_arrays(a, b)
    return whole([combine(x, y) for x, y in zip(left.flat, right.flat, strict=True)], left.shape)


def whole(elements: list[Expr | None], shape: tuple[int, ...]) -> Known | None:
    """The elements as an array, or ``None`` when one of them is not known."""
    return None if any(e is None for e in elements) else np.array(elements, dtype=object).reshape(shape)


def _converted(ctx: Infer, to: DType) -> TensorType:
    check_word(ctx)
    source = ctx.input(0)
    known = ctx.known(0)
    if known is not None:
        if to.is_integer and all(_fits(ctx.bounds(e), to) for e in known.flat):
            ctx.set_known(known)
        elif to is DType.BOOL and all(e.is_constant for e in known.flat):
            ctx.set_known(whole([e * 0 + int(e != 0) for e in known.flat], known.shape))
    return TensorType(to, source.shape)


def _fits(bounds: tuple[int, int], to: DType) -> bool:
    """Sizes are below 2**31: only a narrower type can change one."""
    if to.bits >= 32:
        return bounds[0] >= 0 or to.is_signed
    low = -(2 ** (to.bits - 1)) if to.is_signed else 0
    return low <= bounds[0] and bounds[1] < low + 2**to.bits
