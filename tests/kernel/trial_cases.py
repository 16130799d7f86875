"""Inputs, plain NumPy references and schedules of the trial kernels, shared by the tests of the tile IR."""

from __future__ import annotations

from collections.abc import Callable
from math import erf

import ml_dtypes
import numpy as np
import numpy.typing as npt
from tilewright.ir.symbolic import constant
from tilewright.kernel.pack import blocked
from tilewright.kernel.schedule import Loop, Pack, Schedule, Stage

Array = npt.NDArray[np.generic]
Arrays = dict[str, Array]

_erf = np.vectorize(erf, otypes=[np.float64])


def _wide(x: Array) -> npt.NDArray[np.float64]:
    return x.astype(np.float64)


def matmul_reference(x: Arrays) -> Arrays:
    y = _wide(x["A"]) @ _wide(x["B"]) + x["bias"]
    return {"C": y * 0.5 * (1 + _erf(y / np.sqrt(2)))}


def conv_reference(x: Arrays) -> Arrays:
    padded = np.pad(_wide(x["X"]), ((0, 0), (1, 1), (1, 1), (0, 0)))
    batch, oh, ow, co = x["R"].shape
    y = np.zeros((batch, oh, ow, co))
    for i in range(3):
        for j in range(3):
            window = padded[:, i : i + 2 * oh - 1 : 2, j : j + 2 * ow - 1 : 2]
            y += np.einsum("bhwc,co->bhwo", window, _wide(x["W"][i, j]))
    return {"Y": np.maximum(y + x["bias"] + _wide(x["R"]), 0)}


def softmax_reference(x: Arrays) -> Arrays:
    e = np.exp(_wide(x["X"]) - _wide(x["X"]).max(axis=1, keepdims=True))
    return {"Y": e / e.sum(axis=1, keepdims=True)}


def attention_reference(x: Arrays, causal: bool = False) -> Arrays:
    q, k, v = (_wide(x[n]) for n in "QKV")
    s = np.einsum("bhie,bhte->bhit", q, k) / np.sqrt(q.shape[-1])
    if "bias" in x:
        s = s + x["bias"][:, None, None, :]
    if causal:
        rows, columns = s.shape[2:]
        s = np.where(np.arange(columns) <= np.arange(rows)[:, None] + columns - rows, s, -np.inf)
    p = np.exp(s - s.max(axis=-1, keepdims=True))
    return {"O": np.einsum("bhit,bhtd->bhid", p / p.sum(axis=-1, keepdims=True), v)}


def _matmul_inputs(dtype: type, rows: int = 13) -> Arrays:
    r = np.random.default_rng(1)
    return {
        "A": r.standard_normal((rows, 20)).astype(dtype),
        "B": r.standard_normal((20, 36)).astype(dtype),
        "bias": r.standard_normal(36).astype(np.float32),
    }


def _conv_inputs(dtype: type) -> Arrays:
    r = np.random.default_rng(2)
    return {
        "X": r.standard_normal((2, 9, 10, 4)).astype(dtype),
        "W": r.standard_normal((3, 3, 4, 6)).astype(dtype),
        "bias": r.standard_normal(6).astype(np.float32),
        "R": r.standard_normal((2, 5, 5, 6)).astype(dtype),
    }


def _softmax_inputs(dtype: type) -> Arrays:
    return {"X": (3 * np.random.default_rng(3).standard_normal((7, 45))).astype(dtype)}


def _attention_inputs(dtype: type, bias: bool = False) -> Arrays:
    r = np.random.default_rng(4)
    x: Arrays = {n: r.standard_normal((2, 2, s, 8)).astype(dtype) for n, s in zip("QKV", (11, 19, 19), strict=True)}
    if bias:
        # The first columns are masked out, so that the first pieces of the scan hold nothing but -inf.
        mask = r.standard_normal((2, 19)).astype(np.float32)
        mask[1, :9] = -np.inf
        x["bias"] = mask
    return x


#: Per trial kernel: its inputs and its reference.
CASES: dict[str, tuple[Callable[[], Arrays], Callable[[Arrays], Arrays]]] = {
    "matmul": (lambda: _matmul_inputs(np.float32), matmul_reference),
    "matmul-f16": (lambda: _matmul_inputs(np.float16), matmul_reference),
    "conv": (lambda: _conv_inputs(np.float32), conv_reference),
    "conv-f16": (lambda: _conv_inputs(np.float16), conv_reference),
    "softmax": (lambda: _softmax_inputs(np.float32), softmax_reference),
    "softmax-bf16": (lambda: _softmax_inputs(ml_dtypes.bfloat16), softmax_reference),
    "attention": (lambda: _attention_inputs(np.float32), attention_reference),
    "attention-additive": (lambda: _attention_inputs(np.float32, bias=True), attention_reference),
    "attention-causal": (lambda: _attention_inputs(np.float32), lambda x: attention_reference(x, causal=True)),
    "attention-f16": (lambda: _attention_inputs(np.float16), attention_reference),
}

#: Largest error relative to the largest reference value, by output dtype: a few roundings of that dtype (f32 sums of
#: at most 36 terms; f16 attention also rounds its probabilities).
TOLERANCE = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 1e-2}


def _panels(tensor: str, *shape: int, size: int) -> Pack:
    return blocked(tensor, tuple(map(constant, shape)), len(shape) - 1, size)


def _block(*loops: tuple[str, int]) -> tuple[Loop, ...]:
    return tuple(Loop(axis, size, "block") for axis, size in loops)


