"""Machine code without a GPU: what the compiled kernels contain, take and are called with."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tilewright.backends.base import Source
from tilewright.backends.cuda import build, sass, toolchain
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.backends.cuda.build import MODULES, compile_source
from tilewright.backends.cuda.launch import LAUNCHES
from tilewright.backends.cuda.modules import (
    BUFFER,
    DIM32,
    FIELDS,
    GLOBAL_SCRATCH,
    PROFILE_SCRATCH,
    Module,
)
from tilewright.errors import InternalError, UsageError
from tilewright.ir.ranges import Range
from tilewright.kernel.apply import apply
from tilewright.kernel.schedule import Schedule
from tilewright.kernel.tile import Kernel
from tilewright.target import Target

from tests.kernel import trial_kernels

from .cases import block, int8_matmul, pipeline, residual_layer_norm

pytestmark = pytest.mark.usefixtures("triton")


def _named(name: str, kernel: Kernel) -> Kernel:
    return replace(kernel, name=name)


_SOFTMAX = trial_kernels.row_softmax("f16")
KERNELS = {
    k.name: k
    for k in (
        _named("matmul_f16", trial_kernels.matmul_bias_gelu("f16")),
        _named("matmul_bf16", trial_kernels.matmul_bias_gelu("bf16")),
        _named("matmul_f32", trial_kernels.matmul_bias_gelu("f32")),
        _named("matmul_i8", int8_matmul()),
        _named("convolution_f16", trial_kernels.conv3x3_residual_relu(dtype="f16")),
        _named("attention_f16", trial_kernels.flash_attention("f16", mask="causal")),
        _named("layer_norm_f16", residual_layer_norm()),
        _named("softmax_f16", _SOFTMAX),
        _named("softmax_f16_by_8", replace(_SOFTMAX, facts=(("M", Range(1, 65536)), ("N", Range(8, 1024, 8))))),
    )
}
#: The start of the matrix instruction's name for operands of a kernel, by the generation of the tensor core.
MATRIX: Mapping[str, Mapping[str, str | tuple[str, ...]]] = {
    "matmul_f16": {"mma": "HMMA.16816.F32", "wgmma": "HGMMA"},
    "matmul_bf16": {"mma": "HMMA.16816.F32.BF16", "wgmma": "HGMMA"},
    "matmul_f32": {"mma": "HMMA.1688.F32.TF32", "wgmma": ("HMMA.1688.F32.TF32", "HGMMA")},
    "matmul_i8": {"mma": "IMMA.16832.S8.S8", "wgmma": ("IGMMA", "IMMA.16832.S8.S8")},
    "convolution_f16": {"mma": "HMMA.16816.F32", "wgmma": "HGMMA"},
    "attention_f16": {"mma": "HMMA.16816.F32", "wgmma": "HGMMA"},
}
#: Every matrix instruction; HFMA2.MMA, which moves constants, is none.
ANY_MATRIX = ("HMMA.", "HGMMA.", "IMMA.", "IGMMA.", "QGMMA.", "UTC")


def _source(backend: CudaBackend, target: Target, kernels: list[Kernel]) -> Source:
    return backend.emit([apply(k, next(iter(backend.schedules(k, target)))) for k in kernels], target)


@pytest.fixture(scope="module", params=["cuda:sm_80", "cuda:sm_90"])
def compiled(request: pytest.FixtureRequest, backend: CudaBackend, triton: None) -> tuple[Target, Mapping[str, Module]]:
    """All kernels, each under the first guess, for one architecture."""
    target = backend.targets()[request.param]
    return target, compile_source(_source(backend, target, list(KERNELS.values())), target)


@pytest.mark.parametrize("name", KERNELS)
def test_resources_fit_the_device(name: str, compiled: tuple[Target, Mapping[str, Module]]) -> None:
    target, c = compiled[0], compiled[1][name]
    used = sass.resources(c.cubin)
    assert c.shared + used.shared <= target.extra["shared_per_sm"]
    assert c.shared <= target.extra["shared_per_block"]
    assert used.registers * 32 * c.launch.num_warps <= target.extra["registers_per_block"]


@pytest.mark.parametrize("name", KERNELS)
def test_nothing_is_spilled(name: str, compiled: tuple[Target, Mapping[str, Module]]) -> None:
    c = compiled[1][name]
    used, code = sass.resources(c.cubin), sass.opcodes(c.cubin)
    assert (used.stack, used.local) == (0, 0)
    assert not [op for op in code if op.startswith(("LDL", "STL"))]


@pytest.mark.parametrize("name", KERNELS)
def test_products_run_on_the_matrix_unit(name: str, compiled: tuple[Target, Mapping[str, Module]]) -> None:
    target, c = compiled[0], compiled[1][name]
    found = [op for op in sass.opcodes(c.cubin) if op.startswith(ANY_MATRIX)]
    if name in MATRIX:
        wanted = MATRIX[name]["wgmma" if "wgmma" in target.features else "mma"]
        assert any(op.startswith(wanted) for op in found), found
    else:
        assert not found  # row operations


def test_tf32_is_used_only_where_the_schedule_says_so(backend: CudaBackend, sm_90: Target) -> None:
    kernel = KERNELS["matmul_f32"]
    loops = (block("n", 128), block("m", 128)), (pipeline("k", 32),)
    found = []
    for precision in ("ieee", "tf32"):
        schedule = Schedule(*loops, extra=(("num_warps", 8), ("num_stages", 3), ("precision", precision)))
        source = backend.emit([apply(kernel, schedule)], sm_90)
        code = sass.opcodes(compile_source(source, sm_90)[kernel.name].cubin)
        found.append([op for op in code if op.startswith(ANY_MATRIX)])
    assert found[0] == []
    assert found[1] == ["HGMMA.64x128x8.F32.TF32"]


@pytest.mark.parametrize("name", KERNELS)
def test_parameters_are_those_of_the_launch(name: str, compiled: tuple[Target, Mapping[str, Module]]) -> None:
    c, kernel = compiled[1][name], KERNELS[name]
    scratch = ("u64", "u64")  # global and profile scratch, which Triton 3.9 appends
    assert c.parameters == ("u64",) * len(kernel.params) + ("u32",) * len(kernel.facts) + scratch
    assert c.scratch == (0, 0)


def test_divisibility_facts_give_wide_accesses(compiled: tuple[Target, Mapping[str, Module]]) -> None:
    known, unknown = (sass.opcodes(compiled[1][n].cubin) for n in ("softmax_f16_by_8", "softmax_f16"))
    assert known["LDG.E.128"] == known["STG.E.128"] > 0
    assert not known["LDG.E.U16"]
    assert unknown["LDG.E.U16"] > 0
    assert not unknown["LDG.E.128"]
    assert sass.opcodes(compiled[1]["layer_norm_f16"].cubin)["STG.E.128"] > 0
    for name in ("matmul_f16", "convolution_f16", "attention_f16"):
        code = sass.opcodes(compiled[1][name].cubin)
        assert sum(n for op, n in code.items() if op.startswith("LDGSTS") and op.endswith(".128")) > 0
        assert code["STG.E.128"] > 0


def test_building_twice_gives_the_same_bytes(
    backend: CudaBackend, sm_90: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also under variables that would change what Triton makes, which it must not see; nothing is left at home but in
    the cache."""
    source = _source(backend, sm_90, [KERNELS["matmul_f16"]])
    first = backend.build(source, sm_90)
    for name, value in {"PTXAS_OPTIONS": "-O0", "TRITON_F32_DEFAULT": "tf32", "DISABLE_PTXAS_OPT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # with nothing in it
    second = backend.build(source, sm_90)
    assert first == second
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]
    assert b"tilewright-cuda-" not in first.members[MODULES]
    assert b"/site-packages/" not in first.members[MODULES]
    monkeypatch.setattr(subprocess, "Popen", None)  # what is cached needs no Triton
    assert backend.build(source, sm_90) == first


