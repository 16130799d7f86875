"""The compiler as one function: import → optimize → lower → schedule → emit → build → plan → package.

:func:`compile` is the whole way; everything else here is one step of it.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir

from tilewright.backends.base import Binary, KernelBackend
from tilewright.errors import UnsupportedError, UsageError
from tilewright.kernel.apply import apply
from tilewright.kernel.print import fingerprint
from tilewright.kernel.schedule import Scheduled
from tilewright.kernel.tile import Kernel
from tilewright.kernel.verify import verify_kernel
from tilewright.ops.program import Run, Step, View, lower_graph
from tilewright.options import Options
from tilewright.plan.build import Alias, Built, KernelLaunch, build_plan
from tilewright.target import Target

#: Where each kind of target lives. A package outside this one registers the entry point group ``tilewright.backends``.
BACKENDS: Mapping[str, str] = {"cpu": "tilewright.backends.cpu.backend:CpuBackend"}

#: Told about every stage: its name, and what it works on.
Progress = Callable[[str, str], None]


@dataclass(slots=True)
class Clock:
    """Announces stages and keeps their seconds, in order."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        """Announce a stage and time it."""
        self.progress(name, detail)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class TargetBuild:
    """What one target contributes to an artifact."""

    target: Target
    built: Built
    binary: Binary
    kernels: tuple[Scheduled, ...]
    launches: tuple[str, ...]  # name of the kernel of each launch


def resolve_targets(spellings: Sequence[str]) -> list[tuple[KernelBackend, Target]]:
    """Every target meant by the user's spellings, once each, with its backend."""
    found: dict[str, tuple[KernelBackend, Target]] = {}
    for spelling in spellings:
        backend = find_backend(spelling.partition(":")[0])
        for target in backend.resolve(spelling):
            found.setdefault(target.spelling, (backend, target))
    return list(found.values())


def find_backend(kind: str) -> KernelBackend:
    """The backend of a kind of target. Raises :class:`UsageError` for an unknown kind."""
    where = dict(BACKENDS)
    for entry in importlib.metadata.entry_points(group="tilewright.backends"):
        where.setdefault(entry.name, entry.value)
    if kind not in where:
        raise UsageError(
            "unknown-target",
            where=f"target {kind!r}",
            cause="no backend compiles for this kind of target",
            fix=f"use one of {', '.join(where)}; `tilewright targets` lists them",
        )
    module, _, name = where[kind].partition(":")
    backend = getattr(importlib.import_module(module), name)()
    assert isinstance(backend, KernelBackend)
    return backend


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
            distinct[key] = schedule_kernel(step, key, backend, target)
        launches.append(_launch(step, list(distinct).index(key), distinct[key], backend, target))
    kernels = tuple(distinct.values())
    binary = backend.build(backend.emit(kernels, target), target)
    built = build_plan(model, launches, [s.kernel.name for s in kernels])
    names = tuple(step.name for step in launches if isinstance(step, KernelLaunch))
    return TargetBuild(target, built, binary, kernels, names)


def schedule_kernel(step: Run, key: str, backend: KernelBackend, target: Target) -> Scheduled:
    """The backend's first schedule, applied. The name carries the contents, so that equal kernels share cached code."""
    kernel = replace(step.kernel, name=f"{step.kernel.name}_{key[:8]}")
    verify_kernel(kernel)
    support = backend.supports(kernel, target)
    if not support.ok:
        problem = f"{step.node.op_type} (node {step.node.name!r}): {support.reason}"
        raise UnsupportedError(
            "kernel-unsupported",
            where=f"target {target.spelling}",
            cause=problem,
            fix="choose another target, or another precision",
            problems=(problem,),
        )
    return apply(kernel, next(iter(backend.schedules(kernel, target))))


def _launch(step: Run, index: int, scheduled: Scheduled, backend: KernelBackend, target: Target) -> KernelLaunch:
    kernel = scheduled.kernel
    size = backend.launch(scheduled, target)
    positions = {p.name: i for i, p in enumerate(kernel.params)}
    return KernelLaunch(
        kernel=index,
        name=kernel.name,
        values=step.values,
        symbols=tuple(name for name, _ in kernel.facts),
        grid=size.grid,
        scratch=size.scratch,
        packs={positions[p.tensor]: p for p in scheduled.schedule.packs},
    )
