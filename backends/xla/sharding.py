"""How the tensors of a region lie on a mesh of devices.

The axes of a mesh have no names: ``auto`` cuts the batch along the first and weights along the others (where the batch
cannot be cut, weights along all of them, and where no weight can, the batch); ``tensor`` cuts weights along all axes,
``batch`` the batch. Which weights are cut, and along which dimension, is found by structure
(:mod:`tilewright.backends.xla.cuts`); what does not divide stays whole, and the table of decisions says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import onnx_ir as ir
from tilewright.backends.base import WeightCut
from tilewright.backends.xla.buckets import Bucket
from tilewright.backends.xla.cuts import Cuts, cuts_of
from tilewright.backends.xla.narrow import packed_type
from tilewright.ir.facts import assumptions
from tilewright.ir.graph import type_of
from tilewright.ir.symbolic import Expr, constant, symbol
from tilewright.passes.place import Region
from tilewright.plan.programs import Sharding

#: For each dimension the mesh axes that a value is cut along; ``None`` leaves that to the partitioner.
Spec = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True, slots=True)
class Shardings:
    """What the partitioner is told.

    Attributes:
        mesh: devices along each axis.
        given: of inputs of the region, weights and outputs; those that are not there are whole.
        inner: of activations.
        kept: why weights that could have been cut are not.
        notes: what was asked for and cannot be, and why.
    """

    mesh: tuple[int, ...]
    given: Mapping[ir.Value, Sharding] = field(default_factory=dict)
    inner: Mapping[ir.Value, Spec] = field(default_factory=dict)
    kept: Mapping[ir.Value, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def of(self, value: ir.Value) -> Sharding:
        """How an input, a weight or an output lies."""
        return self.given.get(value) or Sharding(((),) * type_of(value).rank)

    def operand(self, weight: ir.Value) -> Sharding:
        """How a weight lies in the form in which programs get it: of types of less than 8 bits as bytes in a row, which
        are cut where the slowest dimension is."""
        type_, given = type_of(weight), self.of(weight)
        (size, *_), dtype = packed_type(type_).shape or (constant(1),), type_.dtype
        if dtype.bits >= 8:
            return given
        count = prod(self.mesh[axis] for axis in given.dims[0])
        whole_bytes = type_.elements.value * dtype.bits % (8 * count) == 0 and size.value % count == 0
        return Sharding((given.dims[0] if whole_bytes else (),))

    def listed(self, region: Region, padded: int, weights: Sequence[ir.Value]) -> tuple[Sharding, ...]:
        """In the order of a step: inputs, ``padded`` sizes, weights, outputs."""
        operands = [*map(self.of, region.inputs), *[Sharding(())] * padded, *map(self.operand, weights)]
        return (*operands, *map(self.of, region.outputs))

    def table(self, weights: Sequence[ir.Value]) -> tuple[WeightCut, ...]:
        """What became of each weight."""
        return tuple(self._row(v) for v in weights)

    def _row(self, value: ir.Value) -> WeightCut:
        type_ = type_of(value)
        shape = tuple(s.value for s in type_.shape)
        dims = self.operand(value).dims if type_.dtype.bits < 8 else self.of(value).dims
        counts = tuple(prod(self.mesh[axis] for axis in dim) for dim in dims)
        size = -(-prod(shape) * type_.dtype.bits // 8)
        reason = self.kept.get(value, "")
        if any(self.of(value).dims) and not any(dims):
            reason = f"{type_.dtype} lies in bytes, which are cut along the first dimension only"
        return WeightCut(str(value.name), shape, counts, size, size // prod(counts), reason)


def shard(
    model: ir.Model, region: Region, buckets: Sequence[Bucket], mesh: tuple[int, ...], how: str
) -> tuple[Shardings, tuple[Bucket, ...]]:
    """How a region lies on ``mesh``, cut as ``how`` says (``auto``, ``tensor`` or ``batch``), and its buckets, whose
    batch can then be divided."""
    every = tuple(axis for axis, size in enumerate(mesh) if size > 1)
    notes: list[str] = []
    batch = _Batch(model, region, buckets, mesh)

    def along(axes: tuple[int, ...]) -> tuple[int, ...]:
        """The axes if the batch can be cut along them, else none."""
        if axes and (problem := batch.problem(axes)):
            notes.append(problem)
            return ()
        return axes

    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    cuts = Cuts(1)
    if how == "batch":
        rows = along(every)
    elif how == "tensor":
        columns, cuts = _best(region, every, mesh)
    else:
        rows = along(every[:1])
        columns, cuts = _best(region, every[1:] if rows else every, mesh)
        if rows and not cuts.weights and not batch.problem(every):
            rows = every
    if how != "batch" and not cuts.weights:
        notes.append(f"no weight can be cut over {prod(mesh[a] for a in every if a not in rows)} devices")
    if cuts.weights and len(columns) < len(every) - len(rows):
        notes.append(f"weights are cut over {cuts.count} devices only")
    given = {v: _cut(v, batch.size, rows, cuts, columns) for v in (*region.inputs, *region.outputs)}
    for value, dim in cuts.weights.items():
        given[value] = Sharding(tuple(columns if d == dim else () for d in range(type_of(value).rank)))
    shardings = Shardings(mesh, given, _inner(region, cuts, columns), cuts.kept, tuple(notes))
    return shardings, batch.rounded(prod(mesh[a] for a in rows)) if rows else tuple(buckets)


def _best(region: Region, axes: tuple[int, ...], mesh: tuple[int, ...]) -> tuple[tuple[int, ...], Cuts]:
    """The axes, of all or only of some, along which weights take the least room on a device, and the cuts."""
    tries = dict.fromkeys((axes, axes[1:], axes[:-1]))
    found = [(a, cuts_of(region, prod(mesh[i] for i in a))) for a in tries if a]
    if not found:
        return (), Cuts(1)
    saved = [sum(_bytes(v) for v in cuts.weights) * (1 - 1 / cuts.count) for _, cuts in found]
    return found[saved.index(max(saved))]


def _bytes(value: ir.Value) -> int:
    type_ = type_of(value)
    return type_.elements.value * type_.dtype.bits // 8


def _cut(value: ir.Value, batch: Expr | None, rows: tuple[int, ...], cuts: Cuts, columns: tuple[int, ...]) -> Sharding:
    """How an input or an output lies."""
    shape = type_of(value).shape
    dims: list[tuple[int, ...]] = [()] * len(shape)
    if shape and rows and shape[0] == batch and cuts.values.get(value) != 0:
        dims[0] = rows
    if value in cuts.values:
        dims[cuts.values[value]] += columns
    return Sharding(tuple(dims))


#: Operators whose results tell the partitioner how activations are cut; it carries that on to all others.
_TOLD = ("MatMul", "Gemm", "Conv", "Reshape", "Concat")


def _inner(region: Region, cuts: Cuts, columns: tuple[int, ...]) -> Mapping[ir.Value, Spec]:
    """Products and heads that are cut, and sums that are whole; along the batch the partitioner decides."""
    found: dict[ir.Value, Spec] = {}
    for node in region.nodes:
        for value in node.outputs:
            if value in cuts.values and node.op_type in _TOLD:
                dim = cuts.values[value]
                found[value] = tuple(columns if d == dim else None for d in range(type_of(value).rank))
            elif value in cuts.whole:
                rank = type_of(value).rank
                features = 1 if node.op_type == "Conv" else rank - 1
                found[value] = tuple(() if d == features else None for d in range(rank))
    return found


class _Batch:
    """The leading size that most inputs of a region have, and whether it can be cut."""

    def __init__(self, model: ir.Model, region: Region, buckets: Sequence[Bucket], mesh: tuple[int, ...]):
        self.buckets, self.mesh = buckets, mesh
        self.tied = {s for a in assumptions(model) for s in a.left.symbols | a.right.symbols}
        leading = Counter(type_.shape[0] for v in region.inputs if (type_ := type_of(v)).rank)
        leading.pop(constant(1), None)
        self.size: Expr | None = max(leading, key=lambda size: leading[size]) if leading else None

    def problem(self, axes: tuple[int, ...]) -> str:
        """Why the batch cannot be cut along ``axes``; empty where it can."""
        count = prod(self.mesh[a] for a in axes)
        if self.size is None:
            return "no input has a batch of more than 1"
        if self.is_padded:
            return ""
        sizes = {self.size.evaluate(b.sizes) for b in self.buckets} if self.buckets else {self.size.value}
        bad = [size for size in sorted(sizes) if size % count]
        return f"a batch of {bad[0]} cannot be divided by {count}" if bad else ""

    @property
    def is_padded(self) -> bool:
        """Whether it can be rounded up: no other size is tied to it."""
        return self.symbol not in self.tied and all(self.symbol in b.padded for b in self.buckets)

    @property
    def symbol(self) -> str | None:
        """Its name, where it is an open size."""
        return next((s for s in self.size.symbols if self.size == symbol(s)), None) if self.size is not None else None

    def rounded(self, count: int) -> tuple[Bucket, ...]:
        """The buckets with a batch that can be cut in ``count`` parts: padded sizes are rounded up."""
        found: dict[tuple[tuple[str, int], ...], Bucket] = {}
        for bucket in self.buckets:
            sizes = dict(bucket.sizes)
            if self.symbol is not None and self.is_padded:
                sizes[self.symbol] = -(-sizes[self.symbol] // count) * count
            found.setdefault(tuple(sizes.items()), Bucket(sizes, bucket.padded))
        return tuple(found.values())
