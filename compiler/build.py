"""From kernels to one target's share of an artifact: schedule, emit, run the toolchain, plan the launches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir
from tilewright.backends.base import Binary, Code, KernelBackend, LaunchSize, name_of
from tilewright.errors import UnsupportedError
from tilewright.ir.graph import type_of
from tilewright.ir.symbolic import symbol
from tilewright.kernel.apply import apply
from tilewright.kernel.canonical import fingerprint
from tilewright.kernel.print import print_scheduled
from tilewright.kernel.routine import Routine
from tilewright.kernel.schedule import Pack, Scheduled
from tilewright.kernel.tile import Kernel
from tilewright.kernel.verify import verify_kernel
from tilewright.observe import Observer
from tilewright.ops.program import Call, Read, Run, Step, View
from tilewright.plan.build import Alias, Built, EntrySteps, KernelLaunch, Size, build_plan
from tilewright.target import Target


@dataclass(frozen=True, slots=True)
class Lowered:
    """An entry point as kernels. ``states`` are pairs of positions, an input and the output that is its new value."""

    name: str
    model: ir.Model
    steps: tuple[Step, ...]
    states: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class TargetBuild:
    """What one target contributes to an artifact."""

    target: Target
    built: Built
    binary: Binary
    kernels: tuple[Code, ...]
    launches: tuple[int, ...]  # index of the kernel of each launch, of all entry points


@dataclass(frozen=True, slots=True)
class _Distinct:
    """A kernel that is in the binary once: its index there, and how it is launched, in its own symbols."""

    index: int
    scheduled: Scheduled
    size: LaunchSize


@dataclass(slots=True)
class _Kernels:
    """The distinct kernels and routines of a target, in the order of their first launch."""

    scheduled: dict[str, _Distinct] = field(default_factory=dict)
    code: list[Code] = field(default_factory=list)

    def routine(self, routine: Routine) -> int:
        """The position of a routine, which is added when it is not there."""
        if routine not in self.code:
            self.code.append(routine)
        return self.code.index(routine)


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """What is known of a target's share before any code is built. ``launches`` as in :class:`TargetBuild`."""

    built: Built
    kernels: tuple[Code, ...]
    launches: tuple[int, ...]


def plan_target(
    entries: Sequence[Lowered], backend: KernelBackend, target: Target, names: Mapping[ir.Value, str]
) -> TargetPlan:
    """Schedule every distinct kernel of all entry points once and plan the launches; no code is built.

    ``names`` are those of constants among the weights, where they differ from their own. Raises one
    :class:`UnsupportedError` that names every kernel the target cannot run.
    """
    _require_support([step for entry in entries for step in entry.steps], backend, target)
    distinct = _Kernels()
    planned = [
        EntrySteps(
            e.name, e.model, [_planned_step(step, distinct, backend, target) for step in e.steps], states=e.states
        )
        for e in entries
    ]
    kernels = tuple(distinct.code)
    built = build_plan(planned, [name_of(k) for k in kernels], names)
    started = tuple(step.kernel for entry in planned for step in entry.steps if isinstance(step, KernelLaunch))
    return TargetPlan(built, kernels, started)


def build_target(
    entries: Sequence[Lowered],
    backend: KernelBackend,
    target: Target,
    observer: Observer,
    names: Mapping[ir.Value, str],
) -> TargetBuild:
    """The plan of a target, and its kernels emitted and built. Arguments and errors as of :func:`plan_target`."""
    planned = plan_target(entries, backend, target, names)
    source = backend.emit(planned.kernels, target)
    for code in planned.kernels:
        if isinstance(code, Scheduled):
            observer.text(f"{target.folder}/{code.kernel.name}.schedule.txt", print_scheduled(code))
    for name, text in source.files.items():
        observer.text(f"{target.folder}/{name}", text)
    binary = backend.build(source, target)
    return TargetBuild(target, planned.built, binary, planned.kernels, planned.launches)


def _planned_step(
    step: Step, distinct: _Kernels, backend: KernelBackend, target: Target
) -> KernelLaunch | Alias | Size:
    """A step as the plan has it; its kernel is scheduled and added to ``distinct`` when none equals it."""
    match step:
        case View(source=source, result=result):
            return Alias(source, result)
        case Read(name=name, value=value, element=element):
            return Size(name, value, element)
        case Call(routine=routine):
            index = distinct.routine(routine)
            return KernelLaunch(index, routine.identity, step.values, step.dims, step.grid, step.scratch, {})
    key = fingerprint(step.kernel)
    if key not in distinct.scheduled:
        scheduled = schedule_kernel(step.kernel, key, backend, target)
        distinct.scheduled[key] = _Distinct(len(distinct.code), scheduled, backend.launch(scheduled, target))
        distinct.code.append(scheduled)
    return _launch(step, distinct.scheduled[key])


def _require_support(steps: Sequence[Step], backend: KernelBackend, target: Target) -> None:
    problems = []
    for step in steps:
        if isinstance(step, Run | Call):
            support = backend.supports(step.kernel if isinstance(step, Run) else step.routine, target)
            if not support.ok:
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


def _packed(pack: Pack, step: Run, position: int) -> Pack:
    """``pack`` with the shape that the kernel gives the constant, where that is not its own."""
    shape = step.kernel.params[position].shape
    return pack if shape == type_of(step.values[position]).shape else replace(pack, source=shape)


def _launch(step: Run, shared: _Distinct) -> KernelLaunch:
    kernel, size = shared.scheduled.kernel, shared.size
    # A kernel that differs in names only shares the code; its sizes are in its own names.
    dims = tuple(symbol(name) for name, _ in step.kernel.facts)
    own = {old: new for (old, _), new in zip(kernel.facts, dims, strict=True)}
    positions = {p.name: i for i, p in enumerate(kernel.params)}
    return KernelLaunch(
        kernel=shared.index,
        name=kernel.name,
        values=step.values,
        dims=dims,
        grid=size.grid.substitute(own),
        scratch=size.scratch.substitute(own),
        packs={positions[p.tensor]: _packed(p, step, positions[p.tensor]) for p in shared.scheduled.schedule.packs},
        updates=tuple((positions[p.name], positions[p.alias]) for p in kernel.params if p.alias is not None),
    )
