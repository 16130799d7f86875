"""Attention as a pipeline: what is recognised, numbers under every kind of mask, and f32, which goes another way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from tilewright.accuracy import compare
from tilewright.backends.ascend.placed.form import Let, Placed
from tilewright.backends.ascend.placing.online import PIPELINED, online_of
from tilewright.backends.ascend.placing.place import place
from tilewright.backends.ascend.schedules.schedule import first_fit
from tilewright.backends.ascend.simulator.machine import check
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.ascend.synchronization.verify import unproved
from tilewright.ir.symbolic import constant
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.schedule import Loop, Schedule
from tilewright.kernel.tile import Kernel

from tests.ascend.modelled import build, same_bits
from tests.ascend.test_trials import assert_numbers
from tests.ascend.trials import TRIALS, Trial, placed, targets
from tests.kernel.trial_kernels import flash_attention

#: Two query heads share keys; scores are rounded to f16 and masked by a tensor of truth values, as in GPT-2.
GROUPED = """
@kernel
def grouped(Q: f16[B, 4, S, 32], K: f16[B, 2, T, 32], V: f16[B, T, 64], M: bool[S, T], O: out[f16[B, S, 128]]):
    where(1 <= B <= 4, 1 <= S <= 64, 1 <= T <= 300)
    b: B
    a: 2
    h: 2
    i: S
    d: 32
    t: T
    k: 32
    for t in scan(top=f32(-inf)[b, a, h, i], total=f32(0.0)[b, a, h, i], acc=f32(0.0)[b, a, h, i, d]):
        raw[b, a, h, i, t] = sum(k, f32(Q[b, 2*a + h, i, k]) * f32(K[b, a, t, k]))
        s[b, a, h, i, t] = f32(select(M[i, t], f16(raw[b, a, h, i, t]) * f16(0.25), f16(-inf)))
        new[b, a, h, i] = max(t, s[b, a, h, i, t])
        next[b, a, h, i] = max(top[b, a, h, i], new[b, a, h, i])
        base[b, a, h, i] = select(next[b, a, h, i] == f32(-inf), f32(0.0), next[b, a, h, i])
        p[b, a, h, i, t] = exp(s[b, a, h, i, t] - base[b, a, h, i])
        shrink[b, a, h, i] = exp(top[b, a, h, i] - base[b, a, h, i])
        part[b, a, h, i] = sum(t, p[b, a, h, i, t])
        pv[b, a, h, i, d] = sum(t, f32(f16(p[b, a, h, i, t])) * f32(V[b, t, 32*a + d]))
        sums[b, a, h, i] = total[b, a, h, i] * shrink[b, a, h, i] + part[b, a, h, i]
        more[b, a, h, i, d] = acc[b, a, h, i, d] * shrink[b, a, h, i] + pv[b, a, h, i, d]
        yield_(top=next, total=sums, acc=more)
    O[b, i, 64*a + 32*h + d] = f16(acc[b, a, h, i, d] / total[b, a, h, i])
"""

#: Kernel, rows of a block, keys of a piece, turns of delay, sizes.
CASES: Mapping[str, tuple[Kernel, int, int, int, dict[str, int]]] = {
    "no mask": (flash_attention("f16", 32, "none"), 16, 128, 2, {"B": 1, "H": 2, "S": 40, "T": 150}),
    "two halves, two strips": (
        flash_attention("f16", 100, "causal"),
        128,
        256,
        3,
        {"B": 1, "H": 1, "S": 130, "T": 300},
    ),
    "additive": (flash_attention("bf16", 64, "additive"), 32, 256, 3, {"B": 2, "H": 1, "S": 20, "T": 270}),
    "one row": (flash_attention("f16", 16, "causal"), 16, 256, 1, {"B": 1, "H": 1, "S": 1, "T": 140}),
    "grouped queries": (parse_kernel(GROUPED), 32, 128, 2, {"B": 1, "S": 20, "T": 140}),
}


def pipelined(kernel: Kernel, rows: int, keys: int, delay: int) -> tuple[Schedule, Placed]:
    online = online_of(kernel)
    assert online is not None
    loops = tuple(Loop(a, rows if a == online.rows else 1, "block") for a in online.store.axes if a != online.columns)
    schedule = Schedule(loops, (Loop(online.keys, keys, "pipeline"),), extra=((PIPELINED, delay),))
    return schedule, place(apply(kernel, schedule), targets()["ascend:910b3"])


@pytest.mark.parametrize("name", CASES)
def test_the_pipeline_computes_what_the_kernel_says(name: str) -> None:
    kernel, rows, keys, delay, dims = CASES[name]
    schedule, program = pipelined(kernel, rows, keys, delay)
    assert unproved(program) is None
    inputs = Trial(kernel, schedule, dims).inputs()
    if "M" in inputs:
        inputs["M"] = np.random.default_rng(0).integers(0, 3, inputs["M"].shape) > 0
        inputs["M"][3] = False  # a row that sees nothing is 0 / 0
    runs = [check(program, inputs, dims, groups, seed).outputs["O"] for groups, seed in ((1, 0), (3, 1))]
    assert same_bits(*runs)
    result = compare("O", runs[0], run_lowered(kernel, inputs, dims)["O"])
    assert result.ok, result


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("f32(-inf)[b, a, h, i]", "f32(-1.0)[b, a, h, i]"),
        ("f32(0.0), next[b, a, h, i])", "f32(1.0), next[b, a, h, i])"),
        ("exp(top[b, a, h, i] - base", "exp(base[b, a, h, i] - base"),
        ("f32(f16(p[b, a, h, i, t]))", "f32(f16(p[b, a, h, i, t] * f32(2.0)))"),
        ("acc[b, a, h, i, d] * shrink[b, a, h, i] +", "acc[b, a, h, i, d] +"),
        ("V[b, t, 32*a + d]", "V[b, t, 64 - 32*a - d]"),
    ],
)
def test_what_is_no_online_softmax_is_not_taken_for_one(old: str, new: str) -> None:
    assert old in GROUPED
    assert online_of(parse_kernel(GROUPED)) is not None
    assert online_of(parse_kernel(GROUPED.replace(old, new))) is None


def test_f32_attention_turns_its_values_on_the_way_to_l0b() -> None:
    kernel, dims = flash_attention("f32", 20, "causal"), {"B": 1, "H": 2, "S": 50, "T": 150}
    target = targets()["ascend:910b3"]
    schedule = first_fit(kernel, target)
    assert not schedule.option(PIPELINED, 0)
    program = place(apply(kernel, schedule), target)
    assert any(b.layout == "zZ" and b.scope == "l1" for b in program.buffers)
    trial = Trial(kernel, schedule, dims)
    outputs = check(program, trial.inputs(), dims).outputs
    assert_numbers(kernel, outputs, trial, dims)
    made, _ = build([program]).run(program, trial.inputs(), dims)
    assert same_bits(made["O"], outputs["O"])


def test_a_variable_beyond_its_limit_is_refused() -> None:
    program = placed("pipelined")
    wrong = next(n for n in program.body if isinstance(n, Let))
    body = tuple(replace(n, value=constant(2), limit=constant(2)) if n is wrong else n for n in program.body)
    with pytest.raises(Refused, match="let: 2 is not in"):
        check(replace(program, body=body), TRIALS["pipelined"].inputs(), TRIALS["pipelined"].dims)
