"""Comparing outputs with a reference, and making up inputs."""

import numpy as np
import pytest
from tilewright.accuracy import TOLERANCE, compare
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
