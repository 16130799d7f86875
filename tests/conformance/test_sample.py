"""A sample of ONNX's backend suite: what passed may not stop passing. ``scripts/conformance.py`` runs the whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conformance.cases import Case, cases, plain_names
from tests.conformance.execute import execute

PASSED = Path(__file__).with_name("passed.txt").read_text().split()

#: Of every operator one, and of those with many tests one in this many.
_EVERY = 20


def _sample() -> list[str]:
    """One test an operator, by the first word of its name, and every twentieth of all."""
    chosen, seen = [], set()
    for n, name in enumerate(PASSED):
        family = "_".join(re.split(r"[_\d]", name.partition("/")[2].lower())[1:2])
        if family not in seen or n % _EVERY == 0:
            chosen.append(name)
        seen.add(family)
    return chosen


@pytest.fixture(scope="session")
def suite() -> dict[str, Case]:
    """Every test of the suite by name."""
    return cases()


@pytest.mark.parametrize("name", _sample())
def test_a_test_of_the_suite_still_passes(name: str, suite: dict[str, Case]) -> None:
    outcome = execute(suite[name])
    assert outcome.status == "passed", outcome.reason


def test_the_plain_tests_are_in_the_suite(suite: dict[str, Case]) -> None:
    names = plain_names()
    assert len(names) == len(set(names)) == 1176
    assert set(names) <= suite.keys()
    assert set(PASSED) <= suite.keys()
