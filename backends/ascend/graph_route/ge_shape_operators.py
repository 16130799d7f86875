"""GE's forms of the operators that move elements and change shapes, and of those that tell and make them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tilewright.backends.ascend.graph_route.ge_graph import Ref
from tilewright.backends.ascend.graph_route.ge_site import Form, Site, Unmapped
from tilewright.ir.graph import constant_array, is_constant
from tilewright.ir.types import DType, TensorType


def _gather(site: Site) -> list[Ref]:
    axis = site.scalar(int(site.attribute("axis", 0)), DType.I32)
    inputs = {"x": site.input(0), "indices": site.input(1), "axis": axis}
    return site.add("GatherV2", inputs, negative_index_support=True)


def _gather_elements(site: Site) -> list[Ref]:
    return site.add("GatherElements", {"x": site.input(0), "index": site.input(1)}, dim=int(site.attribute("axis", 0)))


def _scatter_elements(site: Site) -> list[Ref]:
    inputs = {"data": site.input(0), "indices": site.input(1), "updates": site.input(2)}
    axis = int(site.attribute("axis", 0)) % max(site.type.rank, 1)
    return site.add("ScatterElements", inputs, axis=axis, reduction=str(site.attribute("reduction", "none")))


def _transpose(site: Site) -> list[Ref]:
    rank = site.typed(0).rank
    perm = list(site.attribute("perm", range(rank - 1, -1, -1)))
    return site.add("Transpose", {"x": site.input(0), "perm": site.ints(perm)})


def _reshape(site: Site) -> list[Ref]:
    shape = site.type.shape
    if sum(not s.is_constant for s in shape) <= 1:  # zeros and absent sizes said
        return site.add(
            "Reshape", {"x": site.input(0), "shape": site.ints([s.value if s.is_constant else -1 for s in shape])}
        )
    value = site.node.inputs[1]
    assert value is not None
    if not is_constant(value) or 0 not in constant_array(value):
        return site.add("Reshape", {"x": site.input(0), "shape": site.input(1)})
    whole = site.inner("Shape", {"x": site.input(0)}, TensorType.of(DType.I64, site.typed(0).rank), dtype=DType.I64)
    sizes = []
    for axis, size in enumerate(site.elements(1, "sizes")):  # zeros copy what the operand has there
        bounds = {"begin": site.ints([axis]), "end": site.ints([axis + 1])}
        one = TensorType.of(DType.I64, 1)
        sizes.append(site.ints([size]) if size else site.inner("StridedSliceV2", {"x": whole, **bounds}, one))
    every = {"x": sizes, "concat_dim": site.scalar(0, DType.I32)}
    shape_ = site.inner("ConcatV2", every, TensorType.of(DType.I64, len(sizes)), N=len(sizes))
    return site.add("Reshape", {"x": site.input(0), "shape": shape_})


def _axes(operator: str, name: str) -> Form:
    """Axes from an input into an attribute."""

    def form(site: Site) -> list[Ref]:
        axes = site.elements(1, "axes") if site.given(1) else []
        return site.add(operator, {"x": site.input(0)}, "ND", **{name: axes})

    return form


def _shape(site: Site) -> list[Ref]:
    rank = site.typed(0).rank
    start, end = int(site.attribute("start", 0)), site.attribute("end", None)
    first, last = (min(max(n + rank if n < 0 else n, 0), rank) for n in (start, rank if end is None else int(end)))
    if (first, last) == (0, rank):
        return site.add("Shape", {"x": site.input(0)}, dtype=DType.I64)
    whole = site.inner("Shape", {"x": site.input(0)}, TensorType.of(DType.I64, rank), dtype=DType.I64)
    return site.add("StridedSliceV2", {"x": whole, "begin": site.ints([first]), "end": site.ints([max(first, last)])})


def _slice(site: Site) -> list[Ref]:
    bounds = {"begin": site.input(1), "end": site.input(2), "axes": site.optional(3), "strides": site.optional(4)}
    if site.type.dtype is not DType.BOOL:
        return site.add("StridedSliceV2", {"x": site.input(0), **bounds})
    bytes_ = site.inner("Cast", {"x": site.input(0)}, TensorType(DType.U8, site.typed(0).shape), dst_type=DType.U8)
    cut = site.inner("StridedSliceV2", {"x": bytes_, **bounds}, TensorType(DType.U8, site.type.shape))
    return site.add("Cast", {"x": cut}, dst_type=DType.BOOL)


def _concat(site: Site) -> list[Ref]:
    every = [site.input(i) for i in range(len(site.node.inputs))]
    axis = site.scalar(int(site.attribute("axis", 0)) % site.type.rank, DType.I32)
    return site.add("ConcatV2", {"x": every, "concat_dim": axis}, N=len(every))


def _split(site: Site) -> list[Ref]:
    axis = int(site.attribute("axis", 0)) % site.typed(0).rank
    size, count = site.typed(0).shape[axis], len(site.node.outputs)
    if site.given(1):
        sizes = site.input(1)
    elif size.is_constant:
        part = -(-size.value // count)
        sizes = site.ints([part] * (count - 1) + [size.value - part * (count - 1)])
    else:
        raise Unmapped("the size of what is split is open")
    inputs = {"x": site.input(0), "size_splits": sizes, "split_dim": site.scalar(axis, DType.I32)}
    return site.add("SplitV", inputs, num_split=count)


def _expand(site: Site) -> list[Ref]:
    """GE's BroadcastTo wants the size that comes out where ONNX may say 1."""
    shape = site.type.shape
    if sum(not s.is_constant for s in shape) == 0:
        return site.add("BroadcastTo", {"x": site.input(0), "shape": site.ints([s.value for s in shape])})
    if site.type.dtype is not DType.BF16:
        return site.add("Expand", {"x": site.input(0), "shape": site.input(1)})
    one = site.graph.constant(np.ones((), site.type.dtype.numpy), f"{site.name}/constant")
    wide = site.inner("BroadcastTo", {"x": one, "shape": site.input(1)}, site.type)  # sizes of the result, or 1
    return site.add("Mul", {"x1": site.input(0), "x2": wide})


def _pad(site: Site) -> list[Ref]:
    if site.given(3):
        raise Unmapped("it names the axes that it pads")
    inputs = {"x": site.input(0), "paddings": site.input(1), "constant_values": site.optional(2)}
    mode = str(site.attribute("mode", "constant"))
    if mode not in ("constant", "reflect", "edge"):
        raise Unmapped(f"GE's PadV3 has no mode {mode}")
    return site.add("PadV3", inputs, mode=mode, paddings_contiguous=False)


def _fill(site: Site) -> list[Ref]:
    given = site.attribute("value", None)
    value = np.zeros((), np.float32) if given is None else np.asarray(given.numpy()).reshape(())
    return site.add("Fill", {"dims": site.input(0), "value": site.graph.constant(value, f"{site.name}/constant")})


#: The form of each of these operators.
SHAPE_FORMS: Mapping[str, Form] = {
    "Concat": _concat,
    "ConstantOfShape": _fill,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Pad": _pad,
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _axes("Squeeze", "axis"),
    "Transpose": _transpose,
    "Unsqueeze": _axes("Unsqueeze", "axes"),
}
