"""Constant operands of products in the order of memory that their tiles are read in."""

from __future__ import annotations

from tilewright.backends.cuda.contraction import Contraction
from tilewright.backends.cuda.schedules.precision import Unit
from tilewright.ir.symbolic import Expr, ceildiv, constant, symbol
from tilewright.kernel.analysis import loads_of
from tilewright.kernel.expr import Load
from tilewright.kernel.schedule import Pack
from tilewright.kernel.tile import Kernel

#: Bytes of the widest access of one thread.
_WIDEST = 16


def weight_packs(kernel: Kernel, c: Contraction, unit: Unit) -> tuple[Pack, ...]:
    """Packs that bring the depth of a constant operand together, rows of it at multiples of 16 bytes.

    16-bit operands are read as they lie where their columns are together: the matrix unit takes them either way.
    Those of 8 and 32 bits it takes along the depth only (PTX ISA: wgmma.mma_async, transposition; ldmatrix.trans).
    """
    packs = []
    for operand, free in ((c.left, c.rows), (c.right, c.columns)):
        loads = [x for x in loads_of(operand) if kernel.param(x.tensor).role == "const"]
        if len(loads) == 1 and (pack := _pack(kernel, loads[0], (*c.batch, *free), c.depth, unit)) is not None:
            packs.append(pack)
    return tuple(packs)


def _pack(kernel: Kernel, load: Load, free: tuple[str, ...], depth: tuple[str, ...], unit: Unit) -> Pack | None:
    p = kernel.param(load.tensor)
    axes = [str(i) if isinstance(i, Expr) else "" for i in load.index]
    if load.fill is not None or not unit.matrix or not all(e.is_constant for e in p.shape):
        return None
    known = {a.name for a in kernel.axes}
    # Every dimension is one axis, or has a single element.
    if any(a not in known and p.shape[n] != 1 for n, a in enumerate(axes)) or len(set(axes) & known) != sum(
        a in known for a in axes
    ):
        return None
    if not {a for a in axes if a in known} >= set(depth):
        return None
    wide = _WIDEST // unit.size
    if unit.size == 2 and axes[-1] in free and p.shape[-1].value % wide == 0 and axes[-2:-1] != [""]:
        return None
    order = sorted(range(len(axes)), key=lambda n: (axes[n] in depth, depth.index(axes[n]) if axes[n] in depth else n))
    last = p.shape[order[-1]]
    shape = [p.shape[n] for n in order]
    shape[-1] = ceildiv(last, wide) * wide
    if order == list(range(len(axes))) and shape[-1] == last:
        return None
    return Pack(p.name, tuple(symbol(f"d{n}") for n in order), tuple(constant(e.value) for e in shape))
