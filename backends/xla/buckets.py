"""Which sizes a region gets programs for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import onnx_ir as ir
from tilewright.errors import UsageError
from tilewright.ir.facts import facts
from tilewright.ir.graph import type_of
from tilewright.ir.ranges import POSITIVE_INFINITY, Range
from tilewright.passes.place import Region


@dataclass(frozen=True, slots=True)
class Bucket:
    """The static size of each symbol, and the symbols whose true size may be less."""

    sizes: Mapping[str, int]
    padded: tuple[str, ...]


def buckets_of(model: ir.Model, region: Region, asked: Mapping[str, tuple[int, ...]]) -> tuple[Bucket, ...]:
    """The buckets of a region, by rising sizes. ``asked`` are sizes by symbol.

    Raises :class:`UsageError` for a symbol without an upper bound that nobody gave sizes for.
    """
    known = facts(model)
    values = [*region.inputs, *region.outputs, *(v for n in region.nodes for v in n.outputs if v.name)]
    symbols = sorted({s for v in values for e in type_of(v).shape for s in e.symbols})
    ladders = [asked.get(s) or ladder(s, known[s]) for s in symbols]
    return tuple(Bucket(dict(zip(symbols, sizes, strict=True)), tuple(symbols)) for sizes in product(*ladders))


def ladder(name: str, bounds: Range) -> tuple[int, ...]:
    """Sizes that double, up to the upper bound."""
    if bounds.hi >= POSITIVE_INFINITY:
        raise UsageError(
            "bucket-unbounded",
            where=f"dimension {name}",
            cause="a static program needs its largest size, and none is given",
            fix=f"bound it (--input-shape x:{name}=1..128,…), or name the sizes (--bucket {name}=32,128)",
        )
    found, size = [bounds.hi], 1
    while size < bounds.hi:
        if size >= bounds.lo:
            found.append(size)
        size *= 2
    return tuple(sorted(found))
