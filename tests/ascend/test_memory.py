"""Addresses by liveness: packing, what covers what, lifetimes, and kernels whose buffers share bytes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilewright.backends.ascend.memory.addresses import Sharing, shared, with_addresses
from tilewright.backends.ascend.memory.covers import covers
from tilewright.backends.ascend.memory.lifetimes import lifetimes
from tilewright.backends.ascend.memory.packing import Item, pack, peak
from tilewright.backends.ascend.placed.form import GROUP, Block, Buffer, Instruction, Placed, Scalar, View
from tilewright.backends.ascend.placed.form import Loop as PlacedLoop
from tilewright.backends.ascend.placing.frame import with_slots
from tilewright.backends.ascend.placing.place import Context, place
from tilewright.backends.ascend.schedules.schedule import first_fit
from tilewright.backends.ascend.simulator.machine import check
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.ascend.synchronization.facts import Facts
from tilewright.backends.ascend.synchronization.synchronize import synchronize
from tilewright.ir.symbolic import Expr, as_expr, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.apply import apply
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.schedule import Loop, Schedule

from tests.ascend.families import GELU, LAYER_NORM
from tests.ascend.trials import TRIALS, Trial, targets

# -- packing -----------------------------------------------------------------------------------------------------------

_INTERVALS = st.lists(
    st.tuples(st.integers(1, 5000), st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=25
).map(lambda rows: [Item(f"b{n}", size, ((1 << long) - 1) << at) for n, (size, at, long) in enumerate(rows)])
_ANY_TIMES = st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 1 << 20)), min_size=1, max_size=20).map(
    lambda rows: [Item(f"b{n}", size, times) for n, (size, times) in enumerate(rows)]
)


@settings(max_examples=60, deadline=None)
@given(st.one_of(_INTERVALS, _ANY_TIMES), st.sampled_from([32, 64, 512, 1024]))
def test_what_is_needed_at_one_time_shares_no_byte(items: list[Item], align: int) -> None:
    places = pack(items, align)
    for n, a in enumerate(items):
        assert places[a.name] >= 0 and places[a.name] % align == 0
        for b in items[:n]:
            apart = places[a.name] + a.size <= places[b.name] or places[b.name] + b.size <= places[a.name]
            assert apart or not a.times & b.times
    top = max(places[i.name] + i.size for i in items)
    rounded = [-(-i.size // align) * align for i in items]
    assert peak(items, align) - align < top <= sum(rounded)
    assert pack(list(items), align) == places, "the same again"


def test_packing_comes_near_the_largest_sum() -> None:
    random = np.random.default_rng(0)
    ratios = []
    for _ in range(60):
        ends = np.sort(random.integers(0, 60, (20, 2)), axis=1)
        sizes = random.choice([64, 512, 3072, 12288, 24576, 49152], 20)
        items = [
            Item(f"b{n}", int(s), (1 << int(b) + 1) - (1 << int(a)))
            for n, (s, (a, b)) in enumerate(zip(sizes, ends, strict=True))
        ]
        places = pack(items, 32)
        ratios.append(max(places[i.name] + i.size for i in items) / peak(items, 32))
    assert min(ratios) == 1.0
    assert np.mean(ratios) < 1.02
    assert max(ratios) < 1.25


# -- covers ------------------------------------------------------------------------------------------------------------

_BUFFER = Buffer("b", "ub", DType.F32, (constant(16), constant(32)))
_MATRIX = Buffer("m", "l1", DType.F16, (constant(64), constant(48)), layout="NZ")
_DIM = st.tuples(st.integers(1, 6), st.sampled_from([1, 2, 8, 32, 64]))
_VIEW = st.builds(
    lambda offset, dims: View("b", constant(offset), tuple((constant(c), constant(s)) for c, s in dims)),
    st.integers(0, 70),
    st.lists(_DIM, min_size=1, max_size=3),
)
_BLOCK = st.builds(
    lambda r, c, h, w: Block("m", constant(r), constant(c), constant(h), constant(w)),
    *(st.integers(0, 20) for _ in range(2)),
    *(st.integers(1, 30) for _ in range(2)),
)


def _elements(v: View) -> set[int]:
    found = {v.offset.value}
    for count, stride in v.dims:
        found = {e + i * stride.value for e in found for i in range(count.value)}
    return found


@settings(max_examples=120, deadline=None)
@given(_VIEW, _VIEW)
def test_a_view_that_covers_has_every_element(written: View, read: View) -> None:
    if covers(written, read, _BUFFER, Facts({})):
        assert _elements(read) <= _elements(written)
    assert covers(written, written, _BUFFER, Facts({})) or len({s for _, s in written.dims}) < len(written.dims)


@settings(max_examples=60, deadline=None)
@given(_BLOCK, _BLOCK)
def test_a_block_that_covers_has_every_element(written: Block, read: Block) -> None:
    def cells(b: Block) -> set[tuple[int, int]]:
        rows = range(b.row.value, b.row.value + b.rows.value)
        return {(r, c) for r in rows for c in range(b.column.value, b.column.value + b.columns.value)}

    assert covers(written, read, _MATRIX, Facts({})) == (cells(read) <= cells(written))


_N = symbol("n")
ROWS = View("b", constant(0), ((_N, constant(32)), (constant(32), constant(1))))


@pytest.mark.parametrize(
    "read, want",
    [
        (ROWS, True),
        (View("b", constant(16), ((_N, constant(32)), (constant(16), constant(1)))), True),
        (View("b", constant(16), ((_N, constant(32)), (constant(17), constant(1)))), False),
        (View("b", constant(0), ((_N + 1, constant(32)), (constant(8), constant(1)))), False),
        (View("b", constant(0), ((_N, constant(32)), (constant(32), constant(0)))), True),
        (None, False),
    ],
)
def test_ragged_rows(read: View | None, want: bool) -> None:
    assert covers(ROWS, read, _BUFFER, Facts({})) is want


def test_everything_is_covered_by_everything_only() -> None:
    whole = View("b", constant(0), ((constant(16), constant(32)), (constant(32), constant(1))))
    assert covers(whole, None, _BUFFER, Facts({}))
    less = replace(whole, dims=((constant(15), constant(32)), (constant(32), constant(1))))
    assert not covers(less, None, _BUFFER, Facts({}))


# -- kernels -----------------------------------------------------------------------------------------------------------

ADD_NORM = """
@kernel
def add_norm(X: f16[M, 768], R: f16[M, 768], G: const[f16[768]], B: const[f16[768]], Y: out[f16[M, 768]]):
    where(1 <= M <= 65536)
    m: M
    n: 768
    s[m, n] = f32(X[m, n]) + f32(R[m, n])
    total[m] = sum(n, s[m, n])
    centred[m, n] = s[m, n] - total[m] * f32(0.0013020833)
    square[m] = sum(n, centred[m, n] * centred[m, n])
    spread[m] = sqrt(square[m] * f32(0.0013020833) + f32(0.00001))
    Y[m, n] = f16(centred[m, n] / spread[m] * f32(G[n]) + f32(B[n]))
