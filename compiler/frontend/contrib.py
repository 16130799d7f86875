"""Quantized operators of ONNX Runtime's own domain, ``com.microsoft``, as QuantizeLinear and DequantizeLinear around
ONNX operators.

    QLinearAdd(a, sa, za, b, sb, zb, s, z)  →  Q(DQ(a, sa, za) + DQ(b, sb, zb), s, z)

Each is defined by such an expression (`ContribOperators.md` of ONNX Runtime), so nothing but the rounding of f32 may
differ: a result may lie one quantization step off where a quotient is a tie in one and not in the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
from tilewright.frontend.control import Part
from tilewright.ir.types import TensorType
from tilewright.ops.context import Scope, Unsupported

DOMAIN = "com.microsoft"

#: Operators with no definition here, and why.
REFUSED: Mapping[str, str] = {
    "DynamicQuantizeLSTM": "its weights are quantized and its gates are not; quantize the model without its LSTMs "
    "(op_types_to_quantize of onnxruntime.quantization)",
    "QAttention": "it is a whole attention layer with packed integer weights; quantize the model without ONNX "
    "Runtime's transformer optimizer, which writes the layer as products",
    "QEmbedLayerNormalization": "it is a whole embedding layer; quantize the model without ONNX Runtime's transformer "
    "optimizer",
    "QOrderedAttention": "its operands are in an order of one GPU library",
    "QOrderedMatMul": "its operands are in an order of one GPU library",
}

Expansion = Callable[["Node", Part], ir.Value]
_EXPANSIONS: dict[str, Expansion] = {}


def is_expanded(domain: str, operator: str) -> bool:
    """Whether :func:`expanded` knows an operator."""
    return domain == DOMAIN and operator in _EXPANSIONS


def expanded_operators() -> tuple[str, ...]:
    """The operators that :func:`expanded` knows, by name."""
    return tuple(sorted(_EXPANSIONS))


def expanded(node: ir.Node, scope: Scope) -> Part | None:
    """The ONNX operators that ``node`` stands for; ``None`` for an operator of another kind.

    The inputs of ``node`` have types in ``scope``. Raises :class:`~tilewright.ops.context.Unsupported` for operators
    and forms that have no such definition.
    """
    if node.domain != DOMAIN:
        return None
    if (reason := REFUSED.get(node.op_type)) is not None:
        raise Unsupported(reason)
    expansion = _EXPANSIONS.get(node.op_type)
    if expansion is None:
        return None
    part = Part()
    try:
        part.results = [expansion(Node(node, scope), part)]
    except (TypeError, ValueError, ArithmeticError) as error:
        raise Unsupported(f"its attributes make no sense: {error}") from None
    return part


class Node:
    """A node whose inputs and attributes are read by what the operator calls them."""

    def __init__(self, node: ir.Node, scope: Scope):
        self.node, self._scope = node, scope

    def optional(self, i: int) -> ir.Value | None:
        """Input ``i``, or ``None`` when it is left out."""
        return self.node.inputs[i] if i < len(self.node.inputs) else None

    def input(self, i: int) -> ir.Value:
        """Input ``i``. Raises :class:`Unsupported` when it is left out."""
        value = self.optional(i)
        if value is None:
            raise Unsupported(f"input {i} is missing")
        return value

    def type_of(self, i: int) -> TensorType:
        """The type of input ``i``."""
        found = self._scope.type_of(self.input(i))
        if found is None:
            raise Unsupported(f"nothing is known of input {i}")
        return found

    def attribute(self, name: str, default: Any) -> Any:
        """The value of an attribute."""
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def copied(self, *names: str) -> dict[str, Any]:
        """Those of these attributes that the node has."""
        return {n: self.node.attributes[n].value for n in names if n in self.node.attributes}

    def real(self, part: Part, i: int, **attributes: Any) -> ir.Value:
        """Input ``i``, dequantized with the two inputs after it."""
        scale, zero = self.input(i + 1), self.optional(i + 2)
        return part.new("DequantizeLinear", self.input(i), scale, *_given(zero), **attributes)

    def quantized(self, part: Part, value: ir.Value, i: int, **attributes: Any) -> ir.Value:
        """``value`` quantized with inputs ``i`` and the one after it; without a zero point as the first input is."""
        zero = self.optional(i + 1)
        if zero is None:
            attributes["output_dtype"] = self.type_of(0).dtype.onnx
        return part.new("QuantizeLinear", value, self.input(i), *_given(zero), **attributes)


def _given(zero: ir.Value | None) -> tuple[ir.Value, ...]:
    return () if zero is None else (zero,)


def _expansion(*names: str) -> Callable[[Expansion], Expansion]:
    def register(function: Expansion) -> Expansion:
        _EXPANSIONS.update(dict.fromkeys(names, function))
        return function

    return register


# -- between real and quantized ----------------------------------------------------------------------------------------


@_expansion("QuantizeLinear")
def _quantize(node: Node, part: Part) -> ir.Value:
    zero = _given(node.optional(2))
    return part.new("QuantizeLinear", node.input(0), node.input(1), *zero, **node.copied("axis", "block_size"))


@_expansion("DequantizeLinear")
def _dequantize(node: Node, part: Part) -> ir.Value:
    return node.real(part, 0, **node.copied("axis", "block_size"))


# -- elementwise -------------------------------------------------------------------------------------------------------


@_expansion("QLinearAdd", "QLinearMul")
def _binary(node: Node, part: Part) -> ir.Value:
    operator = node.node.op_type.removeprefix("QLinear")
    return node.quantized(part, part.new(operator, node.real(part, 0), node.real(part, 3)), 6)


@_expansion("QLinearLeakyRelu", "QLinearSigmoid")
def _unary(node: Node, part: Part) -> ir.Value:
    operator = node.node.op_type.removeprefix("QLinear")
    return node.quantized(part, part.new(operator, node.real(part, 0), **node.copied("alpha")), 3)


@_expansion("QLinearWhere")
def _where(node: Node, part: Part) -> ir.Value:
    chosen = part.new("Where", node.input(0), node.real(part, 1), node.real(part, 4))
    return part.new("QuantizeLinear", chosen, node.input(7), node.input(8))


@_expansion("QLinearConcat")
def _concat(node: Node, part: Part) -> ir.Value:
    reals = [node.real(part, i) for i in range(2, len(node.node.inputs), 3)]
    joined = part.new("Concat", *reals, axis=node.attribute("axis", 0))
    return part.new("QuantizeLinear", joined, node.input(0), node.input(1))


# -- along axes --------------------------------------------------------------------------------------------------------


@_expansion("QLinearSoftmax")
def _softmax(node: Node, part: Part) -> ir.Value:
    rank, axis = node.type_of(0).rank, node.attribute("axis", -1)
    if node.attribute("opset", 13) < 13 and axis % max(rank, 1) != rank - 1:
        raise Unsupported("a softmax over several axes at once, as before opset 13; export with opset 13 or newer")
    return node.quantized(part, part.new("Softmax", node.real(part, 0), axis=axis), 3)


@_expansion("QLinearGlobalAveragePool")
def _global_pool(node: Node, part: Part) -> ir.Value:
    return node.quantized(part, _channels_first(node, part, "GlobalAveragePool", {}), 3)


@_expansion("QLinearAveragePool")
def _pool(node: Node, part: Part) -> ir.Value:
    names = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
    return node.quantized(part, _channels_first(node, part, "AveragePool", node.copied(*names)), 3)


def _channels_first(node: Node, part: Part, operator: str, attributes: dict[str, Any]) -> ir.Value:
    """An operator on images, whose channels may come last."""
    x, rank = node.real(part, 0), node.type_of(0).rank
    if not node.attribute("channels_last", 0):
        return part.new(operator, x, **attributes)
    first = part.new("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)])
    return part.new("Transpose", part.new(operator, first, **attributes), perm=[0, *range(2, rank), 1])


# -- products ----------------------------------------------------------------------------------------------------------


@_expansion("QLinearConv")
def _conv(node: Node, part: Part) -> ir.Value:
    """ONNX's operator, but for channels that may come last."""
    rank, inputs = node.type_of(0).rank, list(node.node.inputs)
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    if not node.attribute("channels_last", 0):
        return part.new("QLinearConv", *inputs, **node.copied(*names))
    inputs[0] = part.new("Transpose", inputs[0], perm=[0, rank - 1, *range(1, rank - 1)])
    result = part.new("QLinearConv", *inputs, **node.copied(*names))
    return part.new("Transpose", result, perm=[0, *range(2, rank), 1])


