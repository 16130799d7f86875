"""What GE's operators make of each operator of a graph: one function an operator, in a table.

GE takes as inputs what ONNX has in attributes (axes, permutations), and the other way round; where both do, the names
and the meanings differ (``pads`` go by axis, ``keep_dims`` is off by default). Sources: GE's signatures
(``signatures/ge.txt``) and, for meanings, the published pages of each operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from tilewright.backends.ascend.graph_route.ge_graph import GeGraph, Ref
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.ir.types import DType, TensorType


class Unmapped(Exception):
    """A node that has no form in GE here; the text is the reason."""


class Site:
    """One node, and the graph that its form goes into."""

    def __init__(self, graph: GeGraph, node: ir.Node, value: Callable[[ir.Value], Ref]):
        self.graph, self.node, self._value = graph, node, value
        self.outputs = [type_of(o) for o in node.outputs if o.name]
        self.name = str(node.name or node.outputs[0].name)

    @property
    def type(self) -> TensorType:
        """Of the first output."""
        return self.outputs[0]

    def given(self, index: int) -> bool:
        """Whether the node has an input there."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def input(self, index: int) -> Ref:
        """What an input is in GE."""
        value = self.node.inputs[index]
        assert value is not None
        return self._value(value)

    def optional(self, index: int) -> Ref | None:
        return self.input(index) if self.given(index) else None

    def typed(self, index: int) -> TensorType:
        """The type of an input."""
        value = self.node.inputs[index]
        assert value is not None
        return type_of(value)

    def elements(self, index: int, what: str) -> list[int]:
        """The integers in an input that has to be a constant."""
        value = self.node.inputs[index]
        assert value is not None
        if not is_constant(value):
            raise Unmapped(f"its {what} are computed while it runs, and GE has them in an attribute")
        return [int(n) for n in constant_array(value).reshape(-1)]

    def attribute(self, name: str, default: Any) -> Any:
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def ints(self, values: Sequence[int], dtype: DType = DType.I64) -> Ref:
        return self.graph.constant(np.array(values, dtype.numpy), f"{self.name}/constant")

    def scalar(self, value: float, dtype: DType) -> Ref:
        return self.graph.constant(np.array(value, dtype.numpy), f"{self.name}/constant")

    def add(self, operator: str, inputs: Mapping[str, Any], layout: str = "ND", **attributes: Any) -> list[Ref]:
        """The last operator of a node, whose outputs are the node's."""
        return self.graph.add(operator, self.name, inputs, self.outputs, attributes, layout)

    def inner(self, operator: str, inputs: Mapping[str, Any], type_: TensorType, **attributes: Any) -> Ref:
        """An operator before the last."""
        return self.graph.add(operator, f"{self.name}/{operator}", inputs, [type_], attributes)[0]


Form = Callable[[Site], list[Ref]]


def _same(operator: str, *ports: str, **attributes: Any) -> Form:
    """The same inputs under GE's names."""

    def form(site: Site) -> list[Ref]:
        return site.add(operator, {p: site.input(i) for i, p in enumerate(ports)}, **attributes)

    return form


def _folded(operator: str) -> Form:
    """Any number of inputs, two at a time."""

    def form(site: Site) -> list[Ref]:
        found = site.input(0)
        count = len(site.node.inputs)
        if count == 1:
            return site.add("Identity", {"x": found})
        for i in range(1, count - 1):
            found = site.inner(operator, {"x1": found, "x2": site.input(i)}, site.type)
        return site.add(operator, {"x1": found, "x2": site.input(count - 1)})

    return form


def _div(site: Site) -> list[Ref]:
    operator = "RealDiv" if site.type.dtype.is_float else "Div"
    return site.add(operator, {"x1": site.input(0), "x2": site.input(1)})


def _mod(site: Site) -> list[Ref]:
    operator = "Mod" if site.attribute("fmod", 0) else "FloorMod"
    return site.add(operator, {"x1": site.input(0), "x2": site.input(1)})


def _cast(site: Site) -> list[Ref]:
    return site.add("Cast", {"x": site.input(0)}, dst_type=site.type.dtype)


def _clip(site: Site) -> list[Ref]:
    dtype = site.type.dtype
    if dtype.is_float:
        low, high = -np.inf, np.inf
    else:
        low, high = np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max
    least = site.input(1) if site.given(1) else site.scalar(low, dtype)
    most = site.input(2) if site.given(2) else site.scalar(high, dtype)
    return site.add("ClipByValue", {"x": site.input(0), "clip_value_min": least, "clip_value_max": most})


def _gelu(site: Site) -> list[Ref]:
    return site.add("GeluV2", {"x": site.input(0)}, approximate=str(site.attribute("approximate", "none")))


def _swish(site: Site) -> list[Ref]:
    return site.add("Swish", {"x": site.input(0)}, scale=float(site.attribute("alpha", 1.0)))


def _matmul(site: Site) -> list[Ref]:
    left, right = site.typed(0), site.typed(1)
    if min(left.rank, right.rank) < 2:
        raise Unmapped("it multiplies vectors; GE's products have two axes or more")
    inputs = {"x1": site.input(0), "x2": site.input(1)}
    return site.add("MatMulV2" if left.rank == right.rank == 2 else "BatchMatMulV2", inputs)


