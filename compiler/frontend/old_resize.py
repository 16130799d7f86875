"""Upsample and the Resize of opset 10 in today's words: positions are ``asymmetric``, and the nearest pixel is the one
before where an axis grows and the one after where it shrinks, as ONNX Runtime has it (the operator's text is silent).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tilewright.errors import CompileError

if TYPE_CHECKING:
    import onnx


def is_old_resize(node: onnx.NodeProto, opset: int) -> bool:
    """Whether ``node``, of ONNX's domain, resizes by the rules before opset 11."""
    return node.op_type == "Upsample" or (node.op_type == "Resize" and opset < 11)


def todays_resize(node: onnx.NodeProto, opset: int, graph: onnx.GraphProto, where: str) -> list[onnx.NodeProto]:
    """The nodes that stand for an old one; those called Resize are of opset 13 or later.

    Raises :class:`CompileError` (``invalid-model``) for scales that are no numbers of axes.
    """
    from onnx import helper

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    mode = attributes.get("mode", b"nearest").decode("utf-8", "replace")
    mode = {"bilinear": "linear"}.get(mode, mode)
    made: list[onnx.NodeProto] = []
    if opset < 9 and node.op_type == "Upsample":
        scales = attributes.get("scales")
        if scales is None:  # opset 1: images only
            scales = [1.0, 1.0, attributes.get("height_scale", 1.0), attributes.get("width_scale", 1.0)]
        made.append(_constant(f"{node.output[0]}_scales", scales))
    elif len(node.input) != 2:
        raise CompileError(
            "invalid-model",
            where=f"{where}: node {node.name or node.output[0]!r}, {node.op_type}",
            cause="it has no scales",
            fix="export the model again",
        )
    name = made[0].output[0] if made else node.input[1]
    known = scales if made else _contents(name, graph)
    if mode != "nearest" or node.op_type == "Upsample" or (known is not None and min(known, default=1) >= 1):
        return [*made, _resize(node, node.input[0], name, node.output[0], mode, "floor")]
    if known is not None and max(known, default=1) <= 1:
        return [*made, _resize(node, node.input[0], name, node.output[0], mode, "ceil")]
    # Some axes may grow and others shrink: first the ones, then the others.
    one, grown = f"{node.output[0]}_one", f"{node.output[0]}_grown"
    made.append(_constant(one, [1.0]))
    steps = ((node.input[0], grown, "Max", "floor"), (grown, node.output[0], "Min", "ceil"))
    for source, target, choice, nearest in steps:
        some = f"{target}_{choice}"
        if known is not None:
            made.append(_constant(some, [(max if choice == "Max" else min)(s, 1.0) for s in known]))
        else:
            made.append(helper.make_node(choice, [name, one], [some]))
        made.append(_resize(node, source, some, target, mode, nearest))
    return made


def _contents(name: str, graph: onnx.GraphProto) -> list[float] | None:
    """The numbers of a constant."""
    from onnx import numpy_helper

    tensors = {t.name: t for t in graph.initializer}
    tensors |= {
        n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    }
    tensor = tensors.get(name)
    return None if tensor is None else [float(x) for x in numpy_helper.to_array(tensor).reshape(-1)]


def _constant(name: str, values: Sequence[float]) -> onnx.NodeProto:
    import onnx
    from onnx import helper

    tensor = helper.make_tensor(name, onnx.TensorProto.FLOAT, [len(values)], list(values))
    return helper.make_node("Constant", [], [name], value=tensor)


def _resize(node: onnx.NodeProto, source: str, scales: str, target: str, mode: str, nearest: str) -> onnx.NodeProto:
    from onnx import helper

    how = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": nearest}
    return helper.make_node("Resize", [source, "", scales], [target], name=node.name, **how)
