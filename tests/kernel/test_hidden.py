"""Limits of causal scans: derived where hidden positions change nothing, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from tilewright.kernel.apply import apply
from tilewright.kernel.hidden import visible_limit
from tilewright.kernel.interpret import run_lowered, run_scheduled
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.schedule import For, Loop, Schedule, Scheduled
from tilewright.kernel.scope import visit
from tilewright.kernel.tile import Kernel, Scan

TEXT = """
@kernel
def attention(Q: f32[S, 4], K: f32[T, 4], V: f32[T, 4], bias: f32[T], O: out[f32[S, 4]]):
    where(1 <= S <= 512, 1 <= T <= 512)
    i: S
    d: 4
    e: 4
    t: T
    for t in scan(mx=f32({top})[i], l=f32({total})[i], o=f32(0.0)[i, d]):
        raw[i, t] = sum(e, Q[i, e] * K[t, e])
        s[i, t] = {score}
        new[i] = max(t, {scores}[i, t])
        mx2[i] = {running}
        safe[i] = select(mx2[i] == f32(-inf), f32(0.0), mx2[i])
        p[i, t] = exp(s[i, t] - {base}[i])
        scale[i] = exp(mx[i] - {base}[i])
        part[i] = sum(t, {weight})
        l2[i] = l[i] * scale[i] + part[i]
        pv[i, d] = sum(t, p[i, t] * V[t, d])
        o2[i, d] = o[i, d] * scale[i] + pv[i, d]
        yield_(mx=mx2, l=l2, o=o2)
    O[i, d] = {result}
"""
PLAIN = {
    "top": "-inf",
    "total": "0.0",
    "scores": "s",
    "running": "max(mx[i], new[i])",
    "base": "safe",
    "weight": "p[i, t]",
    "result": "select(l[i] > f32(0.0), o[i, d] / l[i], f32(0.0))",
}


def causal(score: str, **changes: str) -> Kernel:
    return parse_kernel(TEXT.format(score=score, **{**PLAIN, **changes}))


def scan_of(kernel: Kernel) -> Scan:
    return next(s for s in kernel.body if isinstance(s, Scan))


SEEN = "index(t) <= index(i + T - S)"
FOUND = {
    f"select({SEEN}, raw[i, t], f32(-inf))": "T + i - S + 1",
    "select(index(t) < index(i), raw[i, t], f32(-inf))": "i",
    "select(index(i) >= index(t), raw[i, t], f32(-inf))": "i + 1",
    "select(index(t) > index(i), f32(-inf), raw[i, t])": "i + 1",
    "raw[i, t] + select(index(t) <= index(i), f32(0.0), f32(-inf))": "i + 1",
    "select((index(t) <= index(i)) and (bias[t] > f32(0.0)), raw[i, t], f32(-inf))": "i + 1",
    f"select({SEEN}, raw[i, t] + bias[t], f32(-inf))": "T + i - S + 1",
}


@pytest.mark.parametrize("score", FOUND)
def test_a_limit_is_found(score: str) -> None:
    limit = visible_limit(scan_of(causal(score)))
    dims = {"S": 5, "T": 9, "i": 3}
    assert limit is not None and limit.evaluate(dims) == eval(FOUND[score], {}, dims)


@pytest.mark.parametrize(
    "kernel",
    [
        causal("raw[i, t]"),
        # A finite number: a row that is hidden throughout is a mean of all values.
        causal(f"select({SEEN}, raw[i, t], f32(-3e38))"),
        # The first positions are hidden, not the last.
        causal("select(index(t) >= index(i), raw[i, t], f32(-inf))"),
        causal("select((index(t) <= index(i)) or (bias[t] > f32(0.0)), raw[i, t], f32(-inf))"),
        causal("select(bias[t] <= f32(0.0), raw[i, t], f32(-inf))"),
        # Every position counts, the hidden ones too.
        causal(f"select({SEEN}, raw[i, t], f32(-inf))", weight="p[i, t] + f32(1.0)"),
        # -inf - -inf is not a number: a row with nothing seen so far would become one.
        causal(f"select({SEEN}, raw[i, t], f32(-inf))", base="mx2"),
        # Not a running maximum of what is hidden.
        causal(f"select({SEEN}, raw[i, t], f32(-inf))", scores="raw"),
        causal(f"select({SEEN}, raw[i, t], f32(-inf))", running="new[i]"),
        causal(f"select({SEEN}, raw[i, t], f32(-inf))", running="min(mx[i], new[i])"),
        # Starts that the first hidden piece would change.
        causal(f"select({SEEN}, raw[i, t], f32(-inf))", top="0.0"),
        causal(f"select({SEEN}, raw[i, t], f32(-inf))", total="1.0"),
    ],
    ids=lambda k: None,
)
def test_no_limit_where_hidden_positions_may_count(kernel: Kernel) -> None:
    assert visible_limit(scan_of(kernel)) is None


@pytest.mark.parametrize("score", FOUND)
@pytest.mark.parametrize("sizes", [(1, 1), (5, 5), (7, 12), (12, 7), (20, 33)], ids=str)
def test_numbers_with_hidden_pieces_left_out(score: str, sizes: tuple[int, int]) -> None:
    kernel = causal(score)
    dims = dict(zip("ST", sizes, strict=True))
    rng = np.random.default_rng(sum(sizes))
    shapes = {p.name: [s.evaluate(dims) for s in p.shape] for p in kernel.params if p.role != "out"}
    given = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    expected = run_lowered(kernel, given, dims)["O"]
    even = (Loop("i", 8, "block", balanced=True), Loop("i", 3, balanced=True))
    units = (Loop("i", 8, "block", balanced=True, unit=4), Loop("i", 3, balanced=True))
    for loops in ((), (Loop("i", 4, "block"),), even, units):
        scheduled = apply(kernel, Schedule(loops=loops, reduce=(Loop("t", 4),)))
        np.testing.assert_allclose(run_scheduled(scheduled, given, dims)["O"], expected, rtol=1e-5, atol=1e-6)


def pieces(scheduled: Scheduled, dims: dict[str, int]) -> int:
    (loop,) = (n for n, _ in visit(scheduled) if isinstance(n, For) and n.axis == "t")
    return len(range(loop.lo.evaluate(dims), loop.hi.evaluate(dims), loop.size))


def test_pieces_that_no_row_of_a_tile_sees_are_not_visited() -> None:
    kernel = causal(next(iter(FOUND)))
    scheduled = apply(kernel, Schedule(loops=(Loop("i", 4, "block"),), reduce=(Loop("t", 4),)))
    assert [pieces(scheduled, {"S": 16, "T": 16, "i0": i}) for i in (0, 4, 8, 12)] == [1, 2, 3, 4]
    assert [pieces(scheduled, {"S": 4, "T": 16, "i0": 0})] == [4]
    assert [pieces(scheduled, {"S": 16, "T": 4, "i0": i}) for i in (0, 12)] == [1, 1]
