"""How constant weights of 4 and 8 bits lie in memory: see ``native/bytes.h``."""

from __future__ import annotations

from tilewright.ir.symbolic import Expr, ceildiv, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.schedule import Pack
from tilewright.kernel.tile import Param

#: Columns of a panel, for every target, and bytes of those that stand together (``TW_GROUP`` of ``bytes.h``).
PANEL = 32
GROUP = 4 * PANEL
#: Element types that are packed so.
INTEGERS = (DType.I4, DType.U4, DType.I8, DType.U8)


def steps(dtype: DType) -> int:
    """Steps of the reduction whose weights of one column stand in 4 successive bytes."""
    return 32 // dtype.bits


def byte_panels(param: Param) -> Pack:
    """Weights ``[K, N]`` as ``[N / 32, K / 4, column, 4]``, or of 4 bits ``[N / 32, K / 8, column, 4, 2]``."""
    depth, columns = param.shape
    k, n = symbol("d0"), symbol("d1")
    group = steps(param.dtype)
    index: tuple[Expr, ...] = (n // PANEL, k // group, n % PANEL, k % 4)
    shape: tuple[Expr, ...] = (ceildiv(columns, PANEL), ceildiv(depth, group), constant(PANEL), constant(4))
    if group == 8:
        index, shape = (*index, k % 8 // 4), (*shape, constant(2))
    return Pack(param.name, index, shape)
