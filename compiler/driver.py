"""The compiler as one function: import → optimize → lower → schedule → emit → build → plan → package.

:func:`compile` is the whole way; everything below it is one step of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from tilewright import __version__
from tilewright.artifact import Artifact, contents_of
from tilewright.backends.base import Backend, GraphBackend, KernelBackend, ProgramSettings
from tilewright.backends.base import name_of as name_of_code
from tilewright.build import Host, Lowered, TargetBuild, TargetPlan, build_target, plan_target
from tilewright.build_programs import HostPart, ProgramsBuild, build_programs
from tilewright.codegen.toolchain import default_toolchain
from tilewright.cost import record_of
from tilewright.definitions import graph_passes
from tilewright.entries import Model, constants_used, digest_of, entries_of, import_entries, name_of, states_of
from tilewright.facts import Source, compilation_facts
from tilewright.frontend.buckets import by_symbol
from tilewright.frontend.mesh import check_mesh
from tilewright.ir.given import constant_record
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
from tilewright.passes.pipeline import canonicalization, default_pipeline, run_pipeline
from tilewright.plan.constants import constant_names
from tilewright.plan.programs import Programs
from tilewright.plan.verify import verify_plan
from tilewright.report import PrecisionFacts
from tilewright.selection import resolve_targets
from tilewright.target import Target

if TYPE_CHECKING:
    from tilewright.quantization.request import Given
    from tilewright.quantization.verification import Evidence

STAGES = ("import", "quantize", "optimize", "lower", "build")

#: Told about every stage: its name, and what it works on.
Progress = Callable[[str, str], None]


def compile(
    model: Model | Mapping[str, Model],
    *,
    options: Options | None = None,
    progress: Progress | None = None,
    given: Given | None = None,
    passes: Sequence[Pass] | None = None,
) -> Artifact:
    """Compile an ONNX model for every target of ``options``, or several models, each an entry point under its name.

    Entry points share kernels and equal constants. ``given`` is the data that a precision of ``options`` needs.
    ``passes`` run in place of those of the level: none for a graph that is to become kernels as it is. Raises
    :class:`~tilewright.errors.TilewrightError` for what the user can mend, :class:`InternalError` for our bugs,
    :class:`~tilewright.observe.Stopped` at the stage or pass of ``stop_after`` (of the first entry point that comes to
    it).
    """
    options = options or Options()
    clock = Clock(progress or (lambda stage, detail: None))
    observer = Observer(options.observe, lambda line: clock.progress("observe", line))
    targets = resolve_targets(options)
    check_mesh(options.mesh, options.shard, [t.spelling for b, t in targets if isinstance(b, GraphBackend)])
    models = entries_of(model)
    lowered = _lowered(models, options, targets, observer, clock, given, passes)
    names = _names(lowered)
    builds: list[TargetBuild] = []
    for backend, target in targets:
        with clock.stage("build", target.spelling):
            entries = lowered.entries[target.spelling]
            if isinstance(backend, GraphBackend):
                part = _host_part(target, options)
                settings = _settings(entries, options)
                builds.append(build_programs(entries, backend, target, settings, part, observer, names))
            elif isinstance(backend, KernelBackend):
                host = _host(target, options) if backend.apart else None
                builds.append(build_target(entries, backend, target, observer, names, host))
    observer.after_stage("build")
    with clock.stage("package", ""):
        artifact = _package(models, options, lowered, builds, clock)
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
    lowered = _lowered(entries_of(model), options, targets, observer, clock, None)
    return {
        t.spelling: plan_target(
            lowered.entries[t.spelling], b, t, _names(lowered), _host(t, options) if b.apart else None
        )
        for b, t in targets
        if isinstance(b, KernelBackend)
    }


def _settings(entries: Sequence[Lowered], options: Options) -> ProgramSettings:
    """How programs are made, in the terms of these graphs."""
    buckets = dict(options.buckets)
    models = [entry.model for entry in entries]
    return ProgramSettings(
        buckets=by_symbol(models, buckets),
        exact=frozenset(by_symbol(models, {name: buckets[name] for name in options.exact})),
        mesh=options.mesh,
        shard=options.shard or ("auto" if options.mesh else ""),
        compile=options.ahead,
    )


def _host(target: Target, options: Options) -> Host:
    """What builds the host part of a target."""
    ((backend, host),) = resolve_targets(replace(options, targets=(target.host,)))
    assert isinstance(backend, KernelBackend)
    return Host(backend, host, allowed=options.fallback != "forbid")


def _host_part(target: Target, options: Options) -> HostPart:
    """What builds the host part of a graph target."""
    host = _host(target, options)

    def lower(name: str, model: ir.Model) -> Lowered:
        run_pipeline(model, default_pipeline(options.level, traffic_on([host.target])))
        return Lowered(name, model, lower_graph(model))

    return HostPart(host, lower)


@dataclass(frozen=True, slots=True)
class _Whole:
    """The entry points of each target by its spelling, the same for targets that share them; what was quantized."""

    entries: Mapping[str, tuple[Lowered, ...]]
    precision: PrecisionFacts | None = None
    evidence: Evidence | None = None


def _names(lowered: _Whole) -> Mapping[ir.Value, str]:
    """The names of constants by content, where equal ones may come from different graphs: hashing takes its time."""
    every = list({id(entry): entry for entries in lowered.entries.values() for entry in entries}.values())
    return constant_names(constants_used(every)) if len(every) > 1 else {}


def _lowered(
    models: Mapping[str, Model],
    options: Options,
    chosen: Sequence[tuple[Backend, Target]],
    observer: Observer,
    clock: Clock,
    given: Given | None,
    passes: Sequence[Pass] | None = None,
) -> _Whole:
    """Every entry point imported, optimized and lowered: once for all targets of one kind that get the same precision,
    and for each target of programs, for which it stays a graph."""
    targets = [target for _, target in chosen]
    graphed = {target.spelling: backend for backend, target in chosen if isinstance(backend, GraphBackend)}
    kernels = [target for target in targets if target.spelling not in graphed]
    given_passes = passes is not None
    passes = default_pipeline(options.level) if passes is None else passes
    observer.expect([p.name for p in passes], STAGES)
    with clock.stage("import", ", ".join(map(name_of, models.values()))):
        graphs = import_entries(models, options)
        states = states_of(graphs, options)
    if options.precision is None:
        done = {
            t.spelling: _graphs(graphs, states, graphed[t.spelling], t, options, observer, clock, "import")
            for t in targets
            if t.spelling in graphed
        }
        for alike in _by_kind(kernels):
            own = passes if given_passes else default_pipeline(options.level, traffic_on(alike))
            entries = _entries(_copies(graphs, alike, kernels), states, own, observer, clock, "import")
            _told(entries, observer)
            done |= {t.spelling: entries for t in alike}
        return _Whole({t.spelling: done[t.spelling] for t in targets})
    from tilewright.quantization.plan import PrecisionPlan  # it runs graphs, which are compiled by this module

    for graph in graphs.values():
        observer.start(graph)
        observer.after_stage("import")
        run_pipeline(graph, canonicalization(), observer)
    precision = PrecisionPlan(options.precision, given, options.level, clock.progress)
    with clock.stage("quantize", f"to {options.precision.asked}"):
        groups = precision.quantized(graphs, targets)
    shared: dict[str, tuple[Lowered, ...]] = {}
    for group in groups:
        for t in (t for t in group.targets if t.spelling in graphed):
            backend = graphed[t.spelling]
            entries = _graphs(group.graphs, states, backend, t, options, observer, clock, "quantize")
            precision.check_graphs(group, {e.name: e.model for e in entries}, backend.computes)
            shared[t.spelling] = entries
        mine = [t for t in group.targets if t.spelling not in graphed]
        for alike in _by_kind(mine):
            own = default_pipeline(options.level, traffic_on(alike))
            entries = _entries(_copies(group.graphs, alike, mine), states, own, observer, clock, "quantize")
            precision.check(group, {e.name: e.steps for e in entries})
            shared |= {t.spelling: entries for t in alike}
    _told([e for entries in dict.fromkeys(shared.values()) for e in entries], observer)
    precision.require()
    return _Whole({t.spelling: shared[t.spelling] for t in targets}, precision.facts(), precision.evidence())


def _by_kind(targets: Sequence[Target]) -> list[list[Target]]:
    """Targets that share a graph: layouts are chosen for what memory costs on all of them together."""
    return [[t for t in targets if t.kind == kind] for kind in dict.fromkeys(t.kind for t in targets)]


def _copies(graphs: Mapping[str, ir.Model], alike: Sequence[Target], every: Sequence[Target]) -> dict[str, ir.Model]:
    """Graphs for some of the targets: the given ones when nobody comes after them."""
    last = alike[-1].kind == _by_kind(every)[-1][-1].kind
    return dict(graphs) if last else {name: graph.clone() for name, graph in graphs.items()}


def _graphs(
    graphs: Mapping[str, ir.Model],
    states: Mapping[str, tuple[tuple[int, int], ...]],
    backend: GraphBackend,
    target: Target,
    options: Options,
    observer: Observer,
    clock: Clock,
    state: str,
) -> tuple[Lowered, ...]:
    """Entry points as one graph target gets them: canonical, and not lowered. The given graphs stay as they are."""
    passes = graph_passes(backend, target, options.level, spread=bool(options.mesh) and options.shard != "batch")
    entries = []
    for name, graph in graphs.items():
        own = graph.clone()
        observer.start(own, state)
        with clock.stage("optimize", f"{len(passes)} passes for {target.spelling}"):
            run_pipeline(own, passes, observer)
        entries.append(Lowered(name, own, (), states[name]))
    return tuple(entries)


def _entries(
    graphs: Mapping[str, ir.Model],
    states: Mapping[str, tuple[tuple[int, int], ...]],
    passes: Sequence[Pass],
    observer: Observer,
    clock: Clock,
    state: str,
) -> tuple[Lowered, ...]:
    """Entry points optimized and lowered; ``state`` says what was done with the graphs so far."""
    for graph in graphs.values():
        observer.start(graph, state)
        observer.after_stage(state)
        with clock.stage("optimize", f"{len(passes)} passes"):
            run_pipeline(graph, passes, observer)
    observer.after_stage("optimize")
    entries = []
    for name, graph in graphs.items():
        with clock.stage("lower", f"{sum(1 for _ in graph.graph)} nodes"):
            entries.append(Lowered(name, graph, lower_graph(graph), states[name]))
    return tuple(entries)


def _told(entries: Sequence[Lowered], observer: Observer) -> None:
    for name, text in _texts([step for entry in entries for step in entry.steps]):
        observer.text(name, text)
    observer.after_stage("lower")


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


def _host_of(build: TargetBuild) -> Target | None:
    """The target of the host that runs a part's kernels or its host part; what has one needs an executor."""
    return build.host if isinstance(build, ProgramsBuild) or build.host is not None else build.target


