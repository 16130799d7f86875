"""Sharing: what is used twice becomes a tile, what is cheap to repeat does not, a scan keeps its own."""

from __future__ import annotations

import itertools

from tilewright.ir.symbolic import symbol
from tilewright.ir.types import DType
from tilewright.kernel.expr import Binary, Cast, Const, Load, Ref, Unary, Value
from tilewright.kernel.tile import Carry, Define, Reduction, Scan, Statement, Store
from tilewright.ops.share import share_subexpressions

M, T = symbol("m"), symbol("t")


def shared(*body: Statement) -> tuple[Statement, ...]:
    names = (f"t{n}" for n in itertools.count())
    return share_subexpressions(body, ("m", "t"), lambda hint: next(names))


def test_a_value_used_twice_is_computed_once() -> None:
    e = Unary("exp", Load("x", (M,), DType.F32))
    ref = Ref("t0", ("m",), DType.F32)
    assert shared(Store("y", ("m",), (M,), Binary("mul", e, e))) == (
        Define("t0", ("m",), e),
        Store("y", ("m",), (M,), Binary("mul", ref, ref)),
    )


def test_what_is_used_once_or_cheap_stays() -> None:
    load: Value = Cast(DType.F32, Load("x", (M,), DType.F16))
    store = Store("y", ("m",), (M,), Binary("mul", Unary("exp", load), load))
    assert shared(store) == (store,)


def test_a_gathered_read_is_kept() -> None:
    gathered = Load("x", (Load("i", (M,), DType.I64),), DType.F32)
    first, second = shared(Store("y", ("m",), (M,), Binary("mul", gathered, gathered)))
    assert first == Define("t0", ("m",), gathered)
    assert second == Store("y", ("m",), (M,), Binary("mul", *[Ref("t0", ("m",), DType.F32)] * 2))


def test_a_defined_value_is_read_from_its_tile() -> None:
    e = Unary("exp", Load("x", (M,), DType.F32))
    define, store = shared(Define("e", ("m",), e), Store("y", ("m",), (M,), e))
    assert define == Define("e", ("m",), e)
    assert store == Store("y", ("m",), (M,), Ref("e", ("m",), DType.F32))


def test_a_reduction_is_not_what_it_reduces() -> None:
    e = Unary("exp", Load("x", (T,), DType.F32))
    total = Define("s", (), e, Reduction("sum", ("t",)))
    tile, reduced, store = shared(total, Store("y", ("t",), (T,), e))
    ref = Ref("t0", ("t",), DType.F32)
    assert tile == Define("t0", ("t",), e)
    assert reduced == Define("s", (), ref, Reduction("sum", ("t",)))
    assert store == Store("y", ("t",), (T,), ref)


def test_tiles_of_a_scan_end_with_it() -> None:
    e = Unary("exp", Load("x", (M,), DType.F32))
    step = Define("next", ("m",), Binary("add", Ref("l", ("m",), DType.F32), Binary("mul", e, e)))
    scan = Scan("t", (Carry("l", ("m",), Const(0.0, DType.F32)),), (step,), (("l", "next"),))
    inside, *after = shared(scan, Store("y", ("m",), (M,), e))
    assert isinstance(inside, Scan) and [d.tile for d in inside.body] == ["t0", "next"]
    assert Ref("t0", ("m",), DType.F32) not in [s.value for s in after if isinstance(s, Store)]
    assert [type(s) for s in after] == [Define, Store]
