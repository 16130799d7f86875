"""Operands of contractions on their way into L1: loads with padding, packed weights, values the vector cores made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import Block, Loop, View
from tilewright.backends.ascend.placed.layout import BLOCK_BYTES, FRACTAL, round_up
from tilewright.backends.ascend.placing.frame import Frame
from tilewright.backends.ascend.placing.operand import Factor, flat_index
from tilewright.backends.ascend.placing.runs import run_length, slope
from tilewright.backends.ascend.placing.widening import Widening, slice_of
from tilewright.errors import UnsupportedError
from tilewright.ir.ranges import Range, bounds
from tilewright.ir.symbolic import ZERO, Expr, Operation, ceildiv, constant, maximum, minimum, product, symbol
from tilewright.ir.types import DType
from tilewright.kernel.expr import Load, Ref, Value
from tilewright.kernel.schedule import Pack

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.place import Context
    from tilewright.backends.ascend.placing.vector import VectorPart


@dataclass(frozen=True, slots=True)
class Staged:
    """An operand in L1: its buffer, whether the matrix lies there turned, and whether in squares that a load turns."""

    buffer: str
    turned: bool
    squares: bool = False


@dataclass(frozen=True, slots=True)
class _Source:
    """A load of a matrix ``outer × inner`` whose ``inner`` axis is contiguous; ``index`` has no other axes."""

    load: Load
    index: tuple[Expr, ...]
    outer: str
    inner: str
    run: int


@dataclass(slots=True)
class OperandPart:
    """Stages operands in L1, each as far out of the loops as what it depends on allows."""

    context: Context
    vector: VectorPart

    def stage(self, factor: Factor, rows: str, columns: str, tile: str, right: bool = False) -> Staged:
        """The operand ``rows × columns`` in L1; ``right`` is the one that goes to L0B."""
        if factor.weights is not None:
            return self._stage_weights(factor, rows, columns, tile)
        if isinstance(factor.value, Load):
            pack = self.context.pack_of(factor.value.tensor)
            if pack is not None:
                return self._stage_packed(factor.value, pack, rows, columns)
            return self._stage_load(factor.value, rows, columns, right)
        return self._stage_computed(factor, rows, columns, tile)

    # -- tensors in row-major order ------------------------------------------------------------------------------

    def _stage_load(self, load: Load, rows: str, columns: str, right: bool) -> Staged:
        c = self.context
        source = self._source(load, rows, columns)
        outer, inner = source.outer, source.inner
        needed = [*source.index, c.start(outer), c.start(inner), c.count(outer), c.count(inner)]
        frame = c.tree.frame_of(needed)
        key = (load, source.index, rows, columns, c.window)
        if key not in frame.loaded:
            squares = right and outer == rows and load.dtype.bits == 32 and load.fill is None and not source.run
            wide = self._whole(inner, load) if load.dtype.bits == 32 else c.lanes(inner)
            high = round_up(c.lanes(outer), FRACTAL) if c.fused and self._misses(source) else c.lanes(outer)
            name, once = self._operand(load, (high, wide), frame, needed, "zZ" if squares else "")
            frame.loaded[key] = name
            self._fetch(frame, name, source, once)
        name = str(frame.loaded[key])
        return Staged(name, outer == columns, c.tree.buffers[name].layout == "zZ")

    def _whole(self, inner: str, load: Load) -> int:
        """Columns of an operand in L1: loads take whole fractals of both memories, so 16 of 32-bit elements too."""
        return round_up(self.context.lanes(inner), max(FRACTAL, BLOCK_BYTES * 8 // load.dtype.bits))

    def _operand(
        self, load: Load, shape: tuple[int, int], frame: Frame, needed: list[Expr], layout: str
    ) -> tuple[str, Expr]:
        """A buffer in L1 for an operand, and 1 where it is to be read, 0 where it is there from a former turn.

        Where a loop between the blocks and ``frame`` reads the same pieces in each turn, the buffer has a slot for
        each piece, and the first turn alone brings them in: the other columns of a block meet rows that stay in L1.
        """
        c = self.context
        again = c.tree.repeated(frame, needed)
        slots, once = c.ring, constant(1)
        if again and frame.trips.is_constant and frame.trips.value > 1 and load.fill is None:
            slots = frame.trips.value
            for f in again:
                once = once * (1 - minimum(1, symbol(f.var) - f.lo))
        name = c.tree.add(f"{load.tensor}_l1", "l1", load.dtype, shape, "cube", frame=frame, slots=slots, layout=layout)
        if once != 1:
            c.tree.kept.add(name)
        return name, once

    def _source(self, load: Load, rows: str, columns: str) -> _Source:
        """Which of the two axes is contiguous, and in what runs the other one is linear."""
        c = self.context
        index = tuple(self._settled(i, rows, columns, load) for i in load.index)
        flat = flat_index(c.scheduled.kernel, load.tensor, index)
        for outer, inner in ((rows, columns), (columns, rows)):
            run, own = run_length(index, outer), run_length(index, inner)
            if own == 0 and run is not None and slope(flat, inner) == 1:
                return _Source(load, index, outer, inner, run)
        raise self._strided(load, index)

    def _strided(self, load: Load, index: tuple[Expr, ...]) -> UnsupportedError:
        return UnsupportedError(
            "ascend-strided-operand",
            where=f"kernel {self.context.scheduled.kernel.name}, tensor {load.tensor}",
            cause=f"no axis of the matrix operand [{', '.join(map(str, index))}] is contiguous in memory",
            fix="pack the tensor or transpose it before the contraction",
        )

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

    def _fetch(self, frame: Frame, name: str, source: _Source, once: Expr) -> None:
        """Copy what lies inside the tensor, run by run; where something may not, the tile is filled before."""
        c = self.context
        start, count = c.start(source.outer), c.count(source.outer)
        loop: Frame = frame
        low, high = start, start + count
        if source.run:
            loop = Frame(c.tree.variable(f"{source.outer}_run"))
            run = symbol(loop.var)
            low, high = maximum(start, run * source.run), minimum(start + count, (run + 1) * source.run)
        if self._misses(source):
            self._fill(frame, name, source)
        self._copy(loop, name, source, low, high, once)
        if source.run:
            runs = start // source.run, ceildiv(start + count, source.run)
            frame.nodes.append(Loop(loop.var, *runs, constant(1), tuple(loop.nodes)))

    def _misses(self, source: _Source) -> bool:
        """Whether any index may be outside the tensor."""
        return source.load.fill is not None and any(
            not self._bound(i, size) for i, size in zip(source.index, self._shape(source), strict=True)
        )

    def _shape(self, source: _Source) -> tuple[Expr, ...]:
        return self.context.scheduled.kernel.param(source.load.tensor).shape

    def _fill(self, frame: Frame, name: str, source: _Source) -> None:
        c = self.context
        fill = source.load.fill
        # A fused core fills whole fractals one behind the other.
        rows, columns = c.tree.buffers[name].shape if c.fused else (c.count(source.outer), c.count(source.inner))
        dst = Block(name, ZERO, ZERO, rows, columns)
        if fill != 0 and not isinstance(fill, int):
            raise UnsupportedError(
                "ascend-fill",
                where=f"kernel {c.scheduled.kernel.name}, tensor {source.load.tensor}",
                cause=f"the operand of a matrix product is filled with {fill}, neither zero nor an integer",
                fix="pad the tensor first",
            )
        parameters = (("value", int(fill)),) if fill else ()
        c.tree.emit(frame, "zero_l1", "cube", "MTE2", dst, parameters=parameters)

    def _copy(self, frame: Frame, name: str, source: _Source, low: Expr, high: Expr, once: Expr) -> None:
        """Lanes ``low`` to ``high`` of the outer axis, within which every index is linear."""
        c = self.context
        outer, inner = source.outer, source.inner
        first = {outer: low, inner: c.start(inner)}
        spans = {outer: (ZERO, high - low), inner: (ZERO, c.count(inner))}
        present = once
        if source.load.fill is not None:
            for i, size in zip(source.index, self._shape(source), strict=True):
                if self._bound(i, size):
                    continue
                moves = {a: slope(i, a) for a in (outer, inner) if a in i.symbols}
                moving = [a for a, s in moves.items() if s != 0]
                at = i.substitute(first)
                if not moving:
                    present = present * maximum(0, minimum(1, at + 1)) * maximum(0, minimum(1, size - at))
                    continue
                if len(moving) > 1:
                    raise self._strided(source.load, source.index)
                (axis,) = moving
                skip, end = spans[axis]
                skip = maximum(skip, ceildiv(-at, moves[axis]))
                spans[axis] = (skip, minimum(end, ceildiv(size - at, moves[axis])))
        skipped = {a: spans[a][0] for a in (outer, inner)}
        counts = {a: spans[a][1] - skipped[a] for a in (outer, inner)}
        if source.load.fill is not None:
            counts = {a: maximum(0, n) for a, n in counts.items()}
        flat = flat_index(c.scheduled.kernel, source.load.tensor, source.index)
        pitch = slope(flat, outer)
        offset = flat.substitute(first) + skipped[outer] * pitch + skipped[inner]
        source_view = View(source.load.tensor, offset, ((counts[outer] * present, pitch), (counts[inner], constant(1))))
        row = low - c.start(outer) + skipped[outer]
        dst = Block(name, row, skipped[inner], counts[outer] * present, counts[inner])
        c.tree.emit(frame, "nd2nz", "cube", "MTE2", dst, source_view)

    def _bound(self, index: Expr, size: Expr) -> bool:
        """Whether an index is inside by construction: a plain axis of that extent, or the start of one; or one of the
        channels of a group, whichever that is."""
        kernel = self.context.scheduled.kernel
        if size.is_constant:
            frames = {f.var: Range(0) for f in self.context.tree.frames}
            known = {a.name: Range(0, a.extent.value - 1) for a in kernel.axes if a.extent.is_constant}
            low, high = bounds(index, {**frames, **self.context.scope.facts, **known})
            if low >= 0 and high < size.value:
                return True
        plain = {symbol(a.name) for a in kernel.axes if a.extent == size}
        return index in plain or index in {self.context.start(a.name) for a in kernel.axes if a.extent == size}

    # -- constants packed into fractals --------------------------------------------------------------------------

    def _stage_packed(self, load: Load, pack: Pack, rows: str, columns: str) -> Staged:
        """A matrix that lies in fractals: one entry of its packed index is ``x // c0``, the last ``x % c0``."""
        c = self.context
        lanes = BLOCK_BYTES * 8 // load.dtype.bits
        fine = load.index[-1]
        index = tuple(self._settled(i, rows, columns, load) for i in load.index)
        flat, step, at = ZERO, ZERO, None
        for n, (raw, settled) in enumerate(zip(load.index[:-1], index[:-1], strict=True)):
            stride = product(pack.shape[n + 1 :])
            assert isinstance(raw, Expr) and isinstance(fine, Expr)
            atoms = [a for m, _ in raw.terms for a, _ in m]
            if at is None and len(atoms) == 1 and isinstance(atoms[0], Operation) and _same(atoms[0], fine, lanes):
                at, step = settled, stride
            else:
                flat = flat + settled * stride
        outer, inner = (rows, columns) if at is not None and columns in at.symbols else (columns, rows)
        if at is None or pack.shape[-1] != lanes or slope(flat, outer) != lanes or inner in flat.symbols:
            raise UnsupportedError(
                "ascend-packed",
                where=f"kernel {c.scheduled.kernel.name}, tensor {load.tensor}",
                cause=f"the packed layout [{', '.join(map(str, pack.index))}] is no matrix of fractals here",
                fix="use a schedule without packs",
            )
        first = {outer: c.start(outer), inner: c.start(inner)}
        needed = [*index, *first.values(), c.count(outer), c.count(inner)]
        frame = c.tree.frame_of(needed)
        key = (load, index, rows, columns, c.window)
        if key not in frame.loaded:
            shape = (c.lanes(outer), self._whole(inner, load))
            name, once = self._operand(load, shape, frame, needed, "")
            frame.loaded[key] = name
            offset = flat.substitute(first) + at.substitute(first) * step
            height, width = c.count(outer) * once, ceildiv(c.count(inner), lanes)
            view = View(load.tensor, offset, ((width, step), (height, constant(lanes)), (constant(lanes), constant(1))))
            c.tree.emit(frame, "copy_nz", "cube", "MTE2", Block(name, ZERO, ZERO, height, width * lanes), view)
        return Staged(str(frame.loaded[key]), outer == columns)

    def _stage_weights(self, factor: Factor, rows: str, columns: str, tile: str) -> Staged:
        """Integers of constants that vector cores widen; packed as schedules of such products do it."""
        c = self.context
        assert factor.weights is not None
        if any(c.pack_of(load.tensor) is None for load in factor.weights.loads):
            raise UnsupportedError(
                "ascend-weights",
                where=f"kernel {c.scheduled.kernel.name}, tensor {factor.weights.integers.tensor}",
                cause="integers of an operand are no constant matrix of depth by columns",
                fix="quantize constants alone, or run this kernel on the host",
            )
        s = slice_of(c, rows, columns)
        frame = c.tree.frame_of([s.first, s.planes, s.start, s.rows])
        key = (factor.weights, rows, columns)
        if key not in frame.loaded:
            frame.loaded[key] = Widening(c, factor.weights, factor.dtype, tile).run(frame, s)
        return Staged(str(frame.loaded[key]), False)

    # -- what vector cores computed ------------------------------------------------------------------------------

    def _stage_computed(self, factor: Factor, rows: str, columns: str, tile: str) -> Staged:
        """An operand made by the vector cores: they write it to a workspace, the cube core reads it whole."""
        c = self.context
        refs = factor.value.axes if isinstance(factor.value, Ref) else None
        order = c.wide(refs or self.vector.axes_of(factor.value))
        turned = order != (rows, columns)
        shape = tuple(c.lanes(a) for a in order)
        if factor.dtype.bits == 32:
            shape = (shape[0], round_up(shape[1], FRACTAL))
        pitch = row_pitch(shape[1], factor.dtype)
        frame = c.tree.top
        r, n = (c.count(a) for a in order)
        if c.fused:
            view = self.vector.lay(factor.value, order, f"{tile}_in")
            name = c.tree.add(f"{tile}_in_l1", "l1", factor.dtype, shape, "cube", frame=frame)
            c.tree.emit(frame, "ub2l1", "cube", "MTE3", Block(name, ZERO, ZERO, r, n), view)
            return Staged(name, turned)
        workspace = c.tree.add(f"{tile}_in", "gm", factor.dtype, (shape[0], pitch), None, frame=frame, workspace=True)
        self.vector.export(factor.value, order, workspace, pitch)
        name = c.tree.add(f"{tile}_in_l1", "l1", factor.dtype, shape, "cube", frame=frame)
        source = View(workspace, ZERO, ((r, constant(pitch)), (n, constant(1))))
        c.tree.emit(frame, "nd2nz", "cube", "MTE2", Block(name, ZERO, ZERO, r, n), source)
        return Staged(name, turned)


def _same(quotient: Operation, fine: Expr, lanes: int) -> bool:
    """Whether ``quotient`` is ``x // lanes`` where ``fine`` is ``x % lanes``."""
    atoms = [a for m, _ in fine.terms for a, _ in m]
    if quotient.op != "//" or quotient.args[1] != lanes or len(atoms) != 1:
        return False
    return isinstance(atoms[0], Operation) and atoms[0].op == "%" and atoms[0].args == quotient.args


def row_pitch(lanes: int, dtype: DType) -> int:
    """Elements from one row of a workspace to the next: no two rows share a block of 32 bytes."""
    return round_up(lanes, BLOCK_BYTES * 8 // dtype.bits)
