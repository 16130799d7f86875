"""Pipelines: as text, by name, in their places; what observers see."""

from __future__ import annotations

import re

import onnx_ir as ir
import pytest
import tilewright.passes.canonicalize
import tilewright.passes.fusion
import tilewright.passes.layout
from tilewright.errors import InternalError, UsageError
from tilewright.passes.base import Pass, PassResult
from tilewright.passes.canonicalize.fold_constants import FoldConstants
from tilewright.passes.match import Match, Mismatch, const, either, match, op, var
from tilewright.passes.pipeline import (
    default_pipeline,
    optional,
    parse_pipeline,
    print_pipeline,
    registry,
    run_pipeline,
)

from tests.passes.harness import graph, ops


@pytest.mark.parametrize("name", registry())
def test_names_of_pass_class_and_file_agree(name: str) -> None:
    found = registry()[name]
    words = re.findall("[A-Z][a-z]*", found.__name__.replace("MatMul", "Matmul"))
    assert "-".join(w.lower() for w in words) == name
    file = found.__module__.rsplit(".", 1)[1]
    assert name.replace("-", "_").removeprefix("fuse_") == file
    assert found.__doc__ and (__import__(found.__module__, fromlist=["x"]).__doc__ or "").startswith(f"``{name}``: ")


def test_every_pass_file_is_in_the_pipeline() -> None:
    packages = (tilewright.passes.canonicalize, tilewright.passes.fusion, tilewright.passes.layout)
    assert all(len(package.__path__) == 1 for package in packages)
    modules = {p.__module__.rsplit(".", 1)[1] for p in registry().values()}
    assert modules >= {"fold_constants", "attention", "assign_layouts"}
    assert {type(p) for p in [*default_pipeline(level=3), *optional()]} == set(registry().values())
    assert not {type(p) for p in default_pipeline(level=3)} & {type(p) for p in optional()}


def test_text_round_trip() -> None:
    text = "fold-constants{growth=0},fuse-attention,fold-constants"
    passes = parse_pipeline(text)
    assert passes[0] == FoldConstants(growth=0)
    assert print_pipeline(passes) == text
    assert print_pipeline(parse_pipeline(print_pipeline(default_pipeline(3)))) == print_pipeline(default_pipeline(3))


@pytest.mark.parametrize(
    ("text", "code", "piece"),
    [
        ("fuse-everything", "unknown-pass", "fuse-attention"),
        ("fold-constants{size=1}", "bad-pass-option", "growth"),
        ("fold-constants{growth=1", "bad-pass-option", "brace"),
        ("fold-constants{growth=x}", "bad-pass-option", "growth"),
        ("fuse-attention{heads=1}", "bad-pass-option", "none"),
    ],
)
def test_text_that_is_wrong(text: str, code: str, piece: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_pipeline(text)
    assert caught.value.code == code
    assert piece in str(caught.value)


_RELU = "g (float[B,4] x) => (float[B,4] y) { a = Identity(x) y = Relu(a) }"


def test_observers_see_each_pass_and_may_stop() -> None:
    seen: list[tuple[str, bool, str]] = []

    class Enough(Exception):
        pass

    def observe(name: str, state: ir.Model, result: PassResult, seconds: float) -> None:
        seen.append((name, result.modified, ops(state)))
        if name == "eliminate-identity":
            raise Enough

    with pytest.raises(Enough):
        run_pipeline(graph(_RELU), parse_pipeline("fold-constants,eliminate-identity,eliminate-dead-code"), observe)
    assert seen == [("fold-constants", False, "Identity Relu"), ("eliminate-identity", True, "Relu")]


def test_a_failing_pass_is_named() -> None:
    class Bad(Pass):
        name = "bad"

        def run(self, model: ir.Model) -> PassResult:
            raise InternalError("no")

    with pytest.raises(InternalError, match="pass 2, bad: no"):
        run_pipeline(graph(_RELU), [FoldConstants(), Bad()])


# -- patterns ------------------------------------------------------------------------------------------------------

_X, _Y = var("x"), var("y")
_PATTERN_GRAPH = (
    "g (float[B,4] a, float[B,4] b) => (float[B,4] y) <float two = {2}, float[4] w = {1,2,3,4}> "
    "{ e = Exp(a) m = Mul(two, e) s = Add(b, m) y = Div(s, w) }"
)


@pytest.mark.parametrize(
    ("pattern", "bound", "nodes"),
    [
        (op("Div", _X, const("w")), {"x": "s", "w": "w"}, 1),
        ((op("Exp", _X) * 2 + _Y) / const("w"), {"x": "a", "y": "b", "w": "w"}, 4),
        (op("Add", _X, _Y) / _X, None, 0),
        (either(op("Tanh", _X), op("Div", op("Add", _X, op("Mul", _Y, 3)), const("w"))), None, 0),
        (either(op("Tanh", _X), op("Div", op("Add", _X, op("Mul", _Y, 2), name="sum"), _Y)), None, 0),
    ],
)
def test_patterns(pattern: object, bound: dict[str, str] | None, nodes: int) -> None:
    model = graph(_PATTERN_GRAPH)
    found = match(pattern, model.graph.outputs[0])  # type: ignore[arg-type]
    if bound is None:
        assert isinstance(found, Mismatch) and found.reason
    else:
        assert isinstance(found, Match)
        assert {n: v.name for n, v in found.values.items()} == bound
        assert len(found.nodes) == nodes


def test_a_mismatch_tells_the_deepest_reason() -> None:
    model = graph(_PATTERN_GRAPH)
    found = match((op("Exp", _X) * 3 + _Y) / const("w"), model.graph.outputs[0])
    assert isinstance(found, Mismatch)
    assert found.reason == "two is not the constant 3"
