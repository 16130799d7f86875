"""The machine under both interpreters: evaluates expressions on grids of lanes and checks every access to memory.

Every array has one dimension per axis of the kernel, of size 1 where the axis does not matter. Beside each array goes
its *taint*: a boolean array of the lanes whose value is undefined (padding, memory never written), or ``None``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tilewright.errors import InternalError
from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType
from tilewright.kernel import numerics
from tilewright.kernel.analysis import identity, used_symbols
from tilewright.kernel.expr import Binary, Cast, Const, IndexValue, Load, Ref, Select, Unary, Value
from tilewright.kernel.pack import evaluate_on_grid
from tilewright.kernel.tile import Kernel, Param, Reduction

Array = npt.NDArray[Any]
Taint = npt.NDArray[np.bool_] | None


class KernelFault(InternalError):
    """A kernel did what no kernel may: left its memory, or used a value that nobody defined."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """Concrete range of an axis: ``start … start + size - 1``, padding from ``limit`` on."""

    start: int
    size: int
    limit: int

    @property
    def padded(self) -> bool:
        return self.start + self.size > self.limit


@dataclass(slots=True)
class Buffer:
    """A tile: values, taint, and the axis value at lane 0 of each of its axes."""

    values: Array
    taint: npt.NDArray[np.bool_]
    axes: tuple[str, ...]
    starts: Mapping[str, int]
    dtype: DType


def union(*taints: Taint) -> Taint:
    """Lanes undefined in any of ``taints``."""
    result: Taint = None
    for t in taints:
        result = t if result is None else (result if t is None else result | t)
    return result


def _any(taint: npt.NDArray[np.bool_], dims: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    return np.asarray(np.any(taint, axis=dims, keepdims=True))


@dataclass(slots=True)
class Machine:
    """Memory, tiles and the current ranges of one run."""

    kernel: Kernel
    params: Mapping[str, Param]
    dims: dict[str, int]
    memory: dict[str, Array]
    lanes: dict[str, Lanes] = field(default_factory=dict)
    tiles: dict[str, Buffer] = field(default_factory=dict)
    written: dict[str, Array] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.order = {a.name: n for n, a in enumerate(self.kernel.axes)}

    # -- lanes -------------------------------------------------------------------------------------------------

    def grid(self, axis: str) -> Array:
        """Values of ``axis`` over its lanes, along its own dimension."""
        r = self.lanes[axis]
        shape = [1] * len(self.order)
        shape[self.order[axis]] = r.size
        return np.arange(r.start, r.start + r.size).reshape(shape)

    def padding(self, axes: Collection[str]) -> Taint:
        """The padded lanes along any of ``axes``."""
        return union(*(self.grid(a) >= self.lanes[a].limit for a in axes if self.lanes[a].padded))

    def shape(self, axes: Collection[str]) -> list[int]:
        """Full-rank shape of what varies along ``axes``."""
        return [self.lanes[a].size if a in axes else 1 for a in self.order]

    def index(self, e: Expr) -> Array:
        """The values of an index expression over the lanes."""
        values: dict[str, Any] = {n: self.grid(n) if n in self.order else self.dims[n] for n in e.symbols}
        return np.asarray(evaluate_on_grid(e, values), np.int64).reshape(
            self.shape(e.symbols) if e.symbols & self.order.keys() else [1] * len(self.order)
        )

    # -- expressions -------------------------------------------------------------------------------------------

    def evaluate(self, v: Value, guards: Collection[str] = ()) -> tuple[Array, Taint]:
        """Values and taint of ``v``; padded lanes along ``guards`` read nothing."""
        match v:
            case Const(value=number, dtype=dtype):
                return np.full([1] * len(self.order), number).astype(dtype.numpy), None
            case IndexValue(index=index, dtype=dtype):
                return numerics.cast(self.index(index), DType.I64, dtype), None
            case Load():
                return self.load(v, guards)
            case Ref():
                return self.reference(v, guards)
            case Unary(op=op, x=x):
                a, ta = self.evaluate(x, guards)
                return numerics.unary(op, a, x.dtype), ta
            case Cast(dtype=dtype, x=x):
                a, ta = self.evaluate(x, guards)
                return numerics.cast(a, x.dtype, dtype), ta
            case Binary(op=op, a=x, b=y):
                (a, ta), (b, tb) = self.evaluate(x, guards), self.evaluate(y, guards)
                return numerics.binary(op, a, b, x.dtype), union(ta, tb)
            case Select(cond=c, a=x, b=y):
                cond, tc = self.evaluate(c, guards)
                (a, ta), (b, tb) = self.evaluate(x, guards), self.evaluate(y, guards)
                taint = None
                if ta is not None or tb is not None:
                    clean = np.zeros([1] * len(self.order), np.bool_)
                    taint = np.where(cond, clean if ta is None else ta, clean if tb is None else tb)
                return np.where(cond, a, b), union(tc, taint)

    def load(self, v: Load, guards: Collection[str]) -> tuple[Array, Taint]:
        array = self.memory[v.tensor]
        axes = used_symbols(v) & self.order.keys()
        skipped = self.padding([a for a in axes if a in guards])
        taint = skipped
        outside: Any = False
        entries: list[Array] = []
        for entry, size in zip(v.index, array.shape, strict=True):
            if isinstance(entry, Expr):
                at = self.index(entry)
            else:
                at, undefined = self.evaluate(entry, guards)
                taint = union(taint, undefined)
            beyond = (at < 0) | (at >= size)
            if beyond.any():
                at = np.clip(at, 0, max(size - 1, 0))
                outside = outside | beyond
            entries.append(at)
        if outside is not False:
            bad = outside if v.fill is not None or skipped is None else outside & ~skipped
            if v.fill is None and bad.any():
                raise KernelFault(f"{self.kernel.name}: read of {v.tensor} outside it at {self.where(bad)}")
        if array.size == 0:
            values = np.zeros(np.broadcast_shapes(*(e.shape for e in entries)), array.dtype)
        elif (order := self.whole(v.index, array.shape)) is not None:
            values = array.transpose(np.argsort(order)).reshape(self.shape(axes))
        else:
            values = array[tuple(entries)] if entries else array.reshape([1] * len(self.order))
        if v.fill is not None and outside is not False:
            values = np.where(outside, np.asarray(v.fill).astype(array.dtype), values)
        if skipped is not None:
            values = np.where(skipped, np.asarray(numerics.poison(v.dtype)).astype(array.dtype), values)
        return values, taint

    def reference(self, v: Ref, guards: Collection[str]) -> tuple[Array, Taint]:
        buffer = self.tiles[v.tile]
        values, taint = buffer.values, buffer.taint
        for axis in buffer.axes:
            dim, r = self.order[axis], self.lanes[axis]
            offset, held = r.start - buffer.starts[axis], values.shape[self.order[axis]]
            if offset == 0 and r.size == held:
                continue
            if offset < 0 or (offset + r.size > held and axis not in guards):
                raise KernelFault(
                    f"{self.kernel.name}: tile {v.tile} holds {held} lanes of {axis}; "
                    f"lanes {offset} to {offset + r.size - 1} are read"
                )
            cut: list[slice] = [slice(None)] * values.ndim
            cut[dim] = slice(offset, min(offset + r.size, held))
            values, taint = values[tuple(cut)], taint[tuple(cut)]
            if (missing := r.size - values.shape[dim]) > 0:
                extra = [(0, missing if n == dim else 0) for n in range(values.ndim)]
                values = np.pad(
                    values, extra, constant_values=np.asarray(numerics.poison(v.dtype)).astype(values.dtype)
                )
                taint = np.pad(taint, extra, constant_values=True)
        skipped = self.padding([a for a in buffer.axes if a in guards])
        if skipped is None:
            return values, taint
        return values, taint | skipped

    # -- reductions --------------------------------------------------------------------------------------------

    def reduced(self, v: Value, r: Reduction, guards: Collection[str]) -> tuple[Array, Taint]:
        """``r`` of ``v``; padded lanes along ``guards`` count as the identity, others taint the result."""
        dims = tuple(self.order[a] for a in r.axes)
        masked = self.padding([a for a in r.axes if a in guards])
        loose = self.padding([a for a in r.axes if a not in guards])
        if (product := self.contraction(v, r, guards, masked, dims)) is not None:
            values, taint = product
        else:
            values, taint = self.evaluate(v, guards)
            values = self.spread(values, r.axes)
            if masked is not None:
                values = np.where(masked, np.asarray(identity(r.op, v.dtype).value).astype(values.dtype), values)
                taint = None if taint is None else taint & ~masked
            values = numerics.reduce(r.op, values, dims, v.dtype)
        if taint is not None:
            taint = _any(taint, dims)
        if loose is not None:
            taint = union(taint, np.ones([1] * len(self.order), np.bool_))
        return values, taint

    def contraction(
        self, v: Value, r: Reduction, guards: Collection[str], masked: Taint, dims: tuple[int, ...]
    ) -> tuple[Array, Taint] | None:
        """A sum of products without making the products; ``None`` when ``v`` is something else."""
        if r.op != "sum" or not isinstance(v, Binary) or v.op != "mul" or v.dtype.bits < 32:
            return None
        parts = []
        for x in (v.a, v.b):
            values, taint = self.evaluate(x, guards)
            if masked is not None:
                values = np.where(masked, np.zeros((), values.dtype), values)
                taint = None if taint is None else taint & ~masked
            if taint is not None:
                taint = _any(taint, dims)
            parts.append((values, taint))
        (a, ta), (b, tb) = parts
        if any(max(a.shape[d], b.shape[d]) != size for d, size in zip(dims, self.sizes(r.axes), strict=True)):
            return None
        return numerics.contract(a, b, dims, v.dtype), union(ta, tb)

    def sizes(self, axes: Collection[str]) -> list[int]:
        return [self.lanes[a].size for a in axes]

    def spread(self, x: Array, axes: Collection[str]) -> Array:
        """``x`` repeated along those of ``axes`` on which it does not depend."""
        shape = [self.lanes[a].size if a in axes else x.shape[n] for n, a in enumerate(self.order)]
        return np.broadcast_to(x, shape)

    # -- memory ------------------------------------------------------------------------------------------------

    def store(
        self, tensor: str, axes: tuple[str, ...], index: tuple[Expr | Value, ...], v: Value, guards: Collection[str]
    ) -> None:
        """Write the lanes of ``axes``; a lane that is undefined, outside or already written is a fault."""
        values, taint = self.evaluate(v, guards)
        loose = self.padding([a for a in axes if a not in guards])
        if loose is not None:
            raise KernelFault(f"{self.kernel.name}: padding is written to {tensor} at {self.where(loose)}")
        shape = self.shape(axes)
        skipped = self.padding([a for a in axes if a in guards])
        live = np.ones(shape, np.bool_) if skipped is None else np.broadcast_to(~skipped, shape)
        if taint is not None and (np.broadcast_to(taint, shape) & live).any():
            bad = np.broadcast_to(taint, shape) & live
            raise KernelFault(f"{self.kernel.name}: an undefined value is written to {tensor} at {self.where(bad)}")
        array = self.memory[tensor]
        order = self.whole(index, array.shape)
        if order is not None and len(axes) == len(order) and not self.written[tensor].any():
            rest = [d for d in range(len(shape)) if d not in order]
            array[...] = np.broadcast_to(values, shape).transpose(order + rest).reshape(array.shape)
            self.written[tensor][...] = True
            return
        entries = []
        for entry, size in zip(index, array.shape, strict=True):
            at = self.index(entry) if isinstance(entry, Expr) else self.evaluate(entry, guards)[0]
            at = np.broadcast_to(at, shape)[live]
            if ((at < 0) | (at >= size)).any():
                raise KernelFault(f"{self.kernel.name}: write to {tensor} outside it, index {entry}")
            entries.append(at)
        where: Any = tuple(entries) if entries else (np.newaxis,)
        marks = self.written[tensor]
        before = np.count_nonzero(marks)
        array[where] = np.broadcast_to(values, shape)[live]
        marks[where] = True
        if np.count_nonzero(marks) - before != np.count_nonzero(live):
            raise KernelFault(f"{self.kernel.name}: an element of {tensor} is written twice")

    def whole(self, index: tuple[Expr | Value, ...], shape: tuple[int, ...]) -> list[int] | None:
        """The dimension of the axis that each entry is, where the lanes are exactly the elements of an array."""
        names = [str(e) for e in index if isinstance(e, Expr)]
        if len(names) < len(index) or len(set(names)) < len(names) or not all(n in self.order for n in names):
            return None
        lanes = [self.lanes[n] for n in names]
        if any(r.start or r.padded or r.size != size for r, size in zip(lanes, shape, strict=True)):
            return None
        return [self.order[n] for n in names]

    def where(self, mask: Any) -> str:
        """The first lane of ``mask``, for messages."""
        first = np.argwhere(np.asarray(mask))[0]
        names = [
            f"{a}={self.lanes[a].start + first[n]}" for a, n in self.order.items() if np.asarray(mask).shape[n] > 1
        ]
        return ", ".join(names) or "every lane"

    def finish(self) -> dict[str, Array]:
        """The outputs. An element that was never written is a fault, except where an output aliases an input."""
        for p in self.params.values():
            if p.role == "out" and p.alias is None and not self.written[p.name].all():
                raise KernelFault(f"{self.kernel.name}: an element of {p.name} is never written")
        return {p.name: self.memory[p.name] for p in self.params.values() if p.role == "out"}
