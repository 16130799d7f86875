"""Speed of generated CPU kernels on this machine: GFLOP/s, share of the measured peak, ratio to PyTorch's own.

One thread, its own CPU time, medians of interleaved runs. ``python scripts/bench_kernels.py [--level cpu:x86-64-v3]
[--only matmul]``. Needs torch; without it the ratio column is empty.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tilewright.backends.cpu import machine
from tilewright.codegen.toolchain import default_toolchain
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.tile import Kernel
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


def measured_peak(target: Target) -> float:
    """Multiply-adds of one core in flop/s, from a loop of independent ones."""
    tools = default_toolchain()
    lanes = machine.lanes(target)
    flags = machine.flags(target, tools)
    path = Path(tools.cache.folder) / "peak.so"
    compiled = tools.compile(PEAK.format(lanes=lanes), flags, headers=machine.headers())
    path.write_bytes(tools.link({"p": compiled}, flags))
    library = ctypes.CDLL(str(path))
    path.unlink()
    n = 2_000_000
    seconds = min(_timed(lambda: library.peak(ctypes.c_int64(n))) for _ in range(7))
    return 2.0 * 12 * lanes * n / seconds


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
    for m in (8, 128, 4096):
        tensors = {"X": _random(m, 384), "R": _random(m, 384), "g": _random(384), "beta": _random(384)}
        peer = None
        if torch is not None:
            x, r, g, beta = (torch.from_numpy(tensors[n]) for n in ("X", "R", "g", "beta"))
            peer = lambda x=x, r=r, g=g, beta=beta: torch.nn.functional.layer_norm(x + r, (384,), g, beta)  # noqa: E731
        found.append((f"add+norm {m}x384", parse_kernel(NORM), {"M": m}, tensors, 8.0 * m * 384, peer))
    return found


def measure(bound: Bound, peer: Callable[[], object] | None, repeats: int) -> tuple[float, float | None]:
    """Median seconds of ours and of the peer, taken in turn."""
    ours, theirs = [], []
    inner = max(1, math.ceil(2e-4 / max(1e-7, _timed(bound.run))))
    for _ in range(repeats):
        ours.append(_timed(lambda: [bound.run() for _ in range(inner)]) / inner)
        if peer is not None:
            theirs.append(_timed(lambda: [peer() for _ in range(inner)]) / inner)
    return statistics.median(ours), statistics.median(theirs) if theirs else None


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--level", default=machine.runnable()[-1].spelling)
    parser.add_argument("--only", default="")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    target = machine.targets()[options.level]
    if torch is not None:
        torch.set_num_threads(1)
    peak = measured_peak(target)
    print(f"{target.spelling}: measured peak {peak / 1e9:.0f} GFLOP/s a core")
    print(f"{'kernel':28} {'us':>9} {'GFLOP/s':>8} {'of peak':>8} {'torch/ours':>10}")
    for name, kernel, dims, tensors, flops, peer in cases():
        if options.only not in name:
            continue
        bound = bind(compile_kernel(kernel, options.level), tensors, dims, unguarded)
        ours, theirs = measure(bound, peer, options.repeats)
        ratio = f"{theirs / ours:10.2f}" if theirs is not None else ""
        print(f"{name:28} {ours * 1e6:9.1f} {flops / ours / 1e9:8.1f} {flops / ours / peak:8.1%} {ratio}", flush=True)


if __name__ == "__main__":
    main()
