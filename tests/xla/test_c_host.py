"""The C program over PJRT: artifacts run on a CPU plugin, executables are kept, and what does not fit is told."""

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
from tilewright.errors import UnsupportedError, UsageError
from tilewright.package.export import export
from tilewright.package.native import NATIVE, PJRT_HEADERS, build_pjrt_program

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
    "entries": Case({"one": dense(2), "two": dense(5)}, (rows(5),), entry="two"),
}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    made = {}
    for name, case in CASES.items():
        made[name] = folder / f"{name}.tw"
        tw.compile(case.model, targets=("xla:cpu",), input_shapes=case.shapes, verify=False).save(made[name])
    return made


def start(
    program: Path, artifact: Path, *more: Any, plugin_path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command = [program, artifact, "--plugin", plugin_path or plugin(), *more]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=300)


def feed(folder: Path, arrays: Mapping[str, Array]) -> list[str]:
    words = []
    for name, array in arrays.items():
        np.save(folder / f"{name}-in.npy", array)
        words += ["--input", f"{name}=@{folder}/{name}-in.npy"]
    return words


def outputs(folder: Path, artifact: Path, entry: str) -> dict[str, Array]:
    manifest = json.loads(members(artifact.read_bytes())["manifest.json"])
    told = next(e for e in manifest["entries"] if not entry or e["name"] == entry)
    return {o["name"]: np.load(folder / f"{o['name']}.npy") for o in told["outputs"]}


def wanted(name: str, x: Mapping[str, Array]) -> dict[str, Array]:
    if name == "integers":
        return {**{2 * n: a + a for n, a in x.items()}, "k": np.array([1.5, -2, 3], np.float32)}
    product = (x["x"].astype(np.float64) @ W).astype(np.float32)
    if name == "host":
        y = np.maximum(product, 0)
        return {"y": y, "places": np.array(np.nonzero(y))}
    return {"y": np.maximum(product + B, 0), "product": product}


@pytest.mark.parametrize("name", CASES)
def test_it_runs(name: str, program: Path, artifacts: dict[str, Path], cache: Path, tmp_path: Path) -> None:
    case = CASES[name]
    for arrays in case.feeds:
        words = ["--cache", cache, "--allow-jit", "--output-dir", tmp_path, *feed(tmp_path, arrays)]
        done = start(program, artifacts[name], *words, *(["--entry", case.entry] if case.entry else []))
        assert done.returncode == 0, done.stderr
        found, expected = outputs(tmp_path, artifacts[name], case.entry), wanted(name, arrays)
        assert found.keys() == expected.keys()
        for output, value in expected.items():
            assert found[output].dtype == value.dtype and found[output].shape == value.shape
            if value.dtype == np.float32:
                np.testing.assert_allclose(found[output], value, rtol=1e-4, atol=1e-4)
            else:
                np.testing.assert_array_equal(found[output], value)


def test_python_gives_the_same_bytes(program: Path, artifacts: dict[str, Path], cache: Path, tmp_path: Path) -> None:
    arrays = rows(5)
    words = ["--cache", cache, "--allow-jit", "--output-dir", tmp_path, *feed(tmp_path, arrays)]
    assert start(program, artifacts["buckets"], *words).returncode == 0
    session = tw.load(artifacts["buckets"], device="xla:cpu", allow_jit=True)
    expected = dict(zip([o.name for o in session.outputs], session.run(None, arrays), strict=True))
    for name, value in outputs(tmp_path, artifacts["buckets"], "").items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)


# -- executables ------------------------------------------------------------------------------------------------------


def test_a_second_start_needs_no_compiler(program: Path, artifacts: dict[str, Path], tmp_path: Path) -> None:
    words = ["--cache", tmp_path / "kept", *feed(tmp_path, rows(4))]
    first = start(program, artifacts["static"], *words)
    assert first.returncode == 8 and "compiling was not allowed" in first.stderr
    assert start(program, artifacts["static"], *words, "--allow-jit").returncode == 0
    second = start(program, artifacts["static"], *words)
    assert second.returncode == 0 and "1 kept, 0 compiled" in second.stderr
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700
    nowhere = start(program, artifacts["static"], "--cache", "", *words[2:], "--allow-jit")
    assert nowhere.returncode == 0 and "0 kept, 1 compiled" in nowhere.stderr


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_entry_is_passed_over(damage: str, program: Path, artifacts: dict[str, Path], tmp_path: Path) -> None:
    words = ["--cache", tmp_path / "kept", *feed(tmp_path, rows(4))]
    assert start(program, artifacts["static"], *words, "--allow-jit").returncode == 0
    (kept,) = (tmp_path / "kept").iterdir()
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes({"flip": bytes(data), "cut": bytes(data[:-9]), "empty": b""}[damage])
    refused = start(program, artifacts["static"], *words)
    assert refused.returncode == 8 and "damaged" in refused.stderr
    again = start(program, artifacts["static"], *words, "--allow-jit")
    assert again.returncode == 0 and "0 kept, 1 compiled" in again.stderr
    assert "1 kept, 0 compiled" in start(program, artifacts["static"], *words).stderr


