"""Products on the cube core: what each schedule and each way out of L0C computes, and which cores it takes."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice

import mpmath
import numpy as np
import pytest
from tilewright.accuracy import TOLERANCE, compare
from tilewright.backends.ascend.backend import AscendBackend
from tilewright.backends.ascend.placed.form import Instruction, Placed, statements
from tilewright.backends.ascend.placing.place import place
from tilewright.backends.ascend.placing.runs import run_length, slope
from tilewright.backends.ascend.schedules.products import product_schedules
from tilewright.backends.ascend.schedules.schedule import first_fit, schedules
from tilewright.backends.ascend.simulator.machine import check
from tilewright.errors import UnsupportedError
from tilewright.ir.symbolic import constant, symbol
from tilewright.kernel.analysis import as_product
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.schedule import Loop, Schedule
from tilewright.kernel.tile import Define, Kernel

from tests.ascend.trials import Trial, fractals, targets

DENSE = """
@kernel
def dense(A: {t}[M, 80], B: const[{t}[80, {n}]], bias: const[{t}[{n}]], R: {t}[M, {n}], C: out[{result}[M, {n}]]):
    where(1 <= M <= 512)
    m: M
    n: {n}
    k: 80
    acc[m, n] = sum(k, f32(A[m, k]) * f32(B[k, n]))
    C[m, n] = {value}
"""

CONVOLUTION = """
@kernel
def convolution(X: {t}[batch, 9, 10, 8], W: const[{t}[24, 8, 3, 3]], bias: const[{wide}[24]],
                Y: out[{result}[20*batch, 24]]):
    where(1 <= batch <= 16)
    m: 20*batch
    n: 24
    k: 3
    k1: 3
    c: 8
    acc[m, n] = sum((k, k1, c), {wide}({x}) * {wide}(W[n, c, k, k1]))
    Y[m, n] = {value}
"""

INT8 = """
@kernel
def int8_residual(A: i8[M, 64], B: const[i8[64, 40]], zero: const[i32[40]], scale: const[f32[40]], bias: const[f32[40]],
                  R: f32[M, 40], C: out[i8[M, 40]]):
    where(1 <= M <= 512)
    m: M
    n: 40
    k: 64
    acc[m, n] = sum(k, i32(A[m, k]) * i32(B[k, n]))
    y[m, n] = (f32(acc[m, n] - zero[n]) * scale[n] + bias[n] + R[m, n]) * f32(0.004)
    C[m, n] = i8(min(max(round(y[m, n]), f32(-128.0)), f32(127.0)))
