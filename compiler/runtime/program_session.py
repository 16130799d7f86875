"""Runs a part of programs: chooses the bucket, pads, runs, cuts; the host part's entry points in between."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.binding import check_output_names, input_arrays, refuse_overlap
from tilewright.runtime.devices.cache import ExecutableCache, default_folder
from tilewright.runtime.devices.mesh import Cut, shard_shape
from tilewright.runtime.devices.xla import Client
from tilewright.runtime.errors import ArtifactError, DeviceError, InputError, ResourceError
from tilewright.runtime.host_part import HostSession, load_host_part
from tilewright.runtime.loaded_programs import LoadedPrograms, device_type, for_device, from_device
from tilewright.runtime.manifest import EntryInfo, TargetInfo
from tilewright.runtime.program_check import check_programs, size_of
from tilewright.runtime.programs import (
    Entry,
    Programs,
    Slot,
    Step,
    Variant,
    evaluate,
    lone_symbol,
    parse_programs,
    symbols_of,
)
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
    return ProgramSession(artifact, part, checked[part.target], loaded, host, entry)


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


class _Held:
    """A tensor between steps: on the host, on the device (there with the padding of a bucket), or in both places."""

    def __init__(
        self, slot: Slot, host: Array | None, shards: Sequence[Any] = (), shape: tuple[int, ...] = (), cut: Cut = ()
    ):
        """``shards`` are the buffers of all devices, of a tensor of ``shape``."""
        self.slot, self.host, self.shards, self.shape, self.cut = slot, host, shards, shape, cut


class ProgramSession(Session):
    """A loaded part of programs."""

    def __init__(
        self,
        artifact: Artifact,
        target: TargetInfo,
        programs: Programs,
        loaded: LoadedPrograms,
        host: HostSession | None,
        entry: str | None = None,
    ):
        super().__init__(artifact, target.target, loaded.client.threads or (host.threads if host else 1), entry)
        self._programs = programs
        self._loaded: LoadedPrograms | None = loaded
        self._host = host
        self._compiled = loaded

    @property
    def jit_seconds(self) -> float:
        """What was spent here on compiling programs that the artifact has only in portable form."""
        return self._compiled.jit_seconds

    def profile(
        self, inputs: Mapping[str, Any], *, out: Mapping[str, Array] | None = None, entry: str | None = None
    ) -> Profile:
        """Run once; the seconds of each program with what it moves, and of each run of the host part."""
        told: Profile = []
        self._steps(self._index(entry), inputs, out or {}, told)
        return told

    def memory(self, inputs: Mapping[str, Any], *, entry: str | None = None) -> MemoryUse:
        """What programs say that they need besides arguments and results (0 where their device does not tell), or the
        host part's arena where that is more; a host part behind sizes that only a run tells is left out."""
        index = self._index(entry)
        info, program = self._entries[index], self._programs.entries[index]
        symbols = _symbols(info, program, input_arrays(info, inputs, self._where))
        loaded = self._open()
        most = 0
        for step in program.steps:
            if step.host:
                most = max(most, self._host_arena(step, program, symbols))
            elif all(s in symbols for s in step.variants[0].sizes):
                executable = loaded.executable(_choose(step.variants, symbols, step.padded))
                most = max(most, loaded.client.temporaries(executable))
        return MemoryUse(most, most)

    def close(self) -> None:
        """Give up the artifact, and the device's memory with the last run."""
        self._loaded = None
        if self._host is not None:
            self._host.close()

    # -- one run -----------------------------------------------------------------------------------------------------

    def _run(self, index: int, inputs: Mapping[str, Any], out: Mapping[str, Array]) -> list[Array]:
        return self._steps(index, inputs, out, None)

    def _steps(
        self, index: int, inputs: Mapping[str, Any], out: Mapping[str, Array], profile: Profile | None
    ) -> list[Array]:
        loaded, info, program = self._open(), self._entries[index], self._programs.entries[index]
        arrays = input_arrays(info, inputs, self._where)
        for tensor, array in zip(info.inputs, arrays, strict=True):
            if tensor.dtype in PACKED:
                check_range(tensor, array)
        check_output_names(info, out, self._where)
        symbols = _symbols(info, program, arrays)
        asserted = _check_asserts(info, program, symbols, set())
        _check_memory(info, program, loaded, symbols, out)
        refuse_overlap(info, arrays, out)
        values = {i: _Held(program.slots[i], a) for i, a in enumerate(arrays)}
        for step in program.steps:
            start = time.perf_counter()
            if step.host:
                results = self._on_host(step, program, values, symbols)
                asserted = _check_asserts(info, program, symbols, asserted)
                name = f"host part {step.host}"
            else:
                results, name = self._on_device(step, program, values, symbols)
            values |= dict(zip(step.outputs, results, strict=True))
            if profile is not None:
                for held in results:
                    self._fetched(held, symbols)
                profile.append((name, time.perf_counter() - start))
        made: list[Array] = []
        for tensor, result in zip(info.outputs, program.results, strict=True):
            array = loaded.constant(result) if isinstance(result, str) else self._fetched(values[result], symbols)
            made.append(_given(out[tensor.name], array) if tensor.name in out else np.array(array, order="C"))
        return made

    def _on_device(
        self, step: Step, entry: Entry, values: Mapping[int, _Held], symbols: Mapping[str, int]
    ) -> tuple[list[_Held], str]:
        """Run a program; its results stay where they are."""
        loaded = self._open()
        variant = _choose(step.variants, symbols, step.padded)
        executable = loaded.executable(variant)
        cuts = step.cuts
        pairs = zip(step.inputs, cuts.inputs, strict=True)
        arguments = [self._argument(values[i], variant.sizes, symbols, cut) for i, cut in pairs]
        arguments += [loaded.client.put(np.array(symbols[s], np.int32)) for s in step.padded]
        arguments += [loaded.weight(name, cut) for name, cut in zip(step.weights, cuts.weights, strict=True)]
        results = loaded.client.execute(executable, arguments)
        slots = [entry.slots[o] for o in step.outputs]
        shapes = [size_of(slot, variant.sizes) for slot in slots]
        mesh = self._programs.mesh
        wanted = [shard_shape(shape, cut, mesh) for shape, cut in zip(shapes, cuts.outputs, strict=True)]
        types = [device_type(slot.dtype) for slot in slots]
        if [(tuple(r[0].shape), r[0].dtype) for r in results] != list(zip(wanted, types, strict=True)):
            raise self._damaged(f"{variant.module} gives other types or shapes than program.json says")
        made = zip(slots, results, shapes, cuts.outputs, strict=True)
        return [_Held(slot, None, shards, shape, cut) for slot, shards, shape, cut in made], variant.module

    def _on_host(self, step: Step, entry: Entry, values: Mapping[int, _Held], symbols: dict[str, int]) -> list[_Held]:
        """Run the host part; sizes that it finds are added to ``symbols``."""
        assert self._host is not None
        results = self._host.run_step(step.host, [self._fetched(values[i], symbols) for i in step.inputs])
        held = []
        for o, array in zip(step.outputs, results, strict=True):
            slot = entry.slots[o]
            for expression, size in zip(slot.shape, array.shape, strict=True):
                if (name := lone_symbol(expression)) is not None:
                    symbols.setdefault(name, size)
                if symbols_of(expression) <= symbols.keys() and evaluate(expression, symbols) != size:
                    raise self._damaged(f"host part {step.host} gives other shapes than program.json says")
            held.append(_Held(slot, array))
        return held

    def _argument(self, held: _Held, sizes: Mapping[str, int], symbols: Mapping[str, int], cut: Cut) -> Any:
        """A buffer of the bucket's size: the one that there is, or a new one."""
        client = self._open().client
        shape = size_of(held.slot, sizes)
        if len(held.shards) == 1 and held.shape == shape:
            return held.shards[0]
        return client.put(_pad(for_device(self._fetched(held, symbols), held.slot.dtype), shape), cut)

    def _fetched(self, held: _Held, symbols: Mapping[str, int]) -> Array:
        """A tensor on the host, cut to its true size."""
        if held.host is None:
            array = from_device(self._open().client.fetch(held.shards, held.cut), held.slot.dtype)
            held.host = array[tuple(slice(n) for n in size_of(held.slot, symbols))]
        return held.host

    def _host_arena(self, step: Step, entry: Entry, symbols: Mapping[str, int]) -> int:
        assert self._host is not None
        try:
            shapes = [size_of(entry.slots[i], symbols) for i in step.inputs]
        except KeyError:
            return 0
        return self._host.arena(step.host, shapes)

    def _open(self) -> LoadedPrograms:
        loaded = self._loaded
        if loaded is None:
            raise self._closed()
        return loaded

    def _damaged(self, cause: str) -> ArtifactError:
        where, fix = f"{self._where}, {self.target}", "compile the model again"
        return ArtifactError("artifact-damaged", where=where, cause=cause, fix=fix)


