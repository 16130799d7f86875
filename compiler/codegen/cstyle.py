"""What every C-like target spells alike: index expressions, constants, identifiers, indented text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from tilewright.ir.symbolic import Atom, IntLike, Operation, as_expr
from tilewright.ir.types import DType

#: The C type that holds one element in memory. Floats of less than 32 bits are carried as their bits; of types of less
#: than 8 bits, a byte holds several elements, the first in its lowest bits.
C_TYPES: dict[DType, str] = {
    DType.F32: "float",
    DType.F64: "double",
    DType.F16: "uint16_t",
    DType.BF16: "uint16_t",
    DType.BOOL: "uint8_t",
    DType.I8: "int8_t",
    DType.U8: "uint8_t",
    DType.I16: "int16_t",
    DType.U16: "uint16_t",
    DType.I32: "int32_t",
    DType.U32: "uint32_t",
    DType.I64: "int64_t",
    DType.U64: "uint64_t",
    DType.F8E4M3: "uint8_t",
    DType.F8E4M3FNUZ: "uint8_t",
    DType.F8E5M2: "uint8_t",
    DType.F8E5M2FNUZ: "uint8_t",
    DType.F8E8M0: "uint8_t",
    DType.F4E2M1: "uint8_t",
    DType.I4: "uint8_t",
    DType.U4: "uint8_t",
    DType.I2: "uint8_t",
    DType.U2: "uint8_t",
}

#: Words that a generated name must not be.
RESERVED = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while to live load "
    "store args begin end block".split()
)


def identifier(name: str) -> str:
    """``name`` as a C identifier that is no keyword."""
    text = re.sub(r"\W", "_", name, flags=re.ASCII)
    if not text or text[0].isdigit() or text in RESERVED or text.startswith("__"):
        text = f"v_{text}"
    return text


def index_text(e: IntLike, names: Mapping[str, str] | None = None) -> str:
    """An index expression in C, in ``int64_t`` throughout. ``names`` renames symbols."""
    e = as_expr(e)
    if not e.terms:
        return "0"
    text = ""
    for monomial, c in [t for t in e.terms if t[0]] + [t for t in e.terms if not t[0]]:
        factors = [_atom_text(atom, names) for atom, power in monomial for _ in range(power)]
        if abs(c) != 1 or not factors:
            factors.append(_literal(abs(c)))
        product = " * ".join(factors)
        if text:
            text += f" - {product}" if c < 0 else f" + {product}"
        else:
            text = f"-{product}" if c < 0 else product
    return text


def parenthesized(text: str) -> str:
    """``text``, in parentheses unless it is one word, call or number."""
    return text if re.fullmatch(r"[\w.]+(\([^()]*\))?", text) else f"({text})"


def _literal(value: int) -> str:
    return f"{value}" if value < 2**31 else f"INT64_C({value})"


def _atom_text(atom: Atom, names: Mapping[str, str] | None) -> str:
    if not isinstance(atom, Operation):
        return (names or {}).get(atom.name, atom.name)
    function = {"//": "floor_div", "%": "floor_mod", "min": "min_int", "max": "max_int"}[atom.op]
    text, *rest = (index_text(a, names) for a in atom.args)
    for other in rest:
        text = f"{function}({text}, {other})"
    return text


def constant_text(value: float | int | bool, dtype: DType) -> str:
    """A literal in C that denotes exactly ``value`` rounded to ``dtype``; half precisions as float literals."""
    if dtype is DType.BOOL:
        return "-1" if value else "0"
    if dtype.is_float:
        return _float_text(float(np.asarray(value).astype(dtype.numpy)), double=dtype is DType.F64)
    wrapped = int(value) & ((1 << dtype.bits) - 1)
    if dtype.is_signed:
        if wrapped >> (dtype.bits - 1):
            wrapped -= 1 << dtype.bits
        if wrapped == -(2**63):
            return "INT64_MIN"
        return f"INT64_C({wrapped})" if dtype.bits == 64 else str(wrapped)
    return f"UINT64_C({wrapped})" if dtype.bits == 64 else f"{wrapped}u"


def _float_text(value: float, *, double: bool) -> str:
    suffix = "" if double else "f"
    if math.isnan(value):
        return f'__builtin_nan{suffix}("")'
    if math.isinf(value):
        return f"{'-' if value < 0 else ''}__builtin_inf{suffix}()"
    if value == int(value) and abs(value) < 1e6:
        return f"{value:.1f}{suffix}"
    return re.sub(r"\.?0*p", "p", value.hex(), count=1) + suffix


class Text:
    """Indented lines of a C-like language."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._depth = 0

    def line(self, text: str = "") -> None:
        """Append one line at the present depth."""
        self._lines.append("    " * self._depth + text if text else "")

    def lines(self, *texts: str) -> None:
        """Append several."""
        for text in texts:
            self.line(text)

    def comment(self, text: str) -> None:
        """Append a comment; what would end it is broken up."""
        self.line(f"/* {text.replace('*/', '* /')} */")

    @contextmanager
    def block(self, head: str, tail: str = "}") -> Iterator[None]:
        """``head {``, what is appended inside one step deeper, ``}``."""
        self.line(f"{head} {{" if head else "{")
        self._depth += 1
        yield
        self._depth -= 1
        self.line(tail)

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"
