"""``fuse-attention``: scaled dot-product attention, with the splitting and joining of heads, becomes one node.

    q, k, v: [B, S, H·D]
    MatMul(Where(IsNaN(p), 0, p), heads(v))  with  p = Softmax(MatMul(heads(q) · a, heads(k)ᵀ · b) · c + mask)
        →  FusedAttention<num_heads=H, scale=a·b·c, …>(q, k, v, mask): [B, S, H·D]

The scale may sit on the query, on the key or on the scores; mask and NaN guard are optional; an operand whose heads
are not split here keeps its layout, and the attributes say so. Check: every size that must agree is equal
symbolically, and nothing between is read outside. Attributes of the fused node (the body agrees with them):

    num_heads, kv_num_heads   heads of the query, of key and value
    scale                     factor of the scores
    mask                      1 when further inputs are added to the scores (a mask, a position bias), 2 when they are
                              boolean and hide scores by a Where (the body says which way); each broadcasts to
                              [B, H, S, T]
    causal                    1 when position t > s is hidden (no pattern here makes it so)
    nan_to_zero               1 when NaN after the softmax (a row that is hidden throughout) counts as 0
    q_layout, k_layout, v_layout, out_layout   ``bsm``: [B, S, H·D], heads side by side; ``bhsd``; ``bhds`` (keys)
    packed                    1 when query, key and value are the thirds of one input, [B, S, 3·H·D]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import onnx_ir as ir
from tilewright.ir.graph import only_consumer, type_of
from tilewright.ir.types import DType
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.canonicalize.compose_transposes import permutation
from tilewright.passes.fusion.order import Order
from tilewright.passes.fusion.outline import obstacle, outline
from tilewright.passes.match import is_number, scalar_of
from tilewright.passes.rewrite import Rewriter, candidates, required

_HEADS_OUT = (0, 2, 1, 3)
_KEYS_OUT = (0, 2, 3, 1)
#: How scores are masked: (input that is the scores, input that is the mask).
_MASKED = {"Add": ((0, 1), (1, 0)), "Where": ((1, 0), (2, 0))}


class _No(Exception):
    """This softmax is not the middle of an attention; the message says why."""


class _NoProduct(_No):
    """There is no product of query and key down this way."""


@dataclass(slots=True)
class _Found:
    """What was found so far, from the softmax outwards."""

    nodes: list[ir.Node] = field(default_factory=list)
    scale: float = 1.0
    attributes: dict[str, Any] = field(default_factory=dict)

    def take(self, node: ir.Node) -> ir.Node:
        self.nodes.append(node)
        return node


class FuseAttention(Pass):
    """Scores are never in memory; heads are read where the projections left them."""

    name: ClassVar[str] = "fuse-attention"

    def run(self, model: ir.Model) -> PassResult:
        rewriter, order = Rewriter(model), Order(model.graph)
        misses: list[Miss] = []
        modified = False
        for softmax in list(candidates(model, frozenset(["Softmax"]))):
            try:
                found, inputs, output = _find(softmax)
                # The scores themselves may be the values, or their own mask.
                within = next((v for v in inputs if v.producer() in found.nodes), None)
                if within is not None:
                    raise _No(f"{within.name} is an operand and lies between query and result")
                reason = obstacle(order, found.nodes, [output])
                if reason is not None:
                    raise _No(reason)
            except _No as no:
                misses.append(Miss.at(softmax, str(no)))
                continue
            outline(
                rewriter,
                order,
                found.nodes,
                "FusedAttention",
                inputs=inputs,
                outputs=[output],
                attributes=found.attributes,
            )
            modified = True
        return PassResult(modified, misses)


def _find(softmax: ir.Node) -> tuple[_Found, list[ir.Value], ir.Value]:
    found = _Found()
    scores = required(softmax, 0)
    rank = type_of(scores).rank
    if rank != 4:
        raise _No(f"scores are {type_of(scores)}, not [batch, heads, query, key]")
    if "axis" in softmax.attributes and softmax.attributes["axis"].as_int() not in (-1, 3):
        raise _No("the softmax does not run over the last axis")
    weights = _after_softmax(found.take(softmax), found)
    product, masks = _before_softmax(scores, found)
    q, k = _scaled(required(product, 0), found), _scaled(required(product, 1), found)
    context = only_consumer(weights)
    if context is None or context.op_type != "MatMul" or context.inputs[0] is not weights:
        raise _No(f"{weights.name} is not multiplied with values, or not only")
    found.take(context)
    heads = _check_sizes(q, k, required(context, 1))
    query, found.attributes["q_layout"] = _split_heads(q, found, _HEADS_OUT)
    key, found.attributes["k_layout"] = _key(k, found)
    value, found.attributes["v_layout"] = _split_heads(required(context, 1), found, _HEADS_OUT)
    output, found.attributes["out_layout"] = _join_heads(context.outputs[0], found)
    found.attributes |= {"num_heads": heads, "kv_num_heads": heads, "scale": found.scale}
    kinds = {2 if type_of(m).dtype is DType.BOOL else 1 for m in masks}
    if len(kinds) > 1:
        raise _No("one mask is added and another one replaces scores")
    found.attributes |= {"mask": kinds.pop() if kinds else 0, "causal": 0}
    sources = _unpacked([query, key, value], found)
    found.attributes["packed"] = int(len(sources) == 1)
    return found, [*sources, *masks], output


def _after_softmax(softmax: ir.Node, found: _Found) -> ir.Value:
    """The weights that are multiplied with the values: behind ``Where(IsNaN(p), 0, p)`` where that is."""
    weights = softmax.outputs[0]
    readers = {use.node for use in weights.uses()}
    guard = next((n for n in readers if n.op_type == "Where" and n.inputs[2] is weights), None)
    found.attributes["nan_to_zero"] = int(guard is not None)
    if guard is None:
        return weights
    test = required(guard, 0).producer()
    if test is None or test.op_type != "IsNaN" or test.inputs[0] is not weights or not is_number(required(guard, 1), 0):
        raise _No("the Where after the softmax is no guard against NaN")
    found.take(test)
    return found.take(guard).outputs[0]


def _before_softmax(scores: ir.Value, found: _Found) -> tuple[ir.Node, list[ir.Value]]:
    """The product of query and key, and the masks that are added to it or replace it, first to last."""
    product = _scaled(scores, trial := _Found()).producer()
    if product is not None and product.op_type == "MatMul":
        found.nodes += [product, *trial.nodes]
        found.scale *= trial.scale
        return product, []
    node = scores.producer()
    for index, other in _MASKED.get(node.op_type if node is not None else "", ()):
        assert node is not None
        inner = _Found()
        try:
            product, masks = _before_softmax(required(node, index), inner)
        except _NoProduct:
            continue
        if type_of(required(node, index)) != type_of(scores):
            raise _No(f"the mask widens the scores to {type_of(scores)}")
        if node.op_type == "Where" and scalar_of(required(node, 3 - index)) is None:
            raise _No("hidden scores are not replaced by one number")
        found.nodes += [node, *inner.nodes]
        found.scale *= inner.scale
        return product, [*masks, required(node, other)]
    raise _NoProduct(f"{scores.name} is no product, scaled or masked")


def _scaled(value: ir.Value, found: _Found) -> ir.Value:
    """``value`` without multiplications and divisions by constants of one number."""
    while (node := value.producer()) is not None and node.op_type in ("Mul", "Div"):
        a, b = required(node, 0), required(node, 1)
        number = scalar_of(b)
        if number is None and node.op_type == "Mul":
            a, number = b, scalar_of(a)
        if number is None or number == 0 or type_of(a) != type_of(value):
            break
        found.scale *= number if node.op_type == "Mul" else 1 / number
        value = a
        found.take(node)
    return value


def _check_sizes(q: ir.Value, k: ir.Value, v: ir.Value) -> int:
    """The number of heads, when q: [B, H, S, D], k: [B, H, D, T] and v: [B, H, T, Dv] agree."""
    a, b, c = type_of(q).shape, type_of(k).shape, type_of(v).shape
    if len(a) != 4 or len(b) != 4 or len(c) != 4 or not a[:2] == b[:2] == c[:2]:
        raise _No(f"batch and heads differ: {type_of(q)}, {type_of(k)}, {type_of(v)}")
    if a[3] != b[2] or b[3] != c[2]:
        raise _No(f"sizes of query {type_of(q)}, keys {type_of(k)} and values {type_of(v)} do not fit")
    if not a[1].is_constant or not a[3].is_constant or not c[3].is_constant:
        raise _No("the number of heads or their size is not known")
    return a[1].value


def _split_heads(x: ir.Value, found: _Found, order: tuple[int, ...]) -> tuple[ir.Value, str]:
    """``x``: [B, H, S, D] → the [B, S, H·D] it was split from, if it was."""
    transpose = x.producer()
    if transpose is None or transpose.op_type != "Transpose" or permutation(transpose) != order:
        return x, "bhsd"
    split = required(transpose, 0).producer()
    if split is None or split.op_type != "Reshape" or only_consumer(x) is None:
        return x, "bhsd"
    source, parts = type_of(required(split, 0)).shape, type_of(split.outputs[0]).shape
    if len(source) != 3 or source[:2] != parts[:2] or source[2] != parts[2] * parts[3]:
        return x, "bhsd"
    if only_consumer(split.outputs[0]) is not transpose:
        return x, "bhsd"
    found.nodes += [transpose, split]
    return required(split, 0), "bsm"


def _key(k: ir.Value, found: _Found) -> tuple[ir.Value, str]:
    """``k``: [B, H, D, T] → [B, T, H·D], or what was transposed, or itself."""
    source, layout = _split_heads(k, found, _KEYS_OUT)
    if layout == "bsm":
        return source, layout
    transpose = k.producer()
    if transpose is not None and transpose.op_type == "Transpose" and permutation(transpose) == (0, 1, 3, 2):
        found.take(transpose)
        return required(transpose, 0), "bhsd"
    return k, "bhds"


def _unpacked(sources: list[ir.Value], found: _Found) -> list[ir.Value]:
    """The one value that query, key and value are split from, in this order and for nothing else; else ``sources``."""
    split = sources[0].producer()
    if split is None or split.op_type != "Split" or list(split.outputs) != sources:
        return sources
    if any(only_consumer(s) is None for s in sources) or split.attributes["axis"].as_int() not in (2, -1):
        return sources
    return [required(found.take(split), 0)]


def _join_heads(context: ir.Value, found: _Found) -> tuple[ir.Value, str]:
    """[B, H, S, D] → the [B, S, H·D] that the heads are joined to, if nothing else reads the parts."""
    transpose = only_consumer(context)
    if transpose is None or transpose.op_type != "Transpose" or permutation(transpose) != _HEADS_OUT:
        return context, "bhsd"
    join = only_consumer(transpose.outputs[0])
    parts = type_of(transpose.outputs[0]).shape
    if join is None or join.op_type != "Reshape":
        return context, "bhsd"
    if type_of(join.outputs[0]).shape != (parts[0], parts[1], parts[2] * parts[3]):
        return context, "bhsd"
    found.nodes += [transpose, join]
    return join.outputs[0], "bsm"
