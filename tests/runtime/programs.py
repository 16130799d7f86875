"""Hand-made plans over the kernels of ``kernels.c``, and artifacts of them."""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

import numpy as np
from tilewright.codegen.toolchain import Toolchain, default_toolchain
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import Expr, ceildiv, constant, maximum, minimum, symbol
from tilewright.ir.types import DType
from tilewright.package.native import NATIVE, build_runtime, machine_flags
from tilewright.package.writer import Part, artifact_bytes
from tilewright.plan.plan import (
    Allocate,
    Assert,
    Buffer,
    Call,
    Constant,
    Copy,
    EntryPoint,
    Free,
    Jump,
    Launch,
    LoadScalar,
    Plan,
    Return,
    SetScalar,
    Signature,
)

KERNELS = ("add", "matmul", "relu", "count", "keep", "accumulate")
ADD, MATMUL, RELU, COUNT, KEEP, ACCUMULATE = range(6)
K, WIDTH = 48, 32
FAMILY = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
TRIPLE = f"{FAMILY}-linux-gnu.2.17"
N = symbol("N")
F32, I64 = DType.F32, DType.I64


def blocks(n: Expr) -> Expr:
    """Grid of the elementwise kernels."""
    return ceildiv(n, 256)


def fixed(*shape: int) -> tuple[Expr, ...]:
    return tuple(constant(s) for s in shape)


def dense_entry(name: str = "main") -> EntryPoint:
    """r[N, 32] = relu(x[N, 48] @ w), the product in a view of a larger temporary; y = r + r, z = r flat."""
    n = N * WIDTH
    buffers = (
        Buffer("input", N * K * 4, 0),
        Buffer("output", n * 4, 0),
        Buffer("constant", constant(K * WIDTH * 4), 0),
        Buffer("temporary", n * 4 + 128),
        Buffer("temporary", n * 4, base=3, offset=constant(64)),
        Buffer("temporary", n * 4),
        Buffer("temporary", n * 4),
        Buffer("output", n * 4, 1),
    )
    code = (
        Launch(MATMUL, (0, 2, 4), fixed(K, WIDTH), N, constant(WIDTH * 4)),
        Launch(RELU, (4, 5), (n,), blocks(n)),
        Launch(ADD, (5, 5, 6), (n,), blocks(n)),
        Copy(6, 1, n * 4),
        Copy(5, 7, n * 4),
        Return(),
    )
    return EntryPoint(
        name,
        (Signature("x", F32, (N, constant(K))),),
        (Signature("y", F32, (N, constant(WIDTH))), Signature("z", F32, (N * WIDTH,))),
        (),
        (("N", Range(1, 64)),),
        buffers,
        code,
    )


def loop_entry() -> EntryPoint:
    """y = x + x * steps[0] by a loop of additions; the number of steps is read from a tensor."""
    i, steps = symbol("i"), symbol("steps")
    buffers = (
        Buffer("input", N * 4, 0),
        Buffer("input", constant(8), 1),
        Buffer("output", N * 4, 0),
        Buffer("temporary", N * 4),
    )
    code = (
        LoadScalar("steps", 1, I64, constant(0)),
        Assert(steps, constant(0), constant(1000), "steps"),
        Copy(0, 3, N * 4),
        SetScalar("i", constant(0)),
        Jump(8, 1 - minimum(maximum(steps - i, 0), 1)),
        Launch(ADD, (3, 0, 3), (N,), blocks(N)),
        SetScalar("i", i + 1),
        Jump(4),
        Copy(3, 2, N * 4),
    )
    return EntryPoint(
        "loop",
        (Signature("x", F32, (N,)), Signature("steps", I64, (constant(1),))),
        (Signature("y", F32, (N,)),),
        (),
        (("N", Range(1, 4096)),),
        buffers,
        code,
    )


