"""How a cut goes through views, norms, windows, joins and quantization (see :mod:`tilewright.backends.xla.cuts`)."""

from __future__ import annotations

import onnx_ir as ir
from tilewright.backends.xla.cut_rules import cut_rule
from tilewright.backends.xla.cuts import Step
from tilewright.ir.graph import is_constant, known_value, type_of
from tilewright.ir.symbolic import Expr, product


@cut_rule("Transpose")
def _transpose(step: Step) -> None:
    along = step.cut(0)
    if along is not None:
        rank = step.type(0).rank
        order = step.node.attributes["perm"].as_ints() if "perm" in step.node.attributes else range(rank)[::-1]
        step.passes(list(order).index(along.dim), along.sources)


@cut_rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _view(step: Step) -> None:
    """A cut dimension goes where its elements are the slowest of a dimension: heads out of features, and back."""
    along = step.cut(0)
    if along is None:
        return
    old, new = step.type(0).shape, step.result().shape
    before = product(old[: along.dim])
    for dim, size in enumerate(new):
        if product(new[:dim]) == before and size != 1 and _nested(old[along.dim], size):
            step.passes(dim, along.sources)
            return
    step.fails(along.sources, f"{step.node.op_type} {step.node.name!r} mixes the dimension that is cut with others")


def _nested(old: Expr, new: Expr) -> bool:
    """Whether one size is a multiple of the other, so that parts of the one are parts of the other."""
    if old == new:
        return True
    if not old.is_constant:
        return False
    return not new.is_constant or old.value % new.value == 0 or new.value % old.value == 0


@cut_rule("Expand")
def _expand(step: Step) -> None:
    along = step.cut(0)
    if along is not None:
        step.passes(along.dim + step.result().rank - step.type(0).rank, along.sources)


@cut_rule("Softmax", "LogSoftmax", "LpNormalization")
def _softmax(step: Step) -> None:
    along = step.cut(0)
    if along is not None:
        default = 1 if step.node.op_type == "LpNormalization" else -1
        axis = step.node.attributes["axis"].as_int() if "axis" in step.node.attributes else default
        if axis % step.type(0).rank == along.dim:
            return step.whole("it is normalized along the cut")
        step.passes(along.dim, along.sources)
    return None


@cut_rule("LayerNormalization", "RMSNormalization")
def _norm(step: Step) -> None:
    along = step.cut(0)
    if along is not None:
        axis = step.node.attributes["axis"].as_int() if "axis" in step.node.attributes else -1
        if along.dim >= axis % step.type(0).rank:
            return step.whole("it is normalized along the cut")
        step.passes(along.dim, along.sources)
    return None


@cut_rule("BatchNormalization", "InstanceNormalization")
def _channel_norm(step: Step) -> None:
    along = step.cut(0)
    if along is not None:
        if along.dim != 1:
            return step.whole()
        for i in range(1, len(step.inputs)):
            step.follow(i, 0, along.sources)
        step.passes(1, along.sources)
    return None


@cut_rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _pool(step: Step) -> None:
    along = step.cut(0)
    if along is not None:
        if along.dim > 1 or len(step.node.outputs) > 1:
            return step.whole("its windows lie along the cut")
        step.passes(along.dim, along.sources)
    return None


@cut_rule("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare")
def _reduce(step: Step) -> None:
    along = step.cut(0)
    if along is None:
        return None
    rank = step.type(0).rank
    axes = _integers(step.value(1))
    if axes is None:
        return step.whole()
    axes = [a % rank for a in axes]
    keep = step.node.attributes["keepdims"].as_int() if "keepdims" in step.node.attributes else 1
    if not axes or along.dim in axes:
        return step.whole("it is reduced along the cut")
    return step.passes(along.dim - (0 if keep else sum(a < along.dim for a in axes)), along.sources)


def _integers(value: ir.Value | None) -> list[int] | None:
    known = None if value is None else known_value(value)
    if known is None or not all(e.is_constant for e in known.flat):
        return None
    return [e.value for e in known.flat]


