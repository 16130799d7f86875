"""Comparing outputs with a reference, and making up inputs."""

import numpy as np
import pytest
from tilewright.accuracy import TOLERANCE, Agreement, compare
from tilewright.errors import UsageError
from tilewright.sample import Input, bind, make_inputs, numpy_dtype, symbols_of

WANT = np.array([[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]], np.float32)


@pytest.mark.parametrize(
    ("got", "ok"),
    [
        (WANT, True),
        (WANT * np.float32(1 + 0.9 * TOLERANCE["f32"]), True),
        (WANT * np.float32(1 + 1.5 * TOLERANCE["f32"]), False),
        (WANT[:1], False),
        (WANT.astype(np.float64), False),
        (np.where(WANT == 3, np.nan, WANT).astype(np.float32), False),
    ],
    ids=["equal", "within", "beyond", "shape", "dtype", "nan"],
)
def test_tolerance(got: np.ndarray, ok: bool) -> None:
    assert compare("y", got, WANT).ok is ok


def test_numbers_of_a_comparison() -> None:
    got = WANT.copy()
    got[0, 0] = 4.0
    found = compare("y", got, WANT)
    assert found.max_error == 3.0
    assert found.relative == pytest.approx(0.5)
    assert found.top1 == 0.5
    assert found.cosine == pytest.approx((got * WANT).sum() / np.linalg.norm(got) / np.linalg.norm(WANT))


def test_infinities_at_the_same_place_agree() -> None:
    same = np.array([1.0, np.inf, -np.inf, np.nan], np.float32)
    assert compare("y", same, same).ok
    assert not compare("y", np.array([1.0, -np.inf, -np.inf, np.nan], np.float32), same).ok


def test_integers_are_exact() -> None:
    assert compare("y", np.arange(4), np.arange(4)).ok
    assert not compare("y", np.arange(4) + (np.arange(4) == 2), np.arange(4)).ok


INPUTS = (
    Input("x", np.dtype(np.float32), ("N", 3, "S")),
    Input("past", np.dtype(np.int64), ("N", "S + P")),
    Input("p", np.dtype(np.bool_), ("P",)),
)


def test_sizes_bind_across_inputs() -> None:
    assert symbols_of(INPUTS) == ["N", "S", "P"]
    sizes = bind(INPUTS, {"x": (2, 3, 5)})
    assert sizes == {"N": 2, "S": 5}
    made = make_inputs(INPUTS, sizes | {"P": 4})
    assert {n: (a.shape, a.dtype) for n, a in made.items()} == {
        "x": ((2, 3, 5), np.float32),
        "past": ((2, 9), np.int64),
        "p": ((4,), np.bool_),
    }
    again = make_inputs(INPUTS, sizes | {"P": 4})
    assert all(np.array_equal(made[n], again[n]) for n in made)
    assert set(np.unique(made["past"])) <= {0, 1}


@pytest.mark.parametrize(
    ("shapes", "code"),
    [
        ({"z": (1,)}, "input-shape-name"),
        ({"x": (1, 3)}, "input-shape-rank"),
        ({"x": (1, 4, 2)}, "input-shape-conflict"),
        ({"x": (1, 3, 2), "past": (2, 2)}, "input-shape-conflict"),
    ],
)
def test_sizes_that_do_not_fit(shapes: dict[str, tuple[int, ...]], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        bind(INPUTS, shapes)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "name"), [("f32", "float32"), ("i64", "int64"), ("u8", "uint8"), ("bool", "bool"), ("bf16", "bfloat16")]
)
def test_spellings_of_types(text: str, name: str) -> None:
    assert numpy_dtype(text).name == name


def test_signal_to_noise_and_top_k() -> None:
    want = np.eye(8, dtype=np.float32) * 10
    got = want.copy()
    got[0, 1:5] = 20.0  # the right one comes fifth in row 0
    got[1, :6] = [20, 10, 20, 20, 20, 20]  # and sixth in row 1
    found = compare("y", got, want)
    noise = float(((got - want).astype(np.float64) ** 2).sum())
    assert found.snr == pytest.approx(10 * np.log10(800 / noise))
    assert (found.top1, found.top5) == (6 / 8, 7 / 8)


def test_equal_elements_count_from_the_first() -> None:
    want = np.array([[0, 0, 0, 0, 0, 0, 1]], np.float32)
    assert compare("y", np.zeros_like(want), want).top5 == 0.0
    assert compare("y", np.zeros_like(want), want[:, ::-1]).top5 == 1.0


def test_few_columns_have_no_top_5() -> None:
    assert compare("y", WANT, WANT).top5 is None
    assert compare("y", WANT[:, :1], WANT[:, :1]).top1 is None


@pytest.mark.parametrize(
    ("got", "want", "snr", "cosine"),
    [
        (WANT, WANT, np.inf, 1.0),
        (0 * WANT, 0 * WANT, np.inf, 1.0),
        (0 * WANT, WANT, 0.0, 0.0),
        (WANT, 0 * WANT, -np.inf, 0.0),
        (-WANT, WANT, 10 * np.log10(1 / 4), -1.0),
    ],
    ids=["equal", "zeros", "lost", "from-nothing", "opposite"],
)
def test_ratios_at_the_ends(got: np.ndarray, want: np.ndarray, snr: float, cosine: float) -> None:
    found = compare("y", got, want)
    assert found.snr == pytest.approx(snr)
    assert found.cosine == pytest.approx(cosine)


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
def test_sizes_whose_squares_leave_float64(size: float) -> None:
    want = WANT.astype(np.float64) * size
    found = compare("y", want * 1.01, want)
    assert found.cosine == pytest.approx(1.0)
    assert found.snr == pytest.approx(40.0)


def test_opposite_huge_values_are_infinitely_far_apart() -> None:
    huge = np.full(3, 1.7e308)
    found = compare("y", -huge, huge)
    assert (found.max_error, found.ok) == (np.inf, False)


def test_samples_are_streamed() -> None:
    random = np.random.default_rng(0)
    want = random.standard_normal((6, 4, 9)).astype(np.float32)
    got = want + random.standard_normal(want.shape).astype(np.float32) / 10
    whole, parts = compare("y", got, want), Agreement("y")
    for a, b in zip(got, want, strict=True):
        parts.add(a, b)
    found = parts.result
    assert (found.top1, found.top5, found.max_error) == (whole.top1, whole.top5, whole.max_error)
    assert (found.snr, found.cosine) == (pytest.approx(whole.snr), pytest.approx(whole.cosine))
    parts.add(got[0, :1], want[0])
    parts.add(got[0], want[0])
    assert "beside" in parts.result.problem


def test_a_bound_on_the_cosine_decides_alone() -> None:
    got = WANT + np.float32(0.5)
    cosine = compare("y", got, WANT).cosine
    assert not compare("y", got, WANT).ok
    assert compare("y", got, WANT, minimum=cosine).ok
    assert compare("y", got, WANT, 0.0, cosine - 0.001).ok
    assert not compare("y", got, WANT, 1.0, cosine + 0.001).ok
    assert not compare("y", np.float32(np.nan) * WANT, WANT, minimum=-1.0).ok