"""


def dense(value: str, t: str = "f16", result: str = "f16", n: int = 56) -> Kernel:
    return parse_kernel(DENSE.format(value=value, t=t, result=result, n=n))


def convolution(t: str, wide: str, fill: int, result: str, value: str) -> Kernel:
    x = f"(X[m // 20, k + 2*((m // 5) % 4) - 1, k1 + 2*(m % 5) - 1, c] or {fill})"
    return parse_kernel(CONVOLUTION.format(t=t, wide=wide, x=x, result=result, value=value))


SIGMOID = "f16(acc[m, n] * sigmoid(acc[m, n]))"
RELU = "f16(max(f32(f16(acc[m, n]) + bias[n]), f32(0.0)))"
GELU = (
    "f16(f32(f16(acc[m, n]) + bias[n]) * f32(0.5) * (erf(f32(f16(acc[m, n]) + bias[n]) * f32(0.70710678)) + f32(1.0)))"
)
MIXED = ("cube", "vector")

#: Kernel, dimensions, cores.
CASES: dict[str, tuple[Kernel, dict[str, int], tuple[str, ...]]] = {
    "bias": (dense("f16(acc[m, n]) + bias[n]"), {"M": 70}, ("cube",)),
    "bias before the cast": (dense("f16(acc[m, n] + f32(bias[n]))"), {"M": 17}, ("cube",)),
    "bias and relu": (dense(RELU), {"M": 33}, ("cube",)),
    "bias, and more": (dense("f16(acc[m, n]) + bias[n] + R[m, n]"), {"M": 70}, MIXED),
    "a result wider than the rounded sum": (
        dense("f32(f16(acc[m, n])) + f32(R[m, n])", result="f32"),
        {"M": 20},
        MIXED,
    ),
    "a residual before the sum": (dense("R[m, n] + (f16(acc[m, n]) + bias[n])"), {"M": 70}, MIXED),
    "a residual of bf16": (
        dense("bf16(f32(bf16(acc[m, n])) + f32(R[m, n]))", t="bf16", result="bf16"),
        {"M": 33},
        MIXED,
    ),
    "gelu": (dense(GELU), {"M": 40}, MIXED),
    "two uses that differ": (dense(SIGMOID), {"M": 70}, MIXED),
    "a bias of bf16": (dense("bf16(acc[m, n]) + bias[n]", t="bf16", result="bf16"), {"M": 20}, MIXED),
    "merged rows": (convolution("f16", "f32", 0, "f16", "f16(acc[m, n] + bias[n])"), {"batch": 3}, ("cube",)),
    "merged rows, padded by a zero point": (
        convolution("i8", "i32", -7, "i32", "acc[m, n] + bias[n]"),
        {"batch": 2},
        ("cube",),
    ),
    "columns that both vector cores compute": (dense("acc[m, n]", t="f32", result="f32"), {"M": 70}, MIXED),
    "int8 with more double buffers than events": (parse_kernel(INT8), {"M": 70}, MIXED),
}


def run(kernel: Kernel, schedule: Schedule, dims: dict[str, int], target: str = "ascend:910b3") -> Placed:
    """Placed, run on the model, and compared: integers and sums of integers exactly."""
    trial = Trial(kernel, schedule, dims)
    program = place(apply(kernel, schedule), targets()[target])
    outputs = check(program, trial.inputs(), dims).outputs
    want = run_lowered(kernel, trial.values(), dims)
    for name, got in outputs.items():
        if got.dtype.kind == "i":
            np.testing.assert_array_equal(got, want[name])
        else:
            # What was rounded to the operands' type on the way is no nearer than that, whatever it is stored as.
            result = compare(name, got, want[name], TOLERANCE[str(kernel.params[0].dtype)])
            assert result.ok, result
    return program


@pytest.mark.parametrize("name", CASES)
def test_first_schedule(name: str) -> None:
    kernel, dims, cores = CASES[name]
    assert run(kernel, first_fit(kernel, targets()["ascend:910b3"]), dims).cores == cores


#: What is added where, of products with a tensor of their size beside them.
ADDED: dict[str, tuple[str, str, bool]] = {
    "a residual": ("f16(acc[m, n]) + bias[n] + R[m, n]", "f16", True),
    "a residual in f32, rounded to f16": ("f16(f32(f16(acc[m, n])) + f32(R[m, n]))", "f16", True),
    "one rounding of both": ("f16(acc[m, n] + f32(R[m, n]))", "f16", False),
    "a bias behind it": ("f16(acc[m, n]) + R[m, n] + bias[n]", "f16", False),
    "a relu behind it": ("f16(max(f32(f16(acc[m, n]) + R[m, n]), f32(0.0)))", "f16", False),
    "a product": ("f16(acc[m, n]) * R[m, n]", "f16", False),
    "the first row for all": ("f16(acc[m, n]) + R[0, n]", "f16", False),
}


@pytest.mark.parametrize("name", ADDED)
def test_only_what_rounds_as_the_kernel_says_is_added_on_the_way_out(name: str) -> None:
    value, result, on_the_way = ADDED[name]
    kernel = dense(value, result=result)
    program = run(kernel, first_fit(kernel, targets()["ascend:910b3"]), {"M": 70})
    ways = [s for s in statements(program.body) if isinstance(s, Instruction) and s.op == "fixpipe"]
    assert [bool(s.parameter("add")) for s in ways] == [on_the_way] * len(ways)
    assert any(b.workspace for b in program.buffers) != on_the_way


@pytest.mark.parametrize("rows", [1, 17, 70, 130])
def test_a_residual_beside_rows_that_come_before_the_columns(rows: int) -> None:
    """Two sums of one tile, each added to rows of its own; the second in two panes of which the first is lower."""
    kernel = dense("f16(acc[m, n]) + bias[n] + R[m, n]", n=96)
    loops = (Loop("m", 80, "block"), Loop("n", 96, "block"), Loop("n", 64))
    extra = (("panes", 2), ("lead", 16), ("height", 48))
    schedule = Schedule(loops, (Loop("k", 32, "pipeline"),), packs=(fractals("B", 80, 96),), extra=extra)
    program = run(kernel, schedule, {"M": rows})
    ways = [s for s in statements(program.body) if isinstance(s, Instruction) and s.op == "fixpipe"]
    assert [s.parameter("add") for s in ways] == [1, 1]


def test_an_infinite_residual_stays_in_its_lane() -> None:
    kernel = dense("f16(acc[m, n]) + bias[n] + R[m, n]")
    target = targets()["ascend:910b3"]
    trial = Trial(kernel, first_fit(kernel, target), {"M": 40})
    values = trial.inputs()
    values["R"][3, 5] = np.inf
    got = check(place(apply(kernel, trial.schedule), target), values, {"M": 40}).outputs["C"]
    assert np.isposinf(got[3, 5])
    assert np.isfinite(np.delete(got.reshape(-1).astype(np.float32), 3 * got.shape[1] + 5)).all()


def test_rows_stay_in_l1_for_the_columns_beside() -> None:
    """Three pieces of depth in three slots; the second and third turn over columns bring in no rows."""
    kernel = dense("f16(acc[m, n])", n=96)
    loops = (Loop("m", 32, "block"), Loop("n", 96, "block"), Loop("n", 32))
    schedule = Schedule(loops, (Loop("k", 32, "pipeline"),), packs=(fractals("B", 80, 96),))
    program = run(kernel, schedule, {"M": 70})
    assert program.buffer("A_l1").slots == 3
    (load,) = [s for s in statements(program.body) if isinstance(s, Instruction) and s.op == "nd2nz"]
    turn = next(x for x in load.dst.rows.symbols if x.startswith("n"))  # type: ignore[union-attr]
    block = {"_block": 0, "M": 70, "k0": 0}
    assert [load.dst.rows.evaluate({**block, turn: n}) for n in (0, 32, 64)] == [32, 0, 0]  # type: ignore[union-attr]


def test_a_product_of_differences_is_the_hosts() -> None:
    """Integers less a zero point of the run, times weights that the schedules would pack."""
    kernel = parse_kernel("""
