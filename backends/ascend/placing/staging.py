"""Operands of contractions on their way into L1: loads with padding, gathered rows, values the vector cores made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import Block, View
from tilewright.backends.ascend.placed.layout import BLOCK_BYTES, round_up
from tilewright.backends.ascend.placing.frame import Frame
from tilewright.backends.ascend.placing.operand import Factor, flat_index
from tilewright.errors import UnsupportedError
from tilewright.ir.symbolic import ZERO, Expr, ceildiv, constant, maximum, minimum, symbol
from tilewright.ir.types import DType
from tilewright.kernel.expr import Load, Ref, Value

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.place import Context
    from tilewright.backends.ascend.placing.vector import VectorPart


@dataclass(slots=True)
class OperandPart:
    """Stages operands in L1, each as far out of the loops as what it depends on allows."""

    context: Context
    vector: VectorPart

    def stage(self, factor: Factor, rows: str, columns: str, tile: str) -> tuple[str, bool]:
        """The operand ``rows × columns`` in L1, and whether it lies there turned."""
        if isinstance(factor.value, Load):
            return self._stage_load(factor.value, rows, columns)
        return self._stage_computed(factor, rows, columns, tile)

    def _stage_load(self, load: Load, rows: str, columns: str) -> tuple[str, bool]:
        c = self.context
        index = tuple(self._settled(i, rows, columns, load) for i in load.index)
        flat = flat_index(c.scheduled.kernel, load.tensor, index)
        strides = {axis: flat.coefficient(axis) for axis in (rows, columns)}
        turned = strides[columns] != 1
        outer, inner = (columns, rows) if turned else (rows, columns)
        if strides[inner] != 1:
            raise UnsupportedError(
                "ascend-strided-operand",
                where=f"kernel {c.scheduled.kernel.name}, tensor {load.tensor}",
                cause="no axis of a matrix operand is contiguous in memory",
                fix="pack the tensor or transpose it before the contraction",
            )
        first = {axis: c.start(axis) for axis in (rows, columns)}
        frame = c.tree.frame_of([*index, *first.values(), c.count(rows), c.count(columns)])
        key = (load, index, rows, columns)
        if key not in frame.loaded:
            name = c.tree.add(
                f"{load.tensor}_l1", "l1", load.dtype, (c.lanes(outer), c.lanes(inner)), "cube", frame=frame
            )
            shape = c.scheduled.kernel.param(load.tensor).shape
            spans = {a: self._inside(load, index, shape, axis=a, first=first[a]) for a in (outer, inner)}
            self._gather(frame, name, load, flat=flat, strides=strides, outer=outer, inner=inner, spans=spans)
            frame.loaded[key] = name
        return str(frame.loaded[key]), turned

    def _settled(self, index: Expr | Value, rows: str, columns: str, load: Load) -> Expr:
        """``index`` with every axis but the two of the tile at its only lane."""
        if not isinstance(index, Expr):
            raise UnsupportedError(
                "ascend-gathered-operand",
                where=f"kernel {self.context.scheduled.kernel.name}, tensor {load.tensor}",
                cause="an operand of a matrix product is read through an index tensor",
                fix="gather into a tensor first",
            )
        others = [a for a in self.context.scope.ranges if a in index.symbols and a not in (rows, columns)]
        return self.context.expr(index.substitute({a: self.context.start(a) for a in others}))

    def _inside(
        self, load: Load, index: tuple[Expr, ...], shape: tuple[Expr, ...], *, axis: str, first: Expr
    ) -> tuple[Expr, Expr, bool]:
        """First lane of ``axis`` inside the tensor, how many are, and whether any may be outside."""
        c = self.context
        low, high, may_miss = ZERO, c.count(axis), False
        if load.fill is None:
            return low, high, False
        for i, size in zip(index, shape, strict=True):
            plain = i == symbol(axis) and c.scheduled.kernel.extent(axis) == size
            if axis not in i.symbols or plain:
                continue
            q = i.coefficient(axis)
            base = i.substitute({axis: first})
            low, may_miss = maximum(low, ceildiv(-base, q)), True
            high = minimum(high, ceildiv(size - base, q))
        return low, maximum(0, high - low), may_miss

    def _gather(
        self,
        frame: Frame,
        name: str,
        load: Load,
        *,
        flat: Expr,
        strides: dict[str, Expr],
        outer: str,
        inner: str,
        spans: dict[str, tuple[Expr, Expr, bool]],
    ) -> None:
        """Copy what lies inside the tensor; where something may not, the tile is zero before."""
        c = self.context
        shape = c.scheduled.kernel.param(load.tensor).shape
        rows, columns = spans[outer][1], spans[inner][1]
        present = constant(1)
        if load.fill is not None:
            for i, size in zip(load.index, shape, strict=True):
                assert isinstance(i, Expr)
                at = self._settled(i, outer, inner, load)
                if not at.symbols & {outer, inner} and not self._bound(at, size):
                    present = present * maximum(0, minimum(1, at + 1)) * maximum(0, minimum(1, size - at))
        if spans[outer][2] or spans[inner][2] or present != 1:
            if load.fill != 0:
                raise UnsupportedError(
                    "ascend-fill",
                    where=f"kernel {c.scheduled.kernel.name}, tensor {load.tensor}",
                    cause=f"the operand of a matrix product is filled with {load.fill}, not zero",
                    fix="pad the tensor first",
                )
            c.tree.emit(frame, "zero_l1", "cube", "MTE2", Block(name, ZERO, ZERO, c.count(outer), c.count(inner)))
        low = {axis: spans[axis][0] for axis in (outer, inner)}
        offset = flat.substitute({a: c.start(a) + low[a] for a in (outer, inner)})
        source = View(load.tensor, offset, ((rows * present, strides[outer]), (columns, constant(1))))
        dst = Block(name, low[outer], low[inner], rows * present, columns)
        c.tree.emit(frame, "nd2nz", "cube", "MTE2", dst, source)

    def _bound(self, index: Expr, size: Expr) -> bool:
        """Whether a plain axis index is inside by construction."""
        kernel = self.context.scheduled.kernel
        starts = {self.context.start(a.name) for a in kernel.axes if a.extent == size}
        return index in starts

    def _stage_computed(self, factor: Factor, rows: str, columns: str, tile: str) -> tuple[str, bool]:
        """An operand made by the vector cores: they write it to a workspace, the cube core reads it whole."""
        c = self.context
        refs = factor.value.axes if isinstance(factor.value, Ref) else None
        order = c.wide(refs or self.vector.axes_of(factor.value))
        turned = order != (rows, columns)
        shape = tuple(c.lanes(a) for a in order)
        pitch = row_pitch(shape[1], factor.dtype)
        frame = c.tree.top
        workspace = c.tree.add(f"{tile}_in", "gm", factor.dtype, (shape[0], pitch), None, frame=frame, workspace=True)
        self.vector.export(factor.value, order, workspace, pitch)
        name = c.tree.add(f"{tile}_in_l1", "l1", factor.dtype, shape, "cube", frame=frame)
        r, n = (c.count(a) for a in order)
        source = View(workspace, ZERO, ((r, constant(pitch)), (n, constant(1))))
        c.tree.emit(frame, "nd2nz", "cube", "MTE2", Block(name, ZERO, ZERO, r, n), source)
        return name, turned


def row_pitch(lanes: int, dtype: DType) -> int:
    """Elements from one row of a workspace to the next: no two rows share a block of 32 bytes."""
    return round_up(lanes, BLOCK_BYTES * 8 // dtype.bits)
