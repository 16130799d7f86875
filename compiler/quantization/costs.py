"""What a graph costs on a target, layer by layer: the kernels that it becomes, predicted or looked up in records.

Whole graphs are compared, fused and lowered as they would be compiled, so that quantizing and dequantizing around a
layer, and what a float epilogue would have saved, are part of the comparison. Nothing is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
from tilewright.cost import predict, rates_of, work_of
from tilewright.errors import UnsupportedError
from tilewright.ir.graph import body_of, layers_of, set_layers
from tilewright.kernel.tile import Kernel
from tilewright.ops.program import Call, Run, Step, lower_graph
from tilewright.passes.layout.cost import traffic_on
from tilewright.passes.pipeline import default_pipeline, run_pipeline
from tilewright.quantization.records import Records, work_key
from tilewright.target import Target

#: Operators that only turn numbers into integers or back: their kernels belong to the layers beside them.
CONVERTING = frozenset(["QuantizeLinear", "DequantizeLinear", "Cast", "Constant", "Transpose", "Identity"])
_QUANTIZING = frozenset(["QuantizeLinear", "DequantizeLinear"])


@dataclass(frozen=True, slots=True)
class Place:
    """Where and at which sizes a graph is judged.

    Attributes:
        target: whose data predicts.
        sizes: of the graph's dimension symbols.
        records: measured times, which go before predictions.
        level: of optimization.
        threads: of a run.
    """

    target: Target
    sizes: Mapping[str, int]
    records: Records = field(default_factory=Records)
    level: int = 2
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of a graph.

    Attributes:
        total: of all kernels, predicted.
        predicted: of the kernels that compute each layer, and of the conversions at its operands.
        recorded: the same as measured, for layers whose kernels were all found in the records.
    """

    total: float
    predicted: Mapping[str, float]
    recorded: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Timed:
    """One kernel of a graph: the layers that it computes, its predicted seconds, and the measured ones if there are.

    ``converts``: it does nothing but turn numbers into integers or back.
    """

    node: ir.Node
    layers: tuple[str, ...]
    predicted: float
    recorded: float | None
    converts: bool


def name_layers(model: ir.Model) -> None:
    """Give every node a name of its own, the one it has where that is unique, and make it known to fusion."""
    taken: set[str] = set()
    for node in model.graph:
        name = node.name or f"{node.op_type}_{node.outputs[0].name}"
        unique, number = name, 1
        while unique in taken:
            number += 1
            unique = f"{name}_{number}"
        taken.add(unique)
        node.name = unique


def mark_layers(model: ir.Model, names: frozenset[str]) -> None:
    """Let fused nodes tell which of the layers ``names`` they compute."""
    for node in model.graph:
        if node.name in names:
            set_layers(node, (node.name,))


def lowered(model: ir.Model, target: Target, level: int) -> tuple[ir.Model, tuple[Step, ...]]:
    """A copy of ``model`` as it would be compiled for ``target``, and its kernels."""
    copy = model.clone()
    run_pipeline(copy, default_pipeline(level, traffic_on([target])))
    return copy, lower_graph(copy)


def costs_of(model: ir.Model, layers: frozenset[str], place: Place) -> Costs:
    """What a state of a graph costs. ``layers`` are the names of nodes that are told of apart.

    Raises :class:`UnsupportedError` where a node has no kernel.
    """
    mark_layers(model, layers)
    graph, steps = lowered(model, place.target, place.level)
    timed = [t for step in steps if (t := _timed(graph, step, place)) is not None]
    predicted = dict.fromkeys(sorted(layers), 0.0)
    recorded: dict[str, float | None] = dict.fromkeys(sorted(layers), 0.0)
    for t in timed:
        owners = t.layers or (_beside(t, timed) if t.converts else ())
        for name in owners:
            predicted[name] += t.predicted / len(owners)
            so_far = recorded[name]
            recorded[name] = None if so_far is None or t.recorded is None else so_far + t.recorded / len(owners)
    return Costs(sum(t.predicted for t in timed), predicted, {n: s for n, s in recorded.items() if s})


def _timed(graph: ir.Model, step: Step, place: Place) -> Timed | None:
    if isinstance(step, Call):
        return Timed(step.node, layers_of(step.node), 0.0, None, False)  # a routine: nobody has said how much it does
    if not isinstance(step, Run):
        return None
    predicted, recorded = kernel_seconds(step.kernel, place)
    return Timed(step.node, layers_of(step.node), predicted, recorded, _converts(graph, step.node))


def kernel_seconds(kernel: Kernel, place: Place) -> tuple[float, float | None]:
    """Predicted seconds of a launch (0 where a size is only known when it runs), and the measured ones if there are."""
    try:
        sizes = tuple(place.sizes[name] for name, _ in kernel.facts)
    except KeyError:
        return 0.0, None
    key = (place.target.spelling, work_key(kernel), sizes, place.threads)
    return predict(work_of(kernel), rates_of(place.target, place.threads), place.sizes).seconds, (
        place.records.seconds.get(key)
    )


def _converts(graph: ir.Model, node: ir.Node) -> bool:
    """Whether a kernel does nothing but turn numbers into integers or back."""
    body = body_of(graph, node)
    kinds = {node.op_type} if body is None else {n.op_type for n in body}
    return kinds <= CONVERTING and bool(kinds & _QUANTIZING)


def _beside(one: Timed, timed: Sequence[Timed]) -> tuple[str, ...]:
    """The layers that read what a conversion makes; else those whose result it converts."""
    readers = {use.node for v in one.node.outputs for use in v.uses()}
    makers = {v.producer() for v in one.node.inputs if v is not None}
    for nodes in (readers, makers):
        names = tuple(dict.fromkeys(name for t in timed if t.node in nodes for name in t.layers))
        if names:
            return names
    return ()


def computed_in(steps: Sequence[Step]) -> dict[str, str]:
    """The element type in which the kernel of each layer computes; layers that no kernel knows are missing."""
    found: dict[str, str] = {}
    for step in steps:
        if isinstance(step, Run):
            for name in layers_of(step.node):
                found[name] = work_of(step.kernel).dtype
    return found


def affordable(model: ir.Model, layers: frozenset[str], place: Place) -> Costs | None:
    """:func:`costs_of`, or ``None`` where the target lacks a kernel."""
    try:
        return costs_of(model, layers, place)
    except UnsupportedError:
        return None
