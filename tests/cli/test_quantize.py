"""``quantize`` and ``compile --precision`` from outside: what they print and write, how they end, what they refuse."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from tilewright.cli.main import main

from tests.quantize.chains import chain, chain_file, rows

from .conftest import Run

HERE = ("-t", "cpu:x86-64-v3")
WIDTHS = (16, 32, 16)
Given = Callable[[Path], list[str | Path]]


def samples(folder: Path, name: str = "x", **change: Any) -> Path:
    """Eight samples, all of them in one array; ``change`` replaces elements or the array."""
    x = np.concatenate([feed["x"] for feed in rows(WIDTHS[0])])
    x = change.get("array", x)
    if "at" in change:
        x[change["at"]] = change["value"]
    np.savez(folder / "c.npz", **{name: x})
    return folder / "c.npz"


def model(folder: Path) -> Path:
    return chain_file(folder, WIDTHS)


def quantize(method: str, *more: str | Path) -> Given:
    return lambda f: ["quantize", model(f), "--method", method, *HERE, *more]


def with_data(method: str, *more: str | Path, **change: Any) -> Given:
    return lambda f: [*quantize(method, *more)(f), "--calib", samples(f, **change)]


def file(folder: Path, data: bytes) -> Path:
    (folder / "r.jsonl").write_bytes(data)
    return folder / "r.jsonl"


def quantized_already(folder: Path) -> list[str | Path]:
    """The smallest quantized model: what is read passes through Q and DQ."""
    proto = chain(WIDTHS)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.1), "s"))
    proto.graph.node[0].input[0] = "dq"
    for i, (kind, given, made) in enumerate((("QuantizeLinear", "x", "q"), ("DequantizeLinear", "q", "dq"))):
        proto.graph.node.insert(i, onnx.helper.make_node(kind, [given, "s"], [made]))
    onnx.save(proto, folder / "q.onnx")
    return ["quantize", folder / "q.onnx", "--method", "int8", *HERE, "--calib", samples(folder)]


#: What is done → exit code, error code, and a word that the message must have.
BAD: dict[str, tuple[Given, int, str, str]] = {
    "no samples": (with_data("int8", array=np.zeros((0, 16), np.float32)), 2, "calibration-empty", "no elements"),
    "NaN": (with_data("int8", at=(3, 4), value=np.nan), 2, "calibration-not-finite", "'x'"),
    "another name": (with_data("int8", name="y"), 2, "calibration-names", "the inputs are x"),
    "another shape": (with_data("int8", array=np.ones((4, 7), np.float32)), 2, "calibration-shape", "16"),
    "another type": (with_data("int8", array=np.ones((4, 16))), 2, "calibration-type", "float64"),
    "a pickle": (
        lambda f: [*quantize("int8")(f), "--calib", file(f, pickle.dumps([1]))],
        2,
        "calibration-unreadable",
        "r.jsonl",
    ),
    "no data": (quantize("int8"), 2, "calibration-missing", "--calib"),
    "no data for 4 bits": (quantize("int4"), 2, "calibration-missing", "--algorithm rtn"),
    "auto without data": (quantize("auto", "--max-drop", "0.01"), 2, "auto-needs", "--calib"),
    "auto without a bound": (with_data("auto"), 2, "auto-needs", "--max-drop"),
    "a bound that nothing keeps": (with_data("auto", "--max-drop", "-1"), 5, "bound-missed", "even with every layer"),
    "a layer that is not there": (with_data("int8", "--except", "conv*"), 2, "unknown-layer", "layer0"),
    "twice": (quantized_already, 2, "already-quantized", "2 nodes"),
    "no records": (
        with_data("auto", "--max-drop", "0.1", "--records", "none"),
        2,
        "records-unreadable",
        "no such file",
    ),
    "records of something else": (
        lambda f: [*with_data("auto", "--max-drop", "0.1")(f), "--records", file(f, b'{"a": 1}\n')],
        2,
        "records-unreadable",
        "line 1",
    ),
    "no folder for the model": (with_data("int8", "-o", "no/q.onnx"), 2, "no-such-folder", "no"),
    "how, and not to what": (lambda f: ["compile", model(f), "--max-drop", "0.1"], 2, "precision-missing", "precision"),
    "data for nothing": (lambda f: ["compile", model(f), "--calib", samples(f)], 2, "precision-missing", "precision"),
    "a precision that the target lacks": (
        lambda f: ["compile", model(f), *HERE, "--precision", "tf32"],
        10,
        "precision-not-honoured",
        "layer1",
    ),
    "a method of another precision": (
        lambda f: ["compile", model(f), "--precision", "int4", "--method", "smoothquant"],
        2,
        "unknown-method",
        "int4",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, exit_code, code, word = BAD[name]
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    arguments = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == exit_code, done.output
    assert "Traceback" not in done.stderr
    assert f"error[{code}] " in done.stderr
    assert word in done.stderr
    assert "  fix: " in done.stderr
    assert sorted(tmp_path.rglob("*")) == before, "something was left behind"


def test_ranges_of_zero(cli: Run, tmp_path: Path) -> None:
    zeros = samples(tmp_path, array=np.zeros((64, 16), np.float32))
    done = cli("quantize", model(tmp_path), "--method", "int8", *HERE, "--calib", zeros, "-o", tmp_path / "q.onnx")
    assert done.returncode == 0, done.stderr
    onnx.checker.check_model(onnx.load(tmp_path / "q.onnx"), full_check=True)


def test_what_quantize_tells_and_writes(cli: Run, tmp_path: Path) -> None:
    output, told = tmp_path / "q.onnx", tmp_path / "q.json"
    done = cli(*with_data("int8", "-o", output, "--json", told)(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    labels = [line.partition("  ")[0] for line in done.stdout.splitlines()]
    assert [x for x in labels if x] == [
        *("model", "targets", "method", "precision", "written", "layer", "layer0", "layer1", "PASSED"),
    ]
    assert "requested int8 → actual int8 × int8 2" in done.stdout
    assert "on 2 samples held out of 8" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100
    facts = json.loads(told.read_text(encoding="utf-8"))["precision"]
    assert [layer["got"] for layer in facts["groups"][0]["layers"]] == ["int8 × int8"] * 2
    assert facts["calibration"]["main"][0] == "c.npz"
    onnx.checker.check_model(onnx.load(output), full_check=True)


def test_random_data_is_told(cli: Run, tmp_path: Path) -> None:
    done = cli(*quantize("int8", "--calib", "random:4", "-o", tmp_path / "q.onnx")(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "CALIBRATED ON RANDOM DATA" in done.stdout


def test_a_quantized_artifact_is_judged_by_its_bound(cli: Run, tmp_path: Path) -> None:
    told = tmp_path / "c.json"
    data = samples(tmp_path)
    arguments = ("compile", model(tmp_path), *HERE, "--calib", data, "-o", tmp_path / "m.tw", "--json", told)
    done = cli(*arguments, "--precision", "int8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "requested int8 → actual int8 × int8 2" in done.stdout
    assert "may be 0.01 by default" in done.stdout
    report = json.loads(told.read_text(encoding="utf-8"))
    assert report["verification"]["judged"]["drop"] <= 0.01
    assert report["report"]["requested"]["calibration"]["main"][0] == "c.npz"
    again = cli(*arguments, "--precision", "int8", "--max-drop", "0.0000001")
    assert again.returncode == 5
    assert "error[bound-missed]" in again.stderr
    assert "--except layer" in again.stderr


def test_records_are_measured_and_read(cli: Run, tmp_path: Path) -> None:
    data, records = samples(tmp_path), tmp_path / "r.jsonl"
    arguments = ("quantize", model(tmp_path), "-t", "cpu:native", "--calib", data, "-o", tmp_path / "q.onnx")
    done = cli(*arguments, "--method", "int8", "--measure-records", records)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    assert len(lines) >= 4
    assert all(line["seconds"] > 0 and line["target"].startswith("cpu:") for line in lines)
    done = cli(*arguments, "--method", "auto", "--max-drop", "0.5", "--records", records)
    assert done.returncode == 0, done.stderr
    assert "measured times: r.jsonl" in done.stdout
