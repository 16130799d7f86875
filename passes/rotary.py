"""How rotary position embedding is written: parts of a vector, what turns them, and tables of angles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.passes.elementwise import ELEMENTWISE
from tilewright.passes.match import scalar_of
from tilewright.passes.rewrite import Rewriter, required
from tilewright.passes.views import VIEWS

#: Elements of a table of angles that are worth comparing.
_LARGEST_TABLE = 1 << 22


@dataclass(frozen=True, slots=True)
class Found:
    """A rotation of ``x`` by tables ``cos`` and ``sin``; ``doubled`` when they hold each number for both halves."""

    x: ir.Value
    cos: ir.Value
    sin: ir.Value
    interleaved: bool
    doubled: bool


@dataclass(frozen=True, slots=True)
class _Part:
    """One half of the last axis of ``source``: the first or the second, of halves or of pairs."""

    source: ir.Value
    second: bool
    interleaved: bool


def find(node: ir.Node) -> Found | str:
    """The rotation that ``node`` computes; else why it is none, or an empty text where it looks like nothing."""
    if node.op_type == "Add":
        return _turned_by_halves(node)
    joined = _joined(node)
    return _turned_by_parts(*joined) if joined is not None else ""


def _turned_by_halves(node: ir.Node) -> Found | str:
    """``x · cos + rotated(x) · sin``."""
    for first, second in ((0, 1), (1, 0)):
        for rotated, sin in _factors(required(node, second)):
            parts = _rotated(rotated)
            if parts is None:
                continue
            source, interleaved = parts
            for x, cos in _factors(required(node, first)):
                if x is source:
                    return Found(x, cos, sin, interleaved, doubled=True)
            return f"{required(node, first).name} is not {source.name} times cosines"
    return ""


def _rotated(value: ir.Value) -> tuple[ir.Value, bool] | None:
    """``x`` when ``value`` is Concat(-second half, first half) of it, and whether halves are pairs."""
    node = value.producer()
    joined = _joined(node) if node is not None else None
    if joined is None:
        return None
    a, b, interleaved = joined
    negated = a.producer()
    if negated is None or negated.op_type != "Neg":
        return None
    second, first = _part(required(negated, 0)), _part(b)
    if first is None or second is None or first.source is not second.source:
        return None
    fits = second.second and not first.second and first.interleaved == second.interleaved == interleaved
    return (first.source, interleaved) if fits else None


def _turned_by_parts(real: ir.Value, imaginary: ir.Value, interleaved: bool) -> Found | str:
    """``a·cos - b·sin`` and ``b·cos + a·sin`` joined."""
    minus, plus = real.producer(), imaginary.producer()
    if minus is None or plus is None or minus.op_type != "Sub" or plus.op_type != "Add":
        return ""
    for a, cos in _factors(required(minus, 0)):
        for b, sin in _factors(required(minus, 1)):
            first, second = _part(a), _part(b)
            if first is None or second is None or first.source is not second.source:
                continue
            if first.second or not second.second or not first.interleaved == second.interleaved == interleaved:
                continue
            wanted = [{b, cos}, {a, sin}]
            have = [set(v.producer().inputs) for v in plus.inputs if v is not None and v.producer() is not None]  # type: ignore[union-attr]
            products = all(v is not None and _factors(v) for v in plus.inputs)
            if products and (have == wanted or have == wanted[::-1]):
                return Found(first.source, cos, sin, interleaved, doubled=False)
            return f"{imaginary.name} does not turn what {real.name} turns"
    return ""


def _factors(value: ir.Value) -> list[tuple[ir.Value, ir.Value]]:
    """The factors of a product, in both orders."""
    node = value.producer()
    if node is None or node.op_type != "Mul" or node.domain != "":
        return []
    a, b = required(node, 0), required(node, 1)
    return [(a, b), (b, a)]


def _joined(node: ir.Node) -> tuple[ir.Value, ir.Value, bool] | None:
    """Two values of which ``node`` makes halves (Concat on the last axis) or pairs (stacked, then flattened)."""
    if node.op_type == "Reshape" and node.domain == "":
        stack = required(node, 0).producer()
        if stack is None or stack.op_type != "Concat" or type_of(stack.outputs[0]).rank < 2:
            return None
        *lead, count, two = type_of(stack.outputs[0]).shape
        if two != 2 or type_of(node.outputs[0]).shape != (*lead, count * 2) or len(stack.inputs) != 2:
            return None
        parts = [_unstacked(v) for v in stack.inputs if v is not None]
        return (parts[0], parts[1], True) if parts[0] is not None and parts[1] is not None else None
    if node.op_type != "Concat" or len(node.inputs) != 2:
        return None
    rank = type_of(node.outputs[0]).rank
    if node.attributes["axis"].as_int() % rank != rank - 1:
        return None
    return required(node, 0), required(node, 1), False


def _unstacked(value: ir.Value) -> ir.Value | None:
    """What a last axis of size 1 was added to."""
    node = value.producer()
    if node is None or node.op_type not in VIEWS:
        return None
    source = required(node, 0)
    return source if type_of(value).shape == (*type_of(source).shape, 1) else None


def _part(value: ir.Value) -> _Part | None:
    """Which half of which value this is; a part of pairs may have been taken from [..., D/2, 2]."""
    node = value.producer()
    if node is None or node.domain != "":
        return None
    if node.op_type in VIEWS and type_of(required(node, 0)).shape == (*type_of(value).shape, 1):
        taken = _taken(required(node, 0))
        return _of_pairs(*taken) if taken is not None else None
    taken = _taken(value)
    if taken is None:
        return None
    source, start, step = taken
    size, rest = type_of(source).shape[-1], type_of(value).shape
    if node.op_type == "Gather":
        return _of_pairs(source, start, step)
    if rest[-1] * 2 != size:
        return None
    if step == 2 and start in (0, 1):
        return _Part(source, start == 1, True)
    return _Part(source, start != 0, False) if step == 1 and (start == 0 or rest[-1] == start) else None


def _of_pairs(source: ir.Value, start: int, step: int) -> _Part | None:
    """Element ``start`` of the pairs in [..., D/2, 2], a view of the source."""
    node = source.producer()
    shape = type_of(source).shape
    if node is None or node.op_type not in VIEWS or shape[-1] != 2 or start not in (0, 1) or step != 1:
        return None
    whole = required(node, 0)
    return _Part(whole, start == 1, True) if type_of(whole).shape == (*shape[:-2], shape[-2] * 2) else None


def _taken(value: ir.Value) -> tuple[ir.Value, int, int] | None:
    """(source, start, step) when ``value`` is cut from the last axis of ``source`` by constants."""
    node = value.producer()
    if node is None or node.domain != "" or not node.inputs:
        return None
    source = required(node, 0)
    last = type_of(source).rank - 1
    if node.op_type == "Slice":
        given = [constant_array(v).reshape(-1) if v is not None and is_constant(v) else None for v in node.inputs[1:]]
        if any(g is None or g.size != 1 for g in given) or len(given) < 3:
            return None
        start, _, axis, *step = (int(g[0]) for g in given if g is not None)
        if start < 0 and type_of(source).shape[-1].is_constant:
            start += type_of(source).shape[-1].value
        return (source, start, step[0] if step else 1) if axis % (last + 1) == last else None
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    if node.op_type == "Split" and axis % (last + 1) == last:
        before = list(node.outputs)[: list(node.outputs).index(value)]
        sizes = [type_of(o).shape[-1] for o in before]
        return (source, sum(s.value for s in sizes), 1) if all(s.is_constant for s in sizes) else None
    if node.op_type == "Gather" and axis % (last + 1) == last and type_of(required(node, 1)).rank == 0:
        index = scalar_of(required(node, 1))
        return None if index is None else (source, int(index) % 2, 1)
    return None


# -- tables --------------------------------------------------------------------------------------------------------

Build = Callable[[], ir.Value]


def half(value: ir.Value, interleaved: bool, node: ir.Node, rewriter: Rewriter) -> Build | None:
    """How to compute one number of each pair that ``value`` holds twice on its last axis; ``None`` if unproved."""
    if is_constant(value):
        return _half_constant(value, interleaved, rewriter)
    maker = value.producer()
    if maker is None or maker.domain != "":
        return None
    joined = _joined(maker)
    if joined is not None and joined[0] is joined[1] and joined[2] == interleaved:
        return lambda: joined[0]
    if maker.op_type in ("Unsqueeze", "Squeeze"):
        kept = type_of(required(maker, 0)).shape[-1:] == type_of(value).shape[-1:]
        return _again(maker, {0}, interleaved, node, rewriter) if kept else None
    if maker.op_type == "Gather":
        table = required(maker, 0)
        axis = maker.attributes["axis"].as_int() if "axis" in maker.attributes else 0
        if axis % type_of(table).rank == type_of(table).rank - 1:
            return None
        return _again(maker, {0}, interleaved, node, rewriter)
    if maker.op_type in ELEMENTWISE:
        wide = {i for i, v in enumerate(maker.inputs) if v is not None and type_of(v).shape[-1:] not in ((), (1,))}
        return _again(maker, wide, interleaved, node, rewriter)
    return None


def _half_constant(value: ir.Value, interleaved: bool, rewriter: Rewriter) -> Build | None:
    array = constant_array(value)
    size = array.shape[-1] if array.ndim else 1
    if array.size > _LARGEST_TABLE or size % 2:
        return None
    parts = (array[..., 0::2], array[..., 1::2]) if interleaved else np.split(array, 2, axis=-1)
    if not np.array_equal(parts[0], parts[1]):
        return None
    return lambda: rewriter.constant(np.ascontiguousarray(parts[0]), f"{value.name}_half")


def _again(maker: ir.Node, wide: set[int], interleaved: bool, node: ir.Node, rewriter: Rewriter) -> Build | None:
    """The same operator on half of its inputs ``wide``; the others have one number for both halves."""
    builds = {i: half(required(maker, i), interleaved, node, rewriter) for i in sorted(wide)}
    if not builds or any(b is None for b in builds.values()):
        return None
    attributes = {name: a.value for name, a in maker.attributes.items()}
    rest = list(maker.inputs)

    def make() -> ir.Value:
        inputs = [build() if (build := builds.get(i)) is not None else v for i, v in enumerate(rest)]
        return rewriter.new(maker.op_type, inputs, before=node, attributes=attributes)

    return make
