"""Programs on four virtual devices of the CPU give the numbers of one; what each device holds, what cannot be cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tilewright.backends.base import ProgramFacts
from tilewright.driver import compile
from tilewright.errors import UsageError
from tilewright.frontend.mesh import check_mesh, parse_mesh
from tilewright.options import Options
from tilewright.runtime.devices.mesh import Cut, assembled, check_cut, shard_shape, slices
from tilewright.runtime.errors import ArtifactError, DeviceError
from tilewright.runtime.programs import parse_programs
from tilewright.runtime.session import load

pytest.importorskip("jaxlib")

Array = np.ndarray[Any, Any]

MESHES = (((2, 2), "auto"), ((4,), "auto"), ((4,), "tensor"), ((2, 2), "tensor"), ((4,), "batch"), ((2, 2), "batch"))


def mlp(width: int = 128) -> onnx.ModelProto:
    """``relu(x·w + b)·v + x`` of ``[N, 64]``."""
    rng = np.random.default_rng(0)
    weights = {"w": (64, width), "b": (width,), "v": (width, 64)}
    nodes = [
        ("MatMul", "x w", "a"),
        ("Add", "a b", "c"),
        ("Relu", "c", "r"),
        ("MatMul", "r v", "d"),
        ("Add", "d x", "y"),
    ]
    graph = helper.make_graph(
        [helper.make_node(op, inputs.split(), [output]) for op, inputs, output in nodes],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64])],
        [numpy_helper.from_array((rng.standard_normal(s) / 8).astype(np.float32), n) for n, s in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def artifact(
    path: Path, model: onnx.ModelProto, mesh: tuple[int, ...] = (), shard: str = "", batch: str = "1..8"
) -> Path:
    options = Options(targets=("xla:cpu",), input_shapes=(("x", (batch, "64")),), mesh=mesh, shard=shard)
    compile(model, options=options).save(path)
    return path


@pytest.mark.parametrize(("mesh", "shard"), MESHES)
def test_numbers_of_a_mesh_are_those_of_one_device(tmp_path: Path, mesh: tuple[int, ...], shard: str) -> None:
    one = load(str(artifact(tmp_path / "one.tw", mlp())), device="xla-cpu")
    many = load(str(artifact(tmp_path / "many.tw", mlp(), mesh, shard)), device="xla-cpu")
    for batch in (1, 3, 8):  # padded to sizes that can be divided
        x = np.random.default_rng(batch).standard_normal((batch, 64)).astype(np.float32)
        (want,), (got,) = one.run(None, {"x": x}), many.run(None, {"x": x})
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_a_mesh_that_would_do_the_same_everywhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no input has a batch of more than 1") as caught:
        artifact(tmp_path / "a.tw", mlp(), (4,), "batch", "1")
    assert caught.value.code == "mesh-useless"
    with pytest.raises(UsageError, match="no weight can be cut over 7 devices"):
        artifact(tmp_path / "a.tw", mlp(), (7,), "tensor")


def test_auto_cuts_weights_alone_where_the_batch_is_one(tmp_path: Path) -> None:
    made = compile(
        mlp(), options=Options(targets=("xla:cpu",), input_shapes=(("x", ("1", "64")),), mesh=(2, 2), shard="auto")
    )
    (entry,) = made.parts[0].plan.entries  # type: ignore[union-attr]
    cuts = [s.dims for s in entry.steps[0].shardings]  # type: ignore[union-attr]
    assert cuts == [((), ()), ((), (0, 1)), ((0, 1),), ((0, 1), ()), ((), ())]


def test_artifacts_for_a_mesh_are_reproducible(tmp_path: Path) -> None:
    paths = [artifact(tmp_path / name, mlp(), (2, 2), "auto") for name in ("a.tw", "b.tw")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("cut", "mesh", "shape", "places"),
    [
        ((), (4,), (8,), [0, 0, 0, 0]),
        (((0,),), (4,), (8,), [0, 2, 4, 6]),
        (((1,),), (2, 2), (8,), [0, 4, 0, 4]),
        (((0, 1),), (2, 2), (8,), [0, 2, 4, 6]),
        (((1, 0),), (2, 2), (8,), [0, 4, 2, 6]),
        (((0,),), (3, 2), (6,), [0, 0, 2, 2, 4, 4]),
    ],
)
def test_parts_of_an_array(cut: Cut, mesh: tuple[int, ...], shape: tuple[int, ...], places: list[int]) -> None:
    x = np.arange(shape[0])
    found = slices(shape, cut, mesh)
    assert [index[0].start for index in found] == places
    np.testing.assert_array_equal(assembled([x[index] for index in found], cut, mesh), x)


@pytest.mark.parametrize("cut", [((0,), (0,)), ((2,), ()), ((0,),), ((0, 0), ())])
def test_a_cut_that_makes_no_sense_is_refused(cut: Cut) -> None:
    with pytest.raises(ValueError, match="a cut"):
        check_cut(cut, 2, (2, 2))


def test_a_size_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match="6×3 elements cannot be cut in 4×1 parts"):
        shard_shape((6, 3), ((0,), ()), (4,))


@pytest.mark.parametrize("mesh", [[0], [10**9], [1] * 40, [-1], ["2"]])
def test_a_damaged_mesh_is_refused(mesh: list[Any]) -> None:
    import json

    text = json.dumps({"version": 1, "entries": [], "host": False, "mesh": mesh}).encode()
    with pytest.raises(ArtifactError):
        parse_programs(text, "a.tw")


def test_too_few_devices_are_told() -> None:
    from tilewright.runtime.devices.spread import enough

    with pytest.raises(DeviceError, match="need 4 devices, found 1") as caught:
        enough([object()], (2, 2), "tpu")
    assert caught.value.exit_code == 8


def ahead(path: Path, target: str, mesh: tuple[int, ...], shard: str, model: onnx.ModelProto) -> ProgramFacts:
    """What libtpu says of the one program of a model for several TPUs, which are not here."""
    options = Options(targets=(target,), input_shapes=(("x", ("8", "64")),), mesh=mesh, shard=shard)
    made = compile(model, options=options)
    made.save(path)
    (facts,) = made.report.targets[0].programs
    assert isinstance(facts, ProgramFacts)
    return facts


def test_an_executable_for_four_tpus(tmp_path: Path) -> None:
    pytest.importorskip("libtpu")
    one = ahead(tmp_path / "a.tw", "tpu:v5e", (), "", mlp(1024))
    facts = ahead(tmp_path / "a.tw", "tpu:v5e", (2, 2), "auto", mlp(1024))
    assert facts.code_bytes > 0 and facts.fits
    assert facts.collectives == {"all-reduce": 1}
    assert 0.5 * one.arguments <= facts.arguments <= 0.51 * one.arguments  # half of the batch, half of each weight


def test_without_tpus_the_executable_is_not_run(tmp_path: Path) -> None:
    pytest.importorskip("libtpu")
    ahead(tmp_path / "a.tw", "tpu:v5e", (2, 2), "auto", mlp())
    with pytest.raises(DeviceError) as caught:
        load(str(tmp_path / "a.tw"), device="tpu")
    assert caught.value.exit_code == 8


@pytest.mark.slow
@pytest.mark.parametrize("target", ["tpu:v5e", "tpu:v6e", "tpu:v5p", "tpu:tpu7x"])
@pytest.mark.parametrize(("mesh", "shard", "sums"), [((2, 2), "auto", 1), ((4,), "tensor", 1), ((4,), "batch", 0)])
def test_executables_for_four_devices(
    tmp_path: Path, target: str, mesh: tuple[int, ...], shard: str, sums: int
) -> None:
    pytest.importorskip("libtpu")
    facts = ahead(tmp_path / "a.tw", target, mesh, shard, mlp())
    assert facts.collectives == ({"all-reduce": sums} if sums else {})


def test_more_tpus_than_a_host_has_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("libtpu")
    with pytest.raises(UsageError) as caught:
        ahead(tmp_path / "a.tw", "tpu:v5e", (4, 4), "tensor", mlp())
    assert caught.value.code == "mesh-too-large"


@pytest.mark.parametrize("text", ["", "x", "2x", "2*2", "0x2", "1", "1x1", "-2", "100000x100000", "2x2x2x2x2x2x2x2x2"])
def test_a_mesh_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_mesh(parse_mesh(text), "auto", ["tpu:v5e"])
    assert caught.value.code == "mesh-syntax"


@pytest.mark.parametrize(
    ("mesh", "shard", "targets", "code"),
    [
        ((2, 2), "auto", ("cpu:x86-64-v3",), "mesh-target"),
        ((), "tensor", ("xla:cpu",), "mesh-shard"),
        ((2,), "rows", ("xla:cpu",), "mesh-shard"),
    ],
)
def test_what_a_mesh_cannot_be_asked_for(
    mesh: tuple[int, ...], shard: str, targets: tuple[str, ...], code: str
) -> None:
    with pytest.raises(UsageError) as caught:
        compile(mlp(), options=Options(targets=targets, mesh=mesh, shard=shard))
    assert caught.value.code == code
