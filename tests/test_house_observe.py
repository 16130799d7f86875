"""Watching a compilation: dumps that are models, and a pass that changes numbers is named."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tilewright.errors import InternalError, UsageError
from tilewright.frontend.onnx import import_model
from tilewright.ir.evaluate import evaluate
from tilewright.observe import Observer, Stopped, save_graph
from tilewright.options import Observation
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.pipeline import default_pipeline, run_pipeline

from models import minilm


class BreakNumbers(Pass):
    """Make an addition a subtraction: what ``--verify-each`` is there for."""

    name: ClassVar[str] = "break-numbers"

    def run(self, model: ir.Model) -> PassResult:
        node = next(n for n in model.graph if n.op_type == "Add")
        node.op_type = "Sub"
        return PassResult(True, [Miss("Mul → y", "not an addition")])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return minilm.build_small(tmp_path_factory.mktemp("observe"))


def observed(model: Path, observe: Observation, *passes: Pass) -> tuple[Observer, list[str]]:
    said: list[str] = []
    observer = Observer(observe, said.append)
    graph = import_model(model)
    observer.start(graph)
    run_pipeline(graph, passes or default_pipeline(2), observer)
    observer.finish()
    return observer, said


def test_every_dump_is_an_equal_model(model: Path, tmp_path: Path) -> None:
    observer, _ = observed(model, Observation(dump_ir=str(tmp_path)))
    dumps = sorted(tmp_path.glob("*.onnx"))
    assert [d.stem for d in dumps] == [
        "00-import",
        *(f"{i:02d}-{name}" for i, name in enumerate(observer.changed, start=1)),
    ]
    random = np.random.default_rng(0)
    feeds = {
        "input_ids": random.integers(0, 500, (2, 6)),
        "attention_mask": np.array([[1] * 6, [1] * 4 + [0] * 2]),
        "token_type_ids": np.zeros((2, 6), np.int64),
    }
    first = evaluate(dumps[0], feeds)["sentence_embedding"]
    for dump in dumps[1:]:
        onnx.checker.check_model(str(dump), full_check=True)
        assert np.abs(evaluate(dump, feeds)["sentence_embedding"] - first).max() < 1e-5, dump.name


def test_weights_are_shared_by_dumps(model: Path, tmp_path: Path) -> None:
    observed(model, Observation(dump_ir=str(tmp_path)))
    weights = sum(p.stat().st_size for p in tmp_path.glob("*.weights"))
    assert weights < 2 * model.with_suffix(".weights").stat().st_size
    assert sum(p.stat().st_size for p in tmp_path.glob("*.onnx")) < weights


def test_a_pass_that_changes_numbers_is_named(model: Path) -> None:
    with pytest.raises(InternalError, match=r"pass break-numbers changes numbers: \S+ is off by"):
        observed(model, Observation(verify_each=True), BreakNumbers())


def test_passes_keep_numbers(model: Path) -> None:
    observer, _ = observed(model, Observation(verify_each=True))
    assert "fuse-attention" in observer.changed


def test_explain_tells_misses(model: Path) -> None:
    _, said = observed(model, Observation(explain=("break-numbers",)), BreakNumbers())
    assert said == ["break-numbers: changed the graph", "  break-numbers: Mul → y: not an addition"]


def test_stop_after_a_pass(model: Path) -> None:
    observer = Observer(Observation(stop_after="fold-constants"), print)
    with pytest.raises(Stopped, match="fold-constants"):
        run_pipeline(import_model(model), default_pipeline(2), observer)


def test_stopping_early_tells_times_as_well(model: Path) -> None:
    said: list[str] = []
    observer = Observer(Observation(stop_after="eliminate-identity", time_passes=True), said.append)
    with pytest.raises(Stopped):
        run_pipeline(import_model(model), default_pipeline(2), observer)
    assert said[-1].endswith("all passes") and len(said) == 1 + len(observer.seconds)


def test_times_are_told_for_every_pass(model: Path) -> None:
    observer, said = observed(model, Observation(time_passes=True))
    assert len(said) == len(observer.seconds) + 1
    assert said[-1].endswith("all passes")


def test_an_unknown_pass_is_refused_with_a_near_one() -> None:
    with pytest.raises(UsageError, match="fuse-attention"):
        Observer(Observation(explain=("fuse-atention",)), print).expect(["fuse-attention"])


def test_a_stage_can_be_stopped_after_but_not_explained() -> None:
    Observer(Observation(stop_after="lower"), print).expect(["fuse-attention"], ["lower"])
    with pytest.raises(UsageError, match="no pass of this name"):
        Observer(Observation(explain=("lower",)), print).expect(["fuse-attention"], ["lower"])


def test_saving_keeps_the_model(model: Path, tmp_path: Path) -> None:
    save_graph(import_model(model), tmp_path / "m.onnx")
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
