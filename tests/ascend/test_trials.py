"""The trial kernels on Ascend: one text each becomes a placed program with the right numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tilewright.accuracy import compare
from tilewright.backends.ascend.placed.text import text_of
from tilewright.backends.ascend.placing.online import PIPELINED
from tilewright.backends.ascend.placing.place import place, place_unsynchronized
from tilewright.backends.ascend.schedules.schedule import first_fit, schedules
from tilewright.backends.ascend.simulator.machine import check
from tilewright.errors import CompileError, UnsupportedError
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.schedule import Loop, Schedule
from tilewright.kernel.tile import Kernel

from tests.ascend.trials import TRIALS, Trial, fractals, placed, targets
from tests.kernel.trial_kernels import conv3x3_residual_relu, flash_attention, matmul_bias_gelu, row_softmax

GOLDEN = Path(__file__).parent / "golden"

#: Dimensions beside the trial's own: one element, one tile, one more than a tile, more blocks than groups of cores.
OTHER_DIMS: dict[str, list[dict[str, int]]] = {
    "matmul": [{"M": 1}, {"M": 32}, {"M": 33}, {"M": 200}],
    "convolution": [{"B": 1}, {"B": 5}],
    "softmax": [{"M": 1, "N": 1}, {"M": 16, "N": 8}, {"M": 17, "N": 1024}, {"M": 300, "N": 3}],
    "attention": [
        {"B": 1, "H": 1, "S": 1, "T": 1},
        {"B": 2, "H": 3, "S": 33, "T": 32},
        {"B": 1, "H": 2, "S": 20, "T": 130},
    ],
    "pipelined": [{"B": 1, "H": 1, "S": 1, "T": 1}, {"B": 2, "H": 3, "S": 33, "T": 128}],
    "int8": [{"M": 1}, {"M": 200}],
    "batched": [{"B": 1, "H": 3, "M": 1, "N": 1}, {"B": 2, "H": 2, "M": 33, "N": 64}],
    "bias": [{"M": 1}, {"M": 200}],
    "residual": [{"M": 1}, {"M": 49}],
    "panes": [{"M": 1}, {"M": 17}, {"M": 144}],
    "lead": [{"M": 1}, {"M": 90}, {"M": 130}],
    "lead_residual": [{"M": 1}, {"M": 90}],
    "decode": [{"M": 16}, {"M": 17}],
    "weights": [{"M": 1}],
}
CASES = [(name, dims) for name, trial in TRIALS.items() for dims in (trial.dims, *OTHER_DIMS[name])]


def assert_numbers(kernel: Kernel, got: Mapping[str, object], trial: Trial, dims: Mapping[str, int]) -> None:
    want = run_lowered(kernel, trial.values(dims), dims)
    for name, value in got.items():
        result = compare(name, np.asarray(value), want[name])
        assert result.ok, f"{kernel.name} {dims}: {result}"


@pytest.mark.parametrize(
    ("name", "dims"), CASES, ids=lambda v: v if isinstance(v, str) else "x".join(map(str, v.values()))
)
def test_numbers_match_the_lowered_interpreter(name: str, dims: dict[str, int]) -> None:
    trial = TRIALS[name]
    result = check(placed(name), trial.inputs(dims), dims)
    assert_numbers(trial.kernel, result.outputs, trial, dims)


@pytest.mark.parametrize("name", TRIALS)
def test_every_order_of_the_pipes_gives_the_same_bits(name: str) -> None:
    trial = TRIALS[name]
    runs = [
        check(placed(name), trial.inputs(), trial.dims, groups, seed)
        for groups, seed in ((1, 0), (1, 7), (2, 1), (3, 2))
    ]
    for run in runs[1:]:
        for output, value in run.outputs.items():
            np.testing.assert_array_equal(value, runs[0].outputs[output])


@pytest.mark.parametrize("name", TRIALS)
def test_text_is_the_golden_one(name: str, update_golden: bool) -> None:
    text, path = text_of(placed(name)), GOLDEN / f"{name}.txt"
    if update_golden:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


PRODUCT = """
@kernel
def product({a}, {b}, C: out[{result}[M, N]]):
    where(1 <= M <= 512, 1 <= N <= 512, 1 <= K <= 512)
    m: M
    n: N
    k: K
    acc[m, n] = sum(k, {wide}({left}) * {wide}({right}))
    C[m, n] = {value}
