"""What a hostile user does, from outside: exit code, error code, a message with its cause and its fix, nothing left.

Where the points of the subject are covered, beside the table below:

| point | where |
|---|---|
| truncated model, missing weights, unknown target and pass, damaged artifact, missing device | test_commands.ENDINGS |
| traversal in external data by every way there is | frontend/test_external_data |
| every flipped byte and every length of an artifact, hostile plans | runtime/test_damage, runtime/test_hostile_plans |
| full disk, read-only folder, killed or interrupted writer | runtime/test_writer, test_commands |
| inputs of a session: names, types, ranks, layouts | runtime/test_session |
| accuracy gate, bundle of an internal error, SIGINT | test_commands |
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from .conftest import Compiled, Run
from .test_commands import tiny

NAMES = ("input_ids", "attention_mask", "token_type_ids")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def array(folder: Path, shape: tuple[int, ...] = (2, 9), dtype: str = "int64", value: int = 1) -> Path:
    np.save(folder / "a.npy", np.full(shape, value, dtype))
    return folder / "a.npy"


def zipped(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")
    return path


def given(c: Compiled, first: Path, rest: Path | None = None) -> list[str | Path]:
    files = (first, rest or first, rest or first)
    return ["run", c.artifact, *(x for n, f in zip(NAMES, files, strict=True) for x in ("--input", f"{n}=@{f}"))]


def stranger(folder: Path) -> Path:
    """Two operators that nobody knows."""
    path = tiny(folder, "Frob", "com.example")
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Nicate", ["y"], ["z"], domain="com.example"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4]))
    onnx.save(model, path)
    return path


def outside(folder: Path, location: str) -> Path:
    """A model whose weight lies at ``location``."""
    path = tiny(folder)
    model = onnx.load(path)
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1024], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    model.graph.initializer.append(weight)
    path.write_bytes(model.SerializeToString())
    return path


def linked(folder: Path) -> Path:
    (folder / "w.bin").symlink_to("/etc/hostname")
    return outside(folder, "w.bin")


#: What is done → exit code, error code, and a word that the message must have.
BAD = {
    "pickle": (lambda c, f: ["compile", write(f / "m.onnx", pickle.dumps([1] * 99))], 3, "not-a-model", "m.onnx"),
    "zip": (lambda c, f: ["compile", zipped(f / "m.onnx")], 3, "not-a-model", "zip archive"),
    "empty model": (lambda c, f: ["compile", write(f / "m.onnx", b"")], 3, "not-a-model", "empty"),
    "folder for a model": (lambda c, f: ["compile", f], 2, "model-unreadable", "folder"),
    "artifact for a model": (lambda c, f: ["compile", c.artifact], 3, "not-a-model", "zip archive"),
    "unknown operators": (lambda c, f: ["compile", stranger(f)], 4, "unsupported-operators", "Nicate"),
    "data above": (lambda c, f: ["compile", outside(f, "../w")], 3, "external-data-unsafe", "../w"),
    "data absolute": (lambda c, f: ["compile", outside(f, "/etc/passwd")], 3, "external-data-unsafe", "/etc"),
    "data through a link": (lambda c, f: ["compile", linked(f)], 3, "external-data-unsafe", "link"),
    "wrong type": (lambda c, f: given(c, array(f, dtype="float32")), 2, "input-type", "float32"),
    "wrong rank": (lambda c, f: given(c, array(f, (2, 9, 1))), 2, "input-mismatch", "rank 2"),
    "beyond a bound": (lambda c, f: given(c, array(f, (2, 129))), 2, "input-mismatch", "128"),
    "index outside": (lambda c, f: given(c, array(f, value=500)), 2, "input-mismatch", "index"),
    "no such input": (
        lambda c, f: ["run", c.artifact, "--input", f"foo=@{array(f)}"],
        2,
        "unknown-input",
        "input_ids",
    ),
    "empty array file": (lambda c, f: given(c, write(f / "a.npy", b"")), 2, "input-unreadable", "a.npy"),
    "pickled array": (lambda c, f: given(c, write(f / "a.npy", pickle.dumps(1))), 2, "input-unreadable", "never"),
    "no array file": (lambda c, f: given(c, f / "none.npy"), 2, "input-unreadable", "no such file"),
    "array as data": (lambda c, f: ["run", c.artifact, "--data", array(f)], 2, "input-unreadable", "name"),
    "empty data": (
        lambda c, f: ["run", c.artifact, "--data", write(f / "d.npz", b"")],
        2,
        "input-unreadable",
        "d.npz",
    ),
    "sizes that no array has": (
        lambda c, f: ["run", c.artifact, "--input-shape", "input_ids:" + "9" * 30 + ",2"],
        2,
        "input-shape-syntax",
        "NAME:SIZES",
    ),
    "open bracket": (
        lambda c, f: ["run", c.artifact, "--input-shape", "input_ids[2,9"],
        2,
        "input-shape-syntax",
        "NAME:SIZES",
    ),
    "sizes beyond a bound": (
        lambda c, f: ["verify", c.artifact, "--ref", c.model, "--input-shape", "input_ids:1,999"],
        2,
        "input-shape-conflict",
        "128",
    ),
    "empty artifact": (lambda c, f: ["run", write(f / "m.tw", b"")], 9, "artifact-damaged", "too short"),
    "look at an empty artifact": (
        lambda c, f: ["inspect", write(f / "m.tw", b"")],
        9,
        "artifact-damaged",
        "too short",
    ),
    "another zip": (lambda c, f: ["run", zipped(f / "m.tw")], 9, "artifact-damaged", "m.tw"),
    "no folder for json": (
        lambda c, f: ["run", c.artifact, "--json", f / "no" / "j"],
        2,
        "no-such-folder",
        "no",
    ),
    "a folder that cannot be": (
        lambda c, f: ["compile", tiny(f), "--dump-ir", "/proc/none"],
        2,
        "path-unusable",
        "/proc/none",
    ),
    "no folder for a graph": (
        lambda c, f: ["opt", tiny(f), "-o", f / "no" / "o.onnx"],
        2,
        "no-such-folder",
        "no",
    ),
    "no folder for a program": (
        lambda c, f: ["export", c.artifact, "--as", "exe", "-o", f / "no" / "p"],
        2,
        "no-such-folder",
        "no",
    ),
    "verify beside text": (
        lambda c, f: ["verify", c.artifact, "--ref", write(f / "t.onnx", b"text")],
        3,
        "not-a-model",
        "t.onnx",
    ),
    "verify beside another model": (
        lambda c, f: ["verify", c.artifact, "--ref", tiny(f)],
        2,
        "reference-inputs",
        "input_ids",
    ),
    "measure beside another model": (
        lambda c, f: ["bench", c.artifact, "--against", "onnxruntime", "--ref", tiny(f)],
        2,
        "reference-inputs",
        "input_ids",
    ),
    "streams of one stream": (lambda c, f: ["bench", c.artifact, "--streams", "2"], 2, "bench-arguments", "single"),
    "no code": (lambda c, f: ["explain"], 2, "no-code", "--all"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, compiled: Compiled, cli: Run, tmp_path: Path) -> None:
    make, exit_code, code, word = BAD[name]
    work = tmp_path / "work"
    work.mkdir()
    arguments = make(compiled, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = cli(*arguments, cwd=work)
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert f"error[{code}] " in done.stderr
    assert word in done.stderr
    assert "  fix: " in done.stderr
    assert sorted(tmp_path.rglob("*")) == before, "something was left behind"


def test_every_unknown_operator_is_listed(cli: Run, tmp_path: Path) -> None:
    done = cli("compile", stranger(tmp_path), "-o", tmp_path / "m.tw", "--json", tmp_path / "j")
    assert "Frob" in done.stderr
    assert "Nicate" in done.stderr
    told = json.loads((tmp_path / "j").read_text(encoding="utf-8"))
    assert (told["status"], told["exit_code"], told["error"]["code"]) == ("FAILED", 4, "unsupported-operators")
    assert told["error"]["fix"]
    assert not (tmp_path / "m.tw").exists()


def test_another_cpus_artifact_is_not_run(cli: Run, tmp_path: Path) -> None:
    if os.uname().machine == "aarch64":
        pytest.skip("it would run here")
    assert cli("compile", tiny(tmp_path), "-o", tmp_path / "m.tw", "-t", "cpu:aarch64").returncode == 0
    done = cli("run", tmp_path / "m.tw")
    assert done.returncode == 8
    assert "it holds cpu:aarch64" in done.stderr


def test_names_with_spaces_and_other_letters(cli: Run, tmp_path: Path) -> None:
    output = tmp_path / "ein Modell für 猫.tw"
    assert cli("compile", tiny(tmp_path), "-o", output, "-t", "cpu:native", "-q").returncode == 0
    assert cli("run", output).returncode == 0


def test_side_by_side_into_one_file(compiled: Compiled, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tilewright", "compile", compiled.model, "-t", "cpu:native", "--no-verify"]
    running = [started([*command, "-o", tmp_path / "m.tw"]) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["m.tw"]
    assert (tmp_path / "m.tw").read_bytes() == compiled.artifact.read_bytes()


def test_a_terminated_compile_leaves_nothing(compiled: Compiled, tmp_path: Path) -> None:
    process = started([sys.executable, "-m", "tilewright", "compile", compiled.model, "-o", tmp_path / "m.tw"])
    assert process.stderr is not None
    while "lower" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert not list(tmp_path.iterdir())


def started(command: list[str | Path]) -> subprocess.Popen[str]:
    """A process whose imports are ours, wherever it starts."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(p).absolute()) for p in paths if p)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
