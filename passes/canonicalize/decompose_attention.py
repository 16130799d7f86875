"""``decompose-attention``: ONNX ``Attention`` (opset 23 to 25) becomes the operators that older exports write.

    Attention<scale>(q, k, v, mask)  →  MatMul(Softmax(MatMul(q, Transpose(k)) · scale + mask), v)

So attention has one form in front of ``fuse-attention``, whatever the opset:

- q, k, v are [B, H, S, D]; past keys and values are joined in front by one Concat each, whose output is the present.
- Key and value heads that query heads share are repeated by Unsqueeze, Expand, Reshape; ``share-heads`` undoes it.
- The causal limit is a comparison of positions, ``Range(0, T) <= Range(0, S) + past``, and so are the sides of a
  window; with a boolean mask and with lengths they become one boolean tensor [B or 1, H or 1, S, T], and that one
  Where(…, 0, -∞) added to the scores. A mask shorter than the keys is padded with what hides.
- A row that is hidden throughout gives 0 by the operator's text, so Where(IsNaN(p), 0, p) follows the softmax, unless
  the only limit is the causal one: position 0 is never hidden.

Semantics: ONNX operator reference, Attention, as corrected in onnx 1.23.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.ir.types import DType
from tilewright.passes.base import Miss
from tilewright.passes.rewrite import RewritePass, Rewriter, required


class DecomposeAttention(RewritePass):
    """Every form whose numbers of heads and head sizes are known."""

    name: ClassVar[str] = "decompose-attention"
    operators: ClassVar[frozenset[str]] = frozenset(["Attention"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        reason = _refusal(node)
        if reason:
            return Miss.at(node, reason)
        build = _Builder(node, rewriter)
        q, k, v = (_split_heads(build, i) for i in range(3))
        k, v = (build.joined(past, new) for past, new in ((build.input(4), k), (build.input(5), v)))
        products = _scores(build, q, k)
        weights, products[2] = _weights(build, products[1], _bias(build, q, k))
        products[3] = weights
        values = v if type_of(v).dtype is type_of(q).dtype else build("Cast", v, to=type_of(q).dtype.onnx)
        result = build("MatMul", weights, _repeated(build, values, q))
        if type_of(node.outputs[0]).rank == 3:
            result = build("Transpose", result, perm=[0, 2, 1, 3])
            result = build("Reshape", result, build.integers(0, 0, type_of(node.outputs[0]).shape[-1].value))
        mode = build.attribute("qk_matmul_output_mode", 0)
        for old, new in zip(list(node.outputs), (result, k, v, products[mode]), strict=False):
            if old.uses() or old.is_graph_output():
                rewriter.replace(old, new)
        return True


@dataclass(frozen=True, slots=True)
class _Builder:
    """Short ways to write nodes in front of the attention that they replace."""

    node: ir.Node
    rewriter: Rewriter

    def __call__(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        return self.rewriter.new(op_type, inputs, before=self.node, attributes=attributes)

    def input(self, index: int) -> ir.Value | None:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def attribute(self, name: str, default: Any) -> Any:
        return self.node.attributes[name].value if name in self.node.attributes else default

    def integers(self, *values: int) -> ir.Value:
        return self.rewriter.constant(np.array(values, np.int64), "integers")

    def scalar(self, value: float, like: ir.Value) -> ir.Value:
        return self.rewriter.constant(np.array(value, type_of(like).dtype.numpy), "scalar")

    def size(self, of: ir.Value, axis: int) -> ir.Value:
        """A size as a scalar."""
        return self("Squeeze", self.sizes(of, axis), self.integers(0))

    def sizes(self, of: ir.Value, axis: int) -> ir.Value:
        """A size as a tensor of one element."""
        return self("Shape", of, start=axis, end=axis + 1)

    def joined(self, past: ir.Value | None, new: ir.Value) -> ir.Value:
        return new if past is None else self("Concat", past, new, axis=2)

    def positions(self, of: ir.Value, axis: int, *ones: int) -> ir.Value:
        """0, 1, 2 … as many as there are along an axis, with axes of 1 inserted."""
        count = self("Range", self.integer(0), self.size(of, axis), self.integer(1))
        return self("Unsqueeze", count, self.integers(*ones))

    def integer(self, value: int) -> ir.Value:
        """A scalar."""
        return self.rewriter.constant(np.array(value, np.int64), "integer")


def _refusal(node: ir.Node) -> str:
    q, v = type_of(required(node, 0)), type_of(required(node, 2))
    if not q.shape[-1].is_constant or not v.shape[-1].is_constant:
        return "the head size is not known"
    heads = [_heads(node, i) for i in range(2)]
    if heads[0] is None or heads[1] is None or heads[1] < 1 or heads[0] % heads[1]:
        return f"{heads[0]} query heads cannot share {heads[1]} key and value heads"
    return ""


def _heads(node: ir.Node, index: int) -> int | None:
    x = type_of(required(node, index))
    if x.rank == 4:
        return x.shape[1].value if x.shape[1].is_constant else None
    return int(node.attributes["q_num_heads" if index == 0 else "kv_num_heads"].as_int())


def _split_heads(build: _Builder, index: int) -> ir.Value:
    """An operand as [B, H, S, D]; three axes hold the heads side by side."""
    x, heads = required(build.node, index), _heads(build.node, index)
    if type_of(x).rank == 4 or heads is None:
        return x
    size = type_of(x).shape[-1].value
    return build("Transpose", build("Reshape", x, build.integers(0, 0, heads, size // heads)), perm=[0, 2, 1, 3])


def _repeated(build: _Builder, x: ir.Value, q: ir.Value) -> ir.Value:
    """Key or value heads, each as often as query heads share it."""
    heads, shared, size = type_of(q).shape[1].value, type_of(x).shape[1].value, type_of(x).shape[3].value
    if heads == shared:
        return x
    copies = build("Expand", build("Unsqueeze", x, build.integers(2)), build.integers(1, 1, heads // shared, 1, 1))
    return build("Reshape", copies, build.integers(0, heads, -1, size))


def _scores(build: _Builder, q: ir.Value, k: ir.Value) -> dict[int, ir.Value]:
    """Scaled scores, and those after the soft cap, by their ``qk_matmul_output_mode``."""
    transposed = build("Transpose", _repeated(build, k, q), perm=[0, 1, 3, 2])
    scale = build.attribute("scale", 1 / math.sqrt(type_of(q).shape[-1].value))
    plain = build("Mul", build("MatMul", q, transposed), build.scalar(scale, q))
    cap = build.attribute("softcap", 0.0)
    if not cap:
        return {0: plain, 1: plain}
    inner = build("Tanh", build("Div", plain, build.scalar(cap, q)))
    return {0: plain, 1: build("Mul", inner, build.scalar(cap, q))}


def _bias(build: _Builder, q: ir.Value, k: ir.Value) -> tuple[ir.Value | None, bool]:
    """What is added to the scores, and whether it may hide a whole row."""
    lengths, left = build.input(6), build.attribute("left_window_size", -1)
    conditions = _limits(build, q, k)
    mask = _mask(build, q, k)
    bias = mask
    if mask is not None and type_of(mask).dtype is DType.BOOL:
        conditions.append(mask)
        bias = None
    if conditions:
        allowed = conditions[0]
        for condition in conditions[1:]:
            allowed = build("And", allowed, condition)
        hidden = build("Where", allowed, build.scalar(0, q), build.scalar(-math.inf, q))
        bias = hidden if bias is None else build("Add", bias, hidden)
    return bias, mask is not None or lengths is not None or left >= 0


def _limits(build: _Builder, q: ir.Value, k: ir.Value) -> list[ir.Value]:
    """Which keys a query sees by its position, and which of them there are."""
    lengths, past, causal = build.input(6), build.input(4), build.attribute("is_causal", 0)
    left, right = build.attribute("left_window_size", -1), build.attribute("right_window_size", -1)
    conditions: list[ir.Value] = []
    if lengths is None and not causal and left < 0 and right < 0:
        return conditions
    columns = build.positions(k, 2, 0, 1, 2)
    if causal or left >= 0 or right >= 0:
        rows = build.positions(q, 2, 0, 1, 3)
        if past is not None:
            rows = build("Add", rows, build.size(past, 2))
        elif lengths is not None:
            before = build("Sub", build("Unsqueeze", lengths, build.integers(1, 2, 3)), build.size(q, 2))
            rows = build("Add", rows, before)
        if causal:
            conditions.append(build("LessOrEqual", columns, rows))
        if left >= 0:
            conditions.append(build("GreaterOrEqual", columns, build("Sub", rows, build.integer(left))))
        if right >= 0:
            conditions.append(build("LessOrEqual", columns, build("Add", rows, build.integer(right))))
    if lengths is not None:
        conditions.append(build("Less", columns, build("Unsqueeze", lengths, build.integers(1, 2, 3))))
    return conditions


def _mask(build: _Builder, q: ir.Value, k: ir.Value) -> ir.Value | None:
    """The mask with a column for each key, of the dtype of the scores unless it is boolean."""
    mask = build.input(3)
    if mask is None:
        return None
    type_ = type_of(mask)
    if type_.dtype is not DType.BOOL and type_.dtype is not type_of(q).dtype:
        mask = build("Cast", mask, to=type_of(q).dtype.onnx)
    if not type_.rank or type_.shape[-1] == type_of(k).shape[2]:
        return mask
    missing = build("Sub", build.sizes(k, 2), build.sizes(mask, type_.rank - 1))
    pads = build("Concat", build.integers(*[0] * (2 * type_.rank - 1)), missing, axis=0)
    hides = build.rewriter.constant(np.array(False), "hides") if type_.dtype is DType.BOOL else None
    return build("Pad", mask, pads, build.scalar(-math.inf, mask) if hides is None else hides)


def _weights(build: _Builder, scores: ir.Value, bias: tuple[ir.Value | None, bool]) -> tuple[ir.Value, ir.Value]:
    """The softmax, 0 in rows that are hidden throughout; and the scores that it is taken of."""
    added, hides = bias
    scores = scores if added is None else build("Add", scores, added)
    dtype = type_of(scores).dtype
    precision = build.attribute("softmax_precision", 0) or dtype.onnx
    wide = scores if precision == dtype.onnx else build("Cast", scores, to=precision)
    weights = build("Softmax", wide, axis=-1)
    if hides:
        weights = build("Where", build("IsNaN", weights), build.scalar(0, wide), weights)
    return (weights if wide is scores else build("Cast", weights, to=dtype.onnx)), scores
