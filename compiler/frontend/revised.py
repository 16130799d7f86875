"""Operators whose meaning was revised, where ONNX's version converter keeps the spelling or refuses.

- Before opset 13 Hardmax works on the input as a matrix, whose columns are all axes from ``axis`` on.
- Attributes that became inputs or other types: Pad and Split before opset 2, the norm of LpPool before 2, Concat's
  axis before 4; the recurrent operators before 7 say whether they give a sequence, which the outputs tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tilewright.errors import CompileError

if TYPE_CHECKING:
    import onnx


def revised(node: onnx.NodeProto, opset: int, where: str) -> list[onnx.NodeProto] | None:
    """Today's nodes for a node of ``opset`` of the ONNX domain; ``None`` where the converter does well.

    Raises :class:`CompileError` (``opset-unsupported``) for what has no such form.
    """
    before, rule = _RULES.get(node.op_type, (0, None))
    if rule is None or opset >= before:
        return None
    from onnx import helper

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    try:
        return rule(node, attributes)
    except ValueError as error:
        raise CompileError(
            "opset-unsupported",
            where=f"{where}: node {node.name or node.output[0]!r}, {node.op_type} of opset {opset}",
            cause=str(error),
            fix="export the model with opset 18 or newer",
        ) from None


def _made(node: onnx.NodeProto, inputs: list[str], op_type: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node in place of ``node``, with its name and outputs."""
    from onnx import helper

    return helper.make_node(op_type or node.op_type, inputs, list(node.output), name=node.name, **attributes)


def _constant(node: onnx.NodeProto, hint: str, values: Any, dtype: str) -> onnx.NodeProto:
    import numpy as np
    from onnx import helper, numpy_helper

    tensor = numpy_helper.from_array(np.array(values, dtype))
    return helper.make_node("Constant", [], [f"{node.output[0]}__{hint}"], value=tensor)


def _hardmax(node: onnx.NodeProto, attributes: Mapping[str, Any]) -> list[onnx.NodeProto]:
    from onnx import helper

    shape, matrix, hot = (f"{node.output[0]}__{part}" for part in ("shape", "matrix", "hot"))
    return [
        helper.make_node("Shape", [node.input[0]], [shape]),
        helper.make_node("Flatten", [node.input[0]], [matrix], axis=attributes.get("axis", 1)),
        helper.make_node("Hardmax", [matrix], [hot], axis=-1),
        _made(node, [hot, shape], "Reshape", allowzero=1),
    ]


def _recurrent(node: onnx.NodeProto, attributes: Mapping[str, Any]) -> list[onnx.NodeProto]:
    kept = {name: value for name, value in attributes.items() if name != "output_sequence"}
    return [_made(node, list(node.input), **kept)]


def _lp_pool(node: onnx.NodeProto, attributes: Mapping[str, Any]) -> list[onnx.NodeProto]:
    p = attributes.get("p", 2.0)
    if p != int(p):
        raise ValueError(f"p is {p}, and only whole numbers are supported")
    return [_made(node, list(node.input), **{**attributes, "p": int(p)})]


def _padded(node: onnx.NodeProto, attributes: Mapping[str, Any]) -> list[onnx.NodeProto]:
    pads = _constant(node, "pads", attributes["paddings"], "int64")
    value = _constant(node, "value", attributes.get("value", 0.0), "float32")
    inputs = [node.input[0], pads.output[0], value.output[0]]
    return [pads, value, _made(node, inputs, mode=attributes.get("mode", b"constant"))]


def _split(node: onnx.NodeProto, attributes: Mapping[str, Any]) -> list[onnx.NodeProto]:
    axis = attributes.get("axis", 0)
    if len(node.input) > 1:
        return [_made(node, list(node.input), axis=axis)]
    if "split" not in attributes:
        return [_made(node, list(node.input), axis=axis, num_outputs=len(node.output))]
    sizes = _constant(node, "sizes", attributes["split"], "int64")
    return [sizes, _made(node, [node.input[0], sizes.output[0]], axis=axis)]


def _joined(node: onnx.NodeProto, attributes: Mapping[str, Any]) -> list[onnx.NodeProto]:
    return [_made(node, list(node.input), axis=attributes.get("axis", 1))]


_Rule = Callable[["onnx.NodeProto", Mapping[str, Any]], "list[onnx.NodeProto]"]

#: Operator: the opset from which on the converter knows it, and its form of today.
_RULES: dict[str, tuple[int, _Rule]] = {
    "Hardmax": (13, _hardmax),
    "RNN": (7, _recurrent),
    "LSTM": (7, _recurrent),
    "GRU": (7, _recurrent),
    "LpPool": (2, _lp_pool),
    "GlobalLpPool": (2, _lp_pool),
    "Pad": (2, _padded),
    "Split": (2, _split),
    "Concat": (4, _joined),
}
