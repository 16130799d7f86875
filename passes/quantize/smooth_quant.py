"""``smooth-quant``: outliers of activation channels move into the weights, where a scale for each column bears them.

    MatMul(x, W)  →  MatMul(x / f, f · W)        f[k] = max |x[:, k]| ** a / max |W[k, :]| ** (1 - a)

SmoothQuant (Xiao et al. 2022, equation 4). Products that read one tensor share its factors. The division goes into
what computes ``x``: scale and bias of a norm, weights and bias of a linear layer (also behind a gate, ``g · linear``).
Where others read ``x`` as well, or it comes from something else, it is a Mul of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.ir.graph import constant_array, consumers, is_constant, only_consumer
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.canonicalize.eliminate_dead_code import EliminateDeadCode
from tilewright.passes.quantize.base import Capability
from tilewright.passes.quantize.contractions import Contraction, contractions, obstacle
from tilewright.passes.rewrite import Rewriter

Array = NDArray[Any]

NORMS = frozenset(["LayerNormalization", "RMSNormalization"])


@dataclass(frozen=True)
class SmoothQuant(Pass):
    """Options: what is absorbed, by name the factors of each tensor's channels (tensors without are left alone), and
    the names of products that may be quantized.
    """

    name: ClassVar[str] = "smooth-quant"
    capability: Capability
    factors: Mapping[str, Array] = field(default_factory=dict)
    layers: frozenset[str] | None = None

    def run(self, model: ir.Model) -> PassResult:
        rewriter, modified, misses = Rewriter(model), False, []
        for value, readers in smoothed(model, self.capability, self.layers).items():
            factors = self.factors.get(str(value.name))
            if factors is None or (factors == 1).all():
                misses.append(Miss.at(readers[0].node, "no factor of its channels differs from 1"))
                continue
            weights = [constant_array(r.weight) for r in readers]
            _divide(rewriter, value, [r.node for r in readers], factors)
            for reader, weight in zip(readers, weights, strict=True):
                scaled = (weight * factors[:, None]).astype(np.float32)
                reader.node.replace_input_with(1, rewriter.constant(scaled, f"{reader.weight.name}_smooth"))
            modified = True
        EliminateDeadCode().run(model)
        return PassResult(modified, misses)


def smoothed(
    model: ir.Model, capability: Capability, layers: frozenset[str] | None
) -> dict[ir.Value, list[Contraction]]:
    """The products whose operand may be divided, by that operand, in order."""
    found: dict[ir.Value, list[Contraction]] = {}
    for node in contractions(model):
        if node.op_type == "MatMul" and not obstacle(node, capability.static | capability.dynamic, layers):
            found.setdefault(Contraction(node).activation, []).append(Contraction(node))
    return found


def _divide(rewriter: Rewriter, value: ir.Value, readers: list[ir.Node], factors: Array) -> None:
    """Let ``readers`` read ``value / factors``."""
    alone = set(consumers(value)) <= set(readers) and not value.is_graph_output()
    if alone and _fold(rewriter, value, factors):
        return
    reciprocal = rewriter.constant((1 / factors.astype(np.float64)).astype(np.float32), f"{value.name}_smoothing")
    divided = rewriter.new("Mul", [value, reciprocal], before=readers[0])
    for reader in readers:
        reader.replace_input_with(0, divided)


def _fold(rewriter: Rewriter, value: ir.Value, factors: Array) -> bool:
    """Divide what ``value`` is computed from, where that is constants; ``value`` has no other readers."""
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in NORMS:
        parameters = [i for i in (1, 2) if i < len(node.inputs) and node.inputs[i] is not None]
        return _is_last(node) and _divide_constants(rewriter, node, parameters, factors)
    if node.op_type == "MatMul":
        return _divide_constants(rewriter, node, [1], factors)
    if node.op_type == "Add":
        return _fold_sum(rewriter, node, factors)
    if node.op_type == "Mul":  # of a gate: one of the two is linear
        return any(v is not None and only_consumer(v) is node and _is_linear(v) and _fold(rewriter, v, factors)
                   for v in reversed(node.inputs))  # fmt: skip
    return False


def _fold_sum(rewriter: Rewriter, node: ir.Node, factors: Array) -> bool:
    """Of a product and a constant bias: both are divided, or none."""
    for i, j in ((0, 1), (1, 0)):
        product, bias = node.inputs[i], node.inputs[j]
        if product is None or bias is None or not is_constant(bias) or only_consumer(product) is not node:
            continue
        source = product.producer()
        if source is None or source.op_type != "MatMul" or not _fits(source.inputs[1], factors):
            continue
        return _divide_constants(rewriter, node, [j], factors) and _divide_constants(rewriter, source, [1], factors)
    return False


def _is_linear(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type in ("MatMul", "Add")


def _divide_constants(rewriter: Rewriter, node: ir.Node, inputs: list[int], factors: Array) -> bool:
    """Divide the last axis of constants; False, and nothing changed, unless all are constants of that length."""
    values = [node.inputs[i] for i in inputs]
    if not all(_fits(v, factors) for v in values):
        return False
    for i, value in zip(inputs, values, strict=True):
        assert value is not None
        divided = (constant_array(value) / factors).astype(np.float32)
        node.replace_input_with(i, rewriter.constant(divided, f"{value.name}_smooth"))
    return True


def _fits(value: ir.Value | None, factors: Array) -> bool:
    """True for an f32 constant whose last axis is as long as ``factors``."""
    if value is None or not is_constant(value) or value.dtype != ir.DataType.FLOAT:
        return False
    shape = constant_array(value).shape
    return bool(shape) and shape[-1] == len(factors)


def _is_last(norm: ir.Node) -> bool:
    """True for a norm over the last axis alone, whose parameters are one a channel."""
    axis = norm.attributes["axis"].as_int() if "axis" in norm.attributes else -1
    shape = norm.inputs[0].shape if norm.inputs[0] is not None else None
    return axis == -1 or (shape is not None and axis == len(shape) - 1)
