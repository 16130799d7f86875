"""``tw.compile(precision=…)``: what is honoured and what is refused, the report, the bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import tilewright as tw
from onnx import TensorProto, helper

from .chains import chain, rows

HERE = ("cpu:x86-64-v3",)
WIDTHS = (16, 32, 16)


def compiled(model: onnx.ModelProto, targets: tuple[str, ...] = HERE, **how: Any) -> Any:
    return tw.compile(model, targets, verify=False, **how)


def kinds(artifact: Any) -> list[tuple[str, str]]:
    return [(layer.name, layer.got) for g in artifact.report.requested.groups for layer in g.layers]


def scores() -> onnx.ModelProto:
    """A product of two inputs behind one with weights: nothing has integers for it."""
    proto = chain((16, 16))
    proto.graph.input.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, [16, 4]))
    proto.graph.node.append(helper.make_node("MatMul", ["y", "k"], ["z"], name="scores"))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4]))
    return proto


def samples() -> list[dict[str, np.ndarray]]:
    return [feed | {"k": np.ones((16, 4), np.float32)} for feed in rows(16)]


def test_nothing_is_quantized_without_being_asked() -> None:
    artifact = compiled(chain(WIDTHS))
    assert artifact.report.requested is None
    assert set(artifact.report.precision) == {"f32"}
    assert "precision" not in artifact.provenance
    with pytest.raises(tw.UsageError, match="not to what"):
        compiled(chain(WIDTHS), max_drop=0.1)


def test_what_was_asked_is_what_kernels_compute_in() -> None:
    artifact = compiled(chain(WIDTHS), precision="int8", calibration=rows(16))
    assert kinds(artifact) == [("layer0", "int8 × int8"), ("layer1", "int8 × int8")]
    assert sum(n for dtype, n in artifact.report.precision.items() if dtype in ("i8", "u8")) == 2
    (group,) = artifact.report.requested.groups
    assert group.cosine > 0.99
    assert group.judged == "2 samples held out of 8"


def test_what_was_not_honoured_is_an_error() -> None:
    with pytest.raises(tw.PrecisionError) as caught:
        compiled(scores(), precision="tf32")
    assert (caught.value.code, caught.value.exit_code) == ("precision-not-honoured", 10)
    assert any("scores" in problem for problem in caught.value.problems)
    artifact = compiled(scores(), precision="tf32", allow_precision=("f32",))
    assert dict(kinds(artifact))["scores"] == "f32"


def test_products_without_weights_are_told_and_need_no_exception() -> None:
    artifact = compiled(scores(), precision="int8", calibration=samples())
    found = {row.name: row for group in artifact.report.requested.groups for row in group.layers}
    assert found["scores"].got == "f32"
    assert found["scores"].why == "its weights are computed at run time"


@pytest.mark.parametrize("asked", ["fp16", "bf16", "fp8"])
def test_a_type_that_is_only_stored_is_not_what_was_asked(asked: str) -> None:
    with pytest.raises(tw.PrecisionError) as caught:
        compiled(chain((16, 16)), precision=asked, calibration=rows(16))
    assert caught.value.exit_code == 10
    artifact = compiled(chain((16, 16)), precision=asked, calibration=rows(16), allow_precision=("f32",))
    assert "stored" in kinds(artifact)[0][1] or "simulated" in kinds(artifact)[0][1]


def test_auto_is_never_not_honoured() -> None:
    artifact = compiled(scores(), precision="auto", calibration=samples(), max_drop=0.1)
    assert dict(kinds(artifact))["scores"] == "f32"


def test_data_decides_the_bytes_and_is_in_the_provenance() -> None:
    one, same, other = (
        compiled(chain(WIDTHS), precision="int8", calibration=rows(16, seed=seed)) for seed in (0, 0, 1)
    )
    assert one.to_bytes() == same.to_bytes() != other.to_bytes()
    told = one.provenance["precision"]
    assert told["asked"] == "int8"
    assert told["calibration"] == {"main": one.report.requested.calibration["main"][1]}
    assert told["random_calibration"] is False


def test_targets_that_absorb_the_same_share_a_graph() -> None:
    artifact = compiled(chain(WIDTHS), ("cpu",), precision="int8", calibration=rows(16))
    (group,) = artifact.report.requested.groups
    assert len(group.targets) == len(artifact.parts) > 1


def test_a_quantized_artifact_is_verified_by_a_bound() -> None:
    artifact = tw.compile(chain(WIDTHS), HERE, precision="int8", calibration=rows(16))
    (y,) = tw.load(artifact).run(None, rows(16, count=1, seed=5)[0])
    assert np.isfinite(y).all()
    with pytest.raises(tw.AccuracyError):
        tw.compile(chain(WIDTHS), HERE, precision="int8", calibration=rows(16), max_drop=1e-9)
