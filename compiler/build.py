"""From kernels to one target's share of an artifact: schedule, emit, run the toolchain, plan the launches.

A target with memory of its own (``KernelBackend.apart``) has a *host part* beside it: launches of kernels and routines
that the target has no code for, built by another backend and run on the host, between copies that the plan spells out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import onnx_ir as ir
from tilewright.backends.base import Binary, Code, KernelBackend, LaunchSize, Source, Support, name_of
from tilewright.errors import UnsupportedError
from tilewright.ir.graph import type_of
from tilewright.ir.symbolic import symbol
from tilewright.kernel.apply import apply
from tilewright.kernel.canonical import fingerprint
from tilewright.kernel.print import print_scheduled
from tilewright.kernel.routine import Routine
from tilewright.kernel.schedule import Pack, Scheduled, ScheduleError
from tilewright.kernel.tile import Kernel
from tilewright.kernel.verify import verify_kernel
from tilewright.observe import Observer
from tilewright.ops.program import Call, Read, Run, Step, View
from tilewright.plan.build import Alias, Built, EntrySteps, KernelLaunch, Size, build_plan
from tilewright.plan.plan import Space
from tilewright.target import Target

#: Schedules that are tried before a kernel is given to the host part.
_TRIED = 8


@dataclass(frozen=True, slots=True)
class Lowered:
    """An entry point as kernels. ``states`` are pairs of positions, an input and the output that is its new value."""

    name: str
    model: ir.Model
    steps: tuple[Step, ...]
    states: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """What builds a host part: a backend for kernels and its target; whether there may be one."""

    backend: KernelBackend
    target: Target
    allowed: bool = True


@dataclass(frozen=True, slots=True)
class TargetBuild:
    """What one target contributes to an artifact.

    Attributes:
        kernels: what is in the target's binary; ``launches``: the index of the kernel of each launch, of all entry
            points.
        host: the target of the host part, where there can be one. host_kernels: what is in its library.
        on_host: launches (of a target of programs: nodes) of the host part, each with the reason.
    """

    target: Target
    built: Built
    binary: Binary
    kernels: tuple[Code, ...]
    launches: tuple[int, ...]
    host: Target | None = None
    host_kernels: tuple[Code, ...] = ()
    on_host: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """What is known of a target's share before any code is built; fields as in :class:`TargetBuild`."""

    built: Built
    kernels: tuple[Code, ...]
    launches: tuple[int, ...]
    host_kernels: tuple[Code, ...] = ()
    on_host: tuple[tuple[str, str], ...] = ()


def plan_target(
    entries: Sequence[Lowered],
    backend: KernelBackend,
    target: Target,
    names: Mapping[ir.Value, str],
    host: Host | None = None,
) -> TargetPlan:
    """Schedule every distinct kernel of all entry points once and plan the launches; no code is built.

    ``names`` are those of constants among the weights, where they differ from their own. Raises one
    :class:`UnsupportedError` that names every kernel that neither the target nor the host part can run, or that the
    host part may not.
    """
    beside = None if host is None else _Kernels(host.backend, host.target)
    planner = _Planner(_Kernels(backend, target), beside)
    planned = [
        EntrySteps(e.name, e.model, [planner.step(step) for step in e.steps], states=e.states, apart=host is not None)
        for e in entries
    ]
    if planner.problems:
        raise _unsupported(target, planner.problems)
    if planner.on_host and host is not None and not host.allowed:
        raise forbidden(target, planner.on_host)
    kernels = tuple(planner.device.code)
    host_kernels = tuple(planner.host.code) if planner.host else ()
    built = build_plan(planned, [name_of(k) for k in kernels], names, [name_of(k) for k in host_kernels])
    started = (step for entry in planned for step in entry.steps if isinstance(step, KernelLaunch))
    launches = tuple(step.kernel for step in started if step.space == "device")
    return TargetPlan(built, kernels, launches, host_kernels, tuple(planner.on_host))


def build_target(
    entries: Sequence[Lowered],
    backend: KernelBackend,
    target: Target,
    observer: Observer,
    names: Mapping[ir.Value, str],
    host: Host | None = None,
) -> TargetBuild:
    """The plan of a target, and its kernels emitted and built. Arguments and errors as of :func:`plan_target`."""
    planned = plan_target(entries, backend, target, names, host)
    binary, _ = _built(planned.kernels, backend, target, target.folder, observer)
    if host is not None and planned.host_kernels:
        beside, source = _built(planned.host_kernels, host.backend, host.target, f"{target.folder}/host", observer)
        text = host.backend.project(source, host.target) if backend.textual else {}
        files = {f"host/{name}": contents.encode() for name, contents in text.items()}
        binary = Binary({**binary.members, **beside.members, **files}, {**binary.tools, **beside.tools})
    return TargetBuild(
        target,
        planned.built,
        binary,
        planned.kernels,
        planned.launches,
        host.target if host else None,
        planned.host_kernels,
        planned.on_host,
    )


def forbidden(target: Target, on_host: Sequence[tuple[str, str]]) -> UnsupportedError:
    """What is raised when there is something for a host part, and there may be none."""
    told = tuple(f"{node}: {reason}" for node, reason in on_host)
    return UnsupportedError(
        "host-part-forbidden",
        where=f"target {target.spelling}",
        cause="nodes would run on the host part:\n    " + "\n    ".join(told) + "\n ",
        fix="let them (--fallback report), or rewrite these operators",
        problems=told,
    )