@kernel
def integers(A: u8[M, 5], B: const[i8[5, 7]], Z: u8[1], C: out[i32[M, 7]]):
    where(1 <= M <= 64)
    m: M
    n: 7
    k: 5
    acc[m, n] = sum(k, (i32(A[m, k]) - i32(Z[0])) * i32(B[k, n]))
    C[m, n] = acc[m, n]
""")
    told = AscendBackend().supports(kernel, targets()["ascend:910b1"])
    assert not told.ok and "an operand of its product is a difference" in told.reason


@pytest.mark.parametrize("depth", [8, 24, 33])
def test_packed_columns_of_32_bits_end_with_both_fractals(depth: int) -> None:
    """Eight columns are a fractal in L1, sixteen rows one in L0B: a load reads as many as both need."""
    kernel = parse_kernel(f"""
@kernel
def dense(A: f32[M, {depth}], B: const[f32[{depth}, 20]], C: out[f32[M, 20]]):
    where(1 <= M <= 64)
    m: M
    n: 20
    k: {depth}
    acc[m, n] = sum(k, A[m, k] * B[k, n])
    C[m, n] = acc[m, n]
""")
    for schedule in islice(schedules(kernel, targets()["ascend:910b3"]), 4):
        run(kernel, schedule, {"M": 7})


def test_candidates_come_by_rising_estimate_and_place() -> None:
    kernel = dense("f16(acc[m, n])", n=768)
    define = next(s for s in kernel.body if isinstance(s, Define))
    product = as_product(define)
    assert product is not None
    target = targets()["ascend:910b3"]
    found = list(product_schedules(kernel, define, product, target))
    assert len(found) == len(set(found)) > 5
    for schedule in found[:3]:
        for b in place(apply(kernel, schedule), target).buffers:
            assert b.scope == "gm" or b.end <= target.memory[b.scope].size


def test_an_operand_without_a_contiguous_axis_is_refused() -> None:
    kernel = parse_kernel("""
@kernel
def strided(A: f16[M, 64, 2], B: const[f16[64, 32]], C: out[f16[M, 32]]):
    where(1 <= M <= 64)
    m: M
    n: 32
    k: 64
    acc[m, n] = sum(k, f32(A[m, k, 0]) * f32(B[k, n]))
    C[m, n] = f16(acc[m, n])
