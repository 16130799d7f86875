"""What compiling for NVIDIA GPUs tells with no GPU at hand: placement, host part, and what is only predicted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import tilewright as tw
from click.testing import CliRunner, Result
from tilewright.cli.main import main
from tilewright.runtime import ArtifactError, open_artifact
from tilewright.runtime.devices.driver import found
from tilewright.runtime.modules import read_modules

from tests.runtime.rewrite import rewrite

from .parts import REASON, gru_artifact, gru_model, no_routines, saved

pytestmark = pytest.mark.usefixtures("triton", "host_part")


#: What these tests say of a machine without a GPU is not so on one with.
WITHOUT = pytest.mark.skipif(found("libcuda.so.1")[0] == "ok", reason="this machine has an NVIDIA GPU")


@pytest.fixture
def host_part() -> Iterator[None]:
    with no_routines():
        yield


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_the_report_counts_the_host_part() -> None:
    device, cpu = gru_artifact().report.targets
    assert (device.launches, device.distinct, device.host, device.host_distinct) == (4, 3, "cpu:x86-64-v3", 1)
    assert device.fallback == (f"GRU 'gru': {REASON}",)
    assert (cpu.launches, cpu.fallback, cpu.host, cpu.predicted) == (4, (), "", None)


def test_what_is_predicted_is_bytes_over_bandwidth() -> None:
    """Relu, the input's product and Add at the example size, from the data of sm_80; the host part is not in it."""
    predicted = gru_artifact().report.targets[0].predicted
    assert predicted is not None and predicted.at == "N=32" and predicted.bound_by == {"memory": 1.0}
    moved = 2 * 32 * 16 * 4 + (32 * 16 + 12 * 16 + 32 * 12) * 4 + (2 * 32 * 4 + 4) * 4
    assert predicted.seconds == pytest.approx(moved / 2039e9)
    assert predicted.left_out == 0 and gru_artifact().report.targets[0].schedules == {"heuristic": 3}


@WITHOUT
def test_screen_and_json(tmp_path: Path) -> None:
    onnx.save(gru_model(), tmp_path / "m.onnx")
    shape = ("--input-shape", "x:1..64x1x16")
    told = ("--json", tmp_path / "r.json", "--progress", "none")
    result = invoke("compile", tmp_path / "m.onnx", "-t", "cuda:sm_80", "-o", tmp_path / "m.tw", *shape, *told)
    assert result.exit_code == 0, result.output
    assert "cuda:sm_80  3/4 kernels on device, 1 on the host  3 distinct" in result.output
    assert f"on the host: GRU 'gru': {REASON}" in result.output
    assert "predicted at least" in result.output and "no device here" in result.output
    assert "schedules  3 heuristic, none tuned" in result.output
    # Nothing was run, and that is said.
    assert "accuracy   not checked: " in result.output and "PASS (" not in result.output
    (target,) = json.loads((tmp_path / "r.json").read_text())["report"]["targets"]
    assert target["predicted"]["seconds"] > 0
    strict = ("-t", "cuda:sm_80", "--fallback", "forbid")
    forbidden = invoke("compile", tmp_path / "m.onnx", "-o", tmp_path / "n.tw", *strict)
    assert forbidden.exit_code == 4 and not (tmp_path / "n.tw").exists()


@WITHOUT
def test_compile_says_that_nothing_was_verified() -> None:
    with pytest.warns(UserWarning, match="compiled but not verified"):
        tw.compile(gru_model(), targets=("cuda:sm_80",), input_shapes={"x": ("1..64", 1, 16)})


@WITHOUT
def test_verify_says_what_it_ran_on(tmp_path: Path) -> None:
    """With no GPU the part for one is never claimed; alone it is an error of the device."""
    onnx.save(gru_model(), tmp_path / "m.onnx")
    both, alone = saved(gru_artifact(), tmp_path), tmp_path / "alone.tw"
    result = invoke("verify", both, "--ref", tmp_path / "m.onnx")
    assert result.exit_code == 0, result.output
    assert "cpu:x86-64-v3 beside " in result.output and "not checked on cuda:sm_80: no NVIDIA driver" in result.output
    tw.compile(gru_model(), targets=("cuda:sm_80",), input_shapes={"x": ("1..64", 1, 16)}, verify=False).save(alone)
    missing = invoke("verify", alone, "--ref", tmp_path / "m.onnx")
    assert missing.exit_code == 8 and "PASSED" not in missing.output


def test_check_tells_operators_of_the_host_part(tmp_path: Path) -> None:
    onnx.save(gru_model(), tmp_path / "m.onnx")
    told = invoke("check", tmp_path / "m.onnx", "-t", "cuda:sm_80", "-t", "cpu:x86-64-v3")
    assert told.exit_code == 0, told.output
    rows = {line.split()[0]: line.split(None, 2)[2] for line in told.output.splitlines() if " 1 " in line}
    assert rows["Add"].split() == ["kernel", "kernel"]
    assert rows["GRU"].split() == ["host", "part", "routine"]
    assert REASON in told.output
    assert invoke("check", tmp_path / "m.onnx", "-t", "cuda:sm_80", "--fallback", "forbid").exit_code == 4


def test_inspect(tmp_path: Path) -> None:
    path = saved(gru_artifact(), tmp_path)
    result = invoke("inspect", path, "--plan", "--kernels", "--target", "cuda:sm_80")
    assert result.exit_code == 0, result.output
    assert "3 kernels: machine code for sm_80" in result.output
    assert "main: 3 launches on the device, 1 on the host" in result.output
    assert "2 copies between the two" in result.output
    assert "on the host: gru_" in result.output  # the plan's own text
    assert "blocks of 128 threads" in result.output
    assert "work and time not predicted" in result.output and "no device here" in result.output
    assert invoke("inspect", path, "--plan", "--target", "cuda:sm_90").exit_code == 2


DAMAGE = {
    "empty": lambda data: b"",
    "magic": lambda data: b"XXXX" + data[4:],
    "version": lambda data: data[:4] + (2).to_bytes(4, "little") + data[8:],
    "another architecture": lambda data: data[:8] + (90).to_bytes(4, "little") + data[12:],
    "more kernels": lambda data: data[:12] + (4).to_bytes(4, "little") + data[16:],
    "fewer kernels": lambda data: data[:12] + (1).to_bytes(4, "little") + data[16:],
    "many words": lambda data: data[:16] + (2**32 - 1).to_bytes(4, "little") + data[20:],
    "long strings": lambda data: data[:20] + (2**31).to_bytes(4, "little") + data[24:],
    "long blobs": lambda data: data[:24] + (2**64 - 1).to_bytes(8, "little") + data[32:],
    "a name outside": lambda data: data[:32] + (2**20).to_bytes(4, "little") + data[36:],
    "code outside": lambda data: data[:56] + (2**40).to_bytes(8, "little") + data[64:],
    "truncated": lambda data: data[:-1],
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_damaged_modules_are_found_without_a_gpu(change: object) -> None:
    data = gru_artifact().to_bytes()
    member = "cuda/sm_80/modules.bin"
    whole = open_artifact(data)
    target = next(t for t in whole.manifest.targets if t.has_modules)
    modules = read_modules(whole, target)
    assert modules.arch == 80 and modules.has_ptx and len(modules.kernels) == 3
    assert callable(change)
    changed = open_artifact(rewrite(data, {member: change(bytes(whole.bytes_of(member)))}))
    with pytest.raises(ArtifactError, match=r"modules\.bin") as caught:
        read_modules(changed, target)
    assert caught.value.exit_code == 9
