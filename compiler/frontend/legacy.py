"""Operators of the first opsets that are spelled differently today, and which ONNX's version converter leaves behind.

Before opset 7 a second operand was lined up with the first by an attribute (``axis``) instead of by trailing sizes of
1, and a slope of PRelu with the channels; before opset 6 Cast named its type in words. Before opset 11 images were
resized with other positions. :func:`park` gives these nodes today's form. There is no opset in which they and their
neighbours are right at once, so the converter must not see them: they wait in a domain of their own until
:func:`unpark`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.errors import CompileError
from tilewright.frontend.old_resize import is_old_resize, todays_resize
from tilewright.frontend.revised import revised

if TYPE_CHECKING:
    import onnx

#: Where nodes wait for the converter to be done.
PARKED = "ai.tilewright.parked"

#: With attributes ``broadcast`` and ``axis`` before opset 7, and the same meaning ever since where these are not used.
_BROADCASTING = frozenset("Add And Div Equal Greater Less Mul Or Pow Sub Xor".split())


def park(proto: onnx.ModelProto, opset: int, where: str) -> None:
    """Bring old nodes of ``proto``, a checked model of ``opset`` without local functions, to today's form.

    Raises :class:`CompileError` (``opset-unsupported``) where that takes a rank that nothing tells.
    """
    from onnx import helper

    ranks: dict[str, int] | None = None
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        if node.domain in ("", "ai.onnx") and is_old_resize(node, opset):
            nodes += todays_resize(node, opset, proto.graph, where)
            for made in nodes:
                made.domain = PARKED if made.op_type == "Resize" else made.domain
            continue
        made_today = revised(node, opset, where) if node.domain in ("", "ai.onnx") else None
        if made_today is not None:
            for new in made_today:
                new.domain = PARKED if new.op_type != "Constant" else ""
            nodes += made_today
            continue
        broadcasting = opset < 7 and node.op_type in _BROADCASTING
        if node.domain not in ("", "ai.onnx") or not (broadcasting or _is_old(node, opset)):
            nodes.append(node)
            continue
        if node.op_type == "Cast":
            _name_type(node, where)
        elif node.op_type == "PRelu" or "axis" in {a.name for a in node.attribute}:
            ranks = _ranks(proto) if ranks is None else ranks
            nodes += _line_up(node, ranks, where)
        _drop(node, "axis", "broadcast", "consumed_inputs")
        node.domain = PARKED
        nodes.append(node)
    if any(node.domain == PARKED for node in nodes):
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
        proto.opset_import.append(helper.make_opsetid(PARKED, 1))


def unpark(proto: onnx.ModelProto) -> None:
    """Put what was parked back among ONNX's operators."""
    for node in proto.graph.node:
        if node.domain == PARKED:
            node.domain = ""
    kept = [o for o in proto.opset_import if o.domain != PARKED]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)


def _is_old(node: onnx.NodeProto, opset: int) -> bool:
    return (node.op_type == "PRelu" and opset < 7) or (node.op_type == "Cast" and opset < 6)


def _ranks(proto: onnx.ModelProto) -> dict[str, int]:
    """The ranks that ONNX's own inference finds."""
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(proto).graph
    values = (*graph.input, *graph.value_info)
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}
    return {**ranks, **{t.name: len(t.dims) for t in graph.initializer}}


def _line_up(node: onnx.NodeProto, ranks: dict[str, int], where: str) -> list[onnx.NodeProto]:
    """Give the second operand the trailing axes that put it where the node wants it; returns the node that does."""
    from onnx import helper

    if not all(name in ranks for name in node.input):
        raise CompileError(
            "opset-unsupported",
            where=f"{where}: node {node.name or node.output[0]!r}, {node.op_type}",
            cause="how its operands line up hangs on their ranks, which are not known",
            fix="export the model with opset 18 or newer",
        )
    left, right = (ranks[name] for name in node.input)
    # The slope of PRelu lies along the channels, or is one for all of them.
    axis = next((int(a.i) for a in node.attribute if a.name == "axis"), 1)
    trailing = left - right - (axis + left if axis < 0 else axis)
    if trailing <= 0 or right == 0:
        return []
    name = f"{node.input[1]}_for_{node.output[0]}"
    made = helper.make_node("Unsqueeze", [node.input[1]], [name], axes=list(range(right, right + trailing)))
    node.input[1] = name
    return [made]


def _name_type(node: onnx.NodeProto, where: str) -> None:
    """The number of the type that ``to`` spells."""
    import onnx

    for attribute in node.attribute:
        if attribute.name == "to" and attribute.type == onnx.AttributeProto.STRING:
            text = attribute.s.decode("utf-8", "replace")
            if text not in onnx.TensorProto.DataType.keys():  # noqa: SIM118 (an enumeration, no dictionary)
                raise CompileError(
                    "invalid-model",
                    where=f"{where}: node {node.name or node.output[0]!r}, Cast",
                    cause=f"there is no element type {text[:40]!r}",
                    fix="export the model again",
                )
            attribute.ClearField("s")
            attribute.type = onnx.AttributeProto.INT
            attribute.i = onnx.TensorProto.DataType.Value(text)


def _drop(node: onnx.NodeProto, *names: str) -> None:
    kept = [a for a in node.attribute if a.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)