@cut_rule("Concat")
def _concat(step: Step) -> None:
    """Inputs of the region that are joined with something cut (a cache) are given cut."""
    sources = step.any_cut()
    if not sources:
        return None
    rank = step.result().rank
    axis = step.node.attributes["axis"].as_int() % rank
    dims = {a.dim for i in range(len(step.inputs)) if (a := step.cut(i)) is not None}
    if len(dims) > 1 or axis in dims:
        return step.whole("it is joined along the cut")
    (dim,) = dims
    for i in range(len(step.inputs)):
        if step.cut(i) is None:
            step.follow(i, dim, sources)
    return step.passes(dim, sources)


@cut_rule("TensorScatter")
def _tensor_scatter(step: Step) -> None:
    """A cache and what is written into it are cut alike."""
    sources = step.any_cut()
    if not sources:
        return None
    rank = step.result().rank
    axis = step.node.attributes["axis"].as_int() % rank if "axis" in step.node.attributes else rank - 2
    dims = {a.dim for i in (0, 1) if (a := step.cut(i)) is not None}
    if len(dims) > 1 or axis in dims or 0 in dims:
        return step.whole("it is written along the cut")
    (dim,) = dims
    for i in (0, 1):
        if step.cut(i) is None:
            step.follow(i, dim, sources)
    return step.passes(dim, sources)


@cut_rule("Slice")
def _slice(step: Step) -> None:
    along = step.cut(0)
    if along is None:
        return None
    if step.type(0).shape[along.dim] != step.result().shape[along.dim]:
        return step.whole("it is sliced along the cut")
    axes, steps = _integers(step.value(3)), _integers(step.value(4))
    if axes is None or (steps is None and step.value(4) is not None):
        return step.whole()
    turned = [a % step.type(0).rank for a, s in zip(axes, steps or [1] * len(axes), strict=False) if s < 0]
    if along.dim in turned:
        return step.whole("it is reversed along the cut")
    return step.passes(along.dim, along.sources)


@cut_rule("Split")
def _split(step: Step) -> None:
    along = step.cut(0)
    if along is None:
        return None
    axis = step.node.attributes["axis"].as_int() if "axis" in step.node.attributes else 0
    if axis % step.type(0).rank == along.dim:
        return step.whole("it is split along the cut")
    for output in range(len(step.node.outputs)):
        step.passes(along.dim, along.sources, output)
    return None


@cut_rule("RotaryEmbedding")
def _rotary(step: Step) -> None:
    """Of ``[batch, heads, length, head]`` along heads; of ``[batch, length, features]`` where heads can be divided."""
    along = step.cut(0)
    if along is None:
        return step.whole()
    rank = step.type(0).rank
    heads = step.node.attributes["num_heads"].as_int() if "num_heads" in step.node.attributes else 0
    if any(step.cut(i) is not None for i in range(1, len(step.inputs))):
        return step.whole()
    if not (rank == 4 and along.dim == 1) and not (rank == 3 and along.dim == 2 and heads and step.divides(heads)):
        return step.whole(f"{heads} heads cannot be divided by {step.count}" if rank == 3 else "")
    return step.passes(along.dim, along.sources)


@cut_rule("QuantizeLinear", "DequantizeLinear")
def _quantize(step: Step) -> None:
    """As elementwise, with scales along the cut taken in parts."""
    along = step.cut(0)
    if along is None:
        return step.whole()
    rank = step.type(0).rank
    axis = step.node.attributes["axis"].as_int() % rank if "axis" in step.node.attributes else 1
    for i in range(1, len(step.inputs)):
        value = step.value(i)
        if value is None:
            continue
        if step.cut(i) is not None or (type_of(value).rank and not is_constant(value)):
            return step.whole()
        if type_of(value).rank == rank and rank > 1:
            return step.whole("its scales are blocked")
        if type_of(value).rank == 1 and axis == along.dim and type_of(value).shape[0] != 1:
            step.follow(i, 0, along.sources)
    return step.passes(along.dim, along.sources)
