"""Scheduled trees compute what the lowered kernel says, under any schedule; their shape is as asked."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tilewright.ir.symbolic import constant
from tilewright.kernel.analysis import as_product, block_body, grid
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered, run_scheduled
from tilewright.kernel.pack import blocked, pack_constant, packed_params
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.print import print_scheduled
from tilewright.kernel.schedule import Alloc, Compute, For, Loop, Schedule, ScheduleError, Stage, Write
from tilewright.kernel.scope import visit
from tilewright.kernel.tile import Define, Kernel

from tests.kernel.trial_cases import CASES, SCHEDULES, TOLERANCE, error, scheduled_cases
from tests.kernel.trial_kernels import TRIALS, conv3x3_residual_relu, flash_attention, matmul_bias_gelu, row_softmax


@pytest.mark.parametrize(("name", "schedule"), scheduled_cases())
def test_scheduled_equals_lowered(name: str, schedule: str) -> None:
    kernel = TRIALS[name]()
    x = CASES[name][0]()
    tree = apply(kernel, SCHEDULES[name.split("-", maxsplit=1)[0]][schedule])
    expected, results = run_lowered(kernel, x), run_scheduled(tree, x)
    for key, array in results.items():
        assert error(array, expected[key]) < TOLERANCE[str(array.dtype)]


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8, 9, 31])
@pytest.mark.parametrize("schedule", ["cpu", "cpu-ragged", "triton", "divides"])
def test_a_symbolic_size_runs_at_any_value(rows: int, schedule: str) -> None:
    kernel = TRIALS["matmul"]()
    x = CASES["matmul"][0]()
    x["A"] = np.random.default_rng(rows).standard_normal((rows, 20)).astype(np.float32)
    result = run_scheduled(apply(kernel, SCHEDULES["matmul"][schedule]), x)["C"]
    assert error(result, CASES["matmul"][1](x)["C"]) < TOLERANCE["float32"]


def text_of(kernel: Kernel, schedule: Schedule) -> str:
    return print_scheduled(apply(kernel, schedule))


def test_row_statistics_stand_outside_the_loop_over_columns() -> None:
    text = text_of(row_softmax(), SCHEDULES["softmax"]["tiled"])
    assert text == (
        "@scheduled(row_softmax)\n"
        "def _():\n"
        "    for m from m0 in block(0, M, 2):\n"
        "        top: f32[m from m0: 2]\n"
        "        top[...] = f32(-inf)\n"
        "        for n from n0 in pipeline(0, N, 8):\n"
        "            top[m] max= max(n, X[m, n])  ?m ?n\n"
        "        e: f32[m from m0: 2, n: N]\n"
        "        e[m, n] = exp(X[m, n] - top[m])  ?m\n"
        "        total: f32[m from m0: 2]\n"
        "        total[...] = f32(0.0)\n"
        "        for n from n1 in pipeline(0, N, 8):\n"
        "            total[m] sum= sum(n, e[m, n])  ?n\n"
        "        for n from n2 in tile(0, N, 8):\n"
        "            Y[m, n] = e[m, n] / total[m]  ?m ?n\n"
    )


def test_a_matmul_for_a_cpu() -> None:
    schedule = Schedule(
        loops=(Loop("n", 128, "block"), Loop("m", 14, "block", balanced=True), Loop("n", 32)),
        reduce=(Loop("k", 1, "pipeline"),),
        stages=(Stage("A", 2, "l1", 16),),
        packs=(blocked("B", (constant(768), constant(768)), 1, 32),),
    )
    assert text_of(matmul_bias_gelu(), schedule) == (
        "@scheduled(matmul_bias_gelu)\n"
        "def _():\n"
        "    layout(B, [d1 // 32, d0, d1 % 32], [24, 768, 32])\n"
        "    for n from n0 in block(0, 768, 128):\n"
        "        for m from m0 in block(0, M, 14, balanced):\n"
        "            A_l1: f32[m from m0: 14, k: 768] @ l1 pad 16\n"
        "            A_l1[m, k] = A[m, k]  ?m\n"
        "            for n from n1 in tile(n0, n0 + 128, 32):\n"
        "                acc: f32[m from m0: 14, n from n1: 32]\n"
        "                acc[...] = f32(0.0)\n"
        "                for k from k0 in pipeline(0, 768, 1):\n"
        "                    acc[m, n] sum= sum(k, A_l1[m, k] * B[n // 32, k, n % 32])\n"
        "                y: f32[m from m0: 14, n from n1: 32]\n"
        "                y[m, n] = acc[m, n] + bias[n]\n"
        "                C[m, n] = y[m, n] * f32(0.5) * (f32(1.0) + erf(y[m, n] * f32(0.7071067811865476)))  ?m\n"
    )


def test_an_operand_is_computed_inside_the_reduction_that_alone_needs_it() -> None:
    kernel = parse_kernel("""
