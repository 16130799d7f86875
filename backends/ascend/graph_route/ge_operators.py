"""What GE's operators make of each operator of a graph: one function an operator, in a table.

GE takes as inputs what ONNX has in attributes (axes, permutations), and the other way round; where both do, the names
and the meanings differ (``pads`` go by axis, ``keep_dims`` is off by default). Sources: GE's signatures
(``signatures/ge.txt``) and, for meanings, the published pages of each operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tilewright.backends.ascend.graph_route.ge_graph import Ref
from tilewright.backends.ascend.graph_route.ge_shape_operators import SHAPE_FORMS
from tilewright.backends.ascend.graph_route.ge_site import Form, Site, Unmapped
from tilewright.ir.types import DType, TensorType


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
    **SHAPE_FORMS,
    **{name: _same(operator, "x1", "x2") for name, operator in _BINARY.items()},
    **{name: _same(name, "x") for name in _UNARY},
    "ArgMax": _arg("ArgMaxV2"),
    "ArgMin": _arg("ArgMin"),
    "AveragePool": _average_pool,
    "Cast": _cast,
    "Clip": _clip,
    "Conv": _conv,
    "CumSum": _cumsum,
    "Div": _div,
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
    "RMSNormalization": _rms_norm,
    "Range": _same("Range", "start", "limit", "delta"),
    "ReduceMax": _reduction("ReduceMax"),
    "ReduceMean": _reduction("ReduceMean"),
    "ReduceMin": _reduction("ReduceMin"),
    "ReduceProd": _reduction("ReduceProd"),
    "ReduceSum": _reduction("ReduceSum"),
    "Softmax": _softmax,
    "Swish": _swish,
    "Tile": _same("Tile", "x", "multiples"),
    "TopK": _top_k,
    "Trilu": _trilu,
    "Where": _same("SelectV2", "condition", "then", "else"),
}
