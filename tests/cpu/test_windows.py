"""Windows and sums down the lanes: generated C on each level against the lowered interpreter, at odd sizes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from tilewright.backends.cpu.emit import emit_kernel
from tilewright.backends.cpu.schedule import choose
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.tile import Kernel

from tests.cpu.harness import LEVELS, TARGETS, by_level, compile_kernel


@dataclass(frozen=True)
class Slide:
    """One spatial dimension: taps, stride, dilation, padding before, and how many outputs for an input of ``size``."""

    taps: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0
    ceil: bool = False

    def at(self, out: str, tap: str) -> str:
        """The index into the input."""
        return f"{out}*{self.stride} + {tap}*{self.dilation} - {self.before}"

    def outputs(self, size: str) -> str:
        """How many windows there are."""
        up = self.stride - 1 if self.ceil else 0
        return f"({size} + {self.before + self.after - (self.taps - 1) * self.dilation - 1 + up}) // {self.stride} + 1"


def _kernel(what: str, h: Slide, w: Slide, channels: int, lanes_last: bool, size: tuple[str, str]) -> Kernel:
    """A depthwise convolution or a pool with its epilogue, over [b, h, w, c] or [b, c, h, w]."""
    order = (lambda b, y, x, c: f"{b}, {y}, {x}, {c}") if lanes_last else (lambda b, y, x, c: f"{b}, {c}, {y}, {x}")
    oh, ow = h.outputs(size[0]), w.outputs(size[1])
    place = order("b", h.at("m", "i"), w.at("n", "j"), "c")
    x, there = f"X[{place}]", order("B", oh, ow, str(channels))
    window, out = f"{channels}, 1, {h.taps}, {w.taps}", order("b", "m", "n", "c")
    clipped = "min(max(acc[b, c, m, n] + bias[c], f32(0.0)), f32(6.0))"
    read, result, extra, op = {
        "sum of products": (
            f"({x} or 0) * F[c, 0, i, j]", clipped, f"F: const[f32[{window}]], bias: const[f32[{channels}]], ", "sum"
        ),
        "largest": (f"({x} or -inf)", "acc[b, c, m, n]", "", "max"),
        "mean": (f"({x} or 0)", f"acc[b, c, m, n] / f32({h.taps * w.taps}.0)", "", "sum"),
        "residual": (
            f"({x} or 0) * F[c, 0, i, j]", f"acc[b, c, m, n] + R[{out}]", f"F: f32[{window}], R: f32[{there}], ", "sum"
        ),
    }[what]  # fmt: skip
    facts = "".join(f", 1 <= {s} <= 64" for s in dict.fromkeys(size) if not s.isdigit())
    return parse_kernel(f"""
@kernel
def windows(X: f32[{order("B", *size, str(channels))}], {extra}Y: out[f32[{there}]]):
    where(1 <= B <= 8{facts})
    b: B
    c: {channels}
    m: {oh}
    n: {ow}
    i: {h.taps}
    j: {w.taps}
    acc[b, c, m, n] = {op}((i, j), {read})
    Y[{out}] = {result}
