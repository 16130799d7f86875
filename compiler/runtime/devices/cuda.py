"""NVIDIA GPUs: which there are, which part of an artifact runs on one, and its plan loaded there."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from ctypes import c_int32
from dataclasses import dataclass

import numpy as np
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.device import LoadedPlan, executor, raise_error, require_host
from tilewright.runtime.errors import DeviceError
from tilewright.runtime.library import (
    ALLOW_JIT,
    Device,
    DeviceOptions,
    DeviceRuntime,
    DeviceUse,
    Error,
    Weights,
)
from tilewright.runtime.manifest import TargetInfo, told_tools
from tilewright.runtime.modules import MODULES, Modules, read_modules

#: The driver's library. CUDA's own name of it on Linux.
LIBRARY = "libcuda.so.1"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as the driver tells of it.

    Attributes:
        capability: compute capability, major and minor.
        driver: the CUDA version that the driver supports, 1000 × major + 10 × minor.
        processors: streaming multiprocessors.
        memory: bytes.
    """

    index: int
    name: str
    capability: tuple[int, int]
    driver: int
    processors: int
    memory: int

    def __str__(self) -> str:
        major, minor = self.capability
        return f"GPU {self.index} ({self.name}, compute capability {major}.{minor})"


class GpuPlan(LoadedPlan):
    """A plan whose modules and weights are on a GPU."""

    table: DeviceRuntime

    def __init__(
        self, artifact: Artifact, target: TargetInfo, table: DeviceRuntime, threads: int, gpu: Gpu, allow_jit: bool
    ):
        self._gpu, self._allow_jit = gpu, allow_jit
        super().__init__(artifact, target, table, threads)

    @property
    def gpu(self) -> Gpu:
        """Where it is."""
        return self._gpu

    @property
    def use(self) -> DeviceUse:
        """What it has there now."""
        use, error = DeviceUse(), Error()
        use.size = ctypes.sizeof(use)
        if self.table.device_info(self.handle, ctypes.byref(use), ctypes.byref(error)):
            raise_error(error, self.artifact.where)
        return use

    def _create(self, plan: int, size: int, weights: Weights, threads: int, error: Error) -> int:
        modules = self.artifact.checked(self.target.members[MODULES])
        kernels, count = self.kernels() if "kernels.so" in self.target.members else (None, 0)
        options = DeviceOptions(
            size=ctypes.sizeof(DeviceOptions),
            flags=ALLOW_JIT if self._allow_jit else 0,
            device=self._gpu.index,
            threads=threads,
            driver_needed=driver_needed(self.artifact),
            library=LIBRARY.encode(),
            modules=np.frombuffer(modules, np.uint8).ctypes.data,
            module_bytes=len(modules),
            host_kernels=kernels,
            host_kernel_count=count,
        )
        code: int = self.table.create_device(
            ctypes.byref(self.handle),
            *(plan, size, ctypes.byref(weights), ctypes.byref(options)),
            ctypes.byref(error),
        )
        return code


def driver_needed(artifact: Artifact) -> int:
    """The least CUDA version that a driver must support for the machine code of an artifact.

    Code of one generation of ``ptxas`` runs on every driver of that generation (CUDA, "Minor Version Compatibility").
    """
    version = told_tools(artifact.manifest.provenance).get("ptxas")
    found = re.match(r"([0-9]{1,3})\.", version) if isinstance(version, str) else None
    return int(found[1]) * 1000 if found else 0


def _require_driver(artifact: Artifact, gpu: Gpu) -> None:
    needed = driver_needed(artifact)
    if gpu.driver < needed:
        have, want = (f"{v // 1000}.{v % 1000 // 10}" for v in (gpu.driver, needed))
        raise DeviceError(
            "driver-too-old",
            where="device cuda",
            cause=f"the NVIDIA driver here is for CUDA {have}; the machine code of {artifact.where} needs CUDA {want}",
            fix="install a newer driver, or name another device",
        )


def gpus(table: DeviceRuntime) -> list[Gpu]:
    """The GPUs that the driver shows. Raises :class:`DeviceError` where there are none, or no driver to be used."""
    count, error = c_int32(), Error()
    if table.device_count(LIBRARY.encode(), ctypes.byref(count), ctypes.byref(error)):
        raise _missing(error)
    return [_describe(table, index) for index in range(count.value)]


