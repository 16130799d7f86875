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
from onnx import parser
from tilewright.cli.main import main
from tilewright.diagnosis.alignment import align
from tilewright.errors import AccuracyError, UsageError
from tilewright.frontend.onnx import import_model

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)


def model(text: str, **weights: Array) -> onnx.ModelProto:
    """A model from ONNX text, with weights."""
    made = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')
    made.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items())
    onnx.checker.check_model(made, full_check=True)
    return made


W1, W2, W3 = (RNG.standard_normal((16, 16)).astype(np.float32) / 4 for _ in range(3))
FLOAT = model(
    """net (float[N,16] x) => (float[N,16] y) {
      a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) d = Add(c, b) y = MatMul(d, w3)
    }""",
    w1=W1, w2=W2, w3=W3,
)  # fmt: skip


def weights(*arrays: Array) -> dict[str, Array]:
    """Each matrix in i8 with one scale a column."""
    found = {}
    for i, w in enumerate(arrays, start=1):
        scale = np.abs(w).max(0) / np.float32(127)
        found |= {f"q{i}": np.rint(w / scale).astype(np.int8), f"s{i}": scale}
    return found


def quantized(c_range: float = 8.0, renamed: str = "") -> onnx.ModelProto:
    """The model in QDQ form. The range of ``c`` is given; other ranges are good. Names get ``renamed`` after them."""
    n = renamed
    scales = {"sa": 4.0 / 255, "sc": 2 * c_range / 255, "sd": 16.0 / 255, "sx": 8.0 / 255}
    parameters = {k: np.float32(v) for k, v in scales.items()}
    zeros = {"zero": np.uint8(0), "mid": np.uint8(128)}
    return model(
        f"""net (float[N,16] x) => (float[N,16] y) {{
          xi = QuantizeLinear(x, sx, mid) xf = DequantizeLinear(xi, sx, mid)
          f1 = DequantizeLinear<axis=1>(q1, s1) f2 = DequantizeLinear<axis=1>(q2, s2)
          f3 = DequantizeLinear<axis=1>(q3, s3)
          b{n} = MatMul(xf, f1)
          bi = QuantizeLinear(b{n}, sa, zero) bf = DequantizeLinear(bi, sa, zero) bg = DequantizeLinear(bi, sa, zero)
          c{n} = MatMul(bf, f2)
          ci = QuantizeLinear(c{n}, sc, mid) cf = DequantizeLinear(ci, sc, mid)
          d{n} = Add(cf, bg)
          di = QuantizeLinear(d{n}, sd, mid) df = DequantizeLinear(di, sd, mid)
          y = MatMul(df, f3)
        }}""",
        **weights(W1, W2, W3), **parameters, **zeros,
    )  # fmt: skip


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
