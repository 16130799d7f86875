"""The tests of ONNX's backend suite as files: ``python cases.py FOLDER`` writes them, :func:`cases` finds them.

The suite computes its expected outputs when it is imported, in part with ``onnx.reference``; so it is written out by a
process of its own, and whoever runs the cases imports neither the suite nor the reference evaluator.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")

#: Tensor-only, deterministic, of the ordinary element types and of opset 26 at most; no control flow, no expansions.
PLAIN = Path(__file__).with_name("plain.txt")

FOLDER = Path(__file__).resolve().parents[2] / "build" / f"onnx-suite-{version('onnx')}"


@dataclass(frozen=True, slots=True)
class Case:
    """One test: a folder with ``model.onnx`` and folders of inputs and expected outputs.

    Attributes:
        name: kind and name, ``node/test_abs``.
        rtol: relative tolerance of the suite; ``atol`` the absolute one.
    """

    name: str
    folder: Path
    rtol: float
    atol: float

    @property
    def data(self) -> list[Path]:
        """The folders of data sets."""
        return sorted(p for p in self.folder.iterdir() if p.is_dir())


def plain_names() -> list[str]:
    """Names of the plain tests."""
    return [line for line in PLAIN.read_text().splitlines() if line and not line.startswith("#")]


def cases(folder: Path = FOLDER) -> dict[str, Case]:
    """Every case by name; the files are written when they are not there."""
    index = folder / "index.txt"
    if not index.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            subprocess.run([sys.executable, __file__, scratch], check=True)
            with contextlib.suppress(OSError):  # another process was faster
                Path(scratch).rename(folder)
            Path(scratch).mkdir(exist_ok=True)
    found = {}
    for line in index.read_text().splitlines():
        name, rtol, atol = line.split()
        found[name] = Case(name, folder / name, float(rtol), float(atol))
    return found


def read_values(folder: Path, prefix: str) -> list[Any]:
    """Arrays ``prefix_0``, ``prefix_1`` … of a data set; ``None`` for what is no tensor."""
    import onnx
    from onnx import numpy_helper

    values: list[Any] = []
    while (path := folder / f"{prefix}_{len(values)}.pb").exists():
        tensor = onnx.TensorProto()
        tensor.ParseFromString(path.read_bytes())
        values.append(numpy_helper.to_array(tensor))
    return values if not (folder / f"{prefix}_other").exists() else [None]


# -- writing -------------------------------------------------------------------------------------------------------


def write(folder: Path) -> None:
    """Write every case of the installed suite; the index is last, so that an interrupted run is not taken for whole."""
    from onnx.backend.test.loader import load_model_tests

    lines = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        suite = [(kind, case) for kind in KINDS for case in load_model_tests(kind=kind)]
    for kind, case in suite:
        target = folder / kind / case.name
        target.mkdir(parents=True, exist_ok=True)
        if case.model is not None:
            (target / "model.onnx").write_bytes(case.model.SerializeToString())
            for i, (inputs, outputs) in enumerate(case.data_sets):
                _write_values(target / f"data_{i}", "input", inputs)
                _write_values(target / f"data_{i}", "output", outputs)
        elif case.model_dir is not None:
            _copy(Path(case.model_dir), target)
        else:
            _write_light(case, target)
        lines.append(f"{kind}/{case.name} {case.rtol} {case.atol}")
    (folder / "index.txt").write_text("\n".join(lines) + "\n")


def _write_values(folder: Path, prefix: str, values: Any) -> None:
    import onnx
    from onnx import numpy_helper

    folder.mkdir(exist_ok=True)
    for i, value in enumerate(values):
        if isinstance(value, onnx.TensorProto):
            tensor = value
        elif isinstance(value, np.ndarray | np.generic):
            tensor = numpy_helper.from_array(np.asarray(value))
        else:
            (folder / f"{prefix}_other").touch()  # a sequence, an optional or a map
            continue
        (folder / f"{prefix}_{i}.pb").write_bytes(tensor.SerializeToString())


def _copy(source: Path, target: Path) -> None:
    (target / "model.onnx").write_bytes((source / "model.onnx").read_bytes())
    for data in source.glob("test_data_set_*"):
        copy = target / data.name
        copy.mkdir(exist_ok=True)
        for file in data.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())


def _write_light(case: Any, target: Path) -> None:
    """A real model whose weights operators make up; the suite has its output for an input that counts from 0 to 1."""
    import onnx

    path = Path(onnx.__file__).parent / Path(case.url).relative_to("onnx")
    model = onnx.load(str(path))
    (target / "model.onnx").write_bytes(path.read_bytes())
    weights = {w.name for w in model.graph.initializer}
    inputs = []
    for value in model.graph.input:
        if value.name not in weights:
            shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
            count = int(np.prod(shape))
            inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
    expected = path.with_name(f"{path.stem}_output_0.pb").read_bytes()
    _write_values(target / "data_0", "input", inputs)
    _write_values(target / "data_0", "output", [onnx.TensorProto.FromString(expected)])


if __name__ == "__main__":
    write(Path(sys.argv[1]))
