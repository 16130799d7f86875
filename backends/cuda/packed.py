"""Reads of 4-bit elements, two in a byte, a byte at a time: neighbours along the last axis come apart in registers."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.backends.cuda.positions import Frame, Positions
from tilewright.ir.ranges import divisor
from tilewright.ir.symbolic import Expr, floordiv, symbol


@dataclass(frozen=True, slots=True)
class Pairs:
    """A tile of pairs: the elements of ``axis`` by twos, from pair ``start`` on; ``offset`` of a byte is over ``half``,
    which numbers the pairs."""

    axis: str
    half: str
    start: Expr
    offset: Expr


def pairs_of(offset: Expr, frame: Frame, at: Positions) -> Pairs | None:
    """How the elements at ``offset`` over ``frame`` are read in pairs; ``None`` where a byte may be of two tiles.

    The axis whose neighbours share bytes stands alone on its dimension, with even numbers of lanes from even starts.
    """
    for axis in sorted(offset.symbols & at.axes.keys()):
        p = at.axes[axis]
        if p.dim not in frame or at.lanes[p.dim] % 2 or divisor(p.start, at.facts) % 2:
            continue
        try:
            step = offset.coefficient(axis)
        except ValueError:
            continue
        alone = [a for a, other in at.axes.items() if other.dim == p.dim]
        scalars = {a: other.start for a, other in at.axes.items() if other.dim is None}
        rest = (offset - symbol(axis)).substitute(scalars)
        if step != 1 or alone != [axis] or divisor(rest, at.facts) % 2:
            continue
        half = f"{axis}_pair"
        return Pairs(axis, half, floordiv(p.start, 2), floordiv(offset.substitute({axis: 2 * symbol(half)}), 2))
    return None
