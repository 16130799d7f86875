"""Attention under the first guess: masks, groups of heads, decoding over a long cache; numbers and machine code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tilewright.backends.cuda import sass
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.backends.cuda.build import compile_source
from tilewright.backends.cuda.emit import emit_kernel
from tilewright.backends.cuda.interpret import Run, interpret
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.tile import Kernel
from tilewright.target import Target

from tests.kernel import trial_kernels

from .cases import Array, empty_outputs, inputs


def grouped_decode(dtype: str = "f16", heads: int = 4, group: int = 3, depth: int = 64, longest: int = 4096) -> Kernel:
    """One position of a query in ``heads * group`` heads against a cache of ``heads``, with an additive mask."""
    return parse_kernel(_decode(dtype, heads, group, depth, longest))


def lone_decode(dtype: str = "f16", heads: int = 4, depth: int = 64, longest: int = 4096) -> Kernel:
    """The same with a cache for each head: one row meets it, and no axis of rows is left."""
    text = (
        _decode(dtype, heads, 1, depth, longest)
        .replace("    m: 1\n", "")
        .replace(f"{heads}, 1, {depth}", f"{heads}, {depth}")
    )
    return parse_kernel(text.replace("1*b + m", "b").replace(", m]", "]").replace(", m, ", ", "))


def _decode(dtype: str, heads: int, group: int, depth: int, longest: int) -> str:
    wide = (lambda x: x) if dtype == "f32" else (lambda x: f"f32({x})")
    return f"""
@kernel
def decode(Q: {dtype}[B, {heads * group}, {depth}], K: {dtype}[B, {heads}, T, {depth}],
           V: {dtype}[B, {heads}, T, {depth}], mask: f32[B, T], O: out[{dtype}[B, {heads}, {group}, {depth}]]):
    where(1 <= B <= 32, 1 <= T <= {longest})
    a: B
    b: {heads}
    m: {group}
    n: {depth}
    t: T
    k: {depth}
    for t in scan(top=f32(-inf)[a, b, m], total=f32(0.0)[a, b, m], acc=f32(0.0)[a, b, m, n]):
        raw[a, b, m, t] = sum(k, {wide(f"Q[a, {group}*b + m, k]")} * {wide("K[a, b, t, k]")})
        s[a, b, m, t] = raw[a, b, m, t] * f32(0.125) + mask[a, t]
        best[a, b, m] = max(t, s[a, b, m, t])
        next_top[a, b, m] = max(top[a, b, m], best[a, b, m])
        base[a, b, m] = select(next_top[a, b, m] == f32(-inf), f32(0.0), next_top[a, b, m])
        p[a, b, m, t] = exp(s[a, b, m, t] - base[a, b, m])
        shrink[a, b, m] = exp(top[a, b, m] - base[a, b, m])
        p_sum[a, b, m] = sum(t, p[a, b, m, t])
        pv[a, b, m, n] = sum(t, {"p[a, b, m, t]" if dtype == "f32" else f"f32({dtype}(p[a, b, m, t]))"}
                                * {wide("V[a, b, t, n]")})
        next[a, b, m] = total[a, b, m] * shrink[a, b, m] + p_sum[a, b, m]
        next1[a, b, m, n] = acc[a, b, m, n] * shrink[a, b, m] + pv[a, b, m, n]
        yield_(top=next_top, total=next, acc=next1)
    O[a, b, m, n] = {"" if dtype == "f32" else dtype}(acc[a, b, m, n] / total[a, b, m])
