"""One run of an entry point of programs: tensors between its steps, on the device, on the host, or in both places."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tilewright.runtime.devices.mesh import Cut, Mesh, shard_shape
from tilewright.runtime.errors import ArtifactError, ResourceError
from tilewright.runtime.host_part import HostSession
from tilewright.runtime.loaded_programs import LoadedPrograms, device_type, for_device, from_device
from tilewright.runtime.program_check import size_of
from tilewright.runtime.program_inputs import choose
from tilewright.runtime.programs import Entry, Slot, Step, evaluate, lone_symbol, symbols_of
from tilewright.runtime.tensors import Array


@dataclass(frozen=True, slots=True)
class Ready:
    """What a session has loaded. A run keeps it until it is done, whatever becomes of the session.

    Attributes:
        programs: on the device. host: the host part, where there is one.
        mesh: of the device. where: names the part in messages.
    """

    programs: LoadedPrograms
    host: HostSession | None
    mesh: Mesh
    where: str


class _Held:
    """A tensor: ``host`` is its memory there; ``shards`` are the buffers of all devices, of a tensor of ``shape``,
    which is that of a bucket."""

    def __init__(
        self, slot: Slot, host: Array | None, shards: Sequence[Any] = (), shape: tuple[int, ...] = (), cut: Cut = ()
    ):
        self.slot, self.host, self.shards, self.shape, self.cut = slot, host, shards, shape, cut


class Run:
    """The tensors of one run so far. ``symbols`` grow with the sizes that the host part finds."""

    def __init__(self, ready: Ready, entry: Entry, inputs: Sequence[Array], symbols: Mapping[str, int]):
        self.symbols = dict(symbols)
        self._ready, self._entry = ready, entry
        self._values = {i: _Held(entry.slots[i], array) for i, array in enumerate(inputs)}

    def step(self, step: Step) -> str:
        """Run a step; its name."""
        return self._on_host(step) if step.host else self._on_device(step)

    def array(self, slot: int) -> Array:
        """A tensor on the host, once it is there, cut to its true size; memory that may not be written."""
        return self._fetched(self._values[slot])

    def _on_device(self, step: Step) -> str:
        """Run a program; its results stay where they are."""
        programs, mesh = self._ready.programs, self._ready.mesh
        variant = choose(step.variants, self.symbols, step.padded)
        executable = programs.executable(variant)
        cuts = step.cuts
        pairs = zip(step.inputs, cuts.inputs, strict=True)
        arguments = [self._argument(self._values[i], variant.sizes, cut) for i, cut in pairs]
        arguments += [programs.client.put(np.array(self.symbols[s], np.int32)) for s in step.padded]
        arguments += [programs.weight(name, cut) for name, cut in zip(step.weights, cuts.weights, strict=True)]
        results = programs.client.execute(executable, arguments)
        slots = [self._entry.slots[o] for o in step.outputs]
        shapes = [size_of(slot, variant.sizes) for slot in slots]
        wanted = [
            (shard_shape(shape, cut, mesh), device_type(slot.dtype))
            for slot, shape, cut in zip(slots, shapes, cuts.outputs, strict=True)
        ]
        if [(tuple(r[0].shape), r[0].dtype) for r in results] != wanted:
            raise self._damaged(f"{variant.module} gives other types or shapes than program.json says")
        for o, slot, shards, shape, cut in zip(step.outputs, slots, results, shapes, cuts.outputs, strict=True):
            self._values[o] = _Held(slot, None, shards, shape, cut)
        return variant.module

    def _on_host(self, step: Step) -> str:
        """Run the host part; sizes that it finds are added to the symbols."""
        name = f"host part {step.host}"
        assert self._ready.host is not None
        results = self._ready.host.run_step(step.host, [self.array(i) for i in step.inputs])
        for o, array in zip(step.outputs, results, strict=True):
            slot = self._entry.slots[o]
            for expression, size in zip(slot.shape, array.shape, strict=True):
                if (found := lone_symbol(expression)) is not None:
                    self.symbols.setdefault(found, size)
            if all(symbols_of(e) <= self.symbols.keys() for e in slot.shape) and self._size(slot) != array.shape:
                raise self._damaged(f"{name} gives other shapes than program.json says")
            self._values[o] = _Held(slot, array)
        return name

    def _argument(self, held: _Held, sizes: Mapping[str, int], cut: Cut) -> Any:
        """A buffer of the bucket's size: the one that there is, or a new one."""
        shape = size_of(held.slot, sizes)
        if len(held.shards) == 1 and held.shape == shape:
            return held.shards[0]
        return self._ready.programs.client.put(_pad(for_device(self._fetched(held), held.slot.dtype), shape), cut)

    def _fetched(self, held: _Held) -> Array:
        if held.host is None:
            whole = from_device(self._ready.programs.client.fetch(held.shards, held.cut), held.slot.dtype)
            size = self._size(held.slot)
            if any(n > there for n, there in zip(size, whole.shape, strict=True)):
                raise self._damaged(f"a tensor of {list(size)} in a program that makes {list(whole.shape)}")
            held.host = whole[tuple(map(slice, size))]
        return held.host

    def _size(self, slot: Slot) -> tuple[int, ...]:
        """The true size of a slot."""
        try:
            return size_of(slot, self.symbols)
        except (ValueError, KeyError) as error:
            raise self._damaged(f"program.json: {error}") from None

    def _damaged(self, cause: str) -> ArtifactError:
        return ArtifactError("artifact-damaged", where=self._ready.where, cause=cause, fix="compile the model again")


def known_shape(slot: Slot, symbols: Mapping[str, int]) -> tuple[int, ...]:
    """The true size of a slot as far as it is known; -1 for the rest."""

    def known(expression: tuple[int | str, ...]) -> int:
        try:
            return evaluate(expression, symbols)
        except (KeyError, ZeroDivisionError):
            return -1

    return tuple(map(known, slot.shape))


def _pad(array: Array, shape: tuple[int, ...]) -> Array:
    """``array`` as the first elements of a larger one; what lies beyond is left to the program."""
    if shape == array.shape:
        return array
    if math.prod(shape) * array.itemsize > _physical():
        cause, fix = "this machine has less memory", "compile the model with smaller buckets"
        raise ResourceError("out-of-memory", where=f"a tensor of {list(shape)}", cause=cause, fix=fix)
    padded = np.zeros(shape, array.dtype)
    padded[tuple(map(slice, array.shape))] = array
    return padded


def _physical() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
