"""What ATC's ONNX parser takes: operators by opset, and what it drops or refuses of those it has.

The opset is 17. There all operators that a model of today comes down to are registered (LayerNormalization from 17 on,
ReduceL1 and ReduceL2 to 17), and reductions say their axes in an attribute: the parser registers those of opset 18 too,
but reads no axes from the input that has them there, and so would reduce over everything.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.ir.types import DType
from tilewright.target import Target

#: The opset of the files that are written.
OPSET = 17
#: The IR version that came with it; its reader is that of ONNX 1.12.
IR_VERSION = 8

#: Operators that the parser itself makes, without a plugin.
_OWN = frozenset({"Constant"})

#: Element types that both opset 17 and the parser's table of types have.
_TYPES = frozenset(
    {DType.F32, DType.F16, DType.BF16, DType.F64, DType.BOOL, DType.I8, DType.I16, DType.I32, DType.I64}
    | {DType.U8, DType.U16, DType.U32, DType.U64}
)

#: Operators whose products run on the cube unit.
PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "LSTM", "GRU"})

#: Quantized operators, for which the parser has no plugin.
_QUANTIZED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearMatMul"}
)


@cache
def registered() -> Mapping[str, frozenset[int]]:
    """The opsets of the model for which there is a plugin, by operator."""
    table = tomllib.loads((Path(__file__).parent / "operators.toml").read_text(encoding="utf-8"))["opsets"]
    return {name: frozenset(_opsets(text)) for text, names in table.items() for name in names}


def _opsets(text: str) -> list[int]:
    """``1,8-18`` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def is_known(node: ir.Node) -> bool:
    """Whether there is a plugin for the operator of a node at all."""
    return node.domain in ("", "ai.onnx") and (
        node.op_type in _OWN or OPSET in registered().get(node.op_type, frozenset())
    )


def refusal(node: ir.Node, target: Target) -> str:
    """Why ATC cannot take a node for ``target`` as it stands; empty where it can. Every value of it has a type."""
    if node.op_type in _QUANTIZED:
        return (
            "ATC's parser has no plugin for it (it takes AscendQuant and AscendDequant, which AMCT writes): export the "
            "float model, with --precision fp16 where that is wanted, or compile the quantized one"
        )
    if not is_known(node):
        return (
            f"ATC's parser has no plugin for it in opset {OPSET}, and the standard defines it by nothing that has one"
        )
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.name and (why := _type_refusal(value, target)):
            return why
    if node.op_type in PRODUCTS and "mmad_f32" not in target.features:
        first = node.inputs[0]
        if first is not None and type_of(first).dtype is DType.F32:
            return (
                f"the cube unit of {target.spelling} multiplies no f32, and ATC is told to change no type: "
                "ask for --precision fp16"
            )
    rule = _RULES.get(node.op_type)
    return rule(node) if rule is not None else ""


def _type_refusal(value: ir.Value, target: Target) -> str:
    dtype = type_of(value).dtype
    if dtype not in _TYPES:
        return f"{value.name!r} is {dtype}, which opset {OPSET} does not have"
    if dtype is DType.BF16 and "bf16" not in target.features:
        return f"{value.name!r} is bf16, which {target.spelling} does not have"
    return ""


# -- what plugins drop or refuse: warnings and errors in their sources ------------------------------------------------


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    found = node.attributes.get(name)
    return default if found is None else found.value


def _one_of(name: str, default: Any, *allowed: Any) -> Callable[[ir.Node], str]:
    """A rule: an attribute has one of these values."""

    def rule(node: ir.Node) -> str:
        value = _attribute(node, name, default)
        if value in allowed:
            return ""
        return f"its plugin takes {name} {' or '.join(map(repr, allowed))} only, not {value!r}"

    return rule


def _max_pool(node: ir.Node) -> str:
    if len([o for o in node.outputs if o.name]) > 1:
        return "its plugin gives no indices"
    return _one_of("storage_order", 0, 0)(node) or _one_of("auto_pad", "NOTSET", "NOTSET", "VALID", "SAME_UPPER")(node)


def _dropout(node: ir.Node) -> str:
    return "it drops at random when it trains" if len(node.inputs) > 2 and node.inputs[2] is not None else ""


def _pads(node: ir.Node) -> str:
    return _one_of("auto_pad", "NOTSET", "NOTSET", "VALID", "SAME_UPPER")(node)


_RULES: Mapping[str, Callable[[ir.Node], str]] = {
    "ArgMax": _one_of("select_last_index", 0, 0),
    "ArgMin": _one_of("select_last_index", 0, 0),
    "AveragePool": _pads,
    "Dropout": _dropout,
    "GRU": _one_of("layout", 0, 0),
    "GatherND": _one_of("batch_dims", 0, 0),
    "LSTM": _one_of("layout", 0, 0),
    "MaxPool": _max_pool,
    "Mod": _one_of("fmod", 0, 0),
    "Pad": _one_of("mode", "constant", "constant", "reflect", "edge"),
    "ScatterElements": _one_of("reduction", "none", "none", "add"),
    "ScatterND": _one_of("reduction", "none", "none", "add"),
}
