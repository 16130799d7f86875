"""The static proof: which orders hold for all trip counts, and what is done where events do not suffice."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from tilewright.backends.ascend.placed.footprint import elements, geometry, touch
from tilewright.backends.ascend.placed.form import (
    Barrier,
    Buffer,
    CrossFlag,
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
from tilewright.backends.ascend.placing.frame import with_slots
from tilewright.backends.ascend.simulator.machine import check
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.ascend.synchronization.conflict import bytes_meet, may_meet, slot_distances
from tilewright.backends.ascend.synchronization.dependence import dependences
from tilewright.backends.ascend.synchronization.facts import facts_of, trips_of
from tilewright.backends.ascend.synchronization.paced import holder
from tilewright.backends.ascend.synchronization.synchronize import synchronize
from tilewright.backends.ascend.synchronization.verify import unproved
from tilewright.ir.symbolic import ZERO, Expr, as_expr, ceildiv, constant, minimum, symbol
from tilewright.ir.types import DType
from tilewright.kernel.parse import parse_kernel

from tests.ascend.trials import TRIALS, placed, targets

LANES = 16
KERNEL = parse_kernel("""
@kernel
def rows(X: f32[P, Q, 16], Y: out[f32[P, Q, 16]]):
    where(1 <= P <= 64, 0 <= Q <= 64)
    p: P
    q: Q
    n: 16
    Y[p, q, n] = X[p, q, n]
