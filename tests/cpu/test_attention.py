"""Attention kernels: few and many queries, groups of heads that share keys, odd sizes, hidden rows, causal limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.tile import Kernel

from tests.cpu.harness import by_level, compile_kernel

TEXT = """
@kernel
def attention(Q: f32[B, {hk}, {g}, {s}, {d}], K: f32[B, {hk}, T, {d}], V: f32[B, {hk}, T, {d}], bias: f32[B, T],
              O: out[f32[B, {hk}, {g}, {s}, {d}]]):
    where(1 <= B <= 64, 1 <= S <= 4096, 1 <= T <= 4096)
    b: B
    h: {hk}
    g: {g}
    i: {s}
    d: {d}
    e: {d}
    t: T
    for t in scan(mx=f32(-inf)[{r}], l=f32(0.0)[{r}], o=f32(0.0)[{r}, d]):
        raw[{r}, t] = sum(e, Q[b, h, {q}, e] * K[b, h, t, e])
        s[{r}, t] = {score}
        top[{r}] = max(t, s[{r}, t])
        mx2[{r}] = max(mx[{r}], top[{r}])
        safe[{r}] = select(mx2[{r}] == f32(-inf), f32(0.0), mx2[{r}])
        p[{r}, t] = exp(s[{r}, t] - safe[{r}])
        scale[{r}] = exp(mx[{r}] - safe[{r}])
        part[{r}] = sum(t, p[{r}, t])
        l2[{r}] = l[{r}] * scale[{r}] + part[{r}]
        pv[{r}, d] = sum(t, p[{r}, t] * V[b, h, t, d])
        o2[{r}, d] = o[{r}, d] * scale[{r}] + pv[{r}, d]
        yield_(mx=mx2, l=l2, o=o2)
    O[b, h, {q}, d] = select(l[{r}] > f32(0.0), o[{r}, d] / l[{r}], f32(0.0))
"""
MASKS = {
    "none": "raw[{r}, t] * f32(0.125) + bias[b, t] * f32(0.0)",
    "padding": "raw[{r}, t] * f32(0.125) + bias[b, t]",
    "causal": "select(index(t) <= index(i + T - S), raw[{r}, t] * f32(0.125) + bias[b, t], f32(-inf))",
}


def attention(mask: str, d: int, hk: int = 2, g: int = 1, one: bool = False) -> Kernel:
    """``g`` heads share the keys of each of ``hk``; ``one``: a single query, known when compiled."""
    axes = ["b", "h", *(["g"] if g > 1 else []), *([] if one else ["i"])]
    r = ", ".join(axes)
    q = f"{'g' if g > 1 else '0'}, {'0' if one else 'i'}"
    text = TEXT.format(hk=hk, g=g, s=1 if one else "S", d=d, r=r, q=q, score=MASKS[mask].format(r=r))
    lines = [x for x in text.splitlines() if not (g == 1 and x == "    g: 1") and not (one and x == "    i: 1")]
    return parse_kernel("\n".join(lines) + "\n")


@dataclass(frozen=True)
class Case:
    """A kernel and (batch, queries, keys) to run it with."""

    name: str
    kernel: Kernel
    sizes: tuple[tuple[int, int, int], ...]


MANY = ((1, 1, 1), (2, 1, 300), (1, 2, 31), (1, 3, 129), (2, 4, 17), (1, 7, 128), (1, 29, 29), (1, 250, 270))
CASES = [
    Case("none-64", attention("none", 64), MANY),
    Case("padding-40", attention("padding", 40), MANY),
    Case("causal-32", attention("causal", 32), MANY),
    Case("causal-odd", attention("causal", 9), MANY[:6]),
    Case("causal-groups", attention("causal", 16, g=3), MANY),
    Case("groups-odd", attention("padding", 7, g=2), MANY[:6]),
    Case("one-query", attention("padding", 64, one=True), ((1, 1, 1), (2, 1, 300))),
    Case("one-query-groups", attention("padding", 40, g=3, one=True), ((1, 1, 1), (2, 1, 300))),
    Case("one-query-many-groups", attention("none", 64, g=5, one=True), ((1, 1, 130),)),
]


def tensors(kernel: Kernel, dims: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(sum(dims.values()))
    shapes = {p.name: [s.evaluate(dims) for s in p.shape] for p in kernel.params if p.role != "out"}
    found = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    # The end of the last sequence is padding; of several sequences one is padding throughout.
    found["bias"][-1, dims["T"] - dims["T"] // 3 :] = -np.inf
    if dims["B"] > 1:
        found["bias"][0] = -np.inf
    return found


@pytest.mark.parametrize("case, level", by_level(CASES, ("causal-odd", "one-query-groups"), lambda c: c.name))
def test_numbers(case: Case, level: str) -> None:
    compiled = compile_kernel(case.kernel, level)
    for batch, queries, keys in case.sizes:
        dims = {"B": batch, "S": queries, "T": max(keys, queries)}
        given = tensors(case.kernel, dims)
        if "none" in case.name or "many-groups" in case.name:
            given["bias"][:] = 0
        expected = run_lowered(case.kernel, given, dims)["O"]
        got = compiled(given, dims, (1, 3))["O"]
        assert np.abs(got - expected).max() <= 4e-6 * max(1e-30, np.abs(expected).max()), dims