@_expansion("QGemm")
def _gemm(node: Node, part: Part) -> ir.Value:
    """``Q(alpha · A' · B' + alpha · sa · sb · C)``, in f32 without scale of the result."""
    columns = 0 if node.attribute("transB", 0) else 1
    a, b = node.real(part, 0), node.real(part, 3, axis=columns)
    alpha, bias = node.attribute("alpha", 1.0), node.optional(6)
    inputs = [a, b]
    if bias is not None:
        scale = part.new("Mul", node.input(1), node.input(4))
        inputs.append(_real_bias(part, bias, scale, node.type_of(4)))
    beta = {} if bias is None else {"beta": alpha}
    product = part.new("Gemm", *inputs, alpha=alpha, **beta, **node.copied("transA", "transB"))
    return product if node.optional(7) is None else node.quantized(part, product, 7)


def _real_bias(part: Part, bias: ir.Value, scale: ir.Value, of: TensorType) -> ir.Value:
    """A bias in 32-bit integers times the scale of the sums; ``of`` tells whether there is one scale a column."""
    if of.rank and of.shape[0] != 1:
        return part.new("DequantizeLinear", bias, scale, axis=-1)
    single = part.new("Reshape", scale, part.constant([], int))
    return part.new("DequantizeLinear", bias, single)


@_expansion("MatMulIntegerToFloat")
def _product_to_float(node: Node, part: Part) -> ir.Value:
    """Inputs: a, b, their scales, their zero points, bias."""
    a = part.new("DequantizeLinear", node.input(0), node.input(2), *_given(node.optional(4)))
    b = part.new("DequantizeLinear", node.input(1), node.input(3), *_given(node.optional(5)), axis=-1)
    return _biased(part, part.new("MatMul", a, b), node.optional(6))


@_expansion("DynamicQuantizeMatMul")
def _dynamic_product(node: Node, part: Part) -> ir.Value:
    """Inputs: a in f32, b, its scale and zero point, bias."""
    made = ir.Node("", "DynamicQuantizeLinear", [node.input(0)], num_outputs=3)
    for value, name in zip(made.outputs, ("quantized", "scale", "zero"), strict=True):
        value.name = name
    part.nodes.append(made)
    a = part.new("DequantizeLinear", *made.outputs)
    return _biased(part, part.new("MatMul", a, node.real(part, 1, axis=-1)), node.optional(4))


def _biased(part: Part, product: ir.Value, bias: ir.Value | None) -> ir.Value:
    return product if bias is None else part.new("Add", product, bias)
