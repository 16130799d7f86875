"""Attention of one row a head over a cache: blocks of keys on vector cores, the next ones on their way meanwhile."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from tilewright.backends.ascend.placed.form import Instruction, Placed, counter, statements
from tilewright.backends.ascend.placed.form import Loop as Turns
from tilewright.backends.ascend.placing.place import place
from tilewright.backends.ascend.schedules.schedule import first_fit
from tilewright.backends.ascend.simulator.machine import check
from tilewright.backends.ascend.simulator.timing import launch_time
from tilewright.backends.ascend.synchronization.verify import unproved
from tilewright.ir.symbolic import symbol
from tilewright.kernel.apply import apply
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.schedule import Loop, Schedule
from tilewright.kernel.tile import Kernel

from tests.ascend.modelled import build, same_bits
from tests.ascend.test_trials import assert_numbers
from tests.ascend.trials import Trial, targets

#: As lowering makes it of softmax(q Kᵀ / √depth + mask) V for one query a head; every batch has the same mask.
DECODE = """
@kernel
def decode(Q: f16[4*B, 1, {depth}], K: f16[4*B, T, {depth}], V: f16[4*B, T, {depth}], M: f16[T],
           O: out[f16[4*B, 1, {depth}]]):
    where(1 <= B <= 8, 1 <= T <= {most})
    m: 4*B
    n: {depth}
    t: T
    k: {depth}
    for t in scan(top=f32(-inf)[m], total=f32(0.0)[m], acc=f32(0.0)[m, n]):
        raw[m, t] = sum(k, f32(Q[m, 0, k]) * f32(K[m, t, k]))
        s[m, t] = f32(f16(raw[m, t]) * f16(0.125) + M[t])
        new[m] = max(t, s[m, t])
        next[m] = max(top[m], new[m])
        base[m] = select(next[m] == f32(-inf), f32(0.0), next[m])
        p[m, t] = exp(s[m, t] - base[m])
        shrink[m] = exp(top[m] - base[m])
        part[m] = sum(t, p[m, t])
        pv[m, n] = sum(t, f32(f16(p[m, t])) * f32(V[m, t, n]))
        sums[m] = total[m] * shrink[m] + part[m]
        more[m, n] = acc[m, n] * shrink[m] + pv[m, n]
        yield_(top=next, total=sums, acc=more)
    O[m, 0, n] = f16(acc[m, n] / total[m])
"""


@cache
def made(target: str, depth: int, most: int, keys: int = 0) -> tuple[Kernel, Schedule, Placed]:
    """The kernel in blocks of ``keys``, or as a build has it."""
    kernel = parse_kernel(DECODE.format(depth=depth, most=most))
    schedule = Schedule((Loop("m", 1, "block"),), (Loop("t", keys, "pipeline"),))
    schedule = schedule if keys else first_fit(kernel, targets()[target])
    return kernel, schedule, place(apply(kernel, schedule), targets()[target])


@pytest.mark.parametrize("target", ["ascend:910b3", "ascend:310p3"])
@pytest.mark.parametrize(("depth", "keys"), [(128, 1), (128, 15), (128, 17), (128, 511), (48, 130), (48, 256)])
def test_one_row_a_head_over_any_number_of_keys(target: str, depth: int, keys: int) -> None:
    kernel, schedule, program = made(target, depth, 2048, 96)
    assert unproved(program) is None
    dims = {"B": 1, "T": keys}
    trial = Trial(kernel, schedule, dims)
    inputs = trial.inputs()
    inputs["M"] = np.where(np.arange(keys) % 5 == 3, -np.inf, inputs["M"]).astype(np.float16)
    runs = [check(program, inputs, dims, groups, seed).outputs for groups, seed in ((1, 0), (2, 1))]
    assert same_bits(runs[0]["O"], runs[1]["O"])
    raw = np.einsum("mk,mtk->mt", inputs["Q"][:, 0].astype(np.float32), inputs["K"].astype(np.float32))
    score = raw / 8 + inputs["M"].astype(np.float32)
    weight = np.exp(score - score.max(axis=1, keepdims=True))
    wanted = np.einsum("mt,mtn->mn", weight, inputs["V"].astype(np.float32)) / weight.sum(axis=1, keepdims=True)
    assert np.abs(runs[0]["O"][:, 0].astype(np.float32) - wanted).max() < 4e-3 * np.abs(wanted).max() + 1e-3


@pytest.mark.parametrize("target", ["ascend:910b3", "ascend:310p3"])
def test_the_emitted_code_gives_the_same_bits(target: str) -> None:
    kernel, schedule, program = made(target, 128, 2048, 96)
    library = build([program])
    for keys in (1, 200):
        dims = {"B": 1, "T": keys}
        inputs = Trial(kernel, schedule, dims).inputs()
        outputs = check(program, inputs, dims).outputs
        assert same_bits(library.run(program, inputs, dims)[0]["O"], outputs["O"])


def test_short_caches_take_several_heads_a_turn() -> None:
    kernel, schedule, program = made("ascend:310p3", 128, 64)
    assert not schedule.reduce
    trial = Trial(kernel, schedule, {"B": 2, "T": 37})
    assert_numbers(kernel, check(program, trial.inputs(), trial.dims).outputs, trial, trial.dims)


def test_keys_come_a_turn_ahead() -> None:
    program = made("ascend:910b3", 128, 2048, 96)[2]
    (blocks,) = [n for n in program.body if isinstance(n, Turns)]
    (turns,) = [n for n in blocks.body if isinstance(n, Turns)]
    keys = [n for n in statements(blocks.body) if isinstance(n, Instruction) and n.dst.buffer == "K_ub"]
    now = symbol(counter(turns.var))
    assert [n.dst.slot for n in keys] == [now, now + 1]
    inner = [n for n in statements(turns.body) if isinstance(n, Instruction)]
    assert [n.pipe for n in inner[:3]] == ["MTE2", "MTE2", "MTE2"] and inner[3].pipe == "V"
    assert not any(e.kind == "barrier" and "MTE2" in e.source for e in program.edges)


def test_a_cache_is_read_nearly_as_fast_as_dram_gives_it() -> None:
    _, schedule, program = made("ascend:910b3", 128, 2048)
    assert schedule.reduce[0].axis == "t" and schedule.reduce[0].size >= 64
    dims = {"B": 8, "T": 512}
    read = 2 * 4 * dims["B"] * dims["T"] * 128 * 2
    at_least = read / (32 * program.target.units)
    assert at_least / launch_time(program, dims).cycles > 0.7
