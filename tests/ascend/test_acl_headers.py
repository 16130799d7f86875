"""The host program of exported projects against the acl headers that others wrote: those of the torch-npu wheel (BSD).

For development only, and nothing is fetched here. Where ``TILEWRIGHT_ACL_INCLUDE`` names their folder, these run::

    pip download torch-npu --no-deps -d FOLDER && python -m zipfile -e FOLDER/torch_npu-*.whl FOLDER/x
    TILEWRIGHT_ACL_INCLUDE=FOLDER/x/torch_npu/include ./scripts/test tests/ascend/test_acl_headers.py
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from tilewright.package.native import NATIVE

from tests.ascend import project

INCLUDE = Path(os.environ.get("TILEWRIGHT_ACL_INCLUDE", "/nowhere"))
WITHOUT = pytest.mark.skipif(
    not (INCLUDE / "acl" / "acl.h").is_file(), reason="TILEWRIGHT_ACL_INCLUDE names no acl headers"
)
SOURCES = sorted((NATIVE / "acl").glob("acl_*.c"))
OURS = (project.STAND_IN / "acl" / "acl.h").read_text(encoding="utf-8")


def check_types(source: Path, folder: Path, include: Path) -> str:
    """What a C compiler says of a file of the project beside the executor's; empty where all fits."""
    for place in (NATIVE, NATIVE / "acl"):
        for header in place.glob("*.h"):
            (folder / header.name).write_bytes(header.read_bytes())
    (folder / source.name).write_bytes(source.read_bytes())
    flags = ["-std=c11", "-D_GNU_SOURCE", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    words = [*project.compilers()[0], *flags, f"-I{include}", str(folder / source.name)]
    return subprocess.run(words, capture_output=True, text=True, check=False).stderr


@WITHOUT
@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.name)
def test_the_executor_fits_the_real_headers(source: Path, tmp_path: Path) -> None:
    assert check_types(source, tmp_path, INCLUDE) == ""


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.name)
def test_the_executor_fits_ours(source: Path, tmp_path: Path) -> None:
    assert check_types(source, tmp_path, project.STAND_IN) == ""


def test_the_stand_in_declares_all_that_is_called() -> None:
    called = {
        name for s in SOURCES for name in re.findall(r"\b(acl[A-Z]\w*|aclrt\w+)\(", s.read_text(encoding="utf-8"))
    }
    called |= {name for s in SOURCES for name in re.findall(r"ACL\([^,]+, (acl\w+)", s.read_text(encoding="utf-8"))}
    declared = set(re.findall(r"\b(acl\w+)\(", OURS))
    assert called and called == declared


@WITHOUT
def test_the_stand_in_declares_what_the_real_headers_do(tmp_path: Path) -> None:
    """Both in one unit: declarations of one name that differ are an error of the compiler, constants are compared."""
    functions = re.findall(r"^(?:aclError|const char \*)\s*\*?acl\w+\(.*?\);$", OURS, re.MULTILINE)
    constants = {
        "ACL_SUCCESS": 0,
        "ACL_ERROR_REPEAT_INITIALIZE": 100002,
        "ACL_HBM_MEM": 1,
        "ACL_MEMCPY_DEVICE_TO_DEVICE": 3,
    }
    constants |= {"ACL_MEM_MALLOC_HUGE_FIRST": 0, "ACL_MEMCPY_HOST_TO_DEVICE": 1, "ACL_MEMCPY_DEVICE_TO_HOST": 2}
    lines = ['#include "acl/acl.h"', *functions]
    # In C a static const is no constant: the array's size is looked at by C++.
    lines += [f'static_assert({name} == {value}, "{name}");' for name, value in constants.items()]
    text = tmp_path / "both.cpp"
    text.write_text(
        "\n".join([lines[0], 'extern "C" {', *lines[1 : 1 + len(functions)], "}", *lines[1 + len(functions) :]])
    )
    words = [*project.compilers()[1], "-std=c++17", "-fsyntax-only", f"-I{INCLUDE}", str(text)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert len(functions) == len(set(re.findall(r"\b(acl\w+)\(", OURS))) and done.returncode == 0, done.stderr[:2000]
