"""The compiler as one function: import → optimize → lower → schedule → emit → build → plan → package.

:func:`compile` is the whole way; everything below it is one step of it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Union

import onnx_ir as ir
from tilewright import __version__
from tilewright.artifact import Artifact, contents_of
from tilewright.build import TargetBuild, build_target
from tilewright.codegen.toolchain import default_toolchain
from tilewright.facts import compilation_facts
from tilewright.frontend.onnx import import_model
from tilewright.kernel.canonical import fingerprint
from tilewright.kernel.print import print_kernel
from tilewright.observe import Observer
from tilewright.ops.program import Run, Step, lower_graph
from tilewright.options import Options
from tilewright.package.native import build_runtime
from tilewright.package.writer import Part, cpu_requirements
from tilewright.passes.pipeline import default_pipeline, run_pipeline
from tilewright.plan.verify import verify_plan
from tilewright.selection import resolve_targets

if TYPE_CHECKING:
    import onnx

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
    observer.expect([p.name for p in passes], STAGES)
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