def nonzero_entry() -> EntryPoint:
    """The elements of x that are not 0: an output whose size is known only at run time, through a buffer of its own."""
    found = symbol("found")
    buffers = (
        Buffer("input", N * 4, 0),
        Buffer("temporary", constant(8)),
        Buffer("temporary", found * 4),
        Buffer("output", found * 4, 0),
    )
    code = (
        Launch(COUNT, (0, 1), (N,), constant(1)),
        LoadScalar("found", 1, I64, constant(0)),
        Allocate(2),
        Launch(KEEP, (0, 2), (N,), constant(1)),
        Copy(2, 3, found * 4),
        Free(2),
    )
    return EntryPoint(
        "nonzero",
        (Signature("x", F32, (N,)),),
        (Signature("y", F32, (found,)),),
        (),
        (("N", Range(0)),),
        buffers,
        code,
    )


def state_entry() -> EntryPoint:
    """cache = 2 * cache + x, in place; also returned as it was doubled."""
    buffers = (Buffer("input", N * 4, 1), Buffer("state", N * 4, 0), Buffer("output", N * 4, 1))
    code = (
        Launch(ACCUMULATE, (1, 0), (N,), blocks(N)),
        Launch(ADD, (1, 1, 2), (N,), blocks(N)),
    )
    return EntryPoint(
        "state",
        (Signature("cache", F32, (N,)), Signature("x", F32, (N,))),
        (Signature("new_cache", F32, (N,)), Signature("twice", F32, (N,))),
        ((0, 0),),
        (("N", Range(1, 1 << 20, 2)),),
        buffers,
        code,
    )


def call_entry(callee: int) -> EntryPoint:
    """Calls the dense entry on the first and on the second half of x[2 * N, 48]."""
    half_in, half_out = N * K * 4, N * WIDTH * 4
    buffers = (
        Buffer("input", half_in * 2, 0),
        Buffer("input", half_in, base=0),
        Buffer("input", half_in, base=0, offset=half_in),
        Buffer("output", half_out * 2, 0),
        Buffer("output", half_out, base=3),
        Buffer("output", half_out, base=3, offset=half_out),
        Buffer("temporary", half_out),
    )
    code = (Call(callee, (1,), (4, 6), (N,)), Call(callee, (2,), (5, 6), (N,)))
    return EntryPoint(
        "halves",
        (Signature("x", F32, (2 * N, constant(K))), Signature("n", F32, (N,))),
        (Signature("y", F32, (2 * N, constant(WIDTH))),),
        (),
        (("N", Range(1, 32)),),
        buffers,
        code,
    )


def plan() -> Plan:
    """Every entry point above."""
    entries = (dense_entry(), loop_entry(), nonzero_entry(), state_entry(), call_entry(0))
    return Plan(entries, (Constant("w", F32, (K, WIDTH)),), KERNELS)


def weights() -> dict[str, np.ndarray[Any, Any]]:
    return {"w": (np.random.default_rng(7).standard_normal((K, WIDTH)) / 8).astype(np.float32)}


@functools.cache
def toolchain() -> Toolchain:
    return default_toolchain()


@functools.cache
def kernels_library() -> bytes:
    flags = [*machine_flags(toolchain(), TRIPLE), "-O2", "-std=c11", "-fPIC", "-fvisibility=hidden"]
    text = (Path(__file__).parent / "kernels.c").read_text()
    header = (NATIVE / "kernel_abi.h").read_text()
    return toolchain().link({"kernels": toolchain().compile(text, flags, headers={"kernel_abi.h": header})}, flags)


@functools.cache
def runtime_library() -> bytes:
    return build_runtime(toolchain(), TRIPLE)


def part(p: Plan, target: str = "cpu:baseline", requires: tuple[Any, ...] = (), family: str = FAMILY) -> Part:
    return Part(target, target.replace(":", "/"), p, {"kernels.so": kernels_library()}, family, requires)


def artifact(p: Plan | None = None, parts: list[Part] | None = None) -> bytes:
    """An artifact for this machine, in memory."""
    parts = parts or [part(p or plan())]
    families = {x.family: runtime_library() for x in parts if x.family}
    return artifact_bytes(parts, weights(), families, {"test": True})


def reference(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the dense entry's ``y`` is."""
    relu = np.maximum(x @ weights()["w"], 0)
    return relu + relu
