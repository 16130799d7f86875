"""Random models for Ascend NPUs: families of kernels at sizes around the edges of tiles, alone and in chains.

Weights are drawn so that products stay of ordinary size, as multiples of a power of two: most sums are exact, and a
difference is a wrong element rather than a rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.fuzz import makers, quantized
from tests.fuzz.graph import Graph, Skip, draw
from tests.fuzz.oracles import Array

#: Around the edges of fractals, repeats and tiles.
EDGES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 20, 31, 32, 33, 48, 63, 64, 65, 127, 128, 129, 255, 256, 257, 300, 768)
NARROW = tuple(n for n in EDGES if n < 70)
#: Element types that have kernels on the cores.
TYPES = ("float32", "float16", "int32", "int64", "int8", "uint8", "bool")
#: Products of numbers in one node, and elements of a value.
PRODUCTS, ELEMENTS = 6_000_000, 60_000

Family = Callable[["AscendGraph"], object]


class AscendGraph(Graph):
    """Sizes and types of kernels on the cores; one float type a model, as a rule."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.opset = self.pick((21, 21, 22, 23))
        self.empty = False
        self.float = self.pick(("float16", "float16", "float16", "float32"))
        self.most = ELEMENTS
        self.named_sizes = tuple({"N": self.pick(NARROW), "M": self.pick(EDGES)} for _ in range(2))

    def size(self) -> int | str:
        if self.named and self.maybe(0.35):
            return str(self.pick(["N", "M"]))
        return int(self.pick(NARROW if self.maybe(0.6) else EDGES))

    def take(self, dtypes: Sequence[str] = (), *given: Any, **more: Any) -> str:
        """As ever, of types that the cores compute with: for several floats the model's own one, as a rule."""
        wanted = [d for d in (dtypes or TYPES) if d in TYPES]
        if self.float in wanted and self.maybe(0.8):
            wanted = [self.float, *(d for d in wanted if not d.startswith("float"))]
        if not wanted:
            raise Skip
        return super().take(wanted, *given, **more)

    def input(self, dtype: str, sizes: Sequence[int | str], kind: str = "any", array: Array | None = None) -> str:
        """A new run-time input; integers may have any size."""
        wide = kind == "any" and dtype in ("int8", "uint8", "int32", "int64") and self.maybe(0.3)
        return super().input(dtype, sizes, "wide" if wide else kind, array)

    def add(
        self, op: str, inputs: Sequence[str | None], outputs: int = 1, exact: bool = False, **attributes: Any
    ) -> list[str]:
        """As ever; long products of floats overflow in one order and not in another."""
        if op == "ReduceProd" and self.values[str(inputs[0])].size > 64:
            raise Skip
        return super().add(op, inputs, outputs, exact, **attributes)

    def feeds(self) -> list[dict[str, Array]]:
        """Without runs at sizes that take minutes to simulate."""
        first, *others = super().feeds()
        return [first, *(run for run in others if all(a.size <= 2 * self.most for a in run.values()))]

    def comparable(self, array: Array) -> bool:
        """Masks are infinite."""
        return super().comparable(np.where(np.isneginf(array), 0, array) if array.dtype.kind == "f" else array)

    def operand(self, array: Any, dtype: str = "int64", run_time: float = 0.3) -> str:
        """Axes, shapes and pads are constants, as a rule: computed ones are the host's."""
        return super().operand(array, dtype, run_time / 8)

    def rows(self, least: int = 2, most: int = 4) -> str:
        """A value whose last axis has a size of its own."""
        return self.take((self.float,), least, most, ok=lambda a: a.shape[-1] > 1)

    def weight(self, shape: Sequence[int], depth: int) -> str:
        """A constant that is summed ``depth`` times, or an input of the same contents."""
        values = draw(self.rng, "float32", shape) * 2.0 ** -np.ceil(np.log2(2 * np.sqrt(depth)) + 0.5)
        if self.maybe(0.15):
            return self.input(self.float, tuple(shape), "fixed", values.astype(self.float))
        return self.constant(values, self.float)

    def number(self, low: float, high: float) -> str:
        """A constant scalar, a multiple of 1/64."""
        return self.constant(round(float(self.rng.uniform(low, high)) * 64) / 64, self.float)


def bounded(*sizes: int) -> None:
    """Raise :class:`Skip` for more products than are simulated in moments."""
    if np.prod([float(n) for n in sizes]) > PRODUCTS:
        raise Skip


# -- what stands around products -------------------------------------------------------------------------------------


