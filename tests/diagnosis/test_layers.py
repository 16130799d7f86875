"""A quantized model beside its float model: values are matched, and the layer that loses is the one that is named."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tilewright as tw
from click.testing import CliRunner
from tilewright.cli.main import main
from tilewright.diagnosis.alignment import align
from tilewright.errors import AccuracyError, UsageError
from tilewright.frontend.onnx import import_model

from tests.diagnosis.networks import FLOAT, RNG, W1, W2, W3, model, quantized

Array = np.ndarray[Any, Any]


def feeds(*rows: int) -> list[dict[str, Array]]:
    return [{"x": RNG.standard_normal((n, 16)).astype(np.float32)} for n in rows]


def test_a_good_model_loses_a_little_everywhere() -> None:
    found = tw.compare_layers(quantized(), FLOAT, feeds=feeds(3, 5), min_accuracy=0.99)
    assert [x.name for x in found.losing] == ["b", "c", "d", "y"]  # the Relu is in the range of b: no layer of its own
    assert all(25 < x.alone.snr < 60 for x in found.layers), found
    assert (found.samples, found.source, found.unmatched) == (2, "given", ("a",))
    assert found.layers[-1].accumulated.snr < found.layers[-1].alone.snr
    found.require("q.onnx")


def test_the_layer_with_a_bad_range_is_the_worst() -> None:
    found = tw.compare_layers(quantized(c_range=0.2), FLOAT, feeds=feeds(7), min_accuracy=0.999)
    assert found.worst(1)[0].name == "c"
    others = [x for x in found.layers if x.name != "c"]
    assert all(x.alone.snr > 25 for x in others), "each is fed with what the reference computes"
    assert all(x.accumulated.snr < 25 for x in found.layers if x.name in "cdy")
    with pytest.raises(AccuracyError, match=r"(?s)y has cosine .* lose most \(c, "):
        found.require("q.onnx")


def test_the_same_model_loses_nothing() -> None:
    found = tw.compare_layers(FLOAT, FLOAT)
    assert not found.losing and not found.worst()
    assert all(x.alone.snr == math.inf and x.alone.cosine == 1 for x in found.layers)
    assert (len(found.layers), found.source) == (5, "made up")


def test_renamed_values_are_found_by_structure() -> None:
    matched = align(import_model(FLOAT), import_model(quantized(renamed="_other")))
    # Of three products with constants, each is told by what it reads; the Relu that is not there ends the way.
    assert matched["y"] == "y"
    assert matched["a"] == "b_other"


def test_parallel_products_go_by_name_and_by_order() -> None:
    three = "q = MatMul(x, w1) k = MatMul(x, w2) v = MatMul(x, w3) s = Add(q, k) y = Add(s, v)"
    renamed = "q0 = MatMul(x, w1) k0 = MatMul(x, w2) v0 = MatMul(x, w3) s = Add(q0, k0) y = Add(s, v0)"
    two = "q = MatMul(x, w1) k9 = MatMul(x, w2) s = Add(q, k9) y = Add(s, x)"
    signature = "net (float[N,16] x) => (float[N,16] y)"
    first, *others = (import_model(model(f"{signature} {{ {t} }}", w1=W1, w2=W2, w3=W3)) for t in (three, renamed, two))
    by_order, too_few = (align(first, other) for other in others)
    assert by_order == {"q": "q0", "k": "k0", "v": "v0", "s": "s", "y": "y"}
    assert too_few == {"q": "q", "s": "s", "y": "y"}, "one of two may be k as well as v: left alone"


def test_half_precision_is_compared_with_single() -> None:
    half = model(
        """net (float[N,16] x) => (float[N,16] y) {
          h = Cast<to=10>(x) a = MatMul(h, w1) b = Relu(a) c = MatMul(b, w2) d = Add(c, b) e = MatMul(d, w3)
          y = Cast<to=1>(e)
        }""",
        w1=W1.astype(np.float16), w2=W2.astype(np.float16), w3=W3.astype(np.float16),
    )  # fmt: skip
    found = tw.compare_layers(half, FLOAT, feeds=feeds(2))
    assert [x.name for x in found.layers] == ["a", "b", "c", "d", "y"]
    assert all(50 < x.accumulated.snr < 90 for x in found.layers if x.alone.snr < math.inf), found


@pytest.mark.parametrize(
    ("reference", "given", "code"),
    [
        (model("net (float[N,16] z) => (float[N,16] y) { y = Relu(z) }"), None, "reference-inputs"),
        (model("net (float[N,16] x) => (float[N,16] z) { z = Relu(x) }"), None, "outputs-differ"),
        (model("net (float[N] x) => (float[N] y) { y = Relu(x) }"), None, "layers-unmatched"),
        (FLOAT, [], "no-samples"),
        (FLOAT, [{"z": np.ones((1, 16), np.float32)}], "data-names"),
        (FLOAT, [{"x": np.ones((1, 16))}], "data-type"),
        (FLOAT, [{"x": np.ones((1, 2, 16), np.float32)}], "input-shape-rank"),
        (FLOAT, [{"x": np.ones((1, 3), np.float32)}], "input-shape-conflict"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_cannot_be_compared(reference: onnx.ModelProto, given: Sequence[Any] | None, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        tw.compare_layers(quantized(), reference, feeds=given)
    assert caught.value.code == code


def test_command(tmp_path: Path) -> None:
    onnx.save(FLOAT, tmp_path / "f.onnx")
    onnx.save(quantized(c_range=0.2), tmp_path / "q.onnx")
    np.savez(tmp_path / "d.npz", **feeds(4)[0])
    arguments = [
        "verify",
        f"{tmp_path}/q.onnx",
        "--ref",
        f"{tmp_path}/f.onnx",
        "--layers",
        "--data",
        f"{tmp_path}/d.npz",
    ]
    told = CliRunner().invoke(main, arguments)
    assert told.exit_code == 0, told.output
    assert "worst      c (MatMul)" in told.output and "PASS" not in told.output
    judged = CliRunner().invoke(main, [*arguments, "--min-accuracy", "0.999", "--json", f"{tmp_path}/j.json"])
    assert judged.exit_code == 5 and "FAILED" in judged.output
    assert json.loads((tmp_path / "j.json").read_text())["layers"]["source"] == "given"
