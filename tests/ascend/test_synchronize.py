"""The synchronisation pass on programs made at random: accepted for sizes it never saw, and with nothing to spare."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from tilewright.backends.ascend.placed.form import (
    Buffer,
    Flag,
    Instruction,
    Loop,
    Node,
    Placed,
    Scalar,
    View,
    statements,
    without_edge,
)
from tilewright.backends.ascend.placed.stream import issue
from tilewright.backends.ascend.placing.frame import with_slots
from tilewright.backends.ascend.placing.place import place_unsynchronized
from tilewright.backends.ascend.simulator.instruct import Memories, Moment
from tilewright.backends.ascend.simulator.machine import check
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.ascend.synchronization.candidate import candidates
from tilewright.backends.ascend.synchronization.dependence import dependences, sites
from tilewright.backends.ascend.synchronization.facts import facts_of
from tilewright.backends.ascend.synchronization.synchronize import synchronize
from tilewright.ir.symbolic import ZERO, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.apply import apply
from tilewright.kernel.parse import parse_kernel

from tests.ascend.trials import TRIALS, placed, targets

LANES = 16
KERNEL = parse_kernel("""
@kernel
def rows(X: f32[P, Q, 16], Y: out[f32[P, Q, 16]]):
    where(1 <= P <= 64, 1 <= Q <= 64)
    p: P
    q: Q
    n: 16
    Y[p, q, n] = X[p, q, n]
""")
TENSORS = tuple(Buffer(p.name, "gm", p.dtype, p.shape) for p in KERNEL.params)
PROBES = [{"P": p, "Q": q} for p, q in ((1, 1), (2, 2), (3, 3), (1, 5), (5, 1), (2, 3), (3, 2))]
SIZES = [{"P": p, "Q": q} for p, q in ((1, 1), (4, 7), (7, 4), (1, 9), (6, 1))]


def local(name: str, count: int = LANES) -> View:
    return View(name, ZERO, ((constant(count), constant(1)),))


def memory(name: str, loop: str) -> View:
    """Row (p, q) of a tensor inside the inner loop; row (p, 0) outside it."""
    row = symbol("p") * symbol("Q") + (symbol("q") if loop == "q" else 0)
    return View(name, row * LANES, ((constant(LANES), constant(1)),))


def random_program(seed: int) -> Placed:
    """Two loops; in each, loads and arithmetic between random buffers of one or two slots; a store in the inner one."""
    r = random.Random(seed)
    buffers = [
        Buffer(f"b{i}", "ub", DType.F32, (constant(LANES),), "ND", 128 * i, slots, loop if slots > 1 else None)
        for i, (slots, loop) in enumerate((r.choice([1, 2]), r.choice("pq")) for _ in range(4))
    ]
    out = Buffer("out", "ub", DType.F32, (constant(LANES),), "ND", 1024, 2, "q")
    written: list[str] = []

    def some(loop: str, count: int) -> list[Node]:
        nodes: list[Node] = []
        for _ in range(count):
            usable = [b.name for b in buffers if b.name in written]
            fits = [b for b in buffers if b.rotates in (None, loop) or (loop == "q" and b.rotates == "p")]
            if not fits:
                continue
            dst = r.choice(fits).name
            if not usable or r.random() < 0.4:
                nodes.append(Instruction("copy_in", "vector", "MTE2", local(dst), (memory("X", loop),)))
            else:
                a, b = local(r.choice(usable)), r.choice([local(r.choice(usable)), Scalar(0.5)])
                nodes.append(Instruction(r.choice(["add", "max"]), "vector", "V", local(dst), (a, b)))
            # A slot that another iteration wrote is no input of this one.
            if next(x for x in buffers if x.name == dst).rotates in (None, loop) and dst not in written:
                written.append(dst)
        return nodes

    before = some("p", r.randint(1, 3))
    outside = list(written)
    inside = some("q", r.randint(2, 5))
    source = local(r.choice(written or ["b0"]))
    inside.append(Instruction("add", "vector", "V", local("out"), (source, Scalar(1.0))))
    inside.append(Instruction("copy_out", "vector", "MTE3", memory("Y", "q"), (local("out"),)))
    written[:] = outside
    after = some("p", r.randint(0, 2))
    inner = Loop("q", ZERO, symbol("Q"), constant(1), tuple(inside))
    outer = Loop("p", ZERO, symbol("P"), constant(1), (*before, inner, *after))
    everything = {b.name: b for b in (*TENSORS, *buffers, out)}
    target = targets()["ascend:310p3"]
    return Placed(KERNEL, target, tuple(everything.values()), with_slots([outer], everything), constant(1))


def in_program_order(program: Placed, inputs: dict[str, np.ndarray], dims: dict[str, int]) -> np.ndarray:
    """The result of running one statement after the other."""
    memories = Memories(program, dims, lambda thread, tick: "")
    memories.load(inputs)
    everything_known = np.full(8, 1 << 40)
    for n, item in enumerate(issue(program.body, memories.buffers, {**dims, "_group": 0, "_groups": 1, "_sub": 0})):
        memories.execute(item, Moment(0, 0, 0, n + 1, everything_known))
    return memories.output("Y")


def inputs_of(dims: dict[str, int]) -> dict[str, np.ndarray]:
    return {"X": np.random.default_rng(5).standard_normal((dims["P"], dims["Q"], LANES)).astype(np.float32)}


@pytest.mark.parametrize("seed", range(25))
def test_random_programs(seed: int) -> None:
    program = random_program(seed)
    want = [in_program_order(program, inputs_of(d), d) for d in SIZES]
    done = synchronize(program)
    for dims, expected in zip(SIZES, want, strict=True):
        for order in range(2):
            got = check(done, inputs_of(dims), dims, groups=1, seed=order).outputs["Y"]
            np.testing.assert_array_equal(got, expected)
    for edge in done.edges:
        refused = 0
        for dims in [*SIZES, *PROBES]:
            try:
                check(without_edge(done, edge.number), inputs_of(dims), dims, groups=1)
            except Refused:
                refused += 1
                break
        assert refused, f"edge {edge.number} is not needed: {edge}"


NEST = parse_kernel("""
@kernel
def nest(X: f32[P, 16], E: f32[Q, 16], F: f32[R, 16], Y: out[f32[P, 16]]):
    where(1 <= P <= 64, 0 <= Q <= 64, 0 <= R <= 64)
    p: P
    n: 16
    Y[p, n] = X[p, n]