def _told_source(source: Source) -> dict[str, Any]:
    """What the record says of a model."""
    told = {"entry": source.entry.name, "name": source.name, "sha256": source.sha256}
    constants = constant_record(source.entry.model)
    return told | ({"constants": constants} if constants else {})


def _package(
    models: Mapping[str, Model],
    options: Options,
    lowered: _Whole,
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
            family=host.family if (host := _host_of(b)) else "",
            requires=cpu_requirements(host.extra) if host else (),
            apart=b.host is not None,
        )
        for b in builds
    ]
    for part in parts:
        plans = (part.plan.host,) if isinstance(part.plan, Programs) else (part.plan,)
        for plan_ in plans:
            if plan_ is not None:
                verify_plan(plan_)
    tools = default_toolchain(options.cc)
    hosts = [host for b in builds if (host := _host_of(b)) is not None]
    triples = {host.family: host.triple for host in hosts if host.family}
    first = next(iter(lowered.entries.values()))
    sources = [Source(e, name_of(models[e.name]), digest_of(models[e.name])) for e in first]
    provenance: dict[str, Any] = {
        "compiler": __version__,
        "models": [_told_source(s) for s in sources],
        "options": {
            "input_shapes": [[name, list(dims)] for name, dims in options.input_shapes],
            "level": options.level,
            "states": [list(pair) for pair in options.states],
            "targets": list(options.targets),
        },
        "tools": {tool: version for b in builds for tool, version in b.binary.tools.items()},
    }
    if options.buckets:
        graphs = [s.entry.model for s in sources]
        provenance["options"]["buckets"] = {
            name: {
                "exact": name in options.exact,
                "sizes": list(rungs),
                "symbols": sorted(by_symbol(graphs, {name: rungs})),
            }
            for name, rungs in options.buckets
        }
    if options.mesh:
        provenance["options"] |= {"mesh": list(options.mesh), "shard": options.shard or "auto"}
    if not options.ahead:
        provenance["options"]["ahead"] = False
    if lowered.precision is not None:
        provenance["precision"] = lowered.precision.provenance()
    return Artifact(
        parts=tuple(parts),
        constants=contents_of([c for b in builds for c in b.built.constants]),
        runtimes={family: build_runtime(tools, triple) for family, triple in triples.items()},
        provenance=provenance,
        facts=compilation_facts(sources, builds, clock.seconds, lowered.precision),
        kernels={
            name_of_code(k): record_of(k.kernel if isinstance(k, Scheduled) else k)
            for b in builds
            for k in (*b.kernels, *b.host_kernels)
        },
        evidence=lowered.evidence,
    )
