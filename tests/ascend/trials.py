"""The trial kernels on Ascend at sizes that run several blocks, slots and ragged edges, each placed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tilewright.backends import ascend
from tilewright.backends.ascend.placed.form import Placed
from tilewright.backends.ascend.placing.online import PIPELINED
from tilewright.backends.ascend.placing.place import place
from tilewright.ir.symbolic import constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.apply import apply
from tilewright.kernel.pack import in_memory, pack_constant
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.schedule import Loop, Pack, Schedule
from tilewright.kernel.tile import Kernel
from tilewright.target import Target, load_targets

from tests.kernel.trial_kernels import conv3x3_residual_relu, flash_attention, matmul_bias_gelu, row_softmax

Array = np.ndarray[Any, Any]


@lru_cache(maxsize=1)
def targets() -> Mapping[str, Target]:
    """The Ascend targets by spelling."""
    return load_targets(Path(ascend.__path__[0]) / "targets", "ascend")


@dataclass(frozen=True)
class Trial:
    """A kernel, a schedule with small tiles, and dimensions under which every loop runs more than twice."""

    kernel: Kernel
    schedule: Schedule
    dims: Mapping[str, int]

    def values(self, dims: Mapping[str, int] | None = None, seed: int = 0) -> dict[str, Array]:
        """Normal values; constants are scaled so that sums stay near 1. Integers of 8 bits have any value, wider ones
        are small."""
        random = np.random.default_rng(seed)
        result = {}
        for p in self.kernel.params:
            if p.role == "out":
                continue
            shape = [e.evaluate(dims or self.dims) for e in p.shape]
            if p.dtype.is_float:
                scale = 0.1 if p.role == "const" else 1.0
                result[p.name] = (random.standard_normal(shape) * scale).astype(p.dtype.numpy)
            else:
                high = 1 << p.dtype.bits - 1 if p.dtype.bits <= 8 else 1000
                least = -high if p.dtype.is_signed else 0
                result[p.name] = random.integers(least, least + 2 * high, shape).astype(p.dtype.numpy)
        return result

    def inputs(self, dims: Mapping[str, int] | None = None, seed: int = 0) -> dict[str, Array]:
        """The same as the placed kernel takes them: constants in their packed layouts."""
        return packed(self.schedule, self.values(dims, seed))


def packed(schedule: Schedule, values: Mapping[str, Array]) -> dict[str, Array]:
    """``values`` with constants in the layouts of ``schedule``, those of 4 bits as the bytes that they lie in."""
    packs = {p.tensor: p for p in schedule.packs}
    return {n: stored(pack_constant(v, packs[n])) if n in packs else v for n, v in values.items()}


def stored(value: Array) -> Array:
    """``value`` as it lies in memory: integers of 4 bits two a byte, whose rows end with whole bytes; rows of four of
    them are words."""
    dtype = DType.from_numpy(value.dtype)
    if dtype.bits >= 8:
        return value
    rows = in_memory(value, dtype).reshape(*value.shape[:-1], -1)
    return rows if rows.shape[-1] != 2 else rows.view(np.int16)


def _block(*loops: tuple[str, int]) -> tuple[Loop, ...]:
    return tuple(Loop(axis, size, "block") for axis, size in loops)


MATMUL_INT8 = """
@kernel
def matmul_int8(A: i8[M, 96], B: const[i8[96, 48]], zero: const[i32[48]], scale: const[f32[48]], C: out[i8[M, 48]]):
    where(1 <= M <= 4096)
    m: M
    n: 48
    k: 96
    acc[m, n] = sum(k, i32(A[m, k]) * i32(B[k, n]))
    y[m, n] = f32(acc[m, n] - zero[n]) * scale[n] * f32(0.01)
    C[m, n] = i8(min(max(round(y[m, n]) + f32(3.0), f32(-128.0)), f32(127.0)))
