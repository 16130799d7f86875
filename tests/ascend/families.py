"""One kernel of each family, with sizes at which it runs several blocks, slots and ragged edges; for mutations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
from tilewright.backends.ascend.backend import AscendBackend
from tilewright.backends.ascend.placed.form import Placed
from tilewright.backends.ascend.placing.place import place
from tilewright.backends.ascend.schedules.schedule import schedules
from tilewright.backends.base import Support
from tilewright.kernel.apply import apply
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.schedule import Loop, Schedule, ScheduleError
from tilewright.kernel.tile import Kernel

from tests.ascend.convolutions import Convolution
from tests.ascend.trials import TRIALS, Trial, placed, targets
from tests.ascend.verdicts import Subject

LAYER_NORM = """
@kernel
def layer_norm(X: f16[M, 96], G: const[f32[96]], B: const[f32[96]], Y: out[f16[M, 96]]):
    where(1 <= M <= 65536)
    m: M
    n: 96
    total[m] = sum(n, f32(X[m, n]))
    centred[m, n] = f32(X[m, n]) - total[m] * f32(0.010416667)
    square[m] = sum(n, centred[m, n] * centred[m, n])
    spread[m] = sqrt(square[m] * f32(0.010416667) + f32(0.00001))
    Y[m, n] = f16(centred[m, n] / spread[m] * G[n] + B[n])
"""

RMS_NORM = """
@kernel
def rms_norm(X: f16[M, 64], G: const[f32[64]], Y: out[f16[M, 64]]):
    where(1 <= M <= 65536)
    m: M
    n: 64
    square[m] = sum(n, f32(X[m, n]) * f32(X[m, n]))
    Y[m, n] = f16(f32(X[m, n]) / sqrt(square[m] * f32(0.015625) + f32(0.00001)) * G[n])
"""

#: One query a head over a cache: an inner loop whose transfers come a turn ahead.
CACHE = """
@kernel
def cache(Q: f16[M, 32], K: f16[M, T, 32], V: f16[M, T, 32], O: out[f16[M, 32]]):
    where(1 <= M <= 64, 1 <= T <= 64)
    m: M
    n: 32
    t: T
    k: 32
    for t in scan(top=f32(-inf)[m], total=f32(0.0)[m], acc=f32(0.0)[m, n]):
        raw[m, t] = sum(k, f32(Q[m, k]) * f32(K[m, t, k]))
        s[m, t] = raw[m, t] * f32(0.25)
        new[m] = max(t, s[m, t])
        next[m] = max(top[m], new[m])
        base[m] = select(next[m] == f32(-inf), f32(0.0), next[m])
        p[m, t] = exp(s[m, t] - base[m])
        shrink[m] = exp(top[m] - base[m])
        part[m] = sum(t, p[m, t])
        pv[m, n] = sum(t, f32(f16(p[m, t])) * f32(V[m, t, n]))
        sums[m] = total[m] * shrink[m] + part[m]
        more[m, n] = acc[m, n] * shrink[m] + pv[m, n]
        yield_(top=next, total=sums, acc=more)
    O[m, n] = f16(acc[m, n] / total[m])
"""

BROADCAST = """
@kernel
def broadcast(X: f16[B, M, 48], R: f16[M, 48], S: f32[48], Y: out[f16[B, M, 48]]):
    where(1 <= B <= 64, 1 <= M <= 512)
    b: B
    m: M
    n: 48
    Y[b, m, n] = f16(max((f32(X[b, m, n]) + f32(R[m, n])) * S[n], f32(0.0)))
"""

GATHER = """
@kernel
def gather(table: f16[V, 64], ids: i64[M], Y: out[f16[M, 64]]):
    where(1 <= V <= 1024, 1 <= M <= 512)
    m: M
    n: 64
    Y[m, n] = table[ids[m], n]
"""

SCATTER = """
@kernel
def scatter(past: f16[B, 2, 48, 16], new: f16[B, 2, 3, 16], ids: i64[B], Y: out[f16[B, 2, 48, 16], past]):
    where(1 <= B <= 512)
    b: B
    h: 2
    s: 3
    d: 16
    Y[b, h, ids[b] + index(s), d] = f16(f32(new[b, h, s, d]) * f32(0.5))
"""

ELEMENTS = """
@kernel
def elements(table: f32[V, 16], ids: i64[M, 16], Y: out[f32[M, 16]]):
    where(1 <= V <= 1024, 1 <= M <= 160)
    m: M
    n: 16
    Y[m, n] = table[select(ids[m, n] < i64(0), ids[m, n] + index(V), ids[m, n]), n]
