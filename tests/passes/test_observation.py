"""Watching a pipeline: a pass that changes numbers is named, with the tensor; dumps are models; misses are told."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from tilewright.errors import InternalError
from tilewright.frontend.onnx import import_model
from tilewright.observe import Observer
from tilewright.options import Observation
from tilewright.passes.base import Miss
from tilewright.passes.canonicalize.eliminate_identity import EliminateIdentity
from tilewright.passes.fusion.elementwise import FuseElementwise
from tilewright.passes.fusion.matmul_epilogue import FuseMatMulEpilogue
from tilewright.passes.pipeline import default_pipeline, run_pipeline
from tilewright.passes.rewrite import RewritePass, Rewriter

from models.minilm import build_small
from tests.passes.harness import graph


class _Wrong(RewritePass):
    """Takes Tanh for Sigmoid."""

    name = "wrong"
    operators = frozenset(["Tanh"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        rewriter.replace(node.outputs[0], rewriter.new("Sigmoid", list(node.inputs), before=node))
        return True


_TEXT = (
    "g (float[B,4] x, float[4,4] w) => (float[B,4] y) { p = MatMul(x, w) q = Relu(p) i = Identity(q) t = Tanh(i) "
    "s = Softmax(t) e = Exp(s) y = Neg(e) }"
)


def test_the_first_pass_that_changes_numbers_is_named() -> None:
    model = graph(_TEXT)
    observer = Observer(Observation(verify_each=True), lambda line: None)
    observer.start(model)
    passes = [EliminateIdentity(), _Wrong(), FuseMatMulEpilogue(), FuseElementwise()]
    with pytest.raises(InternalError, match=r"pass wrong changes numbers: \w+ is off by"):
        run_pipeline(model, passes, observer)
    assert not any(n.domain for n in model.graph)


def test_a_fused_model_verifies_at_each_pass(tmp_path: Path) -> None:
    """Several overloads of one operator, GELU in a body: the evaluator must know both."""
    model = import_model(build_small(tmp_path))
    observer = Observer(Observation(verify_each=True), lambda line: None)
    observer.start(model)
    assert run_pipeline(model, default_pipeline(level=3), observer)
    observer.finish()


def test_dumps_are_numbered_models_and_misses_are_told(tmp_path: Path) -> None:
    lines: list[str] = []
    model = graph(_TEXT)
    observer = Observer(Observation(dump_ir=str(tmp_path / "dump"), explain=("fuse-matmul-epilogue",)), lines.append)
    observer.start(model)
    run_pipeline(model, [EliminateIdentity(), EliminateIdentity(), FuseMatMulEpilogue()], observer)
    dumps = sorted((tmp_path / "dump").glob("*.onnx"))
    assert [d.name for d in dumps] == ["00-import.onnx", "01-eliminate-identity.onnx", "02-fuse-matmul-epilogue.onnx"]
    for dump in dumps:
        onnx.checker.check_model(str(dump), full_check=True)
    assert "  fuse-matmul-epilogue: Softmax → s: it cannot follow MatMul p" in lines
