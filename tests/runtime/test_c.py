"""The C side: tilewright.h in a C program, the fuzzers under sanitizers, exported folders, libraries and programs."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tilewright import runtime
from tilewright.errors import UsageError
from tilewright.package.export import export
from tilewright.package.native import NATIVE, SOURCES, machine_flags

from tests.runtime import programs
from tests.runtime.rewrite import members

HERE = Path(__file__).parent
GCC = shutil.which("gcc")
needs_gcc = pytest.mark.skipif(GCC is None, reason="SKIPPED: no gcc on the PATH for sanitizers")
X = np.random.default_rng(5).standard_normal((9, programs.K)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.tw"
    path.write_bytes(programs.artifact())
    return path


def wanted() -> bytes:
    return b"".join(y.tobytes() for y in runtime.load(programs.artifact(), threads=1).run(None, {"x": X}))


def zig(files: list[Path | str], out: Path, *more: str) -> None:
    tools: Any = programs.toolchain()
    flags = [
        *machine_flags(tools, programs.TRIPLE),
        "-std=c11",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-s",
        f"-I{NATIVE}",
    ]
    cache = {"ZIG_GLOBAL_CACHE_DIR": str(tools.cache.folder / "zig"), "ZIG_LOCAL_CACHE_DIR": str(out.parent / "zig")}
    command = [*tools.command, *flags, *map(str, files), "-o", str(out), *more]
    subprocess.run(command, check=True, env={**os.environ, **cache})


def gcc(files: list[Path | str], out: Path, *more: str) -> None:
    flags = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{NATIVE}"]
    subprocess.run([str(GCC), *flags, *map(str, files), "-o", str(out), *more], check=True)


def run_rows(program: Path, model: Path, folder: Path, columns: int = programs.K, *more: str) -> tuple[int, bytes, str]:
    (folder / "x.bin").write_bytes(X.tobytes())
    rows = str(len(X) * programs.K // columns)
    command = [str(program), str(model), str(folder / "x.bin"), rows, str(columns), str(folder / "y.bin"), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, (folder / "y.bin").read_bytes() if done.returncode == 0 else b"", done.stderr


def test_a_short_c_program_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    assert len((HERE / "run_model.c").read_text().splitlines()) < 60
    zig([HERE / "run_model.c"], tmp_path / "program", "-lpthread", "-ldl")
    for threads in ("1", "2", "4"):
        assert run_rows(tmp_path / "program", model, tmp_path, programs.K, threads) == (0, wanted(), "")


@needs_gcc
def test_the_c_program_with_gcc_and_its_errors(model: Path, tmp_path: Path) -> None:
    gcc([HERE / "run_model.c"], tmp_path / "program", "-lpthread", "-ldl")
    assert run_rows(tmp_path / "program", model, tmp_path) == (0, wanted(), "")
    code, _, text = run_rows(tmp_path / "program", model, tmp_path, 24)
    assert code == 2 and "the model takes [N, 48]" in text
    damaged = tmp_path / "damaged.tw"
    damaged.write_bytes(model.read_bytes()[:-7])
    assert run_rows(tmp_path / "program", damaged, tmp_path)[0] == 9
    assert run_rows(tmp_path / "program", tmp_path / "missing.tw", tmp_path)[0] == 2


@pytest.mark.skipif(shutil.which("g++") is None, reason="SKIPPED: no g++ on the PATH")
def test_declarations_are_cplusplus_too(tmp_path: Path) -> None:
    (tmp_path / "a.cpp").write_text('#include "tilewright.h"\n#include "kernel_abi.h"\nint main() { return TW_OK; }\n')
    subprocess.run(["g++", "-Wall", "-Werror", f"-I{NATIVE}", "-c", "a.cpp"], check=True, cwd=tmp_path)


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Loader, executor and kernel loader in one program, with sanitizers."""
    if GCC is None:
        pytest.skip("SKIPPED: no gcc on the PATH for sanitizers")
    out = tmp_path_factory.mktemp("fuzz") / "fuzz"
    sources = [HERE / "fuzz.c", NATIVE / "embed.c", *(NATIVE / name for name in SOURCES)]
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-D_GNU_SOURCE", "-DBUDGET=20000u"]
    gcc(sources, out, *checks, "-Wno-pedantic", "-lm", "-lpthread", "-ldl")
    return out


