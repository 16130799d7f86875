"""Merging axes: kernels as text, before and after."""

from __future__ import annotations

import pytest
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.print import print_kernel
from tilewright.ops.flatten import flatten_axes, name_axes

MERGED = """
def f(x: f32[B, S, 4], y: out[f32[B, S, 4]]):
    where(1 <= B <= 8, 1 <= S <= 8)
    a: B
    b: S
    c: 4
    y[a, b, c] = -x[a, b, c]
"""
MERGED_AFTER = """
def f(x: f32[4*B*S], y: out[f32[4*B*S]]):
    where(1 <= B <= 8, 1 <= S <= 8)
    a: 4*B*S
    y[a] = -x[a]
"""
# A vector over the last axis keeps that axis apart; the two before it are one.
BIAS = """
def f(x: f32[B, S, 4], v: f32[4], y: out[f32[B, S, 4]]):
    where(1 <= B <= 8, 1 <= S <= 8)
    a: B
    b: S
    c: 4
    y[a, b, c] = x[a, b, c] + v[c]
"""
BIAS_AFTER = """
def f(x: f32[B*S, 4], v: f32[4], y: out[f32[B*S, 4]]):
    where(1 <= B <= 8, 1 <= S <= 8)
    a: B*S
    c: 4
    y[a, c] = x[a, c] + v[c]
"""
# Axes of extent 1 go, also where they are summed over.
UNIT = """
def f(x: f32[1, N], y: out[f32[1, N]]):
    where(1 <= N <= 8)
    a: 1
    b: N
    r: 1
    s[b] = sum(r, x[r, b])
    y[a, b] = s[b]
"""
UNIT_AFTER = """
def f(x: f32[1, N], y: out[f32[1, N]]):
    where(1 <= N <= 8)
    b: N
    s[b] = x[0, b]
    y[0, b] = s[b]
"""


@pytest.mark.parametrize("before, after", [(MERGED, MERGED_AFTER), (BIAS, BIAS_AFTER), (UNIT, UNIT_AFTER)])
def test_axes_merge(before: str, after: str) -> None:
    assert print_kernel(flatten_axes(parse_kernel("@kernel" + before))) == "@kernel" + after


@pytest.mark.parametrize(
    "kernel",
    [
        # transposed on one side
        """
def f(x: f32[B, S], y: out[f32[S, B]]):
    where(1 <= B <= 8, 1 <= S <= 8)
    a: B
    b: S
    y[b, a] = x[a, b]
""",
        # only a part of the second dimension is read
        """
def f(x: f32[B, 8], y: out[f32[B, 4]]):
    where(1 <= B <= 8)
    a: B
    b: 4
    y[a, b] = x[a, b]
""",
        # the position itself is a value
        """
def f(x: i64[B, 4], y: out[i64[B, 4]]):
    where(1 <= B <= 8)
    a: B
    b: 4
    y[a, b] = x[a, b] + index(b)
""",
        # one tensor is read as whole rows and at one element
        """
def f(x: f32[B, 4], y: out[f32[B, 4]]):
    where(1 <= B <= 8)
    a: B
    b: 4
    y[a, b] = x[a, b] - x[a, 0]
""",
        # one of them is summed over
        """
def f(x: f32[B, 4], y: out[f32[B]]):
    where(1 <= B <= 8)
    a: B
    b: 4
    s[a] = sum(b, x[a, b])
    y[a] = s[a]
""",
    ],
)
def test_axes_that_memory_tells_apart_stay(kernel: str) -> None:
    text = "@kernel" + kernel
    assert print_kernel(flatten_axes(parse_kernel(text))) == text


def test_rows_and_columns_are_named_unless_a_name_is_taken() -> None:
    text = BIAS_AFTER.replace("a: B*S", "i: B*S").replace("[a,", "[i,").replace("c: 4", "j: 4")
    text = "@kernel" + text.replace(", c]", ", j]").replace("v[c]", "v[j]")
    named = print_kernel(name_axes(parse_kernel(text), ("m", "n")))
    assert named == text.replace("i:", "m:").replace("[i,", "[m,").replace("j:", "n:").replace("j]", "n]")
    taken = text.replace("B", "n")
    assert print_kernel(name_axes(parse_kernel(taken), ("m", "n"))) == print_kernel(parse_kernel(taken))
