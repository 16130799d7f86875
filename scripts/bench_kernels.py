"""Speed of generated CPU kernels on this machine: GFLOP/s, share of the measured peak, ratio to PyTorch's own.

One thread, its own CPU time; ours, the peer and the loop that gives the peak run in turn, and ratios are medians over
rounds. ``python scripts/bench_kernels.py [--level cpu:x86-64-v3] [--only conv]``. Needs torch; without it the ratio
column is empty.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tilewright.backends.cpu import machine
from tilewright.codegen.toolchain import default_toolchain
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.tile import Kernel
from tilewright.ops.flatten import flatten_axes, name_axes
from tilewright.target import Target

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "cpu"))
from harness import Bound, bind, compile_kernel, unguarded

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

PEAK = """
#define TW_LANES {lanes}
#include "vec.h"
__attribute__((visibility("default"))) float peak(int64_t n) {{
    f32v x[12], a = set_f32(0.5f), b = set_f32(1.0f);
    TW_UNROLL TW_FOR(i, 12) x[i] = set_f32((float)i);
    for (int64_t k = 0; k < n; k++) {{
        TW_UNROLL TW_FOR(i, 12) x[i] = x[i] * a + b;
        __asm__ volatile("" : "+x"(x[0]));
    }}
    TW_UNROLL TW_FOR(i, 11) x[0] += x[i + 1];
    return x[0][0];
}}
"""


#: Iterations of the loop that measures the peak: about half a millisecond.
PEAK_TURNS = 100_000


def peak_loop(target: Target) -> Callable[[], float]:
    """What measures the multiply-adds of one core in flop/s, by a loop of independent ones."""
    tools = default_toolchain().bare
    lanes = machine.lanes(target)
    flags = machine.flags(target, tools)
    path = Path(tools.cache.folder) / "peak.so"
    compiled = tools.compile(PEAK.format(lanes=lanes), flags, headers=machine.headers())
    path.write_bytes(tools.link({"p": compiled}, flags))
    library = ctypes.CDLL(str(path))
    path.unlink()
    flops = 2.0 * 12 * lanes * PEAK_TURNS
    return lambda: flops / _timed(lambda: library.peak(ctypes.c_int64(PEAK_TURNS)))


def _timed(run: Callable[[], object]) -> float:
    # The thread's own time: others on the machine cost us little of it, and all of the wall's.
    start = time.thread_time()
    run()
    return time.thread_time() - start


def matmul(k: int, n: int, gelu: bool) -> Kernel:
    """``A @ B + bias``, with gelu on top."""
    result = "y[m, n]"
    if gelu:
        result = "y[m, n] * f32(0.5) * (f32(1.0) + erf(y[m, n] * f32(0.7071067811865476)))"
    return parse_kernel(f"""
@kernel
def matmul_{k}_{n}(A: f32[M, {k}], B: const[f32[{k}, {n}]], bias: const[f32[{n}]], C: out[f32[M, {n}]]):
    where(1 <= M <= 8192)
    m: M
    n: {n}
    k: {k}
    acc[m, n] = sum(k, A[m, k] * B[k, n])
    y[m, n] = acc[m, n] + bias[n]
    C[m, n] = {result}
""")


ATTENTION = """
@kernel
def attention(Q: f32[B, S, 12, 32], K: f32[B, S, 12, 32], V: f32[B, S, 12, 32], bias: f32[B, S],
              O: out[f32[B, S, 12, 32]]):
    where(1 <= B <= 32, 8 <= S <= 256)
    b: B
    h: 12
    i: S
    d: 32
    e: 32
    t: S
    for t in scan(mx=f32(-inf)[b, h, i], l=f32(0.0)[b, h, i], o=f32(0.0)[b, h, i, d]):
        raw[b, h, i, t] = sum(e, Q[b, i, h, e] * K[b, t, h, e])
        s[b, h, i, t] = raw[b, h, i, t] * f32(0.17677669529663687) + bias[b, t]
        top[b, h, i] = max(t, s[b, h, i, t])
        mx2[b, h, i] = max(mx[b, h, i], top[b, h, i])
        p[b, h, i, t] = exp(s[b, h, i, t] - mx2[b, h, i])
        scale[b, h, i] = exp(mx[b, h, i] - mx2[b, h, i])
        part[b, h, i] = sum(t, p[b, h, i, t])
        l2[b, h, i] = l[b, h, i] * scale[b, h, i] + part[b, h, i]
        pv[b, h, i, d] = sum(t, p[b, h, i, t] * V[b, t, h, d])
        o2[b, h, i, d] = o[b, h, i, d] * scale[b, h, i] + pv[b, h, i, d]
        yield_(mx=mx2, l=l2, o=o2)
    O[b, i, h, d] = o[b, h, i, d] / l[b, h, i]
