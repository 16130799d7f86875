"""Sizes that hang on run-time axes: every choice of axes gives what NumPy gives."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import onnx_ir as ir
import pytest
from tilewright.errors import CompileError
from tilewright.ir.graph import known_value, type_of
from tilewright.ir.late import late_symbols
from tilewright.ir.symbolic import Expr

from tests.ops.test_shapes import imported

SIZES = {"A": 2, "B": 3, "C": 5}


def evaluated(model: ir.Model, sizes: tuple[Expr, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """``sizes`` with run-time axes given; every late symbol is within its bounds when its turn comes."""
    values = dict(SIZES)
    known = known_value(model.graph.inputs[1])
    assert known is not None
    values.update({str(e): a for e, a in zip(known, axes, strict=True)})
    for name, late in late_symbols(model).items():
        if late.expr is not None:
            values[name] = late.expr.evaluate(values)
    return tuple(s.evaluate(values) for s in sizes)


def signed(axes: tuple[int, ...], rank: int) -> list[tuple[int, ...]]:
    """The same axes counted from the front, from the back, and mixed."""
    return [axes, tuple(a - rank for a in axes), tuple(a - rank * (n % 2) for n, a in enumerate(axes))]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_unsqueeze_at_any_axes(count: int) -> None:
    model = imported(f"float[A,B,C] x, int64[{count}] a", "y = Unsqueeze(x, a)")
    sizes = type_of(model.graph.outputs[0]).shape
    rank = 3 + count
    for axes in permutations(range(rank), count):
        for given in signed(axes, rank):
            want = np.expand_dims(np.empty((2, 3, 5)), given).shape
            assert evaluated(model, sizes, given) == want


@pytest.mark.parametrize("count", [1, 2, 3])
def test_squeeze_keeps_the_others(count: int) -> None:
    model = imported(f"float[A,B,C] x, int64[{count}] a", "y = Squeeze(x, a)")
    sizes = type_of(model.graph.outputs[0]).shape
    for axes in combinations(range(3), count):
        for given in signed(axes, 3):
            assert evaluated(model, sizes, given) == tuple(n for d, n in enumerate((2, 3, 5)) if d not in axes)


def test_more_axes_than_there_are() -> None:
    with pytest.raises(CompileError):
        imported("float[A] x, int64[2] a", "y = Squeeze(x, a)")
