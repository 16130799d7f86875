"""``decompose-for-atc``: operators younger than opset 17, as few older ones that graph compilers know by sight.

    Gelu(x)                →  Mul(Mul(x, Add(Erf(Div(x, √2)), 1)), 0.5)
    RMSNormalization(x, g) →  Mul(Div(x, Sqrt(Add(ReduceMean(Mul(x, x)), ε))), g), in the type of the mean
    TensorScatter(c, u, i) →  ScatterElements(c, Expand(i + Range), u)

What is not here is replaced by the standard's definition. The forms are those that exporters write, which CANN's fusion
passes look for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.ir.types import DType
from tilewright.passes.base import Pass, PassResult
from tilewright.passes.canonicalize.eliminate_dead_code import EliminateDeadCode
from tilewright.passes.rewrite import Rewriter


@dataclass(slots=True)
class DecomposeForAtc(Pass):
    """Replaces nodes of :data:`FORMS`; operators of ``leave`` stay."""

    name: ClassVar[str] = "decompose-for-atc"
    leave: frozenset[str] = frozenset()

    def run(self, model: ir.Model) -> PassResult:
        """In place; the types of new values are inferred."""
        build, changed = _Builder(model), False
        for node in list(model.graph):
            form = None if node.op_type in self.leave or node.domain not in ("", "ai.onnx") else FORMS.get(node.op_type)
            if form is None:
                continue
            made = form(build.at(node), node)
            if made is not None:
                build.rewriter.replace(node.outputs[0], made)
                changed = True
        if changed:
            EliminateDeadCode().run(model)
        return PassResult(changed)


class _Builder:
    """Nodes before one node."""

    def __init__(self, model: ir.Model):
        self.rewriter = Rewriter(model)
        self._before: ir.Node | None = None

    def at(self, node: ir.Node) -> _Builder:
        self._before = node
        return self

    def __call__(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        assert self._before is not None
        return self.rewriter.new(op_type, inputs, before=self._before, attributes=attributes)

    def scalar(self, value: float, dtype: DType) -> ir.Value:
        """A constant of one element and no axes."""
        return self.rewriter.constant(np.array(value, dtype.numpy), "scalar")

    def ints(self, *values: int) -> ir.Value:
        """A constant vector of i64."""
        return self.rewriter.constant(np.array(values, np.int64), "sizes")

    def cast(self, value: ir.Value, dtype: DType) -> ir.Value:
        return value if type_of(value).dtype is dtype else self("Cast", value, to=dtype.onnx)


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    found = node.attributes.get(name)
    return default if found is None else found.value


def _gelu(build: _Builder, node: ir.Node) -> ir.Value | None:
    (x,) = node.inputs
    assert x is not None
    dtype = type_of(x).dtype
    half, one = build.scalar(0.5, dtype), build.scalar(1.0, dtype)
    if _attribute(node, "approximate", "none") == "none":
        inner = build("Erf", build("Div", x, build.scalar(np.sqrt(2.0), dtype)))
    else:
        cube = build("Mul", build("Mul", build("Mul", x, x), x), build.scalar(0.044715, dtype))
        inner = build("Tanh", build("Mul", build("Add", x, cube), build.scalar(np.sqrt(2.0 / np.pi), dtype)))
    return build("Mul", build("Mul", x, build("Add", inner, one)), half)


def _swish(build: _Builder, node: ir.Node) -> ir.Value | None:
    (x,) = node.inputs
    assert x is not None
    alpha = float(_attribute(node, "alpha", 1.0))
    scaled = x if alpha == 1.0 else build("Mul", x, build.scalar(alpha, type_of(x).dtype))
    return build("Mul", x, build("Sigmoid", scaled))


def _mish(build: _Builder, node: ir.Node) -> ir.Value | None:
    (x,) = node.inputs
    assert x is not None
    return build("Mul", x, build("Tanh", build("Softplus", x)))


def _rms_normalization(build: _Builder, node: ir.Node) -> ir.Value | None:
    x, scale = node.inputs[0], node.inputs[1]
    assert x is not None and scale is not None
    given, rank = type_of(x), type_of(x).rank
    inside = DType.from_onnx(int(_attribute(node, "stash_type", 1)))
    first = int(_attribute(node, "axis", -1)) % max(rank, 1)
    wide = build.cast(x, inside)
    axes = build.ints(*range(first, rank))
    mean = build("ReduceMean", build("Mul", wide, wide), axes, keepdims=1)
    epsilon = build.scalar(float(_attribute(node, "epsilon", 1e-5)), inside)
    normal = build("Div", wide, build("Sqrt", build("Add", mean, epsilon)))
    return build("Mul", build.cast(normal, given.dtype), scale)


def _tensor_scatter(build: _Builder, node: ir.Node) -> ir.Value | None:
    """Row ``b`` of the update goes to ``indices[b]`` on along the axis; circular: modulo its size."""
    cache, update = node.inputs[0], node.inputs[1]
    assert cache is not None and update is not None
    rank = type_of(cache).rank
    axis = int(_attribute(node, "axis", -2)) % rank
    count = build("Squeeze", build("Shape", update, start=axis, end=axis + 1), build.ints(0))
    zero, one = build.scalar(0, DType.I64), build.scalar(1, DType.I64)
    steps = build("Unsqueeze", build("Range", zero, count, one), build.ints(*(a for a in range(rank) if a != axis)))
    places = steps
    start = node.inputs[2] if len(node.inputs) > 2 else None
    if start is not None:
        places = build("Add", steps, build("Unsqueeze", build.cast(start, DType.I64), build.ints(*range(1, rank))))
    if _attribute(node, "mode", "linear") == "circular":
        size = build("Shape", cache, start=axis, end=axis + 1)
        places = build("Mod", places, size)
    places = build("Expand", places, build("Shape", update))
    return build("ScatterElements", cache, places, update, axis=axis)


def _rotary_embedding(build: _Builder, node: ir.Node) -> ir.Value | None:
    """With caches of the positions at hand (no ``position_ids``) and four axes; other forms by their definition."""
    x, cos, sin = node.inputs[:3]
    assert x is not None and cos is not None and sin is not None
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        return None
    shape = type_of(x).shape
    if len(shape) != 4 or not shape[3].is_constant or _attribute(node, "interleaved", 0):
        return None
    size = shape[3].value
    turned = int(_attribute(node, "rotary_embedding_dim", 0)) or size
    axis = build.ints(1)
    cos, sin = build("Unsqueeze", cos, axis), build("Unsqueeze", sin, axis)
    last = build.ints(3)
    half = turned // 2
    one = build("Slice", x, build.ints(0), build.ints(half), last)
    two = build("Slice", x, build.ints(half), build.ints(turned), last)
    parts = [
        build("Sub", build("Mul", one, cos), build("Mul", two, sin)),
        build("Add", build("Mul", one, sin), build("Mul", two, cos)),
    ]
    if turned < size:
        parts.append(build("Slice", x, build.ints(turned), build.ints(size), last))
    return build("Concat", *parts, axis=3)


def _dequantize(build: _Builder, node: ir.Node) -> ir.Value | None:
    """Constants of 8 bits, one scale for all or one for each index of an axis: ``(Cast(q) - zero) · scale``, which is
    exact up to the product. Quantized activations stay, and are refused."""
    q, scale, *rest = node.inputs
    zero = rest[0] if rest else None
    constants = [v for v in (q, scale, zero) if v is not None]
    if q is None or scale is None or not all(map(is_constant, constants)) or _attribute(node, "block_size", 0):
        return None
    kind, rank, dtype = type_of(q).dtype, type_of(q).rank, type_of(node.outputs[0]).dtype
    if kind not in (DType.I8, DType.U8) or dtype is not type_of(scale).dtype:
        return None
    shape = [1] * rank
    if type_of(scale).rank == 1 and rank:
        shape[int(_attribute(node, "axis", 1)) % rank] = -1
    elif type_of(scale).rank:
        return None

    def spread(value: ir.Value) -> ir.Value:
        array = constant_array(value).astype(dtype.numpy)
        return build.rewriter.constant(array.reshape(shape) if rank else array, "scale")

    number = build("Cast", q, to=dtype.onnx)
    if zero is not None and np.any(constant_array(zero)):
        number = build("Sub", number, spread(zero))
    return build("Mul", number, spread(scale))


#: What to build in place of an operator; ``None`` leaves it to the definition.
FORMS: Mapping[str, Callable[[_Builder, ir.Node], ir.Value | None]] = {
    "DequantizeLinear": _dequantize,
    "Gelu": _gelu,
    "Mish": _mish,
    "RMSNormalization": _rms_normalization,
    "RotaryEmbedding": _rotary_embedding,
    "Swish": _swish,
    "TensorScatter": _tensor_scatter,
}