def _pipeline(*loops: tuple[str, int]) -> tuple[Loop, ...]:
    return tuple(Loop(axis, size, "pipeline") for axis, size in loops)


_MATMUL = {
    "whole": Schedule(),
    "rows": Schedule(loops=_block(("m", 4))),
    "divides": Schedule(loops=_block(("n", 12), ("m", 1)), reduce=_pipeline(("k", 5))),
    "ragged": Schedule(loops=_block(("m", 8), ("n", 16)), reduce=_pipeline(("k", 8))),
    "cpu": Schedule(
        loops=(*_block(("n", 24)), Loop("m", 5, "block", balanced=True), Loop("n", 8)),
        reduce=_pipeline(("k", 1)),
        stages=(Stage("A", 2, "l1", 16),),
        packs=(_panels("B", 20, 36, size=8),),
    ),
    "cpu-ragged": Schedule(
        loops=(*_block(("n", 24)), Loop("m", 5, "block"), Loop("n", 16)),
        reduce=_pipeline(("k", 6)),
        stages=(Stage("A", 2, "l1", 16),),
        packs=(_panels("B", 20, 36, size=16),),
    ),
    "triton": Schedule(loops=_block(("m", 16), ("n", 32)), reduce=_pipeline(("k", 16)), extra=(("num_warps", 4),)),
    "two-level": Schedule(
        loops=_block(("m", 8), ("n", 16)),
        reduce=(Loop("k", 16, "tile"), *_pipeline(("k", 12))),
        stages=(Stage("A", 3, "l1"), Stage("A", 4, "l0a"), Stage("B", 4, "l0b")),
    ),
    "whole-k": Schedule(loops=_block(("m", 4)), extra=(("whole:k", 32), ("whole:n", 64))),
    "inlined": Schedule(loops=_block(("m", 4), ("n", 8)), spaces=(("y", "inline"), ("acc", "reg"))),
}
_CONV = {
    "whole": Schedule(),
    "rows": Schedule(loops=_block(("b", 1), ("oh", 1)), reduce=_pipeline(("kh", 1), ("kw", 1), ("c", 3))),
    "divides": Schedule(loops=_block(("b", 1), ("oh", 1), ("ow", 5), ("o", 3)), reduce=_pipeline(("c", 2))),
    "ragged": Schedule(
        loops=_block(("b", 3), ("oh", 2), ("ow", 4), ("o", 4)), reduce=_pipeline(("kh", 2), ("kw", 1), ("c", 3))
    ),
    "cpu": Schedule(
        loops=(*_block(("o", 4), ("b", 1), ("oh", 2)), Loop("ow", 3, balanced=True)),
        reduce=_pipeline(("kh", 1), ("kw", 1), ("c", 1)),
        packs=(_panels("W", 3, 3, 4, 6, size=4),),
    ),
}
_SOFTMAX = {
    "whole": Schedule(),
    "rows": Schedule(loops=_block(("m", 1))),
    "ragged": Schedule(loops=_block(("m", 4)), reduce=_pipeline(("n", 16))),
    "tiled": Schedule(loops=(*_block(("m", 2)), Loop("n", 8)), reduce=_pipeline(("n", 8))),
    "divides": Schedule(loops=(*_block(("m", 7)), Loop("n", 15)), reduce=_pipeline(("n", 9))),
    "recomputed": Schedule(
        loops=(*_block(("m", 2)), Loop("n", 16)), reduce=_pipeline(("n", 16)), spaces=(("e", "inline"),)
    ),
    "staged": Schedule(
        loops=(*_block(("m", 2)), Loop("n", 16)), reduce=_pipeline(("n", 8)), stages=(Stage("X", 1, "l1", 4),)
    ),
    "triton": Schedule(loops=_block(("m", 1)), extra=(("whole:n", 1024),)),
}
_ATTENTION = {
    "whole": Schedule(loops=_block(("b", 1), ("h", 1))),
    "scan": Schedule(loops=_block(("b", 1), ("h", 1), ("i", 4)), reduce=_pipeline(("t", 8))),
    "one": Schedule(loops=_block(("b", 1), ("h", 1), ("i", 11)), reduce=_pipeline(("t", 1))),
    "divides": Schedule(loops=_block(("b", 2), ("h", 1), ("i", 11)), reduce=_pipeline(("t", 19))),
    "triton": Schedule(
        loops=_block(("b", 1), ("h", 1), ("i", 16)), reduce=_pipeline(("t", 16)), spaces=(("safe", "inline"),)
    ),
    "deep": Schedule(
        loops=(*_block(("b", 1), ("h", 1), ("i", 8)), Loop("d", 3)),
        reduce=_pipeline(("t", 8), ("e", 3)),
        stages=(Stage("Q", 3, "l1"), Stage("K", 5, "l1"), Stage("V", 5, "l1")),
    ),
}

#: Schedules by kernel name and by what they are like.
SCHEDULES: dict[str, dict[str, Schedule]] = {
    "matmul": _MATMUL,
    "conv": _CONV,
    "softmax": _SOFTMAX,
    "attention": _ATTENTION,
}


def scheduled_cases() -> list[tuple[str, str]]:
    """Every (kernel, schedule)."""
    return [(kernel, schedule) for kernel in CASES for schedule in SCHEDULES[kernel.split("-")[0]]]


def error(actual: Array, reference: Array) -> float:
    """Largest difference relative to the largest reference value; NaN counts as infinite."""
    difference = np.abs(_wide(actual) - _wide(reference))
    return float(np.max(np.where(np.isnan(difference), np.inf, difference)) / np.max(np.abs(_wide(reference))))
