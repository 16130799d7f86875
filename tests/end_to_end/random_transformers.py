"""Random transformers: products of odd sizes, attention of every mask and sharing of heads, caches, norms, rotation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from tests.end_to_end.random_networks import Network, hides, keeps_first

WIDTHS = (8, 13, 16, 24, 31, 40, 48, 64, 65, 96, 100)
HEAD = (8, 10, 12, 16, 20, 24, 32, 36, 40, 50, 64, 72, 80)


@dataclass
class Stream:
    """What the layers of one network share.

    Attributes:
        name: the residual stream ``[batch, rows, width]``.
        past: there are keys from before: ``total`` is more than the rows.
        positions: of the rows, int64; of the keys, int64.
    """

    name: str
    width: int
    batch: int | str
    past: bool
    total: str
    rows_at: str
    keys_at: str


def grow(m: Network) -> None:
    """One or two layers over embeddings or rows that are given."""
    s, table = _start(m)
    for _ in range(m.integer(1, 2)):
        if m.maybe(0.8):
            _attend(m, s)
        if m.maybe(0.6):
            _expand(m, s)
        if m.maybe(0.15):
            m.outputs.append(s.name)
    s.name = _norm(m, s.name, s.width)
    if m.maybe(0.3):
        s.name = m.add("Gather", s.name, m.constant(np.int64(-1)), axis=1)
    if table and m.maybe(0.8):  # the weights that embed are those of the last product
        m.add("MatMul", s.name, m.add("Transpose", table, perm=[1, 0]))
    elif m.maybe():
        _linear(m, s.name, s.width, m.integer(1, 70))


def _start(m: Network) -> tuple[Stream, str]:
    width = m.pick(WIDTHS)
    batch: int | str = "N" if m.maybe(0.7) else m.pick([1, 1, 2])
    rows: int | str = "S" if m.maybe(0.8) else m.pick([1, 1, 5])
    past, table = m.maybe(0.4), ""
    if m.maybe(0.4):
        words = m.integer(5, 90)
        table = m.weight(words, width)
        ids = m.input([batch, rows], TensorProto.INT64, lambda rng, shape: rng.integers(0, words, shape))
        x = m.add("Gather", table, ids)
        shape = m.add("Shape", ids)
    else:
        x = m.input([batch, rows, width])
        shape = m.add("Shape", x)
    one, zero = m.constant(np.int64(1)), m.constant(np.int64(0))
    count = m.add("Gather", shape, one)
    if past:
        where = m.input([batch, 1, "P", 1])
        m.outputs.append(m.add("Relu", where))
        before = m.add("Gather", m.add("Shape", where), m.constant(np.int64(2)))
        end = m.add("Add", before, count)
    else:
        before, end = zero, count
    rows_at, keys_at = m.add("Range", before, end, one), m.add("Range", zero, end, one)
    total = f"P+{rows}" if past else str(rows)
    return Stream(x, width, batch, past, total, rows_at, keys_at), table


def _norm(m: Network, x: str, width: int) -> str:
    kind = m.integer(0, 2)
    if kind == 0:
        return x
    if kind == 1:
        return str(m.add("LayerNormalization", x, m.weight(width), m.weight(width), axis=-1, epsilon=1e-5))
    square = m.add("Pow", x, m.number(2))
    mean = m.add("Add", m.add("ReduceMean", square, m.integers(-1)), m.number(1e-5))
    scaled = m.add("Mul", x, m.add("Reciprocal", m.add("Sqrt", mean)))
    return str(m.add("Mul", m.weight(width), scaled))


def _linear(m: Network, x: str, k: int, n: int) -> str:
    """A product with weights in one of its spellings."""
    kind = m.integer(0, 3)
    if kind == 0 and m.maybe():
        rows = m.add("Reshape", x, m.integers(-1, k))
        y = m.add("Gemm", rows, m.weight(n, k, fan=k), *([m.weight(n)] if m.maybe() else []), transB=1)
        return _like(m, y, x, n)
    w = m.weight(n, k, fan=k) if kind == 1 else m.weight(k, n, fan=k)
    y = m.add("MatMul", x, m.add("Transpose", w, perm=[1, 0]) if kind == 1 else w)
    return str(m.add("Add", y, m.weight(n))) if m.maybe() else str(y)


def _like(m: Network, y: str, x: str, n: int) -> str:
    """Rows ``y`` with the leading sizes of ``x``."""
    lead = m.add("Slice", m.add("Shape", x), m.integers(0), m.integers(-1))
    return str(m.add("Reshape", y, m.add("Concat", lead, m.integers(n), axis=0)))


def _split(m: Network, x: str, heads: int, d: int) -> str:
    y = m.add("Reshape", x, m.integers(0, 0, heads, d))
    return str(m.add("Transpose", y, perm=[0, 2, 1, 3]))


def _attend(m: Network, s: Stream) -> None:
    d, kv = m.pick(HEAD), m.integer(1, 3)
    group = m.pick([1, 1, 2, 3, 4])
    heads = kv * group
    x = _norm(m, s.name, s.width)
    if group == 1 and m.maybe(0.3):  # one product, then cut
        parts = m.add("Split", _linear(m, x, s.width, 3 * heads * d), outputs=3, axis=-1, num_outputs=3)
        q, k, v = (_split(m, p, heads, d) for p in parts)
    else:
        q = _split(m, _linear(m, x, s.width, heads * d), heads, d)
        k, v = (_split(m, _linear(m, x, s.width, kv * d), kv, d) for _ in range(2))
    if d % 2 == 0 and m.maybe(0.4):
        q, k = _turn(m, s, q, k, d)
    if s.past:
        k, v = (m.add("Concat", m.input([s.batch, kv, "P", d]), t, axis=2) for t in (k, v))
        m.outputs += [k, v]
    if group > 1:
        k, v = (_repeat(m, t, kv, group, d) for t in (k, v))
    y = m.add("MatMul", _weighed(m, s, q, k, d), v)
    y = m.add("Reshape", m.add("Transpose", y, perm=[0, 2, 1, 3]), m.integers(0, 0, heads * d))
    y = _linear(m, y, heads * d, s.width)
    s.name = m.add("Add", *([s.name, y] if m.maybe() else [y, s.name]))


def _turn(m: Network, s: Stream, q: str, k: str, d: int) -> tuple[str, str]:
    """Queries and keys turned by their positions."""
    frequency = m.constant((1.0 / 100 ** (np.arange(0, d, 2) / d)).astype(np.float32))
    at = m.add("Unsqueeze", m.add("Cast", s.rows_at, to=TensorProto.FLOAT), m.integers(1))
    angle = m.add("Mul", at, frequency)
    angle = m.add("Concat", angle, angle, axis=-1)
    cosine, sine = m.add("Cos", angle), m.add("Sin", angle)
    turned = []
    for x in (q, k):
        first = m.add("Slice", x, m.integers(0), m.integers(d // 2), m.integers(3))
        second = m.add("Slice", x, m.integers(d // 2), m.integers(2**31 - 1), m.integers(3))
        half = m.add("Concat", m.add("Neg", second), first, axis=-1)
        turned.append(m.add("Add", m.add("Mul", x, cosine), m.add("Mul", half, sine)))
    return turned[0], turned[1]


def _repeat(m: Network, x: str, kv: int, group: int, d: int) -> str:
    """Each head of keys once per head of queries that reads it."""
    shape = m.add("Shape", x)
    b, t = (m.add("Slice", shape, m.integers(i), m.integers(i + 1)) for i in (0, 2))
    sizes = m.add("Concat", b, m.integers(kv, group), t, m.integers(d), axis=0)
    y = m.add("Expand", m.add("Unsqueeze", x, m.integers(2)), sizes)
    return str(m.add("Reshape", y, m.add("Concat", b, m.integers(kv * group), t, m.integers(d), axis=0)))


def _weighed(m: Network, s: Stream, q: str, k: str, d: int) -> str:
    """Probabilities of the keys."""
    kind = m.integer(0, 2)
    if kind == 0:
        q = m.add("Mul", q, m.number(d**-0.5))
    x = m.add("MatMul", q, m.add("Transpose", k, perm=[0, 1, 3, 2]))
    if kind:
        x = m.add("Mul", x, m.number(d**-0.5)) if kind == 1 else m.add("Div", x, m.number(d**0.5))
    return str(m.add("Softmax", _masked(m, s, x), axis=-1))


def _masked(m: Network, s: Stream, x: str) -> str:
    conditions = []
    if m.maybe():
        rows = m.add("Unsqueeze", s.rows_at, m.integers(1))
        op, pair = m.pick([("LessOrEqual", 0), ("GreaterOrEqual", 1)])
        pair = [s.keys_at, rows] if pair == 0 else [rows, s.keys_at]
        conditions.append(m.add(op, *pair))
        if m.maybe(0.2):  # a window: not too far back
            near = m.add("Less", m.add("Sub", rows, s.keys_at), m.constant(np.int64(m.integer(1, 40))))
            conditions.append(near)
    total: int | str = int(s.total) if s.total.isdigit() else s.total
    if m.maybe():
        kind = m.integer(0, 2)
        if kind == 0:
            x = m.add("Add", x, m.input([s.batch, 1, 1, total], content=hides))
        else:
            kept = m.input([s.batch, total], TensorProto.BOOL, keeps_first)
            kept = m.add("Unsqueeze", kept, m.integers(1, 2))
            conditions.append(kept)
    if not conditions:
        return x
    both = conditions[0]
    kind = m.integer(0, 3)
    if kind == 3:
        for c in conditions:
            x = m.add("Add", x, m.add("Where", c, m.number(0), m.number(np.finfo(np.float32).min)))
        return x
    for c in conditions[1:]:
        both = m.add("And", both, c)
    if kind == 0:
        return str(m.add("Where", both, x, m.number(m.pick([-1e9, -1e4, float(np.finfo(np.float32).min)]))))
    if kind == 1:
        hidden = m.add("Mul", m.add("Cast", m.add("Not", both), to=TensorProto.FLOAT), m.number(-1e9))
        return str(m.add("Add", x, hidden))
    return str(m.add("Add", x, m.add("Where", both, m.number(0), m.number(-1e9))))


def _expand(m: Network, s: Stream) -> None:
    """The layer that works on each row."""
    n = m.integer(5, 150)
    x = _norm(m, s.name, s.width)
    y = _linear(m, x, s.width, n)
    kind = m.integer(0, 4)
    if kind == 0:
        erf = m.add("Erf", m.add("Div", y, m.number(2**0.5)))
        y = m.add("Mul", m.add("Mul", y, m.add("Add", erf, m.number(1))), m.number(0.5))
    elif kind == 1:
        inner = m.add("Add", y, m.add("Mul", m.add("Pow", y, m.number(3)), m.number(0.044715)))
        tanh = m.add("Tanh", m.add("Mul", inner, m.number((2 / np.pi) ** 0.5)))
        y = m.add("Mul", m.add("Mul", m.number(0.5), y), m.add("Add", tanh, m.number(1)))
    elif kind == 2:
        y = m.add("Mul", m.add("Mul", y, m.add("Sigmoid", y)), _linear(m, x, s.width, n))
    elif kind == 3:
        y = m.add("Gelu", y, approximate=m.pick(["none", "tanh"]))
    else:
        y = m.add("Relu", y)
    s.name = m.add("Add", s.name, _linear(m, y, n, s.width))
