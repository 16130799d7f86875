"""The scheduled form: the same computation with tiles, loops and memory. ``apply`` makes it from a record.

A :class:`Schedule` is plain data (a *record*; it can be written as one JSON line and found by search). ``apply`` turns
a lowered kernel and a schedule into a :class:`Scheduled` tree, which every emitter spells and the scheduled
interpreter runs. The statements keep the axis names of the lowered kernel; inside a loop over an axis, that axis
ranges over ``[start, start + size)`` where ``start`` is the loop's variable. Lanes at or beyond the extent are
*padding*: their contents are undefined (the interpreter poisons them), loads and stores are guarded where ``guards``
names the axis, a reduction replaces padded lanes by its identity, and a computed operand of a product-sum is zero there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Union

from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType
from tilewright.kernel.expr import Const, Value
from tilewright.kernel.tile import Kernel, Reduction

#: ``block``: independent pieces run in parallel; ``tile``: a sequential loop; ``pipeline``: a reduction loop whose
#: loads run ahead.
LoopKind = Literal["block", "tile", "pipeline"]


@dataclass(frozen=True, slots=True)
class Loop:
    """One loop of the nest, outermost first. ``size`` elements of ``axis`` an iteration. An axis may occur twice
    (an outer block and an inner tile); an output axis that occurs nowhere is taken whole. ``balanced`` evens out the
    pieces instead of leaving a small last one."""

    axis: str
    size: int
    kind: LoopKind = "tile"
    balanced: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """Copy what ``tensor`` contributes below loop number ``depth`` (0: outside all) into a tile in ``space``."""

    tensor: str
    depth: int
    space: str
    pad: int = 0


@dataclass(frozen=True, slots=True)
class Pack:
    """Packed layout of a constant: each entry is an index expression over ``d0, d1, …`` of the original tensor and its
    extent. ``[d1 // 32, d0, d1 % 32]`` is panels of 32 columns. Elements outside the tensor are zero."""

    tensor: str
    index: tuple[Expr, ...]
    shape: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How to run a kernel. ``reduce`` tiles reduction and scan axes (absent: whole). ``spaces`` says where a tile
    lives (``reg``, ``l1``, ``workspace`` …; the backend's default otherwise). ``extra`` is read by one backend only
    (``num_warps``, ``num_stages`` …)."""

    loops: tuple[Loop, ...] = ()
    reduce: tuple[Loop, ...] = ()
    stages: tuple[Stage, ...] = ()
    packs: tuple[Pack, ...] = ()
    spaces: tuple[tuple[str, str], ...] = ()
    extra: tuple[tuple[str, int | str | bool], ...] = ()

    def option(self, name: str, default: int | str | bool) -> int | str | bool:
        """The value of an ``extra`` entry."""
        return dict(self.extra).get(name, default)


# -- the scheduled tree --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TileDim:
    """One dimension of a tile: the axis it follows and its allocated size (an int, or an expression when whole)."""

    axis: str
    size: Expr


@dataclass(frozen=True, slots=True)
class Tile:
    """A buffer local to a block."""

    name: str
    dtype: DType
    dims: tuple[TileDim, ...]
    space: str


@dataclass(frozen=True, slots=True)
class For:
    """Run ``body`` for ``var = lo, lo + size, … < hi``; inside, ``axis`` ranges over ``[var, min(var + size, hi))``."""

    axis: str
    var: str
    lo: Expr
    hi: Expr
    size: int
    kind: LoopKind
    body: tuple[Node, ...]
    balanced: bool = False


@dataclass(frozen=True, slots=True)
class Alloc:
    """``tile`` exists from here to the end of the enclosing body."""

    tile: Tile


@dataclass(frozen=True, slots=True)
class Fill:
    """Every lane of a tile becomes ``value``."""

    tile: str
    value: Const


@dataclass(frozen=True, slots=True)
class Compute:
    """``tile[axes] = value``; with ``reduce``, the reduction; with ``accumulate``, combined into what the tile holds.

    ``guards`` are the axes whose padded lanes must not be read from memory or enter the reduction.
    """

    tile: str
    axes: tuple[str, ...]
    value: Value
    reduce: Reduction | None = None
    accumulate: bool = False
    guards: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Write:
    """``tensor[index] = value`` for the lanes of ``axes`` that are not padding along ``guards``."""

    tensor: str
    axes: tuple[str, ...]
    index: tuple[Expr, ...]
    value: Value
    guards: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rotate:
    """All carries take their new values at once: pairs of (carry, tile)."""

    pairs: tuple[tuple[str, str], ...]


Node = Union[For, Alloc, Fill, Compute, Write, Rotate]


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A kernel under a schedule. ``body`` starts with the nest of ``block`` loops."""

    kernel: Kernel
    schedule: Schedule
    body: tuple[Node, ...] = field(default=())