"""
NORM = """
@kernel
def norm(X: f32[M, 384], R: f32[M, 384], g: const[f32[384]], beta: const[f32[384]], Y: out[f32[M, 384]]):
    where(1 <= M <= 8192)
    m: M
    n: 384
    x[m, n] = X[m, n] + R[m, n]
    total[m] = sum(n, x[m, n])
    mean[m] = total[m] * f32(0.0026041666666666665)
    c[m, n] = x[m, n] - mean[m]
    squares[m] = sum(n, c[m, n] * c[m, n])
    r[m] = rsqrt(squares[m] * f32(0.0026041666666666665) + f32(1e-12))
    Y[m, n] = c[m, n] * r[m] * g[n] + beta[n]
"""


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@dataclass(frozen=True)
class Conv:
    """A square convolution of ResNet-50. ``planes``: the input is channels first, as an image comes."""

    size: int
    ci: int
    co: int
    window: int
    stride: int = 1
    residual: bool = False
    planes: bool = False

    @property
    def pad(self) -> int:
        return self.window // 2

    @property
    def out(self) -> int:
        return (self.size + 2 * self.pad - self.window) // self.stride + 1


RESNET = (
    Conv(224, 3, 64, 7, 2, planes=True),
    *(Conv(s, c, c, 3) for s, c in ((56, 64), (28, 128), (14, 256), (7, 512))),
    *(Conv(s, c, c, 3, 2) for s, c in ((56, 128), (28, 256), (14, 512))),
    *(Conv(s, c, 4 * c, 1, residual=True) for s, c in ((56, 64), (28, 128), (14, 256), (7, 512))),
    *(Conv(s, 4 * c, c, 1) for s, c in ((56, 64), (28, 128), (14, 256), (7, 512))),
    *(Conv(s, ci, co, 1) for s, ci, co in ((56, 64, 64), (56, 256, 128), (28, 512, 256), (14, 1024, 512))),
    *(Conv(s, c, 2 * c, 1, 2) for s, c in ((56, 256), (28, 512), (14, 1024))),
)


def convolution(c: Conv) -> Kernel:
    """Channels last, with bias, residual and relu as ``c`` says; merged as lowered convolutions are."""
    source = "B, 3, {s}, {s}" if c.planes else "B, {s}, {s}, {ci}"
    place = f"oh*{c.stride} + kh - {c.pad}, ow*{c.stride} + kw - {c.pad}"
    read = f"X[b, i, {place}]" if c.planes else f"X[b, {place}, i]"
    if c.pad:
        read = f"({read} or 0)"
    shape = f"f32[B, {c.out}, {c.out}, {c.co}]"
    return name_axes(
        flatten_axes(
            parse_kernel(f"""
@kernel
def conv(X: f32[{source.format(s=c.size, ci=c.ci)}], W: const[f32[{c.co}, {c.ci}, {c.window}, {c.window}]],
         bias: const[f32[{c.co}]], {f"R: {shape}, " if c.residual else ""}Y: out[{shape}]):
    where(1 <= B <= 32)
    b: B
    oh: {c.out}
    ow: {c.out}
    o: {c.co}
    kh: {c.window}
    kw: {c.window}
    i: {c.ci}
    acc[b, oh, ow, o] = sum((kh, kw, i), {read} * W[o, i, kh, kw])
    Y[b, oh, ow, o] = max(acc[b, oh, ow, o] + bias[o]{" + R[b, oh, ow, o]" if c.residual else ""}, f32(0.0))
