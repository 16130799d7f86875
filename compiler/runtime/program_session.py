"""Runs a part of programs: chooses the bucket, pads, runs, cuts; the host part's entry points in between."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.binding import check_output_names, input_arrays, refuse_overlap
from tilewright.runtime.devices.cache import ExecutableCache, default_folder
from tilewright.runtime.devices.xla import Client
from tilewright.runtime.errors import DeviceError
from tilewright.runtime.host_part import load_host_part
from tilewright.runtime.loaded_programs import LoadedPrograms
from tilewright.runtime.manifest import EntryInfo, TargetInfo
from tilewright.runtime.pending import Finished, Pending, RunMode, require_host
from tilewright.runtime.program_check import check_programs
from tilewright.runtime.program_inputs import check_asserts, choose, symbols_of_inputs
from tilewright.runtime.program_run import Ready, Run, known_shape
from tilewright.runtime.programs import Entry, Programs, parse_programs
from tilewright.runtime.session import MemoryUse, Session
from tilewright.runtime.tensors import PACKED, Array, check_bound, check_range

Profile = list[tuple[str, float]]


def load_programs(
    artifact: Artifact,
    parts: Sequence[TargetInfo],
    entry: str | None,
    threads: int | None,
    *,
    allow_jit: bool,
    cache: bool,
) -> ProgramSession:
    """A session of the part that fits the device that there is.

    Args:
        artifact: an opened artifact.
        parts: those that the user may have meant; all for one kind of device.
        entry: as of :func:`tilewright.runtime.session.load`.
        threads: of the host part, and of programs that run on the processor.
        allow_jit, cache: as of :func:`tilewright.runtime.session.load`.

    Raises:
        ArtifactError: the programs are damaged (exit 9).
        DeviceError: the device, its plugin, or executables for it are missing (exit 8).
    """
    kinds = {_kind(part) for part in parts}
    if len(kinds) > 1:
        names = " or ".join(p.target.replace(":", "-") for p in parts)
        cause = f"several parts could be meant ({names})"
        raise DeviceError("device-ambiguous", where=artifact.where, cause=cause, fix=f"name one: --device {names}")
    checked = {part.target: _programs(artifact, part) for part in parts}
    kind = kinds.pop()
    mesh = max((programs.mesh for programs in checked.values()), key=math.prod)
    client = Client(kind, mesh, threads)
    part = _fitting(artifact, parts, client)
    if checked[part.target].mesh != mesh:
        client = Client(kind, checked[part.target].mesh, threads)
    host = load_host_part(artifact, part, checked[part.target], threads) if checked[part.target].host else None
    kept = ExecutableCache(default_folder() if cache else None)
    loaded = LoadedPrograms(artifact, part, client, kept, allow_jit, None if host is None else host.weights)
    loaded.require(step for each in checked[part.target].entries for step in each.steps)
    ready = Ready(loaded, host, checked[part.target].mesh, f"{artifact.where}, {part.target}")
    return ProgramSession(artifact, part, checked[part.target], ready, entry)


def _programs(artifact: Artifact, part: TargetInfo) -> Programs:
    programs = parse_programs(bytes(artifact.checked(part.members["program.json"])), artifact.where)
    check_programs(programs, artifact, part)
    return programs


def _kind(part: TargetInfo) -> str:
    """The kind of XLA's client that runs a part: what ``xla:`` names, else the kind of the target itself."""
    kind, _, arch = part.target.partition(":")
    return arch if kind == "xla" else kind


#: How chips call themselves, and what targets call them. Names: jax 0.10.2, jax/_src/pallas/mosaic/tpu_info.py.
_CHIPS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "tpu7x",
}


def _fitting(artifact: Artifact, parts: Sequence[TargetInfo], client: Client) -> TargetInfo:
    """The part for the chip that is there."""
    arch = _CHIPS.get(client.name)
    if arch is None and client.kind != "tpu":
        return parts[0]
    for part in parts:
        if part.target.partition(":")[2] == arch:
            return part
    raise DeviceError(
        "device-missing",
        where=artifact.where,
        cause=f"this machine has {client.name}, the artifact holds {', '.join(p.target for p in parts)}",
        fix="compile the model for this chip",
    )


