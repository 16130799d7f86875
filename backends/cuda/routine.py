"""Routines in Triton: a file of ``routines/`` with the element types and the integers of a call filled in.

A file says ``def ROUTINE(BUFFERS, DIMS, fault):``, with ``workspace`` after ``fault`` where it needs the scratch memory
of its blocks (all of them after each other), and finds buffer ``n`` as the pointer ``b<n>``, the integers of the
call as the tuple ``dim`` (64 bits each; ``COUNT`` of them), and in ``V<n>`` the type that elements of buffer ``n`` are
computed in (f32 for half precisions; ``T<n>`` is the type in memory). One program is one block of the call's grid.
Contents of buffers are not to be trusted: an index that they hold is checked, and a run with a bad one is refused
(``_refuse``). Functions of ``definitions.py`` are there when they are called.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from tilewright.backends.cuda.definitions import definitions_used
from tilewright.backends.cuda.functions import LANGUAGE, SIGNATURE
from tilewright.backends.cuda.launch import Argument, Launch
from tilewright.ir.symbolic import constant
from tilewright.ir.types import DType
from tilewright.kernel.routine import Routine

_FOLDER = Path(__file__).parent / "routines"

#: Buffers are aligned by the arena.
_ALIGNMENT = 16
_WARPS = 4


@cache
def routines() -> frozenset[str]:
    """Names of the routines that have a form for GPUs."""
    return frozenset(p.stem for p in _FOLDER.glob("*.triton"))


def refusals(routine: Routine) -> list[str]:
    """Why a routine has no form for GPUs; empty where it has one."""
    if routine.name not in routines():
        return [f"{routine.name} is sequential: it has no form for GPUs"]
    return [f"{routine.name} on elements of type {d}" for d in dict.fromkeys(routine.dtypes) if d not in _TYPES]


def emit_routine(routine: Routine) -> tuple[str, Launch]:
    """The program text of a routine on its types, and how to launch it."""
    name = routine.identity
    buffers = [f"b{n}" for n in range(len(routine.dtypes))]
    dims = [f"d{n}" for n in range(routine.dims)]
    body = _text(routine.name)
    works = "def ROUTINE(BUFFERS, DIMS, fault, workspace)" in body
    head = f"def {name}({', '.join([*buffers, *dims])}, fault"
    body = body.replace("def ROUTINE(BUFFERS, DIMS, fault", head)
    body = body.replace("(DIMS)", f"({', '.join(dims)}{',' if len(dims) == 1 else ''})")
    body = re.sub(r"\bCOUNT\b", str(routine.dims), body)
    body = re.sub(r"\b([VT])(\d+)\b", lambda m: f"tl.{_type(m[1], routine.dtypes[int(m[2])])}", body)
    arguments = [
        *(Argument(b, f"*{_TYPES[d]}", _ALIGNMENT) for b, d in zip(buffers, routine.dtypes, strict=True)),
        *(Argument(d, "i64") for d in dims),
        Argument("fault", "*i32", _ALIGNMENT, "fault"),
        *([Argument("workspace", "*u8", _ALIGNMENT, "workspace")] if works else []),
    ]
    parts = ["import triton\nimport triton.language as tl\n", *definitions_used(body), body]
    return "\n\n".join(parts), Launch(name, name, tuple(arguments), constant(1), _WARPS, 1)


#: Types that every routine takes: those that Triton reads as they are in memory, bool as bytes.
_TYPES = SIGNATURE | {DType.U8: "u8", DType.BOOL: "u8"}


def _type(kind: str, dtype: DType) -> str:
    if dtype is DType.BOOL:
        return "uint8"
    return "float32" if kind == "V" and dtype in (DType.F16, DType.BF16) else LANGUAGE[dtype]


@cache
def _text(name: str) -> str:
    """A file of routines without the comment that explains it. Lines ``#include name`` stand for ``name.part``, after
    ``#define name text`` the name for the text."""
    text = (_FOLDER / f"{name}.triton").read_text(encoding="utf-8")
    text = re.sub(
        r"^#include (\w+)\n", lambda m: (_FOLDER / f"{m[1]}.part").read_text("utf-8"), text, flags=re.MULTILINE
    )
    for defined, meant in reversed(re.findall(r"^#define (\w+) (.*)\n", text, flags=re.MULTILINE)):
        text = re.sub(rf"\b{defined}\b", meant, text)
    return re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
