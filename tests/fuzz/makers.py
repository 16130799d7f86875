"""What a random model is made of: each function adds one operator, or raises :class:`Skip` where none fits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.fuzz.graph import FLOATS, INTEGERS, Graph, Skip

Maker = Callable[[Graph], object]
MAKERS: list[tuple[float, Maker]] = []

NUMBERS = (*FLOATS, *INTEGERS)


def maker(weight: float = 1.0) -> Callable[[Maker], Maker]:
    """Register a function that adds an operator, in proportion to ``weight``."""

    def register(function: Maker) -> Maker:
        MAKERS.append((weight, function))
        return function

    return register


# -- elementwise, comparison, logic ----------------------------------------------------------------------------------

SMOOTH = (
    "Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh Elu Erf Exp Gelu HardSigmoid HardSwish LeakyRelu Log Mish "
    "Reciprocal Selu Sigmoid Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Shrink"
).split()
STEPS = "Ceil Floor Round Sign".split()


@maker(4)
def unary(g: Graph) -> None:
    x = g.take(FLOATS)
    attributes = {"alpha": 0.5} if g.maybe(0.3) else {}
    op = g.pick(SMOOTH)
    takes = ("Celu", "Elu", "HardSigmoid", "LeakyRelu", "Swish", "ThresholdedRelu")
    g.add(op, [x], **(attributes if op in takes else {}))


@maker(2)
def exact_unary(g: Graph) -> None:
    x = g.take(NUMBERS, exact=True)
    g.add(g.pick(("Abs", "Neg", "Relu", "Identity", *STEPS)), [x], exact=True)


@maker(4)
def binary(g: Graph) -> None:
    x = g.take(NUMBERS)
    y = g.like(x)
    op = g.pick(["Add", "Sub", "Mul", "Max", "Min"])
    g.add(op, [x, y] if g.maybe() else [y, x], exact=op != "Mul")


@maker(1.5)
def divide(g: Graph) -> None:
    x = g.take(NUMBERS)
    y = g.like(x, kind="positive")
    op = g.pick(["Div", "Div", "Mod", "Pow"])
    if op == "Mod" and g.values[x].dtype.kind == "f":
        if x not in g.exact:
            raise Skip
        g.add("Mod", [x, y], fmod=1)
    else:
        g.add(op, [x, y], **({"fmod": g.integer(0, 1)} if op == "Mod" else {}))


@maker(1)
def variadic(g: Graph) -> None:
    x = g.take(FLOATS)
    g.add(g.pick(["Sum", "Mean", "Max", "Min"]), [x, *(g.like(x) for _ in range(g.integer(0, 2)))])


@maker(1.5)
def compare(g: Graph) -> None:
    x = g.take((*NUMBERS, "bool"), exact=True)
    ops = ["Equal"] if g.values[x].dtype == bool else "Equal Less LessOrEqual Greater GreaterOrEqual".split()
    g.add(g.pick(ops), [x, g.like(x, exact=True)])


@maker(1)
def logic(g: Graph) -> None:
    x = g.take(("bool",))
    g.add("Not", [x]) if g.maybe(0.3) else g.add(g.pick(["And", "Or", "Xor"]), [x, g.like(x)])


@maker(1)
def bits(g: Graph) -> None:
    x = g.take(INTEGERS)
    kind = g.integer(0, 2)
    if kind == 0:
        g.add("BitwiseNot", [x])
    elif kind == 1:
        g.add(g.pick(["BitwiseAnd", "BitwiseOr", "BitwiseXor"]), [x, g.like(x)])
    else:
        x = g.take(("uint8", "uint16", "uint32", "uint64"))
        y = g.constant(g.integer(0, 3), g.values[x].dtype.name)
        g.add("BitShift", [x, y], direction=g.pick(["LEFT", "RIGHT"]))


@maker(1.5)
def where(g: Graph) -> None:
    x = g.take()
    y = g.like(x)
    g.add("Where", [g.like(x, "bool"), x, y], exact=True)


@maker(2)
def cast(g: Graph) -> None:
    from onnx import helper

    x = g.take(exact=True)
    to = g.pick((*NUMBERS, "bool"))
    if to.startswith("uint") and (np.asarray(g.values[x], np.float64) < 0).any():
        raise Skip
    g.pinned |= to.startswith("uint")
    g.add("Cast", [x], exact=True, to=helper.np_dtype_to_tensor_dtype(np.dtype(to)))


@maker(1)
def clip(g: Graph) -> None:
    x = g.take(NUMBERS)
    dtype = g.values[x].dtype.name
    low = g.operand(g.integer(0, 1), dtype, 0.3) if g.maybe(0.8) else None
    high = g.operand(g.integer(1, 3), dtype, 0.3) if g.maybe(0.7) else None
    g.add("Clip", [x, low, high], exact=True)


@maker(0.7)
def prelu(g: Graph) -> None:
    x = g.take(FLOATS)
    slope = g.of(g.values[x].dtype.name, [s if g.maybe() else 1 for s in g.sizes[x]][g.integer(0, g.values[x].ndim) :])
    g.add("PRelu", [x, slope])


@maker(0.5)
def is_special(g: Graph) -> None:
    g.add(g.pick(["IsNaN", "IsInf"]), [g.take(("float32", "float64", "float16"))])


# -- reductions, normalizations, cumulative --------------------------------------------------------------------------


def some_axes(g: Graph, x: str) -> list[int]:
    rank = g.values[x].ndim
    axes = g.rng.choice(rank, g.integer(1, rank), replace=False).tolist()
    return [a - rank if g.maybe(0.3) else a for a in axes]


@maker(3)
def reduce(g: Graph) -> None:
    op = g.pick("Sum Mean Max Min Prod SumSquare L1 L2 LogSum LogSumExp".split())
    x = g.take(("int32", "int64", *FLOATS) if op in ("Sum", "Max", "Min", "Prod") else FLOATS, least=1)
    operands = [x] if g.maybe(0.2) else [x, g.operand(some_axes(g, x))]
    empty = {"noop_with_empty_axes": 1} if len(operands) == 1 and g.maybe(0.3) else {}
    g.add(f"Reduce{op}", operands, exact=op in ("Max", "Min"), keepdims=g.integer(0, 1), **empty)


@maker(1)
def arg_extremum(g: Graph) -> None:
    x = g.take(NUMBERS, least=1, exact=True)
    last = {"select_last_index": 1} if g.maybe(0.3) else {}
    g.add(g.pick(["ArgMax", "ArgMin"]), [x], axis=g.axis(x), keepdims=g.integer(0, 1), **last)


@maker(1.5)
def softmax(g: Graph) -> None:
    x = g.take(FLOATS, least=1)
    op = g.pick(["Softmax", "Softmax", "LogSoftmax", "Hardmax"])
    if op == "Hardmax" and x not in g.exact:
        raise Skip
    g.add(op, [x], axis=g.axis(x))


@maker(1.5)
def cumulative(g: Graph) -> None:
    x = g.take(("int32", "int64", *FLOATS), least=1)
    axis = g.operand(g.axis(x), g.pick(["int64", "int32"]))
    g.add("CumSum", [x, axis], exclusive=g.integer(0, 1), reverse=g.integer(0, 1))


@maker(1.5)
def layer_norm(g: Graph) -> None:
    x = g.take(("float32", "float32", "float16", "float64"), least=1)
    axis, dtype = g.axis(x), g.values[x].dtype.name
    sizes = g.sizes[x][axis:]
    if g.opset >= 23 and g.maybe(0.3):
        g.add("RMSNormalization", [x, g.of(dtype, sizes)], axis=axis, epsilon=0.01)
        return
    bias = g.of(dtype, sizes) if g.maybe(0.7) else None
    g.add("LayerNormalization", [x, g.of(dtype, sizes), bias], axis=axis, epsilon=0.01)


@maker(1.5)
def channel_norm(g: Graph) -> None:
    x = g.take(("float32", "float32", "float64"), least=3, most=5, ok=lambda a: a.shape[1] > 0)
    dtype, c = g.values[x].dtype.name, g.sizes[x][1]
    op = g.pick(["BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN", "LpNormalization"])
    if op == "BatchNormalization":
        g.add(op, [x, *(g.of(dtype, [c]) for _ in range(3)), g.of(dtype, [c], "positive")], epsilon=0.01)
    elif op == "InstanceNormalization":
        g.add(op, [x, g.of(dtype, [c]), g.of(dtype, [c])], epsilon=0.01)
    elif op == "GroupNormalization":
        groups = g.pick([n for n in (1, 2, 4) if g.values[x].shape[1] % n == 0])
        size: int | str = c if g.opset >= 21 else groups
        g.add(op, [x, g.of(dtype, [size]), g.of(dtype, [size])], num_groups=groups, epsilon=0.01)
    elif op == "LRN":
        g.add(op, [x], size=g.pick([1, 3, 5]), alpha=0.01, beta=0.5, bias=1.5)
    else:
        g.add(op, [x], axis=g.axis(x), p=g.pick([1, 2]))


# -- products and windows --------------------------------------------------------------------------------------------


@maker(3)
def matmul(g: Graph) -> None:
    x = g.take(("float32", "float32", "float32", "float64", "float16", "int32", "int64"), least=1, most=4)
    dtype, k = g.values[x].dtype.name, g.sizes[x][-1]
    batch = [s if g.maybe() else 1 for s in g.sizes[x][:-2]][g.integer(0, max(0, g.values[x].ndim - 2)) :]
    y = g.of(dtype, [*batch, k, g.size()] if g.maybe(0.85) else [k])
    g.add("MatMul", [x, y])


@maker(1)
def gemm(g: Graph) -> None:
    x = g.take(("float32", "float32", "float64", "float16"), least=2, most=2)
    ta, tb = g.integer(0, 1), g.integer(0, 1)
    rows, k = g.sizes[x][::-1] if ta else g.sizes[x]
    dtype, n = g.values[x].dtype.name, g.size()
    c = g.of(dtype, g.pick([(n,), (rows, n), (rows, 1), (1, n), ()])) if g.maybe(0.7) else None
    more = {"alpha": 0.5, "beta": -1.5} if g.maybe() else {}
    g.add("Gemm", [x, g.of(dtype, (n, k) if tb else (k, n)), c], transA=ta, transB=tb, **more)


EINSUMS = ("ij,jk->ik", "bij,bjk->bik", "ij->ji", "ii->i", "i,j->ij", "bhqd,bhkd->bhqk", "...ij,...j->...i", "ij,ij->")


@maker(0.8)
def einsum(g: Graph) -> None:
    equation = g.pick(EINSUMS)
    sizes = {letter: g.size() for letter in equation if letter.isalpha()}
    batch = [g.size()] if g.maybe() else []
    operands = []
    for term in equation.split("->")[0].split(","):
        own = [sizes[c] for c in term if c.isalpha()]
        operands.append(g.of("float32", [*batch, *own] if "..." in term else own))
    g.add("Einsum", operands, equation=equation)


def window(g: Graph, spatial: list[int]) -> dict[str, list[int]]:
    """Kernel, strides, dilations and pads over an image."""
    k = [g.integer(1, min(3, max(1, s))) for s in spatial]
    result = {"kernel_shape": k, "strides": [g.integer(1, 2) for _ in k]}
    if g.maybe(0.3):
        result["dilations"] = [2 if 2 * (n - 1) + 1 <= s else 1 for n, s in zip(k, spatial, strict=True)]
    if g.maybe(0.6):
        result["pads"] = [g.integer(0, n - 1) for n in k] + [g.integer(0, n - 1) for n in k]
    return result


@maker(2)
def conv(g: Graph) -> None:
    x = g.take(("float32", "float32", "float32", "float64"), least=3, most=5, ok=lambda a: min(a.shape) > 0)
    shape, dtype = g.values[x].shape, g.values[x].dtype.name
    channels = shape[1]
    if g.sizes[x][1] != channels:
        raise Skip
    attributes: dict[str, object] = dict(window(g, list(shape[2:])))
    group = g.pick([n for n in (1, 1, 2, channels) if channels % n == 0])
    kernel = attributes["kernel_shape"]
    assert isinstance(kernel, list)
    features = g.integer(1, 4)
    if g.maybe(0.3):
        w, b = g.of(dtype, [channels, features, *kernel]), g.of(dtype, [features * group])
        if g.maybe(0.3):
            attributes["output_padding"] = [0 if s == 1 else g.integer(0, 1) for s in attributes["strides"]]  # type: ignore[attr-defined]
        g.add("ConvTranspose", [x, w, b if g.maybe() else None], group=group, **attributes)
        return
    if g.maybe(0.15):
        attributes.pop("pads", None)
        attributes["auto_pad"] = g.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
    w, b = g.of(dtype, [features * group, channels // group, *kernel]), g.of(dtype, [features * group])
    g.add("Conv", [x, w, b if g.maybe() else None], group=group, **attributes)


@maker(1.5)
def pool(g: Graph) -> None:
    x = g.take(("float32", "float32", "float64"), least=3, most=5, ok=lambda a: min(a.shape) > 0)
    attributes: dict[str, object] = dict(window(g, list(g.values[x].shape[2:])))
    op = g.pick(["MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"])
    if op.startswith("Global"):
        g.add(op, [x], exact=op == "GlobalMaxPool")
        return
    if g.opset < 19 and op == "AveragePool":
        attributes.pop("dilations", None)
    if g.maybe(0.3):
        attributes["ceil_mode"] = 1
    if op == "AveragePool":
        attributes["count_include_pad"] = g.integer(0, 1)
    if op == "LpPool":
        attributes["p"] = g.integer(1, 3)
    g.add(op, [x], exact=op == "MaxPool", **attributes)


# -- movement --------------------------------------------------------------------------------------------------------


@maker(2)
def transpose(g: Graph) -> None:
    x = g.take(least=1)
    g.add("Transpose", [x], exact=True, perm=g.rng.permutation(g.values[x].ndim).tolist())


@maker(2)
def reshape(g: Graph) -> None:
    x = g.take(least=1)
    target = list(g.values[x].shape)
    for _ in range(g.integer(0, 2)):
        i = g.integer(0, len(target) - 1)
        factors = [f for f in (1, 2, 3, 4) if target[i] and target[i] % f == 0]
        if g.maybe() and factors:
            f = g.pick(factors)
            target[i : i + 1] = [f, target[i] // f]
        elif i + 1 < len(target):
            target[i : i + 2] = [target[i] * target[i + 1]]
    if 0 not in target and g.maybe(0.4):
        target[g.integer(0, len(target) - 1)] = -1
    g.add("Reshape", [x, g.operand(target)], exact=True)


@maker(1)
def axes_in_and_out(g: Graph) -> None:
    x = g.take(most=4)
    kind = g.integer(0, 2)
    rank = g.values[x].ndim
    if kind == 0:
        g.add("Unsqueeze", [x, g.operand([g.integer(-rank - 1, rank)])], exact=True)
    elif kind == 1:
        ones = [i for i, n in enumerate(g.values[x].shape) if n == 1]
        g.add("Squeeze", [x, g.operand([g.pick(ones)])] if ones and g.maybe(0.8) else [x], exact=True)
    else:
        g.add("Flatten", [x], exact=True, axis=g.integer(-rank, rank))


@maker(1)
def expand(g: Graph) -> None:
    x = g.take(most=4)
    sizes = [g.integer(1, 4) if n == 1 else g.pick([1, n]) for n in g.values[x].shape]
    g.add("Expand", [x, g.operand([g.integer(1, 3)] * g.integer(0, 1) + sizes)], exact=True)


@maker(2.5)
def slice_(g: Graph) -> None:
    x = g.take(least=1)
    axes = some_axes(g, x)
    steps = [g.pick([1, 1, 2, -1, -2]) for _ in axes]
    n = [g.values[x].shape[a] for a in axes]
    starts = [g.integer(-s, s + 1) for s in n]  # further below, NumPy and the standard differ for negative steps
    ends = [g.pick([2**40, -(2**40), g.integer(-s, s)]) for s in n]
    run_time = g.pick([0.0, 0.0, 0.5])
    dtype = "int64"
    g.add("Slice", [x, *(g.operand(v, dtype, run_time) for v in (starts, ends, axes, steps))], exact=True)


@maker(2)
def concat(g: Graph) -> None:
    x = g.take(least=1)
    axis = g.axis(x)
    at = axis % g.values[x].ndim
    own = g.sizes[x]
    others = [g.of(g.values[x].dtype.name, [*own[:at], g.size(), *own[at + 1 :]]) for _ in range(g.integer(0, 2))]
    g.add("Concat", [x, *others], exact=True, axis=axis)


@maker(1.5)
def split(g: Graph) -> None:
    x = g.take(least=1, ok=lambda a: max(a.shape) > 1)
    axis = g.pick([i for i, n in enumerate(g.values[x].shape) if n > 1])
    first = g.integer(0, g.values[x].shape[axis])
    if g.maybe(0.3):
        g.add("Split", [x], 2, exact=True, axis=axis, num_outputs=2)
    else:
        g.add("Split", [x, g.operand([first, g.values[x].shape[axis] - first])], 2, exact=True, axis=axis)


@maker(2)
def pad(g: Graph) -> None:
    x = g.take(NUMBERS, least=1)
    rank = g.values[x].ndim
    mode = g.pick(["constant", "constant", "edge", "reflect", *(["wrap"] if g.opset >= 19 else [])])
    pads = [g.pick([0, 0, 1, 2, -1 if mode == "constant" else 0]) for _ in range(2 * rank)]
    value = g.operand(g.pick([3, 7]), g.values[x].dtype.name) if mode == "constant" and g.maybe() else None
    operands: list[str | None] = [x, g.operand(pads), value]
    if g.maybe(0.3):
        axis = g.axis(x)
        operands = [x, g.operand([pads[0], pads[1]]), value, g.operand([axis])]
    g.add("Pad", operands if any(operands[2:]) else operands[:2], exact=True, mode=mode)


def indices(g: Graph, least: int, sizes: list[int | str], dtype: str = "int64") -> str:
    """Run-time or constant positions below ``least``."""
    if least < 1:
        raise Skip
    if g.maybe(0.5) or not all(isinstance(s, int) for s in sizes):
        return g.input(dtype, sizes, f"below:{least}")
    return g.constant(g.rng.integers(-least, least, [int(s) for s in sizes]), dtype)


@maker(3)
def gather(g: Graph) -> None:
    x = g.take(least=1)
    shape, rank, axis = g.values[x].shape, g.values[x].ndim, g.axis(x)
    named = any(isinstance(s, str) for s in g.sizes[x])
    g.pinned |= named  # an index may be outside at other sizes
    kind = g.integer(0, 2)
    dtype = g.pick(["int64", "int32"])
    if kind == 0:
        sizes = [g.size() for _ in range(g.integer(0, 2))]
        g.add("Gather", [x, indices(g, shape[axis], sizes, dtype)], exact=True, axis=axis)
    elif kind == 1:
        sizes = [g.integer(1, n) if n else 0 for n in shape]
        sizes[axis] = g.integer(1, 5)
        g.add("GatherElements", [x, indices(g, shape[axis], list(sizes), dtype)], exact=True, axis=axis)
    else:
        depth = g.integer(1, rank)
        at = indices(g, min(shape[:depth]), [g.size(), depth])
        g.add("GatherND", [x, at], exact=True)


@maker(2)
def scatter(g: Graph) -> None:
    x = g.take(("float32", "float32", "int64", "int32", "float64"), least=1, ok=lambda a: a.size > 0)
    shape, rank, axis = g.values[x].shape, g.values[x].ndim, g.axis(x)
    g.pinned = True
    dtype = g.values[x].dtype.name
    reduction = g.pick(["none", "none", "add", "mul", "max", "min"])
    if g.maybe():
        sizes = [g.integer(1, n) for n in shape]
        at = g.rng.integers(0, shape[axis], sizes)
        if reduction == "none":  # where one place is written twice, either may win
            at = np.argsort(g.rng.random(sizes), axis=axis)
        places = g.operand(at, run_time=0.5)
        g.add("ScatterElements", [x, places, g.of(dtype, sizes)], axis=axis, reduction=reduction)
        return
    depth = g.integer(1, rank)
    choices = np.stack(np.unravel_index(g.rng.permutation(int(np.prod(shape[:depth]))), shape[:depth]), -1)
    at = choices[: g.integer(1, min(4, len(choices)))]
    g.add("ScatterND", [x, g.operand(at, run_time=0.5), g.of(dtype, [len(at), *shape[depth:]])], reduction=reduction)


@maker(1)
def tile(g: Graph) -> None:
    x = g.take(least=1, most=4)
    g.add("Tile", [x, g.operand([g.integer(0 if g.empty else 1, 2) for _ in g.values[x].shape])], exact=True)


@maker(0.8)
def trilu(g: Graph) -> None:
    x = g.take(least=2)
    k = [g.operand(g.integer(-2, 3))] if g.maybe(0.7) else []
    g.add("Trilu", [x, *k], exact=True, upper=g.integer(0, 1))


@maker(1)
def rearrange(g: Graph) -> None:
    x = g.take(("float32", "float32", "int64"), least=4, most=4)
    kind = g.integer(0, 1)
    block = g.pick([1, 2])
    g.add(*[("SpaceToDepth", [x]), ("DepthToSpace", [x])][kind], exact=True, blocksize=block)


@maker(1.5)
def resize(g: Graph) -> None:
    x = g.take(("float32", "float32", "float32", "uint8"), least=3, most=4, ok=lambda a: min(a.shape) > 0)
    mode = g.pick(["nearest", "linear", "cubic"])
    rank = g.values[x].ndim
    attributes: dict[str, object] = {"mode": mode}
    attributes["coordinate_transformation_mode"] = g.pick(
        ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"]
    )
    if mode == "nearest":
        if x not in g.exact:
            raise Skip
        attributes["nearest_mode"] = g.pick(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
    elif g.values[x].dtype != np.float32:
        raise Skip
    if g.maybe(0.5):
        scales = [1.0, 1.0] + [g.pick([0.5, 1.0, 1.5, 2.0]) for _ in range(rank - 2)]
        g.add("Resize", [x, None, g.operand(scales, "float32", 0.2)], exact=mode == "nearest", **attributes)
    else:
        sizes = [*g.values[x].shape[:2], *(g.integer(1, 7) for _ in range(rank - 2))]
        g.add("Resize", [x, None, None, g.operand(sizes, run_time=0.2)], exact=mode == "nearest", **attributes)


@maker(0.7)
def one_hot(g: Graph) -> None:
    depth = g.integer(1, 6)
    at = indices(g, depth, [g.size() for _ in range(g.integer(0, 2))])
    g.add("OneHot", [at, g.operand(depth), g.constant([2.0, 5.0], "float32")], axis=g.pick([0, -1]))


# -- shapes, data-dependent sizes, order -----------------------------------------------------------------------------


@maker(1)
def shape_arithmetic(g: Graph) -> None:
    x = g.take(least=1)
    (shape,) = g.add("Shape", [x])
    if g.maybe(0.5):
        g.add("ConstantOfShape", [shape])
    elif g.maybe(0.5):
        g.add("Expand", [g.constant(2.5, "float32"), shape])
    else:
        g.add("Size", [x])


@maker(0.8)
def range_(g: Graph) -> None:
    start, step, count = g.integer(-3, 3), g.pick([1, 2, -1]), g.integer(0, 6)
    dtype = g.pick(["int64", "int32", "float32"])
    g.add("Range", [g.operand(v, dtype, 0.4) for v in (start, start + step * count, step)], exact=True)


@maker(1)
def non_zero(g: Graph) -> None:
    g.add("NonZero", [g.take(("float32", "int64", "bool", "int32"), exact=True)])


@maker(1)
def compress(g: Graph) -> None:
    x = g.take(least=1)
    axis = g.axis(x)
    mask = g.input("bool", [g.sizes[x][axis]])
    g.add("Compress", [x, mask], exact=True, axis=axis)


@maker(1.5)
def top_k(g: Graph) -> None:
    x = g.take(("float32", "float64", "int64", "int32"), least=1, exact=True)
    axis = g.axis(x)
    k = g.integer(0, g.values[x].shape[axis])
    # Equal elements: the lower index comes first.
    g.add("TopK", [x, g.operand([k])], 2, exact=True, axis=axis, largest=g.integer(0, 1), sorted=1)


@maker(0.8)
def unique(g: Graph) -> None:
    x = g.take(("float32", "int64", "float64"), least=1, most=3, exact=True, ok=lambda a: a.size > 0)
    axis = {"axis": g.axis(x)} if g.maybe() else {}
    g.add("Unique", [x], g.integer(1, 4), exact=True, sorted=1, **axis)


@maker(0.7)
def reverse_sequence(g: Graph) -> None:
    x = g.take(least=2, ok=lambda a: a.size > 0)
    batch = g.integer(0, 1)
    sizes = g.values[x].shape
    g.pinned = True
    lengths = g.rng.integers(1, sizes[1 - batch] + 1, [sizes[batch]])
    g.add("ReverseSequence", [x, g.operand(lengths, run_time=0.5)], exact=True, batch_axis=batch, time_axis=1 - batch)


@maker(0.7)
def quantize(g: Graph) -> None:
    x = g.take(("float32",), exact=True)
    dtype = g.pick(["uint8", "int8"])
    scale = g.constant(g.pick([0.25, 0.5]), "float32")
    zero = g.constant(g.integer(0, 5), dtype)
    (q,) = g.add("QuantizeLinear", [x, scale, zero])
    if g.maybe():
        g.add("DequantizeLinear", [q, scale, zero])


@maker(0.4)
def dynamic_quantize(g: Graph) -> None:
    g.add("DynamicQuantizeLinear", [g.take(("float32",), least=1, exact=True)], 3)


@maker(0.5)
def determinant(g: Graph) -> None:
    n = g.integer(1, 4)
    g.add("Det", [g.input("float32", [*([g.size()] if g.maybe() else []), n, n])])


def grow(graph: Graph) -> None:
    """Add 1 to 12 operators."""
    weights = np.array([w for w, _ in MAKERS])
    cuts = np.cumsum(weights / weights.sum())
    wanted = graph.pick((1, 1, 2, 3, 4, 6, 8, 12))
    for _ in range(20 * wanted):
        if len(graph.nodes) >= wanted:
            break
        make = MAKERS[min(int(np.searchsorted(cuts, graph.rng.random())), len(MAKERS) - 1)][1]
        try:
            make(graph)
        except Skip:
            continue
