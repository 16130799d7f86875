"""Products of few rows and of a matrix and a vector: numbers, summation that the number of rows does not change, and
one packed layout of a constant whatever the rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from tilewright.backends.cpu import machine
from tilewright.backends.cpu.schedule import choose
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.tile import Kernel

from tests.cpu.harness import LEVELS, TARGETS, by_level, compile_kernel

ROWS = """
@kernel
def few_rows(A: f32[M, {k}], B: {b}, C: out[f32[M, {n}]]):
    where(1 <= M <= 512)
    m: M
    n: {n}
    k: {k}
    acc[m, n] = sum(k, A[m, k] * {right})
    C[m, n] = acc[m, n] + f32(1.0)
"""
VECTOR = """
@kernel
def vector(A: f32[{k}], B: {b}, C: out[f32[{n}]]):
    where(1 <= M <= 512)
    n: {n}
    k: {k}
    acc[n] = sum(k, {left} * {right})
    C[n] = acc[n] + f32(1.0)
"""
HEADS = """
@kernel
def heads(P: f32[B, T], V: f32[B, T, {n}], O: out[f32[B, {n}]]):
    where(1 <= B <= 64, 1 <= T <= 512)
    b: B
    d: {n}
    t: T
    acc[b, d] = sum(t, P[b, t] * V[b, t, d])
    O[b, d] = acc[b, d]
"""


def rows(n: int, k: int, transposed: bool = False) -> Kernel:
    b, right = (f"const[f32[{n}, {k}]]", "B[n, k]") if transposed else (f"const[f32[{k}, {n}]]", "B[k, n]")
    return parse_kernel(ROWS.format(n=n, k=k, b=b, right=right))


def vector(n: int, k: int, transposed: bool = False, role: str = "const", left: str = "A[k]") -> Kernel:
    shape, right = (f"f32[{n}, {k}]", "B[n, k]") if transposed else (f"f32[{k}, {n}]", "B[k, n]")
    b = f"const[{shape}]" if role == "const" else shape
    return parse_kernel(VECTOR.format(n=n, k=k, b=b, right=right, left=left))


@dataclass(frozen=True)
class Case:
    """A kernel and the dimensions to run it with."""

    name: str
    kernel: Kernel
    dims: tuple[dict[str, int], ...]


FEW = tuple({"M": m} for m in (1, 2, 3, 4, 5, 6, 7, 9, 15, 18, 19, 50))
CASES = [
    Case("panels", rows(64, 40), FEW),
    Case("odd", rows(33, 17), FEW),
    Case("narrow", rows(7, 5), FEW),
    Case("blocks-of-two-panels", rows(2100, 9), FEW[:5]),
    Case("transposed", rows(70, 19, True), FEW),
    Case("vector", vector(96, 40), ({"M": 1},)),
    Case("vector-odd", vector(101, 33), ({"M": 1},)),
    Case("vector-of-two-panels", vector(2100, 9), ({"M": 1},)),
    Case("vector-transposed", vector(70, 33, True), ({"M": 1},)),
    Case("vector-computed", vector(70, 33, left="abs(A[k])"), ({"M": 1},)),
    Case("vector-input", vector(40, 21, role="in"), ({"M": 1},)),
    Case("vector-input-transposed", vector(45, 33, True, "in"), ({"M": 1},)),
    *(
        Case(f"heads-{n}", parse_kernel(HEADS.format(n=n)), ({"B": 1, "T": 1}, {"B": 3, "T": 77}))
        for n in (5, 40, 64, 96)
    ),
]


def tensors(kernel: Kernel, dims: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(sum(dims.values()))
    shapes = {p.name: [s.evaluate(dims) for s in p.shape] for p in kernel.params if p.role != "out"}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "case, level", by_level(CASES, ("odd", "transposed", "vector-odd", "heads-5"), lambda c: c.name)
)
def test_numbers(case: Case, level: str) -> None:
    compiled = compile_kernel(case.kernel, level)
    for dims in case.dims:
        given = tensors(case.kernel, dims)
        for name, expected in run_lowered(case.kernel, given, dims).items():
            got = compiled(given, dims, (1, 3))[name]
            assert np.abs(got - expected).max() <= 2e-6 * np.abs(expected).max(), dims


@pytest.mark.parametrize("level", [LEVELS[0], LEVELS[-1]])
@pytest.mark.parametrize("case", CASES[:5], ids=lambda c: c.name)
def test_a_row_is_the_same_bytes_whatever_comes_with_it(case: Case, level: str) -> None:
    compiled = compile_kernel(case.kernel, level)
    given = tensors(case.kernel, {"M": 23})
    whole = compiled(given, {"M": 23})["C"]
    for m in (1, 2, 3, 4, 5, 6, 7, 13, 22):
        got = compiled({**given, "A": given["A"][:m]}, {"M": m})["C"]
        np.testing.assert_array_equal(got.view(np.uint32), whole[:m].view(np.uint32), err_msg=str(m))


@pytest.mark.parametrize("level", LEVELS)
def test_rows_that_no_tile_cuts(level: str) -> None:
    kernel = rows(70, 33)
    whole = replace(choose(kernel, TARGETS[level]), loops=())
    compiled = compile_kernel(kernel, level, whole)
    for dims in FEW:
        given = tensors(kernel, dims)
        expected = run_lowered(kernel, given, dims)["C"]
        assert np.abs(compiled(given, dims)["C"] - expected).max() <= 2e-6 * np.abs(expected).max(), dims


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("level", machine.targets())
def test_a_constant_has_one_layout_for_one_row_and_for_many(level: str, transposed: bool) -> None:
    target = machine.targets()[level]
    (one,) = choose(vector(2100, 40, transposed), target).packs
    (many,) = choose(rows(2100, 40, transposed), target).packs
    assert one == replace(many, tensor=one.tensor)


@pytest.mark.parametrize("level", [LEVELS[0], LEVELS[-1]])
def test_a_vector_gives_the_bytes_of_one_row_of_many(level: str) -> None:
    many, one = compile_kernel(rows(70, 33), level), compile_kernel(vector(70, 33), level)
    given = tensors(rows(70, 33), {"M": 9})
    whole = many(given, {"M": 9})["C"]
    got = one({"A": given["A"][4], "B": given["B"]}, {"M": 1})["C"]
    np.testing.assert_array_equal(got.view(np.uint32), whole[4].view(np.uint32))
