"""What every pass test does: build a typed graph from text, run, check that the state is valid and means the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import parser
from tilewright.accuracy import compare
from tilewright.frontend.onnx import import_model
from tilewright.ir.evaluate import evaluate
from tilewright.ir.graph import FUSED_DOMAIN, type_of
from tilewright.passes.base import Pass, PassResult
from tilewright.passes.fusion.outline import inline_fused
from tilewright.passes.pipeline import run_pipeline

Feeds = Mapping[str, NDArray[Any]]

#: Sizes of the named dimensions of test graphs; different, so that a mix-up shows.
SIZES = {"B": 2, "S": 5, "T": 7, "P": 6, "N": 3, "M": 4, "batch": 3, "sequence": 9}


def graph(text: str, opset: int = 23) -> ir.Model:
    """The imported graph of ONNX text (``g (float[B,4] x) => (float[B,4] y) {…}``)."""
    return import_model(parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}'))


def feeds_for(model: ir.Model, seed: int = 0, sizes: Mapping[str, int] = SIZES) -> Feeds:
    """Random inputs: floats of unit size, integers 0 or 1 (indices stay in range, masks have both)."""
    random = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:
            continue
        t = type_of(value)
        shape = [s.evaluate(sizes) for s in t.shape]
        array = random.standard_normal(shape) if t.dtype.is_float else random.integers(0, 2, shape)
        feeds[str(value.name)] = np.asarray(array, t.dtype.numpy)
    return feeds


def proto_of(model: ir.Model) -> onnx.ModelProto:
    """The state as ONNX, accepted by the checker."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    return proto


def assert_equal(got: Feeds, want: Feeds) -> None:
    """Outputs agree within the project's table of tolerances."""
    for name, reference in want.items():
        comparison = compare(name, got[name], reference)
        assert comparison.ok, comparison


def run(p: Pass, model: ir.Model, feeds: Feeds | None = None) -> PassResult:
    """Run ``p`` and check: valid, same numbers and signature, nothing left to do, same numbers when inlined."""
    signature = [(v.name, type_of(v)) for v in (*model.graph.inputs, *model.graph.outputs)]
    feeds = feeds or feeds_for(model)
    want = evaluate(proto_of(model), feeds)
    result = p.run(model)
    assert_equal(evaluate(proto_of(model), feeds), want)
    assert [(v.name, type_of(v)) for v in (*model.graph.inputs, *model.graph.outputs)] == signature
    assert not p.run(model).modified, f"{p.name} changes its own result"
    inlined = model.clone()
    inline_fused(inlined)
    assert not any(n.domain == FUSED_DOMAIN for n in inlined.graph)
    assert not any(f[0] == FUSED_DOMAIN for f in inlined.functions)
    assert_equal(evaluate(proto_of(inlined), feeds), want)
    return result


def check_each(model: ir.Model, passes: list[Pass], feeds: Feeds | None = None) -> None:
    """Run a pipeline; after each pass the state is valid and computes the same."""
    feeds = feeds or feeds_for(model)
    want = evaluate(proto_of(model), feeds)

    def observe(name: str, state: ir.Model, result: PassResult, seconds: float) -> None:
        assert seconds >= 0
        if result.modified:
            assert_equal(evaluate(proto_of(state), feeds), want)
        else:
            proto_of(state)

    run_pipeline(model, passes, observe)


def histogram(model: ir.Model) -> dict[str, int]:
    """Operators of the graph and how many of each."""
    return dict(sorted(Counter(n.op_type for n in model.graph).items()))


def ops(model: ir.Model) -> str:
    """Operators of the graph in order, ``Relu Add``."""
    return " ".join(n.op_type for n in model.graph)


def body(model: ir.Model, node: ir.Node) -> str:
    """Operators of a fused node's body in order, literals left out."""
    return " ".join(n.op_type for n in model.functions[node.op_identifier()] if n.op_type != "Constant")
