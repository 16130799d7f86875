"""Rows of a contraction that are not in order in memory: a table of where each piece of a row begins.

A convolution reads, for each output position and each tap of its window, one *run* of its input: the channels at one
pixel, or neighbouring pixels of one image row. Runs are not copied; the table holds their addresses. A run that lies
outside the tensor is a row of zeros, and only one that crosses its border is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from tilewright.backends.cpu.lanes import Vectorized
from tilewright.backends.cpu.place import Place
from tilewright.codegen.cstyle import Text
from tilewright.ir.symbolic import ZERO, Expr, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import offset_of
from tilewright.kernel.expr import Load, Value
from tilewright.kernel.print import print_node
from tilewright.kernel.proof import inside
from tilewright.kernel.schedule import Compute, Tile
from tilewright.kernel.tile import Kernel

#: ``space`` of a tile of which only the addresses of its runs are kept.
POINTERS = "pointers"
#: The longest run in elements: a row of zeros has that size (64 KiB).
LONGEST = 16384


def run_axis(kernel: Kernel, v: Value, reduced: tuple[str, ...]) -> str | None:
    """The axis of ``reduced`` along which the load ``v`` is f32 in memory order and has runs of a fixed length."""
    if not isinstance(v, Load) or v.dtype is not DType.F32 or v.fill not in (None, 0):
        return None
    index = tuple(i for i in v.index if isinstance(i, Expr))
    if len(index) < len(v.index):
        return None
    offset = offset_of(kernel.param(v.tensor), index)
    for axis in reversed(reduced):
        length = kernel.extent(axis)
        if length.is_constant and length.value <= LONGEST and Vectorized(axis, {}, 1).stride(offset) == 1:
            return axis
    return None


@dataclass(frozen=True, slots=True)
class Runs:
    """A table: the C array ``name`` over all axes of ``node`` but ``run``; ``strides`` and ``starts`` as of a tile."""

    name: str
    node: Compute
    load: Load
    run: str
    strides: Mapping[str, Expr]
    starts: Mapping[str, Expr]
    elements: Expr

    def entry(self) -> Expr:
        """Offset of the entry at the current position of the axes."""
        total = ZERO
        for axis, stride in self.strides.items():
            total = total + (symbol(axis) - self.starts[axis]) * stride
        return total


def plan_runs(name: str, tile: Tile, copy: Compute, row: str, run: str) -> Runs:
    """The table in place of ``tile``, which ``copy`` fills; rows lie side by side."""
    assert isinstance(copy.value, Load)
    sizes = {d.axis: d.size for d in tile.dims if d.axis != run}
    strides: dict[str, Expr] = {}
    stride = constant(1)
    for axis in (row, *(a for a in reversed(sizes) if a != row)):
        strides[axis] = stride
        stride = stride * sizes[axis]
    starts = {d.axis: d.start for d in tile.dims}
    return Runs(name, copy, copy.value, run, strides, starts, stride)


def emit_runs(place: Place, runs: Runs, functions: Text) -> None:
    """Append the declaration of the table and the loops that fill it; a row of zeros goes to ``functions``."""
    out, run = place.out, runs.run
    out.comment(f"{runs.name}: where the runs along {run} begin of {print_node(runs.node)}")
    place.memory.declare(out, runs.name, "const float *", runs.elements, 8)
    around, crossing = _checks(place, runs)
    tensor, length = place.names[runs.load.tensor], place.scope.kernel.extent(run)
    zeros = edges = ""
    if around or crossing:
        zeros = place.fresh(f"{tensor}_zeros")
        functions.line(f"static TW_ALIGN float {zeros}[{place.index(length)}];")
    if crossing:
        edges = place.fresh(f"{tensor}_edges")
        place.memory.declare(out, edges, "float", runs.elements * length)
    offset = offset_of(place.params[runs.load.tensor], _index(runs.load))
    first = f"{tensor} + {place.index(offset.substitute({run: ZERO}))}"
    with ExitStack() as stack:
        stack.enter_context(out.block(""))
        for axis in runs.node.axes:
            if axis != run:
                place.open_loop(stack, axis)
        entry = f"{runs.name}[{place.index(runs.entry())}]"
        if not around and not crossing:
            out.line(f"{entry} = {first};")
            return
        near = place.fresh("inside")
        out.line(f"const int {near} = {_inside(place, around)};")
        out.line(f"{entry} = {near} ? {first} : {zeros};")
        if not crossing:
            return
        ends = [(e.substitute({run: at}), size) for e, size in crossing for at in (ZERO, length - 1)]
        edge, name = place.fresh("edge"), place.names[run]
        with out.block(f"if ({near} && !({_inside(place, ends)}))"):
            out.line(f"float *{edge} = {edges} + ({place.index(runs.entry())}) * {place.index(length)};")
            out.line(f"{entry} = {edge};")
            with out.block(f"for (int64_t {name} = 0; {name} < {place.index(length)}; {name}++)"):
                out.line(f"{edge}[{name}] = {_inside(place, crossing)} ? {tensor}[{place.index(offset)}] : 0.0f;")


def _index(load: Load) -> tuple[Expr, ...]:
    return tuple(i for i in load.index if isinstance(i, Expr))


Checks = list[tuple[Expr, Expr]]


def _checks(place: Place, runs: Runs) -> tuple[Checks, Checks]:
    """Indices that may lie outside their dimension, with its size: those that a run shares, those that vary in it."""
    kernel = place.scope.kernel
    extents = {a.name: a.extent for a in kernel.axes}
    around: Checks = []
    crossing: Checks = []
    for e, size in zip(_index(runs.load), place.params[runs.load.tensor].shape, strict=True):
        if runs.load.fill is not None and not inside(e, size, extents, dict(kernel.facts)):
            (crossing if runs.run in e.symbols else around).append((e, size))
    return around, crossing


def _inside(place: Place, checks: Checks) -> str:
    # One unsigned comparison tests both ends.
    tests = [f"(uint64_t)({place.index(e)}) < (uint64_t)({place.index(size)})" for e, size in checks]
    return " && ".join(tests) or "1"
