"""How a cut goes through products with weights, and lookups in them (see :mod:`tilewright.backends.xla.cuts`)."""

from __future__ import annotations

from tilewright.backends.xla.cut_rules import cut_rule
from tilewright.backends.xla.cuts import Step
from tilewright.ir.graph import type_of


@cut_rule("MatMul", "MatMulInteger")
def _matmul(step: Step) -> None:
    """A weight on the right begins or ends a cut; two activations share their batch dimensions (heads)."""
    x, y, left = step.type(0), step.type(1), step.cut(0)
    if x.rank < 2 or y.rank < 2:
        step.whole()
    elif not step.is_fixed(1) or y.rank > 2:
        _matmul_of_activations(step)
    elif left is None:
        if not step.is_fixed(0):
            step.begins(1, 1, step.result().rank - 1)
    elif left.dim == x.rank - 1:
        step.cut_weight(1, 0)
        step.ends()
    else:
        step.passes(left.dim, left.sources)


def _matmul_of_activations(step: Step) -> None:
    x, y = step.type(0), step.type(1)
    left, right = step.cut(0), step.cut(1)
    rank = step.result().rank
    sources = step.any_cut()
    if not sources:
        return
    dims = set()
    for along, type_, contracted in ((left, x, x.rank - 1), (right, y, y.rank - 2)):
        if along is not None:
            if along.dim == contracted:
                step.whole("it is contracted")
            dims.add(along.dim + rank - type_.rank)
    if len(dims) > 1:
        step.fails(sources, f"MatMul {step.node.name!r} multiplies operands cut along different dimensions")
    (dim,) = dims
    if dim < rank - 2:
        for i, along, type_ in ((0, left, x), (1, right, y)):
            own = dim - (rank - type_.rank)
            if along is None and own >= 0 and type_.shape[own] != 1:
                step.follow(i, own, sources)
    step.passes(dim, sources)


@cut_rule("Gemm")
def _gemm(step: Step) -> None:
    """As MatMul, of matrices, with a bias."""
    turned = [step.node.attributes[n].as_int() if n in step.node.attributes else 0 for n in ("transA", "transB")]
    left = step.cut(0)
    if not step.is_fixed(1) or turned[0]:
        return step.whole()
    if left is not None and left.dim == 1:
        step.cut_weight(1, 1 if turned[1] else 0)
        return step.ends()
    if left is not None:
        return step.passes(0, left.sources)
    step.begins(1, 0 if turned[1] else 1, 1)
    made = step.walk.values.get(step.node.outputs[0])
    bias = step.value(2)
    if made is not None and bias is not None:
        own = type_of(bias).rank - 1
        if own >= 0 and type_of(bias).shape[own] != 1:
            step.follow(2, own, made.sources)
    return None


@cut_rule("Conv")
def _conv(step: Step) -> None:
    """Output channels, then input channels; of a depthwise one both at once."""
    groups = step.node.attributes["group"].as_int() if "group" in step.node.attributes else 1
    along = step.cut(0)
    if not step.is_fixed(1):
        return step.whole()
    if along is not None and along.dim != 1:
        return step.whole()
    if groups == 1 and along is not None:
        step.cut_weight(1, 1)
        return step.ends()
    if groups == 1:
        step.begins(1, 0, 1)
    elif along is not None:
        if not step.divides(groups):
            step.fails(along.sources, f"{groups} groups cannot be divided by {step.count}")
        step.cut_weight(1, 0)
        step.passes(1, along.sources)
    made = step.walk.values.get(step.node.outputs[0])
    if made is not None and step.value(2) is not None:
        step.follow(2, 0, made.sources)
    return None


@cut_rule("Gather")
def _gather(step: Step) -> None:
    """A vocabulary is cut along its rows (each device looks up what it has, and the results are added); what else is
    cut goes on where it is not gathered from."""
    data, indices = step.type(0), step.type(1)
    axis = step.node.attributes["axis"].as_int() % data.rank if "axis" in step.node.attributes else 0
    along = step.cut(0)
    if step.cut(1) is not None:
        return step.whole()
    if along is not None:
        if along.dim == axis:
            return step.whole("it is gathered from")
        return step.passes(along.dim if along.dim < axis else along.dim + indices.rank - 1, along.sources)
    if step.is_fixed(0) and data.rank == 2 and axis == 0 and _is_vocabulary(step):
        value = step.inputs[0]
        assert value is not None
        root = step.walk.root(value)
        if root not in step.walk.kept:
            if not step.divides(data.shape[0].value):
                step.fails([root], f"{data.shape[0]} rows cannot be divided by {step.count}")
            step.cut_weight(0, 0)
            step.ends()
    return None


def _is_vocabulary(step: Step) -> bool:
    """More rows than columns, looked up by an input of the model."""
    rows, columns = (size.value for size in step.type(0).shape)
    value = step.inputs[1]
    while value is not None and (node := value.producer()) is not None and node.op_type in ("Cast", "Identity"):
        value = node.inputs[0]
    return rows > columns and value in step.walk.region.inputs
