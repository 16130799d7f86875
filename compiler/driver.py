"""The compiler as one function: import → optimize → lower → schedule → emit → build → plan → package."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import onnx_ir as ir
from tilewright.backends.base import Binary, KernelBackend
from tilewright.kernel.print import fingerprint
from tilewright.kernel.schedule import Scheduled
from tilewright.ops.program import Step, View
from tilewright.plan.build import Alias, Built, KernelLaunch, build_plan
from tilewright.target import Target

#: Told about every stage: its name, and what it works on.
Progress = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class TargetBuild:
    """What one target contributes to an artifact, and what the report says of it."""

    target: Target
    built: Built
    binary: Binary
    kernels: tuple[Scheduled, ...]


@dataclass(slots=True)
class Clock:
    """Seconds of each stage, in order."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        """Announce a stage and time it."""
        self.progress(name, detail)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def build_target(model: ir.Model, steps: Sequence[Step], backend: KernelBackend, target: Target) -> TargetBuild:
    """Schedule, emit and build every distinct kernel once, then plan the launches."""
    distinct: dict[str, Scheduled] = {}
    launches: list[KernelLaunch | Alias] = []
    for step in steps:
        if isinstance(step, View):
            launches.append(Alias(step.source, step.result))
            continue
        key = fingerprint(step.kernel)
        if key not in distinct:
            distinct[key] = schedule_kernel(step.kernel, backend, target)
        launches.append(_launch(step, list(distinct).index(key), distinct[key], backend, target))
    kernels = tuple(distinct.values())
    binary = backend.build(backend.emit(kernels, target), target)
    built = build_plan(model, launches, [s.kernel.name for s in kernels])
    return TargetBuild(target, built, binary, kernels)
