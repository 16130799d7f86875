"""The verifier accepts the trial kernels and names what is wrong with malformed ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tilewright.ir.symbolic import constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.expr import Binary, Cast, Const, IndexValue, Load, Ref, Select, Unary, Value
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.tile import Define, Kernel, Reduction, Store
from tilewright.kernel.verify import InvalidKernel, verify_kernel

from tests.kernel.trial_kernels import TRIALS


@pytest.mark.parametrize("name", TRIALS)
def test_trial_kernels_are_well_formed(name: str) -> None:
    verify_kernel(TRIALS[name]())


GOOD = {
    "halved": ("X: f32[M], Y: out[f32[(M + 1) // 2]]", "m: (M + 1) // 2", "Y[m] = X[min(2*m, M - 1)]"),
    "blocked": ("X: f32[M], Y: out[f32[(M + 31) // 32, 32]]", "m: (M + 31) // 32\n    n: 32",
                "Y[m, n] = X[32*m + n] or 0"),
    "unblocked": ("X: f32[(M + 31) // 32, 32], Y: out[f32[M]]", "m: M", "Y[m] = X[m // 32, m % 32]"),
    "concatenated": ("X: f32[M], Y: out[f32[M + N]]", "m: M\n    n: N", "Y[m] = X[m]\n    Y[n + M] = f32(1.0)"),
    "reversed": ("X: f32[M], Y: out[f32[M]]", "m: M", "Y[m] = X[M - 1 - m]"),
    "gathered": ("X: f32[M], I: i64[N], Y: out[f32[N]]", "n: N", "Y[n] = X[I[n]]"),
    "flattened": ("X: f32[M*N], Y: out[f32[M, N]]", "m: M\n    n: N", "Y[m, n] = X[m*N + n]"),
    "clamped": ("X: f32[M], Y: out[f32[N]]", "n: N", "Y[n] = X[max(0, min(n - 3, M - 1))]"),
    "scalar": ("X: f32[()], Y: out[f32[()]]", "m: 1", "Y[()] = X[()]"),
    "in place": ("X: f32[M], Y: out[f32[M], X]", "m: M", "Y[m] = exp(X[m])"),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_indices_that_are_provably_inside(case: str) -> None:
    params, axes, body = GOOD[case]
    verify_kernel(kernel(params, axes, body))


def kernel(params: str, axes: str, body: str) -> Kernel:
    return parse_kernel(
        f"@kernel\ndef f({params}):\n    where(1 <= M <= 4096, 1 <= N <= 4096)\n    {axes}\n    {body}\n"
    )


OUTSIDE = {
    "one past": ("X: f32[M], Y: out[f32[M]]", "m: M", "Y[m] = X[m + 1]", "0 <= m + 1 < M"),
    "negative": ("X: f32[M], Y: out[f32[M]]", "m: M", "Y[m] = X[m - 1]", "0 <= m - 1 < M"),
    "other size": ("X: f32[N], Y: out[f32[M]]", "m: M", "Y[m] = X[m]", "0 <= m < N"),
    "floor": ("X: f32[M // 32, 32], Y: out[f32[M]]", "m: M", "Y[m] = X[m // 32, m % 32]", "m // 32"),
    "write": ("X: f32[M], Y: out[f32[M]]", "m: M", "Y[2*m] = X[m]", "0 <= 2*m < M"),
    "shorter axis": ("X: f32[M], Y: out[f32[M]]", "m: M - 1", "Y[m] = X[m]", "only M - 1 of the M"),
    "one element": ("X: f32[8], Y: out[f32[8]]", "m: 8", "Y[3] = X[3]", "only 1 of the 8"),
    "diagonal": ("X: f32[M], Y: out[f32[M, M]]", "m: M", "Y[m, m] = X[m]", "diagonal"),
    "in place, moved": ("X: f32[M], Y: out[f32[M], X]", "m: M", "Y[m] = X[M - 1 - m]", "may have overwritten"),
    "in place, reduced": ("X: f32[M], Y: out[f32[M], X]", "m: M", "t[()] = sum(m, X[m])\n    Y[m] = t[()] + X[m]",
                          "may have overwritten"),
    "in place of nothing": ("X: f32[M], Y: out[f32[M], Z]", "m: M", "Y[m] = X[m]", "no input"),
    "in place of another output": ("X: f32[M], Y: out[f32[M]], Z: out[f32[M], Y]", "m: M",
                                   "Y[m] = X[m]\n    Z[m] = X[m]", "no input"),
    "same element": ("X: f32[M], Y: out[f32[M]]", "m: M\n    n: N", "Y[m]: (m, n) = X[m]", "every position of n"),
    "never stored": ("X: f32[M], Y: out[f32[M]]", "m: M", "t[m] = X[m]", "never stored"),
    "negative size": ("X: f32[M - 5], Y: out[f32[M]]", "m: M", "Y[m] = f32(0.0)", "may be negative"),
    "unknown dimension": ("X: f32[K], Y: out[f32[M]]", "m: M", "Y[m] = f32(0.0)", "nothing is known of K"),
    "output read": ("Y: out[f32[M]], Z: out[f32[M]]", "m: M", "Y[m] = f32(0.0)\n    Z[m] = Y[m]", "is read"),
    "rank": ("X: f32[M], Y: out[f32[M]]", "m: M", "Y[m] = X[m, m]", "has 1 dimensions, indexed by 2"),
    "float gather": ("X: f32[M], Y: out[f32[M]]", "m: M", "Y[m] = X[X[m]]", "gathered by a value of type f32"),
    "tile over a scan": ("X: f32[M], Y: out[f32[()]]", "m: M",
                         "for m in scan(c=f32(0.0)[()]):\n        a[()] = sum(m, X[m])\n        yield_(c=a)\n"
                         "    Y[()] = a[()]", "outside its scan"),
    "carry without yield": ("X: f32[M], Y: out[f32[()]]", "m: M",
                            "for m in scan(c=f32(0.0)[()]):\n        a[()] = sum(m, X[m])\n        yield_()\n"
                            "    Y[()] = c[()]", "yields nothing"),
    "carry of another type": ("X: f32[M], Y: out[f32[()]]", "m: M",
                              "for m in scan(c=f32(0.0)[()]):\n        a[()] = max(m, index(m))\n        yield_(c=a)\n"
                              "    Y[()] = c[()]", "carry c is f32[] but a is i64[]"),
    "carry over the scanned axis": ("X: f32[M], Y: out[f32[M]]", "m: M",
                                    "for m in scan(c=f32(0.0)[m]):\n        a[m] = X[m]\n        yield_(c=a)\n"
                                    "    Y[m] = c[m]", "runs over the scanned axis"),
}  # fmt: skip


@pytest.mark.parametrize("case", OUTSIDE)
def test_malformed_kernels_are_refused(case: str) -> None:
    params, axes, body, message = OUTSIDE[case]
    with pytest.raises(InvalidKernel) as caught:
        verify_kernel(kernel(params, axes, body))
    assert message in str(caught.value)


X = Load("X", (symbol("m"),), DType.F32)
HALF = Cast(DType.F16, X)
INT = IndexValue(symbol("m"))
TEST = Binary("lt", X, X)

TYPES: dict[str, tuple[Value, str]] = {
    "mixed operands": (Binary("add", X, HALF), "add of f32 and f16"),
    "mixed comparison": (Binary("lt", INT, X), "lt of i64 and f32"),
    "logic of numbers": (Binary("and", X, X), "and of f32, expected bool"),
    "arithmetic of bool": (Binary("add", TEST, TEST), "add of bool"),
    "bits of floats": (Binary("bitand", X, X), "bitand of f32"),
    "exp of integers": (Unary("exp", INT), "exp of i64, expected a float"),
    "not of a number": (Unary("not", X), "not of f32"),
    "select on a number": (Select(X, X, X), "select on f32"),
    "select of two types": (Select(TEST, X, HALF), "select of f32 or f16"),
    "unknown unary": (Unary("relu", X), "unknown operation relu"),
    "unknown binary": (Binary("hypot", X, X), "unknown operation hypot"),
    "cast to itself": (Cast(DType.F32, X), "cast of f32 to itself"),
    "integer literal of a float": (Const(1, DType.F32), "literal 1 of type f32"),
    "float literal of an integer": (Const(1.5, DType.I8), "literal 1.5 of type i8"),
    "literal too large": (Const(200, DType.I8), "does not fit i8"),
    "number as bool": (Const(1, DType.BOOL), "of type bool"),
    "bool fill": (replace(X, fill=True), "literal True of type f32"),
    "wrong load dtype": (Load("X", (symbol("m"),), DType.F64), "X is f32, read as f64"),
    "no such tensor": (Load("Q", (symbol("m"),), DType.F32), "Q is no parameter"),
    "no such tile": (Ref("q", ("m",), DType.F32), "read before it is assigned"),
    "tile under other axes": (Ref("t", (), DType.F32), "t is f32[m], read as f32[]"),
    "tile as another dtype": (Ref("t", ("m",), DType.F16), "t is f32[m], read as f16[m]"),
    "unbound axis": (Load("X", (symbol("n"),), DType.F32), "axis n is not among [m]"),
    "unknown name": (IndexValue(symbol("zz")), "unknown name zz is not among"),
    "bool index": (IndexValue(symbol("m"), DType.BOOL), "index value of type bool"),
}


@pytest.mark.parametrize("case", TYPES)
def test_ill_typed_values_are_refused(case: str) -> None:
    value, message = TYPES[case]
    base = kernel("X: f32[M], Y: out[f32[M]]", "m: M\n    n: M", "t[m] = exp(X[m])\n    Y[m] = t[m]")
    body = (base.body[0], Define("u", ("m",), value), *base.body[1:])
    with pytest.raises(InvalidKernel) as caught:
        verify_kernel(replace(base, body=body))
    assert message in str(caught.value)


CHANGES: dict[str, tuple[Callable[[Kernel], Kernel], str]] = {
    "tile twice": (lambda k: replace(k, body=(k.body[0], *k.body)), "acc is a tile twice"),
    "axis named as a parameter": (
        lambda k: replace(k, axes=(*k.axes, replace(k.axes[0], name="A"))),
        "A is a parameter and an axis",
    ),
    "unknown reduction": (lambda k: reduce_with(k, Reduction("mean", ("k",))), "unknown reduction mean"),
    "empty reduction": (lambda k: reduce_with(k, Reduction("sum", ())), "over no axis"),
    "reduction over its own axis": (lambda k: reduce_with(k, Reduction("sum", ("k", "m"))), "occurs twice"),
    "any of floats": (lambda k: reduce_with(k, Reduction("any", ("k",))), "any of f32, expected bool"),
    "no such axis": (lambda k: reduce_with(k, Reduction("sum", ("k", "q"))), "q is no axis"),
    "impossible facts": (
        lambda k: replace(k, facts=tuple((n, replace(r, lo=9, hi=3)) for n, r in k.facts)),
        "cannot hold",
    ),
    "stored type": (
        lambda k: replace(k, body=(*k.body[:-1], replace(k.body[-1], value=Const(0.0, DType.F16)))),
        "f16 into f32",
    ),
    "stored into an input": (lambda k: replace(k, body=(*k.body, store_into(k, "A"))), "no output"),
    "bad name": (lambda k: replace(k, axes=(*k.axes, replace(k.axes[0], name="a b"))), "no identifier"),
}


def reduce_with(kernel: Kernel, reduction: Reduction) -> Kernel:
    first = kernel.body[0]
    assert isinstance(first, Define)
    return replace(kernel, body=(replace(first, reduce=reduction), *kernel.body[1:]))


def store_into(kernel: Kernel, tensor: str) -> Store:
    last = kernel.body[-1]
    assert isinstance(last, Store)
    return replace(last, tensor=tensor)


@pytest.mark.parametrize("case", CHANGES)
def test_changed_kernels_are_refused(case: str) -> None:
    change, message = CHANGES[case]
    with pytest.raises(InvalidKernel) as caught:
        verify_kernel(change(TRIALS["matmul"]()))
    assert message in str(caught.value)


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(InvalidKernel) as caught:
        verify_kernel(kernel("X: f32[M], Y: out[f32[M]], Z: out[f16[M]]", "m: M", "Y[m] = X[m + 1]\n    Z[m] = X[m]"))
    assert len(caught.value.problems) == 2


def test_a_gather_is_accepted_without_proof_but_its_own_reads_are_not() -> None:
    with pytest.raises(InvalidKernel, match="0 <= n \\+ 1 < N"):
        verify_kernel(kernel("X: f32[M], I: i64[N], Y: out[f32[N]]", "n: N", "Y[n] = X[I[n + 1]]"))


def test_constant_shapes_need_no_facts() -> None:
    base = parse_kernel("@kernel\ndef f(X: f32[8], Y: out[f32[8]]):\n    m: 8\n    Y[m] = X[7 - m]\n")
    assert base.extent("m") == constant(8)
    verify_kernel(base)