def test_a_folder_that_others_may_write_to_is_not_used(
    program: Path, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    done = start(program, artifacts["static"], "--cache", folder, "--allow-jit", *feed(tmp_path, rows(4)))
    assert done.returncode == 0 and "others may write" in done.stderr and not list(folder.iterdir())


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_errors_say_what_is_missing(program: Path, artifacts: dict[str, Path], cache: Path, tmp_path: Path) -> None:
    static, x = artifacts["static"], feed(tmp_path, rows(4))
    library = tmp_path / "lib.so"
    library.write_bytes(default_toolchain().link({"a": default_toolchain().compile("int a;", ["-fPIC"])}, ["-fPIC"]))
    cases: list[tuple[int, str, subprocess.CompletedProcess[str]]] = [
        (8, "there is no PJRT plugin", start(program, static, *x, plugin_path=tmp_path / "libtpu.so")),
        (8, "no GetPjrtApi", start(program, static, *x, plugin_path=library)),
        (8, "cannot be loaded", start(program, static, *x, plugin_path=static)),
        (8, "no programs named tpu:v5e (programs: xla:cpu)", start(program, static, *x, "--target", "tpu:v5e")),
        (2, "No such file", start(program, tmp_path / "missing.tw", *x)),
        (2, "there is no such input", start(program, static, "--cache", cache, "--input", "q=@x.npy")),
        (2, "x [4, 48] is missing", start(program, static, "--cache", cache)),
        (2, "no such entry point", start(program, static, "--entry", "none", *x)),
        (2, "usage", start(program, static, "--nonsense")),
    ]
    for code, text, done in cases:
        assert (done.returncode, text in done.stderr) == (code, True), (text, done.stderr)
    tpu = tmp_path / "libtpu.so"
    tpu.write_bytes(b"no library")
    assert start(program, static, *x, plugin_path=tpu).returncode == 8


@pytest.mark.parametrize(
    ("shape", "dtype", "text"),
    [
        ((13, 48), np.float32, "N is 13; the model takes 1 to 12"),
        ((0, 48), np.float32, "N is 0"),
        ((4, 47), np.float32, "dimension 1 is 47, the model takes [N, 48]"),
        ((4, 48, 1), np.float32, "has 3 dimensions"),
        ((4, 48), np.float64, "its element type is not the model's"),
    ],
)
def test_inputs_that_do_not_fit(
    shape: tuple[int, ...],
    dtype: Any,
    text: str,
    program: Path,
    artifacts: dict[str, Path],
    cache: Path,
    tmp_path: Path,
) -> None:
    words = feed(tmp_path, {"x": np.ones(shape, dtype)})
    done = start(program, artifacts["buckets"], "--cache", cache, "--allow-jit", *words)
    assert (done.returncode, text in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("member", ["weights", "xla/cpu/program.json", "xla/cpu/main-0.vhlo", "manifest.json"])
def test_damage_is_told(member: str, program: Path, artifacts: dict[str, Path], cache: Path, tmp_path: Path) -> None:
    data = bytearray(artifacts["static"].read_bytes())
    at = bytes(data).index(members(bytes(data))[member])
    data[at + 3] ^= 4
    damaged = tmp_path / "damaged.tw"
    damaged.write_bytes(data)
    done = start(program, damaged, "--cache", cache, "--allow-jit", *feed(tmp_path, rows(4)))
    assert done.returncode == 9 and "damaged" in done.stderr, done.stderr


def edited(artifact: Path, out: Path, **changes: Any) -> Path:
    """The artifact with the first step of its program changed, and all hashes right."""
    contents = members(artifact.read_bytes())
    told = json.loads(contents["xla/cpu/program.json"])
    entry = told["entries"][0]
    for key, value in changes.items():
        (entry if key in entry else told if key in told else entry["steps"][0])[key] = value
    out.write_bytes(rewrite(artifact.read_bytes(), {"xla/cpu/program.json": json.dumps(told).encode()}))
    return out


HOSTILE: dict[str, dict[str, Any]] = {
    "a slot that is not there": {"inputs": [7]},
    "a slot written twice": {"outputs": [1, 1]},
    "an input that comes later": {"inputs": [2]},
    "a weight that is not there": {"weights": ["w", "none"]},
    "no variants": {"variants": []},
    "another version": {"version": 2},
    "a malformed expression": {"slots": [{"dtype": "f32", "shape": [["+"], [48]]}] * 3},
    "an expression without end": {"slots": [{"dtype": "f32", "shape": [[1] * 99, [48]]}] * 3},
    "an unknown type": {"slots": [{"dtype": "f31", "shape": [[4], [48]]}] * 3},
    "a result without a slot": {"results": [2, 9]},
    "a padded symbol without sizes": {"padded": ["N"]},
    "a mesh": {"mesh": [2, 2]},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_program_is_refused(
    what: str, program: Path, artifacts: dict[str, Path], cache: Path, tmp_path: Path
) -> None:
    bad = edited(artifacts["static"], tmp_path / "bad.tw", **HOSTILE[what])
    done = start(program, bad, "--cache", cache, "--allow-jit", *feed(tmp_path, rows(4)))
    assert done.returncode == (8 if what == "a mesh" else 9), done.stderr


def test_programs_of_other_shapes_than_told_are_refused(
    program: Path, artifacts: dict[str, Path], cache: Path, tmp_path: Path
) -> None:
    words = ["--cache", cache, "--allow-jit", *feed(tmp_path, rows(4))]
    f32 = lambda *shape: {"dtype": "f32", "shape": [[n] for n in shape]}  # noqa: E731
    for changes in (
        {"slots": [f32(4, 48), f32(4, 31), f32(4, 32)]},
        {"slots": [f32(4, 48), f32(2**40, 32), f32(4, 32)]},
        {"outputs": [1], "results": [1, 1]},
        {"weights": ["w"]},
        {"weights": ["w", "b", "b"]},
        {"weights": ["b", "w"]},
    ):
        done = start(program, edited(artifacts["static"], tmp_path / "bad.tw", **changes), *words)
        assert done.returncode in (8, 9), (changes, done.returncode, done.stderr)


# -- export, sanitizers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["static", "host"])
def test_an_exported_program(name: str, artifacts: dict[str, Path], cache: Path, tmp_path: Path) -> None:
    program = tmp_path / "model"
    assert export(artifacts[name], "exe", program, default_toolchain()) == [program]
    arrays = CASES[name].feeds[0]
    words = ["--plugin", plugin(), "--cache", cache, "--allow-jit", "--output-dir", tmp_path, *feed(tmp_path, arrays)]
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    for output, value in outputs(tmp_path, artifacts[name], "").items():
        np.testing.assert_allclose(value, wanted(name, arrays)[output], rtol=1e-4, atol=1e-4)
    missing = subprocess.run([program, "--plugin", "/none.so"], capture_output=True, text=True, check=False)
    assert missing.returncode == 8 and "there is no PJRT plugin" in missing.stderr


def test_an_exported_folder_builds(artifacts: dict[str, Path], cache: Path, tmp_path: Path) -> None:
    files = export(artifacts["static"], "dir", tmp_path / "out", default_toolchain())
    names = {f.name for f in files}
    assert names >= {"model.tw", "README", "pjrt_run.c", "tilewright_pjrt.h", "pjrt.h", "crc32c.h", "program.json"}
    assert "main.c" not in names
    headers = {f.name: f.read_text() for f in files if f.suffix == ".h"}
    flags = ["-std=c11", "-O1", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]
    tools = default_toolchain()
    built = tools.compile((tmp_path / "out" / "pjrt_run.c").read_text(), flags, headers=headers)
    program = tmp_path / "out" / "pjrt_run"
    program.write_bytes(tools.link({"a": built}, flags, libraries=("m", "pthread", "dl"), program=True))
    program.chmod(0o755)
    done = start(program, tmp_path / "out" / "model.tw", "--cache", cache, "--allow-jit", *feed(tmp_path, rows(4)))
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_exported(artifacts: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="need a PJRT plugin"):
        export(artifacts["host"], "so", tmp_path / "libx.so", default_toolchain())
    with pytest.raises(UsageError, match="a program can be made for"):
        export(artifacts["static"], "exe", tmp_path / "x", default_toolchain(), family="riscv64")


GCC = shutil.which("gcc")
CHECKS = ("-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", f"-I{NATIVE}")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def sanitized(source: Path, out: Path) -> Path:
    if GCC is None:
        pytest.skip("SKIPPED: no gcc on the PATH for sanitizers")
    command = [GCC, *CHECKS, *SANITIZERS, str(source), "-o", str(out), "-lpthread", "-lm", "-ldl"]
    subprocess.run(command, check=True)
    return out


def test_threads_share_a_model(artifacts: dict[str, Path], cache: Path, tmp_path: Path) -> None:
    tools, flags = default_toolchain(), ["-std=c11", "-O1", "-D_GNU_SOURCE"]
    headers = {name: (NATIVE / name).read_text() for name in PJRT_HEADERS}
    built = tools.compile((Path(__file__).parent / "threads_pjrt.c").read_text(), flags, headers=headers)
    program = tmp_path / "threads"
    program.write_bytes(tools.link({"a": built}, flags, libraries=("m", "pthread", "dl"), program=True))
    program.chmod(0o755)
    command = [str(program), str(artifacts["buckets"]), str(plugin()), str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout) == (0, "wrong 0\n"), done.stderr


def test_mutations_under_sanitizers(artifacts: dict[str, Path], tmp_path: Path) -> None:
    """Read, and run on a plugin without a device that gives zeros and counts its buffers."""
    fuzz = sanitized(Path(__file__).parent / "fuzz_program.c", tmp_path / "fuzz")
    limits = {"ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1:max_allocation_size_mb=4096"}
    command = [str(fuzz), str(artifacts["buckets"]), "1500", "11"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **limits})
    assert done.returncode == 0, done.stderr[-3000:]
    words = done.stdout.split()
    found = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    assert found["refused"] > 500 and found["read"] > 25 and found["ran"] > 100


def test_runs_under_sanitizers(artifacts: dict[str, Path], cache: Path, tmp_path: Path) -> None:
    """The host code with a real plugin; what the plugin itself keeps until the process ends is not counted."""
    checked = sanitized(NATIVE / "pjrt_run.c", tmp_path / "checked")
    (tmp_path / "plugin.supp").write_text("leak:xla_cpu_pjrt.so\n")
    environment = {**os.environ, "LSAN_OPTIONS": f"suppressions={tmp_path}/plugin.supp:print_suppressions=0"}
    for name in ("buckets", "host"):
        words = ["--plugin", plugin(), "--cache", cache, "--allow-jit", "--repeat", "3"]
        command = [str(checked), str(artifacts[name]), *map(str, words), *feed(tmp_path, CASES[name].feeds[1])]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]


def test_the_artifacts_own_executable_is_taken_first(program: Path, artifacts: dict[str, Path], tmp_path: Path) -> None:
    """What a plugin made, as a member; and one that no plugin made, which is passed over with its reason."""
    words = ["--cache", tmp_path / "kept", *feed(tmp_path, rows(4))]
    assert start(program, artifacts["static"], *words, "--allow-jit").returncode == 0
    (kept,) = (tmp_path / "kept").iterdir()
    _, executable = kept.read_bytes().split(b"\n", 1)
    told = json.loads(members(artifacts["static"].read_bytes())["xla/cpu/program.json"])
    told["entries"][0]["steps"][0]["variants"][0]["executable"] = "main-0.exe"

    def edit(manifest: dict[str, Any]) -> None:
        manifest["targets"][0]["members"]["main-0.exe"] = "xla/cpu/main-0.exe"

    for contents, text in ((executable, "1 executables of the artifact, 0 kept"), (b"nonsense", "compiling was not")):
        changes = {"xla/cpu/program.json": json.dumps(told).encode(), "xla/cpu/main-0.exe": contents}
        path = tmp_path / "model.tw"
        path.write_bytes(rewrite(artifacts["static"].read_bytes(), changes, edit))
        done = start(program, path, "--cache", "", *words[2:])
        assert text in done.stderr and done.returncode == (0 if contents is executable else 8), done.stderr
    assert "main-0.exe" in done.stderr


def test_the_plain_c_loader_names_this_one(artifacts: dict[str, Path], tmp_path: Path) -> None:
    tools = default_toolchain()
    text = (
        '#include <stdio.h>\n#define TILEWRIGHT_IMPLEMENTATION\n#include "tilewright.h"\n'
        "int main(int n, char **a) { tw_model *m; tw_error e; (void)n; int c = tw_open(&m, a[1], NULL, &e);"
        " puts(e.text); return c; }\n"
    )
    headers = {"tilewright.h": (NATIVE / "tilewright.h").read_text()}
    flags = ["-std=c11", "-O1", "-D_GNU_SOURCE"]
    built = tools.compile(text, flags, headers=headers)
    program = tmp_path / "plain"
    program.write_bytes(tools.link({"a": built}, flags, libraries=("pthread", "dl"), program=True))
    program.chmod(0o755)
    for name in ("static", "host"):
        done = subprocess.run([program, artifacts[name]], capture_output=True, text=True, check=False)
        assert done.returncode == 8 and "tilewright_pjrt.h" in done.stdout
