"""The lowered interpreter against plain NumPy, and its faults."""

from __future__ import annotations

import numpy as np
import pytest
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.machine import KernelFault
from tilewright.kernel.parse import parse_kernel

from tests.kernel.trial_cases import CASES, TOLERANCE, error
from tests.kernel.trial_kernels import TRIALS


@pytest.mark.parametrize("name", TRIALS)
def test_trial_kernels_agree_with_numpy(name: str) -> None:
    inputs, reference = CASES[name]
    x = inputs()
    results, expected = run_lowered(TRIALS[name](), x), reference(x)
    assert results.keys() == expected.keys()
    for key, array in results.items():
        assert error(array, expected[key]) < TOLERANCE[str(array.dtype)]


@pytest.mark.parametrize("piece", [1, 2, 5, 7, 18, 19, 50])
@pytest.mark.parametrize("name", [n for n in TRIALS if n.startswith("attention")])
def test_attention_does_not_depend_on_the_scan_piece(name: str, piece: int) -> None:
    x = CASES[name][0]()
    whole, cut = run_lowered(TRIALS[name](), x), run_lowered(TRIALS[name](), x, scan_piece=piece)
    assert error(cut["O"], whole["O"]) < TOLERANCE[str(cut["O"].dtype)]


def test_a_scan_that_depends_on_its_pieces_is_seen() -> None:
    kernel = parse_kernel("""
@kernel
def wrong(X: f32[M], Y: out[f32[()]]):
    where(1 <= M <= 64)
    m: M
    for m in scan(c=f32(0.0)[()]):
        part[()] = max(m, X[m])
        next_[()] = c[()] + part[()]
        yield_(c=next_)
    Y[()] = c[()]
""")
    x = {"X": np.arange(6, dtype=np.float32)}
    assert run_lowered(kernel, x)["Y"] != run_lowered(kernel, x, scan_piece=2)["Y"]


FAULTS = {
    "read outside": ("Y[m] = X[m + 1]", "read of X outside it at m=4"),
    "gather outside": ("Y[m] = X[I[m]]", "read of X outside it"),
    "write outside": ("Y[m + 1] = X[m]", "write to Y outside it"),
    "written twice": ("Y[m // 2] = X[m]", "written twice"),
    "never written": ("Y[m*0] = X[m*0]", "never written"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults(case: str) -> None:
    line, message = FAULTS[case]
    kernel = parse_kernel(f"""
@kernel
def faulty(X: f32[M], I: i32[M], Y: out[f32[M]]):
    where(1 <= M <= 64)
    m: M
    {line}
""")
    x = {"X": np.ones(5, np.float32), "I": np.array([0, 1, 2, -1, 9], np.int32)}
    with pytest.raises(KernelFault, match=message):
        run_lowered(kernel, x)


def test_an_output_in_place_keeps_what_is_not_written_and_reads_the_old() -> None:
    kernel = parse_kernel("""
@kernel
def append(P: f32[8, D], X: f32[S, D], at: i64[()], C: out[f32[8, D], P]):
    where(1 <= S <= 2, 1 <= D <= 4)
    s: S
    d: D
    C[s + 3, d] = X[s, d] + P[s + 3, d]
""")
    past = np.arange(16, dtype=np.float32).reshape(8, 2)
    new = np.full((2, 2), 100, np.float32)
    expected = past.copy()
    expected[3:5] += 100
    result = run_lowered(kernel, {"P": past, "X": new, "at": np.array(3)})["C"]
    np.testing.assert_array_equal(result, expected)
    assert past[3, 0] == 6, "the caller's array must not change"


def test_inputs_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match="expected f32"):
        run_lowered(TRIALS["softmax"](), {"X": np.zeros((3, 4))})


@pytest.mark.parametrize("rows", [0, 1])
def test_empty_and_single_rows(rows: int) -> None:
    x = {"X": np.ones((rows, 6), np.float32)}
    assert run_lowered(TRIALS["softmax"](), x)["Y"].shape == (rows, 6)
