"""Tiles in the unified buffer: allocation, recycling, and views of the lanes that are not padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import Scalar, View
from tilewright.backends.ascend.placed.layout import BLOCK_BYTES, round_up
from tilewright.backends.ascend.placing.frame import Frame
from tilewright.errors import UnsupportedError
from tilewright.ir.symbolic import ZERO, Expr, ceildiv, constant
from tilewright.ir.types import DType

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.place import Context


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
    """Every strip of a kernel. ``free``: temporaries nobody reads any more, by shape and dtype."""

    context: Context
    free: dict[tuple[tuple[int, ...], DType], list[str]] = field(default_factory=dict)

    def joined(self, a: Piece, b: Piece) -> tuple[str, ...]:
        names = {x for p in (a, b) if isinstance(p, Strip) for x in p.axes}
        return tuple(x.name for x in self.context.scheduled.kernel.axes if x.name in names)

    def joined_strip(self, a: Piece, b: Piece) -> Strip:
        return Strip("", self.joined(a, b), DType.F32)

    def strip(self, piece: Piece, axes: tuple[str, ...], dtype: DType) -> Strip:
        if isinstance(piece, Strip):
            return piece
        strip = self.temporary(axes, dtype)
        self.emit("duplicate", strip, axes, piece)
        return strip

    def spread(self, piece: Piece, axes: tuple[str, ...]) -> Piece:
        """A row statistic as one block of 32 bytes a row, where ``axes`` also has columns."""
        if isinstance(piece, Scalar) or len(axes) < 2 or piece.axes != axes[:-1]:
            return piece
        lanes = BLOCK_BYTES * 8 // piece.dtype.bits
        wide = self.temporary((*piece.axes, "*"), piece.dtype, spread=lanes)
        c = self.context
        rows = tuple((c.count(a, True), s) for a, s in zip(piece.axes, self.strides(wide), strict=False))
        narrow = tuple((n, constant(1) if i == len(rows) - 1 else s) for i, (n, s) in enumerate(rows))
        dst = View(wide.buffer, ZERO, (*rows, (constant(lanes), constant(1))))
        c.tree.emit(
            c.tree.top, "brcb", "vector", "V", dst, View(piece.buffer, ZERO, (*narrow, (constant(lanes), ZERO)))
        )
        self.recycle(piece)
        return wide

    def temporary(self, axes: tuple[str, ...], dtype: DType, per: int = 1, spread: int = 0) -> Strip:
        shape = self.shape(axes, dtype, per, spread)
        names = self.free.setdefault((shape, dtype), [])
        if names:
            return Strip(names.pop(), axes, dtype, True)
        c = self.context
        name = c.tree.add("t", "ub", dtype, shape, "vector")
        return Strip(name, axes, dtype, True)

    def buffer(self, name: str, axes: tuple[str, ...], dtype: DType, frame: Frame) -> str:
        return self.context.tree.add(name, "ub", dtype, self.shape(axes, dtype), "vector", frame=frame)

    def shape(self, axes: Sequence[str], dtype: DType, per: int = 1, spread: int = 0) -> tuple[int, ...]:
        """Allocated elements; the last dimension is padded to 32 bytes. ``per`` lanes share one element (masks)."""
        lanes = [spread if a == "*" else self.context.vector_lanes(a) for a in axes] or [1]
        lanes[-1] = round_up(-(-lanes[-1] // per), BLOCK_BYTES * 8 // dtype.bits)
        return tuple(lanes)

    def strides(self, strip: Strip) -> tuple[Expr, ...]:
        shape = [s.value for s in self.context.tree.buffers[strip.buffer].shape]
        strides = [1] * len(shape)
        for n in range(len(shape) - 2, -1, -1):
            strides[n] = strides[n + 1] * shape[n + 1]
        return tuple(map(constant, strides))

    def view(self, strip: Piece, axes: tuple[str, ...], per: int = 1) -> View:
        """The lanes of ``axes`` that are not padding; an axis the strip lacks repeats with stride 0."""
        assert isinstance(strip, Strip)
        strides = dict(zip(strip.axes, self.strides(strip), strict=False))
        counts = [self.context.count(a, True) for a in axes]
        if per > 1:
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

    def in_memory(self, tensor: str, flat: Expr, axes: tuple[str, ...]) -> View:
        c = self.context
        strides = [flat.coefficient(a) for a in axes]
        if axes and strides[-1] != 1:
            raise self.unsupported(f"an access to {tensor} with stride {strides[-1]}")
        offset = flat.substitute({a: c.start(a, True) for a in axes})
        dims = tuple((c.count(a, True), s) for a, s in zip(axes, strides, strict=True))
        return View(tensor, offset, dims or ((constant(1), constant(1)),))

    def result(self, axes: tuple[str, ...], dtype: DType, *sources: Piece) -> Strip:
        """Where to write: over a source that nobody needs any more, else a temporary."""
        for s in sources:
            if isinstance(s, Strip) and s.pooled and s.axes == axes and s.dtype == dtype:
                return s
        return self.temporary(axes, dtype)

    def recycle(self, piece: Piece, result: Strip | None = None) -> None:
        if isinstance(piece, Strip) and piece.pooled and (result is None or piece.buffer != result.buffer):
            shape = tuple(s.value for s in self.context.tree.buffers[piece.buffer].shape)
            names = self.free.setdefault((shape, piece.dtype), [])
            if piece.buffer not in names:
                names.append(piece.buffer)

    def emit(self, op: str, dst: Strip, axes: tuple[str, ...], *sources: Piece) -> None:
        c = self.context
        c.tree.emit(c.tree.top, op, "vector", "V", self.view(dst, axes), *(self.at(s, axes) for s in sources))

    def unsupported(self, what: str) -> UnsupportedError:
        return UnsupportedError(
            "ascend-vector",
            where=f"kernel {self.context.scheduled.kernel.name} on {self.context.target.spelling}",
            cause=f"{what} has no vector instructions here",
            fix="run this kernel on the host",
        )
