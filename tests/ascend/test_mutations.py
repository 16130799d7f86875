"""A damaged program is refused by the simulator, or proved to compute the same without looking at a number."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache

import pytest
from tilewright.backends.ascend.placed.form import Instruction, Loop, without_edge
from tilewright.backends.ascend.simulator.machine import check
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.ascend.synchronization.verify import unproved

from tests.ascend.equivalence import equivalent
from tests.ascend.families import subjects
from tests.ascend.mutations import MUTATIONS
from tests.ascend.trials import TRIALS
from tests.ascend.verdicts import Subject, verdicts

#: Of these kinds only one mutant in so many is tried in the fast tests; scripts/mutate_ascend.py tries all.
THINNED = {"swap": 24, "statement": 9, "shift": 9, "edge": 4, "shrink": 11, "misalign": 5, "overlap": 5, "half": 7}
THINNED |= {"double": 9, "exchange": 9}
#: Families of other targets that the fast tests look at: what is special of them.
ELSEWHERE = ("short rows, 310p3", "long rows, 310p3")

#: Mutants that nothing refuses and nothing proves; counted as neither in models/results/ascend-mutations.md.
OPEN = {
    (
        "convolution, 310p3",
        "shift",
    ): "5 pixels in a tile of 16: a run of them one row further on lies among the zeros of "
    "its tile, which breaks no rule of the machine and gives other numbers",
}


def _open(name: str, kind: str) -> tuple[pytest.MarkDecorator, ...]:
    return (pytest.mark.xfail(reason=OPEN[name, kind], strict=True),) if (name, kind) in OPEN else ()


EVERY = [pytest.param(name, kind, marks=_open(name, kind)) for name in subjects() for kind in MUTATIONS]


@lru_cache(maxsize=16)
def subject(name: str) -> Subject:
    return subjects()[name]()


@pytest.mark.parametrize("kind", MUTATIONS)
@pytest.mark.parametrize("name", [n for n in subjects() if "," not in n or n in ELSEWHERE])
def test_some_mutants(name: str, kind: str) -> None:
    assert_judged(subject(name), kind, THINNED[kind])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_every_mutant_is_refused_or_equivalent(name: str, kind: str) -> None:
    assert_judged(subject(name), kind, 1)


def assert_judged(s: Subject, kind: str, every: int) -> None:
    found: Counter[str] = Counter()
    for v in verdicts(s, kind, every):
        assert v.ok, f"{s.name}: {v.what} is accepted, and nothing proves it right"
        found[v.refused or v.proof] += 1
    # A kernel may have nothing to damage in this way, nothing in that half, or nothing there that still lives.
    if every == 1 and kind != "half" and found:
        assert any(v in found for v in ("race", "bounds", "overlap", "alignment", "unwritten", "deadlock")), found


@pytest.mark.parametrize("name", TRIALS)
def test_a_refusal_of_a_deleted_flag_names_two_statements(name: str) -> None:
    s = subject(name)
    edge = next(e for e in s.placed.edges if e.kind == "flag" and e.distance == 0)
    with pytest.raises(Refused) as refused:
        check(without_edge(s.placed, edge.number), *s.runs[0], groups=1)
    if refused.value.kind == "race":
        assert refused.value.first and refused.value.second and refused.value.first != refused.value.second
    assert refused.value.second


def test_the_proof_looks_at_what_is_read_and_when() -> None:
    s = subject("softmax")
    assert equivalent(s.placed, s.placed, s.runs[0][1]) == "same queues"
    at = next(n for n, node in enumerate(s.placed.body) if isinstance(node, Loop))
    loop = s.placed.body[at]
    assert isinstance(loop, Loop)
    first = next(n for n, node in enumerate(loop.body) if isinstance(node, Instruction) and node.pipe == "V")
    fewer = replace(loop, body=(*loop.body[:first], *loop.body[first + 1 :]))
    gone = replace(s.placed, body=(*s.placed.body[:at], fewer, *s.placed.body[at + 1 :]))
    assert unproved(gone) is None, "all that is left is ordered"
    assert equivalent(s.placed, gone, s.runs[0][1]) is None, "but one instruction less runs"


@pytest.mark.parametrize("name", TRIALS)
def test_what_is_not_ordered_is_not_equivalent(name: str) -> None:
    s = subject(name)
    for edge in s.placed.edges[::5]:
        assert equivalent(s.placed, without_edge(s.placed, edge.number), s.runs[0][1]) is None


def test_a_scalar_read_behind_its_use_is_refused() -> None:
    """Its symbol has no value yet: that is said of the program, and is no failure of the simulator."""
    s = subject("gather")
    said = []
    for _, mutant in MUTATIONS["swap"](s.placed):
        try:
            check(mutant, *s.runs[0], groups=1)
        except Refused as refused:
            said.append(refused.kind)
    assert "order" in said