def _describe(table: DeviceRuntime, index: int) -> Gpu:
    told, error = Device(), Error()
    if table.device_describe(LIBRARY.encode(), index, ctypes.byref(told), ctypes.byref(error)):
        raise _missing(error)
    name = told.name.decode("utf-8", "replace")
    return Gpu(index, name, (told.major, told.minor), told.driver, told.processors, told.total_bytes)


def _missing(error: Error) -> DeviceError:
    cause = error.text.decode("utf-8", "replace")
    fix = "run it where there is an NVIDIA GPU with its driver, or name another device"
    return DeviceError("gpu-missing", where="device cuda", cause=cause, fix=fix)


def load_gpu(artifact: Artifact, device: str, threads: int | None, allow_jit: bool) -> GpuPlan:
    """The plan of the part for a GPU that there is, on it.

    Args:
        artifact: one with parts for GPUs.
        device: ``cuda`` (the first GPU that a part is for), ``cuda:1``, ``cuda:sm_90`` (that part), or ``auto``.
        threads: of the host part; ``None`` for the processors that this process may use.
        allow_jit: the driver may compile PTX where no part has machine code for the GPU.

    Raises:
        DeviceError: no driver, one that is too old for the code, no such GPU, or no code for it (exit 8).
        ResourceError: no memory there (exit 7).
    """
    parts, index = _asked(artifact, device)
    require_host(artifact, parts[0])
    table = executor(artifact, parts[0], DeviceRuntime)
    found = gpus(table)
    if index is not None and index >= len(found):
        raise DeviceError(
            "gpu-unknown",
            where=f"device {device}",
            cause=f"there is no GPU {index}; the driver shows {'; '.join(map(str, found))}",
            fix="name one of these; CUDA_VISIBLE_DEVICES hides others",
        )
    _require_driver(artifact, found[0])
    held = {part.target: read_modules(artifact, part) for part in parts}
    asked = found if index is None else [found[index]]
    for gpu in asked:
        part = _part_for(gpu, parts, held, table, allow_jit)
        if part is not None:
            return GpuPlan(artifact, part, table, threads or table.threads_default(), gpu, allow_jit)
    raise _no_code(artifact, asked, held, allow_jit)


def _asked(artifact: Artifact, device: str) -> tuple[list[TargetInfo], int | None]:
    """The parts that are meant, and the number of the GPU, where one is."""
    parts = [t for t in artifact.manifest.targets if t.has_modules]
    number = re.fullmatch(r"cuda[:-]([0-9]{1,9})", device)
    mine = parts if device == "auto" or number else [t for t in parts if device in t.spellings]
    if not mine:
        raise DeviceError(
            "device-missing",
            where=artifact.where,
            cause=f"it holds {', '.join(t.target for t in artifact.manifest.targets)}; none of it is for {device!r}",
            fix="compile the model for this GPU (-t cuda), or name a device that the artifact holds",
        )
    return mine, int(number[1]) if number else None


def _part_for(
    gpu: Gpu, parts: Sequence[TargetInfo], held: dict[str, Modules], table: DeviceRuntime, allow_jit: bool
) -> TargetInfo | None:
    """The part with machine code for a GPU; else, where that is allowed, the newest with PTX that it can run."""

    def newest(fitting: Sequence[TargetInfo]) -> TargetInfo | None:
        return max(fitting, key=lambda part: held[part.target].arch, default=None)

    own = newest([p for p in parts if table.device_runs(held[p.target].arch, *gpu.capability)])
    if own is not None or not allow_jit:
        return own
    limit = 10 * gpu.capability[0] + gpu.capability[1]
    return newest([p for p in parts if held[p.target].has_ptx and held[p.target].arch <= limit])


def _no_code(artifact: Artifact, found: Sequence[Gpu], held: dict[str, Modules], allow_jit: bool) -> DeviceError:
    archs = {gpu.capability[0] * 10 + gpu.capability[1] for gpu in found}
    portable = [t for t, m in held.items() if m.has_ptx and m.arch <= max(archs)]
    fix = " or ".join(f"-t cuda:sm_{arch}" for arch in sorted(archs))
    fix = f"compile the model for it: {fix} (`tilewright targets` lists what there is)"
    if portable and not allow_jit:
        fix += f"; or let the driver compile the PTX of {', '.join(portable)}: --allow-jit"
    return DeviceError(
        "gpu-code-missing",
        where=artifact.where,
        cause=f"it holds {', '.join(held)}, which is no machine code for {' or '.join(map(str, found))}",
        fix=fix,
    )
