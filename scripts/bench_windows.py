"""Speed of windows, pools, row kernels and elementwise kernels: share of their roof, ratio to PyTorch channels last.

One thread, its own CPU time, the best of interleaved runs (others on the machine empty the caches that we share).
``python scripts/bench_windows.py [--level cpu:x86-64-v3] [--only depthwise]``. The roof is the later of the measured
multiply-adds and of a copy of as many bytes, measured at that size. Needs torch; without it the ratio column is empty.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from bench_kernels import _random, _timed, peak_loop, torch
from harness import LEVELS, TARGETS, Bound, bind, compile_kernel, unguarded
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.tile import Kernel


@dataclass(frozen=True)
class Case:
    """Kernels that run one after the other; ``flops`` counts a multiply-add twice, ``size`` is bytes moved at least."""

    name: str
    kernels: tuple[Kernel, ...]
    tensors: dict[str, np.ndarray]
    dims: dict[str, int]
    flops: float
    size: float
    peer: Callable[[], object] | None = None


def depthwise(h: int, w: int, c: int, stride: int, taps: int = 3) -> Kernel:
    """A depthwise convolution, channels last, with bias and Clip."""
    oh, ow, p = (h - 1) // stride + 1, (w - 1) // stride + 1, taps // 2
    return parse_kernel(f"""
@kernel
def depthwise(X: f32[B, {h}, {w}, {c}], F: const[f32[{c}, 1, {taps}, {taps}]], bias: const[f32[{c}]],
              D: out[f32[B, {oh}, {ow}, {c}]]):
    where(1 <= B <= 64)
    b: B
    c: {c}
    oh: {oh}
    ow: {ow}
    kh: {taps}
    kw: {taps}
    acc[b, c, oh, ow] = sum((kh, kw), (X[b, oh*{stride} + kh - {p}, ow*{stride} + kw - {p}, c] or 0) * F[c, 0, kh, kw])
    D[b, oh, ow, c] = min(max(acc[b, c, oh, ow] + bias[c], f32(0.0)), f32(6.0))
""")


def pointwise(rows: int, c: int, o: int) -> Kernel:
    """The product that follows it, rows of all pixels."""
    return parse_kernel(f"""
@kernel
def pointwise(D: f32[B*{rows}, {c}], V: const[f32[{o}, {c}]], shift: const[f32[{o}]], Y: out[f32[B*{rows}, {o}]]):
    where(1 <= B <= 64)
    m: B*{rows}
    c: {c}
    o: {o}
    y[m, o] = sum(c, D[m, c] * V[o, c])
    Y[m, o] = y[m, o] + shift[o]
""")


def separable(h: int, w: int, c: int, o: int, stride: int) -> Kernel:
    """Both in one kernel."""
    oh, ow = (h - 1) // stride + 1, (w - 1) // stride + 1
    return parse_kernel(f"""
@kernel
def separable(X: f32[B, {h}, {w}, {c}], F: const[f32[{c}, 1, 3, 3]], bias: const[f32[{c}]], V: const[f32[{o}, {c}]],
              shift: const[f32[{o}]], Y: out[f32[B, {oh}, {ow}, {o}]]):
    where(1 <= B <= 64)
    b: B
    c: {c}
    oh: {oh}
    ow: {ow}
    kh: 3
    kw: 3
    o: {o}
    acc[b, c, oh, ow] = sum((kh, kw), (X[b, oh*{stride} + kh - 1, ow*{stride} + kw - 1, c] or 0) * F[c, 0, kh, kw])
    d[b, oh, ow, c] = min(max(acc[b, c, oh, ow] + bias[c], f32(0.0)), f32(6.0))
    y[b, oh, ow, o] = sum(c, d[b, oh, ow, c] * V[o, c])
    Y[b, oh, ow, o] = y[b, oh, ow, o] + shift[o]
""")


POOL = """
@kernel
def pool(X: f32[B, 112, 112, 64], Y: out[f32[B, 56, 56, 64]]):
    where(1 <= B <= 64)
    b: B
    c: 64
    oh: 56
    ow: 56
    kh: 3
    kw: 3
    acc[b, c, oh, ow] = {op}((kh, kw), (X[b, oh*2 + kh - 1, ow*2 + kw - 1, c] or {fill}))
    Y[b, oh, ow, c] = acc[b, c, oh, ow]
