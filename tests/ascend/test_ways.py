"""Each instruction by each way through the memories is run once, by the simulator and as Ascend C: the same bits.

What the placing, or the programs of one instruction, never make is placed by hand here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from tilewright.backends.ascend.placed.form import (
    GROUP,
    GROUPS,
    SUBBLOCK,
    Block,
    Buffer,
    Instruction,
    Loop,
    Node,
    Operand,
    Placed,
    View,
    statements,
)
from tilewright.backends.ascend.placed.instructions import INSTRUCTIONS
from tilewright.backends.ascend.placed.layout import SCOPE_LAYOUT, round_up
from tilewright.backends.ascend.placing.frame import BLOCK_LOOP
from tilewright.backends.ascend.simulator.machine import check
from tilewright.backends.ascend.synchronization.synchronize import synchronize
from tilewright.ir.symbolic import ZERO, as_expr, constant
from tilewright.ir.types import DType
from tilewright.kernel.tile import Kernel, Param

from tests.ascend import test_emit_instructions
from tests.ascend.modelled import Modelled, build, same_bits
from tests.ascend.trials import TRIALS, placed, targets

Array = np.ndarray[Any, Any]
F32, F16, BF16, I32, I8, U64 = DType.F32, DType.F16, DType.BF16, DType.I32, DType.I8, DType.U64
M, K, N = 32, 64, 32
SPLIT, FUSED = "ascend:910b3", "ascend:310p3"


@dataclass(frozen=True)
class Way:
    """A program of constant sizes, and what it is run on."""

    placed: Placed
    inputs: Mapping[str, Array]


def at(buffer: str, *dims: tuple[int, int], offset: int = 0) -> View:
    return View(buffer, constant(offset), tuple((constant(n), constant(s)) for n, s in dims))


def block(buffer: str, rows: int, columns: int, whole: bool = False) -> Block:
    return Block(buffer, ZERO, ZERO, constant(rows), constant(columns), whole=whole)


def step(op: str, dst: View | Block, *srcs: Operand, turn: bool = False, **parameters: Any) -> Instruction:
    kind = INSTRUCTIONS[op]
    core = "vector" if kind.pipe in ("V", "MTE3") or op == "copy_in" else "cube"
    return Instruction(op, core, kind.pipe, dst, srcs, transpose=turn, parameters=tuple(parameters.items()))  # type: ignore[arg-type]


def way(
    name: str,
    target: str,
    params: Mapping[str, tuple[DType, tuple[int, ...]]],
    buffers: Mapping[str, tuple[str, DType, tuple[int, ...]] | tuple[str, DType, tuple[int, ...], str]],
    body: Sequence[Instruction],
    inputs: Mapping[str, Array] | None = None,
) -> Way:
    """One block of work; the parameter ``Y`` is the output."""
    found, fused = targets()[target], target == FUSED
    random = np.random.default_rng(len(name))
    sizes = {p: tuple(map(constant, shape)) for p, (_, shape) in params.items()}
    listed = tuple(Param(p, d, sizes[p], "out" if p == "Y" else "in") for p, (d, _) in params.items())
    given = [Buffer(p.name, "gm", p.dtype, p.shape) for p in listed]
    ends: dict[str, int] = {}
    for b, (scope, dtype, shape, *layout) in buffers.items():
        start = round_up(ends.get(scope, 0), max(32, int(found.extra["alignment"][scope])))
        core = "vector" if fused or scope == "ub" else "cube"
        local = tuple(map(constant, shape))
        laid = str(layout[0]) if layout else SCOPE_LAYOUT[scope]  # type: ignore[index]
        given.append(Buffer(b, scope, dtype, local, laid, start, core=core))  # type: ignore[arg-type]
        ends[scope] = given[-1].end
    nodes: list[Node] = [replace(n, core="vector") if fused else n for n in body]
    alone = not fused and all(n.core == "vector" for n in body)
    first, turn = (2 * GROUP + SUBBLOCK, 2 * GROUPS) if alone else (as_expr(GROUP), as_expr(GROUPS))
    loop = Loop(BLOCK_LOOP, first, constant(1), turn, tuple(nodes))
    program = Placed(Kernel(name, listed, (), (), ()), found, tuple(given), (loop,), constant(1))
    values = {p.name: _values(p.dtype, params[p.name][1], random) for p in listed if p.role != "out"}
    return Way(synchronize(program), {**values, **(inputs or {})})


def _values(dtype: DType, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    if dtype.is_float:
        return random.standard_normal(shape).astype(dtype.numpy)
    return random.integers(-100, 100, shape).astype(dtype.numpy)


def product(dtype: DType, depth: int = K) -> tuple[dict[str, Any], dict[str, Any], list[Instruction]]:
    """A (M × depth) times B (N × depth, turned) into ``c0``."""
    sums = I32 if dtype is I8 else F32
    params = {"A": (dtype, (M, depth)), "B": (dtype, (N, depth))}
    buffers = {
        "a1": ("l1", dtype, (M, depth)),
        "b1": ("l1", dtype, (N, depth)),
        "a0": ("l0a", dtype, (M, depth)),
        "b0": ("l0b", dtype, (depth, N)),
        "c0": ("l0c", sums, (M, N)),
    }
    body = [
        step("nd2nz", block("a1", M, depth), at("A", (M, depth), (depth, 1))),
        step("nd2nz", block("b1", N, depth), at("B", (N, depth), (depth, 1))),
        step("load", block("a0", M, depth, True), block("a1", M, depth, True)),
        step("load", block("b0", depth, N, True), block("b1", N, depth, True), turn=True),
        step("mmad", block("c0", M, N), block("a0", M, depth), block("b0", depth, N)),
    ]
    return params, buffers, body


def scaled(result: DType, through: str) -> Way:
    """Sums of bytes times a scale a channel, to global memory or to L1 and through one more product."""
    params, buffers, body = product(I8)
    scale = np.random.default_rng(3).random(N).astype(np.float32) * 0.01
    words = scale.view(np.uint32).astype(np.uint64) | (np.uint64(1) << np.uint64(46) if result is I8 else np.uint64(0))
    params |= {"S": (U64, (N,)), "Y": (result if through == "gm" else I32, (M, N))}
    buffers |= {"s1": ("l1", U64, (N,), "ND"), "s0": ("fb", U64, (N,))}
    row = ((N, 1),)
    body = [step("copy_nz", at("s1", *row), at("S", *row)), step("load_scales", at("s0", *row), at("s1", *row)), *body]
    quant = "requant" if result is I8 else "deq"
    if through == "gm":
        body.append(step("fixpipe", at("Y", (M, N), (N, 1)), block("c0", M, N), at("s0", *row), quant=quant))
    else:
        buffers |= {"c1": ("l1", result, (M, N)), "e0": ("l0a", result, (M, N)), "d0": ("l0c", I32, (M, N))}
        buffers |= {"f1": ("l1", result, (N, N)), "f0": ("l0b", result, (N, N))}
        params["F"] = (result, (N, N))
        body += [
            step("fixpipe", block("c1", M, N), block("c0", M, N), at("s0", *row), quant=quant),
            step("nd2nz", block("f1", N, N), at("F", (N, N), (N, 1))),
            step("load", block("e0", M, N, True), block("c1", M, N, True)),
            step("load", block("f0", N, N, True), block("f1", N, N, True), turn=True),
            step("mmad", block("d0", M, N), block("e0", M, N), block("f0", N, N)),
            step("fixpipe", at("Y", (M, N), (N, 1)), block("d0", M, N)),
        ]
    return way(f"scaled_{result}_{through}", SPLIT, params, buffers, body, {"S": words})


def kept() -> Way:
    """Sums that go to L1 as f16 and are multiplied once more."""
    params, buffers, body = product(F16)
    params |= {"F": (F16, (N, N)), "Y": (F32, (M, N))}
    buffers |= {"c1": ("l1", F16, (M, N)), "e0": ("l0a", F16, (M, N)), "d0": ("l0c", F32, (M, N))}
    buffers |= {"f1": ("l1", F16, (N, N)), "f0": ("l0b", F16, (N, N))}
    body += [
        step("fixpipe", block("c1", M, N), block("c0", M, N)),
        step("nd2nz", block("f1", N, N), at("F", (N, N), (N, 1))),
        step("load", block("e0", M, N, True), block("c1", M, N, True)),
        step("load", block("f0", N, N, True), block("f1", N, N, True), turn=True),
        step("mmad", block("d0", M, N), block("e0", M, N), block("f0", N, N)),
        step("fixpipe", at("Y", (M, N), (N, 1)), block("d0", M, N)),
    ]
    return way("kept", SPLIT, params, buffers, body)


def fractals(dtype: DType) -> Way:
    """Sums that leave in fractals, as packed weights lie in global memory."""
    params, buffers, body = product(I8 if dtype in (I8, I32) else F16)
    c = 32 if dtype is I8 else 16
    params["Y"] = (dtype, (N // c, M, c))
    how = {"quant": "requant", "scale": 0.01} if dtype is I8 else {}
    body.append(step("fixpipe", at("Y", (N // c, M * c), (M, c), (c, 1)), block("c0", M, N), nz=1, **how))
    return way(f"fractals_{dtype}", SPLIT, params, buffers, body)


def added(result: DType) -> Way:
    """Sums that are added to what vector cores have copied to global memory, NaN, infinity and zeros among it."""
    params, buffers, body = product(I8 if result is I32 else F16)
    params |= {"R": (result, (M, N)), "Y": (result, (M, N))}
    buffers["u"] = ("ub", result, (M // 2, N))
    half, own = at("u", (M // 2, N), (N, 1)), SUBBLOCK * (M // 2 * N)
    body += [
        step("copy_in", half, replace(half, buffer="R", offset=own)),
        step("copy_out", replace(half, buffer="Y", offset=own), half),
        step("fixpipe", at("Y", (M, N), (N, 1)), block("c0", M, N), add=1),
    ]
    values = _values(result, (M, N), np.random.default_rng(5))
    if result.is_float:
        values[0, :4] = [np.inf, -np.inf, np.nan, -0.0]
    return way(f"added_{result}", SPLIT, params, buffers, body, {"R": values})


PLANES = ((N // 16, 16 * M), (M, 16), (16, 1))


def drained(sums: DType, result: DType) -> Way:
    """Sums of a fused core in its unified buffer, and out."""
    params, buffers, body = product(I8 if sums is I32 else F16)
    params["Y"] = (result, (M, N))
    buffers["u"] = ("ub", result, (N // 16, M, 16))
    how = {"scale": 0.01} if (sums, result) == (I32, F16) else {}
    body.append(step("drain", at("u", *PLANES), block("c0", M, N), **how))
    body.append(step("copy_out", at("Y", (N // 16, 16), (M, N), (16, 1)), at("u", *PLANES)))
    return way(f"drained_{sums}_{result}", FUSED, params, buffers, body)


def back() -> Way:
    """Rows of the unified buffer of a fused core into L1, and multiplied there."""
    params, buffers, body = product(F16, depth=N)
    params |= {"Y": (F32, (M, N))}
    buffers |= {"x": ("ub", F16, (M, N)), "u": ("ub", F32, (N // 16, M, 16))}
    body[0] = step("copy_in", at("x", (M, N), (N, 1)), at("A", (M, N), (N, 1)))
    body.insert(1, step("ub2l1", block("a1", M, N), at("x", (M, N), (N, 1))))
    body.append(step("drain", at("u", *PLANES), block("c0", M, N)))
    body.append(step("copy_out", at("Y", (N // 16, 16), (M, N), (16, 1)), at("u", *PLANES)))
    return way("back", FUSED, params, buffers, body)


def windows(dtype: DType) -> Way:
    """A convolution of 3 × 3 with stride 2 and a border of zeros: windows on the way to L0A."""
    c, (high, wide), rows = 32 * 8 // dtype.bits, (8, 16), 4 * 8
    depth = 9 * c
    params = {
        "X": (dtype, (1, high * wide, c)),
        "B": (dtype, (N, depth)),
        "Y": (I32 if dtype is I8 else F32, (rows, N)),
    }
    buffers = {
        "x1": ("l1", dtype, (high * wide, c), "NC1HWC0"),
        "b1": ("l1", dtype, (N, depth)),
        "a0": ("l0a", dtype, (rows, depth)),
        "b0": ("l0b", dtype, (depth, N)),
        "c0": ("l0c", params["Y"][0], (rows, N)),
    }
    image: dict[str, Any] = {"kernel": (3, 3), "stride": (2, 2), "dilation": (1, 1), "pads": (1, 1, 0, 0)}
    image |= {"image": (high, wide), "first": 0, "column": 0}
    body = [
        step("copy_nz", block("x1", high * wide, c), at("X", (1, high * wide * c), (high * wide, c), (c, 1))),
        step("nd2nz", block("b1", N, depth), at("B", (N, depth), (depth, 1))),
        step("load_image", block("a0", rows, depth, True), block("x1", high * wide, c, True), **image),
        step("load", block("b0", depth, N, True), block("b1", N, depth, True), turn=True),
        step("mmad", block("c0", rows, N), block("a0", rows, depth), block("b0", depth, N)),
        step("fixpipe", at("Y", (rows, N), (N, 1)), block("c0", rows, N)),
    ]
    return way(f"windows_{dtype}", SPLIT, params, buffers, body)


def moved(op: str, target: str) -> Way:
    """Elements through offsets, and a matrix turned."""
    params = {"X": (F16, (M, N)), "Y": (F16, (N, M) if op == "transpose" else (M, N))}
    buffers = {"x": ("ub", F16, (M, N)), "y": ("ub", F16, (N, M))}
    body = [step("copy_in", at("x", (M, N), (N, 1)), at("X", (M, N), (N, 1)))]
    given: dict[str, Array] = {}
    if op == "gather":
        params["I"] = (I32, (M * N,))
        buffers["i"] = ("ub", I32, (M * N,))
        body.append(step("copy_in", at("i", (M * N, 1)), at("I", (M * N, 1))))
        body.append(step("gather", at("y", (M * N, 1)), at("x", (M * N, 1)), at("i", (M * N, 1))))
        body.append(step("copy_out", at("Y", (M * N, 1)), at("y", (M * N, 1))))
        given["I"] = (2 * np.random.default_rng(5).permutation(M * N)).astype(np.int32)
    else:
        body.append(step("transpose", at("y", (N, M), (M, 1)), at("x", (M, N), (N, 1))))
        body.append(step("copy_out", at("Y", (N, M), (M, 1)), at("y", (N, M), (M, 1))))
    return way(f"{op}_{target.partition(':')[2]}", target, params, buffers, body, given)


@lru_cache(maxsize=1)
def ways() -> Mapping[str, Way]:
    made = [
        *(scaled(t, "gm") for t in (I8, F16)),
        scaled(I8, "l1"),
        kept(),
        *(added(t) for t in (F16, BF16, F32, I32)),
        *(fractals(t) for t in (F16, F32, I8, I32)),
        *(drained(*pair) for pair in ((F32, F32), (F32, F16), (I32, I32), (I32, F16))),
        back(),
        *(windows(t) for t in (F16, I8)),
        *(moved(op, t) for op in ("gather", "transpose") for t in (SPLIT, FUSED)),
    ]
    return {w.placed.kernel.name: w for w in made}


@lru_cache(maxsize=2)
def library(fused: bool) -> Modelled:
    return build([w.placed for w in ways().values() if ("split" not in w.placed.target.features) == fused], level="-O0")


@pytest.mark.parametrize("name", ways())
def test_bits(name: str) -> None:
    w = ways()[name]
    want = check(w.placed, w.inputs, {}, groups=1).outputs["Y"]
    got, _ = library("split" not in w.placed.target.features).run(w.placed, w.inputs, {}, groups=1)
    assert same_bits(got["Y"], want)
    assert np.any(want != 0)


@pytest.mark.parametrize("dtype", [F16, BF16, F32, I32])
def test_an_addition_on_the_way_out_rounds_the_sum_and_then_once_more(dtype: DType) -> None:
    """Against NumPy: the sum as it leaves, then one addition in f32, each rounded once; no lane touches another."""
    w = ways()[f"added_{dtype}"]
    wide = np.int64 if dtype is I32 else np.float64
    sums = w.inputs["A"].astype(wide) @ w.inputs["B"].astype(wide).T
    got = check(w.placed, w.inputs, {}, groups=1).outputs["Y"]
    if dtype is I32:
        np.testing.assert_array_equal(got, (sums + w.inputs["R"]).astype(np.int32))
        return
    with np.errstate(invalid="ignore"):
        once = sums.astype(np.float32).astype(dtype.numpy)
        want = (once.astype(np.float32) + w.inputs["R"].astype(np.float32)).astype(dtype.numpy)
    # Sums of f32 may differ in their last bit, which moves few of the rounded ones.
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    assert same[0, :3].all()
    assert np.isfinite(got[0, 4:].astype(np.float32)).all()
    assert dtype is F32 or same.mean() > 0.99
    finite = np.isfinite(want.astype(np.float32))
    np.testing.assert_allclose(got.astype(np.float64)[finite], want.astype(np.float64)[finite], rtol=1e-2, atol=1e-2)


def test_every_way_of_every_instruction_is_run() -> None:
    """Fails for an instruction, or a way of one through the memories, that no test of bits reaches."""
    programs = [*(s.placed for s in test_emit_instructions.cases().values()), *(placed(n) for n in TRIALS)]
    programs += [w.placed for w in ways().values()]
    reached: set[tuple[str, tuple[str, ...]]] = set()
    for p in programs:
        for n in statements(p.body):
            if isinstance(n, Instruction):
                reached.add((n.op, tuple(p.buffer(a.buffer).scope for a in (*n.reads, n.dst))))
    missing = {(op, w) for op, kind in INSTRUCTIONS.items() for w in kind.scopes} - reached
    assert not missing, missing


def test_windows_are_those_of_a_convolution() -> None:
    """Against sums written out: the way in is no function of its own."""
    w = ways()["windows_f16"]
    x, b = (w.inputs[n].astype(np.float64) for n in ("X", "B"))
    image = np.zeros((9, 17, 16))
    image[1:, 1:] = x[0].reshape(8, 16, 16)
    parts = [[image[2 * y : 2 * y + 3, 2 * z : 2 * z + 3].reshape(-1) for z in range(8)] for y in range(4)]
    wanted = np.asarray(parts).reshape(32, -1) @ b.T
    np.testing.assert_allclose(check(w.placed, w.inputs, {}, groups=1).outputs["Y"], wanted, rtol=1e-3, atol=1e-3)
