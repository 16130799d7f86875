"""Tiles in the unified buffer: allocation, recycling, and views of the lanes that are not padding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import Parameter, Scalar, View
from tilewright.backends.ascend.placed.instructions import MOVED
from tilewright.backends.ascend.placed.layout import BLOCK_BYTES, FRACTAL, round_up
from tilewright.backends.ascend.placing.frame import Frame
from tilewright.errors import UnsupportedError
from tilewright.ir.symbolic import ZERO, Expr, ceildiv, constant
from tilewright.ir.types import DType

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.place import Context

#: The last axis of a strip that holds one block of 32 bytes, or one element of such a block, for each row.
SPREAD = "*"
#: Rows that ``Brcb`` writes at a time.
_BRCB_ROWS = 8
#: No axis has fewer lanes than its range.
NO_SIZES: Mapping[str, int] = {}


def dense_strides(shape: Sequence[int]) -> list[int]:
    """Elements from one to the next along each dimension, where nothing lies between rows."""
    strides = [1] * len(shape)
    for n in range(len(shape) - 2, -1, -1):
        strides[n] = strides[n + 1] * shape[n + 1]
    return strides


@dataclass(frozen=True, slots=True)
class Strip:
    """A tile in the unified buffer: rows padded to 32 bytes. ``pooled`` ones may be overwritten and recycled."""

    buffer: str
    axes: tuple[str, ...]
    dtype: DType
    pooled: bool = False


Piece = Strip | Scalar


@dataclass(slots=True)
class Strips:
    """Every strip of a kernel. ``free``: temporaries nobody reads any more, by shape and dtype; ``order``: all axes in
    the order in which tiles have them, the one along which memory is contiguous last."""

    context: Context
    order: tuple[str, ...] = ()
    free: dict[tuple[tuple[int, ...], DType], list[str]] = field(default_factory=dict)

    # -- axes ----------------------------------------------------------------------------------------------------

    def ordered(self, axes: Iterable[str]) -> tuple[str, ...]:
        """``axes`` in the order of tiles."""
        wanted = set(axes)
        return tuple(a for a in self.order if a in wanted)

    def wide(self, axes: Iterable[str]) -> tuple[str, ...]:
        """Those of ``axes`` with more than one lane here, in the order of tiles."""
        known = [a for a in axes if a in self.context.scope.ranges]
        return self.ordered(self.context.wide(known))

    def joined(self, *pieces: Piece) -> tuple[str, ...]:
        """The axes of any of ``pieces``."""
        return self.ordered({x for p in pieces if isinstance(p, Strip) for x in p.axes})

    # -- making strips -------------------------------------------------------------------------------------------

    def strip(self, piece: Piece, axes: tuple[str, ...], dtype: DType) -> Strip:
        """``piece`` as a strip: a number becomes one of ``axes``."""
        if isinstance(piece, Strip):
            return piece
        strip = self.temporary(axes, dtype)
        self.emit("duplicate", strip, axes, piece)
        return strip

    def spread(self, piece: Piece, axes: tuple[str, ...]) -> Piece:
        """A piece that lacks the last of ``axes`` as one block of 32 bytes a row, which repeats along a row."""
        if isinstance(piece, Scalar) or not axes or (piece.axes and piece.axes[-1] in (axes[-1], SPREAD)):
            return piece
        wide = self.temporary((*piece.axes, SPREAD), piece.dtype)
        self._brcb(piece, wide, BLOCK_BYTES * 8 // piece.dtype.bits)
        self.recycle(piece)
        return wide

    def _brcb(self, piece: Strip, wide: Strip, lanes: int) -> None:
        counts = [self.context.count(a, True) for a in piece.axes] or [constant(1)]
        strides = self.strides(wide)[:-1] or (constant(lanes),)
        narrow = self.strides(piece) if piece.axes else (constant(1),)
        last = (constant(lanes), constant(1))
        dst = View(wide.buffer, ZERO, (*zip(counts, strides, strict=True), last))
        src = View(piece.buffer, ZERO, (*zip(counts, narrow, strict=True), (constant(lanes), ZERO)))
        self.context.tree.emit(self.context.tree.top, "brcb", "vector", "V", dst, src)

    def temporary(
        self, axes: tuple[str, ...], dtype: DType, per: int = 1, lanes: int = 0, sizes: Mapping[str, int] | None = None
    ) -> Strip:
        """A strip of its own for a value that nobody else sees. ``lanes``: allocated lanes of the last axis at least;
        ``sizes``: of axes that do not have all their lanes in it."""
        shape = self.shape(axes, dtype, per, lanes, sizes=sizes or {})
        names = self.free.setdefault((shape, dtype), [])
        if names:
            return Strip(names.pop(), axes, dtype, True)
        name = self.context.tree.add("t", "ub", dtype, shape, "vector")
        return Strip(name, axes, dtype, True)

    def buffer(self, name: str, axes: tuple[str, ...], dtype: DType, frame: Frame, rows: int = 1) -> str:
        """A buffer for transfers, two slots that rotate with ``frame``; ``rows`` divides its rows and its columns."""
        lanes = round_up(self.context.vector_lanes(axes[-1]), rows) if rows > 1 else 0
        shape = self.shape(axes, dtype, lanes=lanes, rows=rows)
        rotating = frame if frame is not self.context.front else None
        return self.context.tree.add(name, "ub", dtype, shape, "vector", frame=rotating)

    def shape(
        self,
        axes: Sequence[str],
        dtype: DType,
        per: int = 1,
        lanes: int = 0,
        rows: int = 1,
        sizes: Mapping[str, int] = NO_SIZES,
    ) -> tuple[int, ...]:
        """Allocated elements; the last dimension is padded to 32 bytes, the first to ``rows``. ``per`` lanes share one
        element (masks)."""
        block = BLOCK_BYTES * 8 // dtype.bits
        found = [block if a == SPREAD else sizes.get(a) or self.context.vector_lanes(a) for a in axes] or [1]
        if SPREAD in axes and len(found) > 1:
            found[-2] = round_up(found[-2], _BRCB_ROWS)
        elif SPREAD in axes:
            found[-1] *= _BRCB_ROWS
        found[-1] = round_up(-(-max(found[-1], lanes) // per), max(block, _BRCB_ROWS))
        found[0] = round_up(found[0], rows)
        return tuple(found)

    def strides(self, strip: Strip) -> tuple[Expr, ...]:
        """Elements from one lane to the next along each axis."""
        shape = [s.value for s in self.context.tree.buffers[strip.buffer].shape]
        return tuple(map(constant, dense_strides(shape)))

    # -- views ---------------------------------------------------------------------------------------------------

    def view(self, strip: Piece, axes: tuple[str, ...], per: int = 1) -> View:
        """The lanes of ``axes`` that are not padding; an axis the strip lacks repeats with stride 0."""
        assert isinstance(strip, Strip)
        strides = dict(zip(strip.axes, self.strides(strip), strict=False))
        counts = [self.context.count(a, True) for a in axes]
        if per > 1 and counts:
            counts[-1] = ceildiv(counts[-1], per)
        dims = tuple((n, strides.get(a, ZERO)) for a, n in zip(axes, counts, strict=True))
        return View(strip.buffer, ZERO, dims or ((constant(1), constant(1)),))

    def at(self, piece: Piece, axes: tuple[str, ...]) -> View | Scalar:
        return piece if isinstance(piece, Scalar) else self.view(piece, axes)

    def workspace(self, name: str, axes: tuple[str, ...], pitch: int) -> View:
        """This core's part of a workspace of ``axes`` whose rows are ``pitch`` elements apart."""
        c = self.context
        strides = dict(zip(axes, (constant(pitch), constant(1)), strict=True))
        offset = c.vector_offset() * strides[c.split] if c.split in strides else ZERO
        return View(name, offset, tuple((c.count(a, True), strides[a]) for a in axes))

    # -- results -------------------------------------------------------------------------------------------------

    def result(self, axes: tuple[str, ...], dtype: DType, *sources: Piece) -> Strip:
        """Where to write: over a source that nobody needs any more, else a temporary."""
        for s in sources:
            if isinstance(s, Strip) and s.pooled and s.axes == axes and s.dtype == dtype:
                return s
        return self.temporary(axes, dtype)

    def recycle(self, piece: Piece, result: Strip | None = None) -> None:
        """Nobody reads ``piece`` any more, unless it became ``result``."""
        if isinstance(piece, Strip) and piece.pooled and (result is None or piece.buffer != result.buffer):
            shape = tuple(s.value for s in self.context.tree.buffers[piece.buffer].shape)
            names = self.free.setdefault((shape, piece.dtype), [])
            if piece.buffer not in names:
                names.append(piece.buffer)

    def lend(self, piece: Piece) -> Piece:
        """``piece`` for one use that leaves it intact."""
        return Strip(piece.buffer, piece.axes, piece.dtype) if isinstance(piece, Strip) else piece

    def emit(
        self,
        op: str,
        dst: Strip,
        axes: tuple[str, ...],
        *sources: Piece,
        parameters: tuple[tuple[str, Parameter], ...] = (),
    ) -> None:
        """An element-wise instruction over ``axes``."""
        c = self.context
        alike = any(isinstance(s, Strip) and s.dtype == dst.dtype for s in sources)
        if op == "copy" and alike and str(dst.dtype) not in MOVED:
            raise self.unsupported(f"a copy of {dst.dtype} within the unified buffer")
        spread = [self.spread(self.lend(s), axes) for s in sources]
        views = [self.at(s, axes) for s in spread]
        c.tree.emit(c.tree.top, op, "vector", "V", self.view(dst, axes), *views, parameters=parameters)
        for s in spread:
            self.recycle(s)  # lent ones are nobody's to recycle

    # -- moving lanes --------------------------------------------------------------------------------------------

    def positions(self, axes: tuple[str, ...], steps: dict[str, int | Expr], first: int | Expr = 0) -> Strip:
        """``first + Σ lane(a)·steps[a]`` over ``axes``, i32."""
        total: Strip | None = None
        used = [a for a in axes if steps.get(a, 0) != 0]
        for n, axis in enumerate(used):
            lanes = self.temporary((axis,), DType.I32)
            self.emit("iota", lanes, (axis,), Scalar(ZERO))
            self.emit("mul", lanes, (axis,), lanes, Scalar(constant(0) + steps[axis]))
            if n == 0 and first != 0:
                self.emit("add", lanes, (axis,), lanes, Scalar(constant(0) + first))
            if total is None:
                total = lanes
                continue
            both = tuple(a for a in axes if a in total.axes or a == axis)
            left, right = self.spread(total, both), self.spread(lanes, both)
            result = self.result(both, DType.I32, left, right)
            self.emit("add", result, both, left, right)
            self.recycle(left, result)
            self.recycle(right, result)
            total = result
        if total is None or total.axes != axes:
            made = self.temporary(axes, DType.I32)
            if total is None:
                self.emit("duplicate", made, axes, Scalar(constant(0) + first))
            else:
                self.emit("copy", made, axes, total)
                self.recycle(total)
            total = made
        return total

    def turned(self, strip: Strip, axes: tuple[str, ...]) -> Strip:
        """``strip`` with its axes in another order."""
        if strip.axes == axes:
            return strip
        if len(axes) == 2 and strip.dtype.bits in (16, 32) and strip.axes == axes[::-1]:
            return self._transposed(strip, axes)
        if strip.dtype.bits not in (16, 32):
            raise self.unsupported(f"turning a tile of {strip.dtype} over {', '.join(axes)}")
        size = strip.dtype.bits // 8
        steps = {a: s.value * size for a, s in zip(strip.axes, self.strides(strip), strict=True)}
        return self.gathered(strip, axes, self.positions(axes, dict(steps)))

    def _transposed(self, strip: Strip, axes: tuple[str, ...]) -> Strip:
        c = self.context
        source = strip
        rows = round_up(c.vector_lanes(axes[1]), FRACTAL)
        if self._height(strip) % FRACTAL:
            source = self._roomy(strip, FRACTAL)
        result = self.temporary(axes, strip.dtype, lanes=rows)
        if self._height(result) % FRACTAL:
            self.recycle(result)
            result = self._roomy(result, FRACTAL, copied=False)
        c.tree.emit(c.tree.top, "transpose", "vector", "V", self.view(result, axes), self.view(source, source.axes))
        self.recycle(source)
        return result

    def _height(self, strip: Strip) -> int:
        return self.context.tree.buffers[strip.buffer].shape[0].value

    def _roomy(self, strip: Strip, rows: int, copied: bool = True) -> Strip:
        """``strip`` in a buffer whose number of rows is a multiple of ``rows``."""
        shape = [s.value for s in self.context.tree.buffers[strip.buffer].shape]
        shape[0] = round_up(shape[0], rows)
        names = self.free.setdefault((tuple(shape), strip.dtype), [])
        name = names.pop() if names else self.context.tree.add("t", "ub", strip.dtype, shape, "vector")
        made = Strip(name, strip.axes, strip.dtype, True)
        if copied:
            self.emit("copy", made, strip.axes, strip)
            self.recycle(strip)
        return made

    def gathered(
        self,
        source: Strip,
        axes: tuple[str, ...],
        offsets: Strip,
        dtype: DType | None = None,
        everything: View | None = None,
    ) -> Strip:
        """The elements of ``source`` at byte ``offsets`` from its beginning; uses both up. ``everything``: the lanes
        that may be taken, where those are not all."""
        result = self.temporary(axes, dtype or source.dtype)
        c = self.context
        if everything is None:
            everything = self.view(source, source.axes) if SPREAD not in source.axes else self._rows_of(source)
        views = (everything, self.view(offsets, axes))
        c.tree.emit(c.tree.top, "gather", "vector", "V", self.view(result, axes), *views)
        self.recycle(source)
        self.recycle(offsets)
        return result

    def _rows_of(self, strip: Strip) -> View:
        """The first element of each block of a spread strip."""
        counts = [self.context.count(a, True) for a in strip.axes[:-1]]
        dims = tuple(zip(counts, self.strides(strip)[:-1], strict=True))
        return View(strip.buffer, ZERO, (*dims, (constant(1), constant(1))))

    def unsupported(self, what: str) -> UnsupportedError:
        """The refusal of something that has no vector instructions."""
        return UnsupportedError(
            "ascend-vector",
            where=f"kernel {self.context.scheduled.kernel.name} on {self.context.target.spelling}",
            cause=f"{what} has no vector instructions here",
            fix="run this kernel on the host",
        )
