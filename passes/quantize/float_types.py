"""Which inputs of an operator may have a narrower type of floats, by the operator's own definition."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import onnx
import onnx_ir as ir
from tilewright.ir.types import DType

_ONNX_NAMES = {DType.F16: "tensor(float16)", DType.BF16: "tensor(bfloat16)"}

#: Operators whose result has the type that an attribute or a stored tensor says, or that say what is quantized.
_OTHERWISE = frozenset(["Cast", "CastLike", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"])


def converted_inputs(node: ir.Node, kind: DType, version: int) -> frozenset[int]:
    """Positions of the f32 inputs of ``node`` that become ``kind`` so that its f32 outputs do too: all that may, so
    that no operator has floats of two types where it need not. Empty where the definition, of opset ``version``, has no
    such form, and for control flow.
    """
    if node.domain not in ("", "ai.onnx") or node.op_type in _OTHERWISE:
        return frozenset()
    if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
        return frozenset()
    schema = _schema(node.op_type, version)
    if schema is None:
        return frozenset()
    allowed = {c.type_param_str for c in schema.type_constraints if _ONNX_NAMES[kind] in c.allowed_type_strs}
    names = [_parameter(schema.inputs, i) for i in range(len(node.inputs))]
    wanted = {
        names[i]
        for i, v in enumerate(node.inputs)
        if v is not None and v.dtype == ir.DataType.FLOAT and names[i] in allowed
    }
    made = {
        _parameter(schema.outputs, i) for i, v in enumerate(node.outputs) if v.dtype == ir.DataType.FLOAT and v.name
    }
    if not wanted & made:  # no result follows an input: what is made stays f32
        return frozenset()
    return frozenset(i for i, v in enumerate(node.inputs) if v is not None and names[i] in wanted and _is_f32(v))


@cache
def _schema(op_type: str, version: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, version)
    except onnx.defs.SchemaError:
        return None


def _parameter(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> str:
    """The type parameter of an input or output; the last one of a variadic operator goes on."""
    return str(parameters[min(index, len(parameters) - 1)].type_str)


def _is_f32(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT
