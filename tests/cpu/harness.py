"""Runs kernels of the CPU backend through the C interface, on any level that this machine has."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from tilewright.backends.cpu import machine
from tilewright.backends.cpu.backend import LIBRARY, CpuBackend
from tilewright.ir.types import DType
from tilewright.kernel.apply import apply
from tilewright.kernel.pack import in_memory, pack_constant, packed_params
from tilewright.kernel.schedule import Schedule, Scheduled
from tilewright.kernel.tile import Kernel
from tilewright.target import Target


def testable() -> dict[str, Target]:
    """Targets that this machine runs, but for VNNI, which f32 kernels do not use.

    Vectors are spelled without intrinsics for the most part, so that kernels for AVX-512 (its lanes, its register
    tiles) compile for AVX2 as well: that stands in for v4 where a machine has no AVX-512.
    """
    found = {t.spelling: t for t in machine.runnable() if t.spelling != "cpu:x86-64-v4+vnni"}
    v3, v4 = "cpu:x86-64-v3", "cpu:x86-64-v4"
    if v3 in found and v4 not in found:
        narrow, wide = machine.targets()[v3], machine.targets()[v4]
        options = {key: machine.codegen(narrow)[key] for key in ("mcpu", "march", "flags")}
        stand_in = replace(wide, extra={**wide.extra, "codegen": {**machine.codegen(wide), **options}})
        found = {v4: stand_in, **found}
    return found


#: The most capable one that runs as it is comes last.
LEVELS = list(testable())
VNNI = "cpu:x86-64-v4+vnni"


def vnni() -> dict[str, Target]:
    """VNNI's register tiles and operands, in instructions that this machine has: those of VNNI are then emulated."""
    here = testable().get("cpu:x86-64-v4")
    if here is None or VNNI in {t.spelling for t in machine.runnable()}:
        return {VNNI: machine.targets()[VNNI]}
    wide = machine.targets()[VNNI]
    options = {key: machine.codegen(here)[key] for key in ("mcpu", "march", "flags")}
    return {VNNI: replace(wide, extra={**wide.extra, "codegen": {**machine.codegen(wide), **options}})}


TARGETS = {**testable(), **vnni()}


def by_level(cases: Collection[object], quick: Collection[str], name: Callable[..., str] = str) -> list[object]:
    """Parameters (case, level): all ``cases`` on the most capable level, those whose name is in ``quick`` on every
    level; the other pairs are marked slow."""
    assert set(quick) <= {name(c) for c in cases}
    made = []
    for case, level in itertools.product(cases, LEVELS):
        marks = () if level == LEVELS[-1] or name(case) in quick else pytest.mark.slow
        made.append(pytest.param(case, level, id=f"{name(case)}-{level}", marks=marks))
    return made