""")
    with pytest.raises(UnsupportedError, match="contiguous") as refused:
        first_fit(kernel, targets()["ascend:910b3"])
    assert refused.value.code == "ascend-strided-operand"


def test_gelu_is_exact_to_a_millionth() -> None:
    kernel = parse_kernel("""
@kernel
def gelu(X: f32[M, 64], Y: out[f32[M, 64]]):
    where(1 <= M <= 512)
    m: M
    n: 64
    Y[m, n] = X[m, n] * f32(0.5) * (erf(X[m, n] * f32(0.7071067811865476)) + f32(1.0))
""")
    x = np.linspace(-20, 20, 64 * 30, dtype=np.float32).reshape(30, 64)
    x[0, :4] = [np.inf, -np.inf, np.nan, -0.0]
    target = targets()["ascend:910b3"]
    program = place(apply(kernel, first_fit(kernel, target)), target)
    got = check(program, {"X": x}, {"M": 30}).outputs["Y"].reshape(-1)
    assert got[0] == np.inf and abs(got[1]) < 1e-30 and np.isnan(got[2]) and got[3] == 0
    want = np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x.reshape(-1)[4:].astype(float)])
    assert np.abs(got[4:] - want).max() < 1e-6 * 20


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_a_gelu_of_16_bits_is_off_by_its_rounding_and_a_little(dtype: str) -> None:
    kernel = parse_kernel(f"""
@kernel
def gelu(X: f32[M, 64], Y: out[{dtype}[M, 64]]):
    where(1 <= M <= 512)
    m: M
    n: 64
    Y[m, n] = {dtype}(X[m, n] * f32(0.5) * (erf(X[m, n] * f32(0.7071067811865476)) + f32(1.0)))
""")
    x = np.linspace(-20, 20, 64 * 60, dtype=np.float32).reshape(60, 64)
    x[0, :5] = [np.inf, 1e30, np.nan, -0.0, -1e30]
    target = targets()["ascend:910b3"]
    program = place(apply(kernel, first_fit(kernel, target)), target)
    got = check(program, {"X": x}, {"M": 60}).outputs["Y"].reshape(-1).astype(np.float64)
    assert got[0] == got[1] == np.inf or got[1] > 9e29
    assert np.isnan(got[2]) and got[3] == got[4] == 0
    with mpmath.workdps(30):
        want = np.array([float(v * mpmath.ncdf(v)) for v in map(mpmath.mpf, x.reshape(-1)[5:].tolist())])
    half = np.abs(want) * (2.0**-11 if dtype == "f16" else 2.0**-8) + 2.0**-25
    assert (np.abs(got[5:] - want) - half).max() < 2.6e-5


@pytest.mark.parametrize(
    ("text", "length", "step"), [("m // 20", 20, 0), ("m % 5", 5, 1), ("3*(m % 5) + 2", 5, 3), ("(m // 5) % 4", 5, 0)]
)
def test_runs_of_a_merged_axis(text: str, length: int, step: int) -> None:
    m = symbol("m")
    index = {"m // 20": m // 20, "m % 5": m % 5, "3*(m % 5) + 2": m % 5 * 3 + 2, "(m // 5) % 4": m // 5 % 4}[text]
    assert run_length((index,), "m") == length and slope(index, "m") == step


def test_what_is_no_run() -> None:
    m = symbol("m")
    assert run_length((m * 2,), "m") == 0 and slope(m * 2, "m") == 2
    assert run_length(((m * 2 + 1) // 3,), "m") is None and run_length((m // symbol("D"),), "m") is None
    assert run_length((m // 6, m % 4), "m") == 2 and slope(constant(3), "m") == 0


def test_blocks_as_many_as_there_are_on_fewer_groups() -> None:
    """Which group takes which block changes no bit."""
    kernel, dims, _ = CASES["bias, and more"]
    target = targets()["ascend:910b3"]
    schedule = replace(first_fit(kernel, target), loops=(Loop("m", 16, "block"), Loop("n", 16, "block")))
    trial = Trial(kernel, schedule, dims)
    program = place(apply(kernel, schedule), target)
    runs = [check(program, trial.inputs(), dims, groups).outputs["C"] for groups in (1, 3, 7)]
    for other in runs[1:]:
        np.testing.assert_array_equal(other, runs[0])