"""
SPATIAL_MEAN = """
@kernel
def spatial_mean(X: f32[B, 49, {c}], Y: out[f32[B, {c}]]):
    where(1 <= B <= 64)
    b: B
    p: 49
    c: {c}
    total[b, c] = sum(p, X[b, p, c])
    Y[b, c] = total[b, c] / f32(49.0)
"""
NORM = """
@kernel
def norm(X: f32[M, 768], g: const[f32[768]], beta: const[f32[768]], Y: out[f32[M, 768]]):
    where(1 <= M <= 8192)
    m: M
    n: 768
    total[m] = sum(n, X[m, n])
    c[m, n] = X[m, n] - total[m] / f32(768.0)
    squares[m] = sum(n, c[m, n] * c[m, n])
    Y[m, n] = c[m, n] * rsqrt(squares[m] / f32(768.0) + f32(1e-05)) * g[n] + beta[n]
"""
RMS = """
@kernel
def rms(X: f32[M, 768], g: const[f32[768]], Y: out[f32[M, 768]]):
    where(1 <= M <= 8192)
    m: M
    n: 768
    squares[m] = sum(n, X[m, n] * X[m, n])
    Y[m, n] = X[m, n] * rsqrt(squares[m] / f32(768.0) + f32(1e-05)) * g[n]
"""
SOFTMAX = """
@kernel
def softmax(X: f32[M, 768], Y: out[f32[M, 768]]):
    where(1 <= M <= 8192)
    m: M
    n: 768
    top[m] = max(n, X[m, n])
    e[m, n] = exp(X[m, n] - top[m])
    total[m] = sum(n, e[m, n])
    Y[m, n] = e[m, n] / total[m]
"""
ADD = """
@kernel
def add_relu(X: f32[M, 256], R: f32[M, 256], Y: out[f32[M, 256]]):
    where(1 <= M <= 65536)
    m: M
    n: 256
    Y[m, n] = max(X[m, n] + R[m, n], f32(0.0))
