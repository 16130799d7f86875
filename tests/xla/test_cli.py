"""Artifacts of programs on the command line, and in every way of checking and measuring."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import tilewright as tw
from click.testing import CliRunner, Result
from tilewright import runtime
from tilewright.cli.main import main
from tilewright.errors import UnsupportedError, UsageError

from tests.xla import models

pytest.importorskip("jaxlib")

SHAPE = ("--input-shape", f"x:1..4,{models.WIDTH}")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    onnx.save(models.with_host(), path / "host.onnx")
    onnx.save(models.product(), path / "product.onnx")
    return path


@pytest.fixture(scope="module")
def mixed(folder: Path) -> Path:
    """For the processor and for XLA, checked on both while it is compiled."""
    out = folder / "mixed.tw"
    result = invoke("compile", folder / "host.onnx", "-t", "cpu:x86-64-v3", "-t", "xla:cpu", "-o", out, *SHAPE)
    assert result.exit_code == 0, result.output
    assert "cpu:x86-64-v3 and xla:cpu beside" in result.output
    assert "2/3 nodes on device, 1 fallback" in result.output
    assert "on the host: NonZero 'node_2': NonZero has no form in StableHLO" in result.output
    return out


def test_run_on_each_device(mixed: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, models.WIDTH)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    for device in ("auto", "xla-cpu"):
        result = invoke(
            *(
                "run",
                mixed,
                "--device",
                device,
                "--input",
                f"x=@{tmp_path / 'x.npy'}",
                "--output-dir",
                tmp_path / device,
            )
        )
        assert result.exit_code == 0, result.output
    for name in ("y", "found"):
        ours, theirs = (np.load(tmp_path / d / f"{name}.npy") for d in ("auto", "xla-cpu"))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_exit_codes_of_devices(mixed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TILEWRIGHT_ALLOW_JIT")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = invoke("run", mixed, "--device", "tpu")
    assert result.exit_code == 8 and "it holds cpu:x86-64-v3, xla:cpu" in result.output
    result = invoke("run", mixed, "--device", "xla-cpu")
    assert result.exit_code == 8 and "main-0.0.vhlo" in result.output and "--allow-jit" in result.output
    result = invoke("run", mixed, "--device", "xla-cpu", "--allow-jit", "--json", tmp_path / "j.json")
    assert result.exit_code == 0 and "by XLA, here" in result.output
    assert json.loads((tmp_path / "j.json").read_text())["jit_seconds"] > 0
    result = invoke("run", mixed, "--device", "xla-cpu")
    assert result.exit_code == 0 and "by XLA, here" not in result.output
    assert invoke("run", mixed, "--device", "xla-cpu", "--no-cache").exit_code == 8


def test_the_runtime_alone(mixed: Path) -> None:
    child = [sys.executable, "-m", "tilewright.runtime", "run", str(mixed), "--device", "xla-cpu", "--allow-jit"]
    done = subprocess.run([*child, "--profile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "y: f32[1, 8]" in done.stdout and "host part main-1" in done.stdout
    shown = subprocess.run([*child[:3], "inspect", str(mixed)], capture_output=True, text=True, check=True).stdout
    assert "program main-0  1 weights, portable only, 3 buckets: N≤1, N≤2, N≤4" in shown


def test_inspect_tells_programs_and_placement(mixed: Path) -> None:
    result = invoke("inspect", mixed)
    assert result.exit_code == 0, result.output
    assert "xla:cpu  programs and plan" in result.output and "host part for x86_64" in result.output
    assert "host part main-1  1 in, 1 out (i64)" in result.output
    result = invoke("inspect", mixed, "--kernels", "--target", "xla:cpu")
    assert result.exit_code == 2 and "programs, whose work" in result.output


def test_verify_checks_every_part(mixed: Path, folder: Path) -> None:
    result = invoke("verify", mixed, "--ref", folder / "host.onnx")
    assert result.exit_code == 0 and "cpu:x86-64-v3 and xla:cpu beside" in result.output


def test_bench_on_a_device(mixed: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    result = invoke("bench", mixed, "--device", "xla-cpu", "--seconds", "0.2", "--profile", trace)
    assert result.exit_code == 0, result.output
    events = json.loads(trace.read_text())["traceEvents"]
    assert [e["name"] for e in events] == ["main-0.0.vhlo", "host part main-1"]


def test_export(mixed: Path, folder: Path, tmp_path: Path) -> None:
    result = invoke("export", mixed, "--as", "dir", "-o", tmp_path / "dir")
    assert result.exit_code == 0 and (tmp_path / "dir/members/xla/cpu/program.json").is_file()
    only = tmp_path / "only.tw"
    assert invoke("compile", folder / "product.onnx", "-t", "xla:cpu", "-o", only, "--no-verify", *SHAPE).exit_code == 0
    result = invoke("export", only, "--as", "so", "-o", tmp_path / "x.so")
    assert result.exit_code == 4, result.output
    assert invoke("export", only, "--as", "dir", "-o", tmp_path / "other").exit_code == 0


def test_dump_ir_has_the_programs(folder: Path, tmp_path: Path) -> None:
    result = invoke(
        *("compile", folder / "product.onnx", "-t", "xla:cpu", "-o", tmp_path / "m.tw", "--no-verify", *SHAPE),
        *("--dump-ir", tmp_path / "ir"),
    )
    assert result.exit_code == 0, result.output
    texts = sorted((tmp_path / "ir").rglob("*.mlir"))
    assert len(texts) == 3 and "stablehlo.dot_general" in texts[0].read_text()


# -- placement ---------------------------------------------------------------------------------------------------------


def test_a_forbidden_host_part_names_every_node(folder: Path, tmp_path: Path) -> None:
    result = invoke(
        *("compile", folder / "host.onnx", "-t", "xla:cpu", "-o", tmp_path / "m.tw", "--fallback", "forbid", *SHAPE)
    )
    assert result.exit_code == 4 and "NonZero 'node_2': NonZero has no form" in result.output
    text = "g (float[3, 4] x) => (int64[2, n] a, int64[2, m] b) { a = NonZero(x) y = Neg(x) b = NonZero(y) }"
    with pytest.raises(UnsupportedError) as caught:
        tw.compile(models.parsed(text), ("xla:cpu",), fallback="forbid", verify=False)
    assert len(caught.value.problems) == 2
    with pytest.raises(UsageError, match="there is no 'never'"):
        tw.compile(models.product(), ("xla:cpu",), fallback="never", verify=False)


def test_allowed_nodes_are_counted_only(folder: Path, tmp_path: Path) -> None:
    result = invoke(
        *("compile", folder / "host.onnx", "-t", "xla:cpu", "-o", tmp_path / "m.tw", "--fallback", "allow"),
        *("--no-verify", *SHAPE),
    )
    assert result.exit_code == 0, result.output
    assert "1 fallback" in result.output and "on the host:" not in result.output


def test_check_tells_what_is_on_the_host_part(folder: Path) -> None:
    checked = tw.check(models.with_host(), ("xla:cpu", "cpu"))
    assert checked.ok and checked.programs == ("xla:cpu",)
    assert [(i.operator, i.target) for i in checked.on_host] == [("NonZero", "xla:cpu")]
    assert not tw.check(models.with_host(), ("xla:cpu",), fallback="forbid").ok
    result = invoke("check", folder / "host.onnx", "-t", "xla:cpu", "-t", "cpu:x86-64-v3")
    assert result.exit_code == 0, result.output
    assert [line.split() for line in result.output.splitlines() if line.startswith("NonZero")] == [
        ["NonZero", "1", "host", "part", "routine"]
    ]
    assert invoke("check", folder / "host.onnx", "-t", "xla:cpu", "--fallback", "forbid").exit_code == 4


def test_check_goes_on_with_what_nothing_computes() -> None:
    text = "g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) { y = RandomNormalLike(x) z = Relu(x) }"
    checked = tw.check(models.parsed(text), ("xla:cpu",))
    assert not checked.ok and [i.operator for i in checked.issues] == ["RandomNormalLike"]


def test_check_operators_of_a_target_of_programs() -> None:
    result = invoke("check", "--operators", "-t", "xla:cpu")
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line for line in result.output.splitlines() if line and line[0].isupper()}
    assert rows["MatMul"].split()[2:4] == ["kernel", "program"]
    assert rows["NonZero"].split()[2:5] == ["routine", "host", "part"]


# -- several parts, several entry points -----------------------------------------------------------------------------


def test_a_part_that_cannot_run_here_is_told_as_unchecked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilewright import engines
    from tilewright.engines import EngineError

    run = engines.run_apart

    def apart(name, path, feeds, device="auto", entry=None):  # type: ignore[no-untyped-def]
        if device == "xla:cpu":
            raise EngineError("device-missing", where="device", cause="no such chip", fix="-", exit_code=8)
        return run(name, path, feeds, device, entry)

    artifact = tw.compile(models.product(), ("cpu:x86-64-v3", "xla:cpu"), verify=False, input_shapes={"x": (2, 8)})
    monkeypatch.setattr(engines, "run_apart", apart)
    checked = tw.verify(artifact, models.product())
    assert [p.target for p in checked.parts] == ["cpu:x86-64-v3"]
    assert checked.unchecked == (("xla:cpu", "no such chip"),)


def test_one_file_for_a_processor_xla_and_a_tpu(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.tw"
    targets = ("-t", "cpu:x86-64-v3", "-t", "xla:cpu", "-t", "tpu:v5e")
    result = invoke("compile", folder / "host.onnx", *targets, "--no-ahead", "-o", out, *SHAPE)
    assert result.exit_code == 0, result.output
    assert "cpu:x86-64-v3 and xla:cpu beside" in result.output and "not checked on tpu:v5e" in result.output
    for device in ("tpu", "tpu-v5e", "tpu:v5e"):
        result = invoke("run", out, "--device", device, "--allow-jit")
        assert result.exit_code == 8 and ("no TPU chip" in result.output or "libtpu" in result.output), result.output
    manifest = runtime.open_artifact(out).manifest
    assert [t.target for t in manifest.targets] == ["cpu:x86-64-v3", "tpu:v5e", "xla:cpu"]
    assert len([w for w in manifest.weights if w.size == 4 * models.WIDTH**2]) == 1


def test_entry_points_are_verified_and_run() -> None:
    entries = {"grow": models.counter(), "more": models.counter()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        artifact = tw.compile(entries, ("xla:cpu", "cpu:x86-64-v3"), states={"past": "present"})
    session = tw.load(artifact, "xla-cpu", entry="more")
    past = np.zeros(models.WIDTH, np.float32)
    for turn in range(1, 4):
        session.run(None, {"past": past, "x": np.ones(models.WIDTH, np.float32)}, out={"present": past})
        assert past.tolist() == [turn] * models.WIDTH


def test_bytes_do_not_hang_on_the_folder(folder: Path, tmp_path: Path) -> None:
    made = []
    environment = os.environ | {"PYTHONPATH": str(Path(tw.__file__).absolute().parent.parent)}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        source = tmp_path / name / "host.onnx"
        source.write_bytes((folder / "host.onnx").read_bytes())
        script = "import sys; from tilewright.cli.main import main; main()"
        out = tmp_path / name / "m.tw"
        command = [sys.executable, "-c", script, "compile", str(source), "-t", "xla:cpu", "-t", "cpu:x86-64-v3"]
        command += ["-o", str(out), "--no-verify", "-q", *SHAPE]
        subprocess.run(command, cwd=tmp_path / name, env=environment, check=True, capture_output=True)
        made.append(out.read_bytes())
    assert made[0] == made[1]
    runtime.open_artifact(made[0]).verify()
