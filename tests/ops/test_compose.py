"""Composing: what a value hangs on, which axes are used again, constants in their dtype."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import constant, symbol
from tilewright.ir.types import DType, TensorType
from tilewright.kernel.expr import Binary, Cast, Const, IndexValue, Load, Unary, Value
from tilewright.ops.compose import Composer, Operand, binary, cast, const, free_axes

N = symbol("N")


def composer() -> Composer:
    return Composer("k", {"N": Range(1, 64)})


def test_free_axes_look_at_a_shared_value_once() -> None:
    value: Value = Load("x", (symbol("m"), IndexValue(symbol("n"))), DType.F32)
    for _ in range(200):  # 2**200 paths
        value = Binary("mul", value, Unary("sigmoid", value))
    assert free_axes(value) == {"m", "n"}


def test_an_axis_is_used_again_unless_an_index_mentions_it() -> None:
    c = composer()
    n = c.axis(N, "n")
    assert c.axis(N, "r", avoid=[]) == n
    assert c.axis(N, "r", avoid=[n + 1]) == symbol("r")
    assert c.axis(N, "n") == symbol("n1")
    assert c.axis(N + 1, "r", avoid=[]) == symbol("r1")


def test_names_avoid_dimensions_and_parameters() -> None:
    c = composer()
    c.param("x0", TensorType.of(DType.F32, 4), "in")
    assert (c.fresh("N"), c.fresh("x0"), c.fresh("t"), c.fresh("t")) == ("N1", "x01", "t", "t1")


def test_an_element_is_built_once_per_index() -> None:
    built = []

    def compute(index: tuple[object, ...]) -> Value:
        built.append(index)
        return const(0.0, DType.F32)

    x = Operand(TensorType.of(DType.F32, 4, 1), compute)
    assert x.at([1, 0]) is x.at((constant(1), constant(0)))
    assert x.broadcast((symbol("b"), constant(1), symbol("n"))) is x.at([1, 0])
    assert len(built) == 1


def test_padding_is_tested_only_where_it_can_be_outside() -> None:
    c = composer()
    n = c.axis(N, "n")
    x = c.param("x", TensorType(DType.F32, (N,)), "in")
    assert c.inside([n], (N,)) is None
    assert c.inside([n - 1], (N,)) == Binary(
        "and", Binary("ge", IndexValue(n - 1), IndexValue(constant(0))), Binary("lt", IndexValue(n - 1), IndexValue(N))
    )
    assert c.padded(x, (n,), 0) == Load("x", (n,), DType.F32)
    assert c.padded(x, (n - 1,), 0) == Load("x", (n - 1,), DType.F32, 0)


def test_constants_have_values_of_their_dtype() -> None:
    assert const(2, DType.F32) == Const(2.0, DType.F32)
    assert const(np.float32(2), DType.I64) == Const(2, DType.I64)
    assert const(3, DType.BOOL) == Const(True, DType.BOOL)


def test_a_cast_of_a_literal_rounds_it() -> None:
    there = cast(const(0.1, DType.F32), DType.F16)
    assert there == Const(float(np.float16(0.1)), DType.F16)
    assert cast(there, DType.F32) == Const(float(np.float16(0.1)), DType.F32)
    assert cast(const(1e6, DType.F32), DType.F16) == Const(math.inf, DType.F16)
    assert cast(const(3, DType.I64), DType.F32) == Cast(DType.F32, Const(3, DType.I64))


def test_a_scanned_axis_is_not_used_for_another_sum() -> None:
    c = composer()
    t = c.axis(N, "t")
    x = c.param("x", TensorType(DType.F32, (N,)), "in")

    def step(now: Mapping[str, Value]) -> dict[str, Value]:
        assert c.axis(N, "r", avoid=[]) == symbol("r")
        return {"total": binary("add", now["total"], c.reduce("sum", [t], x.at([t])))}

    c.scan(t, {"total": ((), const(0.0, DType.F32))}, step)
