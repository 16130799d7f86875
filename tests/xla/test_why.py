"""A node that is refused since a run alone tells a size says which input determines it, and what fixes it."""

from __future__ import annotations

import numpy as np
import pytest
import tilewright as tw

from tests.xla.reference import model_of
from tests.xla.run import OnHost, compiled

pytest.importorskip("jaxlib")

RESHAPE = "g (float[2,6] x, int64[2] shape) => (float[M,N] y) { y = Reshape(x, shape) }"
COMPUTED = """g (float[N] x, int64 n, int64 m) => (float[M] y) <int64[1] zero = {0}>
    { k = Mul(n, m) s = Unsqueeze(k, zero) y = Tile(x, s) }"""
DATA = "g (float[8] x) => (int64[M,N] y) { y = NonZero(x) }"
OPERAND = "g (float[2,6] x, int64[1] axes) => (float[A,B] y) { y = ReduceSum<keepdims=1>(x, axes) }"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (RESHAPE, "which input 'shape' determines: fix it with --constant shape=…"),
        (COMPUTED, "which inputs 'm', 'n' determine: fix it with --constant m=… --constant n=…"),
        (OPERAND, "--constant axes=…"),
    ],
)
def test_the_input_and_the_option_are_named(text: str, told: str) -> None:
    with pytest.raises(OnHost) as caught:
        compiled(text, {"x": ("N=1..8",)} if "float[N] x" in text else None)
    assert told in str(caught.value)


def test_of_data_nothing_is_said() -> None:
    with pytest.raises(OnHost) as caught:
        compiled(DATA)
    assert "--constant" not in str(caught.value)


def test_what_is_said_helps() -> None:
    artifact = tw.compile(model_of(RESHAPE), ("xla:cpu",), constants={"shape": [3, -1]})  # and verified
    (target,) = artifact.report.targets
    assert not target.fallback
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_array_equal(tw.load(artifact, device="xla-cpu").run(None, {"x": x})[0], x.reshape(3, 4))