def _symbols(info: EntryInfo, entry: Entry, arrays: Sequence[Array]) -> dict[str, int]:
    """The value of each symbol, every dimension of every input checked."""
    found: dict[str, int] = {}
    for tensor, slot, array in zip(info.inputs, entry.slots, arrays, strict=False):
        if array.ndim != len(slot.shape):
            raise _misfit(tensor.name, f"it has shape {list(array.shape)}, the model takes {tensor}")
        for expression, size in zip(slot.shape, array.shape, strict=True):
            if (name := lone_symbol(expression)) is not None:
                found.setdefault(name, size)
    for tensor, slot, array in zip(info.inputs, entry.slots, arrays, strict=False):
        try:
            wanted: tuple[int, ...] | None = tuple(evaluate(e, found) for e in slot.shape)
        except ZeroDivisionError:
            wanted = None
        if wanted != array.shape:
            sizes = ", ".join(f"{n}={v}" for n, v in found.items())
            at = f" at {sizes}" if sizes else ""
            raise _misfit(tensor.name, f"it has shape {list(array.shape)}, the model takes {tensor}{at}")
    for s in info.symbols:
        size = found[s.name]
        if size < s.min:
            raise _misfit(s.name, f"it is {size}, the least allowed is {s.min}", "dimension")
        if size > s.max:
            raise _misfit(s.name, f"it is {size}, the most allowed is {s.max}", "dimension")
        if size % s.multiple:
            raise _misfit(s.name, f"it is {size}, not a multiple of {s.multiple}", "dimension")
    return found


