"""Products bound by their weights: numbers in the interpreter, and how the machine code reads the weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tilewright.backends.cuda import sass
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.backends.cuda.build import compile_source
from tilewright.backends.cuda.emit import emit_kernel
from tilewright.backends.cuda.interpret import Run, interpret
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.pack import pack_constant
from tilewright.kernel.tile import Kernel
from tilewright.target import Target

from . import weight_only
from .cases import Array, empty_outputs, inputs

ROWS = {"B": 3}
SMALL = {
    "f16": weight_only.skinny("f16", 8, 200, 72),
    "f32": weight_only.skinny("f32", 8, 200, 72),
    "vector": weight_only.vector("f16", 200, 72),
    "i8": weight_only.channels("f16", "i8", 8, 200, 72),
    "i8 of f32": weight_only.channels("f32", "i8", 8, 200, 72),
    "i4": weight_only.channels("f16", "i4", 8, 200, 72),
    "u4": weight_only.channels("f16", "u4", 8, 200, 72),
    "i4, odd": weight_only.channels("f16", "i4", 8, 200, 71),
    "i4 in groups": weight_only.grouped("f16", "i4", 8, 96, 80),
    "u4 in groups, f32": weight_only.grouped("f32", "u4", 8, 96, 80),
    "i8 in groups": weight_only.grouped("f16", "i8", 8, 96, 80),
    "i4 in groups, many rows": weight_only.grouped("f16", "i4", 200, 64, 80),
}
#: At sizes of a model: which product, and the widest access that brings weights from memory.
LARGE = {
    "f16": (weight_only.skinny("f16", 16, 2048, 2048), "HMMA.16816.F32"),
    "bf16": (weight_only.skinny("bf16", 16, 2048, 2048), "HMMA.16816.F32.BF16"),
    "i8": (weight_only.channels("f16", "i8", 16, 2048, 2048), "HMMA.16816.F32"),
    "i4": (weight_only.grouped("f16", "i4", 16, 2048, 2048, 128), "HMMA.16816.F32"),
}


def extremes(kernel: Kernel, given: dict[str, Array]) -> dict[str, Array]:
    """``given`` with the least and greatest weights among them."""
    for p in kernel.params:
        if p.role == "const" and p.dtype.is_integer:
            low = -(1 << (p.dtype.bits - 1)) if p.dtype.is_signed else 0
            wide = np.random.default_rng(1).integers(low, low + (1 << p.dtype.bits), given[p.name].shape)
            given[p.name] = wide.astype(p.dtype.numpy)
    return given


@pytest.fixture(scope="module")
def interpreted(interpreter: None, backend: CudaBackend, sm_90: Target) -> dict[str, tuple[Array, Array]]:
    """(interpreted, reference) of every small kernel under the first guess, in one process."""
    scheduled, runs, wanted = [], [], []
    for n, small in enumerate(SMALL.values()):
        kernel = replace(small, name=f"kernel_{n}")
        s = apply(kernel, next(iter(backend.schedules(kernel, sm_90))))
        given, outputs = extremes(kernel, inputs(kernel, ROWS)), empty_outputs(kernel, ROWS)
        packs = {p.tensor: p for p in s.schedule.packs}
        packed = {x: pack_constant(a, packs[x]) if x in packs else a for x, a in given.items()}
        scheduled.append(s)
        runs.append(Run(kernel.name, {**packed, **outputs}, ROWS, tuple(outputs)))
        wanted.append(run_lowered(kernel, given, ROWS))
    found = interpret(backend.emit(scheduled, sm_90), runs)
    return {name: (g["Y"], w["Y"]) for name, g, w in zip(SMALL, found, wanted, strict=True)}


@pytest.mark.parametrize("name", SMALL)
def test_numbers(name: str, interpreted: dict[str, tuple[Array, Array]]) -> None:
    got, want = interpreted[name]
    tolerance = 1e-3 if want.dtype == np.float16 else 2e-6  # one rounding of the result; sums in another order
    assert np.abs(got.astype(np.float64) - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_every_candidate_is_legal(name: str, arch: str, backend: CudaBackend) -> None:
    target = backend.targets()[f"cuda:{arch}"]
    for schedule in backend.schedules(SMALL[name], target):
        text, _ = emit_kernel(apply(SMALL[name], schedule))
        compile(text, name, "exec")


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_the_first_guess_has_enough_under_way(name: str, arch: str, backend: CudaBackend) -> None:
    """Programs for every multiprocessor, and by Little's law bytes in flight for the bandwidth at 600 clocks."""
    target = backend.targets()[f"cuda:{arch}"]
    kernel = LARGE[name][0]
    schedule = next(iter(backend.schedules(kernel, target)))
    _, launch = emit_kernel(apply(kernel, schedule))
    programs = launch.grid.evaluate({"B": 1})
    sizes = {loop.axis: loop.size for loop in (*schedule.loops, *schedule.reduce)}
    bits = next(p.dtype.bits for p in kernel.params if p.name == "W")
    piece = sizes["n"] * sizes.get("k", sizes.get("j", 0)) * bits // 8
    wanted = target.memory["global"].bandwidth * 600 / target.extra["clock_hz"]
    assert programs >= 0.9 * target.units
    assert programs * piece * (launch.num_stages - 1) >= wanted


@pytest.mark.parametrize("name", LARGE)
def test_weights_are_read_wide_and_multiplied_by_the_matrix_unit(
    name: str, backend: CudaBackend, triton: None, sm_90: Target
) -> None:
    kernel, product = LARGE[name]
    source = backend.emit([apply(kernel, next(iter(backend.schedules(kernel, sm_90))))], sm_90)
    c = compile_source(source, sm_90)[kernel.name]
    code = sass.opcodes(c.cubin)
    assert code[product] > 0
    assert not [op for op in code if op.startswith(("LDL", "STL", "LDS.U8", "LDS.S8", "LDG.E.U8"))]
    assert code["LDGSTS.E.BYPASS.128"] >= 2 * (c.launch.num_stages - 1)
    assert sass.resources(c.cubin).local == 0


@pytest.mark.parametrize("weights", ["i4", "u4", "i2"])
def test_rows_of_packed_weights_may_end_inside_a_byte(
    weights: str, backend: CudaBackend, sm_90: Target, triton: None
) -> None:
    kernel = weight_only.grouped("f32", weights, depth=64, columns=301)
    source = backend.emit([apply(kernel, next(iter(backend.schedules(kernel, sm_90))))], sm_90)
    assert "_get_packed" in "".join(source.files.values())
    assert sass.resources(compile_source(source, sm_90)[kernel.name].cubin).stack == 0


def test_groups_that_are_taken_whole_keep_a_schedule_of_their_class(backend: CudaBackend, sm_90: Target) -> None:
    """Tiles that would spill are left out only where others are there."""
    kernel = weight_only.grouped("f32", "i8", rows=64, depth=768, columns=768, group=128)
    assert any(name.startswith("split:") for name, _ in next(iter(backend.schedules(kernel, sm_90))).extra)
