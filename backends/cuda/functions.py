"""How Triton spells element types and scalar functions, and what it has no spelling for."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tilewright.backends.cuda.positions import Spelled, parenthesized
from tilewright.errors import InternalError
from tilewright.ir.types import DType
from tilewright.kernel.expr import COMPARE, Binary, Const, Load, Unary, Value, operands

#: Spelling in ``tl.<name>``; 4-bit types have none.
LANGUAGE = {
    DType.F32: "float32",
    DType.F16: "float16",
    DType.BF16: "bfloat16",
    DType.F64: "float64",
    DType.F8E4M3: "float8e4nv",
    DType.F8E5M2: "float8e5",
    DType.I8: "int8",
    DType.I16: "int16",
    DType.I32: "int32",
    DType.I64: "int64",
    DType.U8: "uint8",
    DType.U16: "uint16",
    DType.U32: "uint32",
    DType.U64: "uint64",
    DType.BOOL: "int1",
}
#: Spelling in a kernel's signature (a pointer has ``*`` before it).
SIGNATURE = {
    DType.F32: "fp32",
    DType.F16: "fp16",
    DType.BF16: "bf16",
    DType.F64: "fp64",
    DType.F8E4M3: "fp8e4nv",
    DType.F8E5M2: "fp8e5",
    DType.I8: "i8",
    DType.I16: "i16",
    DType.I32: "i32",
    DType.I64: "i64",
    DType.U8: "u8",
    DType.U16: "u16",
    DType.U32: "u32",
    DType.U64: "u64",
    DType.BOOL: "i1",
}

#: ``{x}`` is the operand, ``{t}`` its text without parentheses around it.
UNARY_TEXT = {
    "neg": "-{x}",
    "abs": "tl.abs({t})",
    "not": "({x} == 0)",
    "bitnot": "~{x}",
    "isnan": "({x} != {x})",
    "isinf": '(tl.abs({t}) == float("inf"))',
    "reciprocal": "(1.0 / {x})",
    "sign": "_sign({t})",
    "exp": "tl.exp({t})",
    "log": "tl.log({t})",
    "log2": "tl.log2({t})",
    "exp2": "tl.exp2({t})",
    "sqrt": "tl.sqrt({t})",
    "rsqrt": "tl.rsqrt({t})",
    "sin": "tl.sin({t})",
    "cos": "tl.cos({t})",
    "tan": "(tl.sin({t}) / tl.cos({t}))",
    "tanh": "_tanh({t})",
    "erf": "tl.erf({t})",
    "floor": "tl.floor({t})",
    "ceil": "tl.ceil({t})",
    "round": "_round({t})",
    "sigmoid": "(1.0 / (1.0 + tl.exp(-{x})))",
}
#: Computed in f32 when the operand is narrower: Triton has them for f32 and f64 only.
WIDE_ONLY = frozenset("exp log log2 exp2 sqrt rsqrt sin cos tan tanh erf floor ceil round sigmoid".split())

_OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "and": "&", "or": "|", "xor": "^", "bitand": "&", "bitor": "|", "bitxor": "^", "shl": "<<", "shr": ">>",
}  # fmt: skip

#: Functions that the text defines for itself when it uses them. ``_round`` is to nearest even by the carry of
#: 1.5 * 2**23; ``_tanh`` below 0.6 is an odd polynomial fitted to 1.3 units in the last place, above it the identity
#: with exp (3.2 units).
DEFINITIONS = {
    "_max": "def _max(a, b):\n    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)\n",
    "_min": "def _min(a, b):\n    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)\n",
    "_product": "def _product(a, b):\n    return a * b\n",
    "_any": "def _any(a, b):\n    return a | b\n",
    "_all": "def _all(a, b):\n    return a & b\n",
    "_sign": "def _sign(x):\n    return tl.where(x > 0, 1, tl.where(x < 0, -1, x)).to(x.dtype)\n",
    "_round": (
        "def _round(x):\n"
        "    return tl.where(tl.abs(x) < 4194304.0, (x + 12582912.0) - 12582912.0, x)\n"
    ),
    "_tanh": (
        "def _tanh(x):\n"
        "    z = x * x\n"
        "    p = -0.005905865 * z + 0.020805383\n"
        "    p = p * z - 0.053786684\n"
        "    p = p * z + 0.13331959\n"
        "    p = p * z - 0.333332986\n"
        "    far = 1.0 - 2.0 / (tl.exp(2.0 * tl.abs(x)) + 1.0)\n"
        "    return tl.where(tl.abs(x) < 0.6, x + x * (z * p), tl.where(x < 0.0, -far, far))\n"
    ),
    "_floordiv": (
        "def _floordiv(a, b):\n"
        "    return a // b - ((a % b != 0) & ((a < 0) != (b < 0))).to(tl.int32)\n"
    ),
    "_floormod": "def _floormod(a, b):\n    return ((a % b) + b) % b\n",
    "_floatmod": (
        "def _floatmod(a, b):\n"
        "    r = a % b\n"
        "    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)\n"
    ),
}  # fmt: skip


def refusals(value: Value) -> Iterator[str]:
    """Why Triton cannot say ``value``: one reason for each part that it has no spelling for."""
    for x in operands(value):
        yield from refusals(x)
    if not isinstance(value, Const) and value.dtype not in LANGUAGE:
        yield f"element type {value.dtype}"
    match value:
        case Unary(op=op) if op not in UNARY_TEXT:
            yield f"function {op}"
        case Unary(op="round", x=x) if x.dtype is DType.F64:
            yield "round of f64"
        case Binary(op="pow", b=b) if not (isinstance(b, Const) and b.value in (2, 0.5, 1)):
            yield "pow with an exponent other than the constants 0.5, 1 and 2"
        case Load(dtype=DType.F8E4M3 | DType.F8E5M2, fill=fill) if fill:
            yield "a fill other than zero of an 8-bit float"


def literal(value: float | int | bool, dtype: DType) -> str:
    """A literal that takes the type of the other operand."""
    if dtype is DType.BOOL:
        return str(bool(value))
    if not dtype.is_float:
        return str(int(value))
    if math.isnan(value) or math.isinf(value):
        return f'float("{value}")'
    return repr(float(value))


def unary_text(op: str, x: Spelled, dtype: DType) -> str:
    """``op`` applied to ``x`` of type ``dtype``."""
    if op in WIDE_ONLY and dtype in (DType.F16, DType.BF16):
        wide = f"{x.operand}.to(tl.float32)"
        return f"{parenthesized(UNARY_TEXT[op].format(x=wide, t=wide))}.to(tl.{LANGUAGE[dtype]})"
    return UNARY_TEXT[op].format(x=x.operand, t=x.text)


def binary_text(op: str, x: Spelled, y: Spelled, dtype: DType) -> str:
    """``op`` applied to two values of type ``dtype``; bare operators come without parentheses."""
    a, b = x.operand, y.operand
    if op in _OPERATORS:
        return f"{a} {_OPERATORS[op]} {b}"
    match op:
        case "div":
            return f"{a} / {b}" if dtype.is_float else f"{a} // {b}"  # // truncates on Triton's integers
        case "min" | "max" if dtype.is_float:
            return f"_{op}({x.text}, {y.text})"
        case "min" | "max":
            return f"tl.{op}imum({x.text}, {y.text})"
        case "fmod":
            return f"{a} % {b}"  # % takes the sign of the dividend
        case "mod":
            return f"_{'float' if dtype.is_float else 'floor'}mod({x.text}, {y.text})"
        case "pow":
            return {"2": f"{a} * {a}", "2.0": f"{a} * {a}", "0.5": f"tl.sqrt({a})"}.get(b, a)
    raise InternalError(f"no Triton spelling of {op!r}")


def reduce_text(op: str, x: str, axis: int, dtype: DType) -> str:
    """The reduction of ``x`` along ``axis``. Extremes of floats propagate NaN, which ``tl.max`` does not."""
    if op == "sum":
        text = f"tl.sum({x}, axis={axis})"
        # tl.sum widens what is narrower than 32 bits.
        return text if dtype.bits >= 32 else f"{text}.to(tl.{LANGUAGE[dtype]})"
    combine = {"max": "_max", "min": "_min", "prod": "_product", "any": "_any", "all": "_all"}[op]
    if op in ("max", "min") and not dtype.is_float:
        return f"tl.{op}({x}, axis={axis}).to(tl.{LANGUAGE[dtype]})"
    return f"tl.reduce({x}, {axis}, {combine})"


def combine_text(op: str, a: str, b: str, dtype: DType) -> str:
    """Two partial results of a reduction combined."""
    names = {"sum": "add", "prod": "mul", "any": "or", "all": "and"}
    return binary_text(names.get(op, op), Spelled(a), Spelled(b), dtype)


def definitions_used(text: str) -> list[str]:
    """Definitions that ``text`` calls, in the order of :data:`DEFINITIONS`."""
    return [f"@triton.jit\n{body}" for name, body in DEFINITIONS.items() if f"{name}(" in text or f", {name})" in text]


def is_comparison(value: Value) -> bool:
    """Whether ``value`` compares two values."""
    return isinstance(value, Binary) and value.op in COMPARE
