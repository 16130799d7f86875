"""Reductions on a vector core: halves of a tile are combined until one lane, or one repeat of each row, is left.

Every step is one instruction over what is there: the upper half of the lanes onto the lower one. Padding takes no part,
since each step names only lanes that are inside. The last axis is folded to 256 bytes a row, which the instructions
that reduce within a repeat then take, or to 32 bytes for those that reduce blocks, of which a repeat has eight; what
neither have (products, integers) is folded on by ``gather``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.backends.ascend.placed.form import Scalar, View
from tilewright.backends.ascend.placed.layout import BLOCK_BYTES
from tilewright.backends.ascend.placing.arithmetic import Arithmetic
from tilewright.backends.ascend.placing.strips import Piece, Strip
from tilewright.ir.symbolic import ZERO, Expr, constant, maximum, minimum
from tilewright.ir.types import DType
from tilewright.kernel.expr import Value

#: The instruction that combines two lanes, and the one that reduces a repeat, of each kind of reduction.
_FOLD = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "max", "all": "min"}
_ROW = {"sum": "row_sum", "max": "row_max", "min": "row_min", "any": "row_max", "all": "row_min"}
_BLOCK = {"sum": "block_sum", "max": "block_max", "min": "block_min", "any": "block_max", "all": "block_min"}
_REPEAT = 256
#: Rows from which on three more halvings take less time than a repeat of each row does: halving takes a cycle a row and
#: some forty to begin, a repeat that reduces takes seven cycles, for one row or for the blocks of eight.
_MANY = 32
_ONE = (constant(1), constant(1))


@dataclass(slots=True)
class Reductions(Arithmetic):
    """Reduces strips."""

    def reduced(self, op: str, value: Value, own: tuple[str, ...], axes: tuple[str, ...]) -> Strip:
        """``op`` of ``value`` over ``axes``; the result has those of ``own``. Sums of f16 are taken in f32."""
        dtype = self.carrier(value)
        if value.dtype.is_integer and op in ("sum", "prod"):
            dtype = DType.I32 if value.dtype.bits <= 32 else self._summed(op, value, axes)
        elif dtype is DType.F16 and op in ("sum", "prod") and value.dtype is not DType.BOOL:
            dtype = DType.F32
        both = self.ordered({*own, *axes})
        piece = self.operand(value, dtype)
        cut = [a for a in both if a in axes]
        strip, valid = self._begun(op, piece, both, cut, dtype)
        for axis in cut:
            if axis != both[-1]:
                strip = self._along(op, strip, axis, valid.pop(axis, None))
        if both and both[-1] in axes:
            strip = self._last(op, strip, valid.pop(both[-1], None))
        return strip

    def _begun(
        self, op: str, piece: Piece, axes: tuple[str, ...], cut: list[str], dtype: DType
    ) -> tuple[Strip, dict[str, Expr]]:
        """``piece`` in a strip of its own; where that takes a copy, folded once: halves are combined on the way. Also
        how many lanes are left along the folded axis."""
        c = self.context
        if (isinstance(piece, Strip) and piece.pooled and piece.axes == axes) or not cut:
            return self._own(piece, axes, dtype), {}
        axis = cut[0]
        last = self._least(op, dtype, axes[:-1]) if axis == axes[-1] else 1
        whole = isinstance(piece, Strip) and piece.axes == axes and cut == [axes[-1]]
        if whole and self._direct(op, dtype) and c.vector_lanes(axis) <= last:
            # One instruction reduces each row, and writes nothing that it reads.
            return self._strip(piece), {}
        half = self._half(c.vector_lanes(axis), last)
        if isinstance(piece, Scalar) or piece.axes != axes or half >= c.vector_lanes(axis):
            return self._own(piece, axes, dtype), {}
        counts = {a: c.count(a, True) for a in axes}
        valid = counts[axis]
        strip = self.temporary(axes, dtype, sizes={axis: half})
        first = minimum(valid, half)
        upper = minimum(maximum(0, valid - half), half)
        sums = [self._part(s, axis, at, upper, counts) for s, at in ((strip, 0), (piece, 0), (piece, half))]
        if upper.is_constant and upper.value * dtype.bits % (BLOCK_BYTES * 8) == 0:
            # Only what has no other half is copied.
            rest = first - upper
            if rest != 0:
                parts = [self._part(s, axis, upper.value, rest, counts) for s in (strip, piece)]
                c.tree.emit(c.tree.top, "copy", "vector", "V", *parts)
            c.tree.emit(c.tree.top, _FOLD[op], "vector", "V", *sums)
            return strip, {axis: first}
        low, other = self._part(strip, axis, 0, first, counts), self._part(piece, axis, 0, first, counts)
        c.tree.emit(c.tree.top, "copy", "vector", "V", low, other)
        c.tree.emit(c.tree.top, _FOLD[op], "vector", "V", sums[0], sums[0], sums[2])
        return strip, {axis: first}

    @staticmethod
    def _half(lanes: int, last: int) -> int:
        """The largest ``last · 2^n`` below ``lanes``."""
        half = last
        while half * 2 < lanes:
            half *= 2
        return half

    def _least(self, op: str, dtype: DType, kept: Sequence[str]) -> int:
        """Lanes that are left of the last axis when its rows, over the axes ``kept``, are reduced."""
        by_blocks = _ROW.get(op) != "row_sum" and "row_max" not in self.context.target.features
        direct = self._direct(op, dtype) and not by_blocks
        if direct and "block_reduce" in self.context.target.features:
            direct = math.prod(self.context.vector_lanes(a) for a in kept) < _MANY
        return (_REPEAT if direct else BLOCK_BYTES) * 8 // dtype.bits

    @staticmethod
    def _direct(op: str, dtype: DType) -> bool:
        """Whether there are instructions that reduce rows, or blocks, so."""
        return op in _ROW and dtype in (DType.F32, DType.F16)

    def _summed(self, op: str, value: Value, axes: tuple[str, ...]) -> DType:
        """The type of a sum of 64-bit integers, where all terms together are known to fit."""
        low, high = self.numbers.interval(value)
        terms = 1
        for axis in axes:
            terms *= self.context.lanes(axis)
        if op == "prod" or max(-low, high) * terms >= 2.0**31:
            raise self.unsupported(f"a {op} of {value.dtype} beyond 32 bits")
        return DType.I32

    def _own(self, piece: Piece, axes: tuple[str, ...], dtype: DType) -> Strip:
        """``piece`` in a strip over all of ``axes`` that may be overwritten."""
        if isinstance(piece, Strip) and piece.pooled and piece.axes == axes:
            return piece
        strip = self.temporary(axes, dtype)
        self.emit("duplicate" if isinstance(piece, Scalar) else "copy", strip, axes, piece)
        self.recycle(piece, strip)
        return strip

    def _part(self, strip: Strip, axis: str, first: int, count: Expr, counts: dict[str, Expr]) -> View:
        strides = dict(zip(strip.axes, self.strides(strip), strict=True))
        dims = tuple((count if a == axis else counts[a], strides[a]) for a in strip.axes)
        return View(strip.buffer, strides[axis] * first, dims)

    def _fold(self, op: str, strip: Strip, axis: str, last: int, valid: Expr | None) -> Expr:
        """Halve ``axis`` until at most ``last`` lanes are left; how many of them are inside. ``valid``: how many are
        where it is folded already."""
        c = self.context
        counts = {a: c.count(a, True) for a in strip.axes}
        lanes = c.vector_lanes(axis)
        if valid is not None:
            lanes = self._half(lanes, last)
        valid = counts[axis] if valid is None else valid
        while lanes > last:
            half = self._half(lanes, last)
            upper = minimum(maximum(0, valid - half), half)
            low, high = (self._part(strip, axis, n, upper, counts) for n in (0, half))
            c.tree.emit(c.tree.top, _FOLD[op], "vector", "V", low, low, high)
            lanes, valid = half, minimum(valid, half)
        return valid

    def _along(self, op: str, strip: Strip, axis: str, valid: Expr | None) -> Strip:
        """Lanes of an axis that is not the last one."""
        self._fold(op, strip, axis, 1, valid)
        kept = tuple(a for a in strip.axes if a != axis)
        result = self.temporary(kept, strip.dtype)
        c = self.context
        counts = {a: c.count(a, True) for a in strip.axes}
        strides = dict(zip(strip.axes, self.strides(strip), strict=True))
        source = View(strip.buffer, ZERO, tuple((counts[a], strides[a]) for a in kept))
        c.tree.emit(c.tree.top, "copy", "vector", "V", self.view(result, kept), source)
        self.recycle(strip)
        return result

    def _last(self, op: str, strip: Strip, valid: Expr | None) -> Strip:
        """The last axis."""
        c = self.context
        axis, kept = strip.axes[-1], strip.axes[:-1]
        least = self._least(op, strip.dtype, kept)
        valid = self._fold(op, strip, axis, least, valid)
        counts = {a: c.count(a, True) for a in strip.axes}
        block = BLOCK_BYTES * 8 // strip.dtype.bits
        if self._direct(op, strip.dtype):
            result = self.temporary(kept, strip.dtype)
            source = self._part(strip, axis, 0, valid, counts)
            name = (_ROW if least > block else _BLOCK)[op]
            c.tree.emit(c.tree.top, name, "vector", "V", self.view(result, kept), source)
            self.recycle(strip)
            return result
        lanes, half = min(block, c.vector_lanes(axis)), block
        while half > 1:
            half //= 2
            if half < lanes:
                valid = self._shifted(op, strip, half, valid, counts)
        steps = {a: s.value * (strip.dtype.bits // 8) for a, s in zip(kept, self.strides(strip), strict=False)}
        rows = tuple((counts[a], s) for a, s in zip(kept, self.strides(strip), strict=False))
        first = View(strip.buffer, ZERO, (*rows, _ONE))
        return self.gathered(strip, kept, self.positions(kept, dict(steps)), everything=first)

    def _shifted(self, op: str, strip: Strip, half: int, valid: Expr, counts: dict[str, Expr]) -> Expr:
        """Combine lanes ``half`` … of each row's first block with its first ones: they are fetched first, since
        instructions begin at blocks."""
        c = self.context
        axis, size = strip.axes[-1], strip.dtype.bits // 8
        upper = minimum(maximum(0, valid - half), half)
        steps = {a: s.value * size for a, s in zip(strip.axes, self.strides(strip), strict=True)}
        offsets = self.positions(strip.axes, dict(steps), half * size)
        fetched = self.temporary(strip.axes, strip.dtype)
        part = {"to": self._part(fetched, axis, 0, upper, counts), "at": self._part(offsets, axis, 0, upper, counts)}
        source = self._part(strip, axis, 0, valid, counts)
        c.tree.emit(c.tree.top, "gather", "vector", "V", part["to"], source, part["at"])
        low = self._part(strip, axis, 0, upper, counts)
        c.tree.emit(c.tree.top, _FOLD[op], "vector", "V", low, low, part["to"])
        self.recycle(offsets)
        self.recycle(fetched)
        return minimum(valid, half)
