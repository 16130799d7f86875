"""Calibration data: what is taken, in which order, and what is refused, with its place."""

from __future__ import annotations

import itertools
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from tilewright.calibration import LIMIT, ROWS, calibration_of, held_out
from tilewright.errors import TilewrightError
from tilewright.frontend.onnx import import_model

Array = np.ndarray[Any, Any]


def model(**inputs: tuple[str, list[int | str]]) -> ir.Model:
    """A graph that casts and adds up nothing: each input goes to an output of its own."""
    kinds = {"f": TensorProto.FLOAT, "i": TensorProto.INT64}
    nodes = [helper.make_node("Abs", [n], [f"{n}_out"]) for n in inputs]
    ends = [[helper.make_tensor_value_info(n + s, kinds[k], d) for n, (k, d) in inputs.items()] for s in ("", "_out")]
    graph = helper.make_graph(nodes, "g", *ends)
    return import_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


BATCHED = {"x": ("f", ["N", 3])}
FIXED = {"x": ("f", [2, 3])}
SEQUENCE = {"x": ("f", [1, "S", 3])}
IDS = np.ones((1, 2), np.int64)
PAIR: dict[str, Any] = {"ids": ("i", ["N", "S"]), "x": ("f", ["N", 3])}


def f32(*shape: int) -> Array:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def npz(folder: Path, **arrays: Array) -> Path:
    np.savez(folder / "d.npz", **arrays)
    return folder / "d.npz"


def folder_of(folder: Path, **arrays: Array) -> Path:
    """One ``.npy`` for each name; ``__`` is a slash."""
    top = folder / "data"
    for name, array in arrays.items():
        path = top / f"{name.replace('__', '/')}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    top.mkdir(exist_ok=True)
    return top