@kernel
def dequantized(A: f32[M, 64], Q: const[i8[64, 32]], scale: const[f32[32]], C: out[f32[M, 32]]):
    where(1 <= M <= 64)
    m: M
    n: 32
    k: 64
    w[k, n] = f32(Q[k, n]) * scale[n]
    acc[m, n] = sum(k, A[m, k] * w[k, n])
    C[m, n] = acc[m, n]
""")
    loops = (Loop("m", 8, "block"), Loop("n", 16, "block"))
    tree = apply(kernel, Schedule(loops=loops, reduce=(Loop("k", 8, "pipeline"),)))
    where = {n.tile.name: [x.var for x in s.loops] for n, s in visit(tree) if isinstance(n, Alloc)}
    assert where == {"acc": ["m0", "n0"], "w": ["m0", "n0", "k0"]}
    r = np.random.default_rng(0)
    x = {
        "A": r.standard_normal((9, 64)).astype(np.float32),
        "Q": r.integers(-128, 127, (64, 32)).astype(np.int8),
        "scale": r.standard_normal(32).astype(np.float32),
    }
    assert error(run_scheduled(tree, x)["C"], run_lowered(kernel, x)["C"]) < TOLERANCE["float32"]


def test_stores_over_different_axes_get_loops_of_their_own_inside_shared_blocks() -> None:
    kernel = parse_kernel("""
@kernel
def concat(X: f32[M, 24], Z: f32[M, 40], Y: out[f32[M, 64]], S: out[f32[M]]):
    where(1 <= M <= 64)
    m: M
    p: 24
    q: 40
    total[m] = sum(p, X[m, p])
    Y[m, p] = X[m, p] / total[m]
    Y[m, q + 24] = Z[m, q]
    S[m] = total[m]
""")
    tree = apply(kernel, Schedule(loops=(Loop("m", 4, "block"), Loop("p", 16), Loop("q", 16))))
    assert [len(s.loops) for n, s in visit(tree) if isinstance(n, Write)] == [2, 2, 1]
    r = np.random.default_rng(0)
    x = {n: 1 + r.random((9, size)).astype(np.float32) for n, size in (("X", 24), ("Z", 40))}
    results, expected = run_scheduled(tree, x), run_lowered(kernel, x)
    for name in ("Y", "S"):
        assert error(results[name], expected[name]) < TOLERANCE["float32"]


def test_blocks_compute_for_themselves_what_depends_on_fewer_axes() -> None:
    kernel = parse_kernel("""
@kernel
def scaled(X: f32[M, N], s: f32[M], Y: out[f32[M, N]]):
    where(1 <= M <= 64, 1 <= N <= 64)
    m: M
    n: N
    inverse[m] = reciprocal(s[m])
    Y[m, n] = X[m, n] * inverse[m]
""")
    loops = (Loop("m", 4, "block"), Loop("n", 4, "block"))
    tree = apply(kernel, Schedule(loops=loops))
    assert [[x.var for x in s.loops] for n, s in visit(tree) if isinstance(n, Alloc)] == [["m0", "n0"]]
    assert len(grid(tree)) == 2
    outside = parse_kernel("""
@kernel
def both(X: f32[M, N], s: f32[M], Y: out[f32[M, N]], Z: out[f32[M]]):
    where(1 <= M <= 64, 1 <= N <= 64)
    m: M
    n: N
    inverse[m] = reciprocal(s[m])
    Y[m, n] = X[m, n] * inverse[m]
    Z[m] = inverse[m]
""")
    with pytest.raises(ScheduleError, match="inside a block loop and outside it"):
        apply(outside, Schedule(loops=loops))


@pytest.mark.parametrize(
    ("index", "legal"), [("8*h + d", True), ("2*h", True), ("h + d", False), ("h*h + d", False), ("8*h + 2*d", False)]
)
def test_what_can_be_staged(index: str, legal: bool) -> None:
    kernel = parse_kernel(f"""
@kernel
def heads(X: f32[M, 200], Y: out[f32[M, 4, 8]]):
    where(1 <= M <= 64)
    m: M
    h: 4
    d: 8
    Y[m, h, d] = X[m, {index}] * f32(2.0)
