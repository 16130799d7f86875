"""``decompose-conv-transpose``: a transposed convolution is a convolution of small filters and a move of its results.

    ConvTranspose<strides=s>(x, W, c)  →  Slice(Reshape(Transpose(Reshape(Conv(x, W', c')))))

Output position p with ``p + before = s·a + r`` reads input ``a - j`` with entry ``r + s·j`` of the kernel: for each of
the s remainders that is a convolution over a with ``ceil(kernel / s)`` entries, and all of them read the same windows.
So one Conv has s times as many channels (per axis), which are then spread over the image, and what ``before`` cuts off
goes. With stride 1 the filters are only turned around. Kernels are filled up with zeros to multiples of the stride.
A BatchNormalization that follows goes into the filters on the way: after the move nothing would find it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.ir.graph import constant_array, is_constant, only_consumer, type_of
from tilewright.ir.symbolic import Expr, ceildiv, constant
from tilewright.ops.conv import Spread, spread
from tilewright.passes.base import Miss
from tilewright.passes.canonicalize.fold_batch_norm import affine_of, normalizes
from tilewright.passes.rewrite import RewritePass, Rewriter, required
from tilewright.passes.sizes import emit

Array = NDArray[Any]

#: Multiplications by the zeros that fill kernels up, per one that is needed, at most.
_MOST_WORK = 4.0


@dataclass(frozen=True, slots=True)
class _Axis:
    """One spatial axis.

    Attributes:
        how: what the operator says of it.
        entries: of the small filters.
        pads: of the convolution, before and after.
        steps: its output size.
        cut: positions to drop before the result begins; ``left`` after it ends.
    """

    how: Spread
    entries: int
    pads: tuple[int, int]
    steps: Expr
    cut: int
    left: int


class DecomposeConvTranspose(RewritePass):
    """Those whose filters are constants; the others are kernels of their own."""

    name: ClassVar[str] = "decompose-conv-transpose"
    operators: ClassVar[frozenset[str]] = frozenset(["ConvTranspose"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        if not all(v is None or is_constant(v) for v in node.inputs[1:]):
            return Miss.at(node, "its filters are no constants")
        axes = [_axis(*sizes) for sizes in _sizes(node)]
        if not all(axes):
            return Miss.at(node, "its padding hangs on sizes, or is more than the kernel, or it has dilated strides")
        whole = [a for a in axes if a is not None]
        taps = math.prod(a.entries * a.how.stride for a in whole)
        if taps > _MOST_WORK * math.prod(a.how.kernel.value for a in whole):
            return Miss.at(node, "most of its positions meet no entry of the kernel")
        result = node.outputs[0]
        filters, bias = constant_array(required(node, 1)), _bias(node)
        norm = only_consumer(result)
        if norm is not None and normalizes(norm) and not result.is_graph_output() and norm.inputs[0] is result:
            affine = affine_of(norm)
            groups = _group(node)
            by_group = affine.scale.reshape(groups, 1, -1)
            factor = np.repeat(by_group, filters.shape[0] // groups, 1).reshape(*filters.shape[:2], *[1] * len(whole))
            filters = (filters * factor).astype(filters.dtype)
            shift = affine.shift if bias is None else bias * affine.scale + affine.shift
            result, bias = norm.outputs[0], shift.astype(filters.dtype)
        new = _convolved(node, filters, bias, whole, rewriter)
        fits = type_of(new).shape[2:] == tuple(a.steps for a in whole)
        spread_out = _spread_out(node, new, whole, rewriter) if fits else None
        if spread_out is None:
            rewriter.drop_if_dead(required_producer(new))
            return Miss.at(node, "its sizes have no spelling, or may be smaller than a window")
        rewriter.replace(result, spread_out)
        return True


def required_producer(value: ir.Value) -> ir.Node:
    """The node that makes ``value``."""
    node = value.producer()
    assert node is not None
    return node


def _group(node: ir.Node) -> int:
    return node.attributes["group"].as_int() if "group" in node.attributes else 1


def _bias(node: ir.Node) -> Array | None:
    return constant_array(required(node, 2)) if len(node.inputs) > 2 and node.inputs[2] is not None else None


def _sizes(node: ir.Node) -> list[tuple[Spread, Expr, Expr]]:
    """How each axis spreads, its input size and its output size."""
    spatial, out = type_of(required(node, 0)).shape[2:], type_of(node.outputs[0]).shape[2:]

    def attribute(name: str, default: Any) -> Any:
        return node.attributes[name].value if name in node.attributes else default

    how = spread(attribute, spatial, type_of(required(node, 1)).shape[2:], out)
    return list(zip(how, spatial, out, strict=True))


def _axis(how: Spread, size: Expr, out: Expr) -> _Axis | None:
    if (how.stride > 1 and how.dilation > 1) or not how.before.is_constant:
        return None
    entries = -(-how.kernel.value // how.stride)
    reach = (entries - 1) * how.dilation
    before = how.before.value
    cut = 0 if how.stride > 1 else before
    # With stride 1 what is cut off is padding that is left out.
    first = reach - cut
    after = ceildiv(out + (before if how.stride > 1 else 0), how.stride) - size
    if not after.is_constant or first < 0:
        return None
    last = max(0, after.value + reach - first) if how.stride == 1 else max(0, after.value)
    steps = size + first + last - reach
    skipped = before if how.stride > 1 else 0
    left = steps * how.stride - skipped - out
    return _Axis(how, entries, (first, last), steps, skipped, left.value) if left.is_constant else None


def _convolved(node: ir.Node, filters: Array, bias: Array | None, axes: list[_Axis], rewriter: Rewriter) -> ir.Value:
    """The convolution: channels in the order of the operator's, within each the remainders of all axes."""
    groups, rank = _group(node), len(axes)
    inputs, outputs = filters.shape[0] // groups, filters.shape[1]
    fill = [(0, a.entries * a.how.stride - a.how.kernel.value) for a in axes]
    whole = np.pad(filters, [(0, 0), (0, 0), *fill])
    digits = [n for a in axes for n in (a.entries, a.how.stride)]
    split = whole.reshape(groups, inputs, outputs, *digits)[
        (slice(None),) * 3 + (slice(None, None, -1), slice(None)) * rank
    ]
    entries, phases = [3 + 2 * n for n in range(rank)], [4 + 2 * n for n in range(rank)]
    turned = split.transpose(0, 2, *phases, 1, *entries)
    count = math.prod(a.how.stride for a in axes)
    small = turned.reshape(groups * outputs * count, inputs, *(a.entries for a in axes))
    name = required(node, 1).name
    operands: list[ir.Value | None] = [
        required(node, 0),
        rewriter.constant(np.ascontiguousarray(small), f"{name}_turned"),
    ]
    if bias is not None:
        operands.append(rewriter.constant(np.repeat(bias, count), f"{name}_bias"))
    attributes: dict[str, Any] = {
        "pads": [a.pads[0] for a in axes] + [a.pads[1] for a in axes],
        "dilations": [a.how.dilation for a in axes],
        "group": groups,
    }
    return rewriter.new("Conv", operands, before=node, attributes=attributes)