#: What is given → shapes of the samples, and the first element of each.
TAKEN: dict[str, tuple[dict[str, Any], Callable[[Path], Any], list[tuple[int, ...]], list[float]]] = {
    "an axis of samples": (FIXED, lambda f: npz(f, x=f32(4, 2, 3)), [(2, 3)] * 4, [0, 6, 12, 18]),
    "several batches of a fixed size": (FIXED, lambda f: npz(f, x=f32(6, 3)), [(2, 3)] * 3, [0, 6, 12]),
    "an open batch, few rows": (BATCHED, lambda f: npz(f, x=f32(5, 3)), [(1, 3)] * 5, [0, 3, 6, 9, 12]),
    "an open batch, many rows": (BATCHED, lambda f: npz(f, x=f32(600, 3)), [(ROWS, 3)] * 18 + [(24, 3)], []),
    "an open size that is no batch": (SEQUENCE, lambda f: npz(f, x=f32(1, 5, 3)), [(1, 5, 3)], [0]),
    "numbered samples": (
        SEQUENCE,
        lambda f: npz(f, **{"10/x": f32(1, 4, 3) + 1, "9/x": f32(1, 2, 3)}),
        [(1, 2, 3), (1, 4, 3)],
        [0, 1],
    ),
    "subfolders": (
        PAIR,
        lambda f: folder_of(f, x__b=f32(1, 3) + 1, x__a=f32(1, 3), ids__1=IDS, ids__2=IDS),
        [(1, 3)] * 2,
        [0, 1],
    ),
    "prefixes": (
        FIXED,
        lambda f: folder_of(f, x_10=f32(2, 3) + 2, x_9=f32(2, 3) + 1, **{"x-1": f32(2, 3)}),
        [(2, 3)] * 3,
        [0, 1, 2],
    ),
    "any names for one input": (FIXED, lambda f: folder_of(f, cat=f32(2, 3), dog=f32(2, 3) + 1), [(2, 3)] * 2, [0, 1]),
    "feeds": (SEQUENCE, lambda f: iter([{"x": f32(1, 2, 3)}, {"x": f32(1, 7, 3)}]), [(1, 2, 3), (1, 7, 3)], [0, 0]),
    "arrays for one input": (FIXED, lambda f: [f32(2, 3), f32(2, 3) + 1], [(2, 3)] * 2, [0, 1]),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_taken(case: str, tmp_path: Path) -> None:
    inputs, give, shapes, firsts = TAKEN[case]
    data = calibration_of(give(tmp_path), model(**inputs))
    assert [feed["x"].shape for feed in data.feeds] == shapes
    if firsts:
        assert [feed["x"].flat[0] for feed in data.feeds] == firsts
    assert not data.random
    assert len(data.sha256) == 64


def endless() -> Iterator[Array]:
    return itertools.repeat(f32(2, 3))


def bad(at: tuple[int, int], value: float) -> Array:
    array = f32(2, 3)
    array[at] = value
    return array


def raw(folder: Path, data: bytes, name: str = "d.npz") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def claiming(folder: Path, shape: str) -> Path:
    """A ``.npz`` whose member says that it is far larger than it is."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    with zipfile.ZipFile(folder / "d.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(24))
    return folder / "d.npz"


def linked(folder: Path) -> Path:
    np.save(folder / "secret.npy", f32(2, 3))
    (folder / "data").mkdir()
    (folder / "data" / "x.npy").symlink_to(folder / "secret.npy")
    return folder / "data"


#: What is given → the code of the error, and a word that it must have.
REFUSED: dict[str, tuple[dict[str, Any], Callable[[Path], Any], str, str]] = {
    "no samples": (FIXED, lambda f: [], "calibration-empty", "no samples"),
    "empty folder": (FIXED, folder_of, "calibration-empty", "no samples"),
    "no rows": (BATCHED, lambda f: npz(f, x=f32(0, 3)), "calibration-empty", "no elements"),
    "NaN": (FIXED, lambda f: [f32(2, 3), bad((1, 2), np.nan)], "calibration-not-finite", "sample 1, input 'x': 1 of"),
    "infinity": (FIXED, lambda f: npz(f, x=bad((0, 1), -np.inf)), "calibration-not-finite", "the first at [0, 1]"),
    "wrong name": (FIXED, lambda f: npz(f, y=f32(2, 3)), "calibration-names", "the inputs are x"),
    "name missing": (PAIR, lambda f: npz(f, x=f32(2, 3)), "calibration-names", "ids, x"),
    "numbered without one": (PAIR, lambda f: npz(f, **{"0/x": f32(2, 3)}), "calibration-names", "sample 0"),
    "file of no input": (PAIR, lambda f: folder_of(f, y=f32(2, 3)), "calibration-names", "y.npy"),
    "uneven files": (
        PAIR,
        lambda f: folder_of(f, x=f32(1, 3), ids_1=IDS, ids_2=IDS),
        "calibration-names",
        "ids 2, x 1",
    ),
    "array of several inputs": (PAIR, lambda f: [f32(2, 3)], "calibration-names", "by input name"),
    "wrong rank": (FIXED, lambda f: [f32(2, 3, 1, 1)], "calibration-shape", "axes"),
    "wrong size": (FIXED, lambda f: [f32(2, 4)], "calibration-shape", "4 where the model has 3"),
    "sizes that disagree": (PAIR, lambda f: [{"ids": IDS, "x": f32(3, 3)}], "calibration-shape", "N"),
    "wrong type": (FIXED, lambda f: [f32(2, 3).astype(np.float64)], "calibration-type", "float64"),
    "objects": (FIXED, lambda f: [np.array([{}, {}], dtype=object)], "calibration-type", "Python objects"),
    "a pickle": (FIXED, lambda f: raw(f, pickle.dumps([1])), "calibration-unreadable", "d.npz"),
    "pickled objects": (
        FIXED,
        lambda f: npz(f, x=np.array([{}], dtype=object)),
        "calibration-unreadable",
        "never loaded",
    ),
    "an empty file": (FIXED, lambda f: raw(f, b""), "calibration-unreadable", "d.npz"),
    "no such file": (FIXED, lambda f: f / "none.npz", "calibration-unreadable", "no such file"),
    "truncated array": (
        FIXED,
        lambda f: (raw((f / "d").mkdir() or f / "d", b"\x93NUMPY\x01\x00", "x.npy"), f / "d")[1],
        "calibration-unreadable",
        "x.npy",
    ),
    "a header that lies": (FIXED, lambda f: claiming(f, "(99999, 99999)"), "calibration-unreadable", "the file holds"),
    "a negative size": (FIXED, lambda f: claiming(f, "(-1, 3)"), "calibration-unreadable", "d.npz"),
    "a link out of the folder": (FIXED, linked, "calibration-unreadable", "link"),
    "no iterable": (FIXED, lambda f: 7, "calibration-unreadable", "int"),
    "one feed": (FIXED, lambda f: {"x": f32(2, 3)}, "calibration-unreadable", "list of feeds"),
    "without end": (FIXED, lambda f: endless(), "calibration-too-many", str(LIMIT)),
    "random without number": (FIXED, lambda f: "random", "calibration-unreadable", "random:16"),
    "random none": (FIXED, lambda f: "random:0", "calibration-unreadable", "random:16"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    inputs, give, code, word = REFUSED[case]
    with pytest.raises(TilewrightError) as caught:
        calibration_of(give(tmp_path), model(**inputs))
    assert caught.value.code == code
    assert word in str(caught.value)
    assert caught.value.exit_code == 2


def test_random_data_is_told_as_such() -> None:
    one, other = (calibration_of("random:5", model(**PAIR)) for _ in range(2))
    assert one.random
    assert "made up" in one.source
    assert (one.sha256, len(one.feeds)) == (other.sha256, 5)


def test_the_hash_is_of_contents_not_of_the_file(tmp_path: Path) -> None:
    given = calibration_of(npz(tmp_path, x=f32(4, 2, 3)), model(**FIXED))
    same = calibration_of([{"x": array} for array in f32(4, 2, 3)], model(**FIXED))
    other = calibration_of([{"x": array} for array in f32(4, 2, 3) + 1], model(**FIXED))
    assert given.sha256 == same.sha256 != other.sha256


@pytest.mark.parametrize(("count", "kept"), [(1, 1), (3, 3), (4, 3), (9, 7)])
def test_every_fourth_sample_is_held_out(count: int, kept: int) -> None:
    data = calibration_of([f32(2, 3) + i for i in range(count)], model(**FIXED))
    fitting, judging = held_out(data)
    assert len(fitting.feeds) == kept
    assert len(judging) == (count - kept or count)
    assert fitting.sha256 == data.sha256
