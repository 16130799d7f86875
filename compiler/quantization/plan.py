"""A precision in a compilation: every entry point quantized for every target, and whether the kernels kept to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir
from tilewright.calibration import calibration_of, held_out
from tilewright.cost import kind_of, work_of
from tilewright.errors import PrecisionError
from tilewright.ir.graph import layers_of
from tilewright.ops.program import Run, Step
from tilewright.options import Precision
from tilewright.passes.quantize.base import Calibration, Capability, Layer, Runner
from tilewright.passes.quantize.contractions import CONTRACTIONS, NO_WEIGHTS
from tilewright.quantization import request
from tilewright.quantization.apply import Quantized, Quantizer
from tilewright.quantization.costs import computed_in, mark_layers
from tilewright.quantization.request import Given
from tilewright.quantization.trials import Quantize
from tilewright.quantization.verification import Evidence
from tilewright.report import GroupFacts, LayerFacts, PrecisionFacts
from tilewright.target import Target

#: Layers that an error names one by one.
NAMED = 20
#: Spellings of types that mean the same in ``allowed``.
_SAME = {"fp32": "f32", "float32": "f32", "fp16": "f16", "float16": "f16", "fp8": "f8", "tf32": "f32"}


@dataclass(slots=True)
class Group:
    """Targets that share graphs: the graph of each entry point, to be lowered and as it was quantized; its layers."""

    targets: tuple[Target, ...]
    capability: Capability
    graphs: dict[str, ir.Model]
    originals: dict[str, ir.Model]
    quantized: dict[str, Quantized]


class PrecisionPlan:
    """What is asked of the graphs of a compilation.

    Args:
        precision: the request. Raises :class:`UsageError` where it makes no sense.
        given: its data.
        level: of optimization.
        say: takes the name of a stage and what it works on.
        runner: runs graphs; one that compiles them for this machine when ``None``.
        quantize: the entry to the methods, where that is another one.
    """

    def __init__(
        self,
        precision: Precision,
        given: Given | None,
        level: int,
        say: Callable[[str, str], None],
        runner: Runner | None = None,
        quantize: Quantize | None = None,
    ):
        request.check(precision)
        if runner is None:
            from tilewright.runner import GraphRunner

            runner = GraphRunner(level)
        self._precision, self._given, self._level, self._say = precision, given or Given(), level, say
        self._runner, self._quantize = runner, quantize
        self._calibrations: dict[str, Calibration] = {}
        self._groups: list[Group] = []

    def quantized(self, graphs: Mapping[str, ir.Model], targets: Sequence[Target]) -> list[Group]:
        """A group for all targets that get the same graphs. ``graphs`` are canonicalized; their nodes are named."""
        makers = {entry: self._maker(entry, graph) for entry, graph in graphs.items()}
        shared: dict[object, Group] = {}
        for capability, alike in _alike(targets, self._precision.asked == "auto"):
            found = {e: maker.quantized(capability, alike, self._level) for e, maker in makers.items()}
            key = (capability, tuple((q.method, q.rows) for q in found.values()))
            if key in shared:
                group = shared[key]
                group.targets = (*group.targets, *alike)
                group.quantized = {e: _added(group.quantized[e], q) for e, q in found.items()}
                continue
            copies = {e: q.model.clone() for e, q in found.items()}
            for entry, copy in copies.items():
                names = [row.name for row in found[entry].rows] or [str(n.name) for n in copy.graph]
                mark_layers(copy, frozenset(names))
            shared[key] = Group(alike, capability, copies, {e: q.model for e, q in found.items()}, found)
        self._groups = list(shared.values())
        return self._groups

    def check(self, group: Group, entries: Mapping[str, Sequence[Step]]) -> None:
        """Tell every layer by what its kernel computes in, now that there are kernels."""
        for entry, steps in entries.items():
            self._tell(
                group, entry, computed_in(steps), _kernel_rows(steps, self._precision.asked, group), as_told=False
            )

    def check_graphs(self, group: Group, models: Mapping[str, ir.Model], computes: Callable[[ir.Node], str]) -> None:
        """Tell every layer by what the node that it became computes in, where the graph itself is compiled.

        ``computes`` gives the element type of a node's products, nothing for a node without.
        """
        for entry, model in models.items():
            nodes = {n: dtype for n in model.graph if (dtype := computes(n))}
            layers = {name: dtype for n, dtype in nodes.items() for name in layers_of(n)}
            rows = [
                _plain_row(" + ".join(layers_of(n)) or str(n.name), n.op_type, dtype, self._precision.asked, group)
                for n, dtype in nodes.items()
            ]
            self._tell(group, entry, layers, rows, as_told=True)

    def _tell(
        self, group: Group, entry: str, computed: Mapping[str, str], plain: Sequence[Layer], as_told: bool
    ) -> None:
        """``plain`` are the rows where nothing is quantized; ``as_told`` as of :func:`_seen`."""
        found, asked = group.quantized[entry], self._precision.asked
        if request.METHODS[asked] or asked == "auto":
            plain = [_seen(row, computed, found, group, as_told) for row in found.rows]
        group.quantized[entry] = replace(found, rows=tuple(plain))

    def require(self) -> None:
        """Raise :class:`PrecisionError` for layers that did not get what was asked and that nobody excepted.

        Products without weights are told, and no exception is needed: methods quantize weights and what is multiplied
        with them. Nor is it for operators that sum no products and stay in f32 (the positions of a Range).
        """
        if self._precision.asked == "auto":
            return
        allowed = {_type(a) for a in self._precision.allowed}
        problems, total = [], 0
        for group in self._groups:
            on = ", ".join(t.spelling for t in group.targets)
            for found in group.quantized.values():
                total += len(found.rows)
                problems += [
                    f"{row.name} ({row.op_type}) on {on}: {row.got}{f', {row.why}' if row.why else ''}"
                    for row in found.rows
                    if row.why not in ("excepted", NO_WEIGHTS)
                    and (row.op_type in CONTRACTIONS or self._precision.asked not in _GOT)
                    and not _honoured(row, self._precision.asked)
                    and _type(row.got) not in allowed
                ]
        if problems:
            more = f"and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
            raise PrecisionError(
                "precision-not-honoured",
                where=f"precision {self._precision.asked}",
                cause=f"{len(problems)} of {total} layers did not get it",
                fix="take them as they are with --allow-precision f32 (or what they got), leave some out with "
                "--except NAME, or choose another method or target",
                problems=tuple(filter(None, [*problems[:NAMED], more])),
            )

    def facts(self) -> PrecisionFacts:
        """What a report tells."""
        p, records = self._precision, self._given.records
        return PrecisionFacts(
            asked=p.asked,
            groups=tuple(group_facts(g.targets, e, q) for g in self._groups for e, q in g.quantized.items()),
            settings=stated(p),
            max_drop=p.max_drop,
            metric=p.metric,
            calibration={e: (c.source, c.sha256) for e, c in self._calibrations.items()},
            random=any(c.random for c in self._calibrations.values()),
            records=(records.source, records.sha256),
        )

    def evidence(self) -> Evidence | None:
        """What a check needs; ``None`` where nothing is quantized and the ordinary one serves."""
        if not any(q.method for g in self._groups for q in g.quantized.values()):
            return None
        found = {e: held_out(c)[1] for e, c in self._calibrations.items()}
        first = self._groups[0].quantized
        return Evidence(
            precision=self._precision,
            metric=self._given.metric,
            models={t.spelling: g.originals for g in self._groups for t in g.targets},
            feeds=found,
            told={e: first[e].judged for e in found},
        )

    def _maker(self, entry: str, graph: ir.Model) -> Quantizer:
        source = self._given.calibration.get(entry)
        if source is not None:
            self._calibrations[entry] = calibration_of(source, graph)
        return Quantizer(
            graph,
            self._precision,
            self._calibrations.get(entry),
            self._runner,
            self._given,
            lambda line: self._say("search", line),
            self._quantize,
        )


def stated(precision: Precision) -> dict[str, object]:
    """What was said of a precision beside its name."""
    told: dict[str, object] = dict(precision.settings)
    for name in ("method", "allowed", "excepted"):
        if getattr(precision, name):
            value = getattr(precision, name)
            told[name] = list(value) if isinstance(value, tuple) else value
    return told


def group_facts(targets: Sequence[Target], entry: str, found: Quantized) -> GroupFacts:
    """One quantized graph, for a report."""
    score = found.score
    return GroupFacts(
        targets=tuple(t.spelling for t in targets),
        entry=entry,
        method=found.method,
        layers=tuple(LayerFacts(r.name, r.op_type, r.asked, r.got, r.why) for r in found.rows),
        drop=score.drop if score else None,
        cosine=score.cosine if score else None,
        snr=score.snr if score else None,
        top1=score.top1 if score else None,
        judged=found.judged if score else "",
        seconds=None if math.isnan(found.seconds) else found.seconds,
        float_seconds=None if math.isnan(found.float_seconds) else found.float_seconds,
    )


def _alike(targets: Sequence[Target], apart: bool) -> list[tuple[Capability, tuple[Target, ...]]]:
    """Targets by what they absorb; each for itself where speed decides."""
    found: dict[object, tuple[Capability, tuple[Target, ...]]] = {}
    for target in targets:
        capability = Capability.of(target)
        key = target.spelling if apart else capability
        found[key] = (capability, (*(found[key][1] if key in found else ()), target))
    return list(found.values())


def _added(one: Quantized, other: Quantized) -> Quantized:
    """The same graph on more targets: predicted times add up."""
    return replace(one, seconds=one.seconds + other.seconds, float_seconds=one.float_seconds + other.float_seconds)


def _seen(row: Layer, kernels: Mapping[str, str], found: Quantized, group: Group, as_told: bool) -> Layer:
    """A row as its kernel has it; ``as_told``: also where only weights were to be quantized, and activations were
    as well."""
    dtype = kernels.get(row.name, "")
    if row.got == "f32" or _made_up(row.got) or not found.method or not dtype:
        return row
    if found.method in request.WEIGHT_ONLY and not (as_told and " × " in row.got):
        return row  # weights are stored so, whatever multiplies them
    wanted = request.SPELLED[request.precision_of_method(found.method)]
    computes = dtype if not _is_narrow_float(dtype) or dtype in group.capability.floats else "f32"
    if computes in wanted:
        return row
    on = ", ".join(t.spelling for t in group.targets)
    return replace(row, got=f"{computes} ({row.got} stored)", why=f"kernels of {on} compute it in {computes}")


def _kernel_rows(steps: Sequence[Step], asked: str, group: Group) -> list[Layer]:
    """A row for each kernel that sums products, where nothing is quantized and the kernels alone are asked."""
    rows = []
    for step in steps:
        if not isinstance(step, Run) or kind_of(step.kernel) not in ("contraction", "scan", "window"):
            continue
        name, dtype = " + ".join(layers_of(step.node)), work_of(step.kernel).dtype
        row = _plain_row(name, step.node.op_type, dtype, asked, group)
        if row.got == "tf32" and kind_of(step.kernel) == "window":  # sums of a few products, on the ordinary units
            row = replace(row, got=dtype)
        rows.append(row)
    return rows


def _plain_row(name: str, op_type: str, dtype: str, asked: str, group: Group) -> Layer:
    """A row for products of type ``dtype`` that nobody quantized."""
    got = dtype if not _is_narrow_float(dtype) or dtype in group.capability.floats else f"f32 ({dtype} stored)"
    why = ""
    if asked == "tf32" and "tf32" in group.capability.floats:
        got = "tf32" if got == "f32" else got
    elif asked == "tf32":
        why = f"{', '.join(t.spelling for t in group.targets)} has no tf32"
    elif asked == "fp32" and got not in request.SPELLED["fp32"]:
        why = "the model has it so"
    return Layer(name, op_type, asked, got, why)


#: How what a layer got is spelled for each precision that changes graphs.
_GOT = {"int8": "int8", "int4": "int4", "fp16": "f16", "bf16": "bf16", "fp8": "fp8"}


def _honoured(row: Layer, asked: str) -> bool:
    """Whether a layer got what was asked for."""
    return not row.why if asked not in _GOT else _GOT[asked] in row.got and not _made_up(row.got)


def _made_up(got: str) -> bool:
    """Whether a type is only stored or simulated, and another one computed in."""
    return "stored" in got or "simulated" in got


def _is_narrow_float(dtype: str) -> bool:
    return dtype.startswith(("f16", "bf16", "f8"))


def _type(text: str) -> str:
    """The type in which a layer computes, by what it got, in one spelling."""
    if "simulated" in text:
        return "f32"
    computed = text.rpartition("computed ")[2]
    first = computed.removeprefix("in ").split(" ", 1)[0].strip("(),")
    return _SAME.get(first, first)
