"""Malformed plans are our own bugs, named by entry and instruction."""

from dataclasses import replace
from typing import Any

import pytest
from tilewright.errors import InternalError
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import constant, symbol
from tilewright.ir.types import DType
from tilewright.plan.plan import (
    Allocate,
    Buffer,
    Call,
    Copy,
    EntryPoint,
    Jump,
    Launch,
    LoadScalar,
    Plan,
    SetScalar,
    Signature,
)
from tilewright.plan.verify import verify_plan

from tests.runtime import programs

N, ONE = symbol("N"), constant(1)
DENSE = programs.dense_entry()
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("kernel", {"code": (Launch(6, (), (), ONE),)}, "no kernel 6"),
    ("buffer", {"code": (Copy(0, 99, ONE),)}, "out of range"),
    ("unknown symbol", {"code": (Launch(0, (), (symbol("Q"),), ONE),)}, "unknown symbols"),
    ("writes input", {"code": (Copy(1, 0, ONE),)}, "writes to buffer 0"),
    ("writes constant", {"code": (Copy(1, 2, ONE),)}, "writes to buffer 2"),
    ("float scalar", {"code": (LoadScalar("i", 0, DType.F32, ONE),)}, "integer type"),
    ("allocates a view", {"code": (Allocate(4),)}, "no view"),
    ("jumps out", {"code": (Jump(7),)}, "no instruction 7"),
    ("calls nothing", {"code": (Call(3, (), ()),)}, "entry point 3"),
    ("calls with too little", {"code": (Call(0, (0,), (1,)),)}, "takes"),
    ("sets a dimension", {"code": (SetScalar("N", ONE),)}, "set by the program"),
    ("view before base", {"buffers": (Buffer("temporary", N, base=1), Buffer("temporary", N))}, "after its base"),
    ("no such constant", {"buffers": (Buffer("constant", N, 1),)}, "no constant 1"),
    ("no input gives it", {"symbols": (("N", Range(1)), ("M", Range(1)))}, "no input dimension gives"),
    ("bounds", {"symbols": (("N", Range(2, 1)),)}, "bounds of N"),
    ("rank", {"outputs": (Signature("y", DType.F32, (ONE,) * 17),)}, "more than 16"),
    ("equal names", {"outputs": (Signature("y", DType.F32, ()),) * 2}, "equal names"),
    ("state shapes", {"states": ((0, 0),)}, "differ in type or shape"),
]


@pytest.mark.parametrize(("change", "message"), [(c, m) for _, c, m in BAD], ids=[name for name, _, _ in BAD])
def test_malformed(change: dict[str, Any], message: str) -> None:
    entry: EntryPoint = replace(DENSE, **change)
    with pytest.raises(InternalError, match=message):
        verify_plan(Plan((entry,), programs.plan().constants, programs.KERNELS))


def test_size_set_at_run_time_needs_an_allocation() -> None:
    entry = programs.nonzero_entry()
    code = tuple(i for i in entry.code if type(i).__name__ not in ("Allocate", "Free"))
    with pytest.raises(InternalError, match="Allocate it"):
        verify_plan(Plan((replace(entry, code=code),), (), programs.KERNELS))


def test_the_programs_of_the_tests_are_well_formed() -> None:
    verify_plan(programs.plan())
