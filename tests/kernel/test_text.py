"""Text of kernels: what is printed reads back equal, and what cannot be read is refused with its line."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from tilewright.errors import CompileError
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.print import print_kernel
from tilewright.kernel.tile import Kernel

from tests.kernel.strategies import kernels
from tests.kernel.trial_kernels import TRIALS

HEAD = "@kernel\ndef f(X: f32[M, N], Y: out[f32[M, N]]):\n    where(1 <= M <= 8, N % 4 == 0)\n    m: M\n    n: N\n"


@pytest.mark.parametrize("name", TRIALS)
def test_trial_kernels_read_back_equal(name: str) -> None:
    kernel = TRIALS[name]()
    text = print_kernel(kernel)
    assert parse_kernel(text) == kernel
    assert print_kernel(parse_kernel(text)) == text


@settings(max_examples=200, deadline=None)
@given(kernels())
def test_random_kernels_read_back_equal(kernel: Kernel) -> None:
    text = print_kernel(kernel)
    again = parse_kernel(text)
    assert again == kernel
    assert print_kernel(again) == text


def test_the_text_is_stable() -> None:
    text = HEAD + (
        "    top[m] = max(n, X[m, n])\n"
        "    e[m, n] = exp((X[m, n + 1] or -inf) - top[m]) * -(top[m] + f32(1.0))\n"
        "    c[m, n] = not e[m, n] < top[m] and (index(n) == i64(3) or isnan(e[m, n]))\n"
        "    Y[m, n] = select(c[m, n], e[m, n], f32(f16(e[m, n]) ** f16(2.0)))\n"
    )
    assert print_kernel(parse_kernel(text)) == text


def test_the_limit_of_a_constant_is_part_of_its_type() -> None:
    text = HEAD.replace("Y: out", "W: const[i8[N, 8], 64], Y: out") + "    Y[m, n] = X[m, n]\n"
    kernel = parse_kernel(text)
    assert kernel.param("W").limit == 64
    assert print_kernel(kernel) == text


MALFORMED = {
    "not python": ("@kernel\ndef f(X: f32[M]):\n    m = = 3\n", 3, "not Python syntax"),
    "no kernel": ("x = 1\n", 1, "decorated with @kernel"),
    "not decorated": ("def f(X: f32[M]):\n    pass\n", 1, "decorated with @kernel"),
    "unknown dtype": ("@kernel\ndef f(X: f33[M]):\n    m: M\n", 2, "tensor type"),
    "bad limit": ("@kernel\ndef f(X: const[i8[M], x]):\n    pass\n", 2, "limit"),
    "no type": ("@kernel\ndef f(X):\n    pass\n", 2, "no type"),
    "parameter twice": ("@kernel\ndef f(X: f32[M], X: f32[M]):\n    pass\n", 2, ""),
    "axis twice": (HEAD + "    m: N\n", 6, "declared twice"),
    "bad fact": ("@kernel\ndef f(X: f32[M]):\n    where(M > 3)\n", 3, "expected 1 <= M"),
    "bare literal": (HEAD + "    Y[m, n] = X[m, n] + 1.0\n", 6, "needs its dtype"),
    "unknown tile": (HEAD + "    Y[m, n] = t[m, n]\n", 6, "neither a parameter nor a tile"),
    "tile twice": (HEAD + "    t[m] = f32(0.0)\n    t[m] = f32(0.0)\n", 7, "assigned twice"),
    "not an axis": (HEAD + "    t[q] = f32(0.0)\n", 6, "not an axis"),
    "reduction inside": (HEAD + "    Y[m, n] = f32(1.0) + sum(n, X[m, n])\n", 6, "top of an assignment"),
    "unknown operation": (HEAD + "    Y[m, n] = softplus(X[m, n])\n", 6, "unknown operation softplus"),
    "bad index": (HEAD + "    Y[m, n] = X[m / 2, n]\n", 6, "not an index expression"),
    "chained comparison": (HEAD + "    t[m, n] = X[m, n] < X[m, n] < X[m, n]\n", 6, "not a value"),
    "store in scan": (HEAD + "    for n in scan(c=f32(0.0)[m]):\n        Y[m, n] = c[m]\n", 7, "tiles only"),
    "carry not literal": (HEAD + "    for n in scan(c=X[m, n][m]):\n        yield_(c=c)\n", 6, "starts at a literal"),
    "fill of a tile": (HEAD + "    t[m] = f32(0.0)\n    Y[m, n] = t[m] or 0\n", 7, "a fill belongs"),
    "nonsense": (HEAD + "    while True: pass\n", 6, "expected an assignment or a scan"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_text_is_refused_with_its_line(case: str) -> None:
    text, line, cause = MALFORMED[case]
    with pytest.raises(CompileError) as caught:
        parse_kernel(text)
    assert caught.value.code == "kernel-syntax"
    assert f"line {line}" in caught.value.where
    assert cause in caught.value.cause


def test_deep_nesting_is_an_error_not_a_crash() -> None:
    with pytest.raises(CompileError):
        parse_kernel(HEAD + "    Y[m, n] = " + "(" * 4000 + "X[m, n]" + ")" * 4000 + "\n")
    with pytest.raises(CompileError):
        parse_kernel(HEAD + "    Y[m, n] = " + "-" * 3000 + "X[m, n]\n")