def activation(g: AscendGraph, x: str) -> str:
    """One of the functions that models put behind a layer."""
    match g.integer(0, 5):
        case 0:
            return g.add("Relu", [x])[0]
        case 1:
            return g.add("Gelu", [x], approximate=g.pick(["none", "tanh"]))[0]
        case 2:
            return g.add("Mul", [x, g.add("Sigmoid", [x])[0]])[0]
        case 3:
            return g.add("Clip", [x, g.number(-2, 0), g.number(1, 3)])[0]
        case 4:
            return g.add(g.pick(["Tanh", "Sigmoid", "Erf", "HardSwish", "LeakyRelu"]), [x])[0]
        case _:
            return g.add("Mul", [x, g.number(0.25, 2)])[0]


def epilogue(g: AscendGraph, y: str, channels: Sequence[int] | None = None) -> str:
    """Bias, scale, residual and activation, some of them in some order."""
    shape, dtype = g.values[y].shape, g.values[y].dtype.name
    for _ in range(g.pick([0, 1, 1, 2, 2, 3])):
        match g.integer(0, 3):
            case 0:
                bias = g.constant(draw(g.rng, dtype, channels or shape[-1:]), dtype)
                (y,) = g.add("Add", [y, bias] if g.maybe() else [bias, y])
            case 1:
                scale = g.constant(draw(g.rng, dtype, channels or shape[-1:]), dtype)
                (y,) = g.add("Mul", [y, scale])
            case 2:
                (y,) = g.add(g.pick(["Add", "Sub", "Add"]), [y, g.input(dtype, g.sizes[y])])
            case _:
                y = activation(g, y)
    return y


# -- families --------------------------------------------------------------------------------------------------------


def dense(g: AscendGraph) -> None:
    """A product with a constant matrix."""
    x = g.rows()
    value, n = g.values[x], int(g.pick(EDGES))
    bounded(value.size, n)
    k = value.shape[-1]
    if not isinstance(g.sizes[x][-1], int):
        raise Skip
    if value.ndim == 2 and g.maybe(0.4):
        turned = g.integer(0, 1)
        w = g.weight((n, k) if turned else (k, n), k)
        c = [g.constant(draw(g.rng, g.float, g.pick([(n,), (1, n), ()])), g.float)] if g.maybe(0.7) else []
        factors = {"alpha": 0.5, "beta": 2.0} if g.maybe(0.2) else {}
        y = g.add("Gemm", [x, w, *c], transB=turned, **factors)[0]
    else:
        w = g.weight((k, n), k) if g.maybe(0.8) else g.add("Transpose", [g.weight((n, k), k)], perm=[1, 0])[0]
        y = g.add("MatMul", [x, w])[0]
    epilogue(g, y)


def batched(g: AscendGraph) -> None:
    """A product of two computed tensors, either of them turned."""
    batch = [g.pick([1, 2, 3]) for _ in range(g.integer(0, 2))]
    m, k, n = g.size(), int(g.pick(NARROW)), g.size()
    one, two = ([s if g.maybe(0.8) else 1 for s in batch] for _ in range(2))
    fixed = g.named_sizes[0]
    bounded(*batch, *(fixed[s] if isinstance(s, str) else s for s in (m, k, n)))
    turned = g.maybe(0.4), g.maybe(0.4)
    a = g.input(g.float, [*one, k, m] if turned[0] else [*one, m, k])
    b = g.input(g.float, [*two, n, k] if turned[1] else [*two, k, n])
    factor = g.constant(2.0 ** -round(np.log2(k) / 2 + 1), g.float)
    names = []
    for name, turn in zip((a, b), turned, strict=True):
        rank = g.values[name].ndim
        perm = [*range(rank - 2), rank - 1, rank - 2]
        names.append(g.add("Transpose", [name], perm=perm)[0] if turn else name)
    y = g.add("MatMul", names)[0]
    epilogue(g, g.add("Mul", [y, factor])[0])