""")
    schedule = Schedule(loops=(Loop("m", 2, "block"), Loop("h", 3), Loop("d", 3)), stages=(Stage("X", 1, "l1"),))
    x = {"X": np.random.default_rng(0).standard_normal((5, 200)).astype(np.float32)}
    if not legal:
        with pytest.raises(ScheduleError, match="cannot be staged"):
            apply(kernel, schedule)
        return
    np.testing.assert_array_equal(run_scheduled(apply(kernel, schedule), x)["Y"], run_lowered(kernel, x)["Y"])


def test_grid_and_roles() -> None:
    blocks = tuple(Loop(a, n, "block") for a, n in (("b", 1), ("h", 1), ("i", 64)))
    tree = apply(flash_attention(), Schedule(loops=blocks, reduce=(Loop("t", 32, "pipeline"),)))
    assert [(a, v, str(n)) for a, v, n in grid(tree)] == [
        ("b", "b0", "B"),
        ("h", "h0", "H"),
        ("i", "i0", "(S + 63) // 64"),
    ]
    assert not any(isinstance(n, For) and n.kind == "block" for n in block_body(tree))
    products = [p for n, _ in visit(tree) if isinstance(n, Compute) and (p := as_product(n))]
    assert [(p.batch, p.m, p.n, p.k) for p in products] == [
        (("b", "h"), ("i",), ("t",), ("e",)),
        (("b", "h"), ("i",), ("d",), ("t",)),
    ]
    conv = [p for d in conv3x3_residual_relu().body if isinstance(d, Define) and (p := as_product(d))]
    assert [(p.batch, p.m, p.n, p.k) for p in conv] == [((), ("b", "oh", "ow"), ("o",), ("kh", "kw", "c"))]


def test_a_loop_with_one_iteration_leaves_no_variable() -> None:
    tree = apply(matmul_bias_gelu(k=20, n=36), Schedule(loops=(Loop("m", 8, "block"), Loop("n", 64, "block"))))
    assert "n0" not in re.sub(r"for n from n0", "", print_scheduled(tree))


def test_packing_fills_up_with_zeros() -> None:
    array = np.arange(1, 16, dtype=np.float32).reshape(3, 5)
    pack = blocked("B", (constant(3), constant(5)), 1, 4)
    packed = pack_constant(array, pack)
    assert packed.shape == (2, 3, 4)
    np.testing.assert_array_equal(packed[0], array[:, :4])
    np.testing.assert_array_equal(packed[1], np.pad(array[:, 4:], ((0, 0), (0, 3))))
    tree = apply(TRIALS["matmul"](), SCHEDULES["matmul"]["cpu"])
    assert [str(e) for e in packed_params(tree)[1].shape] == ["5", "20", "8"]


ILLEGAL = {
    "loop over a reduced axis": ("matmul", Schedule(loops=(Loop("k", 4),)), "no axis of an output"),
    "reduction over a free axis": ("matmul", Schedule(reduce=(Loop("m", 4),)), "not reduced or scanned"),
    "size zero": ("matmul", Schedule(loops=(Loop("m", 0),)), "size 0"),
    "block inside tile": ("matmul", Schedule(loops=(Loop("m", 4), Loop("n", 4, "block"))), "block loop inside"),
    "reduced axis cut outside": ("softmax", Schedule(loops=(Loop("n", 8), Loop("m", 4))), "needs all of axis n"),
    "whole too small": ("softmax", Schedule(extra=(("whole:n", 512),)), "may be longer"),
    "inlined reduction": ("matmul", Schedule(spaces=(("acc", "inline"),)), "cannot be inlined"),
    "inlined carry": ("attention", Schedule(spaces=(("o2", "inline"),)), "cannot be inlined"),
    "pack of an input": ("matmul", Schedule(packs=(blocked("A", (constant(1), constant(20)), 1, 4),)), "no constant"),
    "block over a reduced axis": (
        "softmax",
        Schedule(loops=(Loop("m", 4, "block"), Loop("n", 8, "block"))),
        "needs all of axis n",
    ),
    "stage outside a block": (
        "matmul",
        Schedule(loops=(Loop("m", 4, "block"), Loop("n", 4, "block")), stages=(Stage("A", 1, "l1"),)),
        "staged outside a block loop",
    ),
    "stage by a window": ("conv", Schedule(stages=(Stage("X", 0, "l1"),)), "plain axes only"),
    "stage of nothing": ("matmul", Schedule(stages=(Stage("A", 3, "l1"),)), "nothing to stage"),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_schedules_that_a_kernel_does_not_allow(case: str) -> None:
    kernel, schedule, cause = ILLEGAL[case]
    with pytest.raises(ScheduleError, match=cause) as caught:
        apply(TRIALS[kernel](), schedule)
    assert caught.value.code == "schedule-illegal"
