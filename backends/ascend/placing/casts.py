"""Conversions between element types on a vector core, by the pairs that its ``Cast`` has."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tilewright.backends.ascend.placed.form import Scalar
from tilewright.backends.ascend.placed.instructions import CASTS, FUSED_CASTS
from tilewright.backends.ascend.placing.strips import SPREAD, Piece, Strip, Strips
from tilewright.ir.types import DType

#: The type that stands for another in the unified buffer.
_HELD = {DType.BOOL: DType.U8}
_BYTES = (DType.U8, DType.I8)


def held(dtype: DType) -> DType:
    """The type of a tile that a tensor of ``dtype`` is brought into: a truth value is a byte of 0 or 1."""
    return _HELD.get(dtype, dtype)


def steps(source: DType, target: DType, features: Collection[str] = ("split",)) -> tuple[DType, ...] | None:
    """Types on the way from one to another; none of them loses what both ends hold. ``None`` where there is no way.
    ``features`` are the target's: a fused core has fewer pairs."""
    if source == target:
        return ()
    pairs: Collection[tuple[str, str]] = CASTS if "split" in features else FUSED_CASTS
    if (str(source), str(target)) in pairs:
        return (target,)
    if source in _BYTES:
        onward = steps(DType.F16, target, features)
        return None if onward is None else (DType.F16, *onward)
    if target in _BYTES:
        before = steps(source, DType.F16, features)
        return None if before is None else (*before, DType.F16, target)[-len(before) - 1 :] if before else (target,)
    if source != DType.F32 and (str(source), "f32") in pairs and (target == DType.F32 or ("f32", str(target)) in pairs):
        return (DType.F32, target)
    return None


@dataclass(slots=True)
class Casts(Strips):
    """Strips in other types."""

    def carry(self, piece: Piece, dtype: DType, rounding: str = "") -> Piece:
        """``piece`` in ``dtype``, which holds its numbers; uses it up. ``rounding`` is that of the first step that
        leaves the floats."""
        if isinstance(piece, Scalar) or piece.dtype == dtype:
            return piece
        if SPREAD in piece.axes:
            raise self.unsupported(f"single elements of {piece.dtype} that are not only moved")
        way = steps(piece.dtype, dtype, self.context.target.features)
        if way is None or (DType.BF16 in (piece.dtype, dtype) and "bf16" not in self.context.target.features):
            raise self.unsupported(f"a cast of {piece.dtype} to {dtype}")
        for step in way:
            result = self.temporary(piece.axes, step)
            mode = (("round", rounding),) if rounding and step.is_integer and piece.dtype.is_float else ()
            self.emit("cast", result, piece.axes, piece, parameters=mode)
            self.recycle(piece)
            piece = result
        return piece

    def rounded(self, piece: Strip, mode: str) -> Strip:
        """Whole numbers next to those of ``piece`` (f32), as f32; uses it up. ``mode`` as of ``cast``."""
        result = self.result(piece.axes, DType.F32, piece)
        self.emit("cast", result, piece.axes, piece, parameters=(("round", mode),))
        self.recycle(piece, result)
        return result
