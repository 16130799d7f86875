"""Schedules as records; canonical names and fingerprints."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilewright.errors import UsageError
from tilewright.ir.symbolic import symbol
from tilewright.kernel.apply import apply
from tilewright.kernel.canonical import canonical, canonical_names, fingerprint, rename, rename_schedule
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.print import print_kernel, print_scheduled
from tilewright.kernel.record import schedule_from_json, schedule_to_json
from tilewright.kernel.schedule import Loop, Pack, Schedule, Stage
from tilewright.kernel.tile import Kernel
from tilewright.kernel.verify import verify_kernel

from tests.kernel.strategies import exprs, kernels
from tests.kernel.trial_cases import SCHEDULES, scheduled_cases
from tests.kernel.trial_kernels import TRIALS

NAMES = st.sampled_from(["m", "n", "k", "acc"])
LOOPS = st.builds(Loop, NAMES, st.integers(1, 9999), st.sampled_from(["block", "tile", "pipeline"]), st.booleans())
INDICES = st.lists(exprs(("d0", "d1"), 2), max_size=3).map(tuple)
SCHEDULE = st.builds(
    Schedule,
    loops=st.lists(LOOPS, max_size=4).map(tuple),
    reduce=st.lists(LOOPS, max_size=2).map(tuple),
    stages=st.lists(st.builds(Stage, NAMES, st.integers(0, 5), NAMES, st.integers(0, 64)), max_size=2).map(tuple),
    packs=st.lists(st.builds(Pack, NAMES, INDICES, INDICES), max_size=2).map(tuple),
    spaces=st.lists(st.tuples(NAMES, NAMES), max_size=2).map(tuple),
    extra=st.lists(st.tuples(NAMES, st.one_of(st.integers(), st.text(), st.booleans())), max_size=3).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(SCHEDULE)
def test_records_read_back_equal_on_one_line(schedule: Schedule) -> None:
    text = schedule_to_json(schedule)
    assert "\n" not in text
    assert schedule_from_json(text) == schedule
    assert schedule_to_json(schedule_from_json(text)) == text


def test_the_record_is_stable() -> None:
    assert schedule_to_json(SCHEDULES["matmul"]["cpu"]) == (
        '{"loops":[["n",24,"block"],["m",5,"block","balanced"],["n",8,"tile"]],"reduce":[["k",1,"pipeline"]],'
        '"stages":[["A",2,"l1",16]],"packs":[["B",["d1 // 8","d0","d1 % 8"],["5","20","8"]]]}'
    )


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", '{"loop":[]}', '{"loops":[["m"]]}', '{"loops":[["m","4","block"]]}', '{"loops":[["m",4,"x"]]}',
        '{"loops":[["m",4,"block","even"]]}', '{"packs":[["B",["d0 /"],[]]]}', '{"extra":[["a",1.5]]}',
        '{"extra":[["a",null]]}', '{"stages":[["A",true,"l1",0]]}', '{"loops":7}',
    ],
)  # fmt: skip
def test_damaged_records_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        schedule_from_json(text)
    assert caught.value.code == "schedule-record"


@pytest.mark.parametrize("name", TRIALS)
def test_kernels_that_differ_in_names_only_are_one(name: str) -> None:
    kernel = TRIALS[name]()
    verify_kernel(canonical(kernel))
    assert canonical(canonical(kernel)) == canonical(kernel)
    names = canonical_names(kernel)
    # Longest first and backwards, so that neither the alphabet nor the length of the old names helps.
    reverse = {old: f"z{99 - n}_{old}" for n, old in enumerate([*names.symbols, *names.params, *names.tiles])}
    other = rename(
        kernel,
        replace(
            names,
            symbols={n: reverse[n] for n in names.symbols},
            params={n: reverse[n] for n in names.params},
            tiles={n: reverse[n] for n in names.tiles},
        ),
        "other",
    )
    assert other != kernel
    assert canonical(other) == canonical(kernel)
    assert fingerprint(other) == fingerprint(kernel)


def test_fingerprints_differ_where_kernels_do() -> None:
    assert len({fingerprint(TRIALS[n]()) for n in TRIALS}) == len(TRIALS)
    trees = [apply(TRIALS[n](), SCHEDULES[n.split("-")[0]][s]) for n, s in scheduled_cases()]
    assert len({fingerprint(t) for t in trees}) == len(trees)


def test_two_symbols_in_one_size_are_numbered_by_where_they_stand_alone() -> None:
    def made(a: str, b: str) -> Kernel:
        return parse_kernel(
            f"@kernel\ndef f(X: f32[{a} + {b}], Y: f32[{b}], Z: out[f32[{a}]]):\n"
            f"    where(1 <= {a} <= 9, 1 <= {b} <= 8)\n    m: {a}\n    Z[m] = X[m]\n"
        )

    assert canonical(made("A", "B")) == canonical(made("Q", "P"))


@settings(max_examples=100, deadline=None)
@given(kernels())
def test_canonical_text_of_random_kernels_reads_back(kernel: Kernel) -> None:
    assert parse_kernel(print_kernel(canonical(kernel))) == canonical(kernel)


@pytest.mark.parametrize(("name", "schedule"), scheduled_cases())
def test_a_renamed_schedule_fits_the_renamed_kernel(name: str, schedule: str) -> None:
    kernel, plan = TRIALS[name](), SCHEDULES[name.split("-", maxsplit=1)[0]][schedule]
    names = canonical_names(kernel)
    tree = apply(rename(kernel, names), rename_schedule(plan, names))
    assert len(print_scheduled(tree).splitlines()) == len(print_scheduled(apply(kernel, plan)).splitlines())


def test_dimension_names_do_not_clash_with_packed_indices() -> None:
    kernel = TRIALS["matmul"]()
    names = canonical_names(kernel)
    assert names.symbols["M"] == "d0"
    tree = apply(rename(kernel, names), rename_schedule(SCHEDULES["matmul"]["cpu"], names))
    assert symbol("d0") in {a.extent for a in tree.kernel.axes}
