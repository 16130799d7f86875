"""Machine code of products and convolutions without a GPU: matrix instructions, wide reads, no spills; golden text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tilewright.backends.cuda import sass
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.backends.cuda.build import compile_source
from tilewright.backends.cuda.modules import Module
from tilewright.kernel.apply import apply
from tilewright.kernel.schedule import Schedule, Scheduled
from tilewright.kernel.tile import Kernel

from tests.kernel import trial_kernels

from .cases import block, pipeline
from .test_products import convolution, depthwise, grouped, mixed_bytes, transposed

GOLDEN = Path(__file__).parent / "golden"

_LARGE = (block("n", 128), block("m", 128)), (pipeline("k", 64),)
_BLOCKS = (("num_warps", 4), ("num_stages", 3), ("persistent", 132), ("descriptors", True), ("specialize", True))
_SPLIT = (("num_warps", 8), ("num_stages", 4), ("split:k", 16), ("programs", 108), ("group", 8))


def _matmul(dtype: str) -> Callable[[], Kernel]:
    return lambda: trial_kernels.matmul_bias_gelu(dtype, 768, 768)


@dataclass(frozen=True, slots=True)
class Case:
    """``schedule``: ``None`` is the first guess. ``holds``: the start of each instruction that has to be there, and
    ``wide``: that of those of which every one has to be of 128 bits."""

    name: str
    arch: str
    build: Callable[[], Kernel]
    holds: tuple[str, ...]
    wide: tuple[str, ...] = ("LDGSTS.",)
    schedule: Schedule | None = None

    def scheduled(self, backend: CudaBackend) -> Scheduled:
        kernel = replace(self.build(), name=self.name)
        schedule = self.schedule or next(iter(backend.schedules(kernel, backend.targets()[f"cuda:{self.arch}"])))
        return apply(kernel, schedule)


QUICK = (
    Case("conv_f16", "sm_80", lambda: convolution("f16", 14, 64, 128, 3, 1), ("HMMA.16816.F32", "LDGSTS.")),
    Case("split_f16", "sm_80", _matmul("f16"), ("HMMA.16816.F32",), schedule=Schedule(*_LARGE, extra=_SPLIT)),
    Case("blocks_f16", "sm_90", _matmul("f16"), ("HGMMA", "UTMALDG"), schedule=Schedule(*_LARGE, extra=_BLOCKS)),
    Case("depthwise_f16", "sm_90", lambda: depthwise("f16", 28, 192, 1), ("LDG.E.128", "STG.E.128"), ()),
)
SLOW = (
    Case("conv_f32", "sm_80", lambda: convolution("f32", 14, 64, 128, 3, 1), ("HMMA.1688.F32.TF32",)),
    Case("conv_f16", "sm_90", lambda: convolution("f16", 14, 64, 128, 3, 1), ("H",)),
    Case("bytes", "sm_80", lambda: mixed_bytes("u8", "i8", 768), ("IMMA.16832.S8.S8",)),
    Case("bytes", "sm_90", lambda: mixed_bytes("i8", "i8", 768), ("I",)),
    Case("grouped", "sm_80", grouped, ("HMMA.1688.F32.TF32",), ()),
    Case("transposed", "sm_90", transposed, ("H",), ()),
    Case("matmul_f8", "sm_89", _matmul("f8e4m3"), ("QMMA.16832.F32.E4M3",)),
    Case("matmul_f8", "sm_90", _matmul("f8e4m3"), ("Q",)),
)


def _compiled(backend: CudaBackend, cases: tuple[Case, ...], arch: str) -> Mapping[str, Module]:
    target = backend.targets()[f"cuda:{arch}"]
    return compile_source(backend.emit([c.scheduled(backend) for c in cases], target), target)


def _check(case: Case, module: Module, backend: CudaBackend) -> None:
    limits = backend.targets()[f"cuda:{case.arch}"].extra
    code, used = sass.opcodes(module.cubin), sass.resources(module.cubin)
    for start in case.holds:
        matrix = ("HMMA.", "HGMMA.", "IMMA.", "IGMMA.", "QMMA.", "QGMMA.")
        assert any(op.startswith(start) and (len(start) > 1 or op.startswith(matrix)) for op in code), code
    for start in case.wide:
        assert all("128" in op for op in code if op.startswith(start)), code
    assert (used.stack, used.local) == (0, 0)
    assert not [op for op in code if op.startswith(("LDL", "STL"))]
    assert module.shared + used.shared <= limits["shared_per_block"]
    assert used.registers * module.threads <= limits["registers_per_block"]


@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_code(arch: str, backend: CudaBackend) -> None:
    cases = tuple(c for c in QUICK if c.arch == arch)
    modules = _compiled(backend, cases, arch)
    for case in cases:
        _check(case, modules[case.name], backend)
        producers = 4 if ("specialize", True) in (case.schedule.extra if case.schedule else ()) else 0
        assert modules[case.name].threads >= 32 * (modules[case.name].launch.num_warps + producers)


@pytest.mark.slow
@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("arch", ["sm_80", "sm_89", "sm_90"])
def test_code_of_further_classes(arch: str, backend: CudaBackend) -> None:
    cases = tuple(c for c in SLOW if c.arch == arch)
    modules = _compiled(backend, cases, arch)
    for case in cases:
        _check(case, modules[case.name], backend)


@pytest.mark.parametrize("case", QUICK, ids=lambda c: c.name)
def test_emitted_text_is_the_golden_one(case: Case, backend: CudaBackend, update_golden: bool) -> None:
    target = backend.targets()[f"cuda:{case.arch}"]
    text = backend.emit([case.scheduled(backend)], target).files[f"{case.name}.py"]
    file = GOLDEN / f"{case.name}.py.txt"
    if update_golden:
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
