"""Every command on a small model: what it prints, what it writes, and how it ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from tilewright.cli.main import COMMANDS, main

from .conftest import Compiled, Run

GOLDEN = Path(__file__).parent / "golden"


def tiny(folder: Path, op: str = "Relu", domain: str = "") -> Path:
    """A model of one node."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], domain=domain)], "tiny", values[:1], values[1:])
    imports = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    path = folder / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str, update_golden: bool) -> None:
    arguments = [*([command] if command else []), "--help"]
    result = CliRunner().invoke(main, arguments, terminal_width=100)
    assert result.exit_code == 0
    path = GOLDEN / f"help-{command or 'tilewright'}.txt"
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(result.output, encoding="utf-8")
    assert result.output == path.read_text(encoding="utf-8")


def test_summary_block(compiled: Compiled) -> None:
    labels = [line[:11].strip() for line in compiled.done.stdout.splitlines()]
    expected = ["model", "inputs", "target", "precision", "accuracy", "", "artifact", "", "build", "PASSED"]
    assert labels == expected
    assert re.search(r"^ +cpu:\S+ beside onnx\S* \d", compiled.done.stdout, re.MULTILINE)


def test_progress_lines_are_plain_without_a_terminal(compiled: Compiled) -> None:
    stages = re.findall(r"^\[ *[\d.]+ s\] (\w+)", compiled.done.stderr, re.MULTILINE)
    assert stages == ["import", "optimize", "lower", "build", "package", "verify", "write"]
    assert "\x1b" not in compiled.done.stderr + compiled.done.stdout


def test_json_of_compile(compiled: Compiled) -> None:
    told = json.loads((compiled.artifact.parent / "compile.json").read_text(encoding="utf-8"))
    assert (told["schema"], told["command"], told["status"], told["exit_code"]) == (1, "compile", "PASSED", 0)
    assert told["report"]["artifact_bytes"] == compiled.artifact.stat().st_size
    assert told["verification"]["ok"] is True
    (part,) = told["verification"]["parts"]
    assert all(c["relative"] <= c["tolerance"] for sample in part["comparisons"] for c in sample)


def test_quiet_is_silent(compiled: Compiled, cli: Run, tmp_path: Path) -> None:
    done = cli("compile", tiny(tmp_path), "-o", tmp_path / "q.tw", "-t", "cpu:native", "-q", "--no-verify")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "q.tw").exists()


def test_run_writes_outputs_and_expects_them(compiled: Compiled, cli: Run, tmp_path: Path) -> None:
    first = cli("run", compiled.artifact, "--input-shape", "input_ids:3,7", "--output-dir", tmp_path)
    assert first.returncode == 0, first.stderr
    output = np.load(tmp_path / "sentence_embedding.npy")
    assert output.shape == (3, 64)
    expect = f"sentence_embedding=@{tmp_path / 'sentence_embedding.npy'}"
    again = cli("run", compiled.artifact, "--input-shape", "input_ids:3,7", "--expect", expect, "--threads", "1")
    assert again.returncode == 0, again.stdout + again.stderr
    np.save(tmp_path / "sentence_embedding.npy", output + np.float32(0.01))
    off = cli("run", compiled.artifact, "--input-shape", "input_ids:3,7", "--expect", expect)
    assert off.returncode == 5
    assert "output-unexpected" in off.stderr


def test_verify_reports(compiled: Compiled, cli: Run, tmp_path: Path) -> None:
    junit = tmp_path / "j.xml"
    done = cli("verify", compiled.artifact, "--ref", compiled.model, "--junit", junit, "--input-shape", "input_ids:2,9")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "PASSED"
    suite = ElementTree.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "0")


def test_verify_names_the_reference_that_was_asked_for(compiled: Compiled, cli: Run) -> None:
    done = cli("verify", compiled.artifact, "--ref", compiled.model, "--engine", "onnx.reference")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "beside onnx.reference" in done.stdout


def test_a_wrong_model_fails_verification(compiled: Compiled, cli: Run, tmp_path: Path) -> None:
    from models import minilm

    other, told = minilm.build_small(tmp_path, seed=1), tmp_path / "v.json"
    done = cli("verify", compiled.artifact, "--ref", other, "--json", told)
    assert done.returncode == 5
    assert "FAILED" in done.stdout
    assert json.loads(told.read_text(encoding="utf-8"))["error"]["code"] == "accuracy-below"


