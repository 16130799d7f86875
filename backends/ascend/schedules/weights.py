"""Packed layouts of weights that vector cores widen: planes of 16 columns, one behind the other along the depth."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.backends.ascend.placed.layout import FRACTAL, round_up
from tilewright.backends.ascend.placing.dequantized import Dequantized
from tilewright.ir.symbolic import ZERO, Expr, ceildiv, constant, symbol
from tilewright.kernel.expr import Load
from tilewright.kernel.schedule import Pack
from tilewright.kernel.tile import Kernel


def widened_packs(kernel: Kernel, weights: Dequantized, depth: str, columns: str) -> Iterator[Pack]:
    """Packs of integers ``[depth, columns]``, of zero points and scales of groups of their rows or of whole columns;
    none where one of them is something else."""
    packs = [_pack(kernel, load, depth, columns) for load in weights.loads]
    if all(p is not None for p in packs) and _is_plain(kernel, weights.integers, depth, columns):
        yield from (p for p in packs if p is not None)


def _is_plain(kernel: Kernel, load: Load, depth: str, columns: str) -> bool:
    shape = kernel.param(load.tensor).shape
    return load.index == (symbol(depth), symbol(columns)) and shape[0] == kernel.extent(depth)


def _pack(kernel: Kernel, load: Load, depth: str, columns: str) -> Pack | None:
    param = kernel.param(load.tensor)
    constants = param.role == "const" and all(s.is_constant for s in param.shape)
    if not constants or not param.shape or param.shape[-1] != kernel.extent(columns):
        return None
    planes = ceildiv(param.shape[-1], FRACTAL)
    column = symbol(f"d{len(param.shape) - 1}")
    if load.index == (symbol(columns),):
        return Pack(param.name, (column // FRACTAL, ZERO, column % FRACTAL), (planes, constant(1), constant(FRACTAL)))
    if len(load.index) != 2 or load.index[1] != symbol(columns) or not _is_group(kernel, load, depth):
        return None
    whole = load.index[0] == symbol(depth)
    rows = constant(round_up(param.shape[0].value, FRACTAL)) if whole else param.shape[0]
    return Pack(param.name, (column // FRACTAL, symbol("d0"), column % FRACTAL), (planes, rows, constant(FRACTAL)))


def _is_group(kernel: Kernel, load: Load, depth: str) -> bool:
    """Whether rows of the tensor are equal groups of ``depth``, in order."""
    extent, count = kernel.extent(depth), kernel.param(load.tensor).shape[0]
    if not extent.is_constant or extent.value % count.value:
        return False
    wanted: Expr = symbol(depth) // (extent.value // count.value)
    return load.index[0] == wanted
