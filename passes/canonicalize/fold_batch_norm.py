"""``fold-batch-norm``: a BatchNormalization at inference goes into a Conv's constants, or is a scale and a shift.

    BatchNormalization(Conv(x, W, c), scale, bias, mean, var)  →  Conv(x, W·s, c·s + t)
    Conv(BatchNormalization(x, …), W, c)                       →  Conv(x, W·s, c + Σ W·t)      without padding
    BatchNormalization(Conv(x, DQ(W, q), c), …)                →  Conv(x, DQ(W, q·s), c·s + t) where s is positive
    BatchNormalization(x, …)                                   →  x·s + t                      which chains take up

    s = scale / √(var + ε),  t = bias - mean·s

Padding is of zeros after the normalization: it would have to be of -t/s before it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.ir.graph import constant_array, is_constant, only_consumer, type_of
from tilewright.passes.base import Miss
from tilewright.passes.quantized import dequantize_of, dequantized, is_weight, parameters
from tilewright.passes.rewrite import RewritePass, Rewriter, required

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Affine:
    """``x·scale + shift`` per channel, in f64."""

    scale: Array
    shift: Array


class FoldBatchNorm(RewritePass):
    """Scale the filters, shift the bias; in f64, rounded once."""

    name: ClassVar[str] = "fold-batch-norm"
    operators: ClassVar[frozenset[str]] = frozenset(["BatchNormalization"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        if _trains(node):
            return Miss.at(node, "it is in training mode")
        if not normalizes(node):
            return Miss.at(node, "its statistics are no constants")
        x = required(node, 0)
        affine = affine_of(node)
        before, after = x.producer(), only_consumer(node.outputs[0])
        if before is not None and _takes(before) and only_consumer(x) is node:
            rewriter.replace(node.outputs[0], _scaled_output(before, affine, rewriter, node))
        elif before is not None and _takes_scale(before, affine) and only_consumer(x) is node:
            rewriter.replace(node.outputs[0], _scaled_integers(before, affine, rewriter, node))
        elif after is not None and _takes(after) and after.inputs[0] is node.outputs[0] and _unpadded(after):
            rewriter.replace(after.outputs[0], _scaled_input(after, x, affine, rewriter))
        elif required(node, 3).dtype != x.dtype:
            return Miss.at(node, "its statistics are of another type than what it normalizes")
        else:
            rewriter.replace(node.outputs[0], _scale_and_shift(node, x, affine, rewriter))
        return True


def _trains(node: ir.Node) -> bool:
    return len(node.outputs) > 1 or (
        "training_mode" in node.attributes and bool(node.attributes["training_mode"].as_int())
    )


def normalizes(node: ir.Node) -> bool:
    """Whether ``node`` is a BatchNormalization whose statistics are constants."""
    constant = all(v is not None and is_constant(v) for v in node.inputs[1:5])
    return node.op_type == "BatchNormalization" and node.domain == "" and constant and not _trains(node)


def affine_of(node: ir.Node) -> Affine:
    """What a BatchNormalization with constant statistics computes."""
    scale, bias, mean, variance = (constant_array(required(node, i)).astype(np.float64) for i in range(1, 5))
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    factor = scale / np.sqrt(variance + epsilon)
    return Affine(factor, bias - mean * factor)


def _takes(node: ir.Node) -> bool:
    """A convolution with constant filters and bias."""
    return node.op_type == "Conv" and node.domain == "" and all(v is None or is_constant(v) for v in node.inputs[1:])


def _takes_scale(node: ir.Node, affine: Affine) -> bool:
    """A convolution with integer filters under a DQ, whose scale can be another for each of them."""
    if node.op_type != "Conv" or node.domain != "" or not all(v is None or is_weight(v) for v in node.inputs[1:]):
        return False
    inner = dequantize_of(node.inputs[1])
    if inner is None:
        return False
    p = parameters(inner)
    zero_fits = p.zero is None or p.axis is not None
    return p.axis in (None, 0) and not p.block and not p.result and zero_fits and bool((affine.scale > 0).all())


def _scaled_integers(conv: ir.Node, affine: Affine, rewriter: Rewriter, before: ir.Node) -> ir.Value:
    inner = dequantize_of(required(conv, 1))
    assert inner is not None
    integers, p = required(inner, 0), parameters(inner)
    dtype = constant_array(p.scale).dtype
    scale = (constant_array(p.scale).astype(np.float64) * affine.scale).astype(dtype)
    scaled = replace(p, scale=rewriter.constant(scale, f"{p.scale.name}_bn"), axis=0)
    bias = (_real_bias(conv) * affine.scale + affine.shift).astype(type_of(required(conv, 0)).dtype.numpy)
    filters = dequantized(rewriter, integers, scaled, before=before)
    inputs = [required(conv, 0), filters, rewriter.constant(bias, f"{integers.name}_bn_bias")]
    attributes = {key: a.value for key, a in conv.attributes.items()}
    return rewriter.new("Conv", inputs, before=before, attributes=attributes)


def _real_bias(conv: ir.Node) -> Array:
    """The bias of a convolution, dequantized if need be."""
    given = conv.inputs[2] if len(conv.inputs) > 2 else None
    inner = dequantize_of(given)
    if given is None or inner is None:
        return np.zeros(1) if given is None else constant_array(given).astype(np.float64)
    p = parameters(inner)
    zero = 0.0 if p.zero is None else constant_array(p.zero).astype(np.float64)
    integers = constant_array(required(inner, 0)).astype(np.float64)
    return np.asarray((integers - zero) * constant_array(p.scale).astype(np.float64))


def _unpadded(conv: ir.Node) -> bool:
    pads = conv.attributes["pads"].as_ints() if "pads" in conv.attributes else ()
    mode = conv.attributes["auto_pad"].as_string() if "auto_pad" in conv.attributes else "NOTSET"
    return mode == "VALID" or (mode in ("", "NOTSET") and not any(pads))


def _scaled_output(conv: ir.Node, affine: Affine, rewriter: Rewriter, before: ir.Node) -> ir.Value:
    filters, bias = _filters(conv), _bias(conv)
    factor = affine.scale.reshape(-1, *[1] * (filters.ndim - 1))
    return _convolved(conv, required(conv, 0), filters * factor, bias * affine.scale + affine.shift, rewriter, before)


def _scaled_input(conv: ir.Node, x: ir.Value, affine: Affine, rewriter: Rewriter) -> ir.Value:
    filters, bias = _filters(conv).astype(np.float64), _bias(conv)
    outputs, per_group = filters.shape[:2]
    groups = conv.attributes["group"].as_int() if "group" in conv.attributes else 1
    # Filter o sees the channels of its group: row o // (outputs / groups) of the table of channels by group.
    by_filter = np.repeat(np.arange(groups), outputs // groups)
    window = (outputs, per_group, *[1] * (filters.ndim - 2))
    scale = affine.scale.reshape(groups, per_group)[by_filter].reshape(window)
    shift = affine.shift.reshape(groups, per_group)[by_filter].reshape(window)
    moved = bias + (filters * shift).reshape(outputs, -1).sum(axis=1)
    return _convolved(conv, x, filters * scale, moved, rewriter, conv)


def _scale_and_shift(node: ir.Node, x: ir.Value, affine: Affine, rewriter: Rewriter) -> ir.Value:
    dtype, name = type_of(x).dtype.numpy, required(node, 1).name
    shape = (-1, *[1] * (type_of(x).rank - 2))
    scale = rewriter.constant(affine.scale.astype(dtype).reshape(shape), f"{name}_bn")
    shift = rewriter.constant(affine.shift.astype(dtype).reshape(shape), f"{name}_bn_shift")
    return rewriter.new("Add", [rewriter.new("Mul", [x, scale], before=node), shift], before=node)


def _filters(conv: ir.Node) -> Array:
    return constant_array(required(conv, 1))


def _bias(conv: ir.Node) -> Array:
    given = conv.inputs[2] if len(conv.inputs) > 2 else None
    return np.zeros(_filters(conv).shape[0]) if given is None else constant_array(given).astype(np.float64)


def _convolved(
    conv: ir.Node, x: ir.Value, filters: Array, bias: Array, rewriter: Rewriter, before: ir.Node
) -> ir.Value:
    dtype, name = _filters(conv).dtype, required(conv, 1).name
    inputs = [
        x,
        rewriter.constant(filters.astype(dtype), f"{name}_bn"),
        rewriter.constant(bias.astype(dtype), f"{name}_bn_bias"),
    ]
    attributes = {key: a.value for key, a in conv.attributes.items()}
    return rewriter.new("Conv", inputs, before=before, attributes=attributes)
