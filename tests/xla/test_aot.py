"""Programs compiled ahead of time by libtpu, with no TPU: executables, facts, cache, and what goes wrong."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tilewright import driver
from tilewright.backends.base import CompiledRegion, ProgramFacts, ProgramSettings
from tilewright.backends.xla import ahead, aot
from tilewright.cli import programs
from tilewright.cli.summary import summary
from tilewright.codegen.cache import CompileCache
from tilewright.errors import ExitCode, InternalError, ResourceError, UsageError
from tilewright.options import Options
from tilewright.plan.programs import Variant
from tilewright.selection import find_backend
from tilewright.target import Target

pytest.importorskip("jaxlib")

WEIGHT = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)


@pytest.fixture
def needs_libtpu() -> None:
    pytest.importorskip("libtpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompileCache:
    cache = CompileCache(tmp_path / "cache")
    monkeypatch.setattr(aot, "default_cache", lambda: cache)
    return cache


def v5e() -> Target:
    return find_backend("tpu", build=False).targets()["tpu:v5e"]


def product() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Tanh", ["p"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32])
    graph = helper.make_graph(nodes, "product", [x], [y], [numpy_helper.from_array(WEIGHT, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def job(text: str, name: str = "main-0") -> aot.Job:
    """StableHLO text as a job for one v5e."""
    from jaxlib.mlir import ir
    from tilewright.backends.xla.dialect import context, portable

    with context():
        return aot.Job(name, portable(ir.Module.parse(text)), "v5e:1x1", (1, 1, 1), "default")


def tanh(shape: str) -> str:
    return (
        f"func.func public @main(%a: tensor<{shape}xf32>) -> tensor<{shape}xf32> {{ "
        f"%0 = stablehlo.tanh %a : tensor<{shape}xf32> return %0 : tensor<{shape}xf32> }}"
    )


@pytest.mark.usefixtures("needs_libtpu")
def test_an_artifact_has_the_executable_and_its_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(("tpu:v5e",), (("x", ("8", "64")),))
    artifact = driver.compile(product(), options=options)
    (target,) = artifact.report.targets
    (facts,) = target.programs
    members = artifact.parts[0].members
    assert facts.flops >= 2 * 8 * 64 * 32
    assert facts.products == {"f32:HIGHEST": 2 * 8 * 64 * 32}
    assert facts.bytes >= WEIGHT.nbytes
    assert facts.arguments >= WEIGHT.nbytes + 8 * 64 * 4
    assert facts.memory >= facts.arguments + facts.results
    assert facts.fits is True
    assert facts.code_bytes == len(members["main-0.pjrt"]) > 0
    assert facts.compile_seconds > 0
    assert not facts.cached
    assert facts.predicted_seconds == max(facts.flops / v5e().peak["bf16"] * 6, facts.bytes / 8.19e11)
    assert {"jaxlib", "libtpu"} <= set(artifact.provenance["tools"])
    assert programs.read(json.loads(members["facts.json"])) == (replace(facts, compile_seconds=0.0, cached=False),)

    monkeypatch.setattr(aot, "run_process", lambda *_: pytest.fail("it is in the cache"))
    again = driver.compile(product(), options=options)
    (kept,) = again.report.targets[0].programs
    assert kept == replace(facts, cached=True)
    assert again.to_bytes() == artifact.to_bytes()

    lines = dict(summary(artifact.report, None, "not asked"))
    assert "main-0" in "\n".join(text for _, text in summary(artifact.report, None))
    assert "no device here" in lines["latency"]
    assert target.passes == "f32 products as 6 bf16 passes (HIGHEST)"


@pytest.mark.usefixtures("needs_libtpu")
def test_a_crash_leaves_a_bundle_that_shows_it_again() -> None:
    with pytest.raises(InternalError, match="SIGABRT") as error:
        aot.run_process(job(tanh("?")))
    assert error.value.bundle is not None
    folder = Path(error.value.bundle)
    assert "tensor<?xf32>" in (folder / "module.mlir").read_text(encoding="utf-8")
    assert json.loads((folder / "job.json").read_text(encoding="utf-8"))["topology"] == "v5e:1x1"
    assert json.loads((folder / "versions.json").read_text(encoding="utf-8"))["libtpu"]
    assert "count_overflow" in (folder / "stderr.txt").read_text(encoding="utf-8")
    again = subprocess.run([folder / "command.sh"], capture_output=True, check=False, timeout=120)
    assert again.returncode != 0
    assert b"SIGABRT" in again.stderr


def test_a_dynamic_dimension_never_reaches_libtpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aot, "run_process", lambda *_: pytest.fail("it was started"))
    with pytest.raises(InternalError, match="dynamic dimension"):
        aot.compile_jobs([job(tanh("?"))])


@pytest.mark.usefixtures("needs_libtpu")
def test_what_does_not_fit_is_no_bug() -> None:
    with pytest.raises(ResourceError, match=r"needs 37.25 GiB .* there are 15.75 GiB") as error:
        aot.run_process(job(tanh("5000000000")))
    assert error.value.code == "hbm-exceeded"
    assert error.value.exit_code == ExitCode.RESOURCE == 7
    assert "--bucket" in error.value.fix


@pytest.mark.usefixtures("needs_libtpu")
def test_a_compiler_that_hangs_is_ended() -> None:
    with pytest.raises(InternalError, match=r"over 0.01 s") as error:
        aot.run_process(job(tanh("8")), limit_s=0.01)
    assert error.value.bundle is not None


def test_a_killed_compiler_ran_out_of_memory() -> None:
    done = subprocess.CompletedProcess([], -9, "", "")
    error = aot._error(job(tanh("8")), done, "")
    assert isinstance(error, ResourceError)
    assert error.code == "ahead-memory"


def test_what_libtpu_refuses_in_words_is_told() -> None:
    done = subprocess.CompletedProcess([], 3, "", "a line of stderr")
    error = aot._error(job(tanh("8")), done, "UNIMPLEMENTED: no such operation")
    assert isinstance(error, InternalError)
    assert "UNIMPLEMENTED: no such operation" in str(error)


def test_a_damaged_entry_of_the_cache_is_no_entry(monkeypatch: pytest.MonkeyPatch, own_cache: CompileCache) -> None:
    monkeypatch.setattr(aot, "installed", lambda: {"jaxlib": "1", "libtpu": "2"})
    made = aot.Compiled(b"executable", {"seconds": 1.0}, False)
    monkeypatch.setattr(aot, "run_process", lambda *_: made)
    (first,) = aot.compile_jobs([job(tanh("8"))], own_cache)
    (second,) = aot.compile_jobs([job(tanh("8"))], own_cache)
    assert (first.cached, second.cached) == (False, True)
    assert second == replace(made, cached=True)
    for path in own_cache.folder.glob("objects/*/*"):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    (third,) = aot.compile_jobs([job(tanh("8"))], own_cache)
    assert not third.cached
    monkeypatch.setattr(aot, "installed", lambda: {"jaxlib": "1", "libtpu": "3"})
    (other,) = aot.compile_jobs([job(tanh("8"))], own_cache)
    assert not other.cached
    assert aot._unpacked(b"\xff" * 20) is None
    assert aot._unpacked(b"") is None


def region() -> CompiledRegion:
    variant = Variant({}, "main-0.vhlo")
    return CompiledRegion((), (), (variant,), {"main-0.vhlo": b""}, facts=(ProgramFacts("main-0", {}),))


@pytest.mark.parametrize(
    ("versions", "compile_", "note"),
    [
        ({"jaxlib": "1"}, True, "libtpu missing (pip install 'tilewright[tpu]')"),
        ({}, True, "jaxlib and libtpu missing"),
        ({"jaxlib": "1", "libtpu": "2"}, False, "--no-ahead"),
    ],
)
def test_without_a_compiler_there_is_the_portable_form(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], compile_: bool, note: str
) -> None:
    monkeypatch.setattr(ahead, "installed", lambda: versions)
    made = ahead.ahead(region(), v5e(), ProgramSettings(compile=compile_))
    assert note in made.facts[0].note
    assert list(made.members) == ["main-0.vhlo"]
    assert made.variants[0].executable == ""
    assert any(note in text for _, text in programs.lines(made.facts))


@pytest.mark.parametrize(
    ("name", "devices", "topology"),
    [
        ("v5e", 1, "v5e:1x1"),
        ("v5e", 4, "v5e:2x2"),
        ("v6e", 8, "v6e:2x4"),
        ("v4", 4, "v4:2x2x1"),
        ("tpu7x", 2, "tpu7x:1x1x1"),
        ("tpu7x", 8, "tpu7x:2x2x1"),
    ],
)
def test_the_smallest_topology_is_taken(name: str, devices: int, topology: str) -> None:
    target = find_backend("tpu", build=False).targets()[f"tpu:{name}"]
    assert ahead.topology_of(target, devices)[0] == topology


def test_a_mesh_of_several_hosts_is_refused() -> None:
    with pytest.raises(UsageError, match="the mesh has 16 devices, and one host has 8"):
        ahead.topology_of(v5e(), 16)


@pytest.mark.parametrize(
    ("products", "flops", "bytes_", "seconds"),
    [
        ({"bf16": 197e12}, 197e12, 0.0, 1.0),
        ({"f32:HIGHEST": 197e12}, 197e12, 0.0, 6.0),
        ({"f32:DEFAULT": 98.5e12, "i8": 98.5e12}, 197e12, 0.0, 0.5 + 98.5 / 393),
        ({"bf16": 1e12}, 1e12, 819e9 * 3, 3.0),
        ({}, 1e15, 819e9, 1.0),
    ],
)
def test_time_is_predicted_by_the_roofline(
    products: dict[str, float], flops: float, bytes_: float, seconds: float
) -> None:
    told = {"products": products, "flops": flops, "bytes": bytes_}
    assert ahead.predicted(told, v5e()) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "damaged", [{}, [1], [{}], [{"name": 1}], [{"name": "a", "flops": "x"}], [{"name": "a", "b": 1}]]
)
def test_facts_of_a_hostile_artifact_are_refused(damaged: object) -> None:
    with pytest.raises(ValueError, match=r"program|list"):
        programs.read(damaged)


@pytest.mark.slow
@pytest.mark.usefixtures("needs_libtpu")
@pytest.mark.parametrize("topology", [("v5e:1x1", "default"), ("v6e:1x1", "default"), ("tpu7x:1x1x1", "default")])
def test_the_same_program_gives_the_same_executable(topology: tuple[str, str]) -> None:
    text = (
        "func.func public @main(%a: tensor<64x128xbf16>, %b: tensor<128x256xbf16>) -> tensor<64x256xf32> { "
        "%0 = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] "
        ": (tensor<64x128xbf16>, tensor<128x256xbf16>) -> tensor<64x256xf32> return %0 : tensor<64x256xf32> }"
    )
    one = replace(job(text), topology=topology[0], config=topology[1])
    first, second = aot.run_process(one), aot.run_process(one)
    assert first.executable == second.executable
    assert first.facts["products"] == {"bf16": 2 * 64 * 128 * 256}
