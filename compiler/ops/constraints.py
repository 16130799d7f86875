"""Which element types an operator takes: those of its ONNX schema, and where two inputs have to be of one type."""

from __future__ import annotations

from functools import cache

from tilewright.ir.types import DType, TensorType
from tilewright.ops.context import Infer

#: Name of a type variable of the schema, and the element types that it may stand for.
Constraint = tuple[str, frozenset[DType]]


def check_element_types(ctx: Infer) -> None:
    """Fail when an input of the node has an element type that its operator does not take."""
    formal = _constraints(ctx.node.op_type, "" if ctx.node.domain == "ai.onnx" else ctx.node.domain, ctx.opset)
    if formal is None:
        return
    single, variadic = formal
    bound: dict[str, TensorType] = {}
    for i in range(len(ctx.inputs)):
        found = ctx.optional(i)
        constraint = single[i] if i < len(single) else variadic
        if found is None or constraint is None:
            continue
        name, allowed = constraint
        if found.dtype not in allowed:
            listed = ", ".join(str(d) for d in DType if d in allowed)
            ctx.fail(f"input {i} is {found.dtype}; {ctx.node.op_type} takes {listed} there")
        if bound.setdefault(name, found).dtype is not found.dtype:
            ctx.fail(f"input {i} is {found.dtype}, another one of the same type is {bound[name].dtype}")


@cache
def _constraints(
    operator: str, domain: str, opset: int
) -> tuple[tuple[Constraint | None, ...], Constraint | None] | None:
    """Of each input, and of all further ones; ``None`` for an operator that ONNX does not have.

    ``opset`` 0 (a node whose model does not say) stands for the newest.
    """
    from onnx import defs

    try:
        schema = defs.get_schema(operator, opset or defs.onnx_opset_version(), domain)
    except defs.SchemaError:
        return None
    variables = {t.type_param_str: t.allowed_type_strs for t in schema.type_constraints}
    found: list[Constraint | None] = []
    for parameter in schema.inputs:
        texts = variables.get(parameter.type_str, [parameter.type_str])
        allowed = frozenset(d for d in DType if f"tensor({_NAMES[d]})" in texts)
        # Inputs of a heterogeneous parameter may differ from one another.
        own = parameter.type_str if parameter.is_homogeneous else f"{parameter.type_str}{len(found)}"
        found.append((own, allowed) if allowed else None)
    variadic = bool(schema.inputs) and schema.inputs[-1].option == defs.OpSchema.FormalParameterOption.Variadic
    last = found[-1] if variadic and schema.inputs[-1].is_homogeneous else None
    return tuple(found), last


_NAMES = {
    DType.F32: "float", DType.U8: "uint8", DType.I8: "int8", DType.U16: "uint16", DType.I16: "int16",
    DType.I32: "int32", DType.I64: "int64", DType.BOOL: "bool", DType.F16: "float16", DType.F64: "double",
    DType.U32: "uint32", DType.U64: "uint64", DType.BF16: "bfloat16", DType.F8E4M3: "float8e4m3fn",
    DType.F8E4M3FNUZ: "float8e4m3fnuz", DType.F8E5M2: "float8e5m2", DType.F8E5M2FNUZ: "float8e5m2fnuz",
    DType.F8E8M0: "float8e8m0", DType.F4E2M1: "float4e2m1", DType.U4: "uint4", DType.I4: "int4", DType.U2: "uint2",
    DType.I2: "int2",
}  # fmt: skip
