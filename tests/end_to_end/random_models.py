"""Random valid models: small graphs over named and fixed sizes, and what to feed them.

A size is the tuple of its values under each of the assignments of :data:`ASSIGNMENTS`, so that sums and products of
sizes need no algebra here. Floats start as multiples of 1/4: ties happen, and comparing or rounding them is exact as
long as nothing but movement and small sums came before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Size = tuple[int, ...]
Shape = tuple[Size, ...]

#: Values of the named sizes in each run; the last two are for sizes that coincide and are 1.
ASSIGNMENTS: tuple[dict[str, int], ...] = ({"N": 5, "M": 19}, {"N": 11, "M": 3}, {"N": 7, "M": 7}, {"N": 1, "M": 1})
FIXED = (1, 1, 2, 3, 4, 5, 7, 8, 8, 16, 17, 33, 70)
NAMED = {name: tuple(a[name] for a in ASSIGNMENTS) for name in ASSIGNMENTS[0]}
LIMIT = 20_000
#: First opset of operators that the oldest tried one does not have.
SINCE = {"Trilu": 14, "LayerNormalization": 17}

F32, I64, I32, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL
NUMPY = {F32: np.float32, I64: np.int64, I32: np.int32, BOOL: np.bool_}


def fixed(n: int) -> Size:
    """A size that is the same in every run."""
    return (n,) * len(ASSIGNMENTS)


def is_fixed(size: Size) -> bool:
    return len(set(size)) == 1


@dataclass(frozen=True)
class Tensor:
    """A value of the model under construction; ``exact`` when it has no rounding error."""

    name: str
    dtype: int
    shape: Shape
    exact: bool = True
    large: bool = False

    @property
    def elements(self) -> int:
        return max(int(np.prod([d[a] for d in self.shape])) for a in range(len(ASSIGNMENTS)))


@dataclass
class Model:
    """A model under construction. ``seed`` fixes everything."""

    seed: int
    opset: int = 17
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    pool: list[Tensor] = field(default_factory=list)
    prefix: str = ""
    count: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    # -- choices -------------------------------------------------------------------------------------------------

    def pick(self, items: Any) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def maybe(self, chance: float = 0.5) -> bool:
        return bool(self.rng.random() < chance)

    def integer(self, low: int, high: int) -> int:
        """Between ``low`` and ``high``, both included."""
        return int(self.rng.integers(low, high + 1))

    def size(self) -> Size:
        return NAMED[self.pick(list(NAMED))] if self.maybe(0.35) else fixed(self.pick(FIXED))

    def shape(self, rank: int) -> Shape:
        while True:
            result = tuple(self.size() for _ in range(rank))
            if Tensor("", F32, result).elements <= LIMIT:
                return result

    def fresh(self) -> str:
        self.count += 1
        return f"{self.prefix}v{self.count}"

    # -- values --------------------------------------------------------------------------------------------------

    def input(self, dtype: int, shape: Shape) -> Tensor:
        if not all(is_fixed(d) or d in NAMED.values() for d in shape):
            raise Skip  # a size of its own cannot be declared
        t = Tensor(f"{self.prefix}in{len(self.inputs)}", dtype, shape)
        self.inputs.append(t)
        self.pool.append(t)
        return t

    def constant(self, array: np.ndarray[Any, Any], pooled: bool = False) -> Tensor:
        name = self.fresh()
        self.constants.append(numpy_helper.from_array(array, name))
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        t = Tensor(name, dtype, tuple(fixed(n) for n in array.shape))
        if pooled:
            self.pool.append(t)
        return t

    def of_shape(self, dtype: int, shape: Shape) -> Tensor:
        """A constant of ``shape`` when it is fixed, else an input."""
        if all(is_fixed(d) for d in shape) and self.maybe(0.6):
            return self.constant(values(self.rng, dtype, [d[0] for d in shape]))
        return self.input(dtype, shape)

    def any(self, *dtypes: int, least: int = 0, most: int = 6, exact: bool = False, ok: Any = None) -> Tensor:
        """A value of one of the element types and a rank in ``least..most``; new when there is none."""
        found = [
            t
            for t in self.pool[-12:]
            if t.dtype in (dtypes or NUMPY)
            and least <= len(t.shape) <= most
            and (t.exact or not exact)
            and (ok is None or ok(t))
        ]
        if found and self.maybe(0.9):
            return self.pick(found)
        for _ in range(50):
            t = Tensor("", self.pick(dtypes or (F32,)), self.shape(self.integer(least, min(most, max(least, 4)))))
            if ok is None or ok(t):
                return self.input(t.dtype, t.shape)
        raise Skip

    def add(
        self,
        op: str,
        inputs: Any,
        *types: tuple[int, Shape],
        exact: bool = False,
        large: bool = False,
        **attributes: Any,
    ) -> list[Tensor]:
        if self.opset < SINCE.get(op, 0):
            raise Skip
        outs = [Tensor(self.fresh(), dtype, shape, exact, large) for dtype, shape in types]
        if any(t.elements > 4 * LIMIT for t in outs):
            raise Skip
        names = ["" if t is None else t.name for t in inputs]
        self.nodes.append(
            helper.make_node(op, names, [t.name for t in outs], name=f"{op}_{outs[0].name}", **attributes)
        )
        self.pool += outs
        return outs


class Skip(Exception):
    """The chosen operator does not fit what there is."""


def values(rng: np.random.Generator, dtype: int, shape: list[int]) -> np.ndarray[Any, Any]:
    """Contents of an input or constant."""
    if dtype == BOOL:
        return np.asarray(rng.random(shape) < 0.6)
    if dtype == F32:
        return np.asarray(rng.integers(-10, 11, shape) / 4, np.float32)
    return np.asarray(rng.integers(-9, 10, shape), NUMPY[dtype])


Maker = Callable[[Model], Any]
MAKERS: list[tuple[float, Maker]] = []


def maker(weight: float = 1.0) -> Callable[[Maker], Maker]:
    """Register a function that adds an operator."""

    def register(function: Maker) -> Maker:
        MAKERS.append((weight, function))
        return function

    return register


def broadcast(a: Shape, b: Shape) -> Shape:
    one = fixed(1)
    rank = max(len(a), len(b))
    a, b = (one,) * (rank - len(a)) + a, (one,) * (rank - len(b)) + b
    return tuple(y if x == one else x for x, y in zip(a, b, strict=True))


def fits(a: Shape, b: Shape) -> bool:
    one = fixed(1)
    return all(x == y or one in (x, y) for x, y in zip(a[::-1], b[::-1], strict=False))


def partner(m: Model, x: Tensor, dtype: int | None = None, exact: bool = False) -> Tensor:
    """Something that broadcasts with ``x``: there already, or new."""
    dtype = dtype or x.dtype
    found = [t for t in m.pool[-12:] if t.dtype == dtype and fits(t.shape, x.shape) and (t.exact or not exact)]
    if found and m.maybe(0.7):
        return m.pick(found)
    shape = tuple(d if m.maybe(0.7) else fixed(1) for d in x.shape)[m.integer(0, len(x.shape)) if m.maybe() else 0 :]
    return m.of_shape(dtype, shape)


SMOOTH = "Abs Neg Tanh Sigmoid Relu LeakyRelu Elu Selu Celu Softplus Softsign HardSigmoid Erf Sin Cos Atan".split()
EXACT_UNARY = "Abs Neg Relu Floor Ceil Round Sign Identity".split()


@maker(3)
def unary(m: Model) -> None:
    x = m.any(F32)
    if x.exact and m.maybe(0.5):
        m.add(m.pick(EXACT_UNARY), [x], (F32, x.shape), exact=True, large=x.large)
    else:
        op = "Tanh" if x.large else m.pick(SMOOTH)
        m.add(op, [x], (F32, x.shape))


@maker(4)
def binary(m: Model) -> None:
    x = m.any(F32, I64, I32)
    y = partner(m, x)
    ops = ["Add", "Sub", "Mul"] if x.dtype != F32 or not (x.large or y.large) else ["Add", "Sub"]
    op = m.pick([*ops, "Max", "Min"])
    pair = [x, y] if m.maybe() else [y, x]
    exact = x.exact and y.exact and (x.dtype != F32 or op != "Mul")
    m.add(op, pair, (x.dtype, broadcast(x.shape, y.shape)), exact=exact, large=x.large or y.large or op == "Mul")


@maker(1)
def divide(m: Model) -> None:
    x = m.any(F32, I64, I32)
    n = m.integer(1, 3)
    array = np.array([3, -4, 7, -2, 5][:n] if n > 1 else [m.pick([2, -3, 8, 1, -1])], NUMPY[x.dtype])
    if n > 1 and (not x.shape or x.shape[-1] not in (fixed(1), fixed(n))):
        array = array[:1]
    d = m.constant(array)
    shape = broadcast(x.shape, d.shape)
    if x.dtype == F32:
        m.add("Div", [x, d], (F32, shape), large=x.large)
    elif m.maybe():
        m.add("Mod", [x, d], (x.dtype, shape), exact=True, fmod=m.integer(0, 1))
    else:
        m.add("Div", [x, d], (x.dtype, shape), exact=True)


@maker(1.5)
def compare(m: Model) -> None:
    x = m.any(F32, I64, I32, exact=True)
    y = partner(m, x, exact=True)
    op = m.pick("Equal Less LessOrEqual Greater GreaterOrEqual".split())
    m.add(op, [x, y], (BOOL, broadcast(x.shape, y.shape)), exact=True)


@maker(1)
def logic(m: Model) -> None:
    x = m.any(BOOL)
    if m.maybe(0.3):
        m.add("Not", [x], (BOOL, x.shape), exact=True)
    else:
        y = partner(m, x)
        m.add(m.pick(["And", "Or", "Xor"]), [x, y], (BOOL, broadcast(x.shape, y.shape)), exact=True)


@maker(1.5)
def where(m: Model) -> None:
    x = m.any(F32, I64, I32)
    y = partner(m, x)
    shape = broadcast(x.shape, y.shape)
    c = partner(m, Tensor("", BOOL, shape))
    m.add("Where", [c, x, y], (x.dtype, broadcast(shape, c.shape)), exact=x.exact and y.exact, large=x.large or y.large)


@maker(1.5)
def cast(m: Model) -> None:
    x = m.any(exact=True)
    to = m.pick([t for t in NUMPY if t != x.dtype])
    if x.large and x.dtype != BOOL and to != I64:
        raise Skip
    m.add("Cast", [x], (to, x.shape), exact=not (x.large and to == F32), large=x.large, to=to)


@maker(0.7)
def clip(m: Model) -> None:
    x = m.any(F32)
    lo = m.constant(np.float32(-0.5)) if m.maybe(0.8) else None
    hi = m.constant(np.float32(m.pick([0.75, -1.0]))) if m.maybe(0.7) else None
    m.add("Clip", [x, lo, hi], (F32, x.shape), exact=x.exact, large=x.large)


def tame(x: Tensor) -> bool:
    return not x.large


@maker(2.5)
def reduce(m: Model) -> None:
    x = m.any(F32, least=1)
    ops = ["Max", "Min"] if x.large else "Sum Mean Max Min SumSquare L1 L2 LogSumExp".split()
    op = m.pick(ops)
    axes = sorted(m.rng.choice(len(x.shape), m.integer(1, len(x.shape)), replace=False).tolist())
    keep = m.integer(0, 1)
    shape = tuple(fixed(1) if i in axes else d for i, d in enumerate(x.shape) if keep or i not in axes)
    given = [a - len(x.shape) if m.maybe(0.3) else a for a in axes]
    large = x.large or op in ("Sum", "SumSquare", "L1")
    exact = x.exact and op in ("Max", "Min")
    name = f"Reduce{op}"
    everything = len(axes) == len(x.shape) and m.maybe(0.4)
    if m.opset < 18 and op != "Sum":
        attributes = {} if everything else {"axes": given}
        m.add(name, [x], (F32, shape), exact=exact, large=large, keepdims=keep, **attributes)
    else:
        inputs = [x] if everything else [x, m.constant(np.array(given, np.int64))]
        m.add(name, inputs, (F32, shape), exact=exact, large=large, keepdims=keep)


@maker(0.7)
def arg_extremum(m: Model) -> None:
    x = m.any(F32, I32, I64, least=1, exact=True)
    axis, keep = m.integer(-len(x.shape), len(x.shape) - 1), m.integer(0, 1)
    at = axis % len(x.shape)
    shape = x.shape[:at] + ((fixed(1),) if keep else ()) + x.shape[at + 1 :]
    if x.dtype == I64:
        raise Skip  # ONNX Runtime has no such kernel
    m.add(m.pick(["ArgMax", "ArgMin"]), [x], (I64, shape), exact=True, axis=axis, keepdims=keep)


@maker(1.5)
def softmax(m: Model) -> None:
    x = m.any(F32, least=1, ok=tame)
    axis = m.integer(-len(x.shape), len(x.shape) - 1) if m.maybe() else -1
    m.add(m.pick(["Softmax", "Softmax", "LogSoftmax"]), [x], (F32, x.shape), axis=axis)


@maker(1)
def layer_norm(m: Model) -> None:
    x = m.any(F32, least=1, ok=lambda t: tame(t) and is_fixed(t.shape[-1]))
    axis = len(x.shape) - 1
    while axis > 0 and is_fixed(x.shape[axis - 1]) and m.maybe(0.3):
        axis -= 1
    scale = m.of_shape(F32, x.shape[axis:])
    bias = m.of_shape(F32, x.shape[axis:]) if m.maybe(0.7) else None
    m.add("LayerNormalization", [x, scale, bias], (F32, x.shape), axis=axis, epsilon=0.01)


@maker(2.5)
def matmul(m: Model) -> None:
    x = m.any(F32, least=1, most=4, ok=tame)
    k = x.shape[-1]
    found = [
        t
        for t in m.pool[-12:]
        if t.dtype == F32
        and not t.large
        and len(t.shape) >= 2
        and t.shape[-2] == k
        and fits(t.shape[:-2], x.shape[:-2])
    ]
    if found and m.maybe(0.8):
        y = m.pick(found)
    elif m.maybe(0.25) and len(x.shape) >= 2:
        order = [*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2]
        (y,) = m.add("Transpose", [x], (F32, tuple(x.shape[i] for i in order)), exact=x.exact, perm=order)
    else:
        y = m.of_shape(F32, (k, m.size()) if m.maybe(0.85) else (k,))
    batch = broadcast(x.shape[:-2], y.shape[:-2])
    shape = batch + (x.shape[-2:-1]) + (y.shape[-1:] if len(y.shape) > 1 else ())
    m.add("MatMul", [x, y], (F32, shape), large=True)


@maker(1)
def gemm(m: Model) -> None:
    x = m.any(F32, least=2, most=2, ok=tame)
    ta, tb = m.integer(0, 1), m.integer(0, 1)
    rows, k = x.shape[::-1] if ta else x.shape
    n = m.size()
    y = m.of_shape(F32, (n, k) if tb else (k, n))
    c = m.of_shape(F32, m.pick([(n,), (rows, n), (rows, fixed(1)), (fixed(1), n), ()])) if m.maybe(0.7) else None
    more = {"alpha": 0.5, "beta": -1.5} if m.maybe() else {}
    m.add("Gemm", [x, y, c], (F32, (rows, n)), large=True, transA=ta, transB=tb, **more)


@maker(1.5)
def conv(m: Model) -> None:
    spatial = m.integer(1, 2)
    x = m.any(F32, least=spatial + 2, most=spatial + 2, ok=lambda t: tame(t) and all(map(is_fixed, t.shape[1:])))
    channels, sizes = x.shape[1][0], [d[0] for d in x.shape[2:]]
    groups = m.pick([g for g in (1, 2, channels) if channels % g == 0])
    window = [m.integer(1, min(3, s)) for s in sizes]
    strides, dilations = [m.integer(1, 2) for _ in sizes], [1] * spatial
    pads = [m.integer(0, k - 1) for k in window] + [m.integer(0, k - 1) for k in window]
    if all(2 * (k - 1) + 1 <= s for k, s in zip(window, sizes, strict=True)) and m.maybe(0.3):
        dilations = [2] * spatial
    out = [
        (s + pads[i] + pads[i + spatial] - dilations[i] * (window[i] - 1) - 1) // strides[i] + 1
        for i, s in enumerate(sizes)
    ]
    shape = x.shape[:1]
    if m.maybe(0.6):
        features = groups * m.integer(1, 5)
        w = m.of_shape(F32, tuple(map(fixed, (features, channels // groups, *window))))
        b = m.of_shape(F32, (fixed(features),)) if m.maybe() else None
        shape += tuple(map(fixed, (features, *out)))
        m.add(
            "Conv", [x, w, b], (F32, shape), large=True, group=groups, strides=strides, pads=pads, dilations=dilations,
            kernel_shape=window,
        )  # fmt: skip
        return
    out = [(s + pads[i] + pads[i + spatial] - window[i]) // strides[i] + 1 for i, s in enumerate(sizes)]
    shape = (*x.shape[:2], *map(fixed, out))
    op = m.pick(["MaxPool", "AveragePool"])
    more = {"count_include_pad": m.integer(0, 1)} if op == "AveragePool" else {}
    m.add(
        op,
        [x],
        (F32, shape),
        exact=op == "MaxPool" and x.exact,
        kernel_shape=window,
        strides=strides,
        pads=pads,
        **more,
    )


@maker(2)
def transpose(m: Model) -> None:
    x = m.any(least=1)
    order = m.rng.permutation(len(x.shape)).tolist()
    m.add("Transpose", [x], (x.dtype, tuple(x.shape[i] for i in order)), exact=x.exact, large=x.large, perm=order)


@maker(2)
def reshape(m: Model) -> None:
    x = m.any(least=1)
    sizes: list[Size] = list(x.shape)
    target: list[int] = []
    shape: list[Size] = []
    free = [i for i, d in enumerate(sizes) if not is_fixed(d)]
    i = 0
    open_used = False
    while i < len(sizes):
        d = sizes[i]
        joined = i + 1 < len(sizes) and m.maybe(0.4)
        d = tuple(a * b for a, b in zip(d, sizes[i + 1], strict=True)) if joined else d
        factors = [f for f in (2, 3, 4, 8) if is_fixed(d) and d[0] % f == 0 and d[0] > f]
        if is_fixed(d) and factors and m.maybe(0.4):
            f = m.pick(factors)
            target += [f, d[0] // f]
            shape += [fixed(f), fixed(d[0] // f)]
        elif is_fixed(d):
            target.append(d[0])
            shape.append(d)
        elif not joined and len(target) == i and (open_used or m.maybe()):
            target.append(0)
            shape.append(d)
        elif not open_used:
            open_used = True
            target.append(-1)
            shape.append(d)
        else:
            raise Skip
        if m.maybe(0.1):
            target.append(1)
            shape.append(fixed(1))
        i += 2 if joined else 1
    assert free is not None
    m.add(
        "Reshape", [x, m.constant(np.array(target, np.int64))], (x.dtype, tuple(shape)), exact=x.exact, large=x.large
    )  # fmt: skip


@maker(0.7)
def unsqueeze(m: Model) -> None:
    x = m.any(most=4)
    at = m.integer(0, len(x.shape))
    axes = m.constant(np.array([at], np.int64))
    m.add("Unsqueeze", [x, axes], (x.dtype, (*x.shape[:at], fixed(1), *x.shape[at:])), exact=x.exact, large=x.large)


@maker(0.7)
def expand(m: Model) -> None:
    x = m.any(most=4)
    sizes = [m.integer(1, 4) if d == fixed(1) else 1 for d in x.shape]
    lead = [m.integer(1, 3)] if m.maybe(0.3) else []
    if not lead and not sizes:
        raise Skip
    shape = broadcast(x.shape, tuple(map(fixed, lead + sizes)))
    m.add("Expand", [x, m.constant(np.array(lead + sizes, np.int64))], (x.dtype, shape), exact=x.exact, large=x.large)


@maker(2)
def slice_(m: Model) -> None:
    x = m.any(least=1)
    axis = m.integer(0, len(x.shape) - 1)
    d = x.shape[axis]
    step = m.pick([1, 1, 2, -1, -2])
    if is_fixed(d):
        start, end = sorted([m.integer(0, d[0] - 1), m.integer(0, d[0])])
        end = max(end, start + 1)
        if step < 0:
            start, end = end - 1, start - 1 - d[0] if start == 0 else start - 1
        if m.maybe(0.3) and start >= 0:
            start -= d[0]
    else:
        start, end = (m.integer(0, 1) if min(d) > 1 else 0, 2**62) if step > 0 else (-1, -(2**62))
    size = tuple(len(range(n)[slice(start, end if end > -(2**40) else None, step)]) for n in d)
    if 0 in size:
        raise Skip
    args = [m.constant(np.array([v], np.int64)) for v in (start, end, axis if m.maybe() else axis - len(x.shape), step)]
    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    m.add("Slice", [x, *args], (x.dtype, shape), exact=x.exact, large=x.large)


@maker(2)
def concat(m: Model) -> None:
    x = m.any(least=1)
    axis = m.integer(0, len(x.shape) - 1)

    def joins(t: Tensor) -> bool:
        return len(t.shape) == len(x.shape) and all(
            a == b or i == axis for i, (a, b) in enumerate(zip(t.shape, x.shape, strict=True))
        )

    parts = [x]
    for _ in range(m.integer(0, 2)):
        found = [t for t in m.pool[-12:] if t.dtype == x.dtype and joins(t)]
        new = (*x.shape[:axis], m.size(), *x.shape[axis + 1 :])
        parts.append(m.pick(found) if found and m.maybe(0.7) else m.of_shape(x.dtype, new))
    size = tuple(sum(s) for s in zip(*(p.shape[axis] for p in parts), strict=True))
    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    exact, large = all(p.exact for p in parts), any(p.large for p in parts)
    m.add("Concat", parts, (x.dtype, shape), exact=exact, large=large, axis=axis if m.maybe() else axis - len(x.shape))


@maker(1)
def split(m: Model) -> None:
    x = m.any(least=1, ok=lambda t: any(is_fixed(d) and d[0] > 1 for d in t.shape))
    axis = m.pick([i for i, d in enumerate(x.shape) if is_fixed(d) and d[0] > 1])
    first = m.integer(1, x.shape[axis][0] - 1)
    sizes = [first, x.shape[axis][0] - first]
    types = [(x.dtype, (*x.shape[:axis], fixed(s), *x.shape[axis + 1 :])) for s in sizes]
    m.add("Split", [x, m.constant(np.array(sizes, np.int64))], *types, exact=x.exact, large=x.large, axis=axis)


@maker(1.5)
def pad(m: Model) -> None:
    x = m.any(F32, I64, I32, least=1)
    pads = [m.pick([0, 0, 1, 2]) for _ in range(2 * len(x.shape))]
    rank = len(x.shape)
    shape = tuple(tuple(n + pads[i] + pads[i + rank] for n in d) for i, d in enumerate(x.shape))
    fill = [m.constant(np.array(m.pick([-3, 7]), NUMPY[x.dtype]))] if m.maybe(0.7) else []
    mode = m.pick(["constant", "constant", "constant", "edge", "reflect"])
    if mode == "reflect" and any(min(d) < 3 for d in x.shape):
        mode = "edge"
    args = [x, m.constant(np.array(pads, np.int64)), *(fill if mode == "constant" else [])]
    m.add("Pad", args, (x.dtype, shape), exact=x.exact, large=x.large, mode=mode)


@maker(1.5)
def gather(m: Model) -> None:
    x = m.any(least=1)
    axis = m.integer(0, len(x.shape) - 1)
    least = min(x.shape[axis])
    shape = [m.integer(1, 3) for _ in range(m.integer(0, 2))]
    indices = m.constant(m.rng.integers(-least, least, shape).astype(np.int64))
    out = (*x.shape[:axis], *map(fixed, shape), *x.shape[axis + 1 :])
    m.add("Gather", [x, indices], (x.dtype, out), exact=x.exact, large=x.large, axis=axis)


@maker(0.8)
def computed_gather(m: Model) -> None:
    x = m.any(F32, I64, least=1, ok=lambda t: len(t.shape) > 0 and is_fixed(t.shape[0]) and t.shape[0][0] >= 1)
    shape = m.shape(m.integer(0, 2))
    raw = m.input(I64, shape)
    (indices,) = m.add("Mod", [raw, m.constant(np.array(x.shape[0][0], np.int64))], (I64, shape), exact=True)
    m.add("Gather", [x, indices], (x.dtype, (*shape, *x.shape[1:])), exact=x.exact, large=x.large, axis=0)


@maker(0.5)
def tile(m: Model) -> None:
    x = m.any(least=1, most=3)
    repeats = [m.integer(1, 2) for _ in x.shape]
    shape = tuple(tuple(n * r for n in d) for d, r in zip(x.shape, repeats, strict=True))
    m.add("Tile", [x, m.constant(np.array(repeats, np.int64))], (x.dtype, shape), exact=x.exact, large=x.large)


@maker(0.5)
def trilu(m: Model) -> None:
    x = m.any(F32, I64, least=2)
    k = m.constant(np.array(m.integer(-1, 2), np.int64))
    m.add("Trilu", [x, k], (x.dtype, x.shape), exact=x.exact, large=x.large, upper=m.integer(0, 1))


@maker(1)
def attention(m: Model) -> None:
    """Scaled products of queries and keys, masked or not, as models spell it."""
    b, s, t = m.size(), m.size(), m.size()
    s, t = (s, s) if m.maybe() else (s, t)
    h, d = fixed(m.integer(1, 4)), fixed(m.pick([1, 3, 4, 8, 16]))
    scores = (b, h, s, t)
    if max(Tensor("", F32, shape).elements for shape in (scores, (b, h, s, d), (b, h, t, d))) > LIMIT:
        raise Skip
    q, k, v = (_heads(m, b, length, h, d) for length in (s, t, t))
    (kt,) = m.add("Transpose", [k], (F32, (b, h, d, t)), perm=[0, 1, 3, 2])
    (x,) = m.add("MatMul", [q, kt], (F32, scores))
    (x,) = m.add("Mul", [x, m.constant(np.float32(0.25))], (F32, scores))
    kind = m.integer(0, 3)
    if kind:
        one = fixed(1)
        mask = m.input(BOOL, m.pick([(b, one, one, t), (one, one, s, t), scores, (s, t), (b, one, s, t)]))
        low = m.constant(np.float32(m.pick([-1e9, -3.4e38, -10000])))
        if kind == 1:
            zero = m.constant(np.float32(0))
            (bias,) = m.add("Where", [mask, zero, low], (F32, mask.shape))
            m.pool.pop()
            (x,) = m.add("Add", [x, bias], (F32, scores))
        else:
            (x,) = m.add("Where", [mask, x, low], (F32, scores))
        m.pool.pop()
    (p,) = m.add("Softmax", [x], (F32, scores), axis=-1)
    (o,) = m.add("MatMul", [p, v], (F32, (b, h, s, d)))
    (o,) = m.add("Transpose", [o], (F32, (b, s, h, d)), perm=[0, 2, 1, 3])
    width = fixed(h[0] * d[0])
    m.add("Reshape", [o, m.constant(np.array([0, 0, width[0]], np.int64))], (F32, (b, s, width)))


def _heads(m: Model, b: Size, s: Size, h: Size, d: Size) -> Tensor:
    if m.maybe(0.3):
        return m.input(F32, (b, h, s, d))
    x = m.input(F32, (b, s, fixed(h[0] * d[0])))
    (y,) = m.add("Reshape", [x, m.constant(np.array([0, 0, h[0], d[0]], np.int64))], (F32, (b, s, h, d)))
    return m.add("Transpose", [y], (F32, (b, h, s, d)), perm=[0, 2, 1, 3])[0]


def grow(m: Model, operators: int) -> None:
    """Add one random graph of about that many operators to ``m``."""
    m.pool.clear()
    first = len(m.nodes)
    weights = np.array([w for w, _ in MAKERS])
    cuts = np.cumsum(weights / weights.sum())
    tries = 0
    while len(m.nodes) - first < operators and tries < 20 * operators:
        tries += 1
        make = MAKERS[min(int(np.searchsorted(cuts, m.rng.random())), len(MAKERS) - 1)][1]
        try:
            make(m)
        except Skip:
            continue
    used = {name for n in m.nodes for name in n.input}
    made = [name for n in m.nodes[first:] for name in n.output]
    m.outputs += [name for name in made if name not in used or m.maybe(0.15)]
    if m.maybe(0.1):
        source = m.pick(m.pool)
        m.nodes.append(helper.make_node("Identity", [source.name], [m.fresh()]))
        m.outputs.append(m.nodes[-1].output[0])


@dataclass(frozen=True)
class Sample:
    """A model and the feeds of each assignment."""

    proto: onnx.ModelProto
    feeds: list[dict[str, np.ndarray[Any, Any]]]


def sample(seeds: list[int], operators: int = 10, opset: int = 17) -> Sample:
    """One model of a graph per seed."""
    joined = Model(0, opset)
    for seed in seeds:
        m = Model(seed, opset, prefix=f"s{seed}_")
        grow(m, operators)
        joined.nodes += m.nodes
        joined.constants += m.constants
        joined.inputs += m.inputs
        joined.outputs += m.outputs
    names = {sizes: name for name, sizes in NAMED.items()}
    used = {name for n in joined.nodes for name in n.input} | set(joined.outputs)
    infos = [
        helper.make_tensor_value_info(t.name, t.dtype, [d[0] if is_fixed(d) else names[d] for d in t.shape])
        for t in joined.inputs
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(joined.outputs)]
    constants = [c for c in joined.constants if c.name in used]
    graph = helper.make_graph(joined.nodes, "random", infos, outputs, constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    proto = onnx.shape_inference.infer_shapes(proto)
    rng = np.random.default_rng(seeds)
    feeds = [
        {t.name: values(rng, t.dtype, [d[a] for d in t.shape]) for t in joined.inputs} for a in range(len(ASSIGNMENTS))
    ]
    return Sample(proto, feeds)
