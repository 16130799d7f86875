"""The facts of a compilation, gathered for its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.build_programs import ProgramsBuild
from tilewright.cost import device_rates, predict, work_of
from tilewright.engines import peak_rss
from tilewright.ir import facts as model_facts
from tilewright.ir.given import constant_texts
from tilewright.ir.graph import is_constant, type_of
from tilewright.ir.ranges import POSITIVE_INFINITY, Range
from tilewright.ir.symbolic import Expr
from tilewright.ir.types import TensorType
from tilewright.kernel.schedule import Scheduled
from tilewright.plan.build import byte_size
from tilewright.plan.memory import plan_memory
from tilewright.plan.plan import EntryPoint, HostLaunch, Launch, Plan, Space
from tilewright.plan.programs import Programs
from tilewright.report import MeshFacts, ModelFacts, PrecisionFacts, PredictedFacts, Report, TargetFacts
from tilewright.tuning.choice import choice_of

if TYPE_CHECKING:
    from tilewright.backends.base import Code
    from tilewright.build import Lowered, TargetBuild

#: The size that a symbolic dimension is given where a number must be shown.
EXAMPLE = 32


@dataclass(frozen=True, slots=True)
class Source:
    """An entry point, the name of its model as it was given, and the model's SHA-256."""

    entry: Lowered
    name: str
    sha256: str


def compilation_facts(
    sources: Sequence[Source],
    builds: Sequence[TargetBuild],
    seconds: Mapping[str, float],
    requested: PrecisionFacts | None = None,
) -> Report:
    """Everything that is known before the file is written."""
    precision = _precision(sources, builds[0])
    tools = {tool: version for b in builds for tool, version in b.binary.tools.items()}
    entries = {s.entry.name: _model(s) for s in sources}
    return Report(
        model=next(iter(entries.values())),
        entries=entries,
        targets=tuple(_target(b) for b in builds),
        precision=dict(precision.most_common()),
        seconds=dict(seconds),
        peak_rss=peak_rss(),
        tools=tools,
        requested=requested,
    )


def _precision(sources: Sequence[Source], build: TargetBuild) -> Counter[str]:
    """Launches by the type they compute in; of a target of programs, nodes by the type that they make."""
    if isinstance(build, ProgramsBuild):
        nodes = [node for s in sources for node in s.entry.model.graph if not all(is_constant(o) for o in node.outputs)]
        return Counter(str(type_of(node.outputs[0]).dtype) for node in nodes)
    assert isinstance(build.built.plan, Plan)
    beside = (i for e in build.built.plan.entries for i in e.code if isinstance(i, HostLaunch))
    launched = [build.kernels[i] for i in build.launches] + [build.host_kernels[i.kernel] for i in beside]
    return Counter(map(_computed, launched))


def _computed(code: Code) -> str:
    """The element type in which a kernel computes; of one that only moves elements, or a routine, what it writes."""
    if not isinstance(code, Scheduled):
        return str(code.dtypes[-1])
    return work_of(code.kernel).dtype or str(code.kernel.params[-1].dtype)


def _model(source: Source) -> ModelFacts:
    graph = source.entry.model
    known = model_facts.facts(graph)
    inputs = tuple((str(v.name), f"{type_of(v).dtype}{_shape(type_of(v).shape, known)}") for v in graph.graph.inputs)
    constants = tuple(constant_texts(graph).items())
    opset, nodes = graph.opset_imports.get("", 0), sum(1 for _ in graph.graph)
    return ModelFacts(source.name, opset, source.sha256, inputs, nodes, constants)


def _target(build: TargetBuild) -> TargetFacts:
    constants = [c.constant for c in build.built.constants]
    plan = build.built.plan
    if isinstance(plan, Programs):
        return _programs(build)
    apart = build.host is not None
    return TargetFacts(
        spelling=build.target.spelling,
        launches=len(build.launches) + len(build.on_host),
        distinct=len(build.kernels),
        fallback=tuple(f"{node}: {reason}" for node, reason in build.on_host),
        code_bytes=sum(map(len, build.binary.members.values())),
        weight_bytes=sum(byte_size(TensorType.of(c.dtype, *c.shape)).value for c in constants),
        arena=_arenas(plan.entries, ("device", "host") if apart else ("device",)),
        passes=_products(build),
        host=build.host.spelling if build.host else "",
        host_distinct=len(build.host_kernels),
        schedules=_schedules(build) if apart else {},
        predicted=_predicted(build, plan) if apart else None,
    )


#: How schedules say that products of f32 are computed on matrix units, and what that is.
_TF32 = {"tf32x3": "three products of tf32 each, 21 bits of 24", "tf32": "products of tf32, 11 bits of 24"}


