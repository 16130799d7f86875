"""Plans of a hostile writer, with every hash right: the executor refuses them, without a memory error."""

import random
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tilewright import runtime
from tilewright.errors import InternalError
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import Expr, constant, floordiv, maximum, minimum, symbol
from tilewright.ir.types import DType
from tilewright.plan.encode import encode_plan
from tilewright.plan.plan import (
    Allocate,
    Assert,
    Buffer,
    Call,
    Copy,
    EntryPoint,
    Free,
    Jump,
    Launch,
    LoadScalar,
    Plan,
    SetScalar,
    Signature,
)
from tilewright.runtime.errors import RunError

from tests.runtime import programs
from tests.runtime.rewrite import members, rewrite


@pytest.fixture(scope="module")
def artifact() -> bytes:
    return programs.artifact()


def with_plan(artifact: bytes, plan: bytes) -> bytes:
    return rewrite(artifact, {"cpu/baseline/plan.bin": plan})


def test_mutated_plans_with_right_hashes(artifact: bytes) -> None:
    """Loading refuses what is out of range. (Running is left to the next test: kernels trust their dimensions.)"""
    plan = members(artifact)["cpu/baseline/plan.bin"]
    generator = random.Random(2)
    words = struct.unpack_from("<I", plan, 8)[0]
    refused = 0
    for _ in range(200):
        mutated = bytearray(plan)
        at = 16 + 4 * generator.randrange(words)
        struct.pack_into("<I", mutated, at, generator.choice([0, 1, 7, 255, 2**16, 2**31, 2**32 - 1]))
        try:
            runtime.load(with_plan(artifact, bytes(mutated)), threads=1)
        except RunError:
            refused += 1
    assert refused > 60


def no_kernels() -> EntryPoint:
    """Everything but launches: what it does to memory is the executor's own doing."""
    n, i, s = symbol("N"), symbol("i"), symbol("s")
    buffers = (
        Buffer("input", n * 8, 0),
        Buffer("output", n * 8, 0),
        Buffer("temporary", n * 8 + 64),
        Buffer("temporary", n * 8, base=2, offset=constant(64)),
        Buffer("temporary", s * 8 + 8),
        Buffer("temporary", constant(8), base=4, offset=s * 8),
        Buffer("temporary", n * 16),
    )
    code = (
        Copy(0, 3, n * 8),
        LoadScalar("s", 3, DType.I64, n - 1),
        Assert(s, constant(0), constant(100), "s"),
        Allocate(4),
        Copy(3, 5, constant(8)),
        SetScalar("i", constant(0)),
        Jump(10, 1 - minimum(maximum(3 - i, 0), 1)),
        Copy(3, 6, n * 8),
        SetScalar("i", i + 1),
        Jump(6),
        Free(4),
        Copy(6, 1, n * 8),
    )
    x = Signature("x", DType.I64, (n,))
    return EntryPoint("main", (x,), (replace(x, name="y"),), (), (("N", Range(1, 100)),), buffers, code)


def test_running_mutated_plans_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = programs.artifact(Plan((no_kernels(),), (), programs.KERNELS))
    plan = members(artifact)["cpu/baseline/plan.bin"]
    generator = random.Random(3)
    words = struct.unpack_from("<I", plan, 8)[0]
    x = np.arange(5, dtype=np.int64)
    outcomes = set()
    for _ in range(600):
        mutated = bytearray(plan)
        for _ in range(generator.choice([1, 1, 2])):
            at = 16 + 4 * generator.randrange(words)
            old = struct.unpack_from("<I", mutated, at)[0]
            new = generator.choice([0, 1, old + 1, old - 1, 9, 2**20, 2**31, 2**32 - 1])
            struct.pack_into("<I", mutated, at, new % 2**32)
        try:
            runtime.load(with_plan(artifact, bytes(mutated)), threads=1).run(None, {"x": x})
            outcomes.add("ran")
        except RunError as error:
            outcomes.add(type(error).__name__)
    assert {"ran", "ArtifactError"} <= outcomes


N = symbol("N")
BIG = constant(2**40)
PLAIN = (Buffer("input", N * 8), Buffer("output", N * 8), *(Buffer("temporary", N * 8) for _ in range(3)))
LOOP = replace(no_kernels(), buffers=PLAIN, code=())