def _gemm(site: Site) -> list[Ref]:
    if site.attribute("alpha", 1.0) != 1.0 or site.attribute("beta", 1.0) != 1.0:
        raise Unmapped("it scales its operands")
    product = {"transpose_x1": site.attribute("transA", 0), "transpose_x2": site.attribute("transB", 0)}
    return site.add("MatMulV2", {"x1": site.input(0), "x2": site.input(1), "bias": site.optional(2)}, **product)


def _window(site: Site) -> tuple[list[int], list[int], list[int], list[int]]:
    """Kernel, strides, pads (before and after each axis) and dilations of a window over an image."""
    if site.typed(0).rank != 4:
        raise Unmapped("only windows over images (four axes) are written")
    if str(site.attribute("auto_pad", "NOTSET")) not in ("NOTSET", "VALID"):
        raise Unmapped("its pads are told by auto_pad")
    kernel = site.attribute("kernel_shape", None)
    if kernel is None:
        kernel = [s.value for s in site.typed(1).shape[2:] if s.is_constant]
    pads = list(site.attribute("pads", [0, 0, 0, 0]))
    strides, dilations = list(site.attribute("strides", [1, 1])), list(site.attribute("dilations", [1, 1]))
    return list(kernel), strides, [pads[0], pads[2], pads[1], pads[3]], dilations


def _conv(site: Site) -> list[Ref]:
    _, strides, pads, dilations = _window(site)
    inputs = {"x": site.input(0), "filter": site.input(1), "bias": site.optional(2)}
    return site.add(
        "Conv2D",
        inputs,
        layout="NCHW",
        strides=[1, 1, *strides],
        pads=pads,
        dilations=[1, 1, *dilations],
        groups=site.attribute("group", 1),
        data_format="NCHW",
    )


def _pooling(site: Site, kernel: list[int], strides: list[int], pads: list[int]) -> dict[str, Any]:
    """What both pools say of their window."""
    return {
        "layout": "NCHW",
        "ksize": [1, 1, *kernel],
        "strides": [1, 1, *strides],
        "padding_mode": "CALCULATED",
        "pads": pads,
        "data_format": "NCHW",
        "ceil_mode": site.attribute("ceil_mode", 0),
    }


def _max_pool(site: Site) -> list[Ref]:
    kernel, strides, pads, dilations = _window(site)
    if len(site.outputs) > 1 or dilations != [1, 1] or site.attribute("storage_order", 0):
        raise Unmapped("it gives indices, or its window has holes")
    return site.add(
        "MaxPoolV3",
        {"x": site.input(0)},
        **_pooling(site, kernel, strides, pads),
    )


def _average_pool(site: Site) -> list[Ref]:
    kernel, strides, pads, dilations = _window(site)
    if dilations != [1, 1]:
        raise Unmapped("its window has holes")
    return site.add(
        "AvgPoolV2",
        {"x": site.input(0)},
        **_pooling(site, kernel, strides, pads),
        exclusive=not site.attribute("count_include_pad", 0),
    )


def _global_average(site: Site) -> list[Ref]:
    axes = site.ints(range(2, site.typed(0).rank))
    return site.add("ReduceMean", {"x": site.input(0), "axes": axes}, keep_dims=True)


def _reduction(operator: str) -> Form:
    def form(site: Site) -> list[Ref]:
        if site.attribute("noop_with_empty_axes", 0) and not (site.given(1) and site.elements(1, "axes")):
            return site.add("Identity", {"x": site.input(0)})
        axes = site.input(1) if site.given(1) else site.ints(range(site.typed(0).rank))
        keep = bool(site.attribute("keepdims", 1))
        return site.add(operator, {"x": site.input(0), "axes": axes}, keep_dims=keep)

    return form


def _softmax(site: Site) -> list[Ref]:
    return site.add("SoftmaxV2", {"x": site.input(0)}, axes=[int(site.attribute("axis", -1))])


def _layer_norm(site: Site) -> list[Ref]:
    if len(site.outputs) > 1:
        raise Unmapped("its mean and deviation are read, of which GE gives another one")
    axis = int(site.attribute("axis", -1))
    scale = site.typed(1)
    if not scale.is_static:
        raise Unmapped("the size of its scale is open")
    zero = np.zeros(tuple(s.value for s in scale.shape), scale.dtype.numpy)
    beta = site.input(2) if site.given(2) else site.graph.constant(zero, f"{site.name}/beta")
    inputs = {"x": site.input(0), "gamma": site.input(1), "beta": beta}
    epsilon = float(site.attribute("epsilon", 1e-5))
    return site.add("LayerNorm", inputs, begin_norm_axis=axis, begin_params_axis=axis, epsilon=epsilon)


def _rms_norm(site: Site) -> list[Ref]:
    x, scale = site.typed(0), site.typed(1)
    axis = int(site.attribute("axis", -1)) % x.rank
    if scale.shape != x.shape[axis:]:
        raise Unmapped("its scale is repeated along an axis")
    epsilon = float(site.attribute("epsilon", 1e-5))
    return site.add("RmsNorm", {"x": site.input(0), "gamma": site.input(1)}, epsilon=epsilon)


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


