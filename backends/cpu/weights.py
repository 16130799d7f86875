"""How constant weights of 4, 8 and 16 bits lie in memory: see ``native/bytes.h``."""

from __future__ import annotations

from tilewright.ir.symbolic import Expr, ceildiv, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.pack import blocked
from tilewright.kernel.schedule import Pack
from tilewright.kernel.tile import Param

#: Columns of a panel, for every target (``TW_GROUP`` of ``bytes.h`` is the bytes of its groups).
PANEL = 32
#: Element types that are packed so.
INTEGERS = (DType.I4, DType.U4, DType.I8, DType.U8)
HALVES = (DType.F16, DType.BF16)


def steps(dtype: DType) -> int:
    """Steps of the reduction whose weights of one column stand together, in 4 bytes; halves stand alone."""
    return 1 if dtype in HALVES else 32 // dtype.bits


def group_bytes(dtype: DType) -> int:
    """Bytes of the weights of a panel for as many steps."""
    return PANEL * (2 if dtype in HALVES else 4)


def byte_panels(param: Param) -> Pack:
    """Weights ``[K, N]`` as ``[N / 32, K / 4, column, 4]``, of 4 bits ``[N / 32, K / 8, column, 4, 2]``; halves as
    ``[N / 32, K, column]``."""
    if param.dtype in HALVES:
        return blocked(param.name, param.shape, 1, PANEL)
    depth, columns = param.shape
    k, n = symbol("d0"), symbol("d1")
    group = steps(param.dtype)
    index: tuple[Expr, ...] = (n // PANEL, k // group, n % PANEL, k % 4)
    shape: tuple[Expr, ...] = (ceildiv(columns, PANEL), ceildiv(depth, group), constant(PANEL), constant(4))
    if group == 8:
        index, shape = (*index, k % 8 // 4), (*shape, constant(2))
    return Pack(param.name, index, shape)
