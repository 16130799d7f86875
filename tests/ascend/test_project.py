"""An exported project, built against a model of CANN, runs a whole model; what a device would get wrong is refused."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tilewright.cli.main import main
from tilewright.package.native import NATIVE

from tests.ascend import project
from tests.ascend.test_target import artifact
from tests.runtime.rewrite import rewrite

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model of test_target as a project: a product on the device, a running sum on the host."""
    out: Path = tmp_path_factory.mktemp("project") / "small"
    file = out.with_suffix(".tw")
    artifact("ascend").save(file)
    result = CliRunner().invoke(main, ["export", str(file), "--as", "dir", "-o", str(out)])
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def program(folder: Path) -> Path:
    return project.build(folder, project.launches_of(folder.with_suffix(".tw")))


def feed(rows: int = 5) -> dict[str, Array]:
    return {"x": np.random.default_rng(rows).standard_normal((rows, 32)).astype(np.float16)}


def wanted(inputs: Mapping[str, Array]) -> Array:
    from tests.ascend.test_target import model

    w, b, g, _ = (np.asarray(project_array) for project_array in map(_array, model().graph.initializer))
    r = np.maximum(inputs["x"].astype(np.float64) @ w.astype(np.float64) + b, 0)
    return np.asarray(np.cumsum(r, axis=1) * g.astype(np.float64) + r)


def _array(tensor: Any) -> Array:
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(tensor))


@pytest.mark.parametrize("rows", [1, 5, 64])
def test_numbers(program: Path, tmp_path: Path, rows: int) -> None:
    ran = project.run(program, feed(rows), tmp_path)
    assert ran.code == 0, ran.errors
    want = wanted(feed(rows))
    np.testing.assert_allclose(ran.outputs["y"].astype(np.float64), want, rtol=4e-3, atol=4e-3 * np.abs(want).max())


@pytest.mark.slow
def test_the_form_of_cann_9_gives_the_same_bits(folder: Path, program: Path, tmp_path: Path) -> None:
    other = project.build(folder, project.launches_of(folder.with_suffix(".tw")), "asc")
    mine, theirs = (project.run(p, feed(), tmp_path / n).outputs["y"] for p, n in ((program, "a"), (other, "b")))
    np.testing.assert_array_equal(mine, theirs)


