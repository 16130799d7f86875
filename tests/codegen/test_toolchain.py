"""The C toolchain: determinism, cache, and what a refused text leaves behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tilewright.codegen.cache import CompileCache
from tilewright.codegen.toolchain import Toolchain, default_toolchain
from tilewright.errors import InternalError, UsageError

FLAGS = ("-target", "x86_64-linux-gnu.2.17", "-mcpu=x86_64_v3", "-O2", "-fPIC")
TEXT = "int twice(int x) { return 2 * x; }\n"


def test_same_bytes_from_two_cache_folders(tmp_path: Path) -> None:
    libraries = []
    for folder in ("a", "another/deeper"):
        tools = default_toolchain(cache_folder=tmp_path / folder)
        libraries.append(tools.link({"k": tools.compile(TEXT, FLAGS)}, FLAGS))
    assert libraries[0] == libraries[1]
    assert libraries[0][:4] == b"\x7fELF"
    assert str(tmp_path).encode() not in libraries[0]


def test_bare_compiler_knows_no_c_library(tmp_path: Path) -> None:
    bare = default_toolchain(cache_folder=tmp_path).bare
    flags = ("-target", "x86_64-linux-gnu", "-march=x86-64-v3", "-O2", "-fPIC")
    compiled = bare.compile("#include <stdint.h>\n" + TEXT, flags)
    assert bare.link({"k": compiled}, flags)[:4] == b"\x7fELF"
    with pytest.raises(InternalError, match=r"math\.h"):
        bare.compile("#include <math.h>\n" + TEXT, flags)
    with pytest.raises(ValueError, match="libraries"):
        bare.link({"k": compiled}, flags, libraries=("m",))


def test_foreign_compiler_has_no_bare_one(tmp_path: Path) -> None:
    other = Toolchain(("/usr/bin/cc",), "cc 1", False, CompileCache(tmp_path))
    assert other.bare is other and not other.linker


def test_second_compile_comes_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = default_toolchain(cache_folder=tmp_path)
    first = tools.compile(TEXT, FLAGS)
    broken = type(tools)(("/nonexistent/cc",), tools.version, True, tools.cache)
    assert broken.compile(TEXT, FLAGS) == first
    with pytest.raises(UsageError) as error:
        broken.compile(TEXT + "/* other */", FLAGS)
    assert error.value.code == "compiler-missing"


def test_header_text_is_part_of_the_key(tmp_path: Path) -> None:
    tools = default_toolchain(cache_folder=tmp_path)
    text = '#include "n.h"\nint n(void) { return N; }\n'
    assert tools.compile(text, FLAGS, headers={"n.h": "#define N 1\n"}) != tools.compile(
        text, FLAGS, headers={"n.h": "#define N 2\n"}
    )


def test_refused_text_leaves_a_bundle(tmp_path: Path) -> None:
    tools = default_toolchain(cache_folder=tmp_path)
    with pytest.raises(InternalError, match="error") as error:
        tools.compile("int f(void) { return undeclared; }\n", FLAGS, name="broken", headers={"h.h": ""})
    assert error.value.bundle is not None
    bundle = Path(error.value.bundle)
    assert {p.name for p in bundle.iterdir()} == {"broken.c", "h.h", "command.sh", "stderr.txt", "versions.json"}
    assert "undeclared" in (bundle / "stderr.txt").read_text()


def test_cache_is_bounded_and_keeps_the_recent(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path, limit=5000)
    for i in range(8):
        cache.put(f"{i:064x}", bytes(1000))
        os.utime(cache._path(f"{i:064x}"), ns=(i, i))
    cache.get(f"{4:064x}")
    cache.put(f"{9:064x}", bytes(1000))
    kept = [i for i in range(10) if cache.get(f"{i:064x}") is not None]
    assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) <= 5000
    assert 4 in kept and 9 in kept and 0 not in kept


def test_damaged_entry_is_a_miss(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path)
    cache.put("ab" * 32, b"payload")
    path = cache._path("ab" * 32)
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    assert cache.get("ab" * 32) is None


def test_unwritable_cache_only_misses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tools = default_toolchain(cache_folder=tmp_path / "file" / "cache")
    assert tools.compile(TEXT, FLAGS)[:4] == b"\x7fELF"


def test_missing_compiler_is_the_users_error() -> None:
    with pytest.raises(UsageError) as error:
        default_toolchain("no-such-compiler-xyz")
    assert error.value.code == "compiler-missing"