""")
TENSORS = tuple(Buffer(p.name, "gm", p.dtype, p.shape) for p in KERNEL.params)
P, Q = symbol("P"), symbol("Q")


def lanes(name: str, offset: Expr = ZERO) -> View:
    return View(name, offset, ((constant(LANES), constant(1)),))


def load(dst: str, at: Expr = ZERO) -> Instruction:
    return Instruction("copy_in", "vector", "MTE2", lanes(dst), (lanes("X", at * LANES),))


def store(src: str, at: Expr = ZERO) -> Instruction:
    return Instruction("copy_out", "vector", "MTE3", lanes("Y", at * LANES), (lanes(src),))


def add(dst: str, *srcs: str) -> Instruction:
    return Instruction("add", "vector", "V", lanes(dst), tuple(lanes(s) for s in srcs))


def loop(var: str, trips: Expr | int, *body: Node) -> Loop:
    high = trips if isinstance(trips, Expr) else constant(trips)
    return Loop(var, ZERO, high, constant(1), body)


def local(name: str, place: int, slots: int = 1, rotates: str | None = None) -> Buffer:
    return Buffer(name, "ub", DType.F32, (constant(LANES),), "ND", 128 * place, slots, rotates, "vector")


def program(body: tuple[Node, ...], *buffers: Buffer, target: str = "ascend:310p3") -> Placed:
    everything = {b.name: b for b in (*TENSORS, *buffers)}
    return Placed(KERNEL, targets()[target], tuple(everything.values()), with_slots(body, everything), constant(1))


def pairs(done: Placed, kind: str = "flag") -> list[tuple[str, str, str | None, int]]:
    return [(e.source[7:], e.sink[7:], e.loop, e.distance) for e in done.edges if e.kind == kind]


def inputs(p: int, q: int) -> dict[str, np.ndarray]:
    return {"X": np.random.default_rng(7).standard_normal((p, q, LANES)).astype(np.float32)}


def test_a_path_through_a_loop_that_may_be_empty_proves_nothing() -> None:
    """The load of ``a`` comes before the addition in the loop, and the store after the loop after that; but where the
    loop runs no time, only an edge of their own orders the load and the store."""

    def build(trips: Expr | int) -> Placed:
        middle = loop("q", trips, add("b", "a", "a"))
        return program((load("a"), add("b", "a", "a"), middle, load("c"), store("a")), *map(local, "abc", range(3)))

    # With a load between, the order of MTE2 and MTE3 can only go through V.
    always, maybe = synchronize(build(2)), synchronize(build(Q))
    assert unproved(always) is None and unproved(maybe) is None
    inside = loop("q", Q, Flag("wait", "vector", "MTE2", "V", (0,), ZERO, 0), add("b", "a", "a"))
    bad = program((load("a"), Flag("set", "vector", "MTE2", "V", (0,), ZERO, 0), inside), local("a", 0), local("b", 1))
    assert unproved(bad) == "loop q does not wait for as many flags as it sets"


def test_what_only_an_empty_loop_orders_gets_an_edge_of_its_own() -> None:
    """MTE2 writes ``a``, V reads it in a loop, MTE3 reads it behind the loop."""

    def edges(trips: Expr | int) -> list[tuple[str, str, str | None, int]]:
        body = (load("a"), loop("q", trips, add("a", "a", "a")), store("a"))
        return pairs(synchronize(program(body, local("a", 0))))

    assert ("MTE2", "MTE3", None, 0) not in edges(3)
    assert ("MTE2", "V", None, 0) in edges(Q) and ("V", "MTE3", None, 0) in edges(Q)
    # The wait of V stands in front of the loop, so even without an iteration its set for MTE3 comes after the load.
    assert ("MTE2", "MTE3", None, 0) not in edges(Q)


def test_trip_counts_decide_which_iterations_meet() -> None:
    """Two slots and a loop that runs once are one slot more than an iteration can fill: order is needed across the
    loop around it only; a loop that runs never needs nothing."""

    def edges(outer: Expr | int, inner: Expr | int) -> list[tuple[str, str, str | None, int]]:
        body = loop("p", outer, loop("q", inner, load("a"), add("b", "a", "a")))
        return pairs(synchronize(program((body,), local("a", 0, 2, "q"), local("b", 1))))

    assert ("V", "MTE2", "q", 2) in edges(P, Q)
    assert ("V", "MTE2", "q", 2) in edges(P, 1)
    assert ("V", "MTE2", "q", 2) in edges(1, 3)
    assert ("V", "MTE2", "q", 2) not in edges(1, 2)
    assert ("V", "MTE2", "q", 2) in edges(2, 2)
    assert edges(P, 0) == []


def test_slots_that_share_bytes_meet_when_the_counts_say_so() -> None:
    a, b = local("a", 0, 2, "q"), replace(local("b", 0, 2, "q"), address=64)
    assert slot_distances(a, a) == {0} and slot_distances(a, b) == {1}
    assert slot_distances(a, replace(b, address=32)) == {0, 1} and slot_distances(a, replace(b, address=128)) == set()
    body = loop("q", Q, load("a"), add("c", "a", "a"), load("b"), add("c", "b", "b"))
    done = synchronize(program((body,), a, b, local("c", 4)))
    assert unproved(done) is None
    # Slot 1 of one is slot 0 of the other: every load comes after the addition of the iteration before, or of this one.
    assert {d for s, t, _, d in pairs(done) if (s, t) == ("V", "MTE2")} == {1}


def test_a_prefetch_into_the_next_slot() -> None:
    """The load of iteration n fills the slot that iteration n + 1 reads: edges of distance 1, not 2, and the set of an
    iteration stands in front of its wait, so that two events are taken in turn."""
    now, after = symbol("_n_q"), minimum(symbol("q") + 1, Q - 1)
    ahead = replace(load("a", after), dst=replace(lanes("a"), slot=now + 1))
    use = replace(add("b", "a", "a"), dst=replace(lanes("b"), slot=now), srcs=(replace(lanes("a"), slot=now),) * 2)
    keep = replace(store("b", symbol("q")), srcs=(replace(lanes("b"), slot=now),))
    body = (load("a"), loop("q", Q, ahead, use, keep))
    buffers = (*TENSORS, local("a", 0, 2, "q"), local("b", 4, 2, "q"))
    done = synchronize(Placed(KERNEL, targets()["ascend:310p3"], buffers, body, constant(1)))
    assert unproved(done) is None
    assert ("MTE2", "V", "q", 1) in pairs(done) and ("V", "MTE2", "q", 1) in pairs(done)
    assert ("MTE2", "V", "q", 0) not in pairs(done)
    for q in (1, 2, 3, 6, 7):
        got = check(done, inputs(1, q), {"P": 1, "Q": q}, groups=1).outputs["Y"]
        np.testing.assert_array_equal(got, inputs(1, q)["X"] * 2)
    for edge in done.edges:
        assert unproved(without_edge(done, edge.number)) is not None


def test_iterations_that_touch_places_of_their_own_need_no_order() -> None:
    """Rows gathered one by one into a buffer: no barrier between them, one flag for all, one around the outer loop."""

    def build(pitch: int) -> Placed:
        dst = View("a", symbol("q") * pitch, ((constant(LANES), constant(1)),))
        row = replace(load("a", symbol("q")), dst=dst)
        whole = View("a", ZERO, ((constant(4), constant(pitch)), (constant(LANES), constant(1))))
        use = Instruction("max", "vector", "V", replace(whole, buffer="b"), (whole, whole))
        shape = (constant(4), constant(LANES))
        a, b = (replace(local(n, 8 * i), shape=shape) for i, n in enumerate("ab"))
        return program((loop("p", P, loop("q", 4, row), use),), a, b)

    apart, over = synchronize(build(LANES)), synchronize(build(8))
    assert unproved(apart) is None and unproved(over) is None
    assert ("MTE2", "MTE2", "q", 0) not in pairs(apart, "barrier") and ("MTE2", "MTE2", "q", 0) in pairs(
        over, "barrier"
    )
    assert set(pairs(apart)) == {("MTE2", "V", "p", 0), ("V", "MTE2", "p", 1)}


def test_lanes_that_never_meet_need_no_order() -> None:
    facts = facts_of(placed("softmax"))
    whole = Buffer("b", "ub", DType.F32, (constant(4), constant(32)))

    def part(column: int, rows: Expr | int = 4) -> View:
        count = rows if isinstance(rows, Expr) else constant(rows)
        return View("b", constant(column), ((count, constant(32)), (constant(16), constant(1))))

    fixed = frozenset({"M", "N"})
    assert not may_meet(part(0), part(16), whole, facts, fixed)
    assert may_meet(part(0), part(8), whole, facts, fixed)
    assert not may_meet(part(0, minimum(4, symbol("M"))), part(16), whole, facts, fixed)
    shifted = View("b", symbol("M"), ((constant(8), constant(1)),))
    assert not may_meet(shifted, replace(shifted, offset=symbol("M") + 8), whole, facts, fixed)
    assert may_meet(shifted, replace(shifted, offset=symbol("M") + 8), whole, facts, frozenset())


def test_columns_that_begin_where_others_end_need_no_order() -> None:
    """Whole fractals of a row and its end, as sums leave a fused core: what one writes the other does not touch."""
    facts = facts_of(placed("softmax"))
    fixed = frozenset({"M", "N"})

    def meet(columns: Expr, pitch: int = 64, step: int = 8, first: int = 0, fixed: frozenset[str] = fixed) -> bool:
        rows = (symbol("M"), constant(pitch))
        full = View("b", constant(first), (rows, (columns // 16, constant(16)), (constant(16), constant(1))))
        rest = View("b", columns // 16 * 16, (rows, (ceildiv(columns % 16, step) * step, constant(1))))
        buffer = Buffer("b", "ub", DType.F32, (constant(128), constant(pitch)))
        found = {may_meet(x, y, buffer, facts, fixed) for x, y in ((full, rest), (rest, full))}
        assert len(found) == 1
        return found.pop()

    columns = minimum(64, symbol("N"))
    assert not meet(columns) and not meet(columns, step=16)
    assert meet(columns, pitch=56), "the end of a row would lie in the next"
    assert meet(columns, first=1)
    assert meet(columns, step=32), "whole blocks of 32 lanes reach behind the row"
    assert meet(symbol("N")), "rows may be longer than they are apart"
    assert meet(columns, fixed=frozenset()), "not both are of one turn"


def test_views_that_are_said_not_to_meet_never_do() -> None:
    """Rows in pieces whose columns follow from one size, drawn at random, against every lane at every size."""
    facts, draw, apart = facts_of(placed("softmax")), random.Random(0), 0
    buffer = Buffer("b", "ub", DType.F32, (constant(256),))
    for _ in range(250):
        columns = minimum(draw.choice([16, 24, 32]), symbol("N"))
        pitch, step = draw.choice([24, 32, 40]), draw.choice([4, 8, 16])
        whole, rest = columns // step, columns % step
        counts = [((whole, step), (constant(step), 1)), ((rest, 1),), ((ceildiv(rest, 8) * 8, 1),), ((whole, 1),)]
        starts = [ZERO, whole * step, whole * 8 + 8, constant(pitch) - columns, constant(pitch - 8), constant(8)]
        rows = (constant(3), constant(pitch))
        drawn = [(draw.choice(starts), draw.choice(counts)) for _ in range(2)]
        x, y = (View("b", at, (rows, *((c, as_expr(s)) for c, s in inner))) for at, inner in drawn)
        if may_meet(x, y, buffer, facts, frozenset({"N"})):
            continue
        apart += 1
        for n in range(1, 40):
            env = {"N": n}
            lanes_of = [set(elements(touch(v, 1, env), geometry(buffer, env)).ravel().tolist()) for v in (x, y)]
            assert not lanes_of[0] & lanes_of[1], (str(x), str(y), n)
    assert apart > 25


def test_case_by_case() -> None:
    n, t = symbol("N"), symbol("t")
    body = (loop("t", n, load("a")),)
    facts = facts_of(replace(program(body, local("a", 0)), kernel=placed("softmax").kernel))
    columns = minimum(64, n - t)
    assert facts.bounds(columns)[0] < 0 and facts.least(columns) == 1, "what is left of a loop is at least 1"
    assert facts.least(64 - columns // 16 * 16 - columns % 16) == 0 and facts.least(columns % 16 - columns) == -64
    assert facts.least(columns + n) is None and facts.least(constant(64) // (columns - 1)) is None


def test_paths_of_which_one_runs_need_no_order() -> None:
    """Rows that are no whole blocks leave in one way, all others in another: the two never both have a lane."""
    facts, blocks = facts_of(program((), local("a", 0))), Q // 16
    taken = minimum(1, blocks)

    def rows(count: Expr) -> View:
        return View("Y", ZERO, ((count, constant(LANES)), (constant(LANES), constant(1))))

    here = frozenset({"P", "Q"})
    cases = (
        (blocks, Q * (1 - taken), here, False),
        (blocks * P, (Q - Q * taken + 15) // 16, here, False),
        (taken, 1 - taken, here, False),
        (minimum(P, 16) // 16, minimum(P, 16) % 16, here, False),
        (minimum(P, 17) // 16, minimum(P, 17) % 16, here, True),  # 17 are one and one
        (minimum(P, 32) // 16, minimum(P, 32) % 16, here, True),
        (taken, 1 - taken, frozenset(), True),  # Q may be two numbers
        (minimum(1, Q // 8), 1 - taken, here, True),  # both run for 8 rows
        (taken, 2 - taken, here, True),
        (minimum(1, Q - 16), 1 - minimum(1, Q - 16), here, True),  # -16 rows are not one of the two values
    )
    for x, y, shared, meet in cases:
        assert may_meet(rows(x), rows(y), TENSORS[1], facts, shared) == meet, (str(x), str(y))
        assert may_meet(rows(y), rows(x), TENSORS[1], facts, shared) == meet, (str(y), str(x))
    near, other = (replace(store("a"), dst=rows(c)) for c in (blocks, Q - Q * taken))
    assert not synchronize(program((near, other), local("a", 0))).edges
    assert pairs(synchronize(program((near, replace(near, dst=rows(Q))), local("a", 0))), "barrier")


def test_lanes_of_two_buffers_with_slots_meet_in_any_slot() -> None:
    facts = facts_of(program((), local("a", 0)))
    wide = replace(local("a", 0), shape=(constant(4 * LANES),))
    over = replace(local("b", 0, 2, "q"), address=64, shape=(constant(8),))
    shown = View("b", ZERO, ((constant(8), constant(1)),), symbol("_n_q"))
    for lanes_of_a, address, meet in ((16, 64, False), (17, 64, True), (24, 64, True), (16, 32, True), (32, 96, True)):
        x = View("a", ZERO, ((constant(lanes_of_a), constant(1)),))
        assert bytes_meet(x, shown, (wide, replace(over, address=address)), facts, frozenset()) == meet
    second = View("a", constant(24), ((constant(8), constant(1)),))
    assert bytes_meet(second, shown, (wide, over), facts, frozenset()), "slot 1 lies there"
    assert not bytes_meet(second, shown, (wide, replace(over, slots=1)), facts, frozenset())


@pytest.mark.parametrize(
    ("trips", "pitch", "ordered"),
    [(2, LANES, True), (4, LANES, True), (1, LANES, False), (2, 8, False), (Q, 16, False)],
)
def test_turns_of_a_short_loop_meet_in_the_next_run_of_it(trips: int | Expr, pitch: int, ordered: bool) -> None:
    """``a`` is taken in parts, each by a turn of the inner loop. A flag of distance two around that loop, there for
    another buffer, orders them where a part comes again two turns later and not sooner."""
    part = View("a", symbol("q") * pitch, ((constant(LANES), constant(1)),))
    use = replace(add("c", "b", "b"), srcs=(part, lanes("b")))
    body = loop("p", P, loop("q", trips, load("b"), replace(load("a"), dst=part), use))
    wide = replace(local("a", 0), shape=(constant(64 * LANES),))
    done = synchronize(program((body,), wide, local("b", 64, 2, "q"), local("c", 68)))
    assert unproved(done) is None
    back = {(loop, d) for s, t, loop, d in pairs(done) if (s, t) == ("V", "MTE2")}
    assert (back == {("q", 2)}) == ordered and (1 in {d for _, d in back}) != ordered
    for edge in done.edges:
        assert unproved(without_edge(done, edge.number)) is not None


def test_trip_counts_of_loops() -> None:
    facts = facts_of(program((), local("a", 0)))
    found = [trips_of(loop("x", n), facts) for n in (constant(0), constant(1), constant(9), P, Q, minimum(P, 2))]
    assert [(t.least, t.most) for t in found] == [(0, 0), (1, 1), (4, 4), (1, 4), (0, 4), (1, 2)]


# -- events ----------------------------------------------------------------------------------------------------------


def many_loads(count: int, apart: bool) -> Placed:
    """``count`` loads and as many additions: all loads first, or each in front of its addition."""
    names = [f"a{i}" for i in range(count)]
    loads, adds = [load(n) for n in names], [add("b", n, "b" if i else n) for i, n in enumerate(names)]
    body = [*loads, *adds] if apart else [n for pair in zip(loads, adds, strict=True) for n in pair]
    return program((*body, store("b")), *(local(n, i) for i, n in enumerate([*names, "b"])))


@pytest.mark.parametrize("apart", [True, False])
def test_ten_edges_do_with_the_events_there_are(apart: bool) -> None:
    """Edges that are open at once are merged, edges one after the other take turns."""
    done = synchronize(many_loads(10, apart))
    assert unproved(done) is None
    events = {e for n in done.body if isinstance(n, Flag) for e in n.events}
    assert max(events) < int(done.target.extra["event_ids"])
    x = inputs(1, 1)
    want = x["X"] * 2
    for _ in range(9):
        want = want + x["X"]
    np.testing.assert_allclose(check(done, x, {"P": 1, "Q": 1}, groups=1).outputs["Y"], want, rtol=1e-5)


def test_double_buffers_beyond_the_events_get_merged_edges() -> None:
    names = [f"a{i}" for i in range(6)]
    at = symbol("p") * Q + symbol("q")
    adds = [add("b", n, "b" if i else n) for i, n in enumerate(names)]
    body = loop("p", P, loop("q", Q, *(load(n, at) for n in names), *adds, store("b", at)))
    done = synchronize(program((body,), *(local(n, 2 * i, 2, "q") for i, n in enumerate(names)), local("b", 20)))
    assert unproved(done) is None
    for p, q in ((1, 1), (2, 3), (3, 1)):
        got = check(done, inputs(p, q), {"P": p, "Q": q}, groups=1).outputs["Y"]
        np.testing.assert_allclose(got, inputs(p, q)["X"] * 7, rtol=1e-5)
    for edge in done.edges:
        assert unproved(without_edge(done, edge.number)) is not None


def test_more_than_the_hardware_has_is_refused() -> None:
    """Each of ten loops has a buffer of its own that is filled again in the next iteration of the loop around them."""
    names = [f"a{i}" for i in range(10)]
    inner = [loop(f"q{i}", Q, load(n), add("b", n, n)) for i, n in enumerate(names)]
    buffers = [local(n, i) for i, n in enumerate([*names, "b"])]
    with pytest.raises(Refused, match=r"events V->MTE2 are needed at once, ascend:310p3 has \d") as refused:
        synchronize(program((loop("p", P, *inner),), *buffers))
    assert refused.value.kind == "event ids"


def test_events_that_may_be_confused_are_not_proved() -> None:
    """Two edges on one event, the second set in front of the first wait."""
    body = (load("a"), load("c"), add("b", "a", "a"), add("d", "c", "c"))
    done = synchronize(program(body, *map(local, "abcd", range(4))))
    assert unproved(done) is None and pairs(done) == [("MTE2", "V", None, 0)] * 2
    same = tuple(replace(n, events=(0,)) if isinstance(n, Flag) else n for n in done.body)
    assert "may be confused" in str(unproved(replace(done, body=same)))


# -- what is judged as it stands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRIALS)
def test_no_edge_and_no_statement_of_one_can_go(name: str) -> None:
    done = placed(name)
    found = dependences(done, facts_of(done))
    assert unproved(done, found) is None
    for edge in done.edges:
        # The statements and what they touch stay, and so do the dependences.
        assert unproved(without_edge(done, edge.number), found) is not None, edge


def test_cross_core_waits_hold_back_every_pipe() -> None:
    """In attention the vector cores wait for the cube core once; loads and arithmetic behind it all know."""
    done = placed("attention")
    crosses = [e for e in done.edges if e.kind == "cross"]
    assert crosses and all(
        any(isinstance(n, CrossFlag) and n.edge == e.number for n in statements(done.body)) for e in crosses
    )
    assert not any(isinstance(n, Barrier) and n.pipe == "S" for n in statements(done.body))


def test_a_scalar_does_not_matter() -> None:
    body = (load("a"), Instruction("mul", "vector", "V", lanes("a"), (lanes("a"), Scalar(2.0))), store("a"))
    assert pairs(synchronize(program(body, local("a", 0)))) == [("MTE2", "V", None, 0), ("V", "MTE3", None, 0)]


def _counters() -> tuple[Placed, list[int], int]:
    """A product with two counters from the vector cores in loops that run equally often, and the one edge back."""
    p = placed("lead_residual")
    crossing = [e for e in p.edges if e.kind == "cross"]
    return p, [e.number for e in crossing if not e.distance], next(e.number for e in crossing if e.distance)


def _changed(body: tuple[Node, ...], var: str, **fields: Expr) -> tuple[Node, ...]:
    """``body`` with other bounds for the loop ``var``."""
    result: list[Node] = []
    for node in body:
        if isinstance(node, Loop):
            changed = fields if node.var == var else {}
            result.append(replace(node, body=_changed(node.body, var, **fields), **changed))
        else:
            result.append(node)
    return tuple(result)


def test_one_edge_back_holds_two_counters() -> None:
    p, (_, panes), back = _counters()
    # Two panes a turn; of a counter that is two sets ahead, the sender is two turns and two unfinished ones ahead.
    assert holder(p.body, panes, 15) == back
    assert holder(p.body, panes, 8) == back
    assert holder(p.body, panes, 7) is None
    assert unproved(p) is None
    trial = TRIALS["lead_residual"]
    with pytest.raises(Refused, match="may run more than 15 sets ahead"):
        check(without_edge(p, back), trial.inputs({"M": 420}), {"M": 420}, groups=1)
    assert unproved(without_edge(p, back)) is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"hi": minimum(1, symbol("k0"))},  # another condition than the other loop's
        {"hi": constant(1)},  # in every turn, the other only in the last
        {"hi": symbol("M")},  # any number of times
        {"step": symbol("k0") + 1},
    ],
    ids=["other condition", "every turn", "any number", "any step"],
)
def test_loops_that_do_not_run_equally_often_hold_nothing(fields: dict[str, Expr]) -> None:
    p, (_, panes), _ = _counters()
    body = _changed(p.body, "_done_2", **fields)
    assert holder(body, panes, 15) is None
    assert unproved(replace(p, body=body)) is not None


def test_many_panes_a_turn_are_not_held_by_an_edge_of_one() -> None:
    p, (_, panes), back = _counters()
    assert holder(_changed(p.body, "m_pane", hi=constant(3)), panes, 15) == back
    assert holder(_changed(p.body, "m_pane", hi=constant(4)), panes, 15) is None