def deep(levels: int) -> Expr:
    expr = N
    for i in range(levels):
        expr = floordiv(constant(1000 + i), expr + N)
    return expr


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "copy past the end": ({"code": (Copy(0, 1, N * 8 + 1),)}, "past its buffers"),
    "copy of a negative size": ({"code": (Copy(0, 1, -N),)}, "past its buffers"),
    "copy to an input": ({"code": (Copy(1, 0, N),)}, "instruction 0 is malformed"),
    "scalar past the end": ({"code": (LoadScalar("s", 0, DType.I64, N),)}, "lies past"),
    "scalar before the start": ({"code": (LoadScalar("s", 0, DType.I64, -N),)}, "lies past"),
    "loop without end": ({"code": (Jump(0),)}, "stopped after"),
    "jump out": ({"code": (Jump(9),)}, "instruction 0 is malformed"),
    "unknown kernel": ({"code": (Launch(6, (), (), N),)}, "instruction 0 is malformed"),
    "unknown buffer": ({"code": (Launch(0, (7,), (), N),)}, "instruction 0 is malformed"),
    "negative grid": ({"code": (Launch(0, (), (), -N),)}, "malformed grid"),
    "endless grid": ({"code": (Launch(0, (), (), BIG * BIG // BIG * 2**12),)}, "malformed grid"),
    "scratch": ({"code": (Launch(0, (), (), N, BIG),)}, "malformed grid or scratch"),
    "calls itself": ({"code": (Call(0, (0,), (1,), (N,)),)}, "nest too deeply"),
    "allocated twice": ({"code": (Allocate(4), Allocate(4))}, "allocated twice"),
    "used while free": ({"code": (Allocate(4), Free(4), Copy(4, 1, N))}, "has no memory"),
    "view past its base": ({"buffers": (PLAIN[0], Buffer("input", N, base=0, offset=N * 8))}, "past its base"),
    "view before its base": ({"buffers": (PLAIN[0], Buffer("input", N, base=0, offset=-N))}, "past its base"),
    "larger than its input": ({"buffers": (Buffer("input", N * 9),)}, "larger than what it names"),
    "larger than its output": ({"buffers": (Buffer("output", N * 9),)}, "larger than what it names"),
    "larger than its constant": ({"buffers": (Buffer("constant", N * 9000),)}, "larger than its constant"),
    "negative size": ({"buffers": (Buffer("temporary", -N),)}, "negative size"),
    "no such constant": ({"buffers": (Buffer("constant", N, 1),)}, "names nothing"),
    "symbol without an input": ({"symbols": (*LOOP.symbols, ("M", Range(0)))}, "no input gives M"),
    "without a life": ({"code": (Copy(0, 2, N),)}, "instruction 0 is malformed"),
    "too much memory": ({"buffers": (*PLAIN[:2], Buffer("temporary", N * 2**58)), "code": (Copy(0, 2, N),)}, "memory"),
    "output too large": ({"outputs": (Signature("y", DType.I64, (N * 2**57,)),)}, "memory|dimension"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_plans(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str) -> None:
    from tilewright.plan import encode

    monkeypatch.setattr(encode, "verify_plan", lambda plan: None)
    if change.get("code") in (HOSTILE["without a life"][0]["code"], HOSTILE["unknown buffer"][0]["code"]):
        monkeypatch.setattr(encode, "live_intervals", lambda entry: {})
    plan = Plan((replace(LOOP, **change),), programs.plan().constants, programs.KERNELS)
    with pytest.raises(RunError, match=message):
        runtime.load(programs.artifact(plan), threads=2).run(None, {"x": np.arange(5)})


def test_expressions_that_need_too_much_stack() -> None:
    entry = replace(LOOP, code=(Assert(deep(40), N, N, "deep"),))
    with pytest.raises(InternalError, match="nests too deeply"):
        encode_plan(Plan((entry,), (), programs.KERNELS))


def test_postfix_code_of_a_hostile_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    from tilewright.plan import encode

    entry = replace(LOOP, code=(Assert(N, N, N, "x"),))
    for words in ([], [2], [1, 0, 2], [1, 5], [0, 1], [9], [1, 0, 1, 0], [1, 0] * 33 + [2] * 32):
        monkeypatch.setattr(encode, "postfix", lambda expr, symbols, words=words: words)
        monkeypatch.setattr(encode, "stack_depth", lambda words: 0)
        with pytest.raises(runtime.ArtifactError):
            runtime.load(programs.artifact(Plan((entry,), (), programs.KERNELS)))
