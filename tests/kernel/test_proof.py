"""The prover of index bounds never claims what some position contradicts."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilewright.ir.parse import parse
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import Expr, constant, symbol
from tilewright.kernel.proof import at_most, inside, interval

from tests.kernel.strategies import exprs

EXTENTS = {"m": symbol("M"), "n": constant(4), "h": (symbol("M") + 1) // 2, "t": (symbol("M") + 2) // 3}
FACTS = {"M": Range(1, 6), "N": Range(2, 8, 2)}


@settings(max_examples=400, deadline=None)
@given(exprs(("m", "n", "M", "N"), 4), exprs(("M", "N"), 2))
def test_what_is_proved_holds_everywhere(index: Expr, size: Expr) -> None:
    found = interval(index, EXTENTS, FACTS)
    proved = inside(index, size, EXTENTS, FACTS)
    for M, N in product(range(1, 7), (2, 4, 6, 8)):
        for m, n in product(range(M), range(4)):
            values = {"M": M, "N": N, "m": m, "n": n}
            value = index.evaluate(values)
            if found is not None:
                assert found[0].evaluate(values) <= value <= found[1].evaluate(values)
            if proved:
                assert 0 <= value < size.evaluate(values)


@settings(max_examples=300, deadline=None)
@given(exprs(("M", "N"), 3), exprs(("M", "N"), 3), st.sampled_from(range(1, 7)), st.sampled_from((2, 4, 6, 8)))
def test_at_most_is_sound(a: Expr, b: Expr, M: int, N: int) -> None:
    if at_most(a, b, FACTS):
        assert a.evaluate({"M": M, "N": N}) <= b.evaluate({"M": M, "N": N})


@pytest.mark.parametrize(
    ("index", "size"),
    [
        ("m", "M"), ("m*4 + n", "4*M"), ("(m*4 + n) // 4", "M"), ("(m*4 + n) % 4", "4"), ("M - 1 - m", "M"),
        ("m // 2", "(M + 1) // 2"), ("min(m + 3, M - 1)", "M"), ("m + N", "M + N"), ("m % N", "N"), ("n*N", "3*N + 1"),
        ("2*m + n", "2*M + 2"),
        ("2*h", "M"), ("M - 1 - 2*h", "M"), ("3*t", "M"),
    ],
)  # fmt: skip
def test_proved(index: str, size: str) -> None:
    assert inside(parse(index), parse(size), EXTENTS, FACTS)


@pytest.mark.parametrize(
    ("index", "size"),
    [
        ("m + 1", "M"),
        ("m - n", "M"),
        ("m", "N"),
        ("m*n", "3*M - 3"),
        ("n", "M"),
        ("m // 2", "M // 2"),
        ("2*h + 1", "M"),
        ("2*t + 1", "M"),
    ],
)
def test_not_proved(index: str, size: str) -> None:
    assert not inside(parse(index), parse(size), EXTENTS, FACTS)