def test_members_and_provenance(backend: CudaBackend, sm_90: Target) -> None:
    source = _source(backend, sm_90, [KERNELS["softmax_f16"]])
    binary = backend.build(source, sm_90)
    assert sorted(binary.members) == [LAUNCHES, MODULES]
    head = struct.unpack_from("<6IQ", binary.members[MODULES])
    assert head[:4] == (0x444D5754, 1, 90, 1)
    words = struct.unpack_from(f"<{head[4]}I", binary.members[MODULES], 32)
    module = compile_source(source, sm_90)["softmax_f16"]
    told = dict(zip(FIELDS, words, strict=False))
    assert told["threads"] == 32 * module.launch.num_warps
    assert told["shared"] == module.shared
    assert told["ptx_bytes"] == 0  # what is for sm_90a alone is no use to later devices
    blobs = -(-(32 + 4 * head[4] + head[5]) // 64) * 64
    cubin = binary.members[MODULES][blobs + told["cubin_offset"] :][: told["cubin_bytes"]]
    assert cubin == module.cubin
    assert cubin[:4] == b"\x7fELF"
    level = sm_90.extra["ptx_version"]
    assert f".version {level // 10}.{level % 10}" in module.ptx
    assert words[len(FIELDS) :] == (BUFFER, BUFFER | 1 << 8, DIM32, DIM32 | 1 << 8, GLOBAL_SCRATCH, PROFILE_SCRATCH)
    (launch,) = json.loads(binary.members[LAUNCHES])
    assert launch["parameters"] == ["u64", "u64", "u32", "u32", "u64", "u64"]
    assert binary.tools["triton"].startswith(toolchain.TRITON)
    assert binary.tools["ptxas"].startswith("12.9.")


def test_text_that_triton_refuses_is_an_internal_error_with_a_bundle(backend: CudaBackend, sm_90: Target) -> None:
    source = _source(backend, sm_90, [KERNELS["softmax_f16"]])
    name = "softmax_f16.py"
    broken = Source({**source.files, name: source.files[name].replace("tl.exp(", "tl.no_such(")}, source.symbols)
    with pytest.raises(InternalError, match="no_such") as error:
        backend.build(broken, sm_90)
    assert error.value.bundle is not None
    bundle = Path(error.value.bundle)
    assert (bundle / name).exists()
    assert (bundle / "stderr.txt").exists()
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    again = subprocess.run(["sh", bundle / "reproduce.sh"], env=path, capture_output=True, text=True, check=False)
    assert again.returncode != 0
    assert "no_such" in again.stderr
    shutil.rmtree(bundle)


def test_a_kernel_that_takes_too_long_is_given_up(
    backend: CudaBackend, sm_90: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build, "_KERNEL_SECONDS", 0.01)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InternalError, match="did not end within") as error:
        backend.build(_source(backend, sm_90, [KERNELS["softmax_f16"]]), sm_90)
    assert error.value.bundle is not None
    shutil.rmtree(error.value.bundle)


def test_a_missing_triton_is_told_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise toolchain.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(toolchain.importlib.metadata, "version", absent)
    with pytest.raises(UsageError, match=r"pip install 'triton==3\.9"):
        toolchain.triton_version()


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_86", "sm_89", "sm_100", "sm_120"])
def test_other_architectures_compile(arch: str, backend: CudaBackend) -> None:
    target = backend.targets()[f"cuda:{arch}"]
    for name, c in compile_source(_source(backend, target, list(KERNELS.values())), target).items():
        assert c.shared <= target.extra["shared_per_block"], name
        found = [op for op in sass.opcodes(c.cubin) if op.startswith(ANY_MATRIX)]
        assert bool(found) == (name in MATRIX), name