def integers(g: AscendGraph) -> None:
    """A quantized product between Q and DQ of its operands and its result."""
    x = g.rows()
    value, n = g.values[x], int(g.pick(EDGES))
    bounded(value.size, n)
    k = value.shape[-1]
    if not isinstance(g.sizes[x][-1], int) or value.dtype != np.float32:
        (x,) = g.add("Cast", [x], to=1)
    if not isinstance(g.sizes[x][-1], int):
        raise Skip
    low = g.pick(["int8", "int8", "int8", "uint8"])
    x = quantize(g, x, low, 1 / 32)
    several = (n,) if g.maybe(0.7) else ()
    scale = g.constant(g.rng.uniform(0.2, 1.0, several) / np.sqrt(k) / 40, "float32")
    w = g.constant(g.rng.integers(-64, 64, (k, n)), "int8")
    w = g.add("DequantizeLinear", [w, scale, g.constant(np.zeros(several), "int8")], axis=1)[0]
    y = g.add("MatMul", [x, w])[0]
    if g.maybe(0.6):
        y = g.add("Add", [y, g.constant(g.rng.uniform(-1, 1, n), "float32")])[0]
    if g.maybe(0.4):
        y = g.add("Relu", [y])[0]
    if g.maybe(0.7):
        quantize(g, y, low, 1 / 16)


def quantize(g: AscendGraph, x: str, low: str, step: float) -> str:
    """``x`` through Q and DQ."""
    scale = g.constant(step * g.rng.uniform(0.5, 1.5), "float32")
    zero = g.constant(g.integer(-5, 5) if low == "int8" else g.integer(100, 140), low)
    return g.add("DequantizeLinear", [g.add("QuantizeLinear", [x, scale, zero])[0], scale, zero])[0]


