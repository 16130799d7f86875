"""From kernels to one target's share of an artifact: schedule, emit, run the toolchain, plan the launches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir
from tilewright.backends.base import Binary, KernelBackend
from tilewright.errors import UnsupportedError
from tilewright.ir.symbolic import symbol
from tilewright.kernel.apply import apply
from tilewright.kernel.canonical import fingerprint
from tilewright.kernel.print import print_scheduled
from tilewright.kernel.schedule import Scheduled
from tilewright.kernel.tile import Kernel
from tilewright.kernel.verify import verify_kernel
from tilewright.observe import Observer
from tilewright.ops.program import Run, Step, View
from tilewright.plan.build import Alias, Built, KernelLaunch, build_plan
from tilewright.target import Target


@dataclass(frozen=True, slots=True)
class TargetBuild:
    """What one target contributes to an artifact."""

    target: Target
    built: Built
    binary: Binary
    kernels: tuple[Scheduled, ...]
    launches: tuple[int, ...]  # index of the kernel of each launch


def build_target(
    model: ir.Model, steps: Sequence[Step], backend: KernelBackend, target: Target, observer: Observer
) -> TargetBuild:
    """Schedule, emit and build every distinct kernel once, then plan the launches.

    Raises one :class:`UnsupportedError` that names every kernel the target cannot run.
    """
    _require_support(steps, backend, target)
    distinct: dict[str, Scheduled] = {}
    launches: list[KernelLaunch | Alias] = []
    for step in steps:
        if isinstance(step, View):
            launches.append(Alias(step.source, step.result))
            continue
        key = fingerprint(step.kernel)
        if key not in distinct:
            distinct[key] = schedule_kernel(step.kernel, key, backend, target)
        launches.append(_launch(step, list(distinct).index(key), distinct[key], backend, target))
    kernels = tuple(distinct.values())
    source = backend.emit(kernels, target)
    for scheduled in kernels:
        observer.text(f"{target.folder}/{scheduled.kernel.name}.schedule.txt", print_scheduled(scheduled))
    for name, text in source.files.items():
        observer.text(f"{target.folder}/{name}", text)
    binary = backend.build(source, target)
    built = build_plan(model, launches, [s.kernel.name for s in kernels])
    started = tuple(step.kernel for step in launches if isinstance(step, KernelLaunch))
    return TargetBuild(target, built, binary, kernels, started)


def _require_support(steps: Sequence[Step], backend: KernelBackend, target: Target) -> None:
    problems = []
    for step in steps:
        if isinstance(step, Run) and not (support := backend.supports(step.kernel, target)).ok:
            problems.append(f"{step.node.op_type} (node {step.node.name!r}): {support.reason}")
    if problems:
        raise UnsupportedError(
            "kernel-unsupported",
            where=f"target {target.spelling}",
            cause="; ".join(problems),
            fix="choose another target, or another element type",
            problems=tuple(problems),
        )


def schedule_kernel(kernel: Kernel, key: str, backend: KernelBackend, target: Target) -> Scheduled:
    """The backend's first schedule, applied. The name carries the contents, so that equal kernels share cached code."""
    kernel = replace(kernel, name=f"{kernel.name}_{key[:8]}")
    verify_kernel(kernel)
    return apply(kernel, next(iter(backend.schedules(kernel, target))))


def _launch(step: Run, index: int, scheduled: Scheduled, backend: KernelBackend, target: Target) -> KernelLaunch:
    kernel = scheduled.kernel
    size = backend.launch(scheduled, target)
    # A kernel that differs in names only shares the code; its sizes are in its own names.
    symbols = tuple(name for name, _ in step.kernel.facts)
    own = {old: symbol(new) for (old, _), new in zip(kernel.facts, symbols, strict=True)}
    positions = {p.name: i for i, p in enumerate(kernel.params)}
    return KernelLaunch(
        kernel=index,
        name=kernel.name,
        values=step.values,
        symbols=symbols,
        grid=size.grid.substitute(own),
        scratch=size.scratch.substitute(own),
        packs={positions[p.tensor]: p for p in scheduled.schedule.packs},
    )
