"""Every operation on every ordinary element type, casts between all of them, on each level of this machine."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tilewright.codegen.cstyle import C_TYPES
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import symbol
from tilewright.ir.types import DType
from tilewright.kernel.expr import BINARY, COMPARE, UNARY, Binary, Cast, Load, Select, Unary, Value
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.tile import Axis, Kernel, Param, Store
from tilewright.kernel.typecheck import type_problems

from tests.cpu.harness import LEVELS, by_level, compile_kernel

NARROW = tuple(d for d in C_TYPES if d.bits < 8 or (d.is_float and d.bits == 8))
DTYPES = tuple(d for d in C_TYPES if d not in NARROW)
#: Element types that run on every level in the ordinary suite.
QUICK = ("f32", "f16", "i32")
SIZE = 75  # four whole vectors of 16 and a tail; not a multiple of 4 or 8 either
N = symbol("N")
I = symbol("i")  # noqa: E741


def _kernel(name: str, inputs: dict[str, DType], results: dict[str, Value]) -> Kernel:
    params = [Param(n, d, (N,)) for n, d in inputs.items()]
    params += [Param(n, v.dtype, (N,), "out") for n, v in results.items()]
    stores = tuple(Store(n, ("i",), (I,), v) for n, v in results.items())
    return Kernel(name, tuple(params), (("N", Range(1, 4096)),), (Axis("i", N),), stores)


def _load(name: str, dtype: DType) -> Load:
    return Load(name, (I,), dtype)


def _values(dtype: DType, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype is DType.BOOL:
        return rng.integers(0, 2, SIZE).astype(bool)
    if dtype.is_float:
        values = rng.standard_normal(SIZE) * 3
        values[:6] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0]
        return rng.permutation(values).astype(dtype.numpy) if seed % 2 else values.astype(dtype.numpy)
    info = np.iinfo(dtype.numpy)
    values = rng.integers(max(info.min, -50), 50, SIZE).astype(dtype.numpy)
    values[:4] = [info.min, info.max, 0, 1]
    return values


def _operations(dtype: DType) -> dict[str, Value]:
    a, b, c = _load("a", dtype), _load("b", dtype), _load("c", DType.BOOL)
    made: dict[str, Value] = {f"u_{op}": Unary(op, a) for op in sorted(UNARY)}
    made |= {f"b_{op}": Binary(op, a, b) for op in sorted(BINARY | COMPARE)}
    made["select"] = Select(c, a, b)
    return {name: v for name, v in made.items() if not list(type_problems(v))}


def _ulps(got: np.ndarray, expected: np.ndarray, dtype: DType) -> float:
    """Largest difference in units of the last place; infinite where NaN, infinity or sign of one differ."""
    g, e = got.astype(np.float64), expected.astype(np.float64)
    same = (g == e) | (np.isnan(g) & np.isnan(e))
    if same.all():
        return 0.0
    bits = {DType.F64: 52, DType.F32: 23, DType.F16: 10, DType.BF16: 7}[dtype]
    place = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(e), 1e-30))) - bits)
    with np.errstate(invalid="ignore"):
        error = np.where(np.isfinite(g) & np.isfinite(e), np.abs(g - e) / place, np.inf)
    return float(np.where(same, 0, error).max())


@pytest.mark.parametrize("dtype, level", by_level(DTYPES, QUICK))
def test_operations(dtype: DType, level: str) -> None:
    results = _operations(dtype)
    kernel = _kernel(f"ops_{dtype}", {"a": dtype, "b": dtype, "c": DType.BOOL}, results)
    tensors = {"a": _values(dtype, 1), "b": _values(dtype, 2), "c": _values(DType.BOOL, 3)}
    if dtype.is_integer:
        # Division by zero is undefined in the IR; that it does not trap is tested apart. Shifts stay in range.
        tensors["b"] = np.where(tensors["b"] == 0, 3, tensors["b"]).astype(dtype.numpy)
    got = compile_kernel(kernel, level)(tensors, {"N": SIZE})
    expected = run_lowered(kernel, tensors, {"N": SIZE})
    for name, value in results.items():
        g, e = got[name], expected[name]
        if name in ("b_shl", "b_shr"):
            inside = (tensors["b"] >= 0) & (tensors["b"] < dtype.bits)
            g, e = g[inside], e[inside]
        if dtype.is_integer and name in ("b_div", "b_mod", "b_fmod") and dtype.is_signed:
            fits = ~((tensors["a"] == np.iinfo(dtype.numpy).min) & (tensors["b"] == -1))
            g, e = g[fits], e[fits]
        if value.dtype.is_float:
            bound = 4 if dtype in (DType.F32, DType.F64) else 1
            assert _ulps(g, e, value.dtype) <= bound, (name, g, e)
        else:
            np.testing.assert_array_equal(g, e, err_msg=name)


@pytest.mark.parametrize("source, level", by_level(DTYPES, QUICK))
def test_casts(source: DType, level: str) -> None:
    results: dict[str, Value] = {f"to_{d}": Cast(d, _load("a", source)) for d in DTYPES if d is not source}
    kernel = _kernel(f"casts_{source}", {"a": source}, results)
    values = _values(source, 4)
    if source.is_float:
        # What does not fit an integer is undefined; every integer type holds these.
        values = np.resize(np.array([0, 1, 2.5, 100.75, 0.25, 7, 63.5], source.numpy), SIZE)
    tensors = {"a": values}
    got = compile_kernel(kernel, level)(tensors, {"N": SIZE})
    expected = run_lowered(kernel, tensors, {"N": SIZE})
    for name, value in results.items():
        g, e = got[name], expected[name]
        if value.dtype is DType.BF16 and source.bits == 64:
            assert _ulps(g, e, value.dtype) <= 1, (name, g, e)  # the reference rounds to f32 first
        else:
            np.testing.assert_array_equal(g, e, err_msg=name)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.is_integer], ids=str)
def test_integer_division_by_zero_does_not_trap(dtype: DType) -> None:
    a, b = _load("a", dtype), _load("b", dtype)
    kernel = _kernel(f"zero_{dtype}", {"a": dtype, "b": dtype}, {n: Binary(n, a, b) for n in ("div", "mod", "fmod")})
    tensors = {"a": _values(dtype, 1), "b": np.where(np.arange(SIZE) % 2, 0, -1).astype(dtype.numpy)}
    compile_kernel(kernel, LEVELS[-1])(tensors, {"N": SIZE})


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name, dtype", [("f16", DType.F16), ("bf16", DType.BF16)])
def test_half_values_survive_and_round_to_even(name: str, dtype: DType, level: str) -> None:
    kernel = _kernel(f"round_{name}", {"a": DType.F32}, {"y": Cast(dtype, _load("a", DType.F32))})
    every = np.arange(65536, dtype=np.uint16).view(dtype.numpy).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        between = (every[:-1] + every[1:]) / 2
    values = np.concatenate([every, between, np.float32([1e9, -1e9, 65519.9, 65520, 1e-9, np.inf, np.nan])])
    got = np.concatenate(
        [compile_kernel(kernel, level)({"a": v}, {"N": v.size})["y"] for v in np.array_split(values, 33)]
    )
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(dtype.numpy)
    nan = np.isnan(values)
    assert np.isnan(got[nan].astype(np.float32)).all()
    np.testing.assert_array_equal(got[~nan].view(np.uint16), expected[~nan].view(np.uint16))


@pytest.mark.parametrize("level", LEVELS)
def test_a_double_is_rounded_once(level: str) -> None:
    kernel = _kernel("once", {"a": DType.F64}, {"y": Cast(DType.F16, _load("a", DType.F64))})
    halfway = np.array([1 + 2**-11, 1 + 3 * 2**-11, 2**-25, 65520 - 2**-40, 0.0, np.inf, 1e300])
    values = np.concatenate([halfway, halfway * (1 + 2**-40), halfway * (1 - 2**-40)])
    values = np.concatenate([values, -values, [np.nan]])
    got = compile_kernel(kernel, level)({"a": values}, {"N": values.size})["y"]
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got, values.astype(np.float16))


def _numbers(dtype: DType) -> np.ndarray:
    """Every number of a narrow type."""
    codes = np.arange(1 << dtype.bits, dtype=np.uint8)
    return codes.view(dtype.numpy)


@pytest.mark.parametrize("dtype, level", by_level(NARROW, ()))
def test_every_number_of_a_narrow_type(dtype: DType, level: str) -> None:
    every = np.resize(_numbers(dtype), 261)  # an odd number: the last byte is not full
    wide = DType.F32 if dtype.is_float else DType.I32
    kernel = _kernel(f"widen_{dtype}", {"a": dtype}, {"y": Cast(wide, _load("a", dtype)), "z": _load("a", dtype)})
    got = compile_kernel(kernel, level)({"a": every}, {"N": every.size})
    np.testing.assert_array_equal(got["y"], every.astype(wide.numpy))
    np.testing.assert_array_equal(got["z"].astype(np.float32), every.astype(np.float32))


@pytest.mark.parametrize("dtype, level", by_level([d for d in NARROW if d.is_float], ()))
def test_narrow_floats_round_to_even(dtype: DType, level: str) -> None:
    kernel = _kernel(f"narrow_{dtype}", {"a": DType.F32}, {"y": Cast(dtype, _load("a", DType.F32))})
    with np.errstate(all="ignore"):
        numbers = np.unique(_numbers(dtype).astype(np.float32))
        numbers = numbers[np.isfinite(numbers)]
        between = (numbers[1:] + numbers[:-1]) / 2
        near = [np.nextafter(between, np.float32(s)) for s in (-np.inf, np.inf)]
        values = np.concatenate(
            [numbers, between, *near, np.float32([np.inf, -np.inf, np.nan, -0.0, 1e30, -1e30, 1e-30])]
        )
        if dtype is DType.F8E8M0:
            values = np.concatenate([values, np.float32([-1, 2.0**127 * 1.4, 2.0**127 * 1.6])])
            values = values[~((values > 2.0**-127) & (values < 2.0**-126))]  # NumPy's type rounds all of these up
        expected = values.astype(dtype.numpy).astype(np.float32)
    got = compile_kernel(kernel, level)({"a": values}, {"N": values.size})["y"].astype(np.float32)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype, level", by_level([d for d in NARROW if d.is_integer], ()))
def test_narrow_integers_keep_their_low_bits(dtype: DType, level: str) -> None:
    values = np.arange(-70, 71, dtype=np.int32)
    results = {"y": Cast(dtype, _load("a", DType.I32)), "z": Cast(dtype, Cast(DType.F32, _load("a", DType.I32)))}
    kernel = _kernel(f"narrow_{dtype}", {"a": DType.I32}, results)
    got = compile_kernel(kernel, level)({"a": values}, {"N": values.size})
    offset = 1 << (dtype.bits - 1) if dtype.is_signed else 0
    for result in got.values():
        np.testing.assert_array_equal(result.astype(np.int32), ((values + offset) & ((1 << dtype.bits) - 1)) - offset)


REDUCE = """
@kernel
def reduce_{op}_{dtype}(X: {dtype}[M, N], R: out[{dtype}[M]], C: out[{dtype}[N]]):
    where(1 <= M <= 64, 1 <= N <= 512)
    m: M
    n: N
    r[m] = {op}(n, X[m, n])
    c[n] = {op}(m, X[m, n])
    R[m] = r[m]
    C[n] = c[n]
