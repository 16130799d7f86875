"""Which axis of each value holds channels: known at convolutions and pools, carried on by what lies between them.

Only values with such an axis are candidates for another layout. The axis is followed through Transposes, views,
elementwise operators and the like, in the graph and in the bodies of fused nodes, so that a graph that is written
channels-last (with Transposes around each convolution) is understood as one that is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

import onnx_ir as ir
from tilewright.ir.graph import body_of, has_type, type_of
from tilewright.ir.types import TensorType
from tilewright.ops.infer import infer_body
from tilewright.ops.lowering.movement import reshape_groups
from tilewright.passes.elementwise import ELEMENTWISE
from tilewright.passes.reductions import REDUCTIONS
from tilewright.passes.views import VIEWS

#: Operators that slide a window over the image of each channel. A ConvTranspose that is left over has filters that a
#: run gives: with its channels last no template of the CPU reads them.
WINDOWED = frozenset("Conv MaxPool AveragePool LpPool".split())
#: Others that take axis 1 for the channels.
_BY_CHANNEL = frozenset("BatchNormalization InstanceNormalization GlobalAveragePool GlobalMaxPool".split())
#: Operators whose output has the axes of input 0, in their order.
_SAME_AXES = REDUCTIONS | set(
    """Concat Split Slice Pad Resize Expand Softmax LogSoftmax LayerNormalization Identity Dropout QuantizeLinear
    DequantizeLinear""".split()
)
#: Operators all of whose inputs have the axes of the output.
_ALL_INPUTS = ELEMENTWISE | {"Concat"}

#: A value and the fused node in whose body it is (``None``: in the graph).
Key = tuple[ir.Node | None, ir.Value]
#: Corresponding axes of two values.
Axes = Mapping[int, int]


def find_channels(model: ir.Model) -> dict[Key, int]:
    """The channel axis of every value that has one; empty for a model without windows."""
    if not any(n.op_type in WINDOWED for c in (model.graph, *model.functions.values()) for n in c):
        return {}
    links: dict[Key, list[tuple[Key, Axes]]] = {}
    pending: deque[tuple[Key, int]] = deque()
    for node in model.graph:
        for a, b, axes in _links_of(model, node, pending):
            links.setdefault(a, []).append((b, axes))
            links.setdefault(b, []).append((a, {j: i for i, j in axes.items()}))
    found: dict[Key, int] = {}
    while pending:
        key, axis = pending.popleft()
        if key in found:
            continue
        found[key] = axis
        pending += [(other, axes[axis]) for other, axes in links.get(key, ()) if axis in axes and other not in found]
    return found


def _links_of(model: ir.Model, node: ir.Node, seeds: deque[tuple[Key, int]]) -> Iterator[tuple[Key, Key, Axes]]:
    """Pairs of values with corresponding axes, in a node of the graph and its body; known channels go to ``seeds``."""
    body = body_of(model, node)
    if body is None:
        yield from _links(node, None, _graph_types(node), seeds)
        return
    scope = infer_body(model, node)
    inner = (*body.inputs, *(o for n in body for o in n.outputs))
    types = {v: t for v in inner if (t := scope.type_of(v)) is not None}
    for operator in body:
        yield from _links(operator, node, types, seeds)
    for outer, value in (*zip(node.inputs, body.inputs, strict=False), *zip(node.outputs, body.outputs, strict=True)):
        if outer is not None and value in types:
            yield (None, outer), (node, value), {d: d for d in range(types[value].rank)}


def _graph_types(node: ir.Node) -> dict[ir.Value, TensorType]:
    return {v: type_of(v) for v in (*node.inputs, *node.outputs) if v is not None and has_type(v)}


def _links(
    node: ir.Node, call: ir.Node | None, types: Mapping[ir.Value, TensorType], seeds: deque[tuple[Key, int]]
) -> Iterator[tuple[Key, Key, Axes]]:
    if node.domain not in ("", "ai.onnx") or not node.inputs or node.inputs[0] is None:
        return
    first, output = node.inputs[0], node.outputs[0]
    if node.op_type in WINDOWED | _BY_CHANNEL:
        seeds += [((call, v), 1) for v in (first, output) if v in types]
    pairs = [(first, output)]
    if node.op_type in _ALL_INPUTS:
        pairs = [(v, output) for v in node.inputs if v is not None]
    elif node.op_type == "Split":
        pairs = [(first, o) for o in node.outputs]
    for a, b in pairs:
        if a in types and b in types and (axes := _axes(node, types[a], types[b])):
            yield (call, a), (call, b), axes


def _axes(node: ir.Node, x: TensorType, y: TensorType) -> Axes:
    """Which axis of the input is which of the output, where one is one."""
    if node.op_type == "Transpose":
        perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else range(x.rank)[::-1]
        return {p: d for d, p in enumerate(perm)}
    if node.op_type in VIEWS:
        groups = reshape_groups(x.shape, y.shape)
        return {a[0]: b[0] for a, b in groups if len(a) == len(b) == 1}
    if node.op_type in ELEMENTWISE:
        return {d: d + y.rank - x.rank for d in range(x.rank)}
    return {d: d for d in range(x.rank)} if node.op_type in _SAME_AXES and x.rank == y.rank else {}