#: What goes wrong outside the program, its exit code and its words.
TROUBLE = {
    "no device": ({"STAND_IN_DEVICES": "0"}, 8, "there is no Ascend device"),
    "no memory": ({"STAND_IN_MEMORY": "400"}, 7, r"the weights asked for \d+ bytes, 400 are free of 400"),
    "init": (
        {"STAND_IN_FAIL": "aclInit:1"},
        8,
        "aclInit failed with code 507899 for the acl runtime: the device was lost",
    ),
    "weights": ({"STAND_IN_FAIL": "aclrtMemcpy:1"}, 8, "aclrtMemcpy failed"),
    "stream": ({"STAND_IN_FAIL": "aclrtCreateStream:1"}, 8, "aclrtCreateStream failed"),
    "pinned": ({"STAND_IN_FAIL": "aclrtMallocHost:2"}, 7, "no page-locked memory on the host"),
    "copy": ({"STAND_IN_FAIL": "aclrtMemcpyAsync:1"}, 8, "aclrtMemcpyAsync failed"),
    "launch": ({"STAND_IN_FAIL": "launch:1"}, 8, "the launch failed with code 507899 for "),
    "wait": ({"STAND_IN_FAIL": "aclrtSynchronizeStream:1"}, 8, "aclrtSynchronizeStream failed"),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_every_call_that_fails_is_told_and_nothing_leaks(program: Path, tmp_path: Path, name: str) -> None:
    """A leak after a failure would end the program with the stand-in's status 99."""
    env, code, words = TROUBLE[name]
    ran = project.run(program, feed(), tmp_path, env=env)
    assert ran.code == code and re.search(words, ran.errors), ran.errors


def test_another_device_than_there_is(program: Path, tmp_path: Path) -> None:
    words = [program, "--data", program.parent.parent / "data", "--device", "3"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 8 and "there is no Ascend device 3: acl shows 1" in done.stderr


def test_inputs_that_do_not_fit(program: Path, tmp_path: Path) -> None:
    wide = project.run(program, {"x": np.zeros((5, 33), np.float16)}, tmp_path)
    assert wide.code == 2 and "33" in wide.errors
    wrong = project.run(program, {"x": np.zeros((5, 32), np.float32)}, tmp_path)
    assert wrong.code == 2 and "element type" in wrong.errors
    assert project.run(program, {}, tmp_path).code == 2


@pytest.mark.parametrize("name", ["plan.bin", "weights.bin", "weights.crc32c"])
@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_damaged_data_is_refused(folder: Path, program: Path, tmp_path: Path, name: str, how: str) -> None:
    data = tmp_path / "data"
    shutil.copytree(folder / "data", data)
    contents = bytearray((data / name).read_bytes())
    if how == "gone":
        (data / name).unlink()
    else:
        contents[len(contents) // 2] ^= 0xFF
        (data / name).write_bytes(contents if how == "changed" else contents[: len(contents) // 2])
    np.save(tmp_path / "x.npy", feed()["x"])
    words = [program, "--data", data, "--input", f"x={tmp_path / 'x.npy'}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode in (
        (2,) if how == "gone" else (0, 2, 9) if (name, how) == ("plan.bin", "changed") else (9,)
    ), done


#: Faults put into the executor, and how the stand-in shows each: its words, or wrong numbers.
FAULTS = {
    "no wait before a step on the host": (
        "acl_launch.c",
        'ACL(context->error, aclrtSynchronizeStream, "a step on the host", s->own);',
        "",
        "",
    ),
    "a copy past its target": (
        "acl_launch.c",
        "to, bytes, from, bytes, kind, s->own",
        "to, bytes, from, bytes + 64, kind, s->own",
        "more bytes than its target",
    ),
    "the wrong direction": (
        "acl_launch.c",
        "return cross(context, to, from, bytes, ACL_MEMCPY_HOST_TO_DEVICE);",
        "return cross(context, to, from, bytes, ACL_MEMCPY_DEVICE_TO_HOST);",
        "memory of the|lies in no device memory",
    ),
    "copies of memory that is not page-locked": (
        "acl_memory.c",
        "aclError result = aclrtMallocHost(&block->data, bytes ? bytes : 1);",
        "block->data = malloc(bytes + 1); aclError result = ACL_SUCCESS;",
        "not page-locked",
    ),
    "weights that are not freed": (
        "acl_device.c",
        "if (device->weights != NULL) aclrtFree(device->weights);",
        "",
        "never given back",
    ),
    "memory freed too early": (
        "acl_run.c",
        "if (code == TW_OK) code = fetch_outputs(run, dims);",
        "aclrtFree(run->stream->io.data);\n    if (code == TW_OK) code = fetch_outputs(run, dims);",
        "still has work|was freed",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_the_stand_in_shows_faults_of_the_executor(folder: Path, tmp_path: Path, name: str) -> None:
    file, old, new, words = FAULTS[name]
    shutil.copytree(folder, tmp_path / "p")
    path = tmp_path / "p" / "runtime" / file
    text = path.read_text()
    assert text.count(old) == 1, "the fault has no place"
    path.write_text(text.replace(old, new))
    broken = project.build(tmp_path / "p", project.launches_of(folder.with_suffix(".tw")))
    ran = project.run(broken, feed(), tmp_path)
    if words:
        assert ran.code == 99 and re.search(words, ran.errors), (ran.code, ran.errors)
    else:
        assert ran.code == 0 and not np.allclose(
            ran.outputs["y"].astype(np.float64), wanted(feed()), rtol=1e-2, atol=1e-2
        )


@pytest.mark.parametrize(
    "launch",
    [
        {"kernel": "../../x"},
        {"kernel": 'a"; evil(); "'},
        {"arguments": [["a", "tensor); evil("]]},
        {"soc": "x)\nexecute_process(COMMAND evil"},
        {"architecture": "2201; evil"},
        {"cores_a_block": "2"},
    ],
    ids=str,
)
def test_hostile_launches_make_no_source(folder: Path, tmp_path: Path, launch: dict[str, Any]) -> None:
    import json

    told = project.launches_of(folder.with_suffix(".tw"))
    told[0] |= launch
    bad = tmp_path / "bad.tw"
    change = {"ascend/910b3/launches.json": json.dumps(told).encode()}
    bad.write_bytes(rewrite(folder.with_suffix(".tw").read_bytes(), change))
    result = CliRunner().invoke(main, ["export", str(bad), "--as", "dir", "-o", str(tmp_path / "out")])
    assert result.exit_code == 9 or launch == {"cores_a_block": "2"}, result.output
    assert not list(tmp_path.rglob("x.asc")) and not (tmp_path.parent / "x.asc").exists()


def test_a_library_cannot_be_made_of_sources(folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["export", str(folder.with_suffix(".tw")), "--as", "so", "-o", str(tmp_path / "x")]
    )
    assert result.exit_code == 4 and "--as dir" in result.output


@pytest.mark.skipif(shutil.which("cmake") is None, reason="there is no cmake")
def test_cmake_reads_the_project(folder: Path, tmp_path: Path) -> None:
    """Up to the point where CANN is looked for, in both ways."""
    for form, words in (("asc", "source the set_env.sh of CANN 9"), ("launch", "no CANN at")):
        call = ["cmake", f"-DFORM={form}", "-S", str(folder), "-B", str(tmp_path / form)]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        assert done.returncode != 0 and words in done.stderr, done.stderr


def test_the_readme_has_the_commands(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    assert (
        "--input x=x.npy" in text
        and "set_env.sh" in text
        and "not run" in text.replace("Nothing here was run", "not run")
    )
    assert (
        "dav-2201" in (folder / "CMakeLists.txt").read_text()
        and "Ascend910B3" in (folder / "CMakeLists.txt").read_text()
    )


SOURCES = sorted((NATIVE / "acl").glob("acl_*.c"))


def test_the_stand_in_declares_just_what_is_called() -> None:
    """So what scripts/check_acl_headers.py finds of its header holds for all that the executor calls."""
    text = "".join(s.read_text(encoding="utf-8") for s in SOURCES)
    called = set(re.findall(r"\b(acl[A-Z]\w*|aclrt\w+)\(", text)) | set(re.findall(r"ACL\([^,]+, (acl\w+)", text))
    declared = set(re.findall(r"\b(acl\w+)\(", (project.STAND_IN / "acl" / "acl.h").read_text(encoding="utf-8")))
    assert called and called == declared