"""


REDUCTIONS = [
    *itertools.product(("sum", "prod", "max", "min"), (DType.F32, DType.F64, DType.I32, DType.I64, DType.U8)),
    ("sum", DType.F16), ("max", DType.BF16), ("any", DType.BOOL), ("all", DType.BOOL),
]  # fmt: skip


@pytest.mark.parametrize(
    "reduction, level", by_level(REDUCTIONS, ("sum-f32", "max-i32", "any-bool"), lambda r: f"{r[0]}-{r[1]}")
)
def test_reductions_both_ways(reduction: tuple[str, DType], level: str) -> None:
    op, dtype = reduction
    kernel = parse_kernel(REDUCE.format(op=op, dtype=dtype))
    rng = np.random.default_rng(5)
    for m, n in ((1, 1), (3, 40), (5, 33)):
        x = rng.integers(0, 2, (m, n)) if dtype is DType.BOOL else rng.integers(1, 4, (m, n))
        tensors = {"X": x.astype(dtype.numpy)}
        if op == "prod" and dtype.is_float:
            tensors["X"] = rng.uniform(0.5, 1.5, (m, n)).astype(dtype.numpy)
        got = compile_kernel(kernel, level)(tensors, {"M": m, "N": n})
        for name, e in run_lowered(kernel, tensors, {"M": m, "N": n}).items():
            if dtype.is_float:
                limit = {DType.F16: 2e-3, DType.BF16: 0}.get(dtype, 2e-6)
                np.testing.assert_allclose(got[name].astype(float), e.astype(float), rtol=limit)
            else:
                np.testing.assert_array_equal(got[name], e)