""")
        ),
        ("m", "n"),
    )


def _convolutions(batch: int) -> Iterator[Case]:
    for c in RESNET:
        source = (batch, c.ci, c.size, c.size) if c.planes else (batch, c.size, c.size, c.ci)
        tensors = {"X": _random(*source), "W": _random(c.co, c.ci, c.window, c.window), "bias": _random(c.co)}
        if c.residual:
            tensors["R"] = _random(batch, c.out, c.out, c.co)
        peer = None
        if torch is not None:
            x, w, bias = (torch.from_numpy(tensors[n]) for n in ("X", "W", "bias"))
            x = (x if c.planes else x.permute(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)
            conv = torch.nn.Conv2d(c.ci, c.co, c.window, c.stride, c.pad).to(memory_format=torch.channels_last).eval()
            conv.weight.data, conv.bias.data = w.contiguous(memory_format=torch.channels_last), bias
            r = torch.from_numpy(tensors["R"]).permute(0, 3, 1, 2) if c.residual else None
            peer = _torch_convolution(conv, x, r)
        flops = 2.0 * batch * c.out**2 * c.co * c.ci * c.window**2
        name = f"conv{batch} {c.window}x{c.window}/{c.stride} {c.size} {c.ci}->{c.co}{'+r' if c.residual else ''}"
        yield name, convolution(c), {"B": batch}, tensors, flops, peer


REQUANTIZED = """
    y[{axes}] = f32(acc[{axes}] + shift[{o}]) * scale[{o}]{residual}
    z[{axes}] = max(y[{axes}], f32(0.0))
    Y[{axes}] = u8(min(max(round(z[{axes}] * f32(37.5)) + f32(3.0), f32(0.0)), f32(255.0)))
"""


def integer_convolution(c: Conv) -> Kernel:
    """The same with 8-bit integers; outside the image lies the zero point of the input."""
    read = f"X[b, oh*{c.stride} + kh - {c.pad}, ow*{c.stride} + kw - {c.pad}, i]"
    shape = f"u8[B, {c.out}, {c.out}, {c.co}]"
    residual = " + (f32(R[b, oh, ow, o]) - f32(7.0)) * f32(0.02)" if c.residual else ""
    return name_axes(
        flatten_axes(
            parse_kernel(
                f"""
@kernel
def conv8(X: u8[B, {c.size}, {c.size}, {c.ci}], W: const[i8[{c.co}, {c.ci}, {c.window}, {c.window}]],
          shift: const[i32[{c.co}]], scale: const[f32[{c.co}]],
          {f"R: {shape}, " if c.residual else ""}Y: out[{shape}]):
    where(1 <= B <= 32)
    b: B
    oh: {c.out}
    ow: {c.out}
    o: {c.co}
    kh: {c.window}
    kw: {c.window}
    i: {c.ci}
    acc[b, oh, ow, o] = sum((kh, kw, i), i32({f"({read} or 128)" if c.pad else read}) * i32(W[o, i, kh, kw]))
"""
                + REQUANTIZED.format(axes="b, oh, ow, o", o="o", residual=residual)
            )
        ),
        ("m", "n"),
    )


def integer_matmul(k: int, n: int, kind: str) -> Kernel:
    """Rows of ``kind``: u8, or f32 that is quantized on the way."""
    read = "X[m, k]" if kind == "u8" else "u8(min(max(round(X[m, k] * f32(40.0)) + f32(128.0), f32(0.0)), f32(255.0)))"
    return parse_kernel(
        f"""
@kernel
def matmul8_{k}_{n}(X: {kind}[M, {k}], W: const[i8[{k}, {n}]], shift: const[i32[{n}]], scale: const[f32[{n}]],
                    Y: out[u8[M, {n}]]):
    where(1 <= M <= 8192)
    m: M
    n: {n}
    k: {k}
    acc[m, n] = sum(k, i32({read}) * i32(W[k, n]))
