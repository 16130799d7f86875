"""Every scalar function and reduction that the backend says it supports, against the lowered form."""

from __future__ import annotations

import numpy as np
import pytest
from tilewright.backends.cuda import functions
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.backends.cuda.build import compile_source
from tilewright.backends.cuda.interpret import Run, interpret
from tilewright.ir.symbolic import as_expr, symbol
from tilewright.ir.types import DType
from tilewright.kernel.apply import apply
from tilewright.kernel.expr import BINARY, COMPARE, Binary, Cast, Const, IndexValue, Load, Ref, Select, Unary, Value
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.schedule import Loop, Schedule
from tilewright.kernel.tile import Axis, Define, Kernel, Param, Reduction, Store
from tilewright.target import Target

from .cases import Array, block, empty_outputs, inputs

N = 200
_INTEGER_ONLY = {"bitand", "bitor", "bitxor", "shl", "shr"}
_BOOLEAN = {"and", "or", "xor"}
_AT = (symbol("n"),)


def _kernel(name: str, dtype: DType, outputs: dict[str, Value]) -> Kernel:
    """Inputs ``X`` and ``Y`` of ``dtype``, one output for each value."""
    shape = (as_expr(N),)
    params = [Param("X", dtype, shape), Param("Y", dtype, shape)]
    params += [Param(o, v.dtype, shape, "out") for o, v in outputs.items()]
    body = tuple(Store(o, ("n",), _AT, v) for o, v in outputs.items())
    return Kernel(name, tuple(params), (), (Axis("n", as_expr(N)),), body)


def _scalar(dtype: DType) -> Kernel:
    x, y = Load("X", _AT, dtype), Load("Y", _AT, dtype)
    one = Const(1.0 if dtype.is_float else 1, dtype)
    positive = Binary("add", Unary("abs", x), one)
    outputs: dict[str, Value] = {}
    if dtype.is_float:
        for op in functions.UNARY_TEXT:
            if op not in ("not", "bitnot"):
                outputs[f"o_{op}"] = Unary(op, positive if op in ("log", "log2", "sqrt", "rsqrt", "reciprocal") else x)
        outputs["o_square"] = Binary("pow", x, Const(2.0, dtype))
        outputs["o_power"] = Binary("pow", positive, y)
    else:
        outputs |= {f"o_{op}": Unary(op, x) for op in ("neg", "abs", "bitnot", "sign")}
        outputs["o_power"] = Binary("pow", x, Binary("bitand", y, Const(7, dtype)))
    divisor = Select(Binary("eq", y, Const(0, dtype)), one, y)
    for op in sorted((BINARY | COMPARE) - {"pow"} - _BOOLEAN - (_INTEGER_ONLY if dtype.is_float else set())):
        right = {"div": divisor, "mod": divisor, "fmod": divisor}.get(op, y)
        outputs[f"o_{op}"] = Binary(op, x, right)
    low, high = Binary("lt", x, y), Binary("lt", x, one)
    outputs |= {f"o_{op}": Binary(op, low, high) for op in sorted(_BOOLEAN)}
    outputs["o_not"] = Unary("not", low)
    outputs["o_cast"] = Cast(DType.I32 if dtype.is_float else DType.F32, x)
    # Floor, not truncation, of what is negative.
    shifted = symbol("n") - 100
    outputs["o_floordiv"] = IndexValue(shifted // 7)
    outputs["o_floormod"] = IndexValue(shifted % 7)
    return _kernel(f"functions_{dtype}", dtype, outputs)


def _error(got: Array, want: Array, dtype: DType) -> float:
    got64, want64 = got.astype(np.float64), want.astype(np.float64)
    assert np.array_equal(np.isnan(got64), np.isnan(want64))
    with np.errstate(invalid="ignore"):
        return float(np.nanmax(np.abs(got64 - want64) / np.maximum(np.abs(want64), np.finfo(np.float16).tiny)))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(DType.F32, 6e-7), (DType.F16, 1.1e-3), (DType.F64, 1e-15), (DType.I32, 0.0), (DType.I64, 0.0)],
    ids=str,
)
def test_scalar_functions(
    dtype: DType, tolerance: float, backend: CudaBackend, sm_90: Target, interpreter: None
) -> None:
    kernel = _scalar(dtype)
    assert backend.supports(kernel, sm_90).ok
    given = inputs(kernel, {})
    outputs = empty_outputs(kernel, {})
    scheduled = apply(kernel, Schedule((block("n", 64),)))
    got = interpret(backend.emit([scheduled], sm_90), [Run(kernel.name, {**given, **outputs}, {}, tuple(outputs))])[0]
    want = run_lowered(kernel, given)
    wrong = {o: e for o in outputs if (e := _error(got[o], want[o], dtype)) > tolerance}
    assert not wrong


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.I32], ids=str)
def test_scalar_functions_compile(dtype: DType, backend: CudaBackend, triton: None) -> None:
    target = backend.targets()["cuda:sm_80"]
    kernel = _scalar(dtype)
    compiled = compile_source(backend.emit([apply(kernel, Schedule((block("n", 64),)))], target), target)
    assert len(compiled[kernel.name].parameters) == len(kernel.params) + 2