def _spread_out(node: ir.Node, x: ir.Value, axes: list[_Axis], rewriter: Rewriter) -> ir.Value | None:
    """The remainders among the channels of ``x`` moved between its positions, and cut to size."""
    strides = [a.how.stride for a in axes]
    if max(strides) > 1:
        channels = type_of(x).shape[1] // math.prod(strides)
        apart = _shape(node, [channels, *map(constant, strides), *(a.steps for a in axes)], rewriter)
        together = _shape(node, [channels, *(a.steps * a.how.stride for a in axes)], rewriter)
        if apart is None or together is None:
            return None
        rank = len(axes)
        order = [0, 1, *(d for n in range(rank) for d in (2 + rank + n, 2 + n))]
        x = rewriter.new("Reshape", [x, apart], before=node)
        x = rewriter.new("Transpose", [x], before=node, attributes={"perm": order})
        x = rewriter.new("Reshape", [x, together], before=node)
    cut = [(2 + n, a) for n, a in enumerate(axes) if a.cut or a.left]
    if not cut:
        return x
    starts = np.array([a.cut for _, a in cut])
    ends = np.array([-a.left if a.left else 2**62 for _, a in cut])
    operands = [rewriter.constant(v, "cut") for v in (starts, ends, np.array([d for d, _ in cut]))]
    return rewriter.new("Slice", [x, *operands], before=node)


def _shape(node: ir.Node, sizes: list[Expr], rewriter: Rewriter) -> ir.Value | None:
    """A shape whose first size is that of the batch; of the others the last one that is not known is what is left."""
    parts: list[ir.Value | int] = [0]
    left = next((n for n in reversed(range(len(sizes))) if not sizes[n].is_constant), None)
    for n, size in enumerate(sizes):
        if n == left or size.is_constant:
            parts.append(-1 if n == left else size.value)
            continue
        made = emit(rewriter, size, node)
        if made is None:
            return None
        parts.append(made)
    if all(isinstance(p, int) for p in parts):
        return rewriter.constant(np.array(parts, np.int64), "shape")
    values = [rewriter.constant(np.array([p], np.int64), "size") if isinstance(p, int) else p for p in parts]
    return rewriter.new("Concat", values, before=node, attributes={"axis": 0})
