"""A damaged program is refused, or the checker proves that it still computes the same bits."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import numpy as np
import pytest
from tilewright.backends.ascend.simulator.machine import Result, check
from tilewright.backends.ascend.simulator.memory import Refused

from tests.ascend.mutations import MUTATIONS
from tests.ascend.trials import TRIALS, placed

#: Damage that nothing can make harmless.
ALWAYS_REFUSED = {"edge", "statement", "misalign", "shift"}


@lru_cache(maxsize=8)
def _reference(name: str) -> Result:
    return check(placed(name), TRIALS[name].inputs(), TRIALS[name].dims, groups=1)


@pytest.mark.parametrize("kind", MUTATIONS)
@pytest.mark.parametrize("name", TRIALS)
def test_every_mutant_is_refused_or_equivalent(name: str, kind: str) -> None:
    trial, inputs, want = TRIALS[name], TRIALS[name].inputs(), _reference(name)
    verdicts: Counter[str] = Counter()
    for what, mutant in MUTATIONS[kind](placed(name)):
        try:
            got = check(mutant, inputs, trial.dims, groups=1)
        except Refused as refused:
            verdicts[refused.kind] += 1
            continue
        assert kind not in ALWAYS_REFUSED, f"{name}: {what} was accepted"
        for output, value in got.outputs.items():
            np.testing.assert_array_equal(value, want.outputs[output], err_msg=f"{name}: {what} changes numbers")
        verdicts["equivalent"] += 1
    print(f"{name} {kind}: {sum(verdicts.values())} mutants, {dict(verdicts)}")
    assert verdicts.total() - verdicts["equivalent"] > 0, "no mutant of this class was refused"


@pytest.mark.parametrize("name", TRIALS)
def test_a_refusal_of_a_deleted_flag_names_two_statements(name: str) -> None:
    trial = TRIALS[name]
    edge = next(e for e in placed(name).edges if e.kind == "flag" and e.distance == 0)
    mutant = next(m for what, m in MUTATIONS["edge"](placed(name)) if what.startswith(f"edge {edge.number} "))
    with pytest.raises(Refused) as refused:
        check(mutant, trial.inputs(), trial.dims, groups=1)
    if refused.value.kind == "race":
        assert refused.value.first and refused.value.second and refused.value.first != refused.value.second
    assert refused.value.second
