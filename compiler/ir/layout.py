"""How a value lies in memory, when that is another order of axes than the operators that use it mean.

The graph holds what is in memory: a value of layout ``0,2,3,1`` has the shape ``[batch, height, width, channels]``, and
the bodies of the nodes that write and read it transpose it from and to what their operators say. The record tells what
those Transposes have to be; :func:`verify_layouts` holds both to each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import onnx_ir as ir
from tilewright.errors import InternalError
from tilewright.ir.graph import body_of, type_of

_LAYOUT = "tilewright.layout"

#: Operators that name the same memory anew.
_VIEWS = frozenset("Reshape Flatten Squeeze Unsqueeze Identity".split())

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Layout:
    """A permutation: axis ``d`` of the memory is the operators' axis ``order[d]``."""

    order: tuple[int, ...]

    def __post_init__(self) -> None:
        if sorted(self.order) != list(range(len(self.order))):
            raise InternalError(f"a layout is a permutation, not {self.order}")

    @property
    def inverse(self) -> Layout:
        """The permutation that gives the operators' axes back."""
        return Layout(tuple(self.order.index(d) for d in range(len(self.order))))

    @property
    def is_identity(self) -> bool:
        """Whether memory is in the operators' order."""
        return self.order == tuple(range(len(self.order)))

    def of(self, axes: Sequence[T]) -> tuple[T, ...]:
        """What belongs to the operators' axes (sizes, indices), in the order of memory."""
        return tuple(axes[d] for d in self.order)

    def __str__(self) -> str:
        return ",".join(map(str, self.order))


def layout_of(value: ir.Value) -> Layout | None:
    """The recorded layout of ``value``; ``None`` where memory is in the operators' order."""
    text = value.metadata_props.get(_LAYOUT)
    return None if text is None else Layout(tuple(int(d) for d in text.split(",")))


def set_layout(value: ir.Value, layout: Layout) -> None:
    """Record the layout of ``value``; its type is that of the memory already."""
    if layout.is_identity:
        value.metadata_props.pop(_LAYOUT, None)
    else:
        value.metadata_props[_LAYOUT] = str(layout)


def verify_layouts(model: ir.Model) -> None:
    """Raise :class:`InternalError` unless every recorded layout is the one that writer and readers of the value use.

    A fused node writes such a value by a Transpose at the end of its body and reads it by the inverse Transpose; a
    Transpose between two values composes their layouts; a view of the memory may be anything of as many elements.
    """
    for node in model.graph:
        for position, value in enumerate(node.outputs):
            layout = layout_of(value)
            if layout is not None:
                _check_rank(value, layout)
                _check_written(model, node, position, layout)
        for position, read in enumerate(node.inputs):
            layout = None if read is None else layout_of(read)
            if layout is not None:
                _check_read(model, node, position, layout)


def _check_rank(value: ir.Value, layout: Layout) -> None:
    if len(layout.order) != type_of(value).rank:
        raise InternalError(f"{value.name} is {type_of(value)}, its layout is {layout}")


def _check_written(model: ir.Model, node: ir.Node, position: int, layout: Layout) -> None:
    name = node.outputs[position].name
    body = body_of(model, node)
    if body is None:
        if node.op_type == "Transpose" and _composed(node) != layout:
            raise InternalError(f"{name} is recorded as {layout}, but is transposed to {_composed(node)}")
        if node.op_type != "Transpose" and node.op_type not in _VIEWS:
            raise InternalError(f"{name} is recorded as {layout}, but {node.op_type} writes it in its own order")
        return
    last = body.outputs[position].producer()
    if last is None or last.op_type != "Transpose" or _permutation(last) != layout:
        raise InternalError(f"{name} is recorded as {layout}, but the body that writes it does not end with that")


def _check_read(model: ir.Model, node: ir.Node, position: int, layout: Layout) -> None:
    value = node.inputs[position]
    assert value is not None
    body = body_of(model, node)
    if body is None:
        recorded = layout_of(node.outputs[0]) or Layout(tuple(range(len(layout.order))))
        if node.op_type in _VIEWS or (node.op_type == "Transpose" and _composed(node) == recorded):
            return
        raise InternalError(f"{node.op_type} reads {value.name}, which lies as {layout}, in another order")
    for use in body.inputs[position].uses():
        if use.node.op_type != "Transpose" or _permutation(use.node) != layout.inverse:
            raise InternalError(f"{use.node.op_type} in {node.name!r} reads {value.name}, which lies as {layout}")


def _composed(node: ir.Node) -> Layout:
    """The layout of what a Transpose of the graph writes, by that of what it reads."""
    perm = _permutation(node)
    source = node.inputs[0]
    before = None if source is None else layout_of(source)
    return perm if before is None else Layout(tuple(before.order[d] for d in perm.order))


def _permutation(node: ir.Node) -> Layout:
    return Layout(tuple(node.attributes["perm"].as_ints()))


def recorded_layouts(model: ir.Model) -> Iterator[tuple[ir.Value, Layout]]:
    """Every value of the graph that has a layout of its own, in order of computation."""
    for node in model.graph:
        for value in node.outputs:
            layout = layout_of(value)
            if layout is not None:
                yield value, layout