"""

MATMUL_BATCHED = """
@kernel
def matmul_batched(A: f16[B, H, M, 48], K: f16[B, H, N, 48], C: out[f16[B, H, M, N]]):
    where(1 <= B <= 8, 1 <= H <= 8, 1 <= M <= 512, 1 <= N <= 512)
    b: B
    h: H
    m: M
    n: N
    k: 48
    acc[b, h, m, n] = sum(k, f32(A[b, h, m, k]) * f32(K[b, h, n, k]))
    C[b, h, m, n] = f16(acc[b, h, m, n])
"""

MATMUL_BIAS_RELU = """
@kernel
def matmul_bias_relu(A: f16[M, {k}], B: const[f16[{k}, {n}]], bias: const[f16[{n}]], C: out[f16[M, {n}]]):
    where(1 <= M <= 4096)
    m: M
    n: {n}
    k: {k}
    acc[m, n] = sum(k, f32(A[m, k]) * f32(B[k, n]))
    C[m, n] = f16(max(f32(f16(acc[m, n]) + bias[n]), f32(0.0)))
"""

MATMUL_RESIDUAL = """
@kernel
def matmul_residual(A: f16[M, {k}], B: const[f16[{k}, {n}]], bias: const[f16[{n}]], R: f16[M, {n}],
                    C: out[f16[M, {n}]]):
    where(1 <= M <= 4096)
    m: M
    n: {n}
    k: {k}
    acc[m, n] = sum(k, f32(A[m, k]) * f32(B[k, n]))
    C[m, n] = f16(acc[m, n]) + bias[n] + R[m, n]