def _arg(operator: str) -> Form:
    """The index of the first largest or smallest; GE takes the axis away, so it is put back."""

    def form(site: Site) -> list[Ref]:
        if site.attribute("select_last_index", 0):
            raise Unmapped("it takes the last of equal ones")
        rank = site.typed(0).rank
        axis = int(site.attribute("axis", 0)) % rank
        inputs = {"x": site.input(0), "dimension": site.scalar(axis, DType.I32)}
        if not site.attribute("keepdims", 1):
            return site.add(operator, inputs, dtype=DType.I64)
        shape = site.type.shape
        found = site.inner(operator, inputs, TensorType(DType.I64, shape[:axis] + shape[axis + 1 :]), dtype=DType.I64)
        return site.add("Unsqueeze", {"x": found}, axes=[axis])

    return form


def _fill(site: Site) -> list[Ref]:
    given = site.attribute("value", None)
    value = np.zeros((), np.float32) if given is None else np.asarray(given.numpy()).reshape(())
    return site.add("Fill", {"dims": site.input(0), "value": site.graph.constant(value, f"{site.name}/constant")})


def _top_k(site: Site) -> list[Ref]:
    """GE's indices and count are i32."""
    count = site.inner("Cast", {"x": site.input(1)}, TensorType(DType.I32, site.typed(1).shape), dst_type=DType.I32)
    how = {"sorted": bool(site.attribute("sorted", 1)), "largest": bool(site.attribute("largest", 1))}
    axis = int(site.attribute("axis", -1))
    types = [site.outputs[0], TensorType(DType.I32, site.outputs[0].shape)]
    inputs = {"x": site.input(0), "k": count}
    values, indices = site.graph.add("TopKV2", site.name, inputs, types, {**how, "dim": axis})
    if len(site.outputs) < 2:
        return [values]
    return [
        values,
        site.graph.add("Cast", f"{site.name}/Cast", {"x": indices}, [site.outputs[1]], {"dst_type": DType.I64})[0],
    ]


def _trilu(site: Site) -> list[Ref]:
    diagonal = site.elements(1, "diagonals")[0] if site.given(1) else 0
    return site.add("Triu" if site.attribute("upper", 1) else "Tril", {"x": site.input(0)}, diagonal=diagonal)


def _cumsum(site: Site) -> list[Ref]:
    flags = {n: bool(site.attribute(n, 0)) for n in ("exclusive", "reverse")}
    return site.add("Cumsum", {"x": site.input(0), "axis": site.input(1)}, "ND", **flags)


def _leaky_relu(site: Site) -> list[Ref]:
    return site.add("LeakyRelu", {"x": site.input(0)}, negative_slope=float(site.attribute("alpha", 0.01)))


_BINARY = {
    "Add": "Add",
    "And": "LogicalAnd",
    "Equal": "Equal",
    "Greater": "Greater",
    "GreaterOrEqual": "GreaterEqual",
    "Less": "Less",
    "LessOrEqual": "LessEqual",
    "Mul": "Mul",
    "Or": "LogicalOr",
    "Pow": "Pow",
    "Sub": "Sub",
}
_UNARY = (
    *(
        "Abs",
        "Acos",
        "Asin",
        "Atan",
        "Ceil",
        "Cos",
        "Cosh",
        "Erf",
        "Exp",
        "Floor",
        "HardSwish",
        "Identity",
        "Log",
        "Neg",
    ),
    *("Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Sqrt", "Tan", "Tanh"),
)

#: The form of each operator that has one.
FORMS: Mapping[str, Form] = {
    **{name: _same(operator, "x1", "x2") for name, operator in _BINARY.items()},
    **{name: _same(name, "x") for name in _UNARY},
    "ArgMax": _arg("ArgMaxV2"),
    "ArgMin": _arg("ArgMin"),
    "AveragePool": _average_pool,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _fill,
    "Conv": _conv,
    "CumSum": _cumsum,
    "Div": _div,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average,
    "IsNaN": _same("IsNan", "x"),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul,
    "Max": _folded("Maximum"),
    "MaxPool": _max_pool,
    "Min": _folded("Minimum"),
    "Mod": _mod,
    "Not": _same("LogicalNot", "x"),
    "Pad": _pad,
    "RMSNormalization": _rms_norm,
    "Range": _same("Range", "start", "limit", "delta"),
    "ReduceMax": _reduction("ReduceMax"),
    "ReduceMean": _reduction("ReduceMean"),
    "ReduceMin": _reduction("ReduceMin"),
    "ReduceProd": _reduction("ReduceProd"),
    "ReduceSum": _reduction("ReduceSum"),
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "Shape": _shape,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _axes("Squeeze", "axis"),
    "Swish": _swish,
    "Tile": _same("Tile", "x", "multiples"),
    "TopK": _top_k,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _axes("Unsqueeze", "axes"),
    "Where": _same("SelectV2", "condition", "then", "else"),
}
