"""Cycles on the model: sums of the target's numbers on programs of a few statements, and what traces need."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tilewright.backends import ascend
from tilewright.backends.ascend.placed.form import Barrier, Loop, Node
from tilewright.backends.ascend.placing.place import place
from tilewright.backends.ascend.schedules.schedule import first_fit
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.ascend.simulator.timeline import trace_of
from tilewright.backends.ascend.simulator.times import Timing
from tilewright.backends.ascend.simulator.timing import launch_time
from tilewright.ir.symbolic import ZERO, constant
from tilewright.kernel.apply import apply
from tilewright.kernel.parse import parse_kernel

from tests.ascend.test_checker import DOUBLE, GOOD, LOAD, flag, program, view
from tests.ascend.trials import TRIALS, placed, targets

#: Of ascend:310p3: the programs below run on one fused core.
NUMBERS = targets()["ascend:310p3"].extra["cycles"]


def cycles(*body: Node) -> float:
    return launch_time(program(body), {}).cycles


def transfer_in(size: int) -> float:
    """256 bytes are two lines of 128; one core alone gets what L2 gives, and the way into the buffer is slower."""
    return NUMBERS["transfer_start"] + size / NUMBERS["gm_ub"]


def test_one_instruction_takes_its_issue_its_pipe_and_its_latency() -> None:
    assert cycles(LOAD) == pytest.approx(NUMBERS["call"] + transfer_in(256) + NUMBERS["read_latency"])
    repeat, own = NUMBERS["vector"]["mul"][1:]
    assert cycles(DOUBLE) == pytest.approx(NUMBERS["call"] + repeat + NUMBERS["vector_latency"] + own)


def test_a_chain_of_flags_adds_up() -> None:
    repeat, own = NUMBERS["vector"]["mul"][1:]
    load = NUMBERS["call"] + transfer_in(256) + NUMBERS["read_latency"] + NUMBERS["flag_latency"]
    double = repeat + NUMBERS["vector_latency"] + own + NUMBERS["flag_latency"]
    store = NUMBERS["transfer_start"] + 256 / NUMBERS["ub_gm"] + NUMBERS["write_latency"]
    assert cycles(*GOOD) == pytest.approx(load + double + store)


def test_pipes_run_beside_each_other_and_a_barrier_waits_for_the_result() -> None:
    many: list[Node] = [LOAD, DOUBLE] * 20
    alone = [LOAD] * 20
    assert cycles(*many) < cycles(*alone) + 20 * NUMBERS["call"] + 40
    free, behind = cycles(DOUBLE, DOUBLE), cycles(DOUBLE, Barrier("vector", "V", 1), DOUBLE)
    repeat, own = NUMBERS["vector"]["mul"][1:]
    issue = NUMBERS["call"]
    assert free == pytest.approx(2 * issue + repeat + NUMBERS["vector_latency"] + own)
    latency = NUMBERS["vector_latency"] + own
    assert behind == pytest.approx(issue + 2 * (repeat + latency))


def test_a_full_queue_holds_the_scalar_unit_up() -> None:
    slow = launch_time(program(tuple([LOAD] * 300 + [DOUBLE])), {}, spans=True)
    assert any(reason.startswith("room in the queue of MTE2") for _, _, reason, _ in slow.stalls)


def test_a_wait_for_nothing_is_a_deadlock() -> None:
    with pytest.raises(Refused) as refused:
        cycles(flag("wait", "MTE2", "V"), DOUBLE)
    assert refused.value.kind == "deadlock"
    late = (flag("wait", "MTE2", "V"), DOUBLE, LOAD, flag("set", "MTE2", "V"))
    assert cycles(*late) > cycles(LOAD), "a wait in front of its set is no deadlock for a pipe of its own"


def test_rows_that_are_short_cost_lines() -> None:
    """64 rows of 4 bytes, far apart, take a line each."""
    apart = replace(LOAD, dst=view("a", 1), srcs=(view("X", 1),))
    assert cycles(*[apart] * 8) > cycles(LOAD)


def test_loops_cost_their_branches() -> None:
    once = Loop("i", ZERO, constant(5), constant(1), (DOUBLE,))
    assert cycles(once) - cycles(*[DOUBLE] * 5) == pytest.approx(5 * NUMBERS["loop"])


PRODUCT = parse_kernel("""
@kernel
def product(A: f16[M, 512], B: const[f16[512, 1024]], C: out[f16[M, 1024]]):
    where(1 <= M <= 65536)
    m: M
    n: 1024
    k: 512
    acc[m, n] = sum(k, f32(A[m, k]) * f32(B[k, n]))
    C[m, n] = f16(acc[m, n])
