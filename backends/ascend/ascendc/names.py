"""Names and numbers of a generated source: C++ identifiers, element types, literals."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import numpy as np
from tilewright.ir.types import DType

#: Element types as Ascend C calls them.
CPP_TYPES: dict[DType, str] = {
    DType.F32: "float",
    DType.F16: "half",
    DType.BF16: "bfloat16_t",
    DType.I64: "int64_t",
    DType.U64: "uint64_t",
    DType.I32: "int32_t",
    DType.U32: "uint32_t",
    DType.I16: "int16_t",
    DType.U16: "uint16_t",
    DType.I8: "int8_t",
    DType.U8: "uint8_t",
    DType.BOOL: "uint8_t",
}

#: Words that mean something in C++ or in the sources made here.
_WORDS = frozenset(
    """alignas and asm auto bool break case catch char class const constexpr continue default delete do double else enum
    explicit export extern false float for friend goto half if inline int long mutable namespace new not operator or
    private protected public register return short signed sizeof static struct switch template this throw true try
    typedef typename union unsigned using virtual void volatile while xor main std min max block group groups sub
    workspace fault bfloat16_t event_t pipe_t CeilDiv FloorDiv FloorMod Larger RoundUp Smaller INF
    Abs Add Adds And Brcb Cast Compare CompareScalar Copy CreateVecIndex DataCopy DataCopyPad Div Duplicate Exp Fixpipe
    Gather InitConstValue Ln LoadData Max Maxs Min Mins Mmad Mul Muls Not Or PipeBarrier Relu Select SetAtomicAdd
    SetAtomicNone ShiftLeft ShiftRight Sqrt Sub TransDataTo5HD""".split()
)


class Names:
    """Identifiers of one source, each given once; ``taken`` are there already."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken: set[str] = {*_WORDS, *taken}

    def give(self, wish: str) -> str:
        """An identifier as close to ``wish`` as may be."""
        text = re.sub(r"\W", "_", wish, flags=re.ASCII).strip("_") or "v"
        text = re.sub(r"__+", "_", text)
        if text[0].isdigit():
            text = f"v_{text}"
        unique, n = text, 2
        while unique in self._taken:
            unique, n = f"{text}_{n}", n + 1
        self._taken.add(unique)
        return unique


def literal(value: float | int, dtype: DType) -> str:
    """A number as a literal that denotes exactly ``value`` rounded to ``dtype``."""
    if not dtype.is_float:
        return f"{CPP_TYPES[dtype]}({int(value)})"
    rounded = float(np.asarray(value).astype(dtype.numpy))
    if math.isnan(rounded):
        text = "NOT_A_NUMBER"
    elif math.isinf(rounded):
        text = "-INF" if rounded < 0 else "INF"
    else:
        short = f"{np.float32(rounded)!s}"
        text = (short if np.float32(float(short)) == np.float32(rounded) else rounded.hex()) + "f"
    return text if dtype is DType.F32 else f"{CPP_TYPES[dtype]}({text})"
