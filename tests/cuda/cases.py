"""The kernels of these tests, sizes to run them at and inputs; the trial kernels are shared with every target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tilewright.kernel.apply import apply
from tilewright.kernel.pack import pack_constant
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.schedule import Loop, Schedule, Scheduled, Stage
from tilewright.kernel.tile import Kernel

from tests.kernel import trial_kernels

Array = np.ndarray[Any, np.dtype[Any]]


def block(axis: str, size: int) -> Loop:
    return Loop(axis, size, "block")


def pipeline(axis: str, size: int) -> Loop:
    return Loop(axis, size, "pipeline")


def inputs(kernel: Kernel, sizes: dict[str, int], seed: int = 0) -> dict[str, Array]:
    """Standard normal values (small integers for integers) for every parameter but the outputs."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for p in kernel.params:
        if p.role != "out":
            shape = [e.evaluate(sizes) for e in p.shape]
            if p.dtype.is_float:
                arrays[p.name] = rng.standard_normal(shape).astype(p.dtype.numpy)
            else:
                arrays[p.name] = rng.integers(-8, 8, shape).astype(p.dtype.numpy)
    return arrays


def empty_outputs(kernel: Kernel, sizes: dict[str, int]) -> dict[str, Array]:
    """Outputs full of a value that no kernel writes, so that a lane left out shows."""
    return {
        p.name: np.full([e.evaluate(sizes) for e in p.shape], 77, p.dtype.numpy)
        for p in kernel.params
        if p.role == "out"
    }


def in_memory(scheduled: Scheduled, arrays: dict[str, Array]) -> dict[str, Array]:
    """``arrays`` as the kernel reads them: constants in the layout of the schedule's packs."""
    packs = {p.tensor: p for p in scheduled.schedule.packs}
    return {name: pack_constant(a, packs[name]) if name in packs else a for name, a in arrays.items()}


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel under a schedule (``None``: the backend's first guess); ``sizes`` are odd on purpose.

    ``build`` takes the type of the inputs.
    """

    name: str
    build: Callable[[str], Kernel]
    schedule: Schedule | None
    sizes: dict[str, int]

    def scheduled(self, dtype: str) -> Scheduled:
        """The kernel, under a name of its own, with its schedule applied."""
        assert self.schedule is not None
        return apply(replace(self.build(dtype), name=f"{self.name}_{dtype}"), self.schedule)


SMALL = (
    Case(
        "matmul",
        lambda t: trial_kernels.matmul_bias_gelu(t, k=72, n=80),
        Schedule((block("n", 32), block("m", 32)), (pipeline("k", 32),)),
        {"M": 37},
    ),
    Case(
        "convolution",
        lambda t: trial_kernels.conv3x3_residual_relu(13, 11, 24, 40, t),
        Schedule(
            (block("o", 32), block("b", 1), block("oh", 4), block("ow", 8)),
            (pipeline("kh", 1), pipeline("kw", 1), pipeline("c", 16)),
        ),
        {"B": 2},
    ),
    Case(
        "softmax",
        trial_kernels.row_softmax,
        Schedule((block("m", 2),), extra=(("whole:n", 1024),)),
        {"M": 3, "N": 201},
    ),
    Case(
        "attention",
        lambda t: trial_kernels.flash_attention(t, 48),
        Schedule(
            (block("b", 1), block("h", 1), block("i", 16)),
            (pipeline("t", 32),),
            (Stage("Q", 3, "reg"),),
            extra=(("whole:d", 64), ("whole:e", 64), ("num_stages", 2)),
        ),
        {"B": 1, "H": 2, "S": 35, "T": 51},
    ),
    Case(
        "causal_attention",
        lambda t: trial_kernels.flash_attention(t, 48, "causal"),
        Schedule(
            (block("b", 1), block("h", 1), block("i", 16)),
            (pipeline("t", 32),),
            (Stage("Q", 3, "reg"),),
            extra=(("whole:d", 64), ("whole:e", 64), ("num_stages", 2)),
        ),
        {"B": 1, "H": 2, "S": 35, "T": 51},
    ),
)


def int8_matmul(dtype: str = "i8") -> Kernel:
    """``A @ B`` with a scale and a zero point per column, rounded back to int8."""
    return parse_kernel(f"""
@kernel
def int8_matmul(A: {dtype}[M, 96], B: const[{dtype}[96, 72]], scale: const[f32[72]], C: out[i8[M, 72]]):
    where(1 <= M <= 4096)
    m: M
    n: 72
    k: 96
    acc[m, n] = sum(k, i32(A[m, k]) * i32(B[k, n]))
    C[m, n] = i8(max(min(round(f32(acc[m, n]) * scale[n]), f32(127.0)), f32(-128.0)))
""")


INTEGER = Case(
    "int8_matmul",
    int8_matmul,
    Schedule((block("n", 32), block("m", 32)), (pipeline("k", 64),)),
    {"M": 37},
)


def residual_layer_norm(dtype: str = "f16", n: int = 768) -> Kernel:
    """Layer norm of a sum of two rows, statistics in f32."""
    wide = (lambda x: x) if dtype == "f32" else (lambda x: f"f32({x})")
    result = "c[m, n] * scale[m] * gain[n] + shift[n]"
    result = result if dtype == "f32" else f"{dtype}({result})"
    return parse_kernel(f"""
@kernel
def residual_layer_norm(X: {dtype}[M, {n}], R: {dtype}[M, {n}], gain: const[f32[{n}]], shift: const[f32[{n}]],
                        Y: out[{dtype}[M, {n}]]):
    where(1 <= M <= 65536)
    m: M
    n: {n}
    x[m, n] = {wide("X[m, n]")} + {wide("R[m, n]")}
    total[m] = sum(n, x[m, n])
    c[m, n] = x[m, n] - total[m] * f32({1 / n!r})
    variance[m] = sum(n, c[m, n] * c[m, n])
    scale[m] = rsqrt(variance[m] * f32({1 / n!r}) + f32(1e-05))
    Y[m, n] = {result}
""")


LAYER_NORM = Case(
    "layer_norm",
    lambda t: residual_layer_norm(t, 200),
    Schedule((block("m", 2),), extra=(("whole:n", 256),)),
    {"M": 5},
)
