"""Results on their way out where transfers move whole blocks of 32 bytes and nothing else (no DataCopyPad).

A row that is at least one block long leaves as its whole blocks and, once more, its last 32 bytes: these are gathered
into a block of their own and written over the end of what has left, the same bytes where the two meet ("borrowing", the
Ascend C guide on unaligned transfers). No byte outside the row is touched, so it does not matter where rows begin.

A shorter row has no 32 bytes to borrow. Where rows follow on one another in memory they are gathered into one run
first, bytes as f16, which holds them exactly. The last block of a run that begins at a block is read, the lanes of
the run are put over it, and it is written back: what lies behind the run stays as it is. Nobody else writes into that
block, since every run of the tensor begins at a block of its own; that is required here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import Scalar, View
from tilewright.backends.ascend.placed.layout import BLOCK_BYTES, round_up
from tilewright.backends.ascend.placing.nests import flat
from tilewright.backends.ascend.placing.strips import SPREAD, Strip
from tilewright.ir.ranges import Range, bounds, divisor
from tilewright.ir.symbolic import ZERO, Expr, ceildiv, constant, minimum, product
from tilewright.ir.types import DType
from tilewright.kernel.schedule import ScheduleError, Write

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.vector import VectorPart

_ONE = constant(1)
#: Products of i32 stay below this.
_LARGEST = 1 << 31


def leave_in_blocks(vector: VectorPart, strip: Strip, target: View, axes: tuple[str, ...]) -> None:
    """``strip``, over ``axes``, to ``target`` in global memory. Raises :class:`ScheduleError` for rows that may be
    shorter than a block and do not begin at one, :class:`UnsupportedError` for elements that cannot be gathered."""
    way = _Way(vector, strip, target, axes, facts_of(vector))
    lanes = target.dims[-1][0]
    if way.whole(lanes):
        way.out(target, vector.view(strip, axes))
        return
    low, high = bounds(lanes, way.facts)
    alone = way.single and way.whole(target.offset) and (low < way.block or strip.dtype.bits == 64)
    if alone or (low < way.block and strip.dtype.bits == 8):
        way.patch(_ONE, high)
        return
    if strip.dtype.bits == 64:
        raise vector.unsupported(f"a store of rows of {lanes} elements of {strip.dtype}, no whole blocks of 32 bytes,")
    long = minimum(1, lanes // way.block)
    if high >= way.block:
        way.borrow(_ONE if low >= way.block else long)
    if low < way.block:
        way.patch(_ONE if high < way.block else 1 - long, min(high, way.block - 1))


def facts_of(vector: VectorPart) -> Mapping[str, Range]:
    """What is known of symbols here, those of the placing included."""
    c = vector.context
    frames = {f.var: Range(0) for f in c.tree.frames}
    strips = {s: Range(0, 1 << 62, c.piece()) for s in c.strip.symbols}
    return {**frames, **strips, **c.scope.facts}


@dataclass(frozen=True, slots=True)
class _Way:
    """One strip on its way."""

    vector: VectorPart
    strip: Strip
    target: View
    axes: tuple[str, ...]
    facts: Mapping[str, Range]

    @property
    def size(self) -> int:
        return self.strip.dtype.bits // 8

    @property
    def block(self) -> int:
        """Elements of a block."""
        return BLOCK_BYTES // self.size

    @property
    def single(self) -> bool:
        """Whether it is one row."""
        return all(n == 1 for n, _ in self.target.dims[:-1])

    def whole(self, lanes: Expr) -> bool:
        """Whether as many elements, or a place so far from the beginning of the tensor, are whole blocks."""
        return divisor(lanes * self.size, self.facts) % BLOCK_BYTES == 0

    def out(self, target: View, source: View) -> None:
        tree = self.vector.context.tree
        tree.emit(tree.top, "copy_out", "vector", "MTE3", target, source)

    # -- rows of a block and more --------------------------------------------------------------------------------

    def borrow(self, some: Expr) -> None:
        """Whole blocks of every row, then its last block; ``some`` is 0 where rows are shorter than one."""
        v, c = self.vector, self.vector.context
        source, lanes = v.view(self.strip, self.axes), self.target.dims[-1][0]
        full = lanes // self.block * self.block
        self.out(_last(self.target, full), _last(source, full))
        rows = self.axes[:-1]
        spread = (*rows, SPREAD)
        counts = [n for n, _ in self.target.dims[:-1]]
        rest = minimum(1, lanes % self.block) * some
        counts = [counts[0] * rest, *counts[1:]] if counts else []
        width = constant(self.block) if counts else self.block * rest
        last = v.buffer(f"{self.target.buffer}_last", spread, self.strip.dtype, c.tree.top)
        dst = self._rows_of(last, spread, counts, width)
        # Bytes are not gathered: f16 holds them exactly.
        wide = self.strip if self.size > 1 else v.carry(v.lend(self.strip), DType.F16)
        assert isinstance(wide, Strip)
        offsets = self._offsets(wide, counts, width, lanes - self.block)
        tree = c.tree
        if self.size > 1:
            tree.emit(tree.top, "gather", "vector", "V", dst, source, offsets)
        else:
            halves = v.temporary(spread, DType.F16, lanes=self.block)
            taken = self._rows_of(halves.buffer, spread, counts, width)
            tree.emit(tree.top, "gather", "vector", "V", taken, v.view(wide, self.axes), offsets)
            tree.emit(tree.top, "cast", "vector", "V", dst, taken)
            v.recycle(wide)
            v.recycle(halves)
        v.recycle(Strip(offsets.buffer, spread, DType.I32, True))
        strides = [s for _, s in self.target.dims[:-1]]
        end = View(
            self.target.buffer,
            self.target.offset + lanes - self.block,
            (*zip(counts, strides, strict=True), (width, _ONE)),
        )
        self.out(end, dst)

    def _rows_of(self, buffer: str, axes: tuple[str, ...], counts: Sequence[Expr], width: Expr) -> View:
        """The first ``width`` elements of each row of a buffer over ``axes``."""
        pitch = self.vector.strides(Strip(buffer, axes, self.strip.dtype))
        return View(buffer, ZERO, (*zip(counts, pitch[:-1], strict=False), (width, _ONE)))

    def _offsets(self, strip: Strip, counts: Sequence[Expr], width: Expr, first: Expr) -> View:
        """Byte offsets of ``width`` elements of each row of ``strip`` from element ``first`` of it on."""
        v, tree = self.vector, self.vector.context.tree
        rows, size = self.axes[:-1], strip.dtype.bits // 8
        line = v.temporary((SPREAD,), DType.I32, lanes=self.block)
        run = View(line.buffer, ZERO, ((width, _ONE),))
        tree.emit(tree.top, "iota", "vector", "V", run, Scalar(ZERO))
        tree.emit(tree.top, "mul", "vector", "V", run, run, Scalar(constant(size)))
        tree.emit(tree.top, "add", "vector", "V", run, run, Scalar(first * size))
        if not rows:
            return run
        pitch = {a: s.value * size for a, s in zip(self.axes, v.strides(strip), strict=True)}
        starts = v.spread(v.positions(rows, dict(pitch)), (*rows, self.axes[-1]))
        assert isinstance(starts, Strip)
        made = v.temporary((*rows, SPREAD), DType.I32, lanes=self.block)
        near, far = v.strides(made)[:-1], v.strides(starts)[:-1]
        dst = View(made.buffer, ZERO, (*zip(counts, near, strict=True), (width, _ONE)))
        each = View(starts.buffer, ZERO, (*zip(counts, far, strict=True), (width, ZERO)))
        same = View(line.buffer, ZERO, (*((n, ZERO) for n in counts), (width, _ONE)))
        tree.emit(tree.top, "add", "vector", "V", dst, each, same)
        v.recycle(starts)
        v.recycle(line)
        return dst

    # -- shorter rows --------------------------------------------------------------------------------------------

    def patch(self, some: Expr, most: int) -> None:
        """Rows of fewer than ``most`` + 1 elements as one run, or each of them; ``some`` is 0 where they are longer."""
        v = self.vector
        dims = self.target.dims
        following = all(dims[d][1] == dims[d + 1][0] * dims[d + 1][1] for d in range(len(dims) - 1))
        rows = product([n for n, _ in dims[:-1]])
        if not (following or self.single) or not self.whole(self.target.offset) or self._stores() > 1:
            raise self._unaligned()
        lanes = dims[-1][0] * some * rows
        wide = self.strip if self.size > 1 else v.carry(v.lend(self.strip), DType.F16)
        assert isinstance(wide, Strip)
        run = wide.buffer if self.single else self._joined(wide, rows, dims[-1][0], lanes, most)
        if self.size > 1:
            self._patch_end(run, lanes)
        else:
            self._patch_bytes(run, lanes)
            v.recycle(wide)

    def _stores(self) -> int:
        """Statements of the kernel that write the tensor."""
        body = flat(self.vector.context.scheduled.body)
        return sum(isinstance(n, Write) and n.tensor == self.target.buffer for n in body)

    def _patch_end(self, run: str, lanes: Expr) -> None:
        """A run in one buffer: whole blocks, then the last one over what is in memory there."""
        tree = self.vector.context.tree
        there, here, rest, at = self._end(lanes)
        lanes_of = ((rest, _ONE),)
        tree.emit(tree.top, "copy", "vector", "V", replace(here, dims=lanes_of), View(run, at, lanes_of))
        whole = ((at, _ONE),)
        self.out(View(self.target.buffer, self.target.offset, whole), View(run, ZERO, whole))
        self.out(there, here)

    def _end(self, lanes: Expr) -> tuple[View, View, Expr, Expr]:
        """The last block of a run of ``lanes``, in memory and, read, here; how many lanes of it are the run's, and
        where in the run it begins. It is empty where the run ends with a block."""
        tree = self.vector.context.tree
        rest, at = lanes % self.block, lanes // self.block * self.block
        end = tree.add(f"{self.target.buffer}_end", "ub", self.strip.dtype, (self.block,), "vector")
        width = minimum(1, rest) * self.block
        there, here = (
            View(b, o, ((width, _ONE),)) for b, o in ((self.target.buffer, self.target.offset + at), (end, ZERO))
        )
        tree.emit(tree.top, "copy_in", "vector", "MTE2", here, there)
        return there, here, rest, at

    def _patch_bytes(self, run: str, lanes: Expr) -> None:
        """The same for bytes, which ``run`` holds as f16: the cast that makes them puts them over what is there."""
        tree = self.vector.context.tree
        there, here, rest, at = self._end(lanes)
        room = tree.buffers[run].shape
        size = room[-1].value if self.single else int(product(list(room)).value)
        name = f"{self.target.buffer}_bytes"
        out = tree.add(name, "ub", self.strip.dtype, (round_up(size, self.block),), "vector", frame=tree.top)
        lanes_of, whole = ((rest, _ONE),), ((at, _ONE),)
        tree.emit(tree.top, "cast", "vector", "V", replace(here, dims=lanes_of), View(run, at, lanes_of))
        tree.emit(tree.top, "cast", "vector", "V", View(out, ZERO, whole), View(run, ZERO, whole))
        self.out(View(self.target.buffer, self.target.offset, whole), View(out, ZERO, whole))
        self.out(there, here)

    def _joined(self, strip: Strip, rows: Expr, width: Expr, lanes: Expr, most: int) -> str:
        """The rows one behind the other in a buffer: element i of it is element i % width of row i // width."""
        v, tree = self.vector, self.vector.context.tree
        shape = [s.value for s in tree.buffers[strip.buffer].shape]
        pitch, room = shape[-1], int(product([constant(n) for n in shape[:-1]]).value) * most
        room = round_up(room, self.block)
        shift = (room * most).bit_length()
        # Elements lie rows apart by one distance: where more axes are rows, the strip has all of them without a gap.
        counts = [n for n, _ in self.target.dims[:-1]]
        even = all(n == size for n, size in zip(counts[1:], shape[1:-1], strict=True))
        if not even or (room // most) * ((1 << shift) + most) >= _LARGEST:  # rows * width * (2^s / width + 1)
            raise self._unaligned()
        number, row = (tree.add("t", "ub", DType.I32, (room,), "vector") for _ in range(2))
        frame = tree.top if self.size > 1 else None  # what leaves rotates
        joined = tree.add(f"{self.target.buffer}_run", "ub", strip.dtype, (room,), "vector", frame=frame)
        run = ((lanes, _ONE),)
        at, by, to = (View(b, ZERO, run) for b in (number, row, joined))

        def emit(op: str, dst: View, *sources: View | Scalar, **parameters: int) -> None:
            tree.emit(tree.top, op, "vector", "V", dst, *sources, parameters=tuple(parameters.items()))

        emit("iota", at, Scalar(ZERO))
        # i // width = i * ceil(2^s / width) >> s while i * width < 2^s.
        emit("mul", by, at, Scalar(ceildiv(constant(1 << shift), width)))
        emit("shift_right", by, by, by=shift)
        emit("mul", by, by, Scalar(pitch - width))
        emit("add", at, at, by)
        emit("mul", at, at, Scalar(constant(strip.dtype.bits // 8)))
        emit("gather", to, v.view(strip, self.axes), at)
        return joined

    def _unaligned(self) -> ScheduleError:
        kernel, lanes = self.vector.context.scheduled.kernel.name, self.target.dims[-1][0]
        where, tensor = self.vector.context.target.spelling, self.target.buffer
        return ScheduleError(
            kernel, f"rows of {lanes} elements of {tensor} may be less than 32 bytes, which is the least {where} stores"
        )


def _last(view: View, lanes: Expr) -> View:
    """The first ``lanes`` of each row."""
    return replace(view, dims=(*view.dims[:-1], (lanes, _ONE)))
