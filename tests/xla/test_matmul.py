"""Products: against the reference, and that nothing is transposed or repeated for them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jaxlib")

from tests.xla.reference import agree, normal
from tests.xla.run import Array

MATMULS = [
    ("3,4", "4,5", "3,5"),
    ("2,3,4", "4,5", "2,3,5"),
    ("3,4", "2,4,5", "2,3,5"),
    ("2,1,3,4", "1,6,4,5", "2,6,3,5"),
    ("4", "4", ""),
    ("4", "2,4,5", "2,5"),
    ("2,3,4", "4", "2,3"),
    ("1,8,1", "5,1,1", "5,8,1"),
    ("2,2,2,1,16", "2,2,1,16,7", "2,2,2,1,7"),
    ("1,4", "4,1", "1,1"),
    ("2,3,4", "2,4,5", "2,3,5"),
    ("2,0,4", "4,5", "2,0,5"),
    ("3,0", "0,5", "3,5"),
]


def sized(text: str) -> Array:
    """Random numbers of a shape in text."""
    return normal(*(int(n) for n in text.split(",") if n))


@pytest.mark.parametrize("x, y, z", MATMULS)
def test_ranks_and_repetition(x: str, y: str, z: str) -> None:
    program = agree(
        f"g (float[{x}] x, float[{y}] y) => (float[{z}] z) {{ z = MatMul(x, y) }}", {"x": sized(x), "y": sized(y)}
    )
    assert "broadcast_in_dim" not in program.text


def test_all_dimensions_padded() -> None:
    agree(
        "g (float[B,S,K] x, float[K,N] y) => (float[B,S,N] z) { z = MatMul(x, y) }",
        {"x": normal(2, 3, 4), "y": normal(4, 5)},
        {"x": ("B=1..4", "S=1..8", "K=1..8"), "y": ("K", "N=1..9")},
        {"B": (4,), "S": (8,), "K": (8,), "N": (9,)},
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats(dtype: type) -> None:
    spelled = {np.float16: "float16", np.float64: "double"}[dtype]
    x, y = normal(3, 64).astype(dtype), normal(64, 5).astype(dtype)
    program = agree(f"g ({spelled}[3,64] x, {spelled}[64,5] y) => ({spelled}[3,5] z) {{ z = MatMul(x, y) }}",
                    {"x": x, "y": y}, want=[(x.astype(np.float64) @ y.astype(np.float64)).astype(dtype)])  # fmt: skip
    assert ("-> tensor<3x5xf32>" in program.text) == (dtype is np.float16)


def test_f32_is_of_the_highest_precision() -> None:
    program = agree("g (float[2,3] x, float[3,4] y) => (float[2,4] z) { z = MatMul(x, y) }",
                    {"x": normal(2, 3), "y": normal(3, 4)})  # fmt: skip
    assert "precision = [HIGHEST, HIGHEST]" in program.text


@pytest.mark.parametrize("zero", ["", "int8[4]"])
def test_matmul_integer(zero: str) -> None:
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.integers(0, 256, (3, 8)).astype(np.uint8),
        "y": rng.integers(-128, 128, (8, 4)).astype(np.int8),
        "a": np.array(100, np.uint8),
    }
    more, inputs = ("", "") if not zero else (", b", f", {zero} b")
    if zero:
        feeds["b"] = np.array([0, 1, -7, 9], np.int8)
    centred = feeds["y"].astype(np.int32) - feeds.get("b", np.zeros(4, np.int8)).astype(np.int32)
    want = (feeds["x"].astype(np.int32) - 100) @ centred
    agree(
        f"g (uint8[3,8] x, int8[8,4] y, uint8 a{inputs}) => (int32[3,4] z) {{ z = MatMulInteger(x, y, a{more}) }}",
        feeds,
        want=[want],
    )
