"""The host part of programs: entry points of a plan that compute on the processor what the device does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.device import LoadedPlan, load_host
from tilewright.runtime.manifest import EntryInfo, TargetInfo, TensorInfo
from tilewright.runtime.plan_session import PlanSession
from tilewright.runtime.programs import Programs, Step
from tilewright.runtime.tensors import DTYPES, Array, dtype_of


class HostSession(PlanSession):
    """A plan whose entry points are steps of programs; arrays are given and taken in order.

    Attributes:
        weights: the artifact's, checked.
    """

    def __init__(self, plan: LoadedPlan, entries: Sequence[EntryInfo]):
        super().__init__(plan, None, entries)
        self.weights = plan.weights

    def run_step(self, entry: str, arrays: Sequence[Array]) -> list[Array]:
        """Outputs of an entry point."""
        info = self._entries[self._entry_index(entry)]
        return self.run(None, {i.name: a for i, a in zip(info.inputs, arrays, strict=True)}, entry=entry)

    def arena(self, entry: str, shapes: Sequence[Sequence[int]]) -> int:
        """Bytes of temporaries for inputs of these shapes."""
        info = self._entries[self._entry_index(entry)]
        given = {i.name: np.empty(tuple(n), dtype_of(i)[1]) for i, n in zip(info.inputs, shapes, strict=True)}
        return self.memory(given, entry=entry).arena


def load_host_part(artifact: Artifact, target: TargetInfo, programs: Programs, threads: int | None) -> HostSession:
    """The host part of ``programs``, after its signatures were compared with the steps that run it.

    Raises:
        ArtifactError: it is damaged, or other entry points than the steps need (exit 9).
        DeviceError: its kernels are not for this machine (exit 8).
    """
    plan = load_host(artifact, target, threads)
    table, handle = plan.table, plan.handle
    entries = [_entry(table, handle, i) for i in range(table.entry_count(handle))]
    by_name = {e.name: e for e in entries}
    for program in programs.entries:
        for step in (s for s in program.steps if s.host):
            found = by_name.get(step.host)
            wanted = [[(program.slots[i].dtype, len(program.slots[i].shape)) for i in n] for n in _sides(step)]
            if found is None or [[(t.dtype, len(t.shape)) for t in n] for n in (found.inputs, found.outputs)] != wanted:
                raise artifact.damaged("program.json", f"the host part has no entry point {step.host!r} like that")
    return HostSession(plan, entries)


def _sides(step: Step) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return step.inputs, step.outputs


_SPELLINGS = {number: spelling for spelling, (number, _, _) in DTYPES.items()}


def _entry(table: Any, handle: Any, index: int) -> EntryInfo:
    inputs = tuple(_tensor(table.input(handle, index, i)) for i in range(table.input_count(handle, index)))
    outputs = tuple(_tensor(table.output(handle, index, i)) for i in range(table.output_count(handle, index)))
    return EntryInfo(table.entry_name(handle, index).decode(), inputs, outputs, (), ())


def _tensor(signature: Any) -> TensorInfo:
    told = signature.contents
    # Sizes are the plan's own affair, which checks them: the text stands for them in messages.
    return TensorInfo(told.name.decode(), _SPELLINGS.get(told.dtype, "?"), ("?",) * told.rank)