class Args(ctypes.Structure):
    """``tw_args`` of the kernel interface."""

    _fields_ = (
        ("buffer", ctypes.c_void_p),
        ("dim", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("fault", ctypes.c_void_p),
    )


FUNCTION = ctypes.CFUNCTYPE(None, ctypes.POINTER(Args), ctypes.c_int64, ctypes.c_int64)


@dataclass(frozen=True)
class Compiled:
    """A kernel that can be called."""

    scheduled: Scheduled
    level: str
    function: object
    library: ctypes.CDLL

    def __call__(
        self, tensors: Mapping[str, np.ndarray], dims: Mapping[str, int], splits: Sequence[int] = ()
    ) -> dict[str, np.ndarray]:
        """Outputs by name. ``splits``: borders at which the grid is cut into separate calls, the last piece first."""
        bound = bind(self, tensors, dims)
        borders = [0, *(s for s in splits if 0 < s < bound.blocks), bound.blocks]
        for begin, end in reversed(list(itertools.pairwise(borders))):
            bound.run(begin, end)
        return bound.outputs()


@dataclass(frozen=True)
class Bound:
    """A kernel with its arguments in place."""

    compiled: Compiled
    args: Args
    blocks: int
    raw: dict[str, tuple[np.ndarray, list[int], DType]]
    keep: tuple[object, ...]

    def run(self, begin: int = 0, end: int | None = None) -> None:
        """One call."""
        self.compiled.function(ctypes.byref(self.args), begin, self.blocks if end is None else end)  # type: ignore[operator]

    def outputs(self) -> dict[str, np.ndarray]:
        """What was written."""
        return {name: _from_memory(raw, shape, dtype) for name, (raw, shape, dtype) in self.raw.items()}


def _from_memory(raw: np.ndarray, shape: list[int], dtype: DType) -> np.ndarray:
    if dtype.bits >= 8:
        return raw.copy().view(dtype.numpy).reshape(shape)
    codes = raw.reshape(-1, 1) >> np.arange(0, 8, dtype.bits, dtype=np.uint8) & ((1 << dtype.bits) - 1)
    return codes.reshape(-1)[: int(np.prod(shape))].astype(np.uint8).view(dtype.numpy).reshape(shape)


Placement = Callable[[int, int, int], np.ndarray]
_LIBC = ctypes.CDLL(None, use_errno=True)


def guarded(size: int, value: int, alignment: int) -> np.ndarray:
    """``size`` bytes of ``value`` that end within ``alignment`` bytes of a page that must not be touched."""
    pages = -(-size // mmap.PAGESIZE)
    area = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    raw = np.frombuffer(area, np.uint8)
    fence = ctypes.c_void_p(raw.ctypes.data + pages * mmap.PAGESIZE)
    assert _LIBC.mprotect(fence, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    start = (pages * mmap.PAGESIZE - size) // alignment * alignment
    found = raw[start : start + size]
    found[:] = value
    return found


def unguarded(size: int, value: int, alignment: int) -> np.ndarray:
    """The same in ordinary memory: a masked load beside a forbidden page takes thousands of cycles."""
    raw = np.full(size + alignment, value, np.uint8)
    return raw[-raw.ctypes.data % alignment :][:size]


def bind(
    compiled: Compiled, tensors: Mapping[str, np.ndarray], dims: Mapping[str, int], place: Placement = guarded
) -> Bound:
    """Place inputs, packed constants, poisoned outputs and scratch memory."""
    target = TARGETS[compiled.level]
    scheduled = compiled.scheduled
    packs = {p.tensor: p for p in scheduled.schedule.packs}
    buffers: list[np.ndarray] = []
    outputs = {}
    for p in packed_params(scheduled):
        if p.role == "out":
            shape = [s.evaluate(dims) for s in p.shape]
            raw = place(-(-int(np.prod(shape)) * p.dtype.bits // 8), 0xA5, p.dtype.numpy.itemsize)
            outputs[p.name] = (raw, shape, p.dtype)
            buffers.append(raw)
        else:
            array = np.ascontiguousarray(tensors[p.name])
            array = pack_constant(array, packs[p.name]) if p.name in packs else array
            alignment = 64 if p.role == "const" else p.dtype.numpy.itemsize
            content = in_memory(array, p.dtype).reshape(-1).view(np.uint8)
            buffers.append(place(content.size, 0, alignment))
            buffers[-1][:] = content
    pointers = (ctypes.c_void_p * len(buffers))(*(b.ctypes.data for b in buffers))
    facts = scheduled.kernel.facts
    values = (ctypes.c_int64 * max(1, len(facts)))(*(dims[name] for name, _ in facts))
    size = CpuBackend().launch(scheduled, target)
    blocks, scratch = size.grid.evaluate(dims), size.scratch.evaluate(dims)
    memory = place(scratch, 0xFF, 64)  # every f32 of it is a NaN
    fault = ctypes.c_int32(0)
    args = Args(ctypes.addressof(pointers), ctypes.addressof(values), memory.ctypes.data, ctypes.addressof(fault))
    return Bound(compiled, args, blocks, outputs, (buffers, pointers, values, memory, fault))


@lru_cache(maxsize=256)
def compile_kernel(kernel: Kernel, level: str, schedule: Schedule | None = None, mcpu: str | None = None) -> Compiled:
    """Build one kernel for a level; with ``mcpu``, in instructions of another one, which this machine has to have."""
    backend = CpuBackend()
    target = TARGETS[level]
    scheduled = apply(kernel, schedule or next(iter(backend.schedules(kernel, target))))
    if mcpu is not None:
        table = {**machine.codegen(target), "mcpu": mcpu, "flags": []}
        target = replace(target, extra={**target.extra, "codegen": table})
    binary = backend.build(backend.emit([scheduled], target), target)
    descriptor, path = tempfile.mkstemp(suffix=".so")
    os.write(descriptor, binary.members[LIBRARY])
    os.close(descriptor)
    library = ctypes.CDLL(path)
    Path(path).unlink()
    assert ctypes.c_uint32.in_dll(library, "tw_kernel_count_v1").value == 1
    table = (ctypes.c_void_p * 1).in_dll(library, "tw_kernels_v1")
    return Compiled(scheduled, level, FUNCTION(table[0]), library)
