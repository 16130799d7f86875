"""Programs of exact sizes where a dimension cannot be padded, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tilewright as tw
from onnx import TensorProto, helper
from tilewright.backends.xla import rule as rules
from tilewright.backends.xla.rule import Padding

pytest.importorskip("jaxlib")


@pytest.fixture
def unmaskable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relu as an operator that nobody has thought through."""
    rules.load_rules()
    monkeypatch.setitem(rules._RULES, "Relu", replace(rules._RULES["Relu"], padding=Padding.NONE))


NODES = [
    helper.make_node("Add", ["x", "x"], ["a"], name="first"),
    helper.make_node("Relu", ["a"], ["b"], name="middle"),
    helper.make_node("Mul", ["b", "b"], ["y"], name="last"),
]
INPUTS = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "S"])]
MODEL = helper.make_model(
    helper.make_graph(NODES, "g", INPUTS, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", "S"])]),
    opset_imports=[helper.make_opsetid("", 20)],
    ir_version=10,
)


def compiled(shape: tuple[str, str], **settings: object) -> tuple[list[dict[str, int]], tuple[str, ...], tw.Session]:
    artifact = tw.compile(MODEL, ("xla:cpu",), input_shapes={"x": shape}, verify=False, **settings)  # type: ignore[arg-type]
    (target,) = artifact.report.targets
    return [dict(p.sizes) for p in target.programs], target.fallback, tw.load(artifact, device="xla-cpu")


def check(session: tw.Session, b: int, s: int) -> None:
    x = np.random.default_rng(0).standard_normal((b, s)).astype(np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], np.maximum(2 * x, 0) ** 2)


def test_every_size_where_these_are_few(unmaskable: None) -> None:
    sizes, fallback, session = compiled(("1..2", "3..6"))
    assert sizes == [{"B": b, "S": s} for b in (1, 2) for s in (3, 4, 5, 6)]
    assert not fallback
    check(session, 1, 3)
    check(session, 2, 5)


def test_the_host_part_where_they_are_many(unmaskable: None) -> None:
    _, fallback, session = compiled(("1..4", "1..64"))
    assert "Relu cannot work on a padded dimension (B, S)" in fallback[0]
    assert "--bucket B==16,32" in fallback[0]
    check(session, 3, 17)


def test_exact_sizes_that_are_asked_for(unmaskable: None) -> None:
    sizes, fallback, session = compiled(("1..4", "1..64"), buckets={"B": (1, 3), "S": (16, 17)}, exact=("B", "S"))
    assert sizes == [{"B": b, "S": s} for b in (1, 3) for s in (16, 17)]
    assert not fallback
    check(session, 3, 17)


def test_sizes_asked_for_to_be_padded_become_every_size(unmaskable: None) -> None:
    """What is asked is up to 3 and up to 4; every size of these is run."""
    sizes, fallback, session = compiled(("1..4", "1..64"), buckets={"B": (1, 3), "S": (4,)})
    assert sizes == [{"B": b, "S": s} for b in (1, 2, 3) for s in (1, 2, 3, 4)]
    assert not fallback
    check(session, 2, 3)