"""


#: Odd lengths; of the additive masks, rows that nothing shows.
NUMBERS: dict[str, tuple[Kernel, dict[str, int]]] = {
    "causal, 48": (trial_kernels.flash_attention("f16", 48, "causal"), {"B": 1, "H": 2, "S": 37, "T": 70}),
    "additive, 32": (trial_kernels.flash_attention("f32", 32, "additive"), {"B": 2, "H": 1, "S": 19, "T": 45}),
    "no mask, 80": (trial_kernels.flash_attention("f16", 80), {"B": 1, "H": 1, "S": 5, "T": 33}),
    "decode": (grouped_decode("f16", 2), {"B": 2, "T": 201}),
    "lone decode": (lone_decode("f16", 3), {"B": 2, "T": 201}),
    "lone decode, f32": (lone_decode("f32", 2, 48), {"B": 2, "T": 131}),
    "decode, f32": (grouped_decode("f32", 1, 5), {"B": 2, "T": 131}),
}


def masked(given: dict[str, Array]) -> dict[str, Array]:
    """``given`` with -∞ over the last tenth of every row of an additive mask, and over all of the first row."""
    for name in given.keys() & {"mask", "bias"}:
        mask = np.zeros_like(given[name])
        mask[..., -(mask.shape[-1] // 10) :] = -np.inf
        mask[0] = -np.inf
        given[name] = mask
    return given


@pytest.fixture(scope="module")
def interpreted(interpreter: None, backend: CudaBackend, sm_90: Target) -> dict[str, tuple[Array, Array]]:
    """(interpreted, reference) of every case, in one process."""
    scheduled, runs, wanted = [], [], []
    for n, (kernel, sizes) in enumerate(NUMBERS.values()):
        named = replace(kernel, name=f"kernel_{n}")
        given, outputs = masked(inputs(named, sizes)), empty_outputs(named, sizes)
        scheduled.append(apply(named, next(iter(backend.schedules(named, sm_90)))))
        runs.append(Run(named.name, {**given, **outputs}, sizes, tuple(outputs)))
        wanted.append(run_lowered(named, given, sizes))
    found = interpret(backend.emit(scheduled, sm_90), runs)
    return {name: (g["O"], w["O"]) for name, g, w in zip(NUMBERS, found, wanted, strict=True)}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name: str, interpreted: dict[str, tuple[Array, Array]]) -> None:
    got, want = (x.astype(np.float64) for x in interpreted[name])
    assert np.array_equal(np.isnan(got), np.isnan(want))
    # One rounding of the result, and of the probabilities; f32: sums in another order.
    tolerance = 1e-3 if interpreted[name][1].dtype == np.float16 else 2e-6
    assert np.nanmax(np.abs(got - want)) <= tolerance * np.nanmax(np.abs(want))


def test_decoding_reads_the_cache_once_and_fills_the_device(backend: CudaBackend, sm_90: Target) -> None:
    kernel = grouped_decode(heads=8, group=4, depth=128)
    schedule = next(iter(backend.schedules(kernel, sm_90)))
    _, launch = emit_kernel(apply(kernel, schedule))
    sizes = {loop.axis: loop.size for loop in schedule.loops}
    assert sizes["m"] >= 4  # all heads of a group are rows of one tile
    assert launch.grid.evaluate({"B": 1, "T": 16}) == 8
    assert launch.grid.evaluate({"B": 1, "T": 4096}) >= sm_90.units
    assert launch.grid.evaluate({"B": 32, "T": 4096}) <= 2 * sm_90.units


def test_heads_with_a_cache_each_split_it_too(backend: CudaBackend, sm_90: Target, triton: None) -> None:
    kernel = lone_decode(heads=12)
    schedule = next(iter(backend.schedules(kernel, sm_90)))
    source, launch = apply(kernel, schedule), emit_kernel(apply(kernel, schedule))[1]
    assert launch.grid.evaluate({"B": 1, "T": 16}) == 12
    assert launch.grid.evaluate({"B": 1, "T": 4096}) >= sm_90.units
    compiled = compile_source(backend.emit([source], sm_90), sm_90)[kernel.name]
    assert sass.resources(compiled.cubin).stack == 0


@pytest.mark.parametrize(("arch", "product"), [("sm_80", "HMMA.16816.F32"), ("sm_90", "HGMMA.64")])
def test_prefill_keeps_everything_in_registers(arch: str, product: str, backend: CudaBackend, triton: None) -> None:
    target = backend.targets()[f"cuda:{arch}"]
    kernel = trial_kernels.flash_attention("f16", 128, "causal")
    source = backend.emit([apply(kernel, next(iter(backend.schedules(kernel, target))))], target)
    c = compile_source(source, target)[kernel.name]
    code = sass.opcodes(c.cubin)
    assert any(op.startswith(product) for op in code)
    assert sass.resources(c.cubin).stack == 0
    assert not [op for op in code if op.startswith(("LDL", "STL"))]
    assert code["LDGSTS.E.BYPASS.128"] > 0
