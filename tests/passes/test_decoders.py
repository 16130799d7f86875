"""Decoders as transformers exports them end as one graph, from whatever opset, and compute what they did."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tilewright.frontend.onnx import import_model
from tilewright.ir.evaluate import evaluate
from tilewright.ops.infer import verify_types
from tilewright.passes.pipeline import canonicalization, run_pipeline

from tests.passes.exported import MODELS, OPSETS, exported
from tests.passes.harness import Feeds, assert_equal, check_each, graph, histogram, proto_of
from tests.passes.structure import same_structure

LEAST = float(np.finfo(np.float32).min)
#: One layer of Llama with a cache: what remains of up to 127 nodes. A change here needs its reason.
LLAMA = {
    "Add": 5, "And": 1, "Cast": 2, "Concat": 3, "Cos": 1, "Expand": 2, "Gather": 1, "IsNaN": 1, "LessOrEqual": 1,
    "MatMul": 10, "Mul": 3, "RMSNormalization": 3, "Range": 2, "Reshape": 5, "RotaryEmbedding": 2, "Shape": 3, "Sin": 1,
    "Slice": 1, "Softmax": 1, "Squeeze": 3, "Swish": 1, "Transpose": 5, "Unsqueeze": 7, "Where": 2,
}  # fmt: skip


def feeds_of(model: ir.Model, sizes: dict[str, int], hidden: int = 0) -> Feeds:
    """Random tokens and past; the first ``hidden`` tokens of the first row are padding."""
    random = np.random.default_rng(0)
    shapes = {
        v.name: [sizes[str(d.value)] if isinstance(d, ir.SymbolicDim) else d for d in v.shape or ()]
        for v in model.graph.inputs
    }
    feeds = {str(n): random.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    feeds["ids"] = random.integers(0, 41, shapes["ids"])
    feeds["mask"] = np.ones(shapes["mask"], np.int64)
    feeds["mask"][0, :hidden] = 0
    return feeds


@pytest.mark.parametrize(("family", "past"), MODELS)
def test_one_graph_from_every_opset(family: str, past: bool) -> None:
    """Up to one number: what hides a score is the least float at opset 20 and -∞ later, which differ where a row is
    hidden throughout (all alike there, 0 here), so that it cannot be made the same.
    """
    models = []
    for opset in OPSETS:
        model = import_model(exported(family, past, opset))
        sizes = {"B": 2, "S": 4, "P": 3, "M": 7}
        feeds = feeds_of(model, sizes, hidden=2)
        if family == "llama" and past:
            check_each(model, canonicalization(), feeds)
        else:
            want = evaluate(proto_of(model), feeds)
            run_pipeline(model, canonicalization())
            assert_equal(evaluate(proto_of(model), feeds), want)
        verify_types(model)
        models.append(model)
    for model in models[1:]:
        assert same_structure(models[0], model, same_constants={LEAST: -np.inf}) == []
    assert same_structure(models[1], models[2]) == []
    assert same_structure(models[0], models[1])  # the comparison sees that one number
    if family == "llama" and past:
        assert histogram(models[0]) == LLAMA


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
def test_a_decoder_with_cache_through_the_artifact(opset: int) -> None:
    """Numbers against ONNX Runtime, for another batch and other lengths each time."""
    runtime = pytest.importorskip("onnxruntime")
    import tilewright as tw

    proto = exported("llama", True, opset)
    session = tw.load(tw.compile(proto, targets=("cpu:native",), verify=False))
    reference = runtime.InferenceSession(proto.SerializeToString())
    model = ir.from_proto(proto)
    # ONNX Runtime refuses what the exporter makes of rotary embedding at opset 23, tables for one row of the batch.
    for batch, new, old in ((1, 5, 2), (1 if opset == 23 else 3, 1, 6)):
        feeds = feeds_of(model, {"B": batch, "S": new, "P": old, "M": new + old})
        for got, want in zip(session.run(None, feeds), reference.run(None, feeds), strict=True):
            assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.slow
def test_a_fresh_export_ends_the_same() -> None:
    pytest.importorskip("transformers")
    from tests.passes.decoders import decoder

    models = [import_model(decoder("llama", True, 23)), import_model(exported("llama", True, 20))]
    for model in models:
        run_pipeline(model, canonicalization())
    assert same_structure(*models, same_constants={LEAST: -np.inf}) == []


_PAIR = "g (float[B,4] x, float[B,4] z) => (float[B,4] y) <float[4] w = {{1,2,3,{last}}}> {{ {body} }}"


@pytest.mark.parametrize(
    ("body", "last", "same"),
    [
        ("b = Mul(w, x) a = Exp(z) y = Sub(b, a)", 4, True),  # other names, another order, operands swapped
        ("a = Mul(x, w) b = Exp(z) y = Sub(b, a)", 4, False),
        ("a = Mul(x, w) b = Exp(z) y = Sub(a, b)", 5, False),
        ("a = Mul(x, w) b = Exp(x) y = Sub(a, b)", 4, False),
    ],
)
def test_the_comparison(body: str, last: int, same: bool) -> None:
    first = graph(_PAIR.format(last=4, body="p = Mul(x, w) q = Exp(z) y = Sub(p, q)"))
    assert (same_structure(first, graph(_PAIR.format(last=last, body=body))) == []) is same
