"""NumPy interpreters: of the lowered form (what a kernel means) and of the scheduled form (whether a tree is right)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from tilewright.ir.types import DType
from tilewright.kernel import numerics
from tilewright.kernel.machine import Array, Buffer, KernelFault, Lanes, Machine
from tilewright.kernel.pack import pack_constant, packed_params
from tilewright.kernel.schedule import Alloc, Compute, Fill, For, Node, Rotate, Scheduled, Write
from tilewright.kernel.scope import Scope, step
from tilewright.kernel.tile import Carry, Define, Kernel, Param, Scan, Store


def run_lowered(
    kernel: Kernel, inputs: Mapping[str, Array], dims: Mapping[str, int] | None = None, scan_piece: int | None = None
) -> dict[str, Array]:
    """The outputs of ``kernel`` by name.

    Args:
        inputs: an array for each parameter but the outputs.
        dims: values of dimension symbols; those that stand alone in an input's shape may be left out.
        scan_piece: how many elements of a scanned axis a step takes (all of them by default). The result may not
            depend on it, up to rounding.

    Raises :class:`KernelFault` for a read outside a tensor and for an output not written exactly once.
    """
    machine = _machine(kernel, kernel.params, inputs, dims or {}, in_place=False)
    for axis in kernel.axes:
        extent = axis.extent.evaluate(machine.dims)
        machine.lanes[axis.name] = Lanes(0, extent, extent)
    with np.errstate(all="ignore"):
        for s in kernel.body:
            match s:
                case Define():
                    _define(machine, s)
                case Store(tensor=tensor, axes=axes, index=index, value=value):
                    machine.store(tensor, axes, index, value, ())
                case Scan():
                    _scan(machine, s, scan_piece)
    return machine.finish()


def run_scheduled(
    scheduled: Scheduled, inputs: Mapping[str, Array], dims: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """The outputs of a scheduled tree; constants are given unpacked.

    Raises :class:`KernelFault` for an access outside memory or a tile, for a use of padding or of a lane never
    written, and for an output not written exactly once. An output that aliases an input shares its memory.
    """
    kernel = scheduled.kernel
    params = packed_params(scheduled)
    packs = {p.tensor: p for p in scheduled.schedule.packs}
    given = {n: pack_constant(np.asarray(x), packs[n]) if n in packs else x for n, x in inputs.items()}
    machine = _machine(kernel, params, given, dims or {}, in_place=True)
    for axis, r in Scope.root(kernel, scheduled.schedule).ranges.items():
        machine.lanes[axis] = Lanes(0, r.size.evaluate(machine.dims), r.limit.evaluate(machine.dims))
    with np.errstate(all="ignore"):
        _run(machine, scheduled.body)
    return machine.finish()


def _machine(
    kernel: Kernel, params: tuple[Param, ...], inputs: Mapping[str, Array], dims: Mapping[str, int], in_place: bool
) -> Machine:
    known = dict(dims)
    for p in params:
        for size, actual in zip(p.shape, np.shape(inputs[p.name]) if p.name in inputs else (), strict=False):
            if len(size.symbols) == 1 and str(size) in size.symbols:
                known.setdefault(str(size), actual)
    memory: dict[str, Array] = {}
    written: dict[str, Array] = {}
    for p in params:
        shape = tuple(s.evaluate(known) for s in p.shape)
        if p.role == "out":
            written[p.name] = np.zeros(shape, np.bool_)
            if p.alias is None:
                memory[p.name] = np.full(shape, numerics.poison(p.dtype)).astype(p.dtype.numpy)
            else:
                memory[p.name] = memory[p.alias] if in_place else memory[p.alias].copy()
            continue
        array = np.asarray(inputs[p.name])
        if array.shape != shape or array.dtype != p.dtype.numpy:
            raise ValueError(f"{p.name} is {array.dtype}{list(array.shape)}, expected {p.dtype}{list(shape)}")
        aliased = in_place and any(o.alias == p.name for o in params)
        memory[p.name] = array.copy() if aliased else array
    return Machine(kernel, {p.name: p for p in params}, known, memory, written=written)


# -- lowered -------------------------------------------------------------------------------------------------------


def _define(m: Machine, d: Define) -> None:
    values, taint = m.evaluate(d.value) if d.reduce is None else m.reduced(d.value, d.reduce, ())
    shape = m.shape(d.axes)
    values = np.broadcast_to(values, shape)
    clean = np.zeros(shape, np.bool_) if taint is None else np.broadcast_to(taint, shape)
    m.tiles[d.tile] = Buffer(values, clean, d.axes, {a: m.lanes[a].start for a in d.axes}, d.value.dtype)


def _start(m: Machine, c: Carry) -> Buffer:
    shape = m.shape(c.axes)
    values = np.full(shape, c.init.value).astype(c.init.dtype.numpy)
    return Buffer(values, np.zeros(shape, np.bool_), c.axes, {a: m.lanes[a].start for a in c.axes}, c.init.dtype)


def _scan(m: Machine, s: Scan, piece: int | None) -> None:
    for c in s.carries:
        m.tiles[c.tile] = _start(m, c)
    whole = m.lanes[s.axis]
    size = max(1, piece or whole.size)
    for start in range(0, whole.size, size):
        end = min(start + size, whole.size)
        m.lanes[s.axis] = Lanes(start, end - start, end)
        for d in s.body:
            _define(m, d)
        m.tiles.update({carry: m.tiles[tile] for carry, tile in s.yields})
    m.lanes[s.axis] = whole


# -- scheduled -----------------------------------------------------------------------------------------------------


def _run(m: Machine, body: Iterable[Node]) -> None:
    allocated: list[str] = []
    for node in body:
        match node:
            case For():
                _loop(m, node)
            case Alloc(tile=tile):
                shape = [1] * len(m.order)
                for d in tile.dims:
                    shape[m.order[d.axis]] = d.size.evaluate(m.dims)
                starts = {d.axis: d.start.evaluate(m.dims) for d in tile.dims}
                values = np.full(shape, numerics.poison(tile.dtype)).astype(tile.dtype.numpy)
                axes = tuple(d.axis for d in tile.dims)
                m.tiles[tile.name] = Buffer(values, np.ones(shape, np.bool_), axes, starts, tile.dtype)
                allocated.append(tile.name)
            case Fill(tile=name, value=value):
                m.tiles[name].values[...] = np.asarray(value.value).astype(value.dtype.numpy)
                m.tiles[name].taint[...] = False
            case Compute():
                _compute(m, node)
            case Write(tensor=tensor, axes=axes, index=index, value=v, guards=guards):
                m.store(tensor, axes, index, v, guards)
            case Rotate(pairs=pairs):
                new = [(m.tiles[t].values.copy(), m.tiles[t].taint.copy()) for _, t in pairs]
                for (carry, _), (values, taint) in zip(pairs, new, strict=True):
                    m.tiles[carry].values, m.tiles[carry].taint = values, taint
    for name in allocated:
        del m.tiles[name]


def _loop(m: Machine, loop: For) -> None:
    outer = m.lanes[loop.axis]
    lo, hi = loop.lo.evaluate(m.dims), loop.hi.evaluate(m.dims)
    if hi > lo:
        advance = step(loop).evaluate(m.dims)
        for start in range(lo, hi, advance):
            m.dims[loop.var] = start
            m.lanes[loop.axis] = Lanes(start, loop.size, min(start + advance, hi))
            _run(m, loop.body)
        del m.dims[loop.var]
    m.lanes[loop.axis] = outer


#: How an accumulating computation combines with what its tile holds.
_COMBINE = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}


def _compute(m: Machine, c: Compute) -> None:
    if c.reduce is None:
        values, taint = m.evaluate(c.value, c.guards)
    else:
        values, taint = m.reduced(c.value, c.reduce, c.guards)
    buffer = m.tiles[c.tile]
    region = []
    for axis, dim in m.order.items():
        r = m.lanes[axis]
        offset = r.start - buffer.starts[axis] if axis in c.axes else 0
        size = r.size if axis in c.axes else 1
        if offset < 0 or offset + size > buffer.values.shape[dim]:
            raise KernelFault(f"{m.kernel.name}: tile {c.tile} is written outside along {axis}")
        region.append(slice(offset, offset + size))
    at = tuple(region)
    shape = m.shape(c.axes)
    if c.accumulate:
        assert c.reduce is not None
        before, undefined = buffer.values[at], buffer.taint[at]
        values = numerics.binary(_COMBINE[c.reduce.op], before, values, _held(buffer.dtype, c.reduce.op))
        taint = undefined if taint is None else taint | undefined
    padding = m.padding(c.axes)
    spoiled = np.zeros(shape, np.bool_) if taint is None else np.broadcast_to(taint, shape)
    spoiled = spoiled if padding is None else spoiled | padding
    spoil = np.asarray(numerics.poison(buffer.dtype)).astype(buffer.dtype.numpy)
    buffer.values[at] = np.where(spoiled, spoil, np.broadcast_to(values, shape))
    buffer.taint[at] = spoiled


def _held(dtype: DType, op: str) -> DType:
    return DType.BOOL if op in ("any", "all") else dtype
