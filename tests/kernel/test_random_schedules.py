"""Any schedule is either refused or computes what the lowered kernel says."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tilewright.kernel.apply import apply, defines
from tilewright.kernel.interpret import run_lowered, run_scheduled
from tilewright.kernel.pack import blocked
from tilewright.kernel.schedule import Loop, Schedule, ScheduleError, Stage
from tilewright.kernel.tile import Kernel, Scan, Store

from tests.kernel.trial_cases import CASES, TOLERANCE, error
from tests.kernel.trial_kernels import TRIALS


@st.composite
def schedules(draw: st.DrawFn, kernel: Kernel) -> Schedule:
    """Loops of any size in any order, twice over some axes; stages, packs, inlined and bounded axes."""
    outer = draw(st.permutations(sorted({a for s in kernel.body if isinstance(s, Store) for a in s.axes})))
    reduced = {a for d in defines(kernel) if d.reduce is not None for a in d.reduce.axes}
    reduced |= {s.axis for s in kernel.body if isinstance(s, Scan)}
    sizes, flags = st.integers(1, 24), st.booleans()
    loops = [Loop(a, draw(sizes), "block", draw(flags)) for a in outer if draw(flags)]
    loops += [Loop(a, draw(sizes), "tile", draw(flags)) for a in outer if draw(st.integers(0, 3)) == 0]
    reduce = [Loop(a, draw(st.integers(1, 12)), "pipeline") for a in sorted(reduced) if draw(flags)]
    rare = st.integers(0, 4).map(lambda n: n == 0)
    return Schedule(
        tuple(loops),
        tuple(reduce),
        tuple(
            Stage(p.name, draw(st.integers(0, len(loops) + 1)), "l1")
            for p in kernel.params
            if p.role == "in" and draw(rare)
        ),
        tuple(
            blocked(p.name, p.shape, len(p.shape) - 1, draw(st.integers(1, 16)))
            for p in kernel.params
            if p.role == "const" and draw(flags)
        ),
        tuple((d.tile, "inline") for d in defines(kernel) if d.reduce is None and draw(rare)),
        tuple((f"whole:{a.name}", 48) for a in kernel.axes if a.extent.is_constant and draw(rare)),
    )


@pytest.mark.parametrize("name", ["matmul", "conv", "softmax", "attention", "attention-additive"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_random_schedules(name: str, data: st.DataObject) -> None:
    kernel, x = TRIALS[name](), CASES[name][0]()
    schedule = data.draw(schedules(kernel))
    try:
        tree = apply(kernel, schedule)
    except ScheduleError:
        assume(False)
    expected, results = run_lowered(kernel, x), run_scheduled(tree, x)
    for key, array in results.items():
        assert error(array, expected[key]) < TOLERANCE["float32"]