def _misfit(name: str, cause: str, what: str = "input") -> InputError:
    fix = "give inputs that fit the model's signature"
    return InputError("input-mismatch", where=f"{what} {name!r}", cause=cause, fix=fix)


def _check_asserts(info: EntryInfo, entry: Entry, symbols: Mapping[str, int], done: set[int]) -> set[int]:
    """Check what can be by now; ``done`` with those that were."""
    now = set(done)
    for i, (left, right, message) in enumerate(entry.asserts):
        if i in done or not (symbols_of(left) | symbols_of(right)) <= symbols.keys():
            continue
        now.add(i)
        try:
            pair = (evaluate(left, symbols), evaluate(right, symbols))
        except ZeroDivisionError:
            pair = (0, 1)
        if pair[0] != pair[1]:
            raise _misfit(info.name, f"{message}: {pair[0]} is not {pair[1]}", "entry")
    return now


def _check_memory(
    info: EntryInfo,
    entry: Entry,
    loaded: LoadedPrograms,
    symbols: Mapping[str, int],
    out: Mapping[str, Array],
) -> None:
    """Whether what is given for outputs fits; sizes that only the run tells are -1."""
    for tensor, result in zip(info.outputs, entry.results, strict=True):
        if tensor.name not in out:
            continue
        if isinstance(result, str):
            shape = loaded.constant(result).shape
        else:
            known = (symbols_of(e) <= symbols.keys() for e in entry.slots[result].shape)
            sizes = zip(entry.slots[result].shape, known, strict=True)
            shape = tuple(evaluate(e, symbols) if k else -1 for e, k in sizes)
        check_bound(tensor, out[tensor.name], shape)


def _given(target: Array, array: Array) -> Array:
    """The caller's memory with the contents of ``array``."""
    same = target if target.dtype == array.dtype or array.dtype.kind == "i" else target.view(array.dtype)
    same[...] = array
    return target


def _choose(variants: Sequence[Variant], symbols: Mapping[str, int], padded: Sequence[str]) -> Variant:
    """The first variant that holds the sizes."""
    for variant in variants:
        if all(symbols[s] <= n if s in padded else symbols[s] == n for s, n in variant.sizes.items()):
            return variant
    sizes = ", ".join(f"{s}={symbols[s]}" for s in variants[0].sizes)
    have = "; ".join(", ".join(f"{s}={n}" for s, n in v.sizes.items()) for v in variants[-8:])
    raise InputError(
        "bucket-missing",
        where=sizes,
        cause=f"no program of the artifact holds these sizes (there are {have})",
        fix="compile the model for them: --bucket, or wider bounds in --input-shape",
    )


def _pad(array: Array, shape: tuple[int, ...]) -> Array:
    """``array`` as the first elements of a larger one; what lies beyond is left to the program."""
    if shape == array.shape:
        return array
    if math.prod(shape) * array.itemsize > _physical():
        cause, fix = "this machine has less memory", "compile the model with smaller buckets"
        raise ResourceError("out-of-memory", where=f"a tensor of {list(shape)}", cause=cause, fix=fix)
    padded = np.zeros(shape, array.dtype)
    padded[tuple(slice(n) for n in array.shape)] = array
    return padded


def _physical() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
