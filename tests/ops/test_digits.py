"""Quotients and remainders of axes become axes of their own, where that is exact."""

from __future__ import annotations

import numpy as np
import pytest
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.print import print_kernel
from tilewright.kernel.verify import verify_kernel
from tilewright.ops.digits import split_digits

_GROUPED = """
@kernel
def shared(x: f32[6, T], k: f32[2, T], y: out[f32[6, T]]):
    where(1 <= T <= 9)
    h: 6
    t: T
    y[h, t] = x[h, t] * k[h // 3, t]
"""
_HEADS = """
@kernel
def heads(x: f32[3, S, 4], y: out[f32[S, 12]]):
    where(1 <= S <= 9)
    m: S
    n: 12
    y[m, n] = x[n // 4, m, n % 4]
"""
_UNEVEN = _GROUPED.replace("h // 3", "h // 4")


@pytest.mark.parametrize(
    ("text", "axes"),
    [(_GROUPED, "h_high h_low t"), (_HEADS, "m n_high n_low"), (_UNEVEN, "h t")],
    ids=["shared", "heads", "uneven"],
)
def test_digits(text: str, axes: str) -> None:
    kernel = parse_kernel(text)
    split = split_digits(kernel)
    verify_kernel(split)
    assert " ".join(a.name for a in split.axes) == axes
    assert ("//" in print_kernel(split)) == (kernel == split)
    random = np.random.default_rng(0)
    sizes = {"T": 5, "S": 5}
    feeds = {
        p.name: random.standard_normal([s.evaluate(sizes) for s in p.shape]).astype(np.float32)
        for p in kernel.params
        if p.role == "in"
    }
    np.testing.assert_array_equal(run_lowered(split, feeds)["y"], run_lowered(kernel, feeds)["y"])
