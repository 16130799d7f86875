"""Packed layouts of constants: how a schedule's :class:`Pack` changes reads, parameters and arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tilewright.ir.symbolic import Expr, Operation, ceildiv, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import transform
from tilewright.kernel.expr import Load, Value
from tilewright.kernel.schedule import Pack, Scheduled, ScheduleError
from tilewright.kernel.tile import Kernel, Param

Array = npt.NDArray[Any]

#: Elements that are packed at a time.
_PIECE = 1 << 20


def packed_params(scheduled: Scheduled) -> tuple[Param, ...]:
    """The parameters of the scheduled kernel in call order, packed constants in their packed shape."""
    return apply_packs(scheduled.kernel, scheduled.schedule.packs)


def apply_packs(kernel: Kernel, packs: tuple[Pack, ...]) -> tuple[Param, ...]:
    """The parameters of ``kernel`` under ``packs``. Raises :class:`ScheduleError` for what is no constant."""
    by_tensor = {p.tensor: p for p in packs}
    for pack in packs:
        if not any(p.name == pack.tensor and p.role == "const" for p in kernel.params):
            raise ScheduleError(kernel.name, f"{pack.tensor} is packed but is no constant parameter")
    return tuple(replace(p, shape=by_tensor[p.name].shape) if p.name in by_tensor else p for p in kernel.params)


def rewrite_loads(kernel: str, value: Value, packs: Mapping[str, Pack]) -> Value:
    """Loads of packed tensors in ``value``, with the packed index instead."""

    def rewrite(v: Value) -> Value:
        if not isinstance(v, Load) or v.tensor not in packs:
            return v
        if v.fill is not None:
            raise ScheduleError(kernel, f"{v.tensor} is read with a fill and cannot be packed")
        dims: dict[str, Expr] = {}
        for n, index in enumerate(v.index):
            if not isinstance(index, Expr):
                raise ScheduleError(kernel, f"{v.tensor} is gathered from and cannot be packed")
            dims[f"d{n}"] = index
        return replace(v, index=tuple(i.substitute(dims) for i in packs[v.tensor].index))

    return transform(value, rewrite)


def pack_constant(array: Array, pack: Pack) -> Array:
    """``array`` in the layout of ``pack``; elements outside the tensor are zero."""
    shape = tuple(s.value for s in pack.shape)
    array = array.reshape([s.value for s in pack.source]) if pack.source else array
    result = np.zeros(shape, array.dtype)
    # Offsets take twice the bytes of f32 elements, and more while they are computed: a piece at a time.
    rows = max(1, _PIECE * len(array) // max(1, array.size))
    for start in range(0, len(array), rows):
        piece = array[start : start + rows]
        result.reshape(-1)[np.broadcast_to(_offsets(piece.shape, start, pack, shape), piece.shape)] = piece
    return result


def _offsets(piece: tuple[int, ...], start: int, pack: Pack, shape: tuple[int, ...]) -> Array:
    """Where the elements of rows ``start`` … go in the flat packed array; broadcasts to the shape of ``piece``."""
    firsts = (start, *(0 for _ in piece[1:]))
    grids = {
        f"d{n}": np.arange(first, first + size).reshape([-1 if m == n else 1 for m in range(len(piece))])
        for n, (first, size) in enumerate(zip(firsts, piece, strict=True))
    }
    # Offsets stay broadcast until the last sum, since most entries depend on one dimension only.
    offset: Any = 0
    for entry, size in zip(pack.index, shape, strict=True):
        at = evaluate_on_grid(entry, grids)
        if np.any(at < 0) or np.any(at >= size):
            raise ValueError(f"{pack.tensor}: packed index {entry} reaches outside 0 … {size - 1}")
        offset = offset * size + at
    return np.asarray(offset)


def evaluate_on_grid(e: Expr, grids: Mapping[str, Any]) -> Any:
    """``e`` where symbols have integers or broadcastable integer arrays as values."""
    total: Any = 0
    for monomial, coefficient in e.terms:
        product: Any = coefficient
        for atom, power in monomial:
            if isinstance(atom, Operation):
                a, *rest = (evaluate_on_grid(x, grids) for x in atom.args)
                for b in rest:
                    a = _GRID[atom.op](a, b)
            else:
                a = grids[atom.name]
            for _ in range(power):
                product = product * a
        total = total + product
    return total


_GRID: dict[str, Any] = {"//": np.floor_divide, "%": np.mod, "min": np.minimum, "max": np.maximum}


def blocked(tensor: str, shape: tuple[Expr, ...], dim: int, size: int, order: Sequence[int] | None = None) -> Pack:
    """Panels of ``size`` along ``dim``: ``[d_dim // size, the other dimensions, d_dim % size]``, the others in
    ``order`` if that is given."""
    names = [symbol(f"d{n}") for n in range(len(shape))]
    others = [n for n in range(len(shape)) if n != dim] if order is None else order
    return Pack(
        tensor,
        (names[dim] // size, *(names[n] for n in others), names[dim] % size),
        (ceildiv(shape[dim], size), *(shape[n] for n in others), constant(size)),
    )


def in_memory(array: Array, dtype: DType) -> Array:
    """``array`` as memory holds it: of a type of less than 8 bits, bytes of several elements, the first in the lowest
    bits; any other array as it is."""
    if dtype.bits >= 8:
        return np.ascontiguousarray(array)
    per_byte = 8 // dtype.bits
    codes = np.zeros(-(-array.size // per_byte) * per_byte, np.uint8)
    codes[: array.size] = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & ((1 << dtype.bits) - 1)
    result: Array = np.bitwise_or.reduce(
        codes.reshape(-1, per_byte) << np.arange(0, 8, dtype.bits, dtype=np.uint8), axis=1
    )
    return result