def test_a_bound_on_the_cosine_judges_several_samples(compiled: Compiled, cli: Run, tmp_path: Path) -> None:
    from models import minilm

    other, told = minilm.build_small(tmp_path, seed=1), tmp_path / "v.json"
    names = ("input_ids", "attention_mask", "token_type_ids")
    data = []
    for i, length in enumerate((5, 9)):
        np.savez(tmp_path / f"{i}.npz", **{n: np.ones((2, length), np.int64) for n in names})
        data += ["--data", tmp_path / f"{i}.npz"]
    passed = cli("verify", compiled.artifact, "--ref", other, *data, "--min-accuracy", "-1")
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "PASS (cosine at least -1)" in passed.stdout
    assert re.search(r"^ +all +sentence_embedding +cosine \S+ +SNR \S+ dB", passed.stdout, re.MULTILINE)
    failed = cli("verify", compiled.artifact, "--ref", other, *data, "--min-accuracy", "0.999", "--json", told)
    assert failed.returncode == 5
    verification = json.loads(told.read_text(encoding="utf-8"))["verification"]
    assert len(verification["parts"][0]["comparisons"]) == 2
    assert verification["parts"][0]["totals"][0]["minimum"] == 0.999


def test_every_part_of_an_artifact_is_verified(compiled: Compiled, cli: Run, tmp_path: Path) -> None:
    targets = ("-t", "cpu:x86-64-v2", "-t", "cpu:native", "-t", "cpu:aarch64")
    done = cli("compile", tiny(tmp_path), "-o", tmp_path / "m.tw", *targets)
    assert done.returncode == 0, done.stderr
    (checked,) = re.findall(r"^ +(cpu:\S+) and (cpu:\S+) beside", done.stdout, re.MULTILINE)
    assert "cpu:x86-64-v2" in checked
    assert "not checked on cpu:aarch64: " in done.stdout


def test_another_machines_artifact_is_written_and_said_to_be_unchecked(cli: Run, tmp_path: Path) -> None:
    done = cli("compile", tiny(tmp_path), "-o", tmp_path / "m.tw", "-t", "cpu:aarch64")
    assert done.returncode == 0, done.stderr
    assert "accuracy   not checked: it holds cpu:aarch64" in done.stdout
    assert (tmp_path / "m.tw").exists()
    assert cli("verify", tmp_path / "m.tw", "--ref", tmp_path / "tiny.onnx").returncode == 8


