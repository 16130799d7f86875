"""Runs kernels of the CPU backend through the C interface, on any level that this machine has."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from tilewright.backends.cpu import machine
from tilewright.backends.cpu.backend import LIBRARY, CpuBackend
from tilewright.kernel.apply import apply
from tilewright.kernel.pack import packed_params, pack_constant
from tilewright.kernel.schedule import Schedule, Scheduled
from tilewright.kernel.tile import Kernel

LEVELS = [t.spelling for t in machine.runnable() if t.spelling != "cpu:x86-64-v4+vnni"]


class Args(ctypes.Structure):
    """``tw_args`` of the kernel interface."""

    _fields_ = (("buffer", ctypes.c_void_p), ("dim", ctypes.c_void_p), ("scratch", ctypes.c_void_p))


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
        backend = CpuBackend()
        target = machine.targets()[self.level]
        kernel = self.scheduled.kernel
        packs = {p.tensor: p for p in self.scheduled.schedule.packs}
        buffers, outputs = [], {}
        for p in packed_params(self.scheduled):
            if p.role == "out":
                # Bytes behind the output must stay as they are.
                shape = [s.evaluate(dims) for s in p.shape]
                raw = np.full(int(np.prod(shape)) * p.dtype.numpy.itemsize + 64, 0xA5, np.uint8)
                outputs[p.name] = (raw, shape, p.dtype.numpy)
                buffers.append(raw)
            else:
                array = np.ascontiguousarray(tensors[p.name])
                buffers.append(pack_constant(array, packs[p.name]) if p.name in packs else array)
        pointers = (ctypes.c_void_p * len(buffers))(*(b.ctypes.data for b in buffers))
        values = (ctypes.c_int64 * max(1, len(kernel.facts)))(*(dims[name] for name, _ in kernel.facts))
        blocks, scratch = (e.evaluate(dims) for e in backend.launch(self.scheduled, target))
        memory = np.full(scratch + 64, 0xFF, np.uint8)  # every f32 of it is a NaN
        base = memory.ctypes.data + (-memory.ctypes.data) % 64
        args = Args(ctypes.addressof(pointers), ctypes.addressof(values), base)
        borders = [0, *(s for s in splits if 0 < s < blocks), blocks]
        for begin, end in reversed(list(zip(borders, borders[1:], strict=False))):
            self.function(ctypes.byref(args), begin, end)  # type: ignore[operator]
        found = {}
        for name, (raw, shape, dtype) in outputs.items():
            assert (raw[-64:] == 0xA5).all(), f"{name}: written behind its end"
            found[name] = raw[:-64].view(dtype).reshape(shape)
        return found


@lru_cache(maxsize=256)
def compile_kernel(kernel: Kernel, level: str, schedule: Schedule | None = None) -> Compiled:
    """Build one kernel for a level."""
    backend = CpuBackend()
    target = machine.targets()[level]
    scheduled = apply(kernel, schedule or next(iter(backend.schedules(kernel, target))))
    binary = backend.build(backend.emit([scheduled], target), target)
    descriptor, path = tempfile.mkstemp(suffix=".so")
    os.write(descriptor, binary.members[LIBRARY])
    os.close(descriptor)
    library = ctypes.CDLL(path)
    os.unlink(path)
    assert ctypes.c_uint32.in_dll(library, "tw_kernel_count_v1").value == 1
    table = (ctypes.c_void_p * 1).in_dll(library, "tw_kernels_v1")
    return Compiled(scheduled, level, FUNCTION(table[0]), library)
