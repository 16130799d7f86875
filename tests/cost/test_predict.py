"""Predicted time: which roof counts, which memory level, how threads add up, and what the targets' data must hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from tilewright.backends import cuda
from tilewright.cost import KINDS, Rates, Work, predict, predicted_seconds, rates_of, work_of
from tilewright.cost.predict import Level
from tilewright.cost.work import FUNCTIONS
from tilewright.ir.symbolic import ZERO, constant, symbol
from tilewright.selection import find_backend
from tilewright.target import load_targets

from tests.kernel.trial_kernels import matmul_bias_gelu

N = symbol("N")
RATES = Rates(
    operations={"f32": 1e9, "i8": 4e9, "i32": 2e9},
    levels=(Level("near", 1000, 1e9), Level("far", 0, 1e8)),
    functions={"exp": 10.0},
    compute={"rows": 0.5},
    memory={"rows": 0.25},
    launch=1e-6,
)


def work(kind: str = "elementwise", dtype: str = "f32", **parts: object) -> Work:
    nothing = dict.fromkeys(("flops", "read", "written", "constants"), ZERO)
    return Work(kind, dtype, **{**nothing, "functions": (), **parts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("what", "n", "resident", "seconds", "bound"),
    [
        (work(flops=N), 10**6, 0, 1e-6 + 1e-3, "compute"),
        (work(flops=N, dtype="u8"), 10**6, 0, 1e-6 + 0.25e-3, "compute"),
        (work(flops=N, dtype="i64"), 10**6, 0, 1e-6 + 0.5e-3, "compute"),
        (work(flops=N, functions=(("exp", N), ("new", N))), 10**6, 0, 1e-6 + 12e-3, "compute"),
        (work("rows", flops=N), 10**6, 0, 1e-6 + 2e-3, "compute"),
        (work(read=N), 10, 0, 1e-6 + 1e-8, "launch"),
        (work(read=N, written=N), 10**6, 0, 1e-6 + 2e-2, "memory"),
        (work("rows", read=N), 10**6, 0, 1e-6 + 4e-2, "memory"),
        (work(constants=constant(800), flops=N), 1, 0, 1e-6 + 8e-7, "launch"),
        (work(constants=constant(800), flops=N), 1, 5000, 1e-6 + 8e-6, "memory"),
    ],
)
def test_the_lower_roof_counts(what: Work, n: int, resident: int, seconds: float, bound: str) -> None:
    found = predict(what, RATES, {"N": n}, resident)
    assert found.seconds == pytest.approx(seconds)
    assert found.bound == bound


CPU = find_backend("cpu").targets()


@pytest.mark.parametrize("spelling", sorted(CPU))
def test_every_cpu_says_what_its_classes_reach(spelling: str) -> None:
    rates = rates_of(CPU[spelling])
    for shares in (rates.compute, rates.memory):
        assert set(shares) == set(KINDS)
        assert all(0 < share <= 1 for share in shares.values())
    assert set(rates.functions) <= FUNCTIONS
    assert rates.launch > 0


@pytest.mark.parametrize("spelling", sorted(CPU))
def test_threads_add_up_where_nothing_is_shared(spelling: str) -> None:
    one, two = (rates_of(CPU[spelling], threads) for threads in (1, 2))
    assert two.operations["f32"] == 2 * one.operations["f32"]
    for a, b in zip(one.levels, two.levels, strict=True):
        assert a.bandwidth <= b.bandwidth <= 2 * a.bandwidth
        assert b.size in (a.size, 2 * a.size)
    assert two.levels[0].size == 2 * one.levels[0].size
    assert two.levels[-1].size == 0


def test_more_rows_take_longer() -> None:
    target = CPU["cpu:x86-64-v3"]
    few, many = (predicted_seconds(matmul_bias_gelu(), target, {"M": m}) for m in (1, 128))
    assert few < many
    assert work_of(matmul_bias_gelu()).kind == "contraction"


def test_a_target_without_measured_shares_gets_its_roofs() -> None:
    folder = Path(cuda.__file__).parent / "targets"
    rates = rates_of(load_targets(folder, "cuda")["cuda:sm_90"], 10**6)
    assert (rates.compute, rates.memory, rates.launch) == ({}, {}, 0.0)
    assert rates.operations["f32"] == load_targets(folder, "cuda")["cuda:sm_90"].peak["f32"]
