"""From a graph to one graph target's share of an artifact: place, compile the regions, build the host part, plan."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import onnx_ir as ir
from tilewright.backends.base import (
    Binary,
    CompiledRegion,
    GraphBackend,
    ProgramFacts,
    ProgramSettings,
    Refused,
    WeightCut,
)
from tilewright.build import Host, Lowered, TargetBuild, build_target, forbidden
from tilewright.errors import UsageError
from tilewright.ir.facts import assumptions, facts
from tilewright.ir.graph import is_constant, type_of
from tilewright.ir.types import TensorType
from tilewright.observe import Observer
from tilewright.ops.infer import infer_model
from tilewright.passes.canonicalize.eliminate_dead_code import EliminateDeadCode
from tilewright.passes.place import NEAR_HOST, Region, near_host, place
from tilewright.plan.build import Built, PackedConstant
from tilewright.plan.plan import Constant, Plan, Signature
from tilewright.plan.programs import ProgramEntry, Programs, ProgramStep, RunHost, RunProgram, Slot
from tilewright.target import Target

#: Makes kernels of a region of a graph, as an entry point of the host part.
LowerHost = Callable[[str, ir.Model], Lowered]


@dataclass(frozen=True, slots=True)
class HostPart:
    """What builds the host part of programs: ``host``, and what lowers a graph for it."""

    host: Host
    lower: LowerHost


@dataclass(frozen=True, slots=True)
class ProgramsBuild(TargetBuild):
    """What a graph target contributes to an artifact.

    Attributes:
        nodes: how many there are in all.
        facts: of every program.
        settings: how programs were made.
        cuts: on a mesh, what became of each weight. notes: what was asked of the mesh and cannot be.
    """

    nodes: int = 0
    facts: tuple[ProgramFacts, ...] = ()
    settings: ProgramSettings = field(default_factory=ProgramSettings)
    cuts: tuple[WeightCut, ...] = ()
    notes: tuple[str, ...] = ()


def build_programs(
    entries: Sequence[Lowered],
    backend: GraphBackend,
    target: Target,
    settings: ProgramSettings,
    host: HostPart,
    observer: Observer,
    names: Mapping[ir.Value, str],
) -> ProgramsBuild:
    """The programs of a target and its host part. ``entries`` have no steps; ``names`` as for ``build_target``."""
    made = _Programs(backend, target, settings, host, names)
    planned = tuple(made.entry(entry) for entry in entries)
    if settings.mesh:
        _require_cuts(planned, settings, made.notes)
    members = {"facts.json": encode_facts(made.facts), **made.members}
    for name, text in made.texts.items():
        observer.text(f"{target.folder}/{name}", text)
    constants = {c.constant.name: c for c in made.constants.values()}
    tools = dict(backend.tools(target, settings))
    built_host, host_plan = None, None
    if made.hosted:
        built_host = build_target(made.hosted, host.host.backend, host.host.target, observer, names)
        members |= built_host.binary.members
        constants |= {c.constant.name: c for c in built_host.built.constants}
        tools |= built_host.binary.tools
        assert isinstance(built_host.built.plan, Plan)
        host_plan = built_host.built.plan
    plan = Programs(
        planned,
        tuple(c.constant for c in constants.values()),
        host_plan,
        settings.mesh,
    )
    return ProgramsBuild(
        target=target,
        built=Built(plan, tuple(constants.values())),
        binary=Binary(members, tools),
        kernels=built_host.kernels if built_host else (),
        launches=built_host.launches if built_host else (),
        on_host=_told(made.reasons),
        nodes=made.nodes,
        facts=tuple(made.facts),
        host=host.host.target if built_host else None,
        settings=settings,
        cuts=tuple(dict.fromkeys(made.cuts)),
        notes=tuple(dict.fromkeys(made.notes)),
    )


def _require_cuts(entries: Sequence[ProgramEntry], settings: ProgramSettings, notes: Sequence[str]) -> None:
    """Raise ``UsageError`` when every device of a mesh would compute the same."""
    steps = [step for entry in entries for step in entry.steps if isinstance(step, RunProgram)]
    if any(any(sharding.dims) for step in steps for sharding in step.shardings):
        return
    raise UsageError(
        "mesh-useless",
        where=f"--mesh {'x'.join(map(str, settings.mesh))} --shard {settings.shard}",
        cause="every device would compute the same: " + ("; ".join(dict.fromkeys(notes)) or "there is nothing to cut"),
        fix="use a smaller mesh, another --shard, or a batch that can be divided; or leave --mesh out",
    )


@dataclass(slots=True)
class _Programs:
    """Members and constants of all entry points so far."""

    backend: GraphBackend
    target: Target
    settings: ProgramSettings
    host: HostPart
    names: Mapping[ir.Value, str]
    members: dict[str, bytes] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    constants: dict[ir.Value, PackedConstant] = field(default_factory=dict)
    hosted: list[Lowered] = field(default_factory=list)
    reasons: dict[ir.Node, str] = field(default_factory=dict)
    facts: list[ProgramFacts] = field(default_factory=list)
    nodes: int = 0
    cuts: list[WeightCut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def entry(self, entry: Lowered) -> ProgramEntry:
        """Place and compile an entry point. A node that turns out to have no form is placed on the host, anew."""
        model = entry.model
        for node in model.graph:
            support = self.backend.runs(model, node, self.target)
            if not support.ok and not all(is_constant(o) for o in node.outputs):
                self.reasons[node] = support.reason
        while True:
            cheap = dict.fromkeys(near_host(model, self.reasons.__contains__), NEAR_HOST)
            regions = place(model, (self.reasons | cheap).__contains__)
            try:
                compiled = self._compiled(entry, regions)
                break
            except Refused as refused:
                self.reasons |= {r.node: r.reason for r in refused.refusals}
        if self.reasons and not self.host.host.allowed:
            raise forbidden(self.target, _told(self.reasons))
        compiled = [
            made
            and self.backend.compile_ahead(made, self.target, self.settings)  # not before: placement may start over
            for made in compiled
        ]
        self.reasons |= cheap
        self.nodes += sum(len(r.nodes) for r in regions)
        return self._planned(entry, regions, compiled)

    def _compiled(self, entry: Lowered, regions: Sequence[Region]) -> list[CompiledRegion | None]:
        return [
            None
            if region.on_host
            else self.backend.compile_region(entry.model, region, f"{entry.name}-{n}", self.target, self.settings)
            for n, region in enumerate(regions)
        ]

    def _planned(
        self, entry: Lowered, regions: Sequence[Region], compiled: Sequence[CompiledRegion | None]
    ) -> ProgramEntry:
        graph = entry.model.graph
        slots: dict[ir.Value, int] = {}

        def slot(value: ir.Value) -> int:
            return slots.setdefault(value, len(slots))

        for value in graph.inputs:
            slot(value)
        steps: list[ProgramStep] = []
        for n, (region, made) in enumerate(zip(regions, compiled, strict=True)):
            inputs, outputs = tuple(map(slot, region.inputs)), tuple(map(slot, region.outputs))
            if made is None:
                name = f"{entry.name}-{n}"
                self.hosted.append(self.host.lower(name, _cut(entry.model, region)))
                steps.append(RunHost(name, inputs, outputs))
                continue
            self.members |= made.members
            self.texts |= made.texts
            self.facts += made.facts
            self.cuts += made.cuts
            self.notes += made.notes
            weights = tuple(self._constant(v) for v in made.weights)
            steps.append(RunProgram(inputs, outputs, made.padded, weights, made.variants, made.shardings))
        results = tuple(self._constant(v) if is_constant(v) else slot(v) for v in graph.outputs)
        known = facts(entry.model)
        shapes = [e for v in graph.inputs for e in type_of(v).shape]
        symbols = sorted({s for e in shapes for s in e.symbols})
        return ProgramEntry(
            name=entry.name,
            inputs=tuple(_signature(v) for v in graph.inputs),
            outputs=tuple(_signature(v) for v in graph.outputs),
            states=entry.states,
            symbols=tuple((s, known[s]) for s in symbols),
            slots=tuple(Slot(type_of(v).dtype, type_of(v).shape) for v in slots),
            results=results,
            steps=tuple(steps),
            asserts=tuple((a.left, a.right, a.where) for a in assumptions(entry.model)),
        )

    def _constant(self, value: ir.Value) -> str:
        if value not in self.constants:
            type_ = type_of(value)
            shape = tuple(s.value for s in type_.shape)
            constant = Constant(self.names.get(value, str(value.name)), type_.dtype, shape)
            self.constants[value] = PackedConstant(constant, value, None)
        return self.constants[value].constant.name


def _told(reasons: Mapping[ir.Node, str]) -> tuple[tuple[str, str], ...]:
    return tuple((f"{n.op_type} {n.name!r}", reason) for n, reason in reasons.items())


def encode_facts(facts: Sequence[ProgramFacts]) -> bytes:
    """``facts.json``, for whoever looks into an artifact: without what took how long, which no two builds share."""
    told = [{k: v for k, v in asdict(f).items() if k not in ("compile_seconds", "cached")} for f in facts]
    return json.dumps(told, sort_keys=True, separators=(",", ":"), default=dict).encode()


def _signature(value: ir.Value) -> Signature:
    type_: TensorType = type_of(value)
    return Signature(str(value.name), type_.dtype, type_.shape)


def _cut(model: ir.Model, region: Region) -> ir.Model:
    """A region as a model of its own; weights are shared."""
    copy = model.clone()
    named = {str(v.name): v for node in copy.graph for v in node.outputs if v.name}
    named |= {str(v.name): v for v in copy.graph.inputs}
    copy.graph.outputs.clear()
    inputs = []
    for value in region.inputs:
        old = named[str(value.name)]
        new = old
        if not old.is_graph_input():
            new = ir.Value(name=old.name, type=old.type, shape=old.shape)
            ir.convenience.replace_all_uses_with(old, new)
            old.name = f"{old.name}~outside"
        inputs.append(new)
    copy.graph.outputs.extend(named[str(v.name)] for v in region.outputs)
    copy.graph.inputs.clear()
    copy.graph.inputs.extend(inputs)
    EliminateDeadCode().run(copy)
    infer_model(copy)
    return copy
