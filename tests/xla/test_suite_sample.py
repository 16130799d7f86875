"""A sample of ONNX's backend suite through programs of XLA: what passed may not stop passing.

``scripts/conformance.py --target xla:cpu`` (and ``--constants``) runs the whole.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("jaxlib")

from tests.conformance.cases import Case, cases
from tests.conformance.execute import execute

_FOLDER = Path(__file__).parents[1] / "conformance"
_LISTS = {name: (_FOLDER / f"passed-{name}.txt").read_text().split() for name in ("xla", "xla-constants")}


def _families(names: list[str]) -> dict[str, str]:
    """One test an operator, by the first word of its name."""
    found: dict[str, str] = {}
    for name in names:
        kind, _, rest = name.partition("/")
        if kind == "node":
            found.setdefault("_".join(re.split(r"[_\d]", rest.lower())[1:2]), name)
    return found


def _sample() -> list[tuple[str, bool]]:
    """Tests with all inputs at run time, and of operators that have none of those, tests with constants."""
    run_time, constants = _families(_LISTS["xla"]), _families(_LISTS["xla-constants"])
    chosen = [(name, False) for name in run_time.values()]
    return chosen + [(name, True) for family, name in constants.items() if family not in run_time]


@pytest.fixture(scope="module")
def suite() -> dict[str, Case]:
    """Every test of the suite by name."""
    return cases()


@pytest.mark.parametrize(("name", "constants"), _sample())
def test_a_test_of_the_suite_still_passes(name: str, constants: bool, suite: dict[str, Case]) -> None:
    outcome = execute(suite[name], "xla:cpu", constants=constants)
    assert outcome.status == "passed", outcome.reason


@pytest.mark.parametrize(("name", "least"), [("xla", 730), ("xla-constants", 950)])
def test_the_lists_are_of_the_suite_and_long_enough(name: str, least: int, suite: dict[str, Case]) -> None:
    assert len(set(_LISTS[name])) == len(_LISTS[name]) >= least
    assert set(_LISTS[name]) <= suite.keys()
