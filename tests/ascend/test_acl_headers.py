"""Host programs against acl headers: the check sees, and with real ones (``--acl-include``) nothing differs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from check_acl_headers import check_export, declared, differences, host_sources, undeclared  # noqa: E402

REAL = """
#pragma once
#include <stddef.h>
typedef int aclError;
typedef enum { ACL_MEMCPY_HOST_TO_HOST, ACL_MEMCPY_HOST_TO_DEVICE } aclrtMemcpyKind;
static const int ACL_SUCCESS = 0;
aclError aclInit(const char *configPath);
aclError aclrtMalloc(void **devPtr, size_t size, int policy);
"""


@pytest.fixture(scope="module")
def include(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("include")
    (folder / "acl").mkdir()
    (folder / "acl" / "acl.h").write_text(REAL)
    return folder


def test_what_is_declared() -> None:
    found = declared(REAL + "// aclError aclNo(void);\n#define ACL_MEM 4\nenum { ACL_A = 7, ACL_B };")
    assert set(found.functions) == {"aclInit", "aclrtMalloc"}
    assert found.constants == {
        "ACL_MEMCPY_HOST_TO_HOST": "0",
        "ACL_MEMCPY_HOST_TO_DEVICE": "(0) + 1",
        "ACL_SUCCESS": "0",
        "ACL_MEM": "4",
        "ACL_A": "7",
        "ACL_B": "(7) + 1",
    }


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("aclError aclInit(const char *path);", ""),
        ("int aclrtMalloc(void **p, size_t n, int policy);", ""),
        ("typedef enum { ACL_MEMCPY_HOST_TO_HOST = 0, ACL_MEMCPY_HOST_TO_DEVICE = 1 } aclrtMemcpyKind;", ""),
        ("aclError aclInit(char *path);", "aclInit"),
        ("aclError aclrtMalloc(void **p, int n, int policy);", "aclrtMalloc"),
        ("enum { ACL_MEMCPY_HOST_TO_DEVICE = 2 };", "ACL_MEMCPY_HOST_TO_DEVICE"),
        ("enum { ACL_NOBODY = 2 };", "ACL_NOBODY"),
    ],
)
def test_a_difference_has_its_name(text: str, name: str, include: Path) -> None:
    found = differences(text, include)
    assert [line.partition(":")[0] for line in found] == ([name] if name else [])


def test_a_function_that_nobody_has(include: Path) -> None:
    assert undeclared("aclError aclInit(const char *p);\naclError aclNobody(int n);", include) == ["aclNobody"]


def test_only_host_sources_are_compiled(tmp_path: Path, include: Path) -> None:
    (tmp_path / "main.cpp").write_text('#include "acl/acl.h"\nint main() { return aclInit(nullptr); }')
    (tmp_path / "kernel.cpp").write_text('#include "tile.h"\nextern "C" __global__ void k() {}')
    (tmp_path / "tile.h").write_text('#include "kernel_operator.h"\n')
    (tmp_path / "launch.cpp").write_text('#include "aclrtlaunch_k.h"\nvoid launch() {}')
    assert [p.name for p in host_sources(tmp_path)] == ["main.cpp"]
    assert check_export(tmp_path, include) == []
    (tmp_path / "main.cpp").write_text('#include "acl/acl.h"\nint main() { return aclInit(1.5); }')
    assert len(check_export(tmp_path, include)) == 1


def test_the_stand_in_is_as_the_real_headers(request: pytest.FixtureRequest) -> None:
    real = request.config.getoption("--acl-include")
    folder = Path(__file__).parent / "acl"
    if not real:
        pytest.skip("no acl headers named: --acl-include FOLDER (the wheel torch-npu carries some)")
    headers = sorted(folder.rglob("*.h"))
    assert headers, f"the stand-in for the acl runtime is not in {folder}"
    for header in headers:
        text = header.read_text(encoding="utf-8")
        assert undeclared(text, Path(real)) == []
        assert differences(text, Path(real)) == []