def _built(
    kernels: Sequence[Code], backend: KernelBackend, target: Target, folder: str, observer: Observer
) -> tuple[Binary, Source]:
    source = backend.emit(kernels, target)
    for code in kernels:
        if isinstance(code, Scheduled):
            observer.text(f"{folder}/{code.kernel.name}.schedule.txt", print_scheduled(code))
    for name, text in source.files.items():
        observer.text(f"{folder}/{name}", text)
    return backend.build(source, target), source


def _unsupported(target: Target, problems: Sequence[str]) -> UnsupportedError:
    return UnsupportedError(
        "kernel-unsupported",
        where=f"target {target.spelling}",
        cause="; ".join(problems),
        fix="choose another target, or another element type",
        problems=tuple(problems),
    )


@dataclass(frozen=True, slots=True)
class _Distinct:
    """A kernel that is in the binary once: its index there, and how it is launched, in its own symbols."""

    index: int
    scheduled: Scheduled
    size: LaunchSize


@dataclass(slots=True)
class _Kernels:
    """The distinct kernels and routines of one side, in the order of their first launch."""

    backend: KernelBackend
    target: Target
    scheduled: dict[str, _Distinct | Support] = field(default_factory=dict)
    code: list[Code] = field(default_factory=list)

    def routine(self, routine: Routine) -> int | Support:
        """The position of a routine, which is added when it is not there; why there is none."""
        if routine in self.code:
            return self.code.index(routine)
        support = self.backend.supports(routine, self.target)
        if not support.ok:
            return support
        self.code.append(routine)
        return len(self.code) - 1

    def kernel(self, kernel: Kernel, last: bool) -> _Distinct | Support:
        """A kernel as it is in the binary; why there is no code for it. Nobody else can run it when this is the
        ``last`` side: then a schedule that does not hold is our bug."""
        key = fingerprint(kernel)
        if key not in self.scheduled:
            support = self.backend.supports(kernel, self.target)
            self.scheduled[key] = self._scheduled(kernel, key, last) if support.ok else support
        return self.scheduled[key]

    def _scheduled(self, kernel: Kernel, key: str, last: bool) -> _Distinct | Support:
        kernel = replace(self.backend.prepared(kernel, self.target), name=f"{kernel.name}_{key[:8]}")
        verify_kernel(kernel)
        reason = "no schedule"
        for schedule in islice(self.backend.schedules(kernel, self.target), 1 if last else _TRIED):
            try:
                scheduled = apply(kernel, schedule)
                made = _Distinct(len(self.code), scheduled, self.backend.launch(scheduled, self.target))
            except ScheduleError as error:
                if last:
                    raise
                reason = error.cause
                continue
            self.code.append(scheduled)
            return made
        return Support(False, reason)


@dataclass(slots=True)
class _Planner:
    """Gives each step to the target, or to the host part with the reason."""

    device: _Kernels
    host: _Kernels | None
    on_host: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def step(self, step: Step) -> KernelLaunch | Alias | Size:
        """A step as the plan has it."""
        match step:
            case View(source=source, result=result):
                return Alias(source, result)
            case Read(name=name, value=value, element=element):
                return Size(name, value, element)
        found = self._launch(step, self.device, "device")
        if isinstance(found, KernelLaunch):
            return found
        node = f"{step.node.op_type} {step.node.name!r}"
        beside = found if self.host is None else self._launch(step, self.host, "host")
        if isinstance(beside, KernelLaunch):
            self.on_host.append((node, found.reason))
            return beside
        self.problems.append(f"{step.node.op_type} (node {step.node.name!r}): {beside.reason}")
        return Alias(step.values[0], step.values[-1])  # never planned: problems are raised before

    def _launch(self, step: Run | Call, side: _Kernels, space: Space) -> KernelLaunch | Support:
        if isinstance(step, Run):
            made = side.kernel(step.kernel, last=side is self.host or self.host is None)
            return made if isinstance(made, Support) else _launch(step, made, space)
        index = side.routine(step.routine)
        if isinstance(index, Support):
            return index
        routine = step.routine
        return KernelLaunch(
            index,
            routine.identity,
            step.values,
            step.dims,
            step.grid,
            # Workers of a host take blocks in turn; on a device all run at once.
            step.scratch if side is self.host or self.host is None else step.scratch * step.grid,
            {},
            space=space,
            outputs=routine.outputs,
        )


def refusals(backend: KernelBackend, target: Target) -> Callable[[Run | Call], str]:
    """Tells of a step why a target's own kernels do not run it, scheduling included; empty where they do."""
    side = _Kernels(backend, target)

    def why(step: Run | Call) -> str:
        found = side.kernel(step.kernel, last=False) if isinstance(step, Run) else side.routine(step.routine)
        return found.reason if isinstance(found, Support) else ""

    return why


def _packed(pack: Pack, step: Run, position: int) -> Pack:
    """``pack`` with the shape that the kernel gives the constant, where that is not its own."""
    shape = step.kernel.params[position].shape
    return pack if shape == type_of(step.values[position]).shape else replace(pack, source=shape)


def _launch(step: Run, shared: _Distinct, space: Space) -> KernelLaunch:
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
        space=space,
        outputs=sum(p.role == "out" for p in kernel.params),
    )
