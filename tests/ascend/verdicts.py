"""What becomes of a damaged program: refused by the simulator, or proved to compute the same; anything else fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tilewright.backends.ascend.placed.form import Placed
from tilewright.backends.ascend.simulator.machine import check
from tilewright.backends.ascend.simulator.memory import Refused

from tests.ascend.equivalence import equivalent
from tests.ascend.mutations import MUTATIONS

#: Damage that nothing can make harmless.
ALWAYS_REFUSED = frozenset({"edge", "statement", "double", "exchange", "misalign", "shift"})


@dataclass(frozen=True, slots=True)
class Subject:
    """A placed kernel, and the inputs and sizes of its symbols that it is run with: a mutant that any run refuses is
    refused."""

    name: str
    placed: Placed
    runs: tuple[tuple[Mapping[str, np.ndarray[Any, Any]], Mapping[str, int]], ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One mutant: ``refused`` is the rule that it broke, ``proof`` the class of the proof that it is equivalent.

    Neither: it was accepted and nothing proves it right, a hole in the simulator or in the proof.
    """

    what: str
    refused: str = ""
    proof: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.refused or self.proof)


def verdicts(subject: Subject, kind: str, every: int = 1) -> Iterator[Verdict]:
    """Verdicts on each ``every``-th mutant of a kind. Raises ``AssertionError`` where equal programs differ."""
    wanted: list[Mapping[str, np.ndarray[Any, Any]]] = []
    for n, (what, mutant) in enumerate(MUTATIONS[kind](subject.placed)):
        if n % every:
            continue
        try:
            got = [check(mutant, inputs, dims, groups=1) for inputs, dims in subject.runs]
        except Refused as refused:
            yield Verdict(what, refused=refused.kind)
            continue
        found = None
        if kind not in ALWAYS_REFUSED:
            found = equivalent(subject.placed, mutant, *(dims for _, dims in subject.runs))
        if found is not None:
            wanted = wanted or [check(subject.placed, *run, groups=1).outputs for run in subject.runs]
            for result, want in zip(got, wanted, strict=True):
                for output, value in result.outputs.items():
                    np.testing.assert_array_equal(value, want[output], err_msg=f"{what}: proved, yet different")
        yield Verdict(what, proof=found or "")