"""

REDUCTION = """
@kernel
def reduction(X: f32[M, N], Y: out[f32[M]]):
    where(1 <= M <= 4096, 1 <= N <= 512)
    m: M
    n: N
    top[m] = max(n, X[m, n])
    total[m] = sum(n, X[m, n])
    Y[m] = total[m] - top[m]
"""

TRANSPOSE = """
@kernel
def transpose(X: f16[M, N], Y: out[f16[N, M]]):
    where(1 <= M <= 512, 1 <= N <= 512)
    m: M
    n: N
    Y[n, m] = X[m, n]
"""

QUANTIZED = """
@kernel
def quantized(A: i8[M, 64], B: const[i8[64, 64]], scale: const[f32[64]], C: out[i8[M, 64]]):
    where(1 <= M <= 4096)
    m: M
    n: 64
    k: 64
    acc[m, n] = sum(k, i32(A[m, k]) * i32(B[k, n]))
    C[m, n] = i8(min(max(round(f32(acc[m, n]) * scale[n] * f32(0.01)), f32(-128.0)), f32(127.0)))
"""

# A convolution that stands alone, channels first in its result: sums lie turned. Every other block ends in a fractal.
TURNED = """
@kernel
def turned(X: f16[B, 9, 7, 24], W: const[f16[20, 24, 3, 3]], bias: const[f16[20]], Y: out[f16[B, 20, 63]]):
    where(1 <= B <= 4)
    b: B
    m: 20
    n: 63
    k: 3
    k1: 3
    c: 24
    acc[b, m, n] = sum((k, k1, c), f32((X[b, k + n // 7 - 1, k1 + n % 7 - 1, c] or 0)) * f32(W[m, c, k, k1]))
    Y[b, m, n] = f16(max(f32(f16(acc[b, m, n]) + bias[m]), f32(0.0)))
"""

# One of points, with a residual: a product whose weights are on the left.
POINTS = """
@kernel
def points(X: f16[B, 24, 42], W: const[f16[40, 24, 1, 1]], bias: const[f16[40]], R: f16[B, 40, 42],
           Y: out[f16[B, 40, 42]]):
    where(1 <= B <= 32)
    b: B
    m: 40
    n: 42
    c: 24
    acc[b, m, n] = sum(c, f32(X[b, c, n]) * f32(W[m, c, 0, 0]))
    Y[b, m, n] = f16(max(f32(f16(acc[b, m, n]) + bias[m] + R[b, m, n]), f32(0.0)))
"""

# Its buffers fit together only because temporaries share bytes.
GELU = """
@kernel
def gelu(X: f16[M, 3072], Y: out[f16[M, 3072]]):
    where(1 <= M <= 65536)
    m: M
    n: 3072
    x[m, n] = f32(X[m, n])
    Y[m, n] = f16(x[m, n] * f32(0.5)
        * (tanh((x[m, n] + x[m, n] * x[m, n] * x[m, n] * f32(0.044715)) * f32(0.7978845608)) + f32(1.0)))
"""

SHORT_BYTES = """
@kernel
def short_bytes(X: i8[M, 24], Y: out[i8[M, 24]]):
    where(1 <= M <= 3000)
    m: M
    n: 24
    Y[m, n] = max(X[m, n], i8(3))
"""

PARTS = """
@kernel
def parts(X: f16[M, 5], Z: f16[M, 11], Y: out[f16[M, 16]]):
    where(1 <= M <= 3000)
    m: M
    n: 5
    k: 11
    Y[m, n] = X[m, n] * f16(2.0)
    Y[m, k + 5] = Z[m, k] + f16(1.0)
"""

WORDS = """
@kernel
def words(X: i64[M, 8], Y: out[f32[M, 8]]):
    where(1 <= M <= 3000)
    m: M
    n: 8
    Y[m, n] = f32(X[m, n])
"""

SHORT_ROWS = """
@kernel
def short_rows(X: f16[M, 10], Y: out[f16[M, 10]]):
    where(1 <= M <= 4096)
    m: M
    n: 10
    Y[m, n] = max(X[m, n], f16(0.5))
"""

LONG_ROWS = """
@kernel
def long_rows(X: f16[M, 45], Y: out[f16[M, 45]]):
    where(1 <= M <= 4096)
    m: M
    n: 45
    Y[m, n] = max(X[m, n], f16(0.5))
"""

Sizes = Mapping[str, int]
#: Families of 310P alone, whose results are no whole blocks of 32 bytes.
RAGGED: Mapping[str, tuple[str, tuple[Sizes, ...]]] = {
    "short bytes": (SHORT_BYTES, ({"M": 1201},)),
    "parts": (PARTS, ({"M": 1201},)),
    "words": (WORDS, ({"M": 1201},)),
    "short rows": (SHORT_ROWS, ({"M": 1201},)),
    "long rows": (LONG_ROWS, ({"M": 1201},)),
}
#: Text, and sizes under which every core takes more blocks than there are slots and no piece of a row is empty; the
#: first schedule that is placed is taken.
TEXTS: Mapping[str, tuple[str, tuple[Sizes, ...]]] = {
    "cache": (CACHE, ({"M": 7, "T": 40}, {"M": 3, "T": 7})),
    "layer norm": (LAYER_NORM, ({"M": 1170},)),
    "rms norm": (RMS_NORM, ({"M": 1750},)),
    "broadcast": (BROADCAST, ({"B": 11, "M": 70},)),
    "gather": (GATHER, ({"V": 20, "M": 130},)),
    "scatter": (SCATTER, ({"B": 130},)),
    "elements": (ELEMENTS, ({"V": 20, "M": 23},)),
    "reduction": (REDUCTION, ({"M": 221, "N": 512}, {"M": 60, "N": 37})),
    "transpose": (TRANSPOSE, ({"M": 70, "N": 330},)),
    "gelu": (GELU, ({"M": 11},)),
    "quantized": (QUANTIZED, ({"M": 330},)),
    "turned": (TURNED, ({"B": 4},)),
    "points": (POINTS, ({"B": 5},)),
}
#: Convolutions with their tiles of pixels and columns, slices of channels, and pieces of weights: an image whose rows
#: windows share, under slices and pieces; and one whose channels lie apart, which vector cores put together.
WINDOWS: Mapping[str, tuple[Convolution, Mapping[str, int], Sizes]] = {
    "windows": (Convolution((24, 8), 64), {"pixels": 96, "columns": 16, "slices": 32, "depth": 208}, {"batch": 2}),
    "planes": (
        Convolution((12, 16), 3, 16, stride=(2, 2), planar=True, merged=False),
        {"pixels": 16},
        {"batch": 3},
    ),
}
#: Blocks of those that would be slow with the blocks that a build takes.
SCHEDULES: Mapping[str, Schedule] = {
    "elements": Schedule((Loop("m", 2, "block"),)),
    "cache": Schedule((Loop("m", 1, "block"),), (Loop("t", 16, "pipeline"),)),
}
#: Sizes of trial kernels beside their own.
MORE: Mapping[str, tuple[Sizes, ...]] = {
    "softmax": ({"M": 75, "N": 1024},),
    "decode": ({"M": 40},),
    # More blocks than a counter between cores may run ahead.
    "residual": ({"M": 420},),
    "lead_residual": ({"M": 420},),
    "pipelined": ({"B": 1, "H": 3, "S": 20, "T": 40},),
}

#: Sizes of other targets beside those: such that fill a block to its end where blocks are larger, and that give the one
#: core more blocks than there are slots. Rows of less than 32 bytes leave in another way on 310P.
THERE: Mapping[str, Mapping[str, tuple[Sizes, ...]]] = {
    "ascend:310p3": {
        "cache": ({"M": 60, "T": 9},),
        "transpose": ({"M": 7, "N": 330}, {"M": 15, "N": 100}, {"M": 300, "N": 40}),
        "reduction": ({"M": 75, "N": 512},),
        "broadcast": ({"B": 2, "M": 300},),
        "residual": ({"M": 300},),
        "softmax": ({"M": 75, "N": 7}, {"M": 75, "N": 15}),
        "attention": ({"B": 3, "H": 1, "S": 20, "T": 190}, {"B": 3, "H": 1, "S": 20, "T": 40}),
        "decode": ({"M": 70},),
    },
    "ascend:910b1": {
        "matmul": ({"M": 300},),
        "bias": ({"M": 300},),
        "panes": ({"M": 300},),
        "weights": ({"M": 300},),
    },
}

#: Groups of cores that a family runs on, where it is not one: such that one has all blocks of a kind.
GROUPS: Mapping[str, int] = {"turned": 2}

#: How many schedules are tried before a kernel counts as not placed.
_TRIED = 8


def kernels() -> Mapping[str, Kernel]:
    """The kernel of each family."""
    return {name: trial.kernel for name, trial in TRIALS.items()} | {
        n: parsed(text) for n, (text, _) in {**TEXTS, **RAGGED}.items()
    }


@lru_cache(maxsize=16)
def parsed(text: str) -> Kernel:
    return parse_kernel(text)


#: What a target's cores cannot do, by family, with the reason that a user is told.
REFUSED: Mapping[tuple[str, str], str] = {
    ("ascend:310p3", "batched"): "may be less than 32 bytes",
    ("ascend:310p3", "weights"): "is no multiple",
}
#: Families that a build places otherwise for 910B1, which has more cores, than for 910B3; on 910B4 all are the same.
MORE_CORES = (
    *("matmul", "int8", "bias", "residual", "weights", "panes", "softmax", "decode"),
    *("layer norm", "broadcast", "gather", "reduction", "quantized", "lead", "lead_residual"),
)


def subjects() -> Mapping[str, Callable[[], Subject]]:
    """A maker for each family, so that one family can be had without the others. It raises what placing raises. Those
    of other targets than 910B3 are called after them, and only there where they differ."""
    made: dict[str, Callable[[], Subject]] = {name: lambda n=name: _trial(n) for name in TRIALS}  # type: ignore[misc]
    made |= {name: lambda n=name: _windows(n) for name in WINDOWS}  # type: ignore[misc]
    made |= {name: lambda n=name: _text(n) for name in TEXTS}  # type: ignore[misc]
    # A fused core has no pipeline over two, and no rows before others: those trials are there what others are.
    same = ("pipelined", "lead", "lead_residual")
    fused = [n for n in (*TRIALS, *TEXTS) if ("ascend:310p3", n) not in REFUSED and n not in same] + list(RAGGED)
    for spelling, names in (("ascend:310p3", fused), ("ascend:910b1", MORE_CORES)):
        for name in names:
            made[f"{name}, {spelling.partition(':')[2]}"] = lambda n=name, s=spelling: _elsewhere(n, s)  # type: ignore[misc]
    return made


@lru_cache(maxsize=64)
def found(name: str, spelling: str) -> tuple[Schedule, Placed] | Support:
    """A family as the backend itself places it for a target, or why it goes to the host."""
    backend, kernel, target = AscendBackend(), kernels()[name], targets()[spelling]
    support = backend.supports(kernel, target)
    if not support.ok:
        return support
    (schedule,) = backend.schedules(kernel, target)
    return schedule, backend._placed(apply(kernel, schedule), target)


def _elsewhere(name: str, spelling: str) -> Subject:
    made = found(name, spelling)
    assert not isinstance(made, Support), made.reason
    sizes = (TRIALS[name].dims, *MORE.get(name, ())) if name in TRIALS else {**TEXTS, **RAGGED}[name][1]
    sizes = (*sizes, *THERE.get(spelling, {}).get(name, ()))
    trial = Trial(kernels()[name], made[0], sizes[0])
    return Subject(
        f"{name}, {spelling.partition(':')[2]}",
        made[1],
        tuple((_inputs(trial, dims), dims) for dims in sizes),
        GROUPS.get(name, 1),
    )


def _inputs(trial: Trial, dims: Sizes) -> dict[str, np.ndarray[Any, Any]]:
    """Values for a run; indices are inside the table."""
    inputs = trial.inputs(dims)
    for p in trial.kernel.params:
        if p.name == "ids":
            inputs[p.name] = np.random.default_rng(0).integers(0, dims.get("V", 40), inputs[p.name].shape)
    return inputs


def _trial(name: str) -> Subject:
    trial = TRIALS[name]
    sizes = (trial.dims, *MORE.get(name, ()))
    return Subject(name, placed(name), tuple((trial.inputs(dims), dims) for dims in sizes))


@lru_cache(maxsize=2)
def _windows(name: str) -> Subject:
    convolution, tiles, dims = WINDOWS[name]
    trial, done = convolution.placed("ascend:910b3", **tiles)
    return Subject(name, done, ((trial.inputs(dims), dims),))


@lru_cache(maxsize=8)
def _text(name: str) -> Subject:
    text, sizes = TEXTS[name]
    kernel = parsed(text)
    trial, done = _first(kernel, sizes[0], SCHEDULES.get(name))
    return Subject(name, done, tuple((_inputs(trial, dims), dims) for dims in sizes), GROUPS.get(name, 1))


def _first(kernel: Kernel, dims: Sizes, given: Schedule | None = None) -> tuple[Trial, Placed]:
    target = targets()["ascend:910b3"]
    problem: ScheduleError | None = None
    for schedule in [given] if given else islice(schedules(kernel, target), _TRIED):
        try:
            return Trial(kernel, schedule, dims), place(apply(kernel, schedule), target)
        except ScheduleError as error:
            problem = error
    assert problem is not None
    raise problem