def test_data_of_other_names_is_refused(compiled: Compiled, cli: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", ids=np.ones((1, 2), np.int64))
    done = cli("verify", compiled.artifact, "--ref", compiled.model, "--data", tmp_path / "d.npz")
    assert done.returncode == 2
    assert "error[data-names]" in done.stderr


def test_an_inaccurate_artifact_is_not_written(cli: Run, compiled: Compiled, tmp_path: Path) -> None:
    output = tmp_path / "a.tw"
    done = cli("compile", compiled.model, "-o", output, "-t", "cpu:native", "--tolerance", "1e-12")
    assert done.returncode == 5
    assert not list(tmp_path.iterdir())


def test_inspect(compiled: Compiled, cli: Run) -> None:
    done = cli("inspect", compiled.artifact, "--integrity", "--members")
    assert done.returncode == 0, done.stderr
    assert "input_ids: i64[batch, sequence]" in done.stdout
    assert "every SHA-256 matches" in done.stdout
    model = cli("inspect", compiled.model, "--nodes")
    assert model.returncode == 0, model.stderr
    assert "LayerNormalization" in model.stdout


def test_inspect_tells_of_kernels(compiled: Compiled, cli: Run, tmp_path: Path) -> None:
    told = tmp_path / "i.json"
    done = cli("inspect", compiled.artifact, "--kernels", "--input-shape", "input_ids:2,16", "--json", told)
    assert done.returncode == 0, done.stderr
    assert "100% from scheduled tile IR" in done.stdout
    assert "× the live maximum" in done.stdout
    assert "measured" not in done.stdout
    (run,) = json.loads(told.read_text(encoding="utf-8"))["runs"]
    assert run["sizes"] == {"batch": 2, "sequence": 16}
    assert {k["kind"] for k in run["kernels"]} >= {"contraction", "scan"}
    measured = cli("inspect", compiled.artifact, "--measure", "--input-shape", "input_ids:2,16")
    assert measured.returncode == 0, measured.stderr
    assert "of what this machine allows" in measured.stdout


def test_export_runs_by_itself(compiled: Compiled, cli: Run, tmp_path: Path) -> None:
    program, told = tmp_path / "small", tmp_path / "e.json"
    done = cli("export", compiled.artifact, "--as", "exe", "-o", program, "--json", told)
    assert done.returncode == 0, done.stderr
    assert json.loads(told.read_text(encoding="utf-8"))["files"] == [str(program)]
    helped = subprocess.run([program, "--help"], capture_output=True, text=True, check=False, env={})
    assert "input_ids" in helped.stdout + helped.stderr
    folder = cli("export", compiled.artifact, "--as", "dir", "-o", tmp_path / "d")
    assert folder.returncode == 0, folder.stderr
    assert (tmp_path / "d" / "tilewright.h").exists()


def test_opt_writes_an_equal_model(compiled: Compiled, cli: Run, tmp_path: Path) -> None:
    output = tmp_path / "o.onnx"
    passes = "fold-constants,recognise-gelu,eliminate-dead-code"
    done = cli("opt", compiled.model, "-p", passes, "--verify-each", "-o", output)
    assert done.returncode == 0, done.stderr
    assert "recognise-gelu" in done.stdout
    onnx.checker.check_model(str(output))
    checked = cli("verify", compiled.artifact, "--ref", output)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_bench_beside_a_peer(compiled: Compiled, cli: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    told, trace = tmp_path / "b.json", tmp_path / "t.json"
    done = cli(
        *("bench", compiled.artifact, "--against", "onnxruntime", "--ref", compiled.model, "--threads", "1"),
        *("--seconds", "0.2", "--roofline", "--json", told, "--profile", trace),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(told.read_text(encoding="utf-8"))["benchmark"]
    (peer,) = result["peers"]
    assert peer["ratio"]["low"] <= peer["ratio"]["median"] <= peer["ratio"]["high"]
    assert peer["max_error"] < 1e-4
    assert 0 < result["roof"]["share"] < 1
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    assert events
    assert all(e["dur"] >= 0 for e in events)


@pytest.mark.parametrize("scenario", [("multi-stream",), ("offline",), ("server", "--rate", "50")])
def test_bench_scenarios(compiled: Compiled, cli: Run, scenario: tuple[str, ...]) -> None:
    done = cli("bench", compiled.artifact, "--seconds", "0.3", "--scenario", *scenario)
    assert done.returncode == 0, done.stderr
    assert f"scenario   {scenario[0]}" in done.stdout
    assert ("latency" in done.stdout) is (scenario[0] != "offline")


def test_doctor_and_targets(cli: Run) -> None:
    doctor = cli("doctor")
    assert doctor.returncode == 0, doctor.stdout
    assert re.search(r"^ok +toolchain", doctor.stdout, re.MULTILINE)
    assert "cpu:x86-64-v3" in cli("targets").stdout


def _damaged(compiled: Compiled, folder: Path) -> Path:
    data = bytearray(compiled.artifact.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path = folder / "damaged.tw"
    path.write_bytes(data)
    return path


def _truncated(source: Path, folder: Path) -> Path:
    path = folder / f"truncated{source.suffix}"
    path.write_bytes(source.read_bytes()[:-100])
    return path


def _text(folder: Path) -> Path:
    path = folder / "text.onnx"
    path.write_text("not a model")
    return path


def _without_weights(compiled: Compiled, folder: Path) -> Path:
    return Path(shutil.copy(compiled.model, folder / "alone.onnx"))


#: What is wrong → how it ends: exit code and error code. Each gives its arguments from the compiled model and a folder.
ENDINGS = {
    "no command": (lambda c, f: ["frobnicate"], 2, None),
    "no such option": (lambda c, f: ["compile", c.model, "--frobnicate"], 2, None),
    "no such model": (lambda c, f: ["compile", f / "none.onnx"], 2, "model-unreadable"),
    "not a model": (lambda c, f: ["compile", _text(f)], 3, "not-a-model"),
    "truncated model": (lambda c, f: ["compile", _truncated(c.model, f)], 3, "model-truncated"),
    "missing weights": (lambda c, f: ["compile", _without_weights(c, f)], 3, "external-data-missing"),
    "unknown operator": (lambda c, f: ["compile", tiny(f, "Frob", "com.example")], 4, "unsupported-operators"),
    "unknown target": (lambda c, f: ["compile", c.model, "-t", "abacus"], 2, "unknown-target"),
    "unknown pass": (lambda c, f: ["compile", c.model, "--stop-after", "fuse"], 2, "unknown-pass"),
    "bad shape": (lambda c, f: ["compile", c.model, "--input-shape", "input_ids:1,-2"], 2, "input-shape-syntax"),
    "no such input": (lambda c, f: ["compile", c.model, "--input-shape", "ids:1,2"], 2, "input-shape-name"),
    "no folder": (
        lambda c, f: ["compile", tiny(f), "--no-verify", "-o", f / "none" / "m.tw"],
        2,
        "no-such-folder",
    ),
    "no artifact": (lambda c, f: ["run", f / "none.tw"], 2, "no-such-file"),
    "damaged artifact": (lambda c, f: ["run", _damaged(c, f)], 9, "artifact-damaged"),
    "truncated artifact": (lambda c, f: ["run", _truncated(c.artifact, f)], 9, "artifact-damaged"),
    "not an artifact": (lambda c, f: ["run", _text(f)], 9, "artifact-damaged"),
    "missing device": (lambda c, f: ["run", c.artifact, "--device", "cuda"], 8, "device-missing"),
    "wrong sizes": (lambda c, f: ["run", c.artifact, "--input-shape", "input_ids:1,2,3"], 2, "input-shape-rank"),
    "peer without model": (lambda c, f: ["bench", c.artifact, "--against", "onnxruntime"], 2, "bench-arguments"),
    "unknown peer": (lambda c, f: ["bench", c.artifact, "--against", "frob", "--ref", c.model], 2, "bench-arguments"),
    "unknown code": (lambda c, f: ["explain", "frob"], 2, "unknown-code"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_exit_codes(name: str, compiled: Compiled, cli: Run, tmp_path: Path) -> None:
    arguments, exit_code, code = ENDINGS[name]
    work = tmp_path / "work"
    work.mkdir()
    done = cli(*arguments(compiled, tmp_path), cwd=work)
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not list(work.iterdir()), "something was left behind"
    if code:
        assert f"error[{code}]" in done.stderr
        assert "fix: " in done.stderr


def test_an_unexpected_error_leaves_a_bundle(tmp_path: Path) -> None:
    """A bug: exit 1, and a folder that reproduces it."""
    model = tiny(tmp_path)
    code = (
        "import tilewright.driver as d, sys\n"
        "def broken(*a, **k): raise ZeroDivisionError('boom')\n"
        "d.compile = broken\n"
        "from tilewright.cli.main import main\n"
        f"main(['compile', {str(model)!r}])\n"
    )
    environment = {**os.environ}
    if "PYTHONPATH" in environment:
        environment["PYTHONPATH"] = str(Path(environment["PYTHONPATH"]).absolute())
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    (bundle,) = work.iterdir()
    assert bundle.name in done.stderr
    assert {p.name for p in bundle.iterdir()} == {"traceback.txt", "command.json", "tiny.onnx"}
    assert "boom" in (bundle / "traceback.txt").read_text(encoding="utf-8")


def test_interrupting_a_compile_leaves_nothing(compiled: Compiled, tmp_path: Path) -> None:
    environment = {**os.environ}
    if "PYTHONPATH" in environment:
        environment["PYTHONPATH"] = str(Path(environment["PYTHONPATH"]).absolute())
    command = [sys.executable, "-m", "tilewright", "compile", str(compiled.model), "-o", "m.tw"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test runner in the background ignores SIGINT, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stderr is not None
    while "lower" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in told
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_no_room_for_the_artifact_leaves_nothing(compiled: Compiled, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the write fails half-way."""
    import resource

    environment = {**os.environ}
    if "PYTHONPATH" in environment:
        environment["PYTHONPATH"] = str(Path(environment["PYTHONPATH"]).absolute())
    command = [sys.executable, "-m", "tilewright", "compile", str(compiled.model), "-t", "cpu:native", "--no-verify"]
    size = compiled.artifact.stat().st_size // 2
    done = subprocess.run(
        [*command, "-o", "m.tw"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert done.returncode == 7, done.stderr
    assert not list(tmp_path.iterdir())


def test_same_bytes_in_another_folder(compiled: Compiled, cli: Run, tmp_path: Path) -> None:
    for file in compiled.model.parent.glob("small.*"):
        if file.suffix != ".tw":
            shutil.copy(file, tmp_path / file.name)
    done = cli("compile", "small.onnx", "-o", "again.tw", "-t", "cpu:native", "--no-verify", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.tw").read_bytes() == compiled.artifact.read_bytes()
