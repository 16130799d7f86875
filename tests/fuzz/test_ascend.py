"""A few random models for Ascend NPUs, every launch in the simulator. ``scripts/fuzz.py --target ascend`` runs many."""

from __future__ import annotations

import platform
from dataclasses import replace
from typing import Any

import pytest
from tilewright.backends.ascend.placed.form import Placed, without_edge
from tilewright.backends.ascend.simulator.machine import Result, check

from tests.ascend import session
from tests.ascend.machines import Machine
from tests.ascend.trials import targets
from tests.fuzz import ascend, ascend_judge
from tests.fuzz.judge import BAD

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the host part is compiled for x86-64")


#: Seeds that take no second each.
QUICK = (5, 15, 25)


@pytest.mark.parametrize("seed", QUICK)
def test_random_models(seed: int) -> None:
    told = ascend_judge.answer(seed, lambda stage: None)
    assert told["status"] not in (*BAD, "empty") and told["launches"] > 0, told


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10_000, 10_100))
def test_many_random_models(seed: int) -> None:
    told = ascend_judge.answer(seed, lambda stage: None)
    assert told["status"] not in BAD, told


def test_a_seed_is_a_model() -> None:
    first, second = ascend_judge.made(3), ascend_judge.made(3)
    assert first is not None and second is not None
    assert first[0].SerializeToString() == second[0].SerializeToString()
    assert ascend_judge.settings(3) == ascend_judge.settings(3)


@pytest.mark.parametrize("family", dict.fromkeys(ascend.FAMILIES), ids=lambda f: f.__name__)
def test_each_family_makes_models(family: ascend.Family) -> None:
    made = 0
    for seed in range(12):
        graph = ascend.AscendGraph(seed)
        try:
            family(graph)
        except ascend.Skip:
            continue
        made += bool(graph.nodes)
    assert made >= 3


def test_a_smaller_machine_is_another_one() -> None:
    whole = targets()["ascend:910b3"]
    small = Machine("ascend:910b3", share=8, cube=4, units=3).of(whole)
    assert small.memory["ub"].size < whole.memory["ub"].size // 7 and small.units == 3 and small.arch != whole.arch
    assert small.memory["l0c"].size == whole.memory["l0c"].size // 4
    assert small.memory["gm"] == whole.memory["gm"]
    assert Machine("ascend:910b3").of(whole) == whole


def test_a_wrong_number_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model, own = ascend_judge.made(QUICK[0]), ascend_judge.settings(QUICK[0])
    assert model is not None

    def damaged(*given: Any) -> Result:
        result = check(*given)
        for value in result.outputs.values():
            value.reshape(-1)[0] += 1
        return result

    monkeypatch.setattr(session, "check", damaged)
    assert ascend_judge.judge(*model, replace(own, bits=False)).verdict.status == "wrong"


def test_a_refusal_of_the_simulator_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model, own = ascend_judge.made(QUICK[0]), ascend_judge.settings(QUICK[0])
    assert model is not None

    def without(placed: Placed, *given: Any) -> Result:
        return check(without_edge(placed, placed.edges[0].number), *given)

    monkeypatch.setattr(session, "check", without)
    told = ascend_judge.judge(*model, replace(own, bits=False))
    assert told.verdict.status == "broken" and "Refused" in told.verdict.reason
