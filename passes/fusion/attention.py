"""``fuse-attention``: scaled dot-product attention, with the splitting and joining of heads, becomes one node.

    q, k, v: [B, S, H·D]
    MatMul(Where(IsNaN(p), 0, p), heads(v))  with  p = Softmax(MatMul(heads(q) · a, heads(k)ᵀ · b) · c + mask)
        →  FusedAttention<num_heads=H, scale=a·b·c, …>(q, k, v, mask): [B, S, H·D]

    the same with keys and values [B, G, T, D] that H / G query heads share: repeated by Unsqueeze, Expand, Reshape, or
    left as they are and multiplied with queries [B, G, H/G, S, D]

The scale may sit on the query, on the key or on the scores; mask and NaN guard are optional. What only moves an
operand's elements and is read by nothing else comes along: splitting, transposing and repeating heads are ways to read.
What something else reads too (keys that are also an output, with the past in front) is an input as it stands. Check:
every size that must agree is equal symbolically, and nothing between is read outside. Attributes of the fused node (the
body agrees with them):

    num_heads, kv_num_heads   heads of the query, of key and value
    scale                     factor of the scores
    mask                      1 when further inputs are added to the scores (a mask, a position bias), 2 when they are
                              boolean and hide scores by a Where, 3 when there are both (the body says which is which);
                              each broadcasts to the scores
    causal                    1 when position t > s is hidden (no pattern here makes it so)
    nan_to_zero               1 when NaN after the softmax (a row that is hidden throughout) counts as 0
    q_layout, k_layout, v_layout, out_layout   ``bsm``: [B, S, H·D], heads side by side; ``bhsd``; ``bhds`` (keys);
                              ``view`` for another one (the body says how it is read)
    packed                    1 when query, key and value are parts of one input, [B, S, (H + 2·G)·D]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import onnx_ir as ir
from tilewright.ir.graph import only_consumer, type_of
from tilewright.ir.symbolic import constant, product
from tilewright.ir.types import DType
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.fusion.order import Order
from tilewright.passes.fusion.outline import obstacle, outline
from tilewright.passes.fusion.quantization import quantizers
from tilewright.passes.fusion.region import moves
from tilewright.passes.match import is_number, scalar_of
from tilewright.passes.rewrite import Rewriter, candidates, required

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
    if rank not in (4, 5):
        raise _No(f"scores are {type_of(scores)}, not [batch, heads, query, key]")
    if "axis" in softmax.attributes and softmax.attributes["axis"].as_int() not in (-1, rank - 1):
        raise _No("the softmax does not run over the last axis")
    weights = _after_softmax(found.take(softmax), found)
    scoring, masks = _before_softmax(scores, found)
    q, k = _scaled(required(scoring, 0), found), _scaled(required(scoring, 1), found)
    context = only_consumer(weights)
    if context is None or context.op_type != "MatMul" or context.inputs[0] is not weights:
        raise _No(f"{weights.name} is not multiplied with values, or not only")
    found.take(context)
    v = required(context, 1)
    query_heads, heads = _check_sizes(q, k, v)
    query, key, value = (_before_movement(x, found) for x in (q, k, v))
    result = _quantized(context.outputs[0], found)
    output = _after_movement(result, found)
    found.attributes["q_layout"] = _layout(query, q, (2, 3), query_heads)
    heads = _repeated_heads(key, k, heads)
    found.attributes["k_layout"] = "bhds" if key is k else _layout(key, k, (3, 2), heads)
    found.attributes["v_layout"] = _layout(value, v, (2, 3), heads)
    found.attributes["out_layout"] = _layout(output, result, (2, 3), query_heads)
    output = _quantized(output, found)
    found.attributes |= {"num_heads": query_heads, "kv_num_heads": heads, "scale": found.scale}
    found.attributes["mask"] = sum({2 if type_of(m).dtype is DType.BOOL else 1 for m in masks})
    found.attributes["causal"] = 0
    sources = _unpacked([query, key, value], found)
    found.attributes["packed"] = int(len(sources) == 1)
    return found, [*sources, *masks], output


def _quantized(output: ir.Value, found: _Found) -> ir.Value:
    """What quantizes the result, by one scale that is known and where nobody else reads it; else the result."""
    reader = only_consumer(output)
    if reader is None or quantizers(output) != [reader] or type_of(required(reader, 1)).elements != 1:
        return output
    return found.take(reader).outputs[0]


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
    scoring = _scaled(scores, trial := _Found()).producer()
    if scoring is not None and scoring.op_type == "MatMul":
        found.nodes += [scoring, *trial.nodes]
        found.scale *= trial.scale
        return scoring, []
    node = scores.producer()
    for index, other in _MASKED.get(node.op_type if node is not None else "", ()):
        assert node is not None
        inner = _Found()
        try:
            scoring, masks = _before_softmax(required(node, index), inner)
        except _NoProduct:
            continue
        if type_of(required(node, index)) != type_of(scores):
            raise _No(f"the mask widens the scores to {type_of(scores)}")
        if node.op_type == "Where" and scalar_of(required(node, 3 - index)) is None:
            raise _No("hidden scores are not replaced by one number")
        found.nodes += [node, *inner.nodes]
        found.scale *= inner.scale
        return scoring, [*masks, required(node, other)]
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


def _check_sizes(q: ir.Value, k: ir.Value, v: ir.Value) -> tuple[int, int]:
    """Heads of the query and of key and value, when q: [B, …, S, D], k: [B, …, D, T] and v: [B, …, T, Dv] agree.

    With five sizes the heads are [G, H/G], and key and value may have 1 for the second.
    """
    a, b, c = type_of(q).shape, type_of(k).shape, type_of(v).shape
    heads = a[1:-2]
    shared = (*heads[:1], *(constant(1) for _ in heads[1:]))
    if not len(a) == len(b) == len(c) or not a[0] == b[0] == c[0] or len(a) not in (4, 5):
        raise _No(f"batch and heads differ: {type_of(q)}, {type_of(k)}, {type_of(v)}")
    if b[1:-2] not in (heads, shared) or c[1:-2] != b[1:-2]:
        raise _No(f"batch and heads differ: {type_of(q)}, {type_of(k)}, {type_of(v)}")
    if a[-1] != b[-2] or b[-1] != c[-2]:
        raise _No(f"sizes of query {type_of(q)}, keys {type_of(k)} and values {type_of(v)} do not fit")
    if not all(s.is_constant for s in (*heads, a[-1], c[-1])):
        raise _No("the number of heads or their size is not known")
    return product(heads).value, product(b[1:-2]).value


def _before_movement(value: ir.Value, found: _Found) -> ir.Value:
    """What ``value`` is a rearrangement or repetition of, as far as nothing else reads what lies between."""
    while (node := value.producer()) is not None and _rearranges(node) and only_consumer(value) is not None:
        found.take(node)
        value = required(node, 0)
    return value


def _after_movement(value: ir.Value, found: _Found) -> ir.Value:
    """The rearrangement that ``value`` goes to, if nothing else reads it or what lies between."""
    while (node := only_consumer(value)) is not None and _rearranges(node) and node.op_type != "Expand":
        found.take(node)
        value = node.outputs[0]
    return value


def _rearranges(node: ir.Node) -> bool:
    """True for what changes only where elements of one value are read, and without divisions by run-time sizes."""
    return moves(node) and node.op_type in ("Transpose", "Reshape", "Unsqueeze", "Squeeze", "Expand")


def _layout(outside: ir.Value, inside: ir.Value, rows: tuple[int, int], heads: int) -> str:
    """How ``outside`` holds the heads of ``inside``; ``rows`` tells which sizes of that are length and head size."""
    shape, inner = type_of(outside).shape, type_of(inside).shape
    length, size = (inner[d - 4] for d in rows)
    if shape == (inner[0], length, heads * size):
        return "bsm"
    return "bhsd" if shape == (inner[0], constant(heads), length, size) else "view"


def _repeated_heads(key: ir.Value, k: ir.Value, heads: int) -> int:
    """The heads that ``key`` has before they are repeated to the ``heads`` of ``k``."""
    inner = type_of(k).shape
    count = type_of(key).elements
    each = inner[0] * inner[-1] * inner[-2]
    return next((n for n in range(1, heads + 1) if each * n == count), heads)


def _unpacked(sources: list[ir.Value], found: _Found) -> list[ir.Value]:
    """The one value that query, key and value are split from, in this order and for nothing else; else ``sources``."""
    split = sources[0].producer()
    if split is None or split.op_type != "Split" or list(split.outputs) != sources:
        return sources
    if any(only_consumer(s) is None for s in sources) or split.attributes["axis"].as_int() not in (2, -1):
        return sources
    return [required(found.take(split), 0)]
