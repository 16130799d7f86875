"""The compiler as one function: import → optimize → lower → schedule → emit → build → plan → package.

:func:`compile` is the whole way; everything below it is one step of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tilewright import __version__
from tilewright.artifact import Artifact, contents_of
from tilewright.backends.base import name_of as name_of_code
from tilewright.build import Lowered, TargetBuild, TargetPlan, build_target, plan_target
from tilewright.codegen.toolchain import default_toolchain
from tilewright.cost import record_of
from tilewright.entries import Model, constants_used, digest_of, entries_of, import_entries, name_of, states_of
from tilewright.facts import Source, compilation_facts
from tilewright.kernel.canonical import fingerprint
from tilewright.kernel.print import print_kernel
from tilewright.kernel.schedule import Scheduled
from tilewright.observe import Observer
from tilewright.ops.program import Run, Step, lower_graph
from tilewright.options import Options
from tilewright.package.native import build_runtime
from tilewright.package.writer import Part, cpu_requirements
from tilewright.passes.base import Pass
from tilewright.passes.layout.cost import traffic_on
from tilewright.passes.pipeline import default_pipeline, run_pipeline
from tilewright.plan.constants import constant_names
from tilewright.plan.verify import verify_plan
from tilewright.selection import resolve_targets
from tilewright.target import Target

STAGES = ("import", "optimize", "lower", "build")

#: Told about every stage: its name, and what it works on.
Progress = Callable[[str, str], None]


def compile(
    model: Model | Mapping[str, Model],
    *,
    options: Options | None = None,
    progress: Progress | None = None,
    passes: Sequence[Pass] | None = None,
) -> Artifact:
    """Compile an ONNX model for every target of ``options``, or several models, each an entry point under its name.

    Entry points share kernels and equal constants. ``passes`` run in place of those of the level: none for a graph that
    is to become kernels as it is. Raises :class:`~tilewright.errors.TilewrightError` for what the user can mend,
    :class:`InternalError` for our bugs, :class:`~tilewright.observe.Stopped` at the stage or pass of ``stop_after`` (of
    the first entry point that comes to it).
    """
    options = options or Options()
    clock = Clock(progress or (lambda stage, detail: None))
    observer = Observer(options.observe, lambda line: clock.progress("observe", line))
    targets = resolve_targets(options)
    models = entries_of(model)
    entries = _lowered(models, options, [target for _, target in targets], observer, clock, passes)
    # Hashing all weights is worth its time only where another entry point may have the same ones.
    names = constant_names(constants_used(entries)) if len(entries) > 1 else {}
    builds = []
    for backend, target in targets:
        with clock.stage("build", target.spelling):
            builds.append(build_target(entries, backend, target, observer, names))
    observer.after_stage("build")
    with clock.stage("package", ""):
        artifact = _package(models, options, entries, builds, clock)
    observer.finish()
    return artifact


def plan(model: Model | Mapping[str, Model], *, options: Options | None = None) -> dict[str, TargetPlan]:
    """The plan of each target by its spelling, and its scheduled kernels: :func:`compile` without building any code.

    Arguments and errors as of :func:`compile`.
    """
    options = options or Options()
    clock = Clock(lambda stage, detail: None)
    targets = resolve_targets(options)
    observer = Observer(options.observe, lambda line: None)
    entries = _lowered(entries_of(model), options, [target for _, target in targets], observer, clock)
    names = constant_names(constants_used(entries)) if len(entries) > 1 else {}
    return {t.spelling: plan_target(entries, backend, t, names) for backend, t in targets}


def _lowered(
    models: Mapping[str, Model],
    options: Options,
    targets: Sequence[Target],
    observer: Observer,
    clock: Clock,
    passes: Sequence[Pass] | None = None,
) -> tuple[Lowered, ...]:
    """Every entry point imported, optimized and lowered, once for all targets."""
    passes = default_pipeline(options.level, traffic_on(targets)) if passes is None else passes
    observer.expect([p.name for p in passes], STAGES)
    with clock.stage("import", ", ".join(map(name_of, models.values()))):
        graphs = import_entries(models, options)
        states = states_of(graphs, options)
    for graph in graphs.values():
        observer.start(graph)
        observer.after_stage("import")
        with clock.stage("optimize", f"{len(passes)} passes"):
            run_pipeline(graph, passes, observer)
    observer.after_stage("optimize")
    entries = []
    for name, graph in graphs.items():
        with clock.stage("lower", f"{sum(1 for _ in graph.graph)} nodes"):
            entries.append(Lowered(name, graph, lower_graph(graph), states[name]))
    for name, text in _texts([step for entry in entries for step in entry.steps]):
        observer.text(name, text)
    observer.after_stage("lower")
    return tuple(entries)


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


def _texts(steps: Sequence[Step]) -> Iterator[tuple[str, str]]:
    """File name and text of each distinct lowered kernel, numbered in order of first use."""
    seen: set[str] = set()
    for step in steps:
        if isinstance(step, Run) and (key := fingerprint(step.kernel)) not in seen:
            seen.add(key)
            yield f"kernels/{len(seen):03d}-{step.kernel.name}.txt", print_kernel(step.kernel)


def _package(
    models: Mapping[str, Model],
    options: Options,
    entries: Sequence[Lowered],
    builds: Sequence[TargetBuild],
    clock: Clock,
) -> Artifact:
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
    sources = [Source(e, name_of(models[e.name]), digest_of(models[e.name])) for e in entries]
    provenance = {
        "compiler": __version__,
        "models": [{"entry": s.entry.name, "name": s.name, "sha256": s.sha256} for s in sources],
        "options": {
            "input_shapes": [[name, list(dims)] for name, dims in options.input_shapes],
            "level": options.level,
            "states": [list(pair) for pair in options.states],
            "targets": list(options.targets),
        },
        "tools": {tool: version for b in builds for tool, version in b.binary.tools.items()},
    }
    return Artifact(
        parts=tuple(parts),
        constants=contents_of([c for b in builds for c in b.built.constants]),
        runtimes={family: build_runtime(tools, triple) for family, triple in triples.items()},
        provenance=provenance,
        facts=compilation_facts(sources, builds, clock.seconds),
        kernels={
            name_of_code(k): record_of(k.kernel if isinstance(k, Scheduled) else k) for b in builds for k in b.kernels
        },
    )