"""
#: Height = width, channels, columns of the product that follows, stride: MobileNetV2 at 224 pixels.
MOBILE = (
    (112, 32, 16, 1),
    (112, 96, 24, 2),
    (56, 144, 24, 1),
    (56, 144, 32, 2),
    (28, 192, 32, 1),
    (28, 192, 64, 2),
    (14, 384, 64, 1),
    (14, 576, 96, 1),
    (14, 576, 160, 2),
    (7, 960, 160, 1),
)


def cases() -> Iterator[Case]:
    """All of them."""
    for h, c, o, s in MOBILE:
        out = (h - 1) // s + 1
        tensors = {"X": _random(1, h, h, c), "F": _random(c, 1, 3, 3), "bias": _random(c)}
        tensors |= {"D": _random(out * out, c), "V": _random(o, c), "shift": _random(o)}
        peer = None if torch is None else _convolution(tensors, s)
        flops, area = 18.0 * out * out * c, 4.0 * h * h * c
        kernel = depthwise(h, h, c, s)
        yield Case(f"depthwise {h}x{h}x{c}/{s}", (kernel,), tensors, {"B": 1}, flops, area + 4 * out * out * c, peer)
        flops, size = flops + 2.0 * out * out * c * o, area + 4.0 * out * out * o
        both = (kernel, pointwise(out * out, c, o))
        yield Case(f"apart {h}x{h}x{c}/{s}->{o}", both, tensors, {"B": 1}, flops, size)
        yield Case(f"together {h}x{h}x{c}/{s}->{o}", (separable(h, h, c, o, s),), tensors, {"B": 1}, flops, size)
    x = {"X": _random(1, 112, 112, 64)}
    for op, fill, call in (("max", "-inf", "max_pool2d"), ("sum", "0", "avg_pool2d")):
        peer = None
        if torch is not None:
            image, function = torch.from_numpy(x["X"]).permute(0, 3, 1, 2), getattr(torch.nn.functional, call)
            peer = lambda image=image, function=function: function(image, 3, 2, 1)  # noqa: E731
        kernel = parse_kernel(POOL.format(op=op, fill=fill))
        yield Case(f"pool {op} 112x112x64/2", (kernel,), x, {"B": 1}, 0.0, 4.0 * 64 * (112**2 + 56**2), peer)
    for c in (1280, 2048):
        y = {"X": _random(1, 49, c)}
        peer = None
        if torch is not None:
            image = torch.from_numpy(y["X"].reshape(1, 7, 7, c)).permute(0, 3, 1, 2)
            peer = lambda image=image: torch.nn.functional.adaptive_avg_pool2d(image, 1)  # noqa: E731
        yield Case(
            f"spatial mean 7x7x{c}", (parse_kernel(SPATIAL_MEAN.format(c=c)),), y, {"B": 1}, 0.0, 200.0 * c, peer
        )
    for m in (1, 128):
        tensors = {"X": _random(m, 768), "g": _random(768), "beta": _random(768)}
        for name, text in (("norm", NORM), ("rms", RMS), ("softmax", SOFTMAX)):
            peer = None if torch is None else _row_peer(name, tensors)
            yield Case(f"{name} {m}x768", (parse_kernel(text),), tensors, {"M": m}, 0.0, 8.0 * m * 768, peer)
    tensors = {"X": _random(3136, 256), "R": _random(3136, 256)}
    peer = None
    if torch is not None:
        a, b = torch.from_numpy(tensors["X"]), torch.from_numpy(tensors["R"])
        peer = lambda: torch.relu_(a + b)  # noqa: E731
    yield Case("add+relu 56x56x256", (parse_kernel(ADD),), tensors, {"M": 3136}, 0.0, 12.0 * 3136 * 256, peer)


def _convolution(tensors: dict[str, np.ndarray], stride: int) -> Callable[[], object]:
    x = torch.from_numpy(tensors["X"]).permute(0, 3, 1, 2)
    w = torch.from_numpy(tensors["F"]).to(memory_format=torch.channels_last)
    bias = torch.from_numpy(tensors["bias"])
    return lambda: torch.nn.functional.conv2d(x, w, bias, stride, 1, 1, len(bias))


def _row_peer(name: str, tensors: dict[str, np.ndarray]) -> Callable[[], object]:
    x, g, beta = (torch.from_numpy(tensors[n]) for n in ("X", "g", "beta"))
    f = torch.nn.functional
    return {
        "norm": lambda: f.layer_norm(x, (768,), g, beta),
        "rms": lambda: f.rms_norm(x, (768,), g, 1e-5),
        "softmax": lambda: torch.softmax(x, -1),
    }[name]


def _run(bound: list[Bound]) -> None:
    for b in bound:
        b.run()


def copied(size: float) -> float:
    """Seconds that a copy of half of ``size`` bytes takes, which moves all of them."""
    source = np.ones(max(64, int(size // 8)), np.float32)
    target = np.empty_like(source)
    return min(_timed(lambda: [np.copyto(target, source) for _ in range(8)]) for _ in range(20)) / 8


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--level", default=LEVELS[-1])
    parser.add_argument("--only", default="")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--compile-only", action="store_true", help="fill the compiler's cache and measure nothing")
    options = parser.parse_args()
    if torch is not None:
        torch.set_num_threads(1)
    loop = peak_loop(TARGETS[options.level])
    peak = max(loop() for _ in range(7))
    print(f"{options.level}: measured peak {peak / 1e9:.0f} GFLOP/s a core")
    print(f"{'kernel':30} {'us':>8} {'GFLOP/s':>8} {'of roof':>8} {'torch/ours':>10}")
    for case in cases():
        if options.only not in case.name:
            continue
        compiled = [compile_kernel(k, options.level) for k in case.kernels]
        if options.compile_only:
            continue
        bound = [bind(c, case.tensors, case.dims, lambda size, value, _: unguarded(size, value, 64)) for c in compiled]
        ours, theirs = [], []
        for _ in range(options.repeats):
            ours.append(min(_timed(partial(_run, bound)) for _ in range(3)))
            if case.peer is not None:
                theirs.append(min(_timed(case.peer) for _ in range(3)))
        roof = max(case.flops / peak, copied(case.size))
        ratio = f"{min(theirs) / min(ours):10.2f}" if theirs else ""
        best = min(ours)
        speed = f"{best * 1e6:8.1f} {case.flops / best / 1e9:8.1f} {roof / best:8.1%}"
        print(f"{case.name:30} {speed} {ratio}", flush=True)


if __name__ == "__main__":
    main()
