"""Casts that a fused core lacks: 64-bit integers by their words, f32 to i32 by the bits of a sum."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from tilewright.backends.ascend.simulator.machine import check
from tilewright.kernel.interpret import run_lowered

from tests.ascend.modelled import Modelled, build, same_bits
from tests.ascend.test_limits import judge, make, rows
from tests.ascend.vector import assert_right, made, operations

Array = np.ndarray[Any, Any]
TARGET = "ascend:310p3"
ELEMENTWISE = """def k(X: {source}[M, {n}], Y: out[{result}[M, {n}]]):
    where({facts})
    m: M
    n: {n}
    Y[m, n] = {value}"""
OPEN = "1 <= M <= 40, 1 <= N <= 128"


def each(source: str, result: str, value: str = "", n: str = "N", facts: str = OPEN) -> str:
    return ELEMENTWISE.format(source=source, result=result, value=value or f"{result}(X[m, n])", n=n, facts=facts)


SIZES: list[Mapping[str, int]] = [{"M": 1, "N": 1}, {"M": 33, "N": 50}, {"M": 40, "N": 128}]
KERNELS: Mapping[str, tuple[str, list[Mapping[str, int]]]] = {
    "i64 to f32": (each("i64", "f32"), SIZES),
    "i64 to f16": (each("i64", "f16", "f16(f32(X[m, n]))"), SIZES[:2]),
    "i64 to i32": (each("i64", "i32"), SIZES[:2]),
    "f32 to i32": (each("f32", "i32"), SIZES),
    "i64 that is not 0": (each("i64", "bool", "X[m, n] != i64(0)"), SIZES),
    "order of i64": (
        """def k(X: i64[N], Y: out[bool[N, N]]):
    where(1 <= N <= 128)
    m: N
    n: N
    Y[m, n] = X[n] <= X[m]""",
        [{"N": 1}, {"N": 5}, {"N": 127}],
    ),
    "a single i64": (
        """def k(X: i64[1], Y: out[f16[1]]):
    Y[0] = f16(f32(X[0]))""",
        [{}],
    ),
    "positions as i64": (
        """def k(Y: out[i64[N]]):
    where(1 <= N <= 128)
    n: N
    Y[n] = i64(100000) - index(n) * i64(3001)""",
        [{"N": 1}, {"N": 4}, {"N": 127}],
    ),
    "rows of i64": (each("i32", "i64", "i64(X[m, n])", "8", "1 <= M <= 40"), [{"M": 1}, {"M": 39}]),
}


def numbers(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Of every size, with ties between neighbouring f32; as f32 within what an i32 holds."""
    random = np.random.default_rng(0)
    if dtype.kind == "f":
        values = random.integers(-(2**31) + 256, 2**31 - 256, shape) // 2.0 ** random.integers(0, 31, shape)
        return (values + random.choice([0.0, 0.5, -0.5, 0.25], shape)).astype(dtype)
    bits = 8 * dtype.itemsize - 1
    size = random.integers(0, bits, shape)
    values = (
        random.integers(0, 2**62, shape) >> np.maximum(0, 62 - size) if bits > 31 else random.integers(0, 2**31, shape)
    )
    tie = (np.int64(1) << np.maximum(0, size - 25)) * 3 + (np.int64(1) << size) + random.integers(-1, 2, shape)
    values = np.where(random.random(shape) < 0.5, values, tie) * random.choice([-1, 1], shape)
    edges = np.asarray([0, 1, -1, 2**24 + 1, 2**31 - 1, -(2**31), 2**53 + 1, -(2**62) - 2**38 - 1, 2**63 - 1, -(2**63)])
    flat = values.reshape(-1).astype(np.int64)
    flat[: len(edges)] = edges[: flat.size]
    return flat.reshape(shape).astype(dtype)


def inputs(name: str, dims: Mapping[str, int]) -> dict[str, Array]:
    kernel, _ = made(KERNELS[name][0], None, TARGET)
    given = [p for p in kernel.params if p.role != "out"]
    return {p.name: numbers(np.dtype(p.dtype.numpy), tuple(e.evaluate(dims) for e in p.shape)) for p in given}


@pytest.mark.parametrize("name", KERNELS)
def test_numbers(name: str) -> None:
    text, sizes = KERNELS[name]
    for dims in sizes:
        given = inputs(name, dims)
        result = assert_right(text, dims, given, target=TARGET)
        kernel, _ = made(text, None, TARGET)
        with np.errstate(over="ignore"):
            want = run_lowered(kernel, given, dims)
        assert same_bits(result.outputs["Y"], want["Y"]), f"{name} {dims}"


@lru_cache(maxsize=1)
def library() -> Modelled:
    return build({f"k{n}": made(text, None, TARGET)[1] for n, (text, _) in enumerate(KERNELS.values())}, level="-O0")


@pytest.mark.parametrize("name", KERNELS)
def test_bits_of_the_sources(name: str) -> None:
    text, sizes = KERNELS[name]
    _, program = made(text, None, TARGET)
    for dims in sizes[-2:]:
        given = inputs(name, dims)
        got, _ = library().run(program, given, dims, symbol=f"k{list(KERNELS).index(name)}")
        assert same_bits(got["Y"], check(program, given, dims).outputs["Y"]), dims


def test_no_cast_is_used_that_is_not_there() -> None:
    text = KERNELS["i64 to f32"][0]
    assert operations(made(text, None, TARGET)[1]).count("gather") >= 2, "the words of each number"
    assert "gather" not in operations(made(text)[1]), "910B casts them"


def test_copies_of_bits_are_a_fused_core_s() -> None:
    bits = make("copy", rows("i", (16, 16), (16, 1)), rows("f", (16, 16), (16, 1)))
    judge(bits, TARGET)
    for wrong, target in ((bits, "ascend:910b3"), (make("copy", bits.dst, rows("h", (16, 16), (16, 1))), TARGET)):
        with pytest.raises(Exception, match="no copy of"):
            judge(wrong, target)