""")


def timed(rows: int, **options: object) -> Timing:
    target = targets()["ascend:910b3"]
    return launch_time(place(apply(PRODUCT, first_fit(PRODUCT, target)), target), {"M": rows}, **options)  # type: ignore[arg-type]


def test_utilisation_counts_real_multiply_adds() -> None:
    timing = timed(5120, simulate=None)
    assert timing.macs == 5120 * 1024 * 512
    assert timing.peak == timing.cycles * 20 * 16**3
    assert 0 < timing.utilisation <= timing.busy["cube", "M"] <= 1
    one = timed(5120, simulate=1)
    assert one.simulated == 1 and one.macs == pytest.approx(timing.macs, rel=0.05)
    assert one.cycles == pytest.approx(timing.cycles, rel=0.02), "all blocks are alike: one group stands for all"


def test_the_group_with_the_most_to_do_is_found() -> None:
    """Under a causal mask later blocks take longer; the slowest group tells the time of the launch."""
    dims = {"B": 1, "H": 2, "S": 128, "T": 128}
    every = launch_time(placed("attention"), dims, groups=4, simulate=None)
    one = launch_time(placed("attention"), dims, groups=4)
    assert one.simulated == 1 and one.cycles == pytest.approx(every.cycles)
    assert one.macs == every.macs


def test_what_the_launch_before_wrote_is_read_at_the_rate_of_l2() -> None:
    cold, warm = timed(1024), timed(1024, warm=["A"])
    assert warm.cycles < cold.cycles
    assert warm.rates.by_tensor["A", "read"] == pytest.approx(targets()["ascend:910b3"].extra["cycles"]["l2_read"])
    assert warm.rates.by_tensor["A", "read"] > cold.rates.by_tensor["A", "read"]
    assert warm.rates.by_tensor["B", "read"] == cold.rates.by_tensor["B", "read"]


def test_more_rows_take_longer_and_bytes_from_dram_are_shared() -> None:
    assert timed(2560).cycles < timed(10240).cycles
    rates = timed(5120).rates
    assert 0 < rates.missed < 1
    assert 32 < rates.by_tensor["A", "read"] < 110
    alone = timed(100, groups=1).rates
    assert alone.by_tensor["A", "read"] == pytest.approx(110), "one core gets all that L2 gives"


@pytest.mark.parametrize("name", TRIALS)
def test_traces_are_whole_and_pipes_do_one_thing_at_a_time(name: str) -> None:
    timing = launch_time(placed(name), TRIALS[name].dims, groups=2, simulate=None, spans=True)
    trace = json.loads(trace_of(timing, name))
    last: dict[tuple[int, int], float] = {}
    work = 0
    for event in trace["traceEvents"]:
        if event["ph"] != "X":
            assert event["name"] in ("process_name", "thread_name", "thread_sort_index")
            continue
        key = event["pid"], event["tid"]
        assert event["ts"] >= last.get(key, 0.0) - 1e-5 and event["dur"] >= 0
        last[key] = event["ts"] + event["dur"]
        work += event["cat"] == "work"
        assert event["cat"] == "work" or event["name"].startswith("waits for ")
    assert work > 10 and max(last.values()) <= timing.microseconds + 1e-3
    assert all(0 < share <= 1 for share in timing.busy.values())


@pytest.mark.parametrize("path", sorted((Path(ascend.__path__[0]) / "targets").glob("*.toml")), ids=lambda p: p.stem)
def test_every_cycle_has_a_source_or_is_called_an_assumption(path: Path) -> None:
    section, marks = "", 0
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line.split("]")[0].strip("[")
            heading = line
        elif section.startswith("cycles") and "=" in line and not line.startswith("#"):
            assert re.search(r"\[[aptmuz](, [aptmuz])*\]", line) or "[m, a]" in heading, line
            marks += 1
    assert marks > 50


def test_a_picture_needs_nothing_that_is_not_asked_for() -> None:
    """Importing the module imports no matplotlib; drawing without it says what to do."""
    import importlib.util

    from tilewright.backends.ascend.simulator.picture import draw
    from tilewright.errors import UsageError

    timing = launch_time(program(GOOD), {}, spans=True)
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(UsageError, match="matplotlib"):
            draw(timing, "twice", Path("nowhere.png"))
