"""CMake reads an exported project and builds its host part; CANN's own function is a stub. Skipped without CMake."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.ascend.project import STAND_IN
from tests.ascend.test_project import folder

__all__ = ["folder"]
#: ``pip install --target DIR cmake``, ``DIR/bin`` in PATH and ``DIR`` in PYTHONPATH are enough.
CMAKE = shutil.which("cmake")
STUB = """
function(ascendc_library name kind)
    file(WRITE ${CMAKE_BINARY_DIR}/stub.cpp "int stub;")
    add_library(${name} ${kind} ${CMAKE_BINARY_DIR}/stub.cpp)
endfunction()
function(ascendc_include_directories name)
endfunction()
"""


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(CMAKE is None, reason="no cmake")
def test_host_part_builds_by_its_own_cmake_file(folder: Path, tmp_path: Path) -> None:
    cann, made = tmp_path / "cann", tmp_path / "build"
    place = cann / "compiler" / "tikcpp" / "ascendc_kernel_cmake"
    place.mkdir(parents=True)
    (place / "ascendc.cmake").write_text(STUB, encoding="utf-8")
    shutil.copytree(STAND_IN / "acl", cann / "include" / "acl")
    told = _run(str(CMAKE), "-S", str(folder), "-B", str(made), f"-DASCEND_CANN_PACKAGE_PATH={cann}")
    assert "CMake Warning" not in told and "CMake Error" not in told
    _run(str(CMAKE), "--build", str(made), "--target", "runtime", "host")
    assert (made / "libruntime.a").exists() and (made / "libhost.a").exists()


@pytest.mark.slow
@pytest.mark.skipif(CMAKE is None, reason="no cmake")
def test_without_cann_it_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    words = [str(CMAKE), "-S", str(folder), "-B", str(tmp_path / "build"), "-DASCEND_CANN_PACKAGE_PATH=/nowhere"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "source its set_env.sh" in done.stderr