@pytest.mark.parametrize(("mode", "count"), [("open", 2000), ("plan", 4000)])
def test_mutations_under_sanitizers(fuzzer: Path, model: Path, tmp_path: Path, mode: str, count: int) -> None:
    file = model
    if mode == "plan":
        file = tmp_path / "plan.bin"
        file.write_bytes(members(model.read_bytes())["cpu/baseline/plan.bin"])
    environment = {
        **os.environ,
        "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1:max_allocation_size_mb=4096",
    }
    command = [str(fuzzer), mode, str(file), str(count), "11"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    words = done.stdout.split()
    found = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    assert found["intact"] >= 1 and found["refused"] > count // 4 and found["other"] == 0


@needs_gcc
def test_runs_side_by_side_under_a_race_detector(model: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.bin").write_bytes(members(model.read_bytes())["cpu/baseline/plan.bin"])
    sources = [HERE / "race.c", HERE / "kernels.c", *(NATIVE / name for name in SOURCES)]
    gcc(sources, tmp_path / "race", "-fsanitize=thread", "-D_GNU_SOURCE", "-Wno-pedantic", "-lpthread", "-ldl")
    command = [str(tmp_path / "race"), str(tmp_path / "plan.bin"), "600"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("SKIPPED: the race detector does not run on this kernel")
    assert (done.returncode, done.stdout) == (0, "wrong 0\n"), done.stderr[-3000:]


# -- export -----------------------------------------------------------------------------------------------------------

ALLOWED = {"linux-vdso", "libc", "libm", "libpthread", "libdl", "ld-linux-x86-64", "ld-linux-aarch64"}


def needed(path: Path) -> set[str]:
    if shutil.which("ldd") is None:
        pytest.skip("SKIPPED: no ldd on the PATH")
    listing = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=True).stdout
    return {Path(line.split()[0]).name.partition(".so")[0] for line in listing.splitlines()}


def test_an_exported_program(model: Path, tmp_path: Path) -> None:
    program = tmp_path / "tiny"
    assert export(model, "exe", program, programs.toolchain()) == [program]
    np.save(tmp_path / "x.npy", X)
    command = [str(program), "--input", f"x={tmp_path}/x.npy", "--output-dir", str(tmp_path), "--threads", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={})
    assert done.stdout == "y [9, 32]\nz [288]\n"
    assert b"".join(np.load(tmp_path / f"{n}.npy").tobytes() for n in "yz") == wanted()
    assert needed(program) <= ALLOWED
    for wrong in (["--input", "q=x.npy"], ["--input", f"x={model}"], [], ["--entry", "none"], ["--help"]):
        assert subprocess.run([str(program), *wrong], capture_output=True, check=False).returncode == 2


USER = """\
#include <stdio.h>
#include "libtiny.h"
int main(void) {
    static float x[9 * 48];
    tw_model *model;
    tw_error error;
    tw_tensor in = {x, sizeof x, 1, 2, {9, 48}}, out[2] = {{0}};
    if (fread(x, 1, sizeof x, stdin) != sizeof x || tiny_open(&model, NULL, &error) != TW_OK) return 1;
    if (tw_run(model, 0, &in, 1, out, 2, &error) != TW_OK) return error.code;
    for (int i = 0; i < 2; i++) {
        fwrite(out[i].data, 1, (size_t)out[i].bytes, stdout);
        tw_free(model, out[i].data);
    }
    tw_close(model);
    return 0;
}
"""


def test_an_exported_library(model: Path, tmp_path: Path) -> None:
    library = tmp_path / "libtiny.so"
    export(model, "so", library, programs.toolchain())
    (tmp_path / "user.c").write_text(USER)
    zig([tmp_path / "user.c", library], tmp_path / "user", f"-I{tmp_path}", f"-Wl,-rpath,{tmp_path}")
    done = subprocess.run([str(tmp_path / "user")], input=X.tobytes(), capture_output=True, check=True)
    assert done.stdout == wanted()
    assert needed(library) <= ALLOWED


def test_an_exported_folder(model: Path, tmp_path: Path) -> None:
    files = export(model, "dir", tmp_path / "out", programs.toolchain())
    assert {f.name for f in files} >= {"model.tw", "tilewright.h", "main.c", "plan.bin", "manifest.json"}
    zig([tmp_path / "out" / "main.c"], tmp_path / "out" / "main", "-lpthread", "-ldl")
    done = subprocess.run(["./main"], cwd=tmp_path / "out", capture_output=True, text=True, check=True)
    assert done.stdout == "y: 128 bytes, shape [N, 32]\nz: 128 bytes, shape [32*N]\n"


def test_exports_are_reproducible(model: Path, tmp_path: Path) -> None:
    for kind in ("so", "exe"):
        first, second = (tmp_path / f"{kind}{i}" / "libx.so" for i in "ab")
        for out in (first, second):
            out.parent.mkdir()
            export(model, kind, out, programs.toolchain())  # type: ignore[arg-type]
        assert first.read_bytes() == second.read_bytes()


def test_export_names_the_family_to_choose(tmp_path: Path) -> None:
    other = "aarch64" if programs.FAMILY == "x86_64" else "x86_64"
    parts = [programs.part(programs.plan()), programs.part(programs.plan(), "cpu:other", (), other)]
    path = tmp_path / "model.tw"
    path.write_bytes(programs.artifact(parts=parts))
    with pytest.raises(UsageError, match="aarch64, x86_64"):
        export(path, "exe", tmp_path / "program", programs.toolchain())
    export(path, "exe", tmp_path / "program", programs.toolchain(), family=programs.FAMILY)
    assert subprocess.run([str(tmp_path / "program"), "--x"], capture_output=True, check=False).returncode == 2