class ProgramSession(Session):
    """A loaded part of programs."""

    def __init__(
        self, artifact: Artifact, target: TargetInfo, programs: Programs, ready: Ready, entry: str | None = None
    ):
        on_host = ready.host.threads if ready.host else 1
        super().__init__(artifact, target.target, ready.programs.client.threads or on_host, entry)
        self._programs, self._clock = programs, ready.programs.clock
        self._ready: Ready | None = ready

    @property
    def jit_seconds(self) -> float:
        """What was spent here on compiling programs that the artifact has only in portable form."""
        return self._clock.seconds

    def profile(
        self, inputs: Mapping[str, Any], *, out: Mapping[str, Any] | None = None, entry: str | None = None
    ) -> Profile:
        """Run once; the seconds of each program with what it moves, and of each run of the host part."""
        told: Profile = []
        self._steps(self._index(entry), inputs, out or {}, told)
        return told

    def memory(self, inputs: Mapping[str, Any], *, entry: str | None = None) -> MemoryUse:
        """What programs say that they need besides arguments and results (0 where their device does not tell), or the
        host part's arena where that is more; a step behind sizes that only a run tells is left out."""
        index, ready = self._index(entry), self._open()
        info, program = self._entries[index], self._programs.entries[index]
        symbols = symbols_of_inputs(info, program, input_arrays(info, inputs, self._where))
        most = 0
        for step in program.steps:
            shapes = [known_shape(program.slots[i], symbols) for i in step.inputs]
            if any(n < 0 for shape in shapes for n in shape):
                continue
            if step.host:
                assert ready.host is not None
                most = max(most, ready.host.arena(step.host, shapes))
            elif all(s in symbols for s in step.variants[0].sizes):
                executable = ready.programs.executable(choose(step.variants, symbols, step.padded))
                most = max(most, ready.programs.client.temporaries(executable))
        return MemoryUse(most, most)

    def close(self) -> None:
        """Give up the artifact, and the device's memory with the last run."""
        self._ready = None

    def _begin(self, index: int, inputs: Mapping[str, Any], out: Mapping[str, Any], mode: RunMode) -> Pending:
        require_host(mode, f"{self._where}, entry {self._entries[index].name!r}")
        return Finished(self._steps(index, inputs, out, None))

    def _steps(
        self, index: int, inputs: Mapping[str, Any], out: Mapping[str, Array], profile: Profile | None
    ) -> list[Array]:
        ready, info, program = self._open(), self._entries[index], self._programs.entries[index]
        arrays = input_arrays(info, inputs, self._where)
        for tensor, array in zip(info.inputs, arrays, strict=True):
            if tensor.dtype in PACKED:
                check_range(tensor, array)
        check_output_names(info, out, self._where)
        symbols = symbols_of_inputs(info, program, arrays)
        asserted = check_asserts(info, program, symbols, set())
        _check_memory(info, program, ready.programs, symbols, out)
        refuse_overlap(info, arrays, out)
        run = Run(ready, program, arrays, symbols)
        for step in program.steps:
            start = time.perf_counter()
            name = run.step(step)
            if step.host:
                asserted = check_asserts(info, program, run.symbols, asserted)
            if profile is not None:
                for slot in step.outputs:
                    run.array(slot)
                profile.append((name, time.perf_counter() - start))
        made: list[Array] = []
        for tensor, result in zip(info.outputs, program.results, strict=True):
            array = ready.programs.constant(result) if isinstance(result, str) else run.array(result)
            made.append(_given(out[tensor.name], array) if tensor.name in out else np.array(array, order="C"))
        return made

    def _open(self) -> Ready:
        ready = self._ready
        if ready is None:
            raise self._closed()
        return ready


def _check_memory(
    info: EntryInfo, entry: Entry, programs: LoadedPrograms, symbols: Mapping[str, int], out: Mapping[str, Array]
) -> None:
    """Whether what is given for outputs fits; sizes that only the run tells are -1."""
    for tensor, result in zip(info.outputs, entry.results, strict=True):
        if tensor.name in out:
            if isinstance(result, str):
                shape = programs.constant(result).shape
            else:
                shape = known_shape(entry.slots[result], symbols)
            check_bound(tensor, out[tensor.name], shape)


def _given(target: Array, array: Array) -> Array:
    """The caller's memory with the contents of ``array``."""
    same = target if target.dtype == array.dtype or array.dtype.kind == "i" else target.view(array.dtype)
    same[...] = array
    return target