def narrow(g: AscendGraph) -> None:
    """Weights of 8 or 4 bits beside activations in floats: a scale for all, for columns, or for groups of rows."""
    import ml_dtypes

    g.float = "float16"
    m, k, n = g.size(), int(g.pick([16, 32, 48, 64, 128, 256, 96, 160])), int(g.pick(EDGES))
    bounded(g.named_sizes[0][m] if isinstance(m, str) else m, k, n)
    x = g.input(g.float, [m, k])
    low = g.pick(["int8", "int4", "int4"])
    reach = 127 if low == "int8" else 7
    group = g.pick([0, 0, 16, 32, 64])
    group = group if group and k % group == 0 else 0
    shape = (k // group, n) if group else (n,) if g.maybe(0.8) else ()
    scale = g.constant(2.0 ** -np.ceil(g.rng.uniform(0, 2, shape) + np.log2(np.sqrt(k) * reach / 4)), g.float)
    values = g.rng.integers(-reach - 1, reach + 1, (k, n)).astype(np.int8)
    zeros = g.rng.integers(-3, 4, shape).astype(np.int8)
    dtype = np.dtype(ml_dtypes.int4) if low == "int4" else np.dtype(np.int8)
    inputs = [stored(g, values, dtype), scale]
    if g.maybe(0.5):
        inputs.append(stored(g, zeros, dtype))
    more = {"block_size": group, "axis": 0} if group else {"axis": 1}
    y = g.add("MatMul", [x, g.add("DequantizeLinear", inputs, **more)[0]])[0]
    epilogue(g, y)


def stored(g: AscendGraph, values: Array, dtype: Any) -> str:
    """A constant of a type that NumPy may lack."""
    name = g.constant(values, "int8")
    g.constants[name] = g.values[name] = values.astype(dtype)
    return name


def convolution(g: AscendGraph) -> None:
    """Images with kernels of all kinds."""
    channels, filters = g.pick([1, 3, 4, 8, 15, 16, 20, 32, 64]), g.pick([1, 8, 16, 17, 20, 32, 64])
    flat = g.maybe(0.15)
    kernel = g.pick([[1, 1], [1, 1], [3, 3], [3, 3], [2, 2], [5, 5], [7, 7], [1, 3]])
    image = [g.pick([1, 4, 7, 8, 9, 14, 15, 16, 17, 28]) for _ in range(2)]
    if flat:
        kernel, image = kernel[1:], [g.pick([16, 17, 33, 100])]
    batch = g.pick([1, 1, 2, 3, "N"]) if g.named else g.pick([1, 2, 3])
    group = g.pick([1, 1, 1, 1, channels, 2])
    if channels % group or filters % group:
        group = 1
    attributes: dict[str, Any] = {"strides": [g.pick([1, 1, 1, 2, 3]) for _ in kernel], "group": group}
    attributes["dilations"] = [g.pick([1, 1, 1, 2]) for _ in kernel]
    attributes["pads"] = [g.integer(0, n // 2) for n in (*kernel, *kernel)]
    spans = [(n - 1) * d + 1 for n, d in zip(kernel, attributes["dilations"], strict=True)]
    if any(span > size for span, size in zip(spans, image, strict=True)):
        raise Skip
    count = g.named_sizes[0]["N"] if batch == "N" else batch
    bounded(count, channels // group, filters, *kernel, *image)
    if count * max(channels, filters) * np.prod(image) > g.most:
        raise Skip
    x = g.input(g.float, [batch, channels, *image])
    w = g.weight((filters, channels // group, *kernel), channels // group * int(np.prod(kernel)))
    bias = [g.constant(draw(g.rng, g.float, (filters,)), g.float)] if g.maybe(0.7) else []
    y = g.add("Conv", [x, w, *bias], **attributes)[0]
    y = epilogue(g, y, (filters, *(1 for _ in image)))
    if group == 1 and g.maybe(0.3):
        w = g.weight((g.pick([8, 16, 17, 32]), filters, *(1 for _ in image)), filters)
        bounded(g.values[y].size, g.values[w].shape[0])
        epilogue(g, g.add("Conv", [y, w])[0], (g.values[w].shape[0], *(1 for _ in image)))


def attention(g: AscendGraph) -> None:
    """Scores, a mask, a softmax and values; heads may share keys."""
    batch, shared, each = g.pick([1, 1, 2]), g.pick([1, 2, 3]), g.pick([1, 1, 1, 2, 4])
    width, wide = g.pick([8, 16, 20, 32, 64]), g.pick([16, 32, 40, 64])
    s, t = (int(g.pick([1, 3, 15, 16, 17, 33, 64, 65, 129])) for _ in range(2))
    if g.maybe(0.4):
        s = t
    heads = shared * each
    bounded(batch * heads, s, t, width + wide)
    q = g.input(g.float, [batch, heads, s, width])
    k = g.input(g.float, [batch, shared, t, width])
    v = g.input(g.float, [batch, shared, t, wide])
    if each > 1:
        k, v = (repeated(g, name, batch, shared, each) for name in (k, v))
    scores = g.add("MatMul", [q, g.add("Transpose", [k], perm=[0, 1, 3, 2])[0]])[0]
    scores = g.add(g.pick(["Mul", "Mul", "Div"]), [scores, g.constant(2.0 ** -round(np.log2(width) / 2), g.float)])[0]
    low = g.pick([-1000.0, -np.inf])
    match g.integer(0, 3):
        case 0:
            mask = g.constant(np.triu(np.full((s, t), low), 1 + max(0, t - s)), g.float)
            scores = g.add("Add", [scores, mask])[0]
        case 1:
            mask = g.constant(np.tril(np.ones((s, t), bool), max(0, t - s)), "bool")
            scores = g.add("Where", [mask, scores, g.constant(low, g.float)])[0]
        case 2:
            scores = g.add("Add", [scores, g.input(g.float, [batch, 1, g.pick([1, s]), t])])[0]
    g.add("MatMul", [g.add("Softmax", [scores], axis=-1)[0], v])


def repeated(g: AscendGraph, name: str, batch: int, shared: int, each: int) -> str:
    """Keys or values, once for each head that shares them."""
    length, width = g.values[name].shape[-2:]
    (wide,) = g.add("Unsqueeze", [name, g.constant([2])])
    (wide,) = g.add("Expand", [wide, g.constant([batch, shared, each, length, width])])
    return g.add("Reshape", [wide, g.constant([batch, shared * each, length, width])])[0]


def norm(g: AscendGraph) -> None:
    """Softmax, layer norm or RMS norm along rows, of which some are very long."""
    long = g.maybe(0.25)
    width = g.pick([1000, 2049, 4096, 5001, 8191, 9000]) if long else int(g.pick(EDGES))
    rows = [g.integer(1, 5)] if long else [g.size() for _ in range(g.integer(1, 2))]
    fixed = [g.named_sizes[0][s] if isinstance(s, str) else s for s in (*rows, width)]
    if np.prod(fixed) > g.most:
        raise Skip
    x = g.input(g.float, [*rows, width])
    if g.maybe(0.3):
        x = g.add("Add", [x, g.input(g.float, [*rows, width])])[0]
    factor = g.constant(draw(g.rng, g.float, (width,)), g.float)
    match g.integer(0, 3):
        case 0:
            g.add("Softmax", [x], axis=-1)
        case 1:
            bias = [g.constant(draw(g.rng, g.float, (width,)), g.float)] if g.maybe(0.7) else []
            g.add("LayerNormalization", [x, factor, *bias], axis=-1, epsilon=1e-5)
        case 2:
            wide = g.add("Cast", [x], to=1)[0]
            mean = g.add("ReduceMean", [g.add("Mul", [wide, wide])[0], g.constant([-1])], keepdims=1)[0]
            root = g.add("Sqrt", [g.add("Add", [mean, g.constant(1e-5, "float32")])[0]])[0]
            to = 10 if g.float == "float16" else 1
            g.add("Mul", [g.add("Cast", [g.add("Div", [wide, root])[0]], to=to)[0], factor])
        case _:
            op = g.pick(["ReduceSum", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceL2"])
            g.add(op, [x, g.constant([-1])], keepdims=g.integer(0, 1))


def rotary(g: AscendGraph) -> None:
    """Halves of rows turned into one another."""
    heads, rows, half = g.integer(1, 4), g.size(), g.pick([8, 16, 20, 32])
    x = g.input(g.float, [1, heads, rows, 2 * half])
    tables = [g.input(g.float, [rows, 2 * half]) for _ in range(2)]
    if g.maybe():
        low, high = g.add("Split", [x, g.constant([half, half])], 2, axis=3)
    else:
        cut = [([0], [half]), ([half], [2**40])]
        low, high = (g.add("Slice", [x, *map(g.constant, c), g.constant([3])])[0] for c in cut)
    other = g.add("Concat", [g.add("Neg", [high])[0], low], axis=-1)[0]
    g.add("Add", [g.add("Mul", [x, tables[0]])[0], g.add("Mul", [other, tables[1]])[0]])


def embedding(g: AscendGraph) -> None:
    """Rows of a table by run-time numbers, and a sum with rows by their place."""
    words, width = g.pick([5, 30, 100]), int(g.pick(NARROW))
    table = g.constant(draw(g.rng, g.float, (words, width)), g.float)
    at = g.input(g.pick(["int64", "int32"]), [g.integer(1, 3), g.size()], f"below:{words}")
    y = g.add("Gather", [table, at], axis=0)[0]
    if g.maybe():
        y = g.add("Add", [y, g.input(g.float, g.sizes[y][1:])])[0]
    if g.maybe(0.3):
        g.add("LayerNormalization", [y, g.constant(draw(g.rng, g.float, (width,)), g.float)], axis=-1, epsilon=1e-5)


def any_operator(g: AscendGraph) -> None:
    """One of the operators that models of every target are made of."""
    made = len(g.nodes)
    for _ in range(40):
        try:
            g.pick(GENERAL)(g)
        except Skip:
            continue
        if len(g.nodes) > made:
            return
    raise Skip


def quantized_network(g: AscendGraph) -> None:
    """A small network as exporters of quantized models write it."""
    quantized.grow(g)


#: Those of the general operators that kernels of the cores are made of, as often as they are drawn.
GENERAL: tuple[Callable[[Graph], object], ...] = tuple(
    function
    for name, count in (
        ("unary", 3), ("exact_unary", 2), ("binary", 4), ("divide", 1), ("variadic", 1), ("compare", 2), ("logic", 1),
        ("bits", 1), ("where", 2), ("cast", 2), ("clip", 1), ("prelu", 1), ("reduce", 3), ("arg_extremum", 1),
        ("softmax", 2), ("cumulative", 1), ("layer_norm", 1), ("channel_norm", 1), ("matmul", 2), ("gemm", 1),
        ("einsum", 1), ("conv", 1), ("pool", 2), ("transpose", 3), ("reshape", 2), ("axes_in_and_out", 1),
        ("expand", 1), ("slice_", 2), ("concat", 2), ("split", 2), ("pad", 2), ("gather", 3), ("scatter", 1),
        ("tile", 1), ("trilu", 1), ("rearrange", 1), ("quantize", 1),
    )
    for function in [getattr(makers, name)] * count
)  # fmt: skip

#: Families as often as they begin a model.
FAMILIES: tuple[Family, ...] = (
    dense, dense, dense, batched, batched, integers, narrow, convolution, convolution, convolution, attention,
    attention, norm, norm, rotary, embedding, any_operator, any_operator, any_operator, any_operator, any_operator,
    quantized_network,
)  # fmt: skip


def grow(g: AscendGraph) -> None:
    """One family, and up to three operators or another family behind it."""
    wanted = g.pick([1, 1, 1, 2, 2, 3, 4])
    begin = g.pick(FAMILIES)
    for n in range(8 * wanted):
        family = begin if n < 6 and not g.nodes else g.pick([any_operator, any_operator, dense, norm])
        try:
            family(g)
        except Skip:
            continue
        wanted -= 1
        if not wanted:
            break
