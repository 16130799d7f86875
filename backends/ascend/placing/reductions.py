"""Reductions on a vector core: halves of a tile are combined until one lane, or one repeat of each row, is left.

Every step is one instruction over what is there: the upper half of the lanes onto the lower one. Padding takes no part,
since each step names only lanes that are inside. The last axis is folded to 256 bytes a row, which the instructions
that reduce within a repeat then take; what those do not have (products, integers) is folded on by ``gather``.
"""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.backends.ascend.placed.form import Scalar, View
from tilewright.backends.ascend.placing.arithmetic import Arithmetic
from tilewright.backends.ascend.placing.strips import Piece, Strip
from tilewright.ir.symbolic import ZERO, Expr, constant, maximum, minimum
from tilewright.ir.types import DType
from tilewright.kernel.expr import Value

#: The instruction that combines two lanes, and the one that reduces a repeat, of each kind of reduction.
_FOLD = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "max", "all": "min"}
_ROW = {"sum": "row_sum", "max": "row_max", "min": "row_min", "any": "row_max", "all": "row_min"}
_REPEAT = 256


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
        strip = self._own(self.operand(value, dtype), both, dtype)
        for axis in both[:-1]:
            if axis in axes:
                strip = self._along(op, strip, axis)
        if both and both[-1] in axes:
            strip = self._rows(op, strip)
        return strip

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

    def _fold(self, op: str, strip: Strip, axis: str, last: int) -> Expr:
        """Halve ``axis`` until at most ``last`` lanes are left; how many of them are inside."""
        c = self.context
        counts = {a: c.count(a, True) for a in strip.axes}
        lanes, valid = c.vector_lanes(axis), counts[axis]
        while lanes > last:
            half = last
            while half * 2 < lanes:
                half *= 2
            upper = minimum(maximum(0, valid - half), half)
            low, high = (self._part(strip, axis, n, upper, counts) for n in (0, half))
            c.tree.emit(c.tree.top, _FOLD[op], "vector", "V", low, low, high)
            lanes, valid = half, minimum(valid, half)
        return valid

    def _along(self, op: str, strip: Strip, axis: str) -> Strip:
        """Lanes of an axis that is not the last one."""
        self._fold(op, strip, axis, 1)
        kept = tuple(a for a in strip.axes if a != axis)
        result = self.temporary(kept, strip.dtype)
        c = self.context
        counts = {a: c.count(a, True) for a in strip.axes}
        strides = dict(zip(strip.axes, self.strides(strip), strict=True))
        source = View(strip.buffer, ZERO, tuple((counts[a], strides[a]) for a in kept))
        c.tree.emit(c.tree.top, "copy", "vector", "V", self.view(result, kept), source)
        self.recycle(strip)
        return result

    def _rows(self, op: str, strip: Strip) -> Strip:
        """The last axis."""
        c = self.context
        axis, kept = strip.axes[-1], strip.axes[:-1]
        repeat = _REPEAT * 8 // strip.dtype.bits
        direct = op in _ROW and strip.dtype in (DType.F32, DType.F16)
        block = 32 * 8 // strip.dtype.bits
        valid = self._fold(op, strip, axis, repeat if direct else block)
        result = self.temporary(kept, strip.dtype)
        counts = {a: c.count(a, True) for a in strip.axes}
        if direct:
            source = self._part(strip, axis, 0, valid, counts)
            c.tree.emit(c.tree.top, _ROW[op], "vector", "V", self.view(result, kept), source)
            self.recycle(strip)
            return result
        self.recycle(result)
        lanes = min(block, c.vector_lanes(axis))
        half = block
        while half > 1:
            half //= 2
            if half < lanes:
                valid = self._shifted(op, strip, half, valid, counts)
        steps = {a: s.value * (strip.dtype.bits // 8) for a, s in zip(kept, self.strides(strip), strict=False)}
        return self.gathered(strip, kept, self.positions(kept, dict(steps)))

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

