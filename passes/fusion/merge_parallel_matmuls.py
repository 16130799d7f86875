"""``merge-parallel-matmuls``: the projections of query, key and value become one product with a wider constant.

    MatMul(x, Wq) + bq,  MatMul(x, Wk) + bk,  MatMul(x, Wv) + bv   →   Split(MatMul(x, [Wq Wk Wv]) + [bq bk bv])

Check: one left operand, constant weights and biases, and every result goes only to the splitting of heads, so that
``fuse-attention`` takes the Split along and nothing is copied. Worth it where launches or short inputs count; the
concatenated weights are a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, only_consumer, type_of
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.rewrite import Rewriter, candidates, required


@dataclass(frozen=True, slots=True)
class _Projection:
    """A product, its bias if any, and the value that the heads are split from."""

    product: ir.Node
    bias: ir.Value | None
    result: ir.Value

    @property
    def weights(self) -> ir.Value:
        return required(self.product, 1)


class MergeParallelMatMuls(Pass):
    """Three products that read the same rows read them once."""

    name: ClassVar[str] = "merge-parallel-matmuls"

    def run(self, model: ir.Model) -> PassResult:
        rewriter = Rewriter(model)
        groups: dict[ir.Value, list[_Projection]] = {}
        misses: list[Miss] = []
        for node in candidates(model, frozenset(["MatMul"])):
            found = _projection(node)
            if isinstance(found, Miss):
                misses.append(found)
            else:
                groups.setdefault(required(node, 0), []).append(found)
        merged = [g for g in groups.values() if len(g) == 3 and len({p.bias is None for p in g}) == 1]
        for group in merged:
            _merge(group, rewriter)
        return PassResult(bool(merged), misses)


def _projection(node: ir.Node) -> _Projection | Miss:
    weights = required(node, 1)
    if not is_constant(weights) or type_of(weights).rank != 2 or type_of(required(node, 0)).rank != 3:
        return Miss.at(node, "it is no product of rows with a constant matrix")
    result, bias = node.outputs[0], None
    add = only_consumer(result)
    if add is not None and add.op_type == "Add":
        other = required(add, 1) if add.inputs[0] is result else required(add, 0)
        if is_constant(other) and type_of(other).shape == type_of(weights).shape[1:]:
            result, bias = add.outputs[0], other
    split = only_consumer(result)
    if split is None or split.op_type != "Reshape" or type_of(split.outputs[0]).rank != 4:
        return Miss.at(node, "its result does not go to a splitting of heads alone")
    return _Projection(node, bias, result)


def _merge(group: Sequence[_Projection], rewriter: Rewriter) -> None:
    """Concatenate in the order of the graph, in front of the first product."""
    first = group[0].product
    weights = np.concatenate([constant_array(p.weights) for p in group], axis=1)
    wide = rewriter.constant(weights, f"{group[0].weights.name}_merged")
    value = rewriter.new("MatMul", [required(first, 0), wide], before=first)
    biases = [constant_array(p.bias) for p in group if p.bias is not None]
    if biases:
        bias = rewriter.constant(np.concatenate(biases), f"{group[0].weights.name}_merged_bias")
        value = rewriter.new("Add", [value, bias], before=first)
    sizes = rewriter.constant(np.array([constant_array(p.weights).shape[1] for p in group], np.int64), "sizes")
    parts = rewriter.new_all("Split", [value, sizes], before=first, attributes={"axis": 2}, outputs=len(group))
    for projection, part in zip(group, parts, strict=True):
        rewriter.replace(projection.result, part)
