"""NVIDIA GPUs: tile IR through Triton to cubins. Compiles on machines without a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from tilewright.backends.base import Binary, Code, KernelBackend, LaunchSize, Source, Support, name_of
from tilewright.backends.cuda import build as toolchain_build
from tilewright.backends.cuda import schedule as heuristics
from tilewright.backends.cuda.emit import emit_kernel
from tilewright.backends.cuda.functions import LANGUAGE, refusals
from tilewright.backends.cuda.launch import LAUNCHES, to_json
from tilewright.backends.cuda.records import by_records
from tilewright.backends.cuda.routine import emit_routine
from tilewright.backends.cuda.routine import refusals as routine_refusals
from tilewright.kernel.apply import defines
from tilewright.kernel.routine import Routine
from tilewright.kernel.schedule import Schedule, Scheduled
from tilewright.kernel.tile import Kernel, Store
from tilewright.target import Target
from tilewright.tuning.choice import choice_of

#: What ``cuda`` stands for: machine code for compute capability 8.x and for 9.0; the PTX of the first is for the rest.
PORTABLE = ("sm_80", "sm_90")


class CudaBackend(KernelBackend):
    """Tile IR through Triton; what Triton has no spelling for goes to the host part."""

    name: ClassVar[str] = "cuda"
    apart: ClassVar[bool] = True
    folder: ClassVar[Path] = Path(__file__).parent

    def __init__(self, tools: object = None):
        """``tools``, the C compiler, is for the host part; kernels of the device need Triton alone."""
        del tools

    def resolve(self, spelling: str) -> tuple[Target, ...]:
        """Also ``cuda``: the architectures of :data:`PORTABLE`."""
        if spelling == self.name:
            targets = self.targets()
            return tuple(targets[f"{self.name}:{arch}"] for arch in PORTABLE)
        return super().resolve(spelling)

    def supports(self, kernel: Kernel | Routine, target: Target) -> Support:
        """No where Triton has no spelling for a type or a function; every reason is named."""
        if isinstance(kernel, Routine):
            found = routine_refusals(kernel)
            return Support(not found, "; ".join(found))
        reasons = [f"element type {p.dtype} of {p.name}" for p in kernel.params if p.dtype not in LANGUAGE]
        stored = [s.value for s in kernel.body if isinstance(s, Store)]
        for value in [*(d.value for d in defines(kernel)), *stored]:
            reasons += refusals(value)
        unique = list(dict.fromkeys(reasons))
        return Support(not unique, "; ".join(unique))

    def schedules(self, kernel: Kernel, target: Target) -> Iterable[Schedule]:
        """Heuristic candidates, best guess first; what was measured on a device of the architecture before them."""
        return by_records(kernel, target, heuristics.schedules(kernel, target))

    def launch(self, scheduled: Scheduled, target: Target) -> LaunchSize:
        """A linear grid of programs; scratch is the workspace that they share."""
        launch = emit_kernel(scheduled, target.features)[1]
        return LaunchSize(launch.grid, launch.workspace)

    def emit(self, kernels: Sequence[Code], target: Target) -> Source:
        """One file of Triton a kernel, and how to launch them; the text depends on the architecture where floats of 8
        bits are multiplied."""
        emitted = {
            name_of(k): emit_kernel(k, target.features) if isinstance(k, Scheduled) else emit_routine(k)
            for k in kernels
        }
        files = {f"{name}.py": text for name, (text, _) in emitted.items()}
        choices = {k.kernel.name: choice_of(k.schedule) for k in kernels if isinstance(k, Scheduled)}
        told = [replace(x, choice=choices.get(name, x.choice)) for name, (_, x) in emitted.items()]
        files[LAUNCHES] = to_json(told)
        return Source(files, {name: launch.entry for name, (_, launch) in emitted.items()})

    def build(self, source: Source, target: Target) -> Binary:
        """A cubin and its PTX for each kernel."""
        return toolchain_build.build(source, target)