"""
        + REQUANTIZED.format(axes="m, n", o="n", residual="")
    )


def _bytes(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.random.default_rng(0).integers(limits.min, limits.max + 1, shape).astype(dtype)


def _epilogue(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"shift": rng.integers(-999, 999, n).astype(np.int32), "scale": (rng.random(n) * 1e-4).astype(np.float32)}


def _float_peer(kernel: Kernel, dims: dict[str, int], tensors: dict[str, np.ndarray]) -> Callable[[], object]:
    """Our own f32 kernel of the same shape."""
    made: list[Bound] = []

    def run() -> object:
        if not made:
            made.append(bind(compile_kernel(kernel, LEVEL[0]), tensors, dims, unguarded))
        return made[0].run()

    return run


def _integer_convolution(c: Conv, batch: int) -> Case:
    tensors = {"X": _bytes(batch, c.size, c.size, c.ci), "W": _bytes(c.co, c.ci, c.window, c.window, dtype=np.int8)}
    floats = {name: _random(*x.shape) for name, x in tensors.items()} | {"bias": _random(c.co)}
    if c.residual:
        tensors["R"] = _bytes(batch, c.out, c.out, c.co)
        floats["R"] = _random(batch, c.out, c.out, c.co)
    flops = 2.0 * batch * c.out**2 * c.co * c.ci * c.window**2
    name = f"i8-conv{batch} {c.window}x{c.window}/{c.stride} {c.size} {c.ci}->{c.co}{'+r' if c.residual else ''}"
    peer = _float_peer(convolution(c), {"B": batch}, floats)
    return name, integer_convolution(c), {"B": batch}, tensors | _epilogue(c.co), flops, peer


def _integer_matmul(m: int, k: int, n: int, kind: str) -> Case:
    x = _bytes(m, k) if kind == "u8" else _random(m, k)
    tensors = {"X": x, "W": _bytes(k, n, dtype=np.int8)} | _epilogue(n)
    peer = _float_peer(matmul(k, n, gelu=False), {"M": m}, {"A": _random(m, k), "B": _random(k, n), "bias": _random(n)})
    return f"i8-matmul {kind} {m}x{k}x{n}", integer_matmul(k, n, kind), {"M": m}, tensors, 2.0 * m * k * n, peer


def _torch_convolution(conv: Any, x: Any, r: Any) -> Callable[[], object]:
    """The same by PyTorch."""

    def run() -> object:
        with torch.inference_mode():
            y = conv(x)
            return torch.relu_(y if r is None else y.add_(r))

    return run


#: The level that is measured.
LEVEL = [machine.runnable()[-1].spelling]
Case = tuple[str, Kernel, dict[str, int], dict[str, np.ndarray], float, Callable[[], object] | None]


def cases() -> list[Case]:
    """Name, kernel, dimensions, tensors, flops, and the same by PyTorch."""
    found: list[Case] = []
    for k, n, gelu in ((384, 384, False), (384, 1536, True), (1536, 384, False)):
        for m in (8, 100, 128, 512, 4096):
            tensors = {"A": _random(m, k), "B": _random(k, n), "bias": _random(n)}
            peer = None
            if torch is not None:
                a, w, bias = (torch.from_numpy(x) for x in (tensors["A"], tensors["B"].T.copy(), tensors["bias"]))
                if gelu:
                    peer = lambda a=a, w=w, bias=bias: torch.nn.functional.gelu(torch.nn.functional.linear(a, w, bias))  # noqa: E731
                else:
                    peer = lambda a=a, w=w, bias=bias: torch.nn.functional.linear(a, w, bias)  # noqa: E731
            name = f"matmul{'+gelu' if gelu else ''} {m}x{k}x{n}"
            found.append((name, matmul(k, n, gelu), {"M": m}, tensors, 2.0 * m * k * n, peer))
    for b, s in ((1, 8), (1, 128), (8, 32), (4, 256)):
        tensors = {name: _random(b, s, 12, 32) for name in "QKV"} | {"bias": _random(b, s)}
        peer = None
        if torch is not None:
            q, k_, v = (torch.from_numpy(tensors[x]).transpose(1, 2) for x in "QKV")
            mask = torch.from_numpy(tensors["bias"])[:, None, None, :].expand(b, 12, s, s)
            attend = torch.nn.functional.scaled_dot_product_attention
            peer = lambda q=q, k_=k_, v=v, mask=mask, attend=attend: attend(q, k_, v, mask)  # noqa: E731
        found.append(
            (f"attention {b}x{s}", parse_kernel(ATTENTION), {"B": b, "S": s}, tensors, 4.0 * b * 12 * s * s * 32, peer)
        )
    found += [*_convolutions(1), *_convolutions(8)]
    found += [_integer_convolution(c, batch) for batch in (1, 8) for c in RESNET if not c.planes]
    for m, k, n in (
        (1, 768, 3072),
        (4, 768, 3072),
        (16, 768, 768),
        (128, 768, 768),
        (128, 768, 3072),
        (128, 3072, 768),
    ):
        found += [_integer_matmul(m, k, n, "u8"), _integer_matmul(m, k, n, "f32")]
    for m in (8, 128, 4096):
        tensors = {"X": _random(m, 384), "R": _random(m, 384), "g": _random(384), "beta": _random(384)}
        peer = None
        if torch is not None:
            x, r, g, beta = (torch.from_numpy(tensors[n]) for n in ("X", "R", "g", "beta"))
            peer = lambda x=x, r=r, g=g, beta=beta: torch.nn.functional.layer_norm(x + r, (384,), g, beta)  # noqa: E731
        found.append((f"add+norm {m}x384", parse_kernel(NORM), {"M": m}, tensors, 8.0 * m * 384, peer))
    return found


@dataclass(frozen=True)
class Result:
    """Medians over rounds: seconds of ours, share of the peak, and how much longer the peer took."""

    seconds: float
    share: float
    ratio: float | None


def measure(
    bound: Bound, peer: Callable[[], object] | None, repeats: int, flops: float, peak: Callable[[], float]
) -> Result:
    """Ours, the peer and the peak in turn."""
    ours, shares, ratios = [], [], []
    inner = max(1, math.ceil(2e-4 / max(1e-7, _timed(bound.run))))
    for _ in range(repeats):
        top = peak()
        ours.append(_timed(lambda: [bound.run() for _ in range(inner)]) / inner)
        shares.append(flops / ours[-1] / max(top, peak()))
        if peer is not None:
            ratios.append(_timed(lambda: [peer() for _ in range(inner)]) / inner / ours[-1])
    return Result(statistics.median(ours), statistics.median(shares), statistics.median(ratios) if ratios else None)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--level", default=machine.runnable()[-1].spelling)
    parser.add_argument("--only", default="")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    target = machine.targets()[options.level]
    LEVEL[0] = options.level
    wide = target.peak["i8"] / target.peak["f32"]
    if torch is not None:
        torch.set_num_threads(1)
    peak = peak_loop(target)
    print(f"{target.spelling}: measured peak {max(peak() for _ in range(20)) / 1e9:.0f} GFLOP/s a core")
    print(f"{'kernel':34} {'us':>9} {'GFLOP/s':>8} {'of peak':>8} {'torch/ours':>10}   (i8: f32/ours)")
    for name, kernel, dims, tensors, flops, peer in cases():
        if options.only not in name:
            continue
        bound = bind(compile_kernel(kernel, options.level), tensors, dims, unguarded)
        found = measure(bound, peer, options.repeats, flops, peak)
        ratio = f"{found.ratio:10.2f}" if found.ratio is not None else ""
        gflops = flops / found.seconds / 1e9
        share = found.share / wide if name.startswith("i8") else found.share
        print(f"{name:34} {found.seconds * 1e6:9.1f} {gflops:8.1f} {share:8.1%} {ratio}", flush=True)


if __name__ == "__main__":
    main()