""")
NEST_SIZES = [
    {"P": p, "Q": q, "R": r}
    for p, q, r in ((1, 0, 0), (3, 0, 2), (3, 2, 0), (4, 1, 1), (2, 3, 2), (5, 1, 3), (2, 5, 1), (2, 4, 4), (1, 1, 4))
]


def random_nest(seed: int) -> Placed:
    """Three loops in each other or one after the other, the inner ones of any length from 0 on; a store in the outer
    one. Buffers have one to three slots, and some lie over others."""
    r = random.Random(seed)
    loops = {"p": "X", "q": "E", "r": "F"}
    fits = {"p": "p", "q": "pq", "r": "pqr" if seed % 2 else "pr"}
    names = [f"b{i}" for i in range(5)]
    buffers = {}
    for i, name in enumerate(names):
        slots = r.choice([1, 1, 2, 3])
        rotates = r.choice("pqr") if slots > 1 else None
        buffers[name] = Buffer(name, "ub", DType.F32, (constant(LANES),), "ND", 256 * i, slots, rotates)

    def row(loop: str) -> View:
        return View(loops[loop], symbol(loop) * LANES, ((constant(LANES), constant(1)),))

    def some(loop: str, written: list[str], count: int) -> list[Node]:
        nodes: list[Node] = []
        for _ in range(count):
            usable = [n for n in written if buffers[n].rotates in (None, *fits[loop])]
            dst = r.choice([n for n in names if buffers[n].rotates in (None, *fits[loop])] or ["keep"])
            if not usable or r.random() < 0.3:
                nodes.append(Instruction("copy_in", "vector", "MTE2", local(dst), (row(loop),)))
            else:
                nodes.append(
                    Instruction("max", "vector", "V", local(dst), (local(r.choice(usable)), local(r.choice(usable))))
                )
            # Only what is filled in this iteration is read; a slot that the loop left behind is another's.
            if dst not in written:
                written.append(dst)
        return nodes

    buffers["keep"] = Buffer("keep", "ub", DType.F32, (constant(LANES),), "ND", 2048, 1, None)
    buffers["out"] = Buffer("out", "ub", DType.F32, (constant(LANES),), "ND", 2304, 2, "p")
    written = ["keep"]
    start: list[Node] = [Instruction("copy_in", "vector", "MTE2", local("keep"), (row("p"),))]
    start += some("p", written, r.randint(0, 2))
    inner = Loop("r", ZERO, symbol("R"), constant(1), tuple(some("r", list(written), r.randint(1, 3))))
    between = list(written)
    if seed % 2:
        body = [*some("q", between, r.randint(0, 2)), inner, *some("q", between, r.randint(0, 2))]
        middle: list[Node] = [Loop("q", ZERO, symbol("Q"), constant(1), tuple(body))]
    else:
        middle = [Loop("q", ZERO, symbol("Q"), constant(1), tuple(some("q", between, r.randint(1, 3)))), inner]
    source = local(r.choice([n for n in written if buffers[n].rotates in (None, "p")]))
    end: list[Node] = [Instruction("max", "vector", "V", local("out"), (source, source))]
    store = View("Y", symbol("p") * LANES, ((constant(LANES), constant(1)),))
    end.append(Instruction("copy_out", "vector", "MTE3", store, (local("out"),)))
    outer = Loop("p", ZERO, symbol("P"), constant(1), (*start, *middle, *end))
    tensors = {p.name: Buffer(p.name, "gm", p.dtype, p.shape) for p in NEST.params}
    everything = tensors | buffers
    target = targets()["ascend:310p3"]
    return Placed(NEST, target, tuple(everything.values()), with_slots([outer], everything), constant(1))


@pytest.mark.parametrize("seed", range(16))
def test_random_nests_with_loops_that_may_be_empty(seed: int) -> None:
    """Accepted for every size, and every edge that is left is refused without for one of them."""
    done = synchronize(random_nest(seed))
    numbers = np.random.default_rng(9)
    runs = []
    for dims in NEST_SIZES:
        inputs = {
            n: numbers.standard_normal((dims[s], LANES)).astype(np.float32) for n, s in zip("XEF", "PQR", strict=True)
        }
        runs.append((inputs, dims))
        check(done, inputs, dims, groups=1, seed=seed)
    for edge in done.edges:
        assert any(_refused(without_edge(done, edge.number), *run) for run in reversed(runs)), f"not needed: {edge}"


def _refused(program: Placed, inputs: dict[str, np.ndarray], dims: dict[str, int]) -> bool:
    try:
        check(program, inputs, dims, groups=1)
    except Refused:
        return True
    return False


@pytest.mark.parametrize("name", TRIALS)
def test_nothing_runs_without_synchronisation(name: str) -> None:
    trial = TRIALS[name]
    bare = place_unsynchronized(apply(trial.kernel, trial.schedule), targets()["ascend:910b3"])
    with pytest.raises(Refused):
        check(bare, trial.inputs(), trial.dims, groups=1)


#: Without a loop over depth nothing is ordered twice: every candidate is needed. (Of a residual, the edge that holds
#: back its counter also keeps the three slots of the rows that vector cores copy.)
NOTHING_IMPLIED = frozenset(["batched"])


@pytest.mark.parametrize("name", TRIALS)
def test_implied_edges_are_dropped(name: str) -> None:
    trial = TRIALS[name]
    bare = place_unsynchronized(apply(trial.kernel, trial.schedule), targets()["ascend:910b3"])
    needed = [e for e in placed(name).edges if not e.reason.startswith("keeps")]  # those hold a counter back
    dropped = len(candidates(dependences(bare, facts_of(bare)), list(sites(bare.body)))) - len(needed)
    assert dropped == 0 if name in NOTHING_IMPLIED else dropped > 0


def test_edges_around_a_loop_are_primed_and_drained_once_a_slot() -> None:
    program = placed("matmul")
    around = [e for e in program.edges if e.kind == "flag" and e.distance]
    assert around
    for edge in around:
        outside = [n for n in program.body if isinstance(n, Flag) and n.edge == edge.number]
        inside = [n for n in statements(program.body) if isinstance(n, Flag) and n.edge == edge.number]
        assert [n.action for n in outside] == ["set"] * edge.distance + ["wait"] * edge.distance
        assert len(inside) == len(outside) + 2
        assert sorted(n.slot.value for n in outside if n.action == "set") == list(range(edge.distance))


def test_a_shorter_prime_is_refused() -> None:
    """One priming set less for a double buffer is a deadlock or a leaked flag, never a quiet loss."""
    program = placed("matmul")
    first = next(n for n in program.body if isinstance(n, Flag) and n.action == "set")
    body = tuple(n for n in program.body if n is not first)
    with pytest.raises(Refused):
        check(replace(program, body=body), TRIALS["matmul"].inputs(), TRIALS["matmul"].dims, groups=1)
