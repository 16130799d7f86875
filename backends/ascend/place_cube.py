"""Contractions on the cube core: gm → L1 → L0A/L0B → L0C, and out through the fixpipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tilewright.backends.ascend.frame import Frame
from tilewright.backends.ascend.layout import round_up
from tilewright.backends.ascend.operand import Factor, factor_of, flat_index
from tilewright.backends.ascend.placed import Block, Loop, View
from tilewright.errors import UnsupportedError
from tilewright.ir.symbolic import ZERO, Expr, as_expr, ceildiv, constant, maximum, minimum, symbol
from tilewright.ir.types import DType
from tilewright.kernel.expr import Binary, Cast, Const, Load, Ref, Value
from tilewright.kernel.schedule import Compute, Write

if TYPE_CHECKING:
    from tilewright.backends.ascend.place import Context
    from tilewright.backends.ascend.place_vector import VectorPart


@dataclass(slots=True)
class _Sum:
    """An accumulator tile: its buffer in L0C, its two wide axes, the loop in which it starts, its way out."""

    buffer: str
    axes: tuple[str, ...]
    frame: Frame
    workspace: str | None = None


@dataclass(slots=True)
class CubePart:
    """Places contractions. ``sums``: accumulator tiles by name."""

    context: Context
    vector: VectorPart
    sums: dict[str, _Sum] = field(default_factory=dict)

    def contract(self, node: Compute) -> None:
        """One step of a sum of products: bring both operands to L0 piece by piece and multiply."""
        assert isinstance(node.value, Binary) and node.reduce is not None
        c = self.context
        row, column, inner = self._roles(node)
        a, b = factor_of(node.value.a), factor_of(node.value.b)
        if row not in a.axes:
            a, b = b, a
        self._check_dtype(node, a, b)
        total = self._accumulator(node, row, column)
        left, left_turned = self._stage(a, row, inner, node.tile)
        right, right_turned = self._stage(b, inner, column, node.tile)
        k1, k0 = c.lanes(inner), self._inner_piece(c.lanes(row), c.lanes(column), c.lanes(inner), a.dtype)
        valid = c.count(inner)
        start = sum((symbol(f.var) - c.expr(loop.lo) for f, loop in self._reduction_loops(node)), ZERO)
        if k1 <= k0:
            self._multiply(c.tree.top, total, a, (left, left_turned), (right, right_turned), node, ZERO, valid, start)
            return
        frame = Frame(f"{inner}_l0_{node.tile}")
        at = symbol(frame.var)
        piece = minimum(k0, valid - at)
        self._multiply(frame, total, a, (left, left_turned), (right, right_turned), node, at, piece, start + at)
        c.tree.top.nodes.append(Loop(frame.var, ZERO, valid, constant(k0), tuple(frame.nodes)))

    def _roles(self, node: Compute) -> tuple[str, str, str]:
        """Row, column and reduced axis; every other axis has one lane here."""
        assert node.reduce is not None
        own, reduced = self.context.wide(node.axes), self.context.wide(node.reduce.axes)
        if len(own) != 2 or len(reduced) > 1:
            axes = f"{', '.join(own)} and reduced {', '.join(reduced)}"
            raise UnsupportedError(
                "ascend-contraction-axes",
                where=f"kernel {self.context.scheduled.kernel.name}, tile {node.tile}",
                cause=f"a contraction over tiles of {axes} is no single matrix product",
                fix="choose a schedule that cuts all but one row, one column and one reduced axis into pieces of 1",
            )
        return own[0], own[1], reduced[0] if reduced else node.reduce.axes[-1]

    def _check_dtype(self, node: Compute, a: Factor, b: Factor) -> None:
        sums = self.context.target.extra["mmad"].get(str(a.dtype))
        if a.dtype != b.dtype or sums != str(node.value.dtype):
            raise UnsupportedError(
                "ascend-mmad-dtype",
                where=f"kernel {self.context.scheduled.kernel.name}, tile {node.tile}",
                cause=f"{self.context.target.spelling} has no mmad of {a.dtype} and {b.dtype} into {node.value.dtype}",
                fix="quantize or cast the operands, or run the kernel on the host",
            )

    def _accumulator(self, node: Compute, row: str, column: str) -> _Sum:
        if node.tile not in self.sums or not node.accumulate:
            c = self.context
            frame = c.tree.top
            loops = {f.var for f, _ in self._reduction_loops(node)}
            while frame.var in loops:
                frame = c.tree.frames[c.tree.frames.index(frame) - 1]
            shape = (c.lanes(row), c.lanes(column))
            name = c.tree.add(node.tile, "l0c", node.value.dtype, shape, "cube", frame)
            self.sums[node.tile] = _Sum(name, (row, column), frame)
        return self.sums[node.tile]

    def _reduction_loops(self, node: Compute) -> list[tuple[Frame, object]]:
        """Open loops over which this sum runs on: those of its reduced axes, where it adds to what is there."""
        if not node.accumulate or node.reduce is None:
            return []
        loops = {loop.var: loop for a in node.reduce.axes for loop in self.context.scope.ranges[a].loops}
        return [(f, loops[f.var]) for f in self.context.tree.frames if f.var in loops]

    def _inner_piece(self, rows: int, columns: int, inner: int, dtype: DType) -> int:
        """Reduced lanes whose operands fit half of L0A and half of L0B, in whole fractals."""
        size = max(1, dtype.bits // 8)
        half = min(self.context.target.memory[s].size for s in ("l0a", "l0b")) // 2
        most = half // (size * round_up(max(rows, columns), 16))
        step = max(16, 32 // size)
        return min(round_up(inner, step), most // step * step)

    def _multiply(
        self,
        frame: Frame,
        total: _Sum,
        a: Factor,
        left: tuple[str, bool],
        right: tuple[str, bool],
        node: Compute,
        at: Expr,
        piece: Expr,
        start: Expr,
    ) -> None:
        c = self.context
        row, column = total.axes
        rows, columns = c.count(row), c.count(column)
        if a.dtype.bits != 16 and (left[1] or not right[1]):
            raise UnsupportedError(
                "ascend-transposed-load",
                where=f"kernel {c.scheduled.kernel.name}, tile {node.tile}",
                cause=f"fractals of {a.dtype} are not turned on the way to L0; only 16-bit ones are",
                fix="store the left operand by rows and the right operand by columns",
            )
        k = c.lanes(self._roles(node)[2])
        k0 = self._inner_piece(c.lanes(row), c.lanes(column), k, a.dtype)
        l0a = self._operand_buffer(f"{node.tile}_a", "l0a", a.dtype, (c.lanes(row), k0), frame)
        l0b = self._operand_buffer(f"{node.tile}_b", "l0b", a.dtype, (k0, c.lanes(column)), frame)
        for buffer, (source, turned), r, n, corner in (
            (l0a, left, rows, piece, (ZERO, at)),
            (l0b, right, piece, columns, (at, ZERO)),
        ):
            block = (corner[1], corner[0], n, r) if turned else (*corner, r, n)
            dst = Block(buffer, ZERO, ZERO, r, n, whole=True)
            c.tree.emit(frame, "load", "cube", "MTE1", dst, Block(source, *block, whole=True), transpose=turned)
        c.tree.emit(
            frame,
            "mmad",
            "cube",
            "M",
            Block(total.buffer, ZERO, ZERO, rows, columns),
            Block(l0a, ZERO, ZERO, rows, piece),
            Block(l0b, ZERO, ZERO, piece, columns),
            init=start if node.accumulate or start != 0 else None,
        )

    def _operand_buffer(self, name: str, scope: str, dtype: DType, shape: tuple[int, int], frame: Frame) -> str:
        return self.context.tree.add(name, scope, dtype, shape, "cube", frame)  # type: ignore[arg-type]

    # -- into L1 -------------------------------------------------------------------------------------------------

    def _stage(self, factor: Factor, rows: str, columns: str, tile: str) -> tuple[str, bool]:
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
            name = c.tree.add(f"{load.tensor}_l1", "l1", load.dtype, (c.lanes(outer), c.lanes(inner)), "cube", frame)
            shape = c.scheduled.kernel.param(load.tensor).shape
            spans = {a: self._inside(load, index, shape, a, first[a]) for a in (outer, inner)}
            self._gather(frame, name, load, flat, strides, outer, inner, spans)
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
        self, load: Load, index: tuple[Expr, ...], shape: tuple[Expr, ...], axis: str, first: Expr
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
                i = self._settled(i, outer, inner, load)
                if not i.symbols & {outer, inner} and not self._bound(i, size):
                    present = present * maximum(0, minimum(1, i + 1)) * maximum(0, minimum(1, size - i))
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
        frame = c.tree.top
        workspace = c.tree.add(f"{tile}_in", "gm", factor.dtype, shape, None, frame, workspace=True)
        self.vector.export(factor.value, order, workspace, shape[1])
        name = c.tree.add(f"{tile}_in_l1", "l1", factor.dtype, shape, "cube", frame)
        r, n = (c.count(a) for a in order)
        source = View(workspace, ZERO, ((r, constant(shape[1])), (n, constant(1))))
        c.tree.emit(frame, "nd2nz", "cube", "MTE2", Block(name, ZERO, ZERO, r, n), source)
        return name, turned

    # -- out of L0C ----------------------------------------------------------------------------------------------

    def export(self, tile: str) -> tuple[str, tuple[str, ...], Frame, int]:
        """The finished sum in a workspace: its name, axes, loop and row pitch in elements."""
        c, total = self.context, self.sums[tile]
        row, column = total.axes
        pitch = c.lanes(column)
        if total.workspace is None:
            shape = (c.lanes(row), pitch)
            dtype = c.tree.buffers[total.buffer].dtype
            total.workspace = c.tree.add(f"{tile}_out", "gm", dtype, shape, None, total.frame, workspace=True)
            rows, columns = c.count(row), c.count(column)
            dst = View(total.workspace, ZERO, ((rows, as_expr(pitch)), (columns, constant(1))))
            c.tree.emit(total.frame, "fixpipe", "cube", "FIX", dst, Block(total.buffer, ZERO, ZERO, rows, columns))
        return total.workspace, total.axes, total.frame, pitch

    def write(self, node: Write) -> bool:
        """Write a sum that needs nothing but a cast and a relu straight from L0C; False when it needs more."""
        c = self.context
        op, tile = _way_out(node.value)
        if tile is None or tile not in self.sums or "fixpipe_gm" not in c.target.features:
            return False
        total = self.sums[tile]
        row, column = total.axes
        others = {a: c.start(a) for a in node.axes if a not in total.axes}
        flat = flat_index(c.scheduled.kernel, node.tensor, tuple(c.expr(i.substitute(others)) for i in node.index))
        if flat.coefficient(column) != 1:
            return False
        rows, columns = c.count(row), c.count(column)
        offset = flat.substitute({a: c.start(a) for a in total.axes})
        dst = View(node.tensor, offset, ((rows, flat.coefficient(row)), (columns, constant(1))))
        c.tree.emit(c.tree.top, op, "cube", "FIX", dst, Block(total.buffer, ZERO, ZERO, rows, columns))
        return True


def _way_out(value: Value) -> tuple[str, str | None]:
    """The fixpipe instruction that computes ``value`` from a sum, and the sum's tile."""
    if isinstance(value, Cast):
        value = value.x
    match value:
        case Ref(tile=tile):
            return "fixpipe", tile
        case Binary(op="max", a=Ref(tile=tile), b=Const(value=0)):
            return "fixpipe_relu", tile
    return "fixpipe", None
