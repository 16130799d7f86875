"""Integer expressions: text, evaluation, substitution, bounds and divisors agree with Python's integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tilewright.ir.parse import parse
from tilewright.ir.ranges import NEGATIVE_INFINITY, POSITIVE_INFINITY, Range, bounds, divisor
from tilewright.ir.symbolic import Expr, ceildiv, constant, floordiv, maximum, minimum, mod, product, symbol

NAMES = ("A", "B", "C")
#: An expression, and the same computation on plain integers (``None`` where it divides by zero).
Pair = tuple[Expr, Callable[[dict[str, int]], int]]


def _leaf() -> st.SearchStrategy[Pair]:
    symbols = st.sampled_from(NAMES).map(lambda n: (symbol(n), lambda env, n=n: env[n]))
    constants = st.integers(-12, 12).map(lambda v: (constant(v), lambda env, v=v: v))
    return st.one_of(symbols, constants)


def _combine(inner: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    def apply(op: str, a: Pair, b: Pair) -> Pair:
        symbolic: dict[str, Any] = {
            "+": lambda x, y: x + y, "-": lambda x, y: x - y, "*": lambda x, y: x * y, "//": floordiv, "%": mod,
            "min": minimum, "max": maximum,
        }  # fmt: skip
        plain: dict[str, Any] = {
            "+": lambda x, y: x + y, "-": lambda x, y: x - y, "*": lambda x, y: x * y, "//": lambda x, y: x // y,
            "%": lambda x, y: x % y, "min": min, "max": max,
        }  # fmt: skip
        return symbolic[op](a[0], b[0]), lambda env: plain[op](a[1](env), b[1](env))

    def divide(op: str, a: Pair, n: int) -> Pair:
        return apply(op, a, (constant(n), lambda env: n))

    numbers = st.integers(-9, 9).filter(bool)
    return st.one_of(
        st.builds(apply, st.sampled_from(["+", "-", "*", "min", "max"]), inner, inner),
        st.builds(divide, st.sampled_from(["//", "%"]), inner, numbers),
        st.builds(apply, st.sampled_from(["//", "%"]), inner, inner.filter(lambda p: p[0] != 0)),
    )


EXPRESSIONS = st.recursive(_leaf(), _combine, max_leaves=8)
VALUES = st.fixed_dictionaries({n: st.integers(-40, 40) for n in NAMES})


def compute(plain: Callable[[dict[str, int]], int], values: dict[str, int]) -> int:
    try:
        return plain(values)
    except ZeroDivisionError:
        assume(False)
        raise


def value_of(e: Expr, values: dict[str, int]) -> int:
    # A canonical form may keep a division by something that is zero here only if Python's did too.
    return e.evaluate(values)


@settings(max_examples=400, deadline=None)
@given(EXPRESSIONS, VALUES)
def test_evaluation_agrees_with_python(pair: Pair, values: dict[str, int]) -> None:
    expected = compute(pair[1], values)
    assert value_of(pair[0], values) == expected


@settings(max_examples=400, deadline=None)
@given(EXPRESSIONS)
def test_text_reads_back_equal(pair: Pair) -> None:
    again = parse(str(pair[0]))
    assert again == pair[0]
    assert str(again) == str(pair[0])


@settings(max_examples=300, deadline=None)
@given(EXPRESSIONS, VALUES, EXPRESSIONS)
def test_substitution_agrees_with_evaluation(pair: Pair, values: dict[str, int], other: Pair) -> None:
    compute(pair[1], values)
    expected = compute(pair[1], {**values, "A": compute(other[1], values)})
    try:
        replaced = pair[0].substitute({"A": other[0]})
    except ZeroDivisionError:
        assume(False)
    assert replaced.evaluate(values) == expected
    everything = pair[0].substitute(values)
    assert everything.is_constant and everything.value == pair[0].evaluate(values)


@st.composite
def facts_and_values(draw: st.DrawFn) -> tuple[dict[str, Range], dict[str, int]]:
    facts: dict[str, Range] = {}
    values: dict[str, int] = {}
    for name in NAMES:
        lo, width, step = draw(st.integers(-30, 30)), draw(st.integers(0, 40)), draw(st.sampled_from([1, 2, 3, 8]))
        multiples = [v for v in range(lo, lo + width + 1) if v % step == 0]
        assume(multiples)
        values[name] = draw(st.sampled_from(multiples))
        known = draw(st.booleans())
        facts[name] = Range(lo, lo + width, step) if known else Range(divisor=step)
    return facts, values


@settings(max_examples=500, deadline=None)
@given(EXPRESSIONS, facts_and_values())
def test_bounds_and_divisor_are_sound(pair: Pair, known: tuple[dict[str, Range], dict[str, int]]) -> None:
    facts, values = known
    value = compute(pair[1], values)
    lo, hi = bounds(pair[0], facts)
    assert lo <= value <= hi
    n = divisor(pair[0], facts)
    assert value == 0 if n == 0 else value % n == 0


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS, EXPRESSIONS, VALUES)
def test_equal_expressions_are_equal_numbers(a: Pair, b: Pair, values: dict[str, int]) -> None:
    total = a[0] + b[0]
    assert total == b[0] + a[0]
    assert hash(total) == hash(b[0] + a[0])
    assert total - b[0] == a[0]
    assert a[0] * b[0] == b[0] * a[0]


SIMPLIFIED = [
    ("P + S - P", "S"), ("(4*M + 8) // 4", "M + 2"), ("(M + 31) // 32", "(M + 31) // 32"),
    ("(M - 1) // 32 + 1", "(M + 31) // 32"), ("(2*M + 6) // 4", "(M + 1) // 2 + 1"), ("(M // 4) // 8", "M // 32"),
    ("(32*h + d) // 32", "h + d // 32"), ("(32*h + d) % 32", "d % 32"), ("M*N // N", "M"), ("M*N % M", "0"),
    ("min(M, M + 1)", "M"), ("max(M, 3, 5)", "max(5, M)"), ("max(M, min(N, M))", "max(M, min(M, N))"),
    ("min(min(A, B), C)", "min(A, B, C)"), ("-M", "-M"), ("-(M // 2)", "-(M // 2)"), ("-min(M, N)", "-min(M, N)"),
    ("3 - M", "-M + 3"), ("M % 1", "0"), ("M // 1", "M"), ("-((M+1)//2)*((N+1)//2)", "-((M + 1) // 2)*((N + 1) // 2)"),
    ("(M + 64) // 32", "M // 32 + 2"), ("(6*M + 3) // 9", "(2*M + 1) // 3"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), SIMPLIFIED)
def test_simplified(text: str, expected: str) -> None:
    assert str(parse(text)) == expected


@pytest.mark.parametrize("text", ["", "1.5", "M +", "f(M)", "min()", "M ** 2", "M / 2", "True", "M[0]", "M // 0", "a.b",
                                  "min(M, key=N)", "lambda: 1", "(" * 500 + "M" + ")" * 500])  # fmt: skip
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


M, N = symbol("M"), symbol("N")
POSITIVE = {"M": Range(1, 100, 1), "N": Range(8, 64, 8)}

BOUNDS = [
    (M + N, 9, 164), (M - N, -63, 92), (M * N, 8, 6400), (N // 8, 1, 8), (N % 16, 0, 15), (M % 200, 1, 100),
    (minimum(M, 10), 1, 10), (maximum(N, 20), 20, 64), (ceildiv(M, 32), 1, 4), (constant(7), 7, 7),
    (symbol("Q"), NEGATIVE_INFINITY, POSITIVE_INFINITY), (symbol("Q") - 5, NEGATIVE_INFINITY, POSITIVE_INFINITY),
    (symbol("Q") // 9 + M, NEGATIVE_INFINITY, POSITIVE_INFINITY),
    (N * (M - 1), 0, 6336), ((M - 1) * (N - 8), 0, 5544), (N - M * N, -6336, 0), ((N // 8) * (M + 1) - N // 8, 1, 800),
]  # fmt: skip


@pytest.mark.parametrize(("e", "lo", "hi"), BOUNDS)
def test_bounds(e: Expr, lo: int, hi: int) -> None:
    assert bounds(e, POSITIVE) == (lo, hi)


DIVISORS = [
    (N, 8), (N + 4, 4), (3 * N, 24), (M * N, 8), (N // 4, 2), (N // 16, 1), (minimum(N, 24), 8), (N % 12, 4),
    (constant(0), 0), (N * N, 64), (maximum(N, M), 1), (N // symbol("Q"), 1),
]  # fmt: skip


@pytest.mark.parametrize(("e", "expected"), DIVISORS)
def test_divisor(e: Expr, expected: int) -> None:
    assert divisor(e, POSITIVE) == expected


def test_coefficients() -> None:
    k = symbol("k")
    assert (3 * M * k + N).coefficient("k") == 3 * M
    assert N.coefficient("k") == 0
    for e in (k * k, k // 2, minimum(k, 3) * k):
        with pytest.raises(ValueError, match="not linear"):
            e.coefficient("k")


def test_values_and_errors() -> None:
    assert product([2, M, N]).evaluate({"M": 3, "N": 5}) == 30
    assert (M - M).value == 0 and M != 1 and constant(3) == 3 and hash(constant(3)) == hash(3)
    with pytest.raises(ValueError, match="not a constant"):
        _ = M.value
    with pytest.raises(KeyError):
        M.evaluate({})
    for bad in ("", "1M", "a b"):
        with pytest.raises(ValueError, match="identifier"):
            symbol(bad)
    with pytest.raises(ZeroDivisionError):
        floordiv(M, 0)
    assert math.gcd(0, 5) == 5
