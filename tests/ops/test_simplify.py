"""Simplification of indices: expected forms, and equality on every assignment."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import Expr, constant, floordiv, maximum, minimum, mod, symbol
from tilewright.ops.simplify import simplify

H, D = symbol("h"), symbol("d")
RANGES = {"h": Range(0, 11), "d": Range(0, 31)}


@pytest.mark.parametrize(
    "expression, expected",
    [
        ((32 * H + D) // 32, H),
        ((32 * H + D) % 32, D),
        ((33 * H + D) // 32, (33 * H + D) // 32),
        (D // 32, constant(0)),
        (D % 31, D % 31),
        (minimum(D, 31), D),
        (minimum(D, 30), minimum(D, 30)),
        (maximum(D - 40, 0), constant(0)),
        (H + (D % 32) * 2, H + 2 * D),
    ],
    ids=str,
)
def test_forms(expression: Expr, expected: Expr) -> None:
    assert simplify(expression, RANGES) == expected


def _combined(parts: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    number = st.integers(1, 5)
    return st.one_of(
        st.builds(lambda a, b: a + b, parts, parts),
        st.builds(lambda a, c: a * c, parts, st.integers(-3, 3)),
        st.builds(floordiv, parts, number),
        st.builds(mod, parts, number),
        st.builds(minimum, parts, parts),
        st.builds(maximum, parts, parts),
    )


EXPRESSIONS = st.recursive(st.sampled_from([H, D, constant(3), constant(-2)]), _combined, max_leaves=6)


@settings(max_examples=150, deadline=None)
@given(EXPRESSIONS, st.integers(0, 5), st.integers(0, 7))
def test_equal_on_every_assignment(expression: Expr, h: int, d: int) -> None:
    simple = simplify(expression, {"h": Range(0, h), "d": Range(0, d)})
    for i, j in itertools.product(range(h + 1), range(d + 1)):
        assert simple.evaluate({"h": i, "d": j}) == expression.evaluate({"h": i, "d": j})
