"""Values of graph states, computed by compiled code: numbers of the reference evaluator, one compilation for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from tilewright import driver
from tilewright.errors import UsageError
from tilewright.frontend.onnx import import_model
from tilewright.ir.evaluate import evaluate
from tilewright.passes.pipeline import canonicalization, run_pipeline
from tilewright.runner import KEPT, GraphRunner

from models.zoo import small

#: Of the largest value: sums of a few hundred f32 products, through two layers.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> ir.Model:
    """A small BERT after canonicalization, batch and length open."""
    path: Path = small()["bert-base"].build(tmp_path_factory.mktemp("runner"))
    model = import_model(path)
    run_pipeline(model, canonicalization())
    return model


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The outputs of every graph that is compiled."""
    seen: list[str] = []
    compile_ = driver.compile

    def counting(model: Any, **options: Any) -> Any:
        seen.append(",".join(str(v.name) for v in model.graph.outputs))
        return compile_(model, **options)

    monkeypatch.setattr(driver, "compile", counting)
    yield seen


def test_every_value(state: ir.Model, compilations: list[str]) -> None:
    """Inputs, constants, intermediate values and outputs; two sizes; one compilation; the graph stays as it was."""
    before = ir.to_proto(state).SerializeToString()
    names = [str(v.name) for n in state.graph for v in n.outputs] + [str(v.name) for v in state.graph.inputs]
    names.append(next(iter(state.graph.initializers)))
    feeds = [small()["bert-base"].feed(*size) for size in ((1, 5), (3, 17))]
    for found, feed in zip(GraphRunner()(state, feeds, names), feeds, strict=True):
        assert list(found) == names
        want = evaluate(state, feed, every=True)
        for name in names:
            assert found[name].shape == want[name].shape and found[name].dtype == want[name].dtype, name
            np.testing.assert_allclose(
                found[name], want[name], rtol=0, atol=TOLERANCE * max(1, np.abs(want[name]).max()), err_msg=name
            )
    assert len(compilations) == 1
    assert ir.to_proto(state).SerializeToString() == before


def test_what_was_compiled_is_kept(state: ir.Model, compilations: list[str]) -> None:
    """A changed graph is compiled again, an equal one is not, and only so many are kept."""
    runner, feed = GraphRunner(level=1), small()["bert-base"].feed(1, 5)
    chosen = [n.outputs[0] for n in state.graph if n.op_type == "MatMul"]
    name = str(chosen[0].name)
    (first,), (second,) = runner(state, [feed], [name]), runner(state.clone(), [feed], [name])
    assert len(compilations) == 1 and np.array_equal(first[name], second[name])
    changed = state.clone()
    weight = next(n for n in changed.graph if n.op_type == "MatMul").inputs[1]
    assert weight is not None and weight.const_value is not None
    weight.const_value = ir.tensor(2 * weight.const_value.numpy(), name=weight.name)
    ((third),) = runner(changed, [feed], [name])
    assert len(compilations) == 2 and np.allclose(third[name], 2 * first[name])
    for value in chosen[1 : KEPT + 1]:
        runner(state, [], [str(value.name)])
    before = len(compilations)
    runner(state, [feed], [name])
    assert len(compilations) == before + 1


def test_one_feed_at_a_time(state: ir.Model) -> None:
    """A feed is not read before the one before it was taken."""
    read: list[int] = []

    class Feeds(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            for i, feed in enumerate(super().__iter__()):
                read.append(i)
                yield feed

    output = str(state.graph.outputs[0].name)
    results = GraphRunner()(state, Feeds([small()["bert-base"].feed(1, 5)] * 3), [output])
    assert not read
    next(results)
    assert read == [0]


def test_unknown_names(state: ir.Model) -> None:
    with pytest.raises(UsageError, match=r"no value 'nowhere'.*\[unknown-value\]"):
        GraphRunner()(state, [], ["nowhere"])


def test_no_names(state: ir.Model, compilations: list[str]) -> None:
    assert list(GraphRunner()(state, [small()["bert-base"].feed(1, 5)] * 2, [])) == [{}, {}]
    assert not compilations