""")


SAME, VALID = Slide(3, 1, 1, 1, 1), Slide(3)
HALF = Slide(3, 2, 1, 1, 1)


@dataclass(frozen=True)
class Case:
    """A kernel and the sizes to run it at."""

    name: str
    what: str
    h: Slide
    w: Slide
    channels: int = 20
    lanes_last: bool = True
    size: tuple[str, str] = ("H", "W")
    runs: tuple[dict[str, int], ...] = field(
        default=({"B": 1, "H": 1, "W": 1}, {"B": 2, "H": 5, "W": 9}, {"B": 1, "H": 3, "W": 33})
    )

    def kernel(self) -> Kernel:
        """The kernel."""
        return _kernel(self.what, self.h, self.w, self.channels, self.lanes_last, self.size)


#: Sizes at which every window has at least one output.
LARGE = ({"B": 1, "H": 9, "W": 9}, {"B": 2, "H": 11, "W": 34})
ONE = ({"B": 1}, {"B": 3})
CASES = (
    Case("open-3x3", "sum of products", SAME, SAME),
    Case("open-3x3-stride-2", "sum of products", HALF, HALF, 32),
    Case("open-5x5-dilated", "sum of products", Slide(5, 1, 2, 4, 4), Slide(5, 1, 2, 4, 4), 8),
    Case("open-uneven", "sum of products", Slide(2, 2, 1, 0, 1), Slide(4, 3, 1, 2, 1), 37, runs=LARGE),
    Case("open-valid", "residual", VALID, VALID, 16, runs=LARGE),
    Case("open-largest", "largest", HALF, HALF, 20),
    Case("open-largest-ceil", "largest", Slide(3, 2, 1, 0, 0, True), Slide(3, 2, 1, 0, 0, True), 20, runs=LARGE),
    Case("open-mean", "mean", SAME, Slide(3, 2, 1, 1, 0), 24, runs=LARGE),
    Case("open-wide-window", "sum of products", Slide(1), Slide(15, 1, 1, 7, 7), 9),
    Case("open-channels-first", "sum of products", SAME, SAME, 5, lanes_last=False),
    Case("open-channels-first-largest", "largest", HALF, HALF, 5, lanes_last=False),
    Case("56", "sum of products", SAME, SAME, 24, size=("6", "56"), runs=ONE),
    Case("55-stride-2", "sum of products", HALF, HALF, 24, size=("7", "55"), runs=ONE),
    Case("7", "sum of products", SAME, SAME, 65, size=("7", "7"), runs=ONE),
    Case("7-wide", "residual", SAME, SAME, 300, size=("2", "7"), runs=ONE),
    Case(
        "2-under-5-taps", "sum of products", Slide(5, 1, 1, 2, 2), Slide(5, 1, 1, 2, 2), 16, size=("2", "2"), runs=ONE
    ),
    Case("1d-in-2d", "sum of products", Slide(1), Slide(3, 1, 3, 3, 3), 16, size=("1", "40"), runs=ONE),
    Case("largest-2x2", "largest", Slide(2, 2), Slide(2, 2), 16, size=("8", "18"), runs=ONE),
    Case("one-channel", "sum of products", SAME, SAME, 1, size=("5", "17"), runs=ONE),
    Case("channels-first-28", "sum of products", SAME, SAME, 3, lanes_last=False, size=("28", "28"), runs=ONE),
)


@pytest.mark.parametrize(
    "case, level",
    by_level(CASES, ("open-3x3-stride-2", "open-channels-first", "55-stride-2", "7-wide"), lambda c: c.name),
)
def test_windows(case: Case, level: str) -> None:
    kernel = case.kernel()
    rng = np.random.default_rng(1)
    for dims in case.runs:
        shapes = {p.name: [s.evaluate(dims) for s in p.shape] for p in kernel.params if p.role != "out"}
        tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        expected = run_lowered(kernel, tensors, dims)["Y"]
        found = compile_kernel(kernel, level)(tensors, dims, splits=(1, 2))["Y"]
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("level", LEVELS)
def test_a_nan_under_the_window_is_the_result(level: str) -> None:
    kernel = _kernel("largest", HALF, HALF, 20, True, ("9", "9"))
    x = np.zeros((1, 9, 9, 20), np.float32)
    x[0, 4, 4, 3] = np.nan
    found = compile_kernel(kernel, level)({"X": x}, {"B": 1})["Y"]
    expected = np.zeros_like(found)
    expected[0, 2, 2, 3] = np.nan
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("what", ["sum of products", "largest", "mean"])
def test_nothing_is_guarded_element_by_element(what: str) -> None:
    """Borders are shorter loops: no read of the input is conditional, and none goes lane by lane."""
    for size in (("H", "W"), ("56", "56")):
        kernel = _kernel(what, SAME, SAME, 32, True, size)
        target = TARGETS[LEVELS[-1]]
        text = emit_kernel(apply(kernel, choose(kernel, target)), target).text
        assert "inside ?" not in text
        assert "select_" not in text
        assert "load_strided" not in text


SPATIAL_MEAN = """
@kernel
def spatial_mean(X: f32[B, 49, {c}], Y: out[f32[B, {c}]]):
    where(1 <= B <= 8)
    b: B
    p: 49
    c: {c}
    total[b, c] = sum(p, X[b, p, c])
    Y[b, c] = total[b, c] / f32(49.0)
"""


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("channels", [1, 7, 16, 100, 330])
def test_spatial_mean(channels: int, level: str) -> None:
    kernel = parse_kernel(SPATIAL_MEAN.format(c=channels))
    x = np.random.default_rng(2).standard_normal((3, 49, channels)).astype(np.float32)
    found = compile_kernel(kernel, level)({"X": x}, {"B": 3}, splits=(1,))["Y"]
    np.testing.assert_allclose(found, x.mean(1, dtype=np.float64), rtol=0, atol=1e-6)


SEPARABLE = """
@kernel
def separable(X: f32[B, {h}, {h}, {c}], F: const[f32[{c}, 1, 3, 3]], bias: const[f32[{c}]], V: const[f32[{o}, {c}]],
              Y: out[f32[B, {p}, {p}, {o}]]):
    where(1 <= B <= 8{facts})
    b: B
    c: {c}
    m: {p}
    n: {p}
    i: 3
    j: 3
    o: {o}
    acc[b, c, m, n] = sum((i, j), (X[b, m*{s} + i - 1, n*{s} + j - 1, c] or 0) * F[c, 0, i, j])
    d[b, m, n, c] = min(max(acc[b, c, m, n] + bias[c], f32(0.0)), f32(6.0))
    y[b, m, n, o] = sum(c, d[b, m, n, c] * V[o, c])
    Y[b, m, n, o] = max(y[b, m, n, o], f32(0.0))
"""


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("size,channels,columns,stride", [("14", 100, 24, 1), ("H", 33, 17, 2), ("7", 32, 65, 1)])
def test_windows_then_a_product(size: str, channels: int, columns: int, stride: int, level: str) -> None:
    p = f"({size} - 1) // {stride} + 1"
    facts = "" if size.isdigit() else ", 1 <= H <= 64"
    kernel = parse_kernel(SEPARABLE.format(h=size, c=channels, o=columns, s=stride, p=p, facts=facts))
    rng = np.random.default_rng(3)
    dims = {"B": 2, "H": 11}
    shapes = {q.name: [s.evaluate(dims) for s in q.shape] for q in kernel.params if q.role != "out"}
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    scheduled = apply(kernel, choose(kernel, TARGETS[level]))
    assert "o" not in {loop.axis for loop in scheduled.schedule.loops}, "the rows are computed once, for all columns"
    expected = run_lowered(kernel, tensors, dims)["Y"]
    found = compile_kernel(kernel, level)(tensors, dims, splits=(1, 2))["Y"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * float(np.abs(expected).max()))
