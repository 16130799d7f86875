"""How a cut goes through each operator (see :mod:`tilewright.backends.xla.cuts`), by one table."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from tilewright.backends.xla.cuts import Step
from tilewright.backends.xla.rule import Padding, find_rule
from tilewright.ir.graph import is_constant, known_value, type_of
from tilewright.ir.symbolic import Expr, product
from tilewright.ops.elementwise import BROADCAST, UNARY

CutRule = Callable[[Step], None]

_RULES: dict[str, CutRule] = {}
_POINTWISE = frozenset(UNARY) | frozenset(BROADCAST) | frozenset(
    "Abs Add And Cast CastLike Clip Div Dropout Equal Greater GreaterOrEqual Identity IsInf IsNaN Less LessOrEqual Max "
    "Min Mod Mul Neg Not Or PRelu Sub Sum Where Xor".split()
)  # fmt: skip


def find_cut_rule(node: ir.Node) -> CutRule:
    """The rule of a node: its own, that of elementwise operators, or that it takes nothing cut."""
    if node.domain not in ("", "ai.onnx"):
        return _whole
    if node.op_type in _RULES:
        return _RULES[node.op_type]
    entry = find_rule(node.domain, node.op_type)
    if node.op_type in _POINTWISE or (entry is not None and entry.padding is Padding.POINTWISE):
        return _pointwise
    return _whole


def _rule(*names: str) -> Callable[[CutRule], CutRule]:
    def register(lower: CutRule) -> CutRule:
        _RULES.update(dict.fromkeys(names, lower))
        return lower

    return register


def _whole(step: Step) -> None:
    step.whole()


@_rule("Shape", "Size")
def _nothing(step: Step) -> None:
    """Sizes are those of the whole."""


def _pointwise(step: Step) -> None:
    """Cuts have to lie along the same dimension of the result; what is whole is taken in parts."""
    sources = step.any_cut()
    if not sources:
        return
    rank = step.result().rank
    dims = {a.dim + rank - step.type(i).rank for i in range(len(step.inputs)) if (a := step.cut(i)) is not None}
    if len(dims) > 1:
        step.fails(sources, f"{step.node.op_type} {step.node.name!r} reads operands cut along different dimensions")
    (dim,) = dims
    for i, value in enumerate(step.inputs):
        if value is None or step.cut(i) is not None:
            continue
        own = dim - (rank - type_of(value).rank)
        if own < 0 or type_of(value).shape[own] == 1:
            continue
        if not step.is_fixed(i) and _is_residual(step, value):
            step.fails(sources, "its result is added to a stream that stays whole")
        step.follow(i, own, sources)
    step.passes(dim, sources)


def _is_residual(step: Step, whole: ir.Value) -> bool:
    """Whether a whole operand and a cut one are computed from one another: a residual and its branch."""
    others = [v for i, v in enumerate(step.inputs) if v is not None and step.cut(i) is not None]
    ancestors = step.walk.ancestors
    return any(ancestors.computes(whole, v) or ancestors.computes(v, whole) for v in others)


@_rule("MatMul", "MatMulInteger")
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


@_rule("Gemm")
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


@_rule("Conv")
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


@_rule("Gather")
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


@_rule("Transpose")
def _transpose(step: Step) -> None:
    along = step.cut(0)
    if along is not None:
        rank = step.type(0).rank
        order = step.node.attributes["perm"].as_ints() if "perm" in step.node.attributes else range(rank)[::-1]
        step.passes(list(order).index(along.dim), along.sources)


@_rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
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


@_rule("Expand")
def _expand(step: Step) -> None:
    along = step.cut(0)
    if along is not None:
        step.passes(along.dim + step.result().rank - step.type(0).rank, along.sources)


@_rule("Softmax", "LogSoftmax", "LpNormalization")
def _softmax(step: Step) -> None:
    along = step.cut(0)
    if along is not None:
        default = 1 if step.node.op_type == "LpNormalization" else -1
        axis = step.node.attributes["axis"].as_int() if "axis" in step.node.attributes else default
        if axis % step.type(0).rank == along.dim:
            return step.whole("it is normalized along the cut")
        step.passes(along.dim, along.sources)
    return None


@_rule("LayerNormalization", "RMSNormalization")
def _norm(step: Step) -> None:
    along = step.cut(0)
    if along is not None:
        axis = step.node.attributes["axis"].as_int() if "axis" in step.node.attributes else -1
        if along.dim >= axis % step.type(0).rank:
            return step.whole("it is normalized along the cut")
        step.passes(along.dim, along.sources)
    return None


@_rule("BatchNormalization", "InstanceNormalization")
def _channel_norm(step: Step) -> None:
    along = step.cut(0)
    if along is not None:
        if along.dim != 1:
            return step.whole()
        for i in range(1, len(step.inputs)):
            step.follow(i, 0, along.sources)
        step.passes(1, along.sources)
    return None


@_rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _pool(step: Step) -> None:
    along = step.cut(0)
    if along is not None:
        if along.dim > 1 or len(step.node.outputs) > 1:
            return step.whole("its windows lie along the cut")
        step.passes(along.dim, along.sources)
    return None


@_rule("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare")
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


@_rule("Concat")
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


@_rule("TensorScatter")
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


@_rule("Slice")
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


@_rule("Split")
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


@_rule("RotaryEmbedding")
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


@_rule("Attention")
def _attention(step: Step) -> None:
    """Along heads, of queries, keys, values and caches alike; groups of heads stay together."""
    sources = step.any_cut()
    if not sources:
        return None
    rank = step.type(0).rank
    dim = 1 if rank == 4 else 2
    attributes = step.node.attributes
    heads = [
        step.type(i).shape[1].value if rank == 4 else attributes[name].as_int()
        for i, name in ((0, "q_num_heads"), (1, "kv_num_heads"))
    ]
    if not all(map(step.divides, heads)):
        step.fails(sources, f"{heads[0]} heads of queries and {heads[1]} of keys cannot be divided by {step.count}")
    caches = [i for i in (4, 5) if step.value(i) is not None]
    for i in (0, 1, 2, *caches):
        along = step.cut(i)
        own = 1 if i in caches else dim
        if along is None:
            step.follow(i, own, sources)
        elif along.dim != own:
            return step.whole("it is cut within heads")
    if step.cut(3) is not None:
        return step.whole()
    if step.value(3) is not None:
        mask = step.type(3)
        if mask.rank > 2 and mask.shape[mask.rank - 3] != 1:
            step.follow(3, mask.rank - 3, sources)
    for output, value in enumerate(step.node.outputs):
        if value.name:
            step.passes(dim if output == 0 else 1, sources, output)
    return None


@_rule("QuantizeLinear", "DequantizeLinear")
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
