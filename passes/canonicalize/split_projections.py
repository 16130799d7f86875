"""``split-projections``: a product whose result is split along its features becomes a product for each part.

Split(x·W + b)  →  x·W₁ + b₁, x·W₂ + b₂, …

On several devices queries, keys and values in one weight cannot be cut along heads: a part of its columns would hold
queries of some heads and keys of others.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, only_consumer, type_of
from tilewright.passes.base import Miss
from tilewright.passes.rewrite import RewritePass, Rewriter, required


class SplitProjections(RewritePass):
    """A product for each part, so that each can be cut over devices."""

    name: ClassVar[str] = "split-projections"
    operators: ClassVar[frozenset[str]] = frozenset(["Split"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        source = required(node, 0)
        rank = type_of(source).rank
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        if axis % rank != rank - 1:
            return Miss.at(node, "it is not split along features")
        product, bias = _projection(source)
        if product is None:
            return Miss.at(node, "it does not split a product with a weight, alone or with a bias")
        weight = required(product, 1)
        sizes = [type_of(o).shape[rank - 1] for o in node.outputs]
        if not all(size.is_constant for size in sizes):
            return Miss.at(node, "its sizes are not known")
        ends = np.cumsum([size.value for size in sizes])
        for output, size, end in zip(node.outputs, sizes, ends, strict=True):
            part = slice(int(end) - size.value, int(end))
            mine = _columns(weight, part, rewriter)
            made = rewriter.new("MatMul", [required(product, 0), mine], before=node)
            if bias is not None:
                made = rewriter.new("Add", [made, _columns(bias, part, rewriter)], before=node)
            rewriter.replace(output, made)
        return True


def _projection(value: ir.Value) -> tuple[ir.Node | None, ir.Value | None]:
    """The product that a value is, and the bias added to it; nothing where others read it, or it is something else."""
    node = value.producer()
    bias = None
    if node is not None and node.op_type == "Add" and only_consumer(value) is not None:
        constants = [v for v in node.inputs if v is not None and is_constant(v)]
        others = [v for v in node.inputs if v is not None and not is_constant(v)]
        if len(constants) != 1 or type_of(constants[0]).rank != 1:
            return None, None
        (bias,), (value,) = constants, others
        node = value.producer()
        if type_of(bias).shape[0] != type_of(value).shape[-1]:
            return None, None
    if node is None or node.op_type != "MatMul" or only_consumer(value) is None:
        return None, None
    weight = node.inputs[1]
    if weight is None or not is_constant(weight) or type_of(weight).rank != 2:
        return None, None
    return node, bias


def _columns(value: ir.Value, part: slice, rewriter: Rewriter) -> ir.Value:
    array = np.ascontiguousarray(constant_array(value)[..., part])
    return rewriter.constant(array, f"{value.name}_{part.start}")
