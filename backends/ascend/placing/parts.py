"""Rows of a tensor that several stores make a part of each, where a part is less than the 32 bytes that can leave.

Each store puts its part into a plane of its own; the last of them gathers the parts of each row side by side, and the
rows leave whole. Halves of a rotary embedding are such parts, and what a concatenation puts behind one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import Scalar, View
from tilewright.backends.ascend.placed.layout import BLOCK_BYTES, round_up
from tilewright.backends.ascend.placing.casts import held
from tilewright.backends.ascend.placing.operand import flat_index
from tilewright.backends.ascend.placing.strips import Strip, dense_strides
from tilewright.ir.symbolic import ZERO, Expr, constant, product
from tilewright.ir.types import DType
from tilewright.kernel.expr import Value
from tilewright.kernel.schedule import Write

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.vector import VectorPart

_ONE = constant(1)


@dataclass(frozen=True, slots=True)
class Part:
    """One store: its axes, how far from the first part its rows begin, how many lanes they have."""

    write: Write
    axes: tuple[str, ...]
    first: int
    lanes: int


@dataclass(frozen=True, slots=True)
class Parts:
    """The stores that fill rows of one tensor together, in the order of their lanes; ``flat`` is where rows begin and
    ``strides`` how far apart they are along each of ``rows``."""

    tensor: str
    dtype: DType
    parts: tuple[Part, ...]
    flat: Expr
    rows: tuple[str, ...]
    strides: tuple[Expr, ...]

    @property
    def lanes(self) -> int:
        return sum(p.lanes for p in self.parts)


def parts_of(vector: VectorPart, node: Write) -> Parts | None:
    """The stores that fill whole blocks of 32 bytes with ``node``, whose own part is less; ``None`` where there are no
    such ones."""
    c = vector.context
    dtype = held(node.value.dtype)
    own = _part(vector, node, None)
    if own is None or dtype.bits not in (16, 32) or own.lanes * dtype.bits >= 8 * BLOCK_BYTES:
        return None
    base = _flat(vector, node).substitute({own.axes[-1]: ZERO})
    found = [own]
    for other in c.body:
        if isinstance(other, Write) and other.index != node.index and other.tensor == node.tensor:
            part = _part(vector, other, base)
            if part is not None and part.axes[:-1] == own.axes[:-1] and held(other.value.dtype) == dtype:
                found.append(part)
    found.sort(key=lambda p: p.first)
    run = _run(found, own)
    first, rows = run[0], own.axes[:-1]
    made = Parts(node.tensor, dtype, tuple(run), base + first.first, rows, _strides(vector, node, rows))
    even = all(_strides(vector, p.write, rows) == made.strides for p in run)
    return made if even and len(run) > 1 and made.lanes * dtype.bits % (8 * BLOCK_BYTES) == 0 else None


def _run(found: list[Part], own: Part) -> list[Part]:
    """Those of ``found`` that follow on one another without a gap, around ``own``."""
    at = found.index(own)
    low = high = at
    while low and found[low - 1].first + found[low - 1].lanes == found[low].first:
        low -= 1
    while high + 1 < len(found) and found[high].first + found[high].lanes == found[high + 1].first:
        high += 1
    return found[low : high + 1]


def _part(vector: VectorPart, node: Write, base: Expr | None) -> Part | None:
    """``node`` as a part whose first lane is counted from ``base``, if given, unless it leaves in another way."""
    c = vector.context
    axes = vector.wide(node.axes)
    if not axes or any(not isinstance(i, Expr) for i in node.index):
        return None
    flat = _flat(vector, node)
    lanes = c.count(axes[-1], True)
    try:
        near = flat.coefficient(axes[-1])
    except ValueError:
        return None
    apart = flat.substitute({axes[-1]: ZERO}) - base if base is not None else ZERO
    if near != 1 or not lanes.is_constant or not apart.is_constant or c.start(axes[-1], True) != 0:
        return None
    return Part(node, axes, apart.value, lanes.value)


def _flat(vector: VectorPart, node: Write) -> Expr:
    axes = vector.wide(node.axes)
    index = tuple(vector._settled(i, axes) for i in node.index if isinstance(i, Expr))
    return flat_index(vector.context.scheduled.kernel, node.tensor, index)


def _strides(vector: VectorPart, node: Write, rows: tuple[str, ...]) -> tuple[Expr, ...]:
    flat = _flat(vector, node)
    return tuple(vector._stride(flat, a, node.tensor) for a in rows)


def put(vector: VectorPart, parts: Parts, node: Write, value: Value) -> None:
    """What ``node`` stores into its plane; after the last of the parts, the rows on their way."""
    c, tree = vector.context, vector.context.tree
    number = next(n for n, p in enumerate(parts.parts) if p.write.index == node.index)
    part = parts.parts[number]
    shape = _shape(vector, parts)
    plane = product([constant(n) for n in shape]).value
    key = ("parts", parts.tensor, parts.flat)
    if key not in tree.top.loaded:
        size = (len(parts.parts), *shape)
        name = tree.add(f"{parts.tensor}_parts", "ub", parts.dtype, size, "vector")
        tree.top.loaded[key] = (name, [])
        if len({p.lanes for p in parts.parts}) > 1:  # a gather reads every lane that it might take
            tree.emit(tree.top, "duplicate", "vector", "V", _everything(vector, parts, name, shape), Scalar(0.0))
    made: tuple[str, list[int]] = tree.top.loaded[key]  # type: ignore[assignment]
    name, done = made
    strip = vector.converted(value, part.axes, f"{parts.tensor}_part")
    counts = [c.count(a, True) for a in parts.rows]
    pitch = [constant(s) for s in dense_strides(shape)]
    dims = (*zip(counts, pitch[:-1], strict=True), (constant(part.lanes), _ONE))
    to = View(name, constant(number * plane), dims)
    tree.emit(tree.top, "copy", "vector", "V", to, vector.view(strip, part.axes))
    done.append(number)
    if len(done) == len(parts.parts):
        _leave(vector, parts, name, shape)


def _shape(vector: VectorPart, parts: Parts) -> tuple[int, ...]:
    """Elements of a plane: rows as long as the longest part, in whole blocks."""
    block = BLOCK_BYTES * 8 // parts.dtype.bits
    rows = [vector.context.vector_lanes(a) for a in parts.rows]
    return (*rows, round_up(max(p.lanes for p in parts.parts), block))


def _leave(vector: VectorPart, parts: Parts, planes: str, shape: tuple[int, ...]) -> None:
    c, tree = vector.context, vector.context.tree
    size = parts.dtype.bits // 8
    plane = product([constant(n) for n in shape]).value
    counts = [c.count(a, True) for a in parts.rows]
    run = (constant(parts.lanes), _ONE)
    offsets = _offsets(vector, parts, shape, plane * size)
    out = tree.add(f"{parts.tensor}_out", "ub", parts.dtype, (*shape[:-1], parts.lanes), "vector", frame=tree.top)
    near = [constant(s) for s in dense_strides((*shape[:-1], parts.lanes))]
    here = View(out, ZERO, (*zip(counts, near[:-1], strict=True), run))
    tree.emit(tree.top, "gather", "vector", "V", here, _everything(vector, parts, planes, shape), offsets)
    start = parts.flat.substitute({a: c.start(a, True) for a in parts.rows})
    there = View(parts.tensor, start, (*zip(counts, parts.strides, strict=True), run))
    tree.emit(tree.top, "copy_out", "vector", "MTE3", there, here)


def _everything(vector: VectorPart, parts: Parts, planes: str, shape: tuple[int, ...]) -> View:
    """All lanes of all planes."""
    counts = [vector.context.count(a, True) for a in parts.rows]
    plane = product([constant(n) for n in shape])
    within = tuple(zip(counts, (constant(s) for s in dense_strides(shape)[:-1]), strict=True))
    lanes = constant(max(p.lanes for p in parts.parts))
    return View(planes, ZERO, ((constant(len(parts.parts)), plane), *within, (lanes, _ONE)))


def _offsets(vector: VectorPart, parts: Parts, shape: tuple[int, ...], plane: int) -> View:
    """Byte offsets of the lanes of each row, side by side, in the planes: each part begins ``plane`` bytes further."""
    c, tree = vector.context, vector.context.tree
    size = parts.dtype.bits // 8
    line, step = (tree.add("t", "ub", DType.I32, (parts.lanes,), "vector") for _ in range(2))
    run, other = (View(b, ZERO, ((constant(parts.lanes), _ONE),)) for b in (line, step))

    def emit(op: str, dst: View, *sources: View | Scalar) -> None:
        tree.emit(tree.top, op, "vector", "V", dst, *sources)

    emit("iota", run, Scalar(ZERO))
    emit("mul", run, run, Scalar(constant(size)))
    at = 0
    for before in parts.parts[:-1]:
        at += before.lanes
        # 1 from lane ``at`` on, times the way from the end of one part to the beginning of the next.
        emit("iota", other, Scalar(constant(1 - at)))
        emit("max", other, other, Scalar(0.0))
        emit("min", other, other, Scalar(1.0))
        emit("mul", other, other, Scalar(constant(plane - before.lanes * size)))
        emit("add", run, run, other)
    if not parts.rows:
        return run
    pitch = {a: s * size for a, s in zip(parts.rows, dense_strides(shape), strict=False)}
    starts = vector.spread(vector.positions(parts.rows, dict(pitch)), parts.parts[0].axes)
    assert isinstance(starts, Strip)
    counts = [c.count(a, True) for a in parts.rows]
    wide = (*shape[:-1], round_up(parts.lanes, BLOCK_BYTES // 4))
    made = tree.add("t", "ub", DType.I32, wide, "vector")
    near = [constant(s) for s in dense_strides(wide)]
    lanes = constant(parts.lanes)
    dst = View(made, ZERO, (*zip(counts, near[:-1], strict=True), (lanes, _ONE)))
    each = View(starts.buffer, ZERO, (*zip(counts, vector.strides(starts)[:-1], strict=True), (lanes, ZERO)))
    emit("add", dst, each, View(line, ZERO, (*((n, ZERO) for n in counts), (lanes, _ONE))))
    vector.recycle(starts)
    return dst
