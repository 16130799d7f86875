"""Runs a part of programs: chooses the bucket, pads, runs, cuts; the host part's entry points in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.devices.xla import Client
from tilewright.runtime.errors import InputError
from tilewright.runtime.format import WEIGHTS
from tilewright.runtime.manifest import Manifest, TargetInfo, TensorInfo
from tilewright.runtime.programs import Entry, Slot, Step, Variant, evaluate, parse_programs
from tilewright.runtime.tensors import PACKED, Array, as_input, dtype_of


class ProgramSession:
    """A loaded part of programs; the interface is that of :class:`tilewright.runtime.session.Session`."""

    def __init__(self, artifact: Artifact, target: TargetInfo, entry: str | None = None):
        self.manifest: Manifest = artifact.manifest
        self.target = target.target
        self.threads = 0
        self._artifact, self._target = artifact, target
        self._programs = parse_programs(bytes(artifact.checked(target.members["program.json"])), artifact.where)
        self._client = Client("cpu")
        self._entry = self.manifest.entry(entry)
        self._weights: dict[str, Any] = {}
        self._executables: dict[str, Any] = {}

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Inputs of the entry point."""
        return self.manifest.entries[self._entry].inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Outputs of the entry point."""
        return self.manifest.entries[self._entry].outputs

    def run(
        self,
        output_names: Sequence[str] | None,
        inputs: Mapping[str, Any],
        *,
        out: Mapping[str, Array] | None = None,
        entry: str | None = None,
    ) -> list[Array]:
        """Run the model once; arguments and errors as of :meth:`tilewright.runtime.session.Session.run`."""
        index = self._entry if entry is None else self.manifest.entry(entry)
        info = self.manifest.entries[index]
        program = self._programs.entries[index]
        arrays = [as_input(i, inputs[i.name]) for i in info.inputs]
        symbols = _symbols(program, arrays)
        values: dict[int, Array] = dict(enumerate(arrays))
        for step in program.steps:
            results = self._run(step, program, [values[i] for i in step.inputs], symbols)
            values |= dict(zip(step.outputs, results, strict=True))
        outputs = [self._constant(r) if isinstance(r, str) else values[r] for r in program.results]
        by_name = {o.name: r for o, r in zip(info.outputs, outputs, strict=True)}
        return [by_name[n] for n in (output_names if output_names is not None else by_name)]

    def __call__(self, **inputs: Any) -> dict[str, Array]:
        """Run the model on inputs by name; outputs by name."""
        return {o.name: r for o, r in zip(self.outputs, self.run(None, inputs), strict=True)}

    def _run(self, step: Step, entry: Entry, inputs: list[Array], symbols: Mapping[str, int]) -> list[Array]:
        variant = _choose(step.variants, symbols, step.padded)
        padded = [_pad(a, entry.slots[i], variant.sizes) for a, i in zip(inputs, step.inputs, strict=True)]
        arguments = [self._client.put(a) for a in padded]
        arguments += [self._client.put(np.array(symbols[s], np.int32)) for s in step.padded]
        arguments += [self._weight(name) for name in step.weights]
        results = self._client.run(self._executable(variant), arguments)
        return [_cut(r, entry.slots[o], symbols) for r, o in zip(results, step.outputs, strict=True)]

    def _executable(self, variant: Variant) -> Any:
        if variant.module not in self._executables:
            module = self._artifact.checked(self._target.members[variant.module])
            self._executables[variant.module] = self._client.compile(bytes(module))
        return self._executables[variant.module]

    def _weight(self, name: str) -> Any:
        if name not in self._weights:
            self._weights[name] = self._client.put(self._constant(name, packed=True))
        return self._weights[name]

    def _constant(self, name: str, packed: bool = False) -> Array:
        """A weight; ``packed``: as programs get it, types of less than 8 bits as the bytes that hold them."""
        weight = next(w for w in self.manifest.weights if w.name == name)
        _, dtype = dtype_of(TensorInfo(name, weight.dtype, weight.shape))
        data = self._artifact.bytes_of(WEIGHTS)[weight.offset : weight.offset + weight.size]
        if packed and weight.dtype in PACKED:
            return np.frombuffer(data, np.uint8)
        return np.frombuffer(data, dtype).reshape(weight.shape)


def _symbols(entry: Entry, inputs: Sequence[Array]) -> dict[str, int]:
    """The value of each symbol, from the dimensions that are a symbol alone."""
    found: dict[str, int] = {}
    for slot, array in zip(entry.slots, inputs, strict=False):
        for expression, size in zip(slot.shape, array.shape, strict=True):
            if len(expression) == 3 and expression[0] == 1 and expression[2] == "*":
                found.setdefault(str(expression[1])[1:], size)
    return found


def _choose(variants: Sequence[Variant], symbols: Mapping[str, int], padded: Sequence[str]) -> Variant:
    """The first variant that holds the sizes."""
    for variant in variants:
        if all(symbols[s] <= n if s in padded else symbols[s] == n for s, n in variant.sizes.items()):
            return variant
    raise InputError(
        "bucket-missing",
        where=", ".join(f"{s}={symbols[s]}" for s in variants[0].sizes),
        cause="no program of the artifact is large enough",
        fix="compile it for these sizes",
    )


def _pad(array: Array, slot: Slot, sizes: Mapping[str, int]) -> Array:
    shape = tuple(evaluate(e, sizes) for e in slot.shape)
    if shape == array.shape:
        return array
    padded = np.zeros(shape, array.dtype)
    padded[tuple(slice(n) for n in array.shape)] = array
    return padded


def _cut(array: Array, slot: Slot, symbols: Mapping[str, int]) -> Array:
    return array[tuple(slice(evaluate(e, symbols)) for e in slot.shape)]
