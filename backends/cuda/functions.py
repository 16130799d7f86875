"""How Triton spells element types and scalar functions, and what it has no spelling for."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from tilewright.backends.cuda.positions import Spelled, parenthesized
from tilewright.errors import InternalError
from tilewright.ir.types import DType
from tilewright.kernel.expr import BINARY, COMPARE, Binary, Unary, Value, operands

#: Types in registers, as ``tl.<name>``: floats of less than 16 bits are f32 that hold rounded values, integers of less
#: than 8 bits are bytes.
LANGUAGE = {
    DType.F32: "float32",
    DType.F16: "float16",
    DType.BF16: "bfloat16",
    DType.F64: "float64",
    DType.F8E4M3: "float32",
    DType.F8E4M3FNUZ: "float32",
    DType.F8E5M2: "float32",
    DType.F8E5M2FNUZ: "float32",
    DType.F8E8M0: "float32",
    DType.F4E2M1: "float32",
    DType.I2: "int8",
    DType.I4: "int8",
    DType.I8: "int8",
    DType.I16: "int16",
    DType.I32: "int32",
    DType.I64: "int64",
    DType.U2: "uint8",
    DType.U4: "uint8",
    DType.U8: "uint8",
    DType.U16: "uint16",
    DType.U32: "uint32",
    DType.U64: "uint64",
    DType.BOOL: "int1",
}
#: What a pointer in a kernel's signature points to (it has ``*`` before it). What is written in pieces of a byte is
#: written in whole words.
SIGNATURE = {
    DType.F32: "fp32",
    DType.F16: "fp16",
    DType.BF16: "bf16",
    DType.F64: "fp64",
    DType.I8: "i8",
    DType.I16: "i16",
    DType.I32: "i32",
    DType.I64: "i64",
    DType.U16: "u16",
    DType.U32: "u32",
    DType.U64: "u64",
    DType.BOOL: "i1",
}
#: Floats of which Triton has an element type: operands of matrix units that take them.
UNIT_FLOATS = {DType.F8E4M3: "fp8e4nv", DType.F8E5M2: "fp8e5"}
#: Floats that are f32 in registers.
NARROW = tuple(d for d in DType if d.is_float and d.bits < 16)


def pointer_type(dtype: DType, written: bool = False) -> str:
    """The type of a pointer to elements of ``dtype``, as Triton spells it in a signature."""
    packed = "i32" if written and dtype.bits < 8 else "u8"
    return f"*{SIGNATURE.get(dtype, packed)}"


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
    "log": "libdevice.log({t})",
    "log2": "libdevice.log2({t})",
    "exp2": "tl.exp2({t})",
    "sqrt": "tl.sqrt_rn({t})",
    "rsqrt": "tl.rsqrt({t})",
    **{op: f"libdevice.{op}({{t}})" for op in "sin cos tan asin acos atan sinh cosh asinh acosh atanh".split()},
    "tanh": "_tanh({t})",
    "erf": "tl.erf({t})",
    "floor": "tl.floor({t})",
    "ceil": "tl.ceil({t})",
    "round": "_round({t})",
    "sigmoid": "(1.0 / (1.0 + tl.exp(-{x})))",
}
#: Computed in f32 when the operand is narrower: Triton has them for f32 and f64 only.
WIDE_ONLY = frozenset(UNARY_TEXT.keys() - {"neg", "abs", "not", "bitnot", "isnan", "isinf", "sign"})
#: Of f64, where that is another function.
_DOUBLE = {"round": "_round64({t})", "tanh": "libdevice.tanh({t})", "sqrt": "tl.sqrt({t})"}

_OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "and": "&", "or": "|", "xor": "^", "bitand": "&", "bitor": "|", "bitxor": "^",
}  # fmt: skip


def refusals(value: Value) -> Iterator[str]:
    """Why Triton cannot say ``value``: one reason for each part that it has no spelling for."""
    for x in operands(value):
        yield from refusals(x)
    if value.dtype not in LANGUAGE:
        yield f"element type {value.dtype}"
    match value:
        case Unary(op=op) if op not in UNARY_TEXT:
            yield f"function {op}"
        case Binary(op=op) if op not in COMPARE and op not in BINARY:
            yield f"function {op}"


def literal(value: float | int | bool, dtype: DType) -> str:
    """A literal that takes the type of the other operand."""
    if dtype is DType.BOOL:
        return str(bool(value))
    if not dtype.is_float:
        return str(int(value))
    if math.isnan(value) or math.isinf(value):
        return f'float("{value}")'
    # A number becomes an f32 where its type is not taken from another operand.
    exact = dtype is not DType.F64 or float(np.float32(value)) == value
    return repr(float(value)) if exact else f"tl.full([], {float(value)!r}, tl.float64)"


def unary_text(op: str, x: Spelled, dtype: DType) -> str:
    """``op`` applied to ``x`` of type ``dtype``."""
    if dtype.bits < 8 or dtype in NARROW:
        text = UNARY_TEXT[op].format(x=x.operand, t=x.text)
        return text if op in ("not", "isnan", "isinf") else rounded(text, dtype)
    if op in WIDE_ONLY and dtype in (DType.F16, DType.BF16):
        wide = f"{x.operand}.to(tl.float32)"
        return f"{parenthesized(UNARY_TEXT[op].format(x=wide, t=wide))}.to(tl.{LANGUAGE[dtype]})"
    table = _DOUBLE if dtype is DType.F64 and op in _DOUBLE else UNARY_TEXT
    return table[op].format(x=x.operand, t=x.text)


def rounded(text: str, dtype: DType) -> str:
    """The result of an operation in registers as ``dtype`` has it: rounded, or wrapped to its bits."""
    if dtype in NARROW:
        return f"_{dtype}_value(_{dtype}_bits({text}))"
    if dtype.bits < 8 and dtype.is_integer:
        return f"_wrap({text}, {dtype.bits}, {dtype.is_signed})"
    return text


def binary_text(op: str, x: Spelled, y: Spelled, dtype: DType) -> str:
    """``op`` applied to two values of type ``dtype``; bare operators come without parentheses."""
    if op not in COMPARE and (dtype.bits < 8 or dtype in NARROW):
        return rounded(_binary(op, x, y, DType.F32 if dtype in NARROW else dtype), dtype)
    if dtype in (DType.F16, DType.BF16) and op in ("div", "mod", "fmod", "pow"):
        x, y = (s if _is_number(s.text) else Spelled(f"{s.operand}.to(tl.float32)", s.dims) for s in (x, y))
        return f"{parenthesized(_binary(op, x, y, DType.F32))}.to(tl.{LANGUAGE[dtype]})"
    return _binary(op, x, y, dtype)


def _is_number(text: str) -> bool:
    return text.lstrip("-(").rstrip(")")[:1].isdigit() or text.startswith('float("')


def _binary(op: str, x: Spelled, y: Spelled, dtype: DType) -> str:
    a, b = x.operand, y.operand
    if op in _OPERATORS:
        return f"{a} {_OPERATORS[op]} {b}"
    if op in ("min", "max"):
        return f"_{op}({x.text}, {y.text})" if dtype.is_float else f"tl.{op}imum({x.text}, {y.text})"
    return _float_binary(op, x, y, dtype) if dtype.is_float else _integer_binary(op, x, y, dtype)


#: Exponents that need no function.
_EXACT_POWERS = ("1.0", "2.0")


def _float_binary(op: str, x: Spelled, y: Spelled, dtype: DType) -> str:
    a, b = x.operand, y.operand
    if dtype is DType.F64 and op in ("fmod", "mod", "pow") and _is_number(b) and b not in _EXACT_POWERS:
        y = Spelled(f"tl.full([], {b}, tl.float64)")  # a function takes no number for an f64
    match op:
        case "div":
            return f"tl.div_rn({x.text}, {y.text})" if dtype is DType.F32 else f"{a} / {b}"
        case "mod":
            return f"_floatmod({x.text}, {y.text})"
        case "fmod":
            return f"libdevice.fmod({x.text}, {y.text})"
        case "pow":
            known = {"2.0": f"{a} * {a}", "1.0": a}
            return known[b] if b in _EXACT_POWERS else f"libdevice.pow({x.text}, {y.text})"
    raise InternalError(f"no Triton spelling of {op!r}")


def _integer_binary(op: str, x: Spelled, y: Spelled, dtype: DType) -> str:
    """Triton's // and % of integers truncate towards zero; % takes the sign of the dividend."""
    a, b, bits = x.operand, y.operand, max(8, dtype.bits)
    plain = _is_number(b) and int(b.strip("()")) > 0
    match op:
        case "div":
            return f"{a} // {b}" if plain else f"_divide({x.text}, {y.text})"
        case "fmod":
            return f"{a} % {b}" if plain else f"_remainder({x.text}, {y.text})"
        case "mod":
            return f"_modulo({x.text}, {y.text})"
        case "shl" | "shr":
            sign, name = {"shl": ("<<", "left"), "shr": (">>", "right")}[op]
            if plain and int(b) < bits:
                return f"{a} {sign} {b}"
            return f"_shift_{name}({x.text}, {y.text}, {bits})"
        case "pow":
            return f"_power({x.text}, {y.text}, {bits})"
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
    if op == "prod" and dtype in (DType.F16, DType.BF16):
        return f"tl.reduce({parenthesized(x)}.to(tl.float32), {axis}, {combine}).to(tl.{LANGUAGE[dtype]})"
    return f"tl.reduce({x}, {axis}, {combine})"


def combine_text(op: str, a: str, b: str, dtype: DType) -> str:
    """Two partial results of a reduction combined."""
    names = {"sum": "add", "prod": "mul", "any": "or", "all": "and"}
    return binary_text(names.get(op, op), Spelled(a), Spelled(b), dtype)


def is_comparison(value: Value) -> bool:
    """Whether ``value`` compares two values."""
    return isinstance(value, Binary) and value.op in COMPARE
