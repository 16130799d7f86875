"""External data: mapped from regular files in the model's folder, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tilewright.errors import TilewrightError
from tilewright.frontend.onnx import import_model
from tilewright.ir.graph import constant_array

WEIGHT = np.arange(32 * 32, dtype=np.float32).reshape(32, 32)


def model(**entries: str) -> onnx.ModelProto:
    """``y = x @ w`` with ``w`` stored as ``entries`` say."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[32, 32], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32])],
        [tensor],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write(folder: Path, **entries: str) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model(**entries).SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder ``models`` with ``w.bin`` (16 bytes of header), beside a folder ``secret`` with the same file."""
    for name in ("models", "secret"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w.bin").write_bytes(b"\0" * 16 + WEIGHT.tobytes())
    (tmp_path / "models" / "inner").mkdir()
    (tmp_path / "models" / "inner" / "w.bin").write_bytes(WEIGHT.tobytes())
    return tmp_path / "models"


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "w.bin", "offset": "16", "length": "4096"},
        {"location": "w.bin", "offset": "16"},
        {"location": "inner/w.bin"},
        {"location": "inner/w.bin", "checksum": "0", "length": "4096", "__class__": "x"},
    ],
    ids=["offset and length", "offset", "folder", "unknown keys"],
)
def test_data_in_the_folder_is_mapped(folder: Path, entries: dict[str, str]) -> None:
    graph = import_model(write(folder, **entries)).graph
    array = constant_array(graph.initializers["w"])
    np.testing.assert_array_equal(array, WEIGHT)
    assert not array.flags.owndata
    assert not array.flags.writeable


def link(target: str, name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).symlink_to(target)


def fifo(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


CASES: list[tuple[str, dict[str, str], Callable[[Path], object] | None, str]] = [
    ("parent", {"location": "../secret/w.bin"}, None, "external-data-unsafe"),
    ("parent behind a folder", {"location": "inner/../../secret/w.bin"}, None, "external-data-unsafe"),
    ("parent inside", {"location": "inner/../w.bin", "offset": "16"}, None, "external-data-unsafe"),
    ("absolute", {"location": "/etc/passwd"}, None, "external-data-unsafe"),
    ("dot", {"location": "./w.bin", "offset": "16"}, None, "external-data-unsafe"),
    ("empty part", {"location": "inner//w.bin"}, None, "external-data-unsafe"),
    ("backslash", {"location": "..\\secret\\w.bin"}, None, "external-data-unsafe"),
    ("null character", {"location": "w.bin\0.txt"}, None, "external-data-unsafe"),
    ("empty", {"location": ""}, None, "external-data-unsafe"),
    ("very long", {"location": "a/" * 5000 + "w.bin"}, None, "external-data-unsafe"),
    ("link to outside", {"location": "l"}, link("../secret/w.bin", "l"), "external-data-unsafe"),
    ("link to inside", {"location": "l", "offset": "16"}, link("w.bin", "l"), "external-data-unsafe"),
    ("linked folder", {"location": "l/w.bin"}, link("../secret", "l"), "external-data-unsafe"),
    ("linked folder inside", {"location": "l/w.bin"}, link("inner", "l"), "external-data-unsafe"),
    ("dangling link", {"location": "l"}, link("nowhere", "l"), "external-data-unsafe"),
    ("link to itself", {"location": "l"}, link("l", "l"), "external-data-unsafe"),
    ("FIFO", {"location": "pipe"}, fifo, "external-data-unsafe"),
    ("folder", {"location": "inner"}, None, "external-data-unsafe"),
    ("missing", {"location": "nowhere.bin"}, None, "external-data-missing"),
    ("missing folder", {"location": "nowhere/w.bin"}, None, "external-data-missing"),
    ("file as folder", {"location": "w.bin/w.bin"}, None, "external-data-missing"),
    ("no location", {"offset": "0"}, None, "external-data-missing"),
    ("offset past the end", {"location": "w.bin", "offset": "17"}, None, "external-data-range"),
    ("offset far past the end", {"location": "w.bin", "offset": "9" * 19}, None, "external-data-range"),
    ("negative offset", {"location": "w.bin", "offset": "-16"}, None, "external-data-range"),
    ("negative length", {"location": "w.bin", "length": "-1"}, None, "external-data-range"),
    ("no number", {"location": "w.bin", "offset": "0x10"}, None, "external-data-range"),
    ("a number of a thousand digits", {"location": "w.bin", "offset": "9" * 1000}, None, "external-data-range"),
    ("length of another shape", {"location": "w.bin", "length": "4092"}, None, "tensor-length"),
    ("length zero", {"location": "w.bin", "length": "0"}, None, "tensor-length"),
]


@pytest.mark.parametrize(("entries", "prepare", "code"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_everything_else_is_refused(
    folder: Path, entries: dict[str, str], prepare: Callable[[Path], object] | None, code: str
) -> None:
    if prepare is not None:
        prepare(folder)
    with pytest.raises(TilewrightError) as error:
        import_model(write(folder, **entries))
    assert error.value.code == code
    assert "'w'" in error.value.where
    assert error.value.fix


def test_a_model_in_memory_has_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(TilewrightError) as error:
        import_model(model(location="inner/w.bin"))
    assert error.value.code == "external-data-missing"


@pytest.mark.parametrize("inner", [False, True], ids=["a constant", "a constant of a branch"])
def test_tensors_inside_nodes_are_in_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch, inner: bool) -> None:
    monkeypatch.chdir(folder)
    proto = model(location="inner/w.bin")
    constant = helper.make_node("Constant", [], ["w"], value=proto.graph.initializer[0])
    del proto.graph.initializer[:]
    if inner:
        branch = helper.make_graph([constant], "b", [], [helper.make_empty_tensor_value_info("w")])
        flag = helper.make_node("Constant", [], ["flag"], value=helper.make_tensor("", TensorProto.BOOL, [], [True]))
        constant = helper.make_node("If", ["flag"], ["w"], then_branch=branch, else_branch=branch)
        proto.graph.node.insert(0, flag)
    proto.graph.node.insert(1 if inner else 0, constant)
    with pytest.raises(TilewrightError) as error:
        import_model(proto)
    assert error.value.code in ("external-data-unsafe", "invalid-model")


def test_a_linked_model_reads_beside_the_link(folder: Path) -> None:
    """The folder is that of the given path, not of what a link points to."""
    write(folder, location="inner/w.bin")
    (folder.parent / "m.onnx").symlink_to(folder / "model.onnx")
    with pytest.raises(TilewrightError) as error:
        import_model(folder.parent / "m.onnx")
    assert error.value.code == "external-data-missing"


def test_relative_path_of_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, location="inner/w.bin")
    monkeypatch.chdir(folder)
    assert import_model("model.onnx").graph.initializers["w"].shape == [32, 32]


def test_weights_inside_the_file_are_mapped(tmp_path: Path) -> None:
    proto = model(location="")
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(WEIGHT, "w"))
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    array = constant_array(import_model(path).graph.initializers["w"])
    np.testing.assert_array_equal(array, WEIGHT)
    assert not array.flags.owndata