"""


def product_kernel(dtype: str, left: str, right: str, *, wide: str, result: str, value: str) -> Kernel:
    shapes = {"m, k": "M, K", "k, m": "K, M", "k, n": "K, N", "n, k": "N, K"}
    a, b = f"A: {dtype}[{shapes[left]}]", f"B: {dtype}[{shapes[right]}]"
    text = PRODUCT.format(a=a, b=b, result=result, wide=wide, left=f"A[{left}]", right=f"B[{right}]", value=value)
    return parse_kernel(text)


PRODUCTS = {
    "plain": product_kernel("f16", "m, k", "k, n", wide="f32", result="f32", value="acc[m, n]"),
    "relu on the way out": product_kernel(
        "f16", "m, k", "n, k", wide="f32", result="f16", value="f16(max(acc[m, n], f32(0.0)))"
    ),
    "left turned": product_kernel("f16", "k, m", "n, k", wide="f32", result="f32", value="acc[m, n] * f32(2.0)"),
    "both turned": product_kernel("bf16", "k, m", "k, n", wide="f32", result="bf16", value="bf16(sigmoid(acc[m, n]))"),
    "int8": product_kernel("i8", "m, k", "n, k", wide="i32", result="i32", value="acc[m, n]"),
    "fp32 turned": product_kernel("f32", "m, k", "k, n", wide="", result="f32", value="acc[m, n]"),
    "fp32": product_kernel("f32", "m, k", "n, k", wide="", result="f32", value="acc[m, n]"),
}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("dims", [{"M": 1, "N": 1, "K": 1}, {"M": 70, "N": 33, "K": 300}], ids=str)
def test_products_of_every_kind(name: str, dims: dict[str, int]) -> None:
    kernel = PRODUCTS[name]
    target = targets()["ascend:910b1"]
    schedule = first_fit(kernel, target)
    trial = Trial(kernel, schedule, dims)
    program = place(apply(kernel, schedule), target)
    got = check(program, trial.inputs(), dims).outputs["C"]
    result = compare("C", got, run_lowered(kernel, trial.values(), dims)["C"])
    assert result.ok, result
    if name in ("plain", "relu on the way out", "int8", "fp32"):
        assert program.cores == ("cube",), "a sum that is only cast or cut off at 0 needs no vector core"


@pytest.mark.parametrize(("panes", "rows"), [(3, 208), (2, 96)])
def test_panes_of_bytes_are_whole_squares_of_fractals(panes: int, rows: int) -> None:
    """An even share would be 80 or 48 rows, of which a load from L1 takes a half square more than L0A has room for."""
    kernel, dims = PRODUCTS["int8"], {"M": rows, "N": 64, "K": 64}
    loops = (Loop("m", rows, "block"), Loop("n", 64, "block"))
    schedule = Schedule(loops, (Loop("k", 64, "pipeline"),), extra=(("panes", panes),))
    trial = Trial(kernel, schedule, dims)
    got = check(place(apply(kernel, schedule), targets()["ascend:910b3"]), trial.inputs(), dims).outputs["C"]
    np.testing.assert_array_equal(got, run_lowered(kernel, trial.values(), dims)["C"])


#: Kernels whose row, column or reduced axis has one lane, and lanes that fill no block of 32 bytes.
NARROW = {
    "one column": (matmul_bias_gelu("f16", 1, 1), {"M": 50}),
    "five columns": (matmul_bias_gelu("f16", 20, 5), {"M": 50}),
    "three rows": (matmul_bias_gelu("f16", 7, 130), {"M": 3}),
    "one pixel": (conv3x3_residual_relu(1, 1, 3, 5, "f16"), {"B": 2}),
    "one pixel a row": (conv3x3_residual_relu(8, 1, 3, 5, "f16"), {"B": 2}),
    "depth one": (flash_attention("f16", 1, "none"), {"B": 1, "H": 2, "S": 40, "T": 50}),
    "depth three": (flash_attention("f16", 3, "causal"), {"B": 1, "H": 2, "S": 40, "T": 50}),
}


@pytest.mark.parametrize("name", NARROW)
def test_narrow_axes(name: str) -> None:
    kernel, dims = NARROW[name]
    target = targets()["ascend:910b3"]
    schedule = first_fit(kernel, target)
    trial = Trial(kernel, schedule, dims)
    program = place(apply(kernel, schedule), target)
    assert_numbers(kernel, check(program, trial.inputs(), dims).outputs, trial, dims)


@pytest.mark.parametrize("mask", ["none", "additive"])
def test_attention_with_other_masks(mask: str) -> None:
    kernel = flash_attention("bf16", depth=16, mask=mask)
    trial = Trial(kernel, TRIALS["attention"].schedule, {"B": 2, "H": 1, "S": 40, "T": 70})
    program = place(apply(kernel, trial.schedule), targets()["ascend:910b4"])
    assert_numbers(kernel, check(program, trial.inputs(), trial.dims).outputs, trial, trial.dims)


@pytest.mark.parametrize("target", ["ascend:910b1", "ascend:910b3", "ascend:910b4"])
@pytest.mark.parametrize(
    "kernel",
    [
        matmul_bias_gelu("f16", 768, 3072),
        matmul_bias_gelu("f16", 3072, 768),
        conv3x3_residual_relu(56, 56, 64, 128, "f16"),
        row_softmax("f16"),
        flash_attention("f16", 64, "causal"),
        flash_attention("f16", 128, "additive"),
    ],
    ids=["up", "down", "convolution", "softmax", "attention 64", "attention 128"],
)
def test_some_schedule_fits_at_model_sizes(kernel: Kernel, target: str) -> None:
    t = targets()[target]
    schedule = first_fit(kernel, t)
    program = place_unsynchronized(apply(kernel, schedule), t)
    assert schedule in list(schedules(kernel, t))
    for b in program.buffers:
        assert b.scope == "gm" or b.end <= t.memory[b.scope].size


#: Schedules that cut rows into pieces that may be less than the 32 bytes which leave at once.
TOO_SHORT = dict.fromkeys(("softmax", "batched", "int8"), "may be less than 32 bytes")


#: What has no such form there: attention pipelined over two kinds of core; weights of 4 bits with zero points.
NOT_FUSED = {"weights", *(n for n, t in TRIALS.items() if t.schedule.option(PIPELINED, 0))}


@pytest.mark.parametrize("name", [n for n in TRIALS if n not in NOT_FUSED])
def test_a_fused_core_takes_sums_through_its_unified_buffer(name: str) -> None:
    """310P has no way from L0C to global memory and no workspace: one core does everything, in one stream."""
    target = targets()["ascend:310p3"]
    trial = TRIALS[name]
    if name in TOO_SHORT:
        with pytest.raises(CompileError, match=TOO_SHORT[name]):
            place(apply(trial.kernel, trial.schedule), target)
        return
    program = place(apply(trial.kernel, trial.schedule), target)
    assert program.cores == ("vector",) and not any(b.workspace for b in program.buffers)
    for dims in (trial.dims, OTHER_DIMS[name][0]):
        assert_numbers(trial.kernel, check(program, trial.inputs(dims), dims).outputs, trial, dims)


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_a_fused_core_multiplies_no_other_floats_than_f16(dtype: str) -> None:
    kernel = product_kernel(
        dtype, "m, k", "n, k", wide="" if dtype == "f32" else "f32", result="f32", value="acc[m, n]"
    )
    target = targets()["ascend:310p3"]
    with pytest.raises(UnsupportedError, match="no mmad") as refused:
        first_fit(kernel, target)
    assert refused.value.code == "ascend-mmad-dtype"


def test_pieces_of_a_sum_come_from_their_own_rows() -> None:
    """A vector core takes the rows of a large sum piece by piece, each from its own place in the workspace."""
    loops = (Loop("m", 208, "block"), Loop("n", 96, "block"))
    trial = Trial(matmul_bias_gelu("f16", 64, 96), Schedule(loops, packs=(fractals("B", 64, 96),)), {"M": 208})
    program = place(apply(trial.kernel, trial.schedule), targets()["ascend:910b3"])
    assert "for _strip in range(0" in text_of(program), "one piece would show nothing"
    assert_numbers(trial.kernel, check(program, trial.inputs(trial.dims), trial.dims).outputs, trial, trial.dims)
