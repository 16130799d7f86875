"""Whether programs fit the rest of their artifact: checked once, so that a run only meets what can be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from tilewright.runtime.artifact import Artifact
from tilewright.runtime.devices.mesh import Cut, check_cut, shard_shape
from tilewright.runtime.format import WEIGHTS
from tilewright.runtime.library import MAX_RANK
from tilewright.runtime.manifest import EntryInfo, TargetInfo, TensorInfo, WeightInfo
from tilewright.runtime.programs import Entry, Programs, Slot, Step, evaluate, lone_symbol, symbols_of
from tilewright.runtime.tensors import DTYPES, PACKED

#: Bytes of a tensor of a program: more is not allocated for anybody.
MAX_BYTES = 1 << 46


class _Misfit(Exception):
    """What does not fit."""


def check_programs(programs: Programs, artifact: Artifact, target: TargetInfo) -> None:
    """Raise :class:`~tilewright.runtime.errors.ArtifactError` where programs do not fit the manifest and the members.

    Every slot is made before it is read, and once; its type is that of the signature; symbols have values; members and
    weights are there, of the size that their types say.
    """
    manifest = artifact.manifest
    try:
        _require(len(programs.entries) == len(manifest.entries), "it has other entry points than the manifest")
        for name in () if not programs.host else ("plan.bin", "kernels.so", "runtime.so"):
            _require(name in target.members, f"its host part has no {name}")
        weights = {w.name: w for w in manifest.weights}
        limit = manifest.sizes[WEIGHTS]
        for program, info in zip(programs.entries, manifest.entries, strict=True):
            _require(program.name == info.name, f"entry {program.name!r} is {info.name!r} in the manifest")
            _Entry(program, info, programs, target, weights, limit).check()
    except _Misfit as error:
        raise artifact.damaged("program.json", str(error)) from None


def size_of(slot: Slot, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a slot at some sizes. Raises ``ValueError`` for one that no tensor has, ``KeyError`` for a symbol
    without a size."""
    try:
        shape = tuple(evaluate(e, sizes) for e in slot.shape)
    except ZeroDivisionError:
        raise ValueError("a division by zero") from None
    if any(n < 0 for n in shape) or math.prod(max(n, 1) for n in shape) * 8 > MAX_BYTES:
        raise ValueError(f"a tensor of {list(shape)}")
    return shape


def constant_bytes(weight: WeightInfo) -> int:
    """Bytes of a weight by its type. Raises ``ValueError`` for a type that there is none of."""
    if weight.dtype not in DTYPES:
        raise ValueError(f"weight {weight.name!r} of type {weight.dtype!r}")
    bits = PACKED.get(weight.dtype, 8 * DTYPES[weight.dtype][1].itemsize)
    return -(-math.prod(weight.shape) * bits // 8)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise _Misfit(message)


class _Entry:
    """One entry point while it is checked."""

    def __init__(
        self,
        program: Entry,
        info: EntryInfo,
        programs: Programs,
        target: TargetInfo,
        weights: Mapping[str, WeightInfo],
        limit: int,
    ):
        self.program, self.info, self.programs, self.target = program, info, programs, target
        self.weights, self.limit = weights, limit

    def check(self) -> None:
        program, info = self.program, self.info
        _require(len(program.slots) >= len(info.inputs), f"entry {info.name!r} has fewer slots than inputs")
        _require(len(program.results) == len(info.outputs), f"entry {info.name!r} has other outputs than the manifest")
        for slot in program.slots:
            _require(slot.dtype in DTYPES, f"a slot of type {slot.dtype!r}")
            _require(len(slot.shape) <= MAX_RANK, f"a slot of rank {len(slot.shape)}")
        for tensor, slot in zip(info.inputs, program.slots, strict=False):
            self._same(tensor, slot.dtype, len(slot.shape))
        known = {s for slot in program.slots[: len(info.inputs)] for e in slot.shape if (s := lone_symbol(e))}
        for symbol in info.symbols:
            _require(symbol.name in known, f"no input gives the size {symbol.name}")
            _require(symbol.multiple > 0, f"size {symbol.name} is a multiple of {symbol.multiple}")
        self._symbols(known, (e for slot in program.slots[: len(info.inputs)] for e in slot.shape))
        made = set(range(len(info.inputs)))
        for step in program.steps:
            self._step(step, made, known)
            made |= set(step.outputs)
        for tensor, result in zip(info.outputs, program.results, strict=True):
            if isinstance(result, str):
                weight = self._weight(result)
                self._same(tensor, weight.dtype, len(weight.shape))
            else:
                _require(result in made, f"output {tensor.name!r} is never made")
                self._same(tensor, program.slots[result].dtype, len(program.slots[result].shape))

    def _same(self, tensor: TensorInfo, dtype: str, rank: int) -> None:
        same = tensor.dtype == dtype and len(tensor.shape) == rank
        _require(same, f"{tensor} of entry {self.info.name!r} has another type in the program")

    def _step(self, step: Step, made: set[int], known: set[str]) -> None:
        slots = self.program.slots
        _require(set(step.inputs) <= made, "a step reads what is not made yet")
        _require(not set(step.outputs) & made and len(set(step.outputs)) == len(step.outputs), "a slot is made twice")
        if step.host:
            _require(self.programs.host, "a step runs a host part that is not there")
            known |= {s for o in step.outputs for e in slots[o].shape if (s := lone_symbol(e))}
            return
        self._symbols(known, (e for i in (*step.inputs, *step.outputs) for e in slots[i].shape))
        sizes = set(step.variants[0].sizes)
        _require(sizes <= known, f"sizes {sorted(sizes - known)} are not known where a program needs them")
        _require(set(step.padded) <= sizes, "a padded size is none of a program's")
        for name, cut in zip(step.weights, step.cuts.weights, strict=True):
            self._cut(self._weight(name), cut)
        for variant in step.variants:
            for member in (variant.module, variant.executable):
                _require(not member or member in self.target.members, f"there is no member {member!r}")
            _require(bool(variant.module), "a program without a portable form")
            cuts = zip((*step.inputs, *step.outputs), (*step.cuts.inputs, *step.cuts.outputs), strict=True)
            try:
                for i, cut in cuts:
                    shard_shape(size_of(slots[i], variant.sizes), cut, self.programs.mesh)
            except (ValueError, KeyError) as error:
                raise _Misfit(f"program {variant.module}: {error}") from None

    def _cut(self, weight: WeightInfo, cut: Cut) -> None:
        shape = (weight.size,) if weight.dtype in PACKED else weight.shape
        try:
            check_cut(cut, len(shape), self.programs.mesh)
            shard_shape(shape, cut, self.programs.mesh)
        except ValueError as error:
            raise _Misfit(f"weight {weight.name!r}: {error}") from None

    def _symbols(self, known: set[str], expressions: Iterable[tuple[int | str, ...]]) -> None:
        for expression in expressions:
            missing = symbols_of(expression) - known
            _require(not missing, f"sizes {sorted(missing)} are not known where they are needed")

    def _weight(self, name: str) -> WeightInfo:
        weight = self.weights.get(name)
        if weight is None:
            raise _Misfit(f"there is no weight {name!r}")
        try:
            size = constant_bytes(weight)
        except ValueError as error:
            raise _Misfit(str(error)) from None
        inside = weight.offset + weight.size <= self.limit
        _require(inside and size == weight.size, f"weight {name!r} does not lie within the weights as its type says")
        return weight