"""


MATMUL_INT4 = """
@kernel
def matmul_int4(A: f16[M, 160], B: const[i4[160, 64]], Z: const[i4[5, 64]], S: const[f16[5, 64]], C: out[f16[M, 64]]):
    where(1 <= M <= 4096)
    m: M
    n: 64
    k: 160
    acc[m, n] = sum(k, f32(A[m, k]) * f32(f16((f32(B[k, n]) - f32(Z[k // 32, n])) * f32(S[k // 32, n]))))
    C[m, n] = f16(acc[m, n])
"""


def fractals(tensor: str, rows: int, columns: int) -> Pack:
    """A constant matrix in NZ fractals of 16-bit elements, filled up with zeros."""
    d0, d1 = symbol("d0"), symbol("d1")
    shape = (constant(-(-columns // 16)), constant(-(-rows // 16) * 16), constant(16))
    return Pack(tensor, (d1 // 16, d0, d1 % 16), shape)


def turned_fractals(tensor: str, rows: int, columns: int) -> Pack:
    """A constant matrix of 8-bit elements, turned, in NZ fractals."""
    d0, d1 = symbol("d0"), symbol("d1")
    shape = (constant(-(-rows // 32)), constant(-(-columns // 16) * 16), constant(32))
    return Pack(tensor, (d0 // 32, d1, d0 % 32), shape)


TRIALS = {
    "matmul": Trial(
        matmul_bias_gelu("f16", k=96, n=64),
        Schedule(_block(("m", 32), ("n", 32)), (Loop("k", 32, "pipeline"),)),
        {"M": 75},
    ),
    "convolution": Trial(
        conv3x3_residual_relu(3, 9, ci=32, co=32, dtype="f16"),
        Schedule(_block(("b", 1), ("oh", 1), ("o", 32)), (Loop("kh", 1), Loop("kw", 1), Loop("c", 32, "pipeline"))),
        {"B": 2},
    ),
    "softmax": Trial(row_softmax("f16"), Schedule(_block(("m", 8))), {"M": 75, "N": 37}),
    "attention": Trial(
        flash_attention("f16", depth=32, mask="causal"),
        Schedule(_block(("b", 1), ("h", 1), ("i", 32)), (Loop("t", 32, "pipeline"),)),
        {"B": 1, "H": 1, "S": 90, "T": 80},
    ),
    "pipelined": Trial(
        flash_attention("f16", depth=32, mask="causal"),
        Schedule(_block(("b", 1), ("h", 1), ("i", 32)), (Loop("t", 128, "pipeline"),), extra=((PIPELINED, 2),)),
        {"B": 1, "H": 1, "S": 90, "T": 340},
    ),
    "int8": Trial(
        parse_kernel(MATMUL_INT8),
        Schedule(_block(("m", 32), ("n", 32)), (Loop("k", 32, "pipeline"),), packs=(turned_fractals("B", 96, 48),)),
        {"M": 75},
    ),
    "batched": Trial(
        parse_kernel(MATMUL_BATCHED),
        Schedule(_block(("b", 1), ("h", 1), ("m", 32), ("n", 32))),
        {"B": 2, "H": 1, "M": 40, "N": 50},
    ),
    # Every axis ragged, two pieces of depth in L1 and a ragged one; bias and relu without a vector core.
    "bias": Trial(
        parse_kernel(MATMUL_BIAS_RELU.format(k=72, n=48)),
        Schedule(_block(("m", 32), ("n", 32)), (Loop("k", 32, "pipeline"),), packs=(fractals("B", 72, 48),)),
        {"M": 75},
    ),
    "residual": Trial(
        parse_kernel(MATMUL_RESIDUAL.format(k=64, n=80)),
        Schedule(_block(("m", 48), ("n", 48)), packs=(fractals("B", 64, 80),)),
        {"M": 110},
    ),
    # Two pieces for each vector core, and more slices than the workspace has slots.
    "weights": Trial(
        parse_kernel(MATMUL_INT4),
        Schedule(
            _block(("m", 32), ("n", 32)),
            (Loop("k", 32, "pipeline"),),
            packs=(fractals("B", 160, 64), fractals("Z", 5, 64), fractals("S", 5, 64)),
        ),
        {"M": 75},
    ),
    # Three panes of rows, the last of which is empty in the second block; rows that stay in L1 for a second, narrower
    # tile; three slots of the columns.
    "panes": Trial(
        parse_kernel(MATMUL_BIAS_RELU.format(k=160, n=96)),
        Schedule(
            (*_block(("m", 48), ("n", 96)), Loop("n", 64)),
            (Loop("k", 64, "pipeline"),),
            packs=(fractals("B", 160, 96),),
            extra=(("ring", 3), ("panes", 3)),
        ),
        {"M": 70},
    ),
    # Rows that come before the columns, the others in two panes of which the first is lower; the last block ends within
    # those that come first.
    "lead": Trial(
        parse_kernel(MATMUL_BIAS_RELU.format(k=160, n=96)),
        Schedule(
            (*_block(("m", 80), ("n", 96)), Loop("n", 64)),
            (Loop("k", 64, "pipeline"),),
            packs=(fractals("B", 160, 96),),
            extra=(("panes", 2), ("lead", 16), ("height", 48)),
        ),
        {"M": 170},
    ),
    # The same with a residual, which vector cores copy for either part: two counters between cores, one edge back.
    "lead_residual": Trial(
        parse_kernel(MATMUL_RESIDUAL.format(k=160, n=96)),
        Schedule(
            (*_block(("m", 80), ("n", 96)), Loop("n", 64)),
            (Loop("k", 64, "pipeline"),),
            packs=(fractals("B", 160, 96),),
            extra=(("panes", 2), ("lead", 16), ("height", 48)),
        ),
        {"M": 170},
    ),
    "decode": Trial(
        parse_kernel(MATMUL_BIAS_RELU.format(k=160, n=128)),
        Schedule(_block(("m", 16), ("n", 32)), (Loop("k", 64, "pipeline"),), packs=(fractals("B", 160, 128),)),
        {"M": 1},
    ),
}


@lru_cache(maxsize=8)
def placed(name: str) -> Placed:
    """A trial, placed and synchronised for ascend:910b3."""
    trial = TRIALS[name]
    return place(apply(trial.kernel, trial.schedule), targets()["ascend:910b3"])
