"""Products of few rows, and with weights of 4 and 8 bits that have a scale for each group: kernels for the tests."""

from __future__ import annotations

from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.tile import Kernel


def _wide(dtype: str, what: str) -> str:
    return what if dtype == "f32" else f"f32({what})"


def skinny(dtype: str = "f16", rows: int = 16, depth: int = 768, columns: int = 768) -> Kernel:
    """A product with at most ``rows`` rows, and a residual."""
    return parse_kernel(f"""
@kernel
def skinny(X: {dtype}[B, {depth}], W: const[{dtype}[{depth}, {columns}]], R: {dtype}[B, {columns}],
           Y: out[{dtype}[B, {columns}]]):
    where(1 <= B <= {rows})
    m: B
    n: {columns}
    k: {depth}
    acc[m, n] = sum(k, {_wide(dtype, "X[m, k]")} * {_wide(dtype, "W[k, n]")})
    Y[m, n] = R[m, n] + {"acc[m, n]" if dtype == "f32" else f"{dtype}(acc[m, n])"}
""")


def vector(dtype: str = "f16", depth: int = 768, columns: int = 768) -> Kernel:
    """A vector by a matrix."""
    return parse_kernel(f"""
@kernel
def vector(X: {dtype}[1, {depth}], W: const[{dtype}[{depth}, {columns}]], Y: out[{dtype}[1, {columns}]]):
    n: {columns}
    k: {depth}
    acc[n] = sum(k, {_wide(dtype, "X[0, k]")} * {_wide(dtype, "W[k, n]")})
    Y[0, n] = {"acc[n]" if dtype == "f32" else f"{dtype}(acc[n])"}
""")


def grouped(
    dtype: str = "f16", weights: str = "i4", rows: int = 16, depth: int = 768, columns: int = 768, group: int = 32
) -> Kernel:
    """Weights with a scale for each ``group`` of the depth, in every column."""
    return parse_kernel(f"""
@kernel
def grouped(X: {dtype}[B, {depth}], W: const[{weights}[{depth}, {columns}]], S: const[f32[{depth // group}, {columns}]],
            Y: out[{dtype}[B, {columns}]]):
    where(1 <= B <= {rows})
    m: B
    n: {columns}
    block: {depth // group}
    j: {group}
    part[m, n, block] = sum(j, {_wide(dtype, f"X[m, {group}*block + j]")} * f32(W[{group}*block + j, n]))
    acc[m, n] = sum(block, part[m, n, block] * S[block, n])
    Y[m, n] = {"acc[m, n]" if dtype == "f32" else f"{dtype}(acc[m, n])"}
""")


def channels(dtype: str = "f16", weights: str = "i8", rows: int = 16, depth: int = 768, columns: int = 768) -> Kernel:
    """Weights with a scale for each column."""
    return parse_kernel(f"""
@kernel
def channels(X: {dtype}[B, {depth}], W: const[{weights}[{depth}, {columns}]], S: const[f32[{columns}]],
             Y: out[{dtype}[B, {columns}]]):
    where(1 <= B <= {rows})
    m: B
    n: {columns}
    k: {depth}
    acc[m, n] = sum(k, {_wide(dtype, "X[m, k]")} * f32(W[k, n]))
    Y[m, n] = {"acc[m, n] * S[n]" if dtype == "f32" else f"{dtype}(acc[m, n] * S[n])"}
""")
