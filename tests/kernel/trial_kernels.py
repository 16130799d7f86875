"""The four trial kernels, one text each for every target: matmul with epilogue, convolution, row softmax, attention."""

from __future__ import annotations

from collections.abc import Callable

from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.tile import Kernel


def matmul_bias_gelu(dtype: str = "f32", k: int = 768, n: int = 768) -> Kernel:
    """``gelu(A @ B + bias)`` with a symbolic number of rows; inputs of ``dtype``, sums in f32."""
    wide = (lambda x: x) if dtype == "f32" else (lambda x: f"f32({x})")
    result = "y[m, n] * f32(0.5) * (f32(1.0) + erf(y[m, n] * f32(0.7071067811865476)))"
    return parse_kernel(f"""
@kernel
def matmul_bias_gelu(A: {dtype}[M, {k}], B: const[{dtype}[{k}, {n}]], bias: const[f32[{n}]], C: out[{dtype}[M, {n}]]):
    where(1 <= M <= 4096)
    m: M
    n: {n}
    k: {k}
    acc[m, n] = sum(k, {wide("A[m, k]")} * {wide("B[k, n]")})
    y[m, n] = acc[m, n] + bias[n]
    C[m, n] = {result if dtype == "f32" else f"{dtype}({result})"}
""")


def conv3x3_residual_relu(height: int = 56, width: int = 56, ci: int = 64, co: int = 128, dtype: str = "f32") -> Kernel:
    """3 × 3 convolution, stride 2, padding 1, channels last, plus bias and residual, then relu; batch is symbolic."""
    oh, ow = (height + 1) // 2, (width + 1) // 2
    wide = (lambda x: x) if dtype == "f32" else (lambda x: f"f32({x})")
    x = "(X[b, oh*2 + kh - 1, ow*2 + kw - 1, c] or 0)"
    narrow = (lambda x: x) if dtype == "f32" else (lambda x: f"{dtype}({x})")
    return parse_kernel(f"""
@kernel
def conv3x3_residual_relu(X: {dtype}[B, {height}, {width}, {ci}], W: const[{dtype}[3, 3, {ci}, {co}]],
                          bias: const[f32[{co}]], R: {dtype}[B, {oh}, {ow}, {co}],
                          Y: out[{dtype}[B, {oh}, {ow}, {co}]]):
    where(1 <= B <= 64)
    b: B
    oh: {oh}
    ow: {ow}
    o: {co}
    kh: 3
    kw: 3
    c: {ci}
    acc[b, oh, ow, o] = sum((kh, kw, c), {wide(x)} * {wide("W[kh, kw, c, o]")})
    z[b, oh, ow, o] = acc[b, oh, ow, o] + bias[o] + {wide("R[b, oh, ow, o]")}
    Y[b, oh, ow, o] = {narrow("max(z[b, oh, ow, o], f32(0.0))")}
""")


def row_softmax(dtype: str = "f32") -> Kernel:
    """Softmax of each row; both sizes are symbolic."""
    wide = "X[m, n]" if dtype == "f32" else "f32(X[m, n])"
    result = "e[m, n] / total[m]" if dtype == "f32" else f"{dtype}(e[m, n] / total[m])"
    return parse_kernel(f"""
@kernel
def row_softmax(X: {dtype}[M, N], Y: out[{dtype}[M, N]]):
    where(1 <= M <= 65536, 1 <= N <= 1024)
    m: M
    n: N
    top[m] = max(n, {wide})
    e[m, n] = exp({wide} - top[m])
    total[m] = sum(n, e[m, n])
    Y[m, n] = {result}
""")


def flash_attention(dtype: str = "f32", depth: int = 64, mask: str = "none") -> Kernel:
    """Attention over (batch, head, row, column, depth) with an online softmax.

    ``mask``: ``none``, ``additive`` (``bias[b, t]`` is added to the scores) or ``causal`` (columns after the row are
    out).
    """
    wide = (lambda x: x) if dtype == "f32" else (lambda x: f"f32({x})")
    narrow = (lambda x: x) if dtype == "f32" else (lambda x: f"{dtype}({x})")
    bias = "bias: f32[B, T], " if mask == "additive" else ""
    score = f"raw[b, h, i, t] * f32({depth**-0.5!r})"
    if mask == "additive":
        score += " + bias[b, t]"
    if mask == "causal":
        score = f"select(index(t) <= index(i + T - S), {score}, f32(-inf))"
    return parse_kernel(f"""
@kernel
def flash_attention(Q: {dtype}[B, H, S, {depth}], K: {dtype}[B, H, T, {depth}], V: {dtype}[B, H, T, {depth}],
                    {bias}O: out[{dtype}[B, H, S, {depth}]]):
    where(1 <= B <= 64, 1 <= H <= 64, 1 <= S <= 4096, 1 <= T <= 4096)
    b: B
    h: H
    i: S
    d: {depth}
    e: {depth}
    t: T
    for t in scan(mx=f32(-inf)[b, h, i], l=f32(0.0)[b, h, i], o=f32(0.0)[b, h, i, d]):
        raw[b, h, i, t] = sum(e, {wide("Q[b, h, i, e]")} * {wide("K[b, h, t, e]")})
        s[b, h, i, t] = {score}
        top[b, h, i] = max(t, s[b, h, i, t])
        mx2[b, h, i] = max(mx[b, h, i], top[b, h, i])
        safe[b, h, i] = select(mx2[b, h, i] == f32(-inf), f32(0.0), mx2[b, h, i])
        p[b, h, i, t] = exp(s[b, h, i, t] - safe[b, h, i])
        scale[b, h, i] = exp(mx[b, h, i] - safe[b, h, i])
        part[b, h, i] = sum(t, p[b, h, i, t])
        l2[b, h, i] = l[b, h, i] * scale[b, h, i] + part[b, h, i]
        pv[b, h, i, d] = sum(t, {wide(narrow("p[b, h, i, t]"))} * {wide("V[b, h, t, d]")})
        o2[b, h, i, d] = o[b, h, i, d] * scale[b, h, i] + pv[b, h, i, d]
        yield_(mx=mx2, l=l2, o=o2)
    O[b, h, i, d] = {narrow("o[b, h, i, d] / l[b, h, i]")}
""")


#: Every trial kernel by name, at the sizes that the tests of the tile IR use.
TRIALS: dict[str, Callable[[], Kernel]] = {
    "matmul": lambda: matmul_bias_gelu(k=20, n=36),
    "matmul-f16": lambda: matmul_bias_gelu("f16", k=20, n=36),
    "conv": lambda: conv3x3_residual_relu(9, 10, 4, 6),
    "conv-f16": lambda: conv3x3_residual_relu(9, 10, 4, 6, "f16"),
    "softmax": row_softmax,
    "softmax-bf16": lambda: row_softmax("bf16"),
    "attention": lambda: flash_attention(depth=8),
    "attention-additive": lambda: flash_attention(depth=8, mask="additive"),
    "attention-causal": lambda: flash_attention(depth=8, mask="causal"),
    "attention-f16": lambda: flash_attention("f16", depth=8),
}
