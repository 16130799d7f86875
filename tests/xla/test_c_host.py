"""The C program over PJRT: it runs artifacts on a CPU plugin as Python does, keeps executables, and refuses with a reason."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tilewright as tw
from onnx import TensorProto, helper, numpy_helper
from tilewright.codegen.toolchain import default_toolchain
from tilewright.package.native import build_pjrt_program

from tests.runtime.programs import TRIPLE
from tests.runtime.rewrite import members, rewrite

pytest.importorskip("jaxlib")

Array = np.ndarray[Any, np.dtype[Any]]
RNG = np.random.default_rng(7)
F32, I64 = TensorProto.FLOAT, TensorProto.INT64
W = RNG.standard_normal((48, 32)).astype(np.float32)
B = RNG.standard_normal(32).astype(np.float32)


def plugin() -> Path:
    found = importlib.util.find_spec("xla_plugins")
    for folder in found.submodule_search_locations or () if found else ():
        path = Path(folder) / "xla_cpu_pjrt" / "xla_cpu_pjrt.so"
        if path.exists():
            return path
    pytest.skip("SKIPPED: no CPU plugin of PJRT is installed (package xla_cpu_pjrt)")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("host") / "pjrt_run"
    path.write_bytes(build_pjrt_program(default_toolchain(), TRIPLE))
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept") / "executables"


def model(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, tuple[Any, ...]]],
    outputs: Mapping[str, tuple[int, tuple[Any, ...]]],
    weights: Mapping[str, Array] | None = None,
) -> onnx.ModelProto:
    def values(told: Mapping[str, tuple[int, tuple[Any, ...]]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, t, s) for n, (t, s) in told.items()]

    constants = [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs), constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def dense(rows: Any) -> onnx.ModelProto:
    """y = relu(x @ w + b); the product comes out as well."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["y"]),
    ]
    outputs = {"y": (F32, (rows, 32)), "product": (F32, (rows, 32))}
    return model(nodes, {"x": (F32, (rows, 48))}, outputs, {"w": W, "b": B})


def integers() -> onnx.ModelProto:
    """Sums of integers of three widths, and a constant that comes out."""
    nodes = [helper.make_node("Add", [n, n], [f"{n}{n}"]) for n in "abc"]
    types = {"a": TensorProto.INT32, "b": I64, "c": TensorProto.UINT8}
    inputs = {n: (t, (2, 3)) for n, t in types.items()}
    outputs = {**{f"{n}{n}": (t, (2, 3)) for n, t in types.items()}, "k": (F32, (3,))}
    return model(nodes, inputs, outputs, {"k": np.array([1.5, -2, 3], np.float32)})


def hosted() -> onnx.ModelProto:
    """Where relu(x @ w) is not 0: how many places there are is only known on the host, between two programs."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Relu", ["product"], ["y"]),
        helper.make_node("NonZero", ["y"], ["places"]),
    ]
    inputs = {"x": (F32, ("N", 48))}
    return model(nodes, inputs, {"y": (F32, ("N", 32)), "places": (I64, (2, "P"))}, {"w": W})


@dataclass(frozen=True)
class Case:
    """A model, how it is compiled, and inputs of some runs."""

    model: Any
    feeds: tuple[dict[str, Array], ...]
    shapes: dict[str, tuple[Any, ...]] | None = None
    entry: str = ""
    slow_bits: bool = False


def rows(n: int) -> dict[str, Array]:
    return {"x": RNG.standard_normal((n, 48)).astype(np.float32)}


BOUNDS: dict[str, tuple[Any, ...]] = {"x": ("1..12", 48)}
CASES = {
    "static": Case(dense(4), (rows(4),)),
    "buckets": Case(dense("N"), tuple(rows(n) for n in (1, 3, 4, 9, 12)), BOUNDS),
    "integers": Case(
        integers(),
        (
            {
                "a": np.array([[1, -2, 3], [2**30, 5, -6]], np.int32),
                "b": np.array([[1, -2, 3], [2**61, 5, -6]], np.int64),
                "c": np.array([[1, 2, 3], [127, 5, 6]], np.uint8),
            },
        ),
    ),
    "host": Case(hosted(), (rows(3), rows(8)), BOUNDS),
    "entries": Case({"one": dense(2), "two": dense("N")}, (rows(5),), {"two:x": ("1..12", 48)}, "two"),
}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    made = {}
    for name, case in CASES.items():
        made[name] = folder / f"{name}.tw"
        shapes = None if case.entry else case.shapes
        source = case.model
        if case.entry:
            source = {"one": dense(2), "two": dense(12)}
        tw.compile(source, targets=("xla:cpu",), input_shapes=shapes, verify=False).save(made[name])
    return made


def start(program: Path, artifact: Path, *more: Any, plugin_path: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [program, artifact, "--plugin", plugin_path or plugin(), *more]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=300)


def feed(folder: Path, arrays: Mapping[str, Array]) -> list[str]:
    words = []
    for name, array in arrays.items():
        np.save(folder / f"{name}-in.npy", array)
        words += ["--input", f"{name}=@{folder}/{name}-in.npy"]
    return words