def _products(build: TargetBuild) -> str:
    """How matrix units without f32 compute its products, with the number of kernels; empty where none does."""
    asked = Counter(str(k.schedule.option("precision", "")) for k in build.kernels if isinstance(k, Scheduled))
    told = [f"{how} ({asked[name]} kernels)" for name, how in _TF32.items() if asked[name]]
    return f"f32 products as {' and '.join(told)}" if told else ""


def _schedules(build: TargetBuild) -> dict[str, int]:
    """How many kernels have a schedule of each origin. Routines have none."""
    return dict(Counter(choice_of(k.schedule) for k in build.kernels if isinstance(k, Scheduled)).most_common())


def _predicted(build: TargetBuild, plan: Plan) -> PredictedFacts | None:
    """A lower bound of the time of a device's kernels, at example sizes; ``None`` where all is on the host."""
    rates = device_rates(build.target)
    seconds = {"memory": 0.0, "compute": 0.0, "launch": 0.0}
    left_out, at = 0, dict[str, int]()
    for entry in plan.entries:
        sizes = _example(entry)
        at |= sizes
        for launch in (i for i in entry.code if isinstance(i, Launch)):
            code = build.kernels[launch.kernel]
            try:
                given = [dim.evaluate(sizes) for dim in launch.dims] if isinstance(code, Scheduled) else None
            except KeyError:  # a size that comes from the values of a tensor
                given = None
            if given is None or not isinstance(code, Scheduled):
                left_out += 1
                continue
            names = [name for name, _ in code.kernel.facts]
            found = predict(work_of(code.kernel), rates, dict(zip(names, given, strict=True)))
            seconds[found.bound] += found.seconds
    total = sum(seconds.values())
    if not total:
        return None
    shares = {name: spent / total for name, spent in seconds.items() if spent}
    return PredictedFacts(_sizes(at), total, shares, left_out)


def _programs(build: TargetBuild) -> TargetFacts:
    assert isinstance(build, ProgramsBuild)
    constants = [c.constant for c in build.built.constants]
    return TargetFacts(
        spelling=build.target.spelling,
        launches=build.nodes,
        distinct=len(build.facts),
        fallback=tuple(f"{node}: {reason}" for node, reason in build.on_host),
        code_bytes=sum(map(len, build.binary.members.values())),
        weight_bytes=sum(byte_size(TensorType.of(c.dtype, *c.shape)).value for c in constants),
        programs=build.facts,
        passes=_passes(build),
        mesh=_mesh(build) if build.settings.mesh else None,
    )


def _mesh(build: ProgramsBuild) -> MeshFacts:
    return MeshFacts(
        sizes=build.settings.mesh,
        shard=build.settings.shard,
        virtual=bool(build.target.extra.get("virtual_devices", False)),
        weights=build.cuts,
        bytes_per_device=sum(cut.bytes_per_device for cut in build.cuts),
        notes=build.notes,
    )


def _passes(build: ProgramsBuild) -> str:
    """How a matrix unit without f32 computes its products (``[precision]`` of the target), for those there are."""
    counts = build.target.extra.get("precision", {}).get("passes", {})
    found = sorted({kind.partition(":")[2] for f in build.facts for kind in f.products if kind.startswith("f32:")})
    told = [f"{counts[p]} bf16 pass{'es' * (counts[p] > 1)} ({p})" for p in found if p in counts]
    return f"f32 products as {' and '.join(told)}" if told else ""


def _arenas(entries: Sequence[EntryPoint], spaces: Sequence[Space]) -> str:
    """The arenas of each entry point, named where there are several."""
    if len(entries) == 1:
        return _arena(entries[0], spaces)
    return ", ".join(f"{e.name}: {_arena(e, spaces)}" for e in entries)


def _arena(entry: EntryPoint, spaces: Sequence[Space]) -> str:
    """The arena at example sizes, beside the most bytes that are live at a time; the host's where there is one."""
    sizes = _example(entry)
    layout, *beside = [plan_memory(entry, sizes, space) for space in spaces]
    at = _sizes(sizes)
    ratio = layout.size / layout.live_maximum if layout.live_maximum else 1.0
    host = "".join(f" and {other.size / 1e6:.1f} MB on the host" for other in beside if other.size)
    return f"{layout.size / 1e6:.1f} MB{host} ({ratio:.2f} × live{' at ' + at if at else ''})"


def _example(entry: EntryPoint) -> dict[str, int]:
    """A size for each dimension symbol of an entry point."""
    return {name: max(r.lo, min(r.hi, EXAMPLE)) for name, r in entry.symbols}


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{n}={v}" for n, v in sizes.items())


def _shape(shape: Sequence[Expr], known: Mapping[str, Range]) -> str:
    return f"[{', '.join(_size(s, known) for s in shape)}]"


def _size(size: Expr, known: Mapping[str, Range]) -> str:
    r = known.get(str(size))
    if r is None:
        return str(size)
    return f"{size}={r.lo}.." if r.hi >= POSITIVE_INFINITY else f"{size}={r.lo}..{r.hi}"
