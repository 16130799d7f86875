"""The compiler as one function: import → optimize → lower → schedule → emit → build → plan → package.

:func:`compile` is the whole way; everything below it is one step of it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Union

import onnx_ir as ir
from tilewright import __version__
from tilewright.artifact import Artifact, contents_of
from tilewright.backends.base import Binary, KernelBackend
from tilewright.codegen.toolchain import default_toolchain
from tilewright.errors import UnsupportedError, UsageError
from tilewright.facts import compilation_facts
from tilewright.frontend.onnx import import_model
from tilewright.ir.symbolic import symbol
from tilewright.kernel.apply import apply
from tilewright.kernel.canonical import fingerprint
from tilewright.kernel.print import print_kernel, print_scheduled
from tilewright.kernel.schedule import Scheduled
from tilewright.kernel.verify import verify_kernel
from tilewright.observe import Observer
from tilewright.ops.program import Run, Step, View, lower_graph
from tilewright.options import Options
from tilewright.package.native import build_runtime
from tilewright.package.writer import Part, cpu_requirements
from tilewright.passes.pipeline import default_pipeline, run_pipeline
from tilewright.plan.build import Alias, Built, KernelLaunch, build_plan
from tilewright.plan.verify import verify_plan
from tilewright.target import Target

if TYPE_CHECKING:
    import onnx

#: Where each kind of target lives. A package outside this one registers the entry point group ``tilewright.backends``.
BACKENDS: Mapping[str, str] = {"cpu": "tilewright.backends.cpu.backend:CpuBackend"}

STAGES = ("import", "optimize", "lower", "build")

#: Told about every stage: its name, and what it works on.
Progress = Callable[[str, str], None]

#: An ONNX file, a model in memory, or a graph that was imported already (from PyTorch).
Model = Union[str, "os.PathLike[str]", "onnx.ModelProto", ir.Model]


def compile(model: Model, *, options: Options | None = None, progress: Progress | None = None) -> Artifact:
    """Compile an ONNX model for every target of ``options``.

    Raises :class:`~tilewright.errors.TilewrightError` for what the user can mend, :class:`InternalError` for our bugs,
    :class:`~tilewright.observe.Stopped` at the stage or pass of ``stop_after``.
    """
    options = options or Options()
    clock = Clock(progress or (lambda stage, detail: None))
    observer = Observer(options.observe, lambda line: clock.progress("observe", line))
    targets = resolve_targets(options)
    passes = default_pipeline(options.level)
    observer.expect([*STAGES, *(p.name for p in passes)])
    with clock.stage("import", _name_of(model)):
        graph = model if isinstance(model, ir.Model) else import_model(model, dict(options.input_shapes))
        observer.start(graph)
    observer.after_stage("import")
    with clock.stage("optimize", f"{len(passes)} passes"):
        run_pipeline(graph, passes, observer)
    observer.after_stage("optimize")
    with clock.stage("lower", f"{sum(1 for _ in graph.graph)} nodes"):
        steps = lower_graph(graph)
        for name, text in _texts(steps):
            observer.text(name, text)
    observer.after_stage("lower")
    builds = []
    for backend, target in targets:
        with clock.stage("build", target.spelling):
            builds.append(build_target(graph, steps, backend, target, observer))
    observer.after_stage("build")
    with clock.stage("package", ""):
        artifact = _package(model, options, graph, builds, clock)
    observer.finish()
    return artifact


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
    launches: tuple[int, ...]  # index of the kernel of each launch


def resolve_targets(options: Options) -> list[tuple[KernelBackend, Target]]:
    """Every target meant by the user's spellings, once each, with its backend."""
    found: dict[str, tuple[KernelBackend, Target]] = {}
    for spelling in options.targets:
        backend = find_backend(spelling.partition(":")[0], options.cc)
        for target in backend.resolve(spelling):
            found.setdefault(target.spelling, (backend, target))
    return list(found.values())


def backend_kinds() -> dict[str, str]:
    """Every kind of target that there is a backend for, with the backend's place: ours and those of other packages."""
    where = dict(BACKENDS)
    for entry in importlib.metadata.entry_points(group="tilewright.backends"):
        where.setdefault(entry.name, entry.value)
    return where


def find_backend(kind: str, cc: str | None = None) -> KernelBackend:
    """The backend of a kind of target, using the C compiler ``cc``. Raises ``UsageError`` for an unknown kind."""
    where = backend_kinds()
    if kind not in where:
        raise UsageError(
            "unknown-target",
            where=f"target {kind!r}",
            cause="no backend compiles for this kind of target",
            fix=f"use one of {', '.join(where)}; `tilewright targets` lists them",
        )
    module, _, name = where[kind].partition(":")
    backend = getattr(importlib.import_module(module), name)(default_toolchain(cc))
    assert isinstance(backend, KernelBackend)
    return backend


def build_target(
    model: ir.Model, steps: Sequence[Step], backend: KernelBackend, target: Target, observer: Observer
) -> TargetBuild:
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
    source = backend.emit(kernels, target)
    for scheduled in kernels:
        observer.text(f"{target.folder}/{scheduled.kernel.name}.schedule.txt", print_scheduled(scheduled))
    for name, text in source.files.items():
        observer.text(f"{target.folder}/{name}", text)
    binary = backend.build(source, target)
    built = build_plan(model, launches, [s.kernel.name for s in kernels])
    started = tuple(step.kernel for step in launches if isinstance(step, KernelLaunch))
    return TargetBuild(target, built, binary, kernels, started)


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


def _texts(steps: Sequence[Step]) -> Iterator[tuple[str, str]]:
    """File name and text of each distinct lowered kernel, numbered in order of first use."""
    seen: set[str] = set()
    for step in steps:
        if isinstance(step, Run) and (key := fingerprint(step.kernel)) not in seen:
            seen.add(key)
            yield f"kernels/{len(seen):03d}-{step.kernel.name}.txt", print_kernel(step.kernel)


def _package(model: Model, options: Options, graph: ir.Model, builds: Sequence[TargetBuild], clock: Clock) -> Artifact:
    """Parts, executors and provenance, and what the report can tell before the file is written."""
    parts = [
        Part(
            target=b.target.spelling,
            folder=b.target.folder,
            plan=b.built.plan,
            members=b.binary.members,
            family=b.target.family,
            requires=cpu_requirements(b.target.extra),
        )
        for b in builds
    ]
    for part in parts:
        verify_plan(part.plan)
    tools = default_toolchain(options.cc)
    triples = {b.target.family: b.target.triple for b in builds if b.target.family}
    digest = _digest(model)
    provenance = {
        "compiler": __version__,
        "model": {"name": _name_of(model), "sha256": digest},
        "options": {
            "input_shapes": [[name, list(dims)] for name, dims in options.input_shapes],
            "level": options.level,
            "targets": list(options.targets),
        },
        "tools": {tool: version for b in builds for tool, version in b.binary.tools.items()},
    }
    return Artifact(
        parts=tuple(parts),
        constants=contents_of([c for b in builds for c in b.built.constants]),
        runtimes={family: build_runtime(tools, triple) for family, triple in triples.items()},
        provenance=provenance,
        facts=compilation_facts(name=_name_of(model), digest=digest, graph=graph, builds=builds, seconds=clock.seconds),
    )


def _name_of(model: Model) -> str:
    return Path(model).name if isinstance(model, str | os.PathLike) else (model.graph.name or "model")


def _digest(model: Model) -> str:
    """SHA-256 of the model file (not of its external data, whose hash is that of the artifact's weights)."""
    if isinstance(model, str | os.PathLike):
        with Path(model).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
