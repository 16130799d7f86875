"""The scheduled form: the same computation with tiles, loops and memory. ``apply`` makes it from a record.

A :class:`Schedule` is plain data (a *record*; it can be written as one JSON line and found by search). ``apply`` turns
a lowered kernel and a schedule into a :class:`Scheduled` tree, which every emitter spells and the scheduled
interpreter runs. The statements keep the axis names of the lowered kernel; inside a loop over an axis, that axis
ranges over ``[start, start + size)`` where ``start`` is the loop's variable. Lanes at or beyond the extent are
*padding*: their contents are undefined (the interpreter poisons them), loads and stores are guarded where ``guards``
names the axis, a reduction replaces padded lanes by its identity, and a computed operand of a product-sum is zero
there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Union

from tilewright.errors import CompileError
from tilewright.ir.symbolic import ZERO, Expr
from tilewright.ir.types import DType
from tilewright.kernel.expr import Const, Value
from tilewright.kernel.tile import Kernel, Reduction

#: ``block``: independent pieces run in parallel; ``tile``: a sequential loop; ``pipeline``: a reduction loop whose
#: loads run ahead.
LoopKind = Literal["block", "tile", "pipeline"]

#: ``space`` of a tile that the schedule says nothing about: the backend decides.
DEFAULT_SPACE = "default"
#: ``space`` that makes no tile: the value is computed again wherever it is used.
INLINE = "inline"


class ScheduleError(CompileError):
    """A schedule that its kernel does not allow (code ``schedule-illegal``). A search drops the candidate."""

    def __init__(self, kernel: str, cause: str):
        super().__init__(
            "schedule-illegal", where=f"kernel {kernel}", cause=cause, fix="choose another schedule for this kernel"
        )


@dataclass(frozen=True, slots=True)
class Loop:
    """One loop of the nest, outermost first. ``size`` elements of ``axis`` an iteration. An axis may occur twice
    (an outer block and an inner tile); an output axis that occurs nowhere is taken whole. ``balanced`` evens out the
    pieces instead of leaving a small last one: of ``n`` elements in ``p = ceil(n / size)`` pieces, each has
    ``ceil(n / p)``, rounded up to a multiple of ``unit`` (which divides ``size``): whole tiles in all but the last."""

    axis: str
    size: int
    kind: LoopKind = "tile"
    balanced: bool = False
    unit: int = 1


@dataclass(frozen=True, slots=True)
class Stage:
    """Copy what ``tensor`` contributes below loop number ``depth`` (0: outside all) into a tile in ``space``; all block
    loops are outside it.

    A depth beyond ``Schedule.loops`` counts on into the reduction loops. ``pad`` unused elements follow each row of
    the tile. A second stage of one tensor, deeper, copies from the first. The tensor is indexed by plain
    axes, or by axes that are the digits of an index (``32*head + column``); with ``window``, it is the other reads that
    are copied, one element for each position of all their axes (windows that slide over an image, taken apart).
    """

    tensor: str
    depth: int
    space: str
    pad: int = 0
    window: bool = False


@dataclass(frozen=True, slots=True)
class Pack:
    """Packed layout of a constant: each entry is an index expression over ``d0, d1, …`` of the original tensor and its
    extent. ``[d1 // 32, d0, d1 % 32]`` is panels of 32 columns. Elements outside the tensor are zero. ``source`` is the
    shape under which the kernel knows the original tensor, where that has other dimensions (a kernel merges some)."""

    tensor: str
    index: tuple[Expr, ...]
    shape: tuple[Expr, ...]
    source: tuple[Expr, ...] = ()


@dataclass(frozen=True, slots=True)
class Schedule:
    """How to run a kernel. ``reduce`` tiles reduction and scan axes (absent: whole), nested in the order given.
    ``spaces`` says where a tile lives (``reg``, ``l1``, ``workspace`` …; the backend's default otherwise; ``inline``
    makes no tile but computes the value anew at each use). ``extra`` is read by one backend only (``num_warps``,
    ``num_stages`` …), but for ``("whole:n", 1024)``: axis ``n``, where taken whole, has tiles of 1024 lanes, of which
    those beyond the extent are padding."""

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
    """One dimension of a tile: the axis it follows, its allocated size (an int, or an expression when whole) and the
    value of the axis at its first lane. The element for axis value ``x`` is lane ``x - start``."""

    axis: str
    size: Expr
    start: Expr = ZERO


@dataclass(frozen=True, slots=True)
class Tile:
    """A buffer local to a block. ``pad`` unused elements follow each row (the last dimension)."""

    name: str
    dtype: DType
    dims: tuple[TileDim, ...]
    space: str = DEFAULT_SPACE
    pad: int = 0


@dataclass(frozen=True, slots=True)
class For:
    """Run ``body`` for ``var = lo, lo + size, … < hi``; inside, ``axis`` ranges over ``[var, min(var + size, hi))``.

    A balanced loop advances by :func:`tilewright.kernel.scope.step` instead; its tiles still have ``size`` lanes.
    Where there is one iteration only, nothing inside mentions ``var``: it is replaced by ``lo``.
    """

    axis: str
    var: str
    lo: Expr
    hi: Expr
    size: int
    kind: LoopKind
    body: tuple[Node, ...]
    balanced: bool = False
    unit: int = 1


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

    ``guards`` are the axes whose padded lanes must not be read (from memory, or beyond a larger tile) or enter the
    reduction. The reduction is over the current range of its axes: the piece, inside a loop over one.
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
    index: tuple[Expr | Value, ...]
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
