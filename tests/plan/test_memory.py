"""Lives and places of temporaries; the executor's arena is the same as the report's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilewright import runtime
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import constant, symbol
from tilewright.ir.types import DType
from tilewright.plan.memory import ALIGNMENT, live_intervals, plan_memory
from tilewright.plan.plan import Buffer, Copy, EntryPoint, Instruction, Jump, Plan, SetScalar, Signature

from tests.runtime import programs

N = symbol("N")


def entry(sizes: list[int], code: list[Instruction]) -> EntryPoint:
    """Temporaries of ``sizes`` times N bytes after one input and one output of 4 * N bytes."""
    buffers = (Buffer("input", N * 4), Buffer("output", N * 4), *(Buffer("temporary", N * s) for s in sizes))
    x = Signature("x", DType.F32, (N,))
    y = Signature("y", DType.F32, (N,))
    return EntryPoint("main", (x,), (y,), (), (("N", Range(1, 1 << 20)),), buffers, tuple(code))


def copy(source: int, target: int) -> Copy:
    return Copy(source, target, constant(1))


PROGRAMS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=20)


@given(st.lists(st.integers(1, 300), min_size=8, max_size=8), PROGRAMS, st.integers(1, 50))
@settings(max_examples=150, deadline=None)
def test_buffers_that_live_together_do_not_overlap(sizes: list[int], pairs: list[tuple[int, int]], n: int) -> None:
    e = entry(sizes, [copy(a + 2, b + 2) for a, b in pairs])
    layout, live = plan_memory(e, {"N": n}), live_intervals(e)
    assert set(layout.offsets) == set(live)
    for a, start in layout.offsets.items():
        assert start % ALIGNMENT == 0
        assert start + sizes[a - 2] * n <= layout.size
        for b, other in layout.offsets.items():
            together = a != b and live[a][0] <= live[b][1] and live[b][0] <= live[a][1]
            assert not together or start + sizes[a - 2] * n <= other or other + sizes[b - 2] * n <= start
    assert layout.live_maximum <= layout.size


def test_a_buffer_used_in_a_loop_lives_through_it() -> None:
    i = symbol("i")
    code = [
        SetScalar("i", constant(0)),
        copy(0, 2),
        copy(2, 3),
        SetScalar("i", i + 1),
        Jump(1, 3 - i),
        copy(3, 4),
        copy(4, 1),
    ]
    assert live_intervals(entry([4, 4, 4], code)) == {2: (1, 4), 3: (1, 5), 4: (5, 6)}


def test_nested_loops_are_joined() -> None:
    code = [copy(0, 2), copy(2, 3), Jump(1, N), copy(0, 4), Jump(0, N), copy(4, 1)]
    assert live_intervals(entry([4, 4, 4], code)) == {2: (0, 4), 3: (0, 4), 4: (0, 5)}


def test_views_count_for_their_base() -> None:
    live = live_intervals(programs.dense_entry())
    assert live == {3: (0, 1), 5: (1, 4), 6: (2, 3)}


@pytest.mark.parametrize("n", [1, 2, 7, 64, 1000])
def test_the_executor_places_the_same_way(n: int) -> None:
    random = np.random.default_rng(n)
    sizes = [int(s) for s in random.integers(1, 400, 30)]
    pairs = random.integers(0, 30, (80, 2))
    e = entry(sizes, [copy(int(a) + 2, int(b) + 2) for a, b in pairs])
    session = runtime.load(programs.artifact(Plan((e,), (), programs.KERNELS)), threads=1)
    use = session.memory({"x": np.zeros(n, np.float32)})
    layout = plan_memory(e, {"N": n})
    assert (use.arena, use.live_maximum) == (layout.size, layout.live_maximum)


def chain(sizes: list[int]) -> EntryPoint:
    """Every temporary is made from the one before it, and the first is needed again at the end."""
    pairs = [(i, i + 1) for i in range(len(sizes) - 1)] + [(0, len(sizes) - 1)]
    return entry(sizes, [copy(a + 2, b + 2) for a, b in pairs])


@pytest.mark.parametrize(
    "sizes", [[10, 1, 12, 8, 5, 12, 4, 10], [9, 7, 6, 8, 12, 1, 8, 1], [5, 12, 10, 10, 10, 7, 11, 3]]
)
def test_the_best_of_several_orders(sizes: list[int]) -> None:
    """Greedy by size alone leaves gaps of 15 to 21 % here; in another order they fit. The executor does the same."""
    e = chain([s * 64 for s in sizes])
    layout = plan_memory(e, {"N": 1})
    assert layout.size <= 1.1 * layout.live_maximum
    session = runtime.load(programs.artifact(Plan((e,), (), programs.KERNELS)), threads=1)
    assert session.memory({"x": np.zeros(1, np.float32)}).arena == layout.size
