"""What no schedule of a product goes below on the model of the machine: cycles by arithmetic on the target's numbers.

Each core is given an equal rectangle of the result and reads the rows and columns that it needs at least once; nothing
shares the depth of one sum among cores. A grid of ``g × h`` cores reads ``depth · (rows/g + columns/h)`` elements a
core, which is least where the rectangles are squares; ``g`` may be a fraction here, so no real grid reads less. Of the
bytes that DRAM has to give, each core waits for its share. Then the products that the cores have to do, and the
latencies that nothing hides: the first bytes' way into L1 and L0, and the last sum's way out. What L0C holds is left
out, and so is what products wait for because a piece has to be there before it is used: the bound is not reached.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from tilewright.target import Target


@dataclass(frozen=True, slots=True)
class Product:
    """``rows × depth`` times ``depth × columns`` of ``dtype`` (elements of ``size`` bytes)."""

    rows: int
    columns: int
    depth: int
    dtype: str
    size: int


def least_cycles(p: Product, target: Target, warm: Collection[str] = ()) -> float:
    """Cycles that a launch of ``p`` takes at least; ``warm``: of "left" and "right", what L2 holds before."""
    c = target.extra["cycles"]
    cores = target.units
    products = p.rows * p.columns * p.depth / (cores * 16 * 16 * int(c["step"][p.dtype]))
    read = _least_read(p, cores)
    cold = sum(n for side, n in (("left", p.rows), ("right", p.columns)) if side not in warm) * p.depth * p.size / cores
    dram = min(float(c["dram"]), float(c["l2_read"]))
    transfers = cold / dram + max(0.0, read - cold) / c["l2_read"]
    ways = c["read_latency"] + c["load_latency"] + c["mmad_latency"] + c["write_latency"] + 4 * c["flag_latency"]
    return float(max(products, transfers) + ways)


def most_utilisation(p: Product, target: Target, warm: Collection[str] = ()) -> float:
    """The share of the cube units' multiply-adds that :func:`least_cycles` leaves possible."""
    rate = target.units * 16 * 16 * int(target.extra["cycles"]["step"][p.dtype])
    return p.rows * p.columns * p.depth / (rate * least_cycles(p, target, warm))


def _least_read(p: Product, cores: int) -> float:
    """Bytes that the core with the most to read brings in at least: a square, or strips of the whole shorter side."""
    across = min(max(math.sqrt(p.rows * cores / p.columns), 1.0), float(cores))
    return p.depth * p.size * (p.rows / across + p.columns * across / cores)
