"""Random convolutional networks: windows of every kind, groups, norms, residuals, pools, transposes, outputs midway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.end_to_end.random_networks import RUNS, SIZES, Network

CHANNELS = (1, 2, 3, 5, 7, 8, 9, 12, 15, 16, 17, 20, 23, 24, 31, 32, 33, 40)


@dataclass(frozen=True)
class Map:
    """A value ``[batch, channels, height, width]``; sizes in each run, equal under every run where ``key`` is equal."""

    name: str
    channels: int
    heights: tuple[int, ...]
    widths: tuple[int, ...]
    key: str


@dataclass(frozen=True)
class Window:
    """Kernel, strides, dilations and pads (begin, begin, end, end) of a convolution or pool."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    auto: str = ""
    ceil: bool = False

    def sizes(self, axis: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """What comes out; 0 or less where the window does not fit."""
        return tuple(self._size(axis, n) for n in sizes)

    def _size(self, axis: int, n: int) -> int:
        span, stride = self.dilations[axis] * (self.kernel[axis] - 1) + 1, self.strides[axis]
        if self.auto.startswith("SAME"):
            return -(-n // stride)
        begin, end = self.pads[axis], self.pads[axis + 2]
        left = n + begin + end - span
        if left < 0:
            return 0
        out = (-(-left // stride) if self.ceil else left // stride) + 1
        return out - 1 if self.ceil and (out - 1) * stride >= n + begin else out

    def attributes(self) -> dict[str, Any]:
        found: dict[str, Any] = {"kernel_shape": self.kernel, "strides": self.strides}
        if self.dilations != (1, 1):
            found["dilations"] = self.dilations
        return found | ({"auto_pad": self.auto} if self.auto else {"pads": self.pads})


def grow(m: Network) -> None:
    """A network of some five to ten layers."""
    pool = [_input(m)]
    for _ in range(m.integer(4, 8)):
        x = pool[-1] if m.maybe(0.75) else m.pick(pool)
        step = m.pick((_conv, _conv, _conv, _conv, _depthwise, _residual, _concat, _pool, _squeeze, _turned, _padded))
        found = step(m, x, pool)
        if found is None:
            continue
        pool.append(found)
        if m.maybe(0.15):
            m.outputs.append(found.name)
    if m.maybe(0.4):
        _head(m, pool[-1])


def _input(m: Network) -> Map:
    c = m.pick(CHANNELS)
    sizes: list[int | str] = ["H", "W"] if m.maybe(0.3) else [m.integer(1, 40), m.integer(1, 40)]
    if m.maybe(0.1):
        sizes[m.integer(0, 1)] = m.pick([1, 2, 3])
    name = m.input([("N" if m.maybe(0.85) else 1), c, *sizes])
    heights, widths = ((s,) * RUNS if isinstance(s, int) else SIZES[s] for s in sizes)
    return Map(name, c, heights, widths, f"{sizes}")


def _window(m: Network, x: Map, largest: int = 5, pool: bool = False) -> Window | None:
    for _ in range(20):
        kernel = (m.integer(1, largest), m.integer(1, largest))
        kernel = (kernel[0], kernel[0]) if m.maybe(0.6) else kernel
        strides = m.pick([(1, 1), (1, 1), (2, 2), (1, 2), (3, 1), (3, 3)])
        dilations = m.pick([(2, 2), (1, 3), (2, 1)]) if not pool and m.maybe(0.2) else (1, 1)
        a, b, c, d = (m.integer(0, kernel[i % 2] - 1) for i in range(4))
        auto = m.pick(["SAME_UPPER", "SAME_LOWER", "VALID"]) if m.maybe(0.2) and dilations == (1, 1) else ""
        if m.maybe(0.5):  # the usual one
            strides, dilations, auto = m.pick([(1, 1), (2, 2)]), (1, 1), ""
            a, b, c, d = ((k - 1) // 2 for k in (*kernel, *kernel))
        pads = (0, 0, 0, 0) if auto else (a, b, c, d)
        open_sizes = len(set(x.heights + x.widths)) > 2 or "H" in x.key
        if auto.startswith("SAME") and (
            (strides != (1, 1) and open_sizes) or strides[0] > kernel[0] or strides[1] > kernel[1]
        ):
            continue  # pads would depend on sizes that are not known; ONNX Runtime refuses those below 0
        w = Window(kernel, strides, dilations, pads, auto, pool and m.maybe(0.4))
        if min(*w.sizes(0, x.heights), *w.sizes(1, x.widths)) >= 1:
            return w
    return None


def _after(m: Network, name: str, c: int, x: Map, w: Window) -> Map:
    same = w.strides == (1, 1) and w.sizes(0, x.heights) == x.heights and w.sizes(1, x.widths) == x.widths
    key = x.key if same else f"{w}({x.key})"
    return Map(name, c, w.sizes(0, x.heights), w.sizes(1, x.widths), key)


def _activated(m: Network, name: str, c: int) -> str:
    kind = m.pick(["", "", "Relu", "Relu", "Clip", "HardSwish", "silu", "LeakyRelu", "PRelu", "HardSigmoid", "Sigmoid"])
    if kind == "silu":
        return str(m.add("Mul", name, m.add("Sigmoid", name)))
    if kind == "Clip":
        return str(m.add("Clip", name, m.number(0), m.number(m.pick([6, 1]))))
    if kind == "PRelu":
        return str(m.add("PRelu", name, m.weight(c, 1, 1)))
    return str(m.add(kind, name)) if kind else name


def _normed(m: Network, name: str, c: int) -> str:
    if m.maybe(0.35):
        variance = m.constant(m.rng.uniform(0.5, 2, c).astype(np.float32))
        name = m.add("BatchNormalization", name, m.weight(c), m.weight(c), m.weight(c), variance)
    return name


def _convolved(m: Network, x: Map, w: Window, c: int, groups: int) -> Map:
    fan = x.channels // groups * w.kernel[0] * w.kernel[1]
    bias = [m.weight(c)] if m.maybe() else []
    weights = m.weight(c, x.channels // groups, *w.kernel, fan=fan)
    name = m.add("Conv", x.name, weights, *bias, group=groups, **w.attributes())
    return _after(m, _activated(m, _normed(m, name, c), c), c, x, w)


def _conv(m: Network, x: Map, pool: list[Map]) -> Map | None:
    groups = m.pick([g for g in range(1, x.channels + 1) if x.channels % g == 0]) if m.maybe(0.25) else 1
    c = groups * m.integer(1, max(1, 40 // groups)) if groups > 1 else m.pick(CHANNELS)
    w = Window((1, 1)) if m.maybe(0.25) else _window(m, x)
    return w and _convolved(m, x, w, c, groups)


def _depthwise(m: Network, x: Map, pool: list[Map]) -> Map | None:
    w = _window(m, x)
    return w and _convolved(m, x, w, x.channels * m.pick([1, 1, 1, 2]), x.channels)


def _residual(m: Network, x: Map, pool: list[Map]) -> Map | None:
    found = [p for p in pool if (p.channels, p.key) == (x.channels, x.key)]
    if len(found) < 2 or m.maybe(0.4):
        k = m.pick([1, 3, 5])
        p = (k - 1) // 2
        y = _convolved(m, x, Window((k, k), pads=(p,) * 4), x.channels, m.pick([1, 1, x.channels]))
    else:
        y = m.pick(found)
    pair = [x.name, y.name] if m.maybe() else [y.name, x.name]
    name = m.add(m.pick(["Add", "Add", "Add", "Mul", "Sub"]), *pair)
    return Map(_activated(m, name, x.channels), x.channels, x.heights, x.widths, x.key)


def _concat(m: Network, x: Map, pool: list[Map]) -> Map | None:
    others = [p for p in pool if p.key == x.key and p.channels + x.channels <= 64]
    if not others:
        return None
    y = m.pick(others)
    c = x.channels + y.channels
    name = m.add("Concat", x.name, y.name, axis=1)
    return Map(_activated(m, _normed(m, name, c), c), c, x.heights, x.widths, x.key)


def _pool(m: Network, x: Map, pool: list[Map]) -> Map | None:
    w = _window(m, x, 4, pool=True)
    if w is None:
        return None
    op = m.pick(["MaxPool", "AveragePool"])
    more: dict[str, Any] = {"ceil_mode": int(w.ceil)} if not w.auto else {}
    if op == "AveragePool":
        more["count_include_pad"] = m.integer(0, 1)
    return _after(m, m.add(op, x.name, **more, **w.attributes()), x.channels, x, w)


def _mean(m: Network, x: Map) -> str:
    op = m.pick(["GlobalAveragePool", "GlobalMaxPool", "ReduceMean"])
    more = [m.integers(2, 3)] if op == "ReduceMean" else []
    return str(m.add(op, x.name, *more))


def _squeeze(m: Network, x: Map, pool: list[Map]) -> Map:
    """Channels weighed by what they hold on average."""
    c, few = x.channels, m.integer(1, 9)
    y = m.add("Relu", m.add("Conv", _mean(m, x), m.weight(few, c, 1, 1, fan=c), m.weight(few)))
    y = m.add("Conv", y, m.weight(c, few, 1, 1, fan=few))
    y = m.add(m.pick(["Sigmoid", "HardSigmoid"]), y)
    return Map(m.add("Mul", x.name, y), c, x.heights, x.widths, x.key)


def _turned(m: Network, x: Map, pool: list[Map]) -> Map:
    """Something done with channels last, or two of its axes exchanged."""
    c = x.channels
    y = m.add("Transpose", x.name, perm=[0, 2, 3, 1])
    kind = m.integer(0, 3)
    if kind == 0:
        y = m.add("Add", y, m.weight(c))
    elif kind == 1:
        y = m.add("LayerNormalization", y, m.weight(c), m.weight(c), axis=-1)
    elif kind == 2:
        n = m.pick(CHANNELS)
        y, c = m.add("Add", m.add("MatMul", y, m.weight(c, n, fan=c)), m.weight(n)), n
    if m.maybe(0.2):
        m.outputs.append(y)
    y = _activated(m, y, 1)
    return Map(m.add("Transpose", y, perm=[0, 3, 1, 2]), c, x.heights, x.widths, x.key)


def _padded(m: Network, x: Map, pool: list[Map]) -> Map | None:
    """A border written out, then a window that reads it."""
    a, b, c, d = (m.integer(0, 2) for _ in range(4))
    y = m.add("Pad", x.name, m.integers(0, 0, a, b, 0, 0, c, d))
    heights, widths = tuple(h + a + c for h in x.heights), tuple(w + b + d for w in x.widths)
    x = Map(y, x.channels, heights, widths, f"{a} {b} {c} {d} {x.key}" if a + b + c + d else x.key)
    return m.pick((_conv, _pool, _depthwise))(m, x, pool) or x


def _head(m: Network, x: Map) -> None:
    y = m.add("Flatten", _mean(m, x))
    n = m.integer(1, 50)
    transposed = m.integer(0, 1)
    w = m.weight(*((n, x.channels) if transposed else (x.channels, n)), fan=x.channels)
    m.add("Gemm", y, w, m.weight(n), transB=transposed)
