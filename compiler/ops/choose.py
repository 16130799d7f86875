"""Choices in integer expressions: 0 and 1 as truth values, for sizes that hang on run-time operands.

Expressions have no conditional, but sums of products with 0 or 1 say the same: ``c·a + (1 - c)·b``. A condition here
is 0 or 1 whatever its operands are, as long as these are within ``±LIMIT`` (a run beyond is refused, not wrapped).
"""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.ir.symbolic import Expr, IntLike, as_expr, constant, maximum, minimum

#: Beyond any size; :func:`clamped` brings "as far as it goes" (the largest 64-bit integer) into this range.
LIMIT = 2**48


def clamped(e: IntLike) -> Expr:
    """``e`` within ``±LIMIT``, so that sums with it cannot overflow."""
    return maximum(-LIMIT, minimum(e, LIMIT))


def is_negative(e: IntLike) -> Expr:
    """1 where ``e < 0``, else 0."""
    return maximum(0, minimum(1, -as_expr(e)))


def is_zero(e: IntLike) -> Expr:
    """1 where ``e == 0``, else 0."""
    return 1 - minimum(1, maximum(e, -as_expr(e)))


def is_equal(a: IntLike, b: IntLike) -> Expr:
    """1 where ``a == b``, else 0."""
    return is_zero(as_expr(a) - b)


def choose(condition: IntLike, a: IntLike, b: IntLike) -> Expr:
    """``a`` where ``condition`` is 1, ``b`` where it is 0."""
    c = as_expr(condition)
    if c.is_constant:
        return as_expr(a) if c.value else as_expr(b)
    return as_expr(b) + c * (as_expr(a) - b)


def pick(elements: Sequence[IntLike], index: IntLike) -> Expr:
    """The element at ``index``, which is within the list."""
    at = as_expr(index)
    if at.is_constant:
        return as_expr(elements[at.value])
    total: Expr = constant(0)
    for n, element in enumerate(elements):
        total = total + is_equal(at, n) * element
    return total


def from_front(axis: IntLike, rank: int) -> Expr:
    """``axis`` counted from the front, where a negative one is counted from the back."""
    e = as_expr(axis)
    return e + rank * is_negative(e)
