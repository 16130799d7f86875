"""The model of the pipes that ranks tilings, beside the timing of placed programs; what BERT's dense layers reach."""

from __future__ import annotations

from functools import lru_cache
from itertools import islice

import pytest
from tilewright.backends.ascend.placing.place import place
from tilewright.backends.ascend.schedules.pace import Problem, Tiling, pace
from tilewright.backends.ascend.schedules.schedule import first_fit, schedules
from tilewright.backends.ascend.simulator.times import Timing
from tilewright.backends.ascend.simulator.timing import launch_time
from tilewright.kernel.apply import apply
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.schedule import Schedule
from tilewright.kernel.tile import Kernel

from tests.ascend.trials import targets
from tests.kernel.trial_kernels import matmul_bias_gelu

PLAIN = """
@kernel
def product(A: f16[M, {k}], B: const[f16[{k}, {n}]], C: out[f16[M, {n}]]):
    where(1 <= M <= 65536)
    m: M
    n: {n}
    k: {k}
    acc[m, n] = sum(k, f32(A[m, k]) * f32(B[k, n]))
    C[m, n] = f16(acc[m, n])
"""
#: BERT-base's dense layers at 8 x 128 rows: query, key and value as one product, the attention's output, both halves
#: of the feed-forward block.
LAYERS = {"qkv": (768, 2304), "output": (768, 768), "up": (768, 3072), "down": (3072, 768)}
#: The same with the input of the block added, as a compiled BERT launches them.
RESIDUAL = PLAIN.replace("C: out", "R: f16[M, {n}], bias: const[f16[{n}]], C: out").replace(
    "f16(acc[m, n])", "f16(acc[m, n]) + bias[n] + R[m, n]"
)
TARGET = targets()["ascend:910b3"]


@lru_cache(maxsize=8)
def layer(name: str) -> Kernel:
    depth, columns = LAYERS[name]
    return matmul_bias_gelu("f16", depth, columns) if name == "up" else parse_kernel(PLAIN.format(k=depth, n=columns))


def warm(kernel: Kernel, schedule: Schedule) -> Timing:
    """The timing of a launch that finds its activations in L2."""
    return launch_time(place(apply(kernel, schedule), TARGET), {"M": 1024}, warm=["A", "R"])


@pytest.mark.parametrize("name", LAYERS)
def test_a_dense_layer_of_bert_in_a_model_keeps_the_cube_busy(name: str) -> None:
    kernel = layer(name)
    assert warm(kernel, first_fit(kernel, TARGET)).utilisation >= 0.7


@pytest.mark.parametrize("name", ["output", "down"])
def test_a_residual_leaves_it_busy(name: str) -> None:
    depth, columns = LAYERS[name]
    kernel = parse_kernel(RESIDUAL.format(k=depth, n=columns))
    assert warm(kernel, first_fit(kernel, TARGET)).utilisation >= 0.7


@pytest.mark.parametrize("name", ["output", "down"])
def test_the_ranking_agrees_with_the_timing(name: str) -> None:
    kernel = layer(name)
    depth, columns = LAYERS[name]
    problem = Problem(1024, columns, depth, 1, 2, 2, 0)
    for schedule in islice(schedules(kernel, TARGET), 0, 12, 5):
        sizes = {(loop.axis, loop.kind): loop.size for loop in (*schedule.loops, *schedule.reduce)}
        rows, width = sizes["m", "block"], sizes["n", "block"]
        options = {"ring": 2, "panes": 1, "lead": 0, "height": 0}
        more = {name: int(schedule.option(name, usual)) for name, usual in options.items()}
        tiling = Tiling(rows, sizes.get(("n", "tile"), width), width, sizes["k", "pipeline"], **more)
        assert pace(problem, tiling, TARGET) == pytest.approx(warm(kernel, schedule).cycles, rel=0.05)


def test_more_slots_never_cost_and_narrow_tiles_do() -> None:
    problem = Problem(1024, 768, 768, 1, 2, 2, 0)
    slots = [pace(problem, Tiling(208, 128, 192, 128, ring), TARGET) for ring in (2, 3, 4)]
    assert slots == sorted(slots, reverse=True)
    assert pace(problem, Tiling(208, 32, 192, 128), TARGET) > pace(problem, Tiling(208, 96, 192, 128), TARGET)


def test_rounds_beyond_the_third_are_alike() -> None:
    tiling = Tiling(128, 128, 128, 128)
    cycles = [pace(Problem(128 * rows, 2560, 512, 1, 2, 2, 0), tiling, TARGET) for rows in (4, 5, 6)]
    assert cycles[2] - cycles[1] == pytest.approx(cycles[1] - cycles[0], rel=0.1)
