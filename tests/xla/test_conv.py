"""Convolutions against the reference, with padding around the images."""

from __future__ import annotations

import pytest

pytest.importorskip("jaxlib")

from tests.xla.reference import agree, normal
from tests.xla.run import OnHost

CONVS = [
    ("2,3,8,8", "4,3,3,3", "pads=[1,1,1,1]"),
    ("2,4,9,8", "4,2,3,2", 'group=2,strides=[2,2],auto_pad="SAME_UPPER"'),
    ("2,4,9,8", "4,2,3,2", 'group=2,strides=[2,2],auto_pad="SAME_LOWER"'),
    ("2,4,9,8", "4,2,3,2", 'strides=[3,2],group=2,auto_pad="VALID"'),
    ("2,4,9", "4,2,3", "group=2,dilations=[2],pads=[0,2]"),
    ("2,4,9", "4,1,3", "group=4"),
    ("1,2,5,6,7", "4,2,3,2,2", "strides=[1,2,1]"),
]
TRANSPOSED = [
    "strides=[2,2]",
    "strides=[2,3],pads=[1,0,0,1],output_padding=[1,1]",
    "dilations=[2,1]",
    'strides=[2,2],auto_pad="SAME_UPPER"',
    'strides=[2,2],auto_pad="SAME_LOWER"',
]
OPEN = {"x": ("N=1..4", 3, "H=4..9", "W=4..10")}
FILLED = {"N": (4,), "H": (9,), "W": (10,)}


def sizes(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


@pytest.mark.parametrize("x, w, attributes", CONVS)
def test_conv(x: str, w: str, attributes: str) -> None:
    filters, unknown = sizes(w)[0], ",".join("?" * len(sizes(x)))
    program = agree(
        f"g (float[{x}] x, float[{w}] w, float[{filters}] b) => (float[{unknown}] z) "
        f"{{ z = Conv<{attributes}>(x, w, b) }}",
        {"x": normal(*sizes(x)), "w": normal(*sizes(w)), "b": normal(filters)},
    )
    assert "transpose" not in program.text


@pytest.mark.parametrize("attributes", ["pads=[1,1,1,1]", "pads=[1,1,1,1],strides=[2,2]", 'auto_pad="SAME_LOWER"'])
def test_padded_images(attributes: str) -> None:
    agree(
        f"g (float[N,3,H,W] x, float[4,3,3,2] w) => (float[?,?,?,?] z) {{ z = Conv<{attributes}>(x, w) }}",
        {"x": normal(2, 3, 6, 5), "w": normal(4, 3, 3, 2)},
        OPEN,
        FILLED,
    )


def test_padding_in_front_that_hangs_on_the_size_is_refused() -> None:
    with pytest.raises(OnHost, match="pads in front by the size H"):
        agree(
            'g (float[N,3,H,W] x, float[4,3,3,3] w) => (float[?,?,?,?] z) '
            '{ z = Conv<auto_pad="SAME_UPPER",strides=[2,2]>(x, w) }',
            {"x": normal(2, 3, 6, 5), "w": normal(4, 3, 3, 3)},
            OPEN,
            FILLED,
        )  # fmt: skip


@pytest.mark.parametrize("attributes", TRANSPOSED)
def test_conv_transpose(attributes: str) -> None:
    agree(
        f"g (float[1,4,5,6] x, float[4,2,3,3] w) => (float[?,?,?,?] z) {{ z = ConvTranspose<{attributes}>(x, w) }}",
        {"x": normal(1, 4, 5, 6), "w": normal(4, 2, 3, 3)},
    )


def test_conv_transpose_in_groups() -> None:
    """onnx.reference has only groups of one filter right."""
    agree(
        "g (float[1,4,5,6] x, float[4,1,3,3] w) => (float[?,?,?,?] z) { z = ConvTranspose<group=4>(x, w) }",
        {"x": normal(1, 4, 5, 6), "w": normal(4, 1, 3, 3)},
    )


def test_conv_transpose_of_padded_images() -> None:
    agree(
        "g (float[N,3,H,W] x, float[3,2,3,2] w) => (float[?,?,?,?] z) "
        "{ z = ConvTranspose<strides=[2,2],pads=[1,0,0,1]>(x, w) }",
        {"x": normal(2, 3, 6, 5), "w": normal(3, 2, 3, 2)},
        OPEN,
        FILLED,
    )
