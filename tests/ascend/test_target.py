"""Compiling for Ascend NPUs with no device and no CANN at hand: what is placed, what is told, what is refused."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tilewright as tw
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper
from tilewright.backends.ascend.backend import AscendBackend
from tilewright.backends.ascend.launch import from_json, to_json
from tilewright.cli.main import main
from tilewright.errors import UsageError
from tilewright.plan.decode import decode_plan
from tilewright.runtime import ArtifactError, DeviceError, load, open_artifact

from tests.runtime.rewrite import rewrite

SHAPES: dict[str, tuple[int | str, ...]] = {"x": ("1..64", 32)}


@lru_cache(maxsize=1)
def model() -> onnx.ModelProto:
    """A product with bias and relu, a recurrence that no NPU kernel computes, and an elementwise end."""
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((random.standard_normal(shape) * 0.2).astype(np.float16), name)

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], name="product"),
        helper.make_node("Add", ["p", "b"], ["q"], name="bias"),
        helper.make_node("Relu", ["q"], ["r"], name="relu"),
        helper.make_node("CumSum", ["r", "axis"], ["s"], name="running"),
        helper.make_node("Mul", ["s", "g"], ["t"], name="scale"),
        helper.make_node("Add", ["t", "r"], ["y"], name="sum"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["N", 48])],
        [weight("w", 32, 48), weight("b", 48), weight("g", 48), numpy_helper.from_array(np.int64(1), "axis")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@lru_cache(maxsize=4)
def artifact(*targets: str) -> Any:
    return tw.compile(model(), targets=targets, input_shapes=SHAPES, verify=False)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = tmp_path_factory.mktemp("ascend") / "m.tw"
    artifact("ascend").save(file)
    return file


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.mark.parametrize(
    ("spelling", "target", "host"),
    [
        ("ascend", "ascend:910b3", "cpu:aarch64"),
        ("ascend:910b1", "ascend:910b1", "cpu:aarch64"),
        ("ascend:310p3+host=x86-64", "ascend:310p3+host=x86-64", "cpu:x86-64-v3"),
        ("ascend+host=aarch64", "ascend:910b3+host=aarch64", "cpu:aarch64"),
    ],
)
def test_spellings(spelling: str, target: str, host: str) -> None:
    (found,) = AscendBackend().resolve(spelling)
    assert (found.spelling, found.host) == (target, host)


@pytest.mark.parametrize("spelling", ["ascend:910", "ascend:910b3+host=riscv", "ascend:910b3+fast"])
def test_unknown_targets_are_refused(spelling: str) -> None:
    with pytest.raises(UsageError, match="unknown-target"):
        AscendBackend().resolve(spelling)


def test_what_cannot_be_placed_is_told_with_the_reason() -> None:
    (facts,) = artifact("ascend").report.targets
    assert facts.spelling == "ascend:910b3" and facts.host == "cpu:aarch64"
    assert facts.launches - len(facts.fallback) >= 1, "the product is a kernel of the device"
    assert any("CumSum" in line and "running" in line for line in facts.fallback), facts.fallback


def test_the_part_has_a_plan_and_how_kernels_are_launched(path: Path) -> None:
    opened = open_artifact(path)
    (target,) = opened.manifest.targets
    assert target.has_sources and target.is_apart and target.host_family == "aarch64" and not target.family
    plan = decode_plan(bytes(opened.checked(target.members["plan.bin"])))
    text = bytes(opened.checked(target.members["launches.json"])).decode()
    launches = from_json(text)
    assert [x.kernel for x in launches] == list(plan.kernels) and to_json(launches) == text
    assert plan.host_kernels and "kernels.so" in target.members
    assert {x.target for x in launches} == {"ascend:910b3"}


def test_the_same_model_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    again = tw.compile(model(), targets=("ascend:910b3",), input_shapes=SHAPES, verify=False)
    mine, theirs = open_artifact(path), open_artifact(_saved(again, tmp_path))
    assert {**mine.manifest.hashes} == {**theirs.manifest.hashes}


def _saved(made: Any, folder: Path) -> Path:
    made.save(folder / "again.tw")
    return folder / "again.tw"


@pytest.mark.parametrize("device", ["ascend", "ascend:910b3", "ascend-910b3", "auto"])
def test_sources_do_not_run_here(path: Path, device: str) -> None:
    with pytest.raises(DeviceError, match="CANN") as refused:
        load(path, device=device)
    assert refused.value.code == "device-not-built" and "export" in refused.value.fix


def test_another_part_of_the_artifact_runs(tmp_path: Path) -> None:
    both = artifact("ascend", "cpu:x86-64-v2")
    both.save(tmp_path / "both.tw")
    x = np.random.default_rng(1).standard_normal((5, 32)).astype(np.float16)
    with load(tmp_path / "both.tw", device="auto") as session:
        assert session.target == "cpu:x86-64-v2" and session.run(None, {"x": x})[0].shape == (5, 48)


def test_hosts_of_two_kinds_share_an_artifact(tmp_path: Path) -> None:
    artifact("ascend", "ascend:910b3+host=x86-64").save(tmp_path / "two.tw")
    targets = open_artifact(tmp_path / "two.tw").manifest.targets
    assert {t.target: t.host_family for t in targets} == {
        "ascend:910b3": "aarch64",
        "ascend:910b3+host=x86-64": "x86_64",
    }


def test_no_host_part_is_an_error_on_demand(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    words = ("compile", tmp_path / "m.onnx", "-t", "ascend", "-o", tmp_path / "m.tw", "--progress", "none")
    result = invoke(*words, "--input-shape", "x:1..64,32", "--fallback", "forbid")
    assert result.exit_code == 4 and "running" in result.output


def test_check_tells_the_host_part_beforehand(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    result = invoke("check", tmp_path / "m.onnx", "-t", "ascend:910b4", "--input-shape", "x:1..64,32")
    assert result.exit_code == 0 and "host part" in result.output and "running" in result.output


def test_inspect_shows_cores_and_flags(path: Path) -> None:
    result = invoke("inspect", path, "--plan")
    assert result.exit_code == 0, result.output
    assert "kernels as source" in result.output and " cores" in result.output
    assert "launches on the device" in result.output and "flags" in result.output
    assert "modelled at N=32" in result.output


@pytest.mark.parametrize("damage", ["[{}]", "[[1]]", "{", '[{"entry": 3}]', "7"])
def test_a_damaged_list_of_launches_is_refused(path: Path, tmp_path: Path, damage: str) -> None:
    bad = tmp_path / "bad.tw"
    bad.write_bytes(rewrite(path.read_bytes(), {"ascend/910b3/launches.json": damage.encode()}))
    result = invoke("inspect", bad, "--plan")
    assert result.exit_code == ArtifactError.exit_code, result.output
    assert "list of launches" in result.output


def test_dumps_have_every_form(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    dump = tmp_path / "dump"
    words = ("compile", tmp_path / "m.onnx", "-t", "ascend", "-o", tmp_path / "m.tw", "--progress", "none")
    assert invoke(*words, "--input-shape", "x:1..64,32", "--dump-ir", dump, "--no-verify").exit_code == 0
    names = [p.name for p in (dump / "ascend" / "910b3").iterdir()]
    assert any(n.endswith(".schedule.txt") for n in names) and any(n.endswith(".placed.txt") for n in names)
    assert json.loads((dump / "ascend" / "910b3" / "launches.json").read_text())
