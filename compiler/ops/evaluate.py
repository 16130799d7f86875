"""What a node computes of constants: its own lowering, run by the interpreter of the tile IR.

So a folded constant is what the kernel would have computed. Operators that only move or convert elements are done by
NumPy directly, since weights go through them whole.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from tilewright.errors import UnsupportedError
from tilewright.ir.graph import constant_array, type_of
from tilewright.ir.types import DType, TensorType
from tilewright.kernel import numerics
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.machine import KernelFault
from tilewright.kernel.tile import Kernel
from tilewright.ops.compose import statement_axes
from tilewright.ops.lower import has_lowering, lower
from tilewright.ops.steps import program_of

Array = np.ndarray[Any, Any]

#: Steps of all statements of a kernel that are worth interpreting: seconds. Weights go through elementwise kernels
#: whole, and reductions of products take many steps an element.
_STEP_LIMIT = 1 << 27


def evaluate_node(model: ir.Model, node: ir.Node) -> list[Array | None] | None:
    """The outputs of ``node``, whose inputs are constants and whose outputs have static types.

    ``None`` in the list stands for an output that is left out; ``None`` in its place for a node that cannot be
    computed while compiling: it has no lowering, takes too long, or faults.
    """
    if (
        program_of(node)
        or not has_lowering(model, node)
        or any(v.name and not type_of(v).is_static for v in node.outputs)
    ):
        return None
    direct = _DIRECT.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if direct is _converted and type_of(node.outputs[0]).dtype.bits <= 8:
        direct = None  # attributes say what becomes of numbers that are too large
    if direct is not None and node.op_identifier() not in model.functions:
        return _moved(node, direct)
    try:
        lowered = lower(model, node)
    except UnsupportedError:
        return None
    if _steps(lowered.kernel) > _STEP_LIMIT:
        return None
    pairs = list(zip(lowered.kernel.params, lowered.values, strict=True))
    feeds = {p.name: constant_array(v) for p, v in pairs if p.role != "out"}
    try:
        results = run_lowered(lowered.kernel, {n: a.reshape(_shape(lowered.kernel, n)) for n, a in feeds.items()})
    except KernelFault:
        return None  # an index outside its tensor: the run says so
    found = {v: results[p.name].reshape(_sizes(type_of(v))) for p, v in pairs if p.role == "out"}
    return [found.get(v) for v in node.outputs]


def _moved(node: ir.Node, direct: _Direct) -> list[Array | None] | None:
    """What NumPy makes of the node, in views where it can; ``None`` where its result is not of the type."""
    try:
        results = direct(node, [constant_array(v) for v in node.inputs if v is not None])
    except (IndexError, ValueError):
        return None
    for value, array in zip(node.outputs, results, strict=True):
        if array.shape != _sizes(type_of(value)):
            return None
    return [*results]


def _steps(kernel: Kernel) -> int:
    extents = {a.name: a.extent.value if a.extent.is_constant else _STEP_LIMIT for a in kernel.axes}
    return sum(prod(extents[a] for a in statement_axes(s)) for s in kernel.body)


def _shape(kernel: Kernel, name: str) -> tuple[int, ...]:
    """The shape of a parameter, whose axes may have been merged."""
    return tuple(s.value for p in kernel.params if p.name == name for s in p.shape)


def _sizes(type_: TensorType) -> tuple[int, ...]:
    return tuple(s.value for s in type_.shape)


def _reshaped(node: ir.Node, x: list[Array]) -> list[Array]:
    return [x[0].reshape(_sizes(type_of(node.outputs[0])))]


def _transposed(node: ir.Node, x: list[Array]) -> list[Array]:
    perm = node.attributes.get("perm")
    return [x[0].transpose(None if perm is None else perm.value)]


def _expanded(node: ir.Node, x: list[Array]) -> list[Array]:
    return [np.broadcast_to(x[0], _sizes(type_of(node.outputs[0])))]


def _joined(node: ir.Node, x: list[Array]) -> list[Array]:
    return [np.concatenate(x, axis=node.attributes["axis"].as_int())]


def _cut(node: ir.Node, x: list[Array]) -> list[Array]:
    """NumPy's slices clamp and count from the end as ONNX's do."""
    given = dict(zip([n for n, v in enumerate(node.inputs) if v is not None], x, strict=True))
    starts, ends = given[1].tolist(), given[2].tolist()
    axes = given[3].tolist() if 3 in given else range(len(starts))
    steps = given[4].tolist() if 4 in given else [1] * len(starts)
    index = [slice(None)] * x[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    return [x[0][tuple(index)]]


def _split(node: ir.Node, x: list[Array]) -> list[Array]:
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    sizes = [_sizes(type_of(v))[axis] for v in node.outputs]
    return np.split(x[0], list(accumulate(sizes[:-1])), axis)


def _converted(node: ir.Node, x: list[Array]) -> list[Array]:
    source, target = DType.from_numpy(x[0].dtype), type_of(node.outputs[0]).dtype
    with np.errstate(all="ignore"):
        return [x[0] if source is target else numerics.cast(x[0], source, target)]


_Direct = Callable[[ir.Node, list[Array]], list[Array]]

_DIRECT: dict[str, _Direct] = {
    **dict.fromkeys(["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"], _reshaped),
    "Transpose": _transposed,
    "Expand": _expanded,
    "Concat": _joined,
    "Slice": _cut,
    "Split": _split,
    "Cast": _converted,
    "CastLike": _converted,
}