#: Floats of 8 and 4 bits, integers that share bytes.
NARROW = [d for d in DType if d.bits < 8 or (d.is_float and d.bits == 8)]


def _converting(dtype: DType) -> Kernel:
    """Elements of ``dtype`` as numbers and back, and numbers as elements."""
    shape = (as_expr(N),)
    params = (
        Param("X", dtype, shape),
        Param("F", DType.F32, shape),
        Param("numbers", DType.F32, shape, "out"),
        Param("same", dtype, shape, "out"),
        Param("codes", dtype, shape, "out"),
    )
    x, f = Load("X", _AT, dtype), Load("F", _AT, DType.F32)
    stores = (
        Store("numbers", ("n",), _AT, Cast(DType.F32, x)),
        Store("same", ("n",), _AT, x),
        Store("codes", ("n",), _AT, Cast(dtype, f)),
    )
    return Kernel(f"converting_{dtype}", params, (), (Axis("n", as_expr(N)),), stores)


def test_narrow_types(backend: CudaBackend, sm_90: Target, interpreter: None) -> None:
    rng = np.random.default_rng(0)
    kernels, runs, wanted = [], [], []
    for dtype in NARROW:
        kernel = _converting(dtype)
        codes = (rng.permutation(256)[:N] % (1 << dtype.bits)).astype(np.uint8)
        values = codes.view(dtype.numpy) if dtype.is_float else (codes.astype(np.int8)).astype(dtype.numpy)
        numbers = (rng.standard_normal(N) * 2.0 ** rng.integers(-12, 12, N)).astype(np.float32)
        if dtype is DType.F8E8M0 or dtype.is_integer:
            numbers = np.abs(numbers).clip(2**-120, (1 << dtype.bits - 1) - 1)
        elif dtype is not DType.F4E2M1:
            numbers[:3] = np.nan, np.inf, -np.inf
        given = {"X": values, "F": numbers}
        outputs = {p.name: np.zeros(N, p.dtype.numpy) for p in kernel.params if p.role == "out"}
        kernels.append(apply(kernel, Schedule((block("n", 64),))))
        runs.append(Run(kernel.name, {**given, **outputs}, {}, tuple(outputs)))
        wanted.append(run_lowered(kernel, given))
    got = interpret(backend.emit(kernels, sm_90), runs)
    wrong = {
        f"{dtype} {name}"
        for dtype, g, w in zip(NARROW, got, wanted, strict=True)
        for name in w
        if not np.array_equal(g[name].astype(np.float32), w[name].astype(np.float32), equal_nan=True)
    }
    assert not wrong


def _reductions() -> Kernel:
    """Every reduction over ``n``, whole and padded, and ``sum`` of what does not depend on ``n``."""
    rows, x = (symbol("m"),), Load("X", (symbol("m"), symbol("n")), DType.F32)
    values: dict[str, Value] = dict.fromkeys(("sum", "max", "min"), x)
    values["prod"] = Binary("add", Const(1.0, DType.F32), Binary("mul", x, Const(0.01, DType.F32)))
    values |= {op: Binary("gt", x, Const(level, DType.F32)) for op, level in (("any", 2.9), ("all", -2.9))}
    values["count"] = Load("Y", rows, DType.F32)
    params = [Param("X", DType.F32, (as_expr(8), as_expr(N))), Param("Y", DType.F32, (as_expr(8),))]
    body: list[Define | Store] = []
    for name, value in values.items():
        params.append(Param(f"o_{name}", value.dtype, (as_expr(8),), "out"))
        op = "sum" if name == "count" else name
        body.append(Define(name, ("m",), value, Reduction(op, ("n",))))
        body.append(Store(f"o_{name}", ("m",), rows, Ref(name, ("m",), value.dtype)))
    return Kernel("reductions", tuple(params), (), (Axis("m", as_expr(8)), Axis("n", as_expr(N))), tuple(body))


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "in pieces"])
def test_reductions(whole: bool, backend: CudaBackend, sm_90: Target, interpreter: None) -> None:
    kernel = _reductions()
    given = inputs(kernel, {})
    given["X"][3, 50] = np.nan  # max and min propagate it
    outputs = empty_outputs(kernel, {})
    schedule = (
        Schedule((block("m", 4),), extra=(("whole:n", 256),)) if whole else Schedule((block("m", 4),), (Loop("n", 32),))
    )
    source = backend.emit([apply(kernel, schedule)], sm_90)
    got = interpret(source, [Run(kernel.name, {**given, **outputs}, {}, tuple(outputs))])[0]
    want = run_lowered(kernel, given)
    assert {o: e for o in outputs if (e := _error(got[o], want[o], DType.F32)) > 2e-5} == {}
    assert np.isnan(want["o_max"][3])
    compile_source(source, sm_90)