"""
#: Not all buffers for two rows fit together, but what lives at one time does.
SHARED = Trial(parse_kernel(GELU), Schedule((Loop("m", 2, "block"),)), {"M": 11})
SHARING = {
    **TRIALS,
    "gelu": SHARED,
    "layer norm": Trial(parse_kernel(LAYER_NORM), Schedule((Loop("m", 16, "block"),)), {"M": 75}),
}


@lru_cache(maxsize=32)
def draft_of(name: str, target: str = "ascend:910b3") -> tuple[Placed, frozenset[str]]:
    """A kernel before its buffers have addresses, and those whose slots are kept."""
    trial = SHARING[name]
    context = Context(apply(trial.kernel, trial.schedule), targets()[target], 4)
    context.run()
    return context.draft(), frozenset(context.tree.kept)


def with_sharing(draft: Placed, kept: frozenset[str], sharing: Sharing) -> Placed:
    """``draft`` synchronised, with buffers that share all that they may, whether they must or not."""
    times, done = lifetimes(draft), {b.name: b for b in draft.buffers}
    for scope in sorted({b.scope for b in draft.buffers} - {"gm"}):
        own = [b for b in draft.buffers if b.scope == scope]
        align = int(draft.target.extra["alignment"][scope])
        done |= {b.name: b for b in shared(own, times, sharing, align, kept)}
    buffers = tuple(done[b.name] for b in draft.buffers)
    return synchronize(replace(draft, buffers=buffers, body=with_slots(draft.body, done)))


def overlaps(placed: Placed) -> Iterator[tuple[Buffer, Buffer]]:
    """Buffers of one memory that have bytes in common."""
    local = [b for b in placed.buffers if b.scope != "gm"]
    for n, a in enumerate(local):
        for b in local[:n]:
            if a.scope == b.scope and a.address < b.end and b.address < a.end:
                yield a, b


def used(placed: Placed, scope: str = "ub") -> int:
    return max((b.end for b in placed.buffers if b.scope == scope), default=0)


@pytest.mark.parametrize("name", ["softmax", "attention", "residual", "gelu"])
def test_shared_bytes_change_no_bit(name: str) -> None:
    trial = SHARING[name]
    draft, kept = draft_of(name)
    inputs = trial.inputs()
    results, sizes = [], []
    for sharing in Sharing:
        placed = with_sharing(draft, kept, sharing)
        if used(placed) > placed.target.memory["ub"].size:
            continue  # what does not fit is not run
        results.append(check(placed, inputs, trial.dims, groups=1).outputs)
        sizes.append(sum(used(placed, s) for s in ("ub", "l1", "l0a", "l0b", "l0c")))
    assert len(results) > 1 and sizes == sorted(sizes, reverse=True)
    for other in results[1:]:
        for output, value in results[0].items():
            np.testing.assert_array_equal(value, other[output])


def test_following_reads_around_a_loop_ends() -> None:
    """Reads that count one by one in one turn and as one of the whole in the next, over and over."""
    draft, _ = draft_of("gelu")
    buffers = tuple(Buffer(n, "ub", DType.F16, (constant(64),), core="vector") for n in "ab")

    def view(name: str, offset: Expr | int, count: int = 1) -> View:
        return View(name, as_expr(offset), ((constant(count), constant(1)),))

    def reads(first: Expr | int, count: int) -> list[Instruction]:
        sources = [view("a", as_expr(first) + n) for n in range(count)]
        return [Instruction("copy", "vector", "V", view("b", 0), (s,)) for s in sources]

    def fill(count: int) -> Instruction:
        return Instruction("duplicate", "vector", "V", view("a", 0, count), (Scalar(0.0),))

    body = (*reads(0, 12), fill(64), *reads(GROUP, 5), fill(32))
    loop = PlacedLoop("i", constant(0), constant(4), constant(1), body)
    placed = replace(draft, buffers=buffers, body=(loop,))

    def late(*_: object) -> None:
        raise TimeoutError("lifetimes are still being followed")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    try:
        assert lifetimes(placed).live["a"]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_the_peak_is_what_lives_at_one_time() -> None:
    draft, _ = draft_of("gelu")
    times = lifetimes(draft)
    local = [b for b in draft.buffers if b.scope == "ub"]
    alone = [b for b in local if times.pipes[b.name] == {"V"}]
    rings = sum(b.slots * b.slot_bytes for b in local if b not in alone)
    before = sum(b.slots * b.slot_bytes for b in local)
    lower = rings + peak([Item(b.name, b.slot_bytes, times.live[b.name]) for b in alone], 32)
    after = used(with_addresses(draft))
    capacity = draft.target.memory["ub"].size
    assert before > capacity, "it would not fit without sharing"
    assert lower <= after <= capacity
    assert after == lower, "no packing is smaller"


def test_nothing_is_shared_while_it_fits() -> None:
    for name in ("softmax", "layer norm", "residual"):
        draft, kept = draft_of(name)
        assert not list(overlaps(with_addresses(draft, kept)))
    draft, _ = draft_of("gelu")
    pairs = list(overlaps(with_addresses(draft)))
    assert pairs and all(b.slots == 1 and b.name.startswith("t") for pair in pairs for b in pair)


def test_a_value_that_another_buffer_overwrote_is_refused_by_both_names() -> None:
    draft, kept = draft_of("gelu")
    right = with_sharing(draft, kept, Sharing.ONE_PIPE)
    times = lifetimes(draft)
    names = [b.name for b in right.buffers if times.pipes.get(b.name) == {"V"}]
    together = [(a, b) for n, a in enumerate(names) for b in names[:n] if times.live[a] & times.live[b]]
    assert together
    for a, b in together[::4]:
        buffers = tuple(replace(o, address=right.buffer(b).address) if o.name == a else o for o in draft.buffers)
        buffers = tuple(o if o.name == a else right.buffer(o.name) for o in buffers)
        wrong = synchronize(replace(draft, buffers=buffers, body=with_slots(draft.body, {o.name: o for o in buffers})))
        with pytest.raises(Refused) as refused:
            check(wrong, SHARED.inputs(), SHARED.dims, groups=1)
        assert refused.value.kind == "overlap"
        assert refused.value.second


@pytest.mark.parametrize("text, target", [(GELU, "ascend:910b3"), (ADD_NORM, "ascend:310p3")])
def test_tiles_are_larger_where_bytes_are_shared(text: str, target: str) -> None:
    kernel, chip = parse_kernel(text), targets()[target]
    placed = place(apply(kernel, first_fit(kernel, chip)), chip)
    local = [b for b in placed.buffers if b.scope == "ub"]
    assert list(overlaps(placed))
    assert used(placed) <= chip.memory["ub"].size < sum(b.slots * b.slot_bytes for b in local)
