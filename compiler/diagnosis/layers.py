"""A quantized model beside the float model that it came from, layer by layer: which one loses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.accuracy import Agreement, Comparison
from tilewright.diagnosis.alignment import align
from tilewright.errors import AccuracyError, UsageError
from tilewright.ir.graph import consumers, has_type, is_constant, type_of
from tilewright.passes.quantize.base import Runner

Array = NDArray[Any]
Feed = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the reference and of the model, over all samples.

    Attributes:
        name, op_type: of its result in the reference, and of the operator that computes it there.
        alone: the model's layer on what the reference gives it: what this layer loses.
        accumulated: as the model runs, with what the layers before it lost.
    """

    name: str
    op_type: str
    alone: Comparison
    accumulated: Comparison


@dataclass(frozen=True, slots=True)
class Layers:
    """Every layer in order of execution.

    Attributes:
        outputs: of the whole model beside the reference's.
        unmatched: results of float operators of the reference that have no counterpart, or are constants there.
        samples: how many.
        source: of the samples, ``given`` or ``made up``.
    """

    layers: tuple[Layer, ...]
    outputs: tuple[Comparison, ...]
    unmatched: tuple[str, ...]
    samples: int
    source: str

    @property
    def losing(self) -> tuple[Layer, ...]:
        """Layers that change something by themselves."""
        return tuple(x for x in self.layers if x.alone.snr < math.inf)

    def worst(self, count: int = 3) -> tuple[Layer, ...]:
        """The layers that lose most by themselves, by signal-to-noise ratio."""
        return tuple(sorted(self.losing, key=lambda x: x.alone.snr)[:count])

    def require(self, where: str) -> None:
        """Raise :class:`AccuracyError` naming every output that is off."""
        bad = [c for c in self.outputs if not c.ok]
        if bad:
            told = "; ".join(c.problem or f"{c.name} {c.distance}" for c in bad[:5])
            lost = ", ".join(x.name for x in self.worst())
            fix = "see tilewright bisect"
            if lost:
                fix = f"leave layers in float that lose most ({lost}), or calibrate on other data"
            raise AccuracyError("accuracy-below", where=where, cause=f"{told}, beside the reference", fix=fix)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def compare_layers(
    model: ir.Model,
    reference: ir.Model,
    feeds: Sequence[Feed],
    run: Runner,
    source: str,
    *,
    limits: tuple[float | None, float | None] = (None, None),
) -> Layers:
    """Run both graphs on ``feeds``, and every layer of ``model`` on its own, fed with values of ``reference``.

    ``limits`` are the tolerance and the smallest cosine of outputs. Raises :class:`UsageError` for inputs or outputs
    that differ, for models that have nothing in common, and for no samples.
    """
    if not feeds:
        raise UsageError("no-samples", where="layers", cause="no inputs to compare on", fix="give at least one sample")
    _require_same(model, reference, "inputs")
    _require_same(model, reference, "outputs")
    names = align(reference, model)
    seen = {mine: observed(model, theirs) for mine, theirs in names.items()}
    if not names:
        cause, fix = "no value of the one is one of the other", "give the float model that the other was made from"
        raise UsageError("layers-unmatched", where="layers", cause=cause, fix=fix)
    inputs = stand_ins(model, seen.values())
    apart = split(model, inputs)
    finals = [str(v.name) for v in reference.graph.outputs]
    outputs = {n: Agreement(n, *limits) for n in finals}
    alone, accumulated = ({n: Agreement(n) for n in names} for _ in range(2))
    for feed in feeds:
        # One sample at a time: all values of a large model are kept for it.
        (want,) = run(reference, [feed], [*names, *finals])
        (got,) = run(model, [feed], [*seen.values(), *finals])
        given = {inputs[theirs]: want[mine] for mine, theirs in seen.items()}
        (single,) = run(apart, [_fitting(given | dict(feed), apart)], list(seen.values()))
        for mine, theirs in seen.items():
            accumulated[mine].add(got[theirs].astype(want[mine].dtype), want[mine])
            alone[mine].add(single[theirs].astype(want[mine].dtype), want[mine])
        for name in finals:
            outputs[name].add(got[name].astype(want[name].dtype), want[name])
    makers = {str(v.name): node.op_type for node in reference.graph for v in node.outputs}
    layers = tuple(Layer(n, makers[n], alone[n].result, accumulated[n].result) for n in names)
    judged = tuple(o.result for o in outputs.values())
    return Layers(layers, judged, tuple(_others(reference, names)), len(feeds), source)


def stand_ins(model: ir.Model, values: Iterable[str]) -> dict[str, str]:
    """A name that the graph has not for the input that stands for each value."""
    taken = {str(v.name) for v in model.graph.inputs} | {str(v.name) for n in model.graph for v in n.outputs}
    taken |= set(model.graph.initializers)
    found = {}
    for value in values:
        name = f"{value}__given"
        while name in taken:
            name += "_"
        found[value] = name
    return found


def observed(model: ir.Model, name: str) -> str:
    """Where a layer's result is looked at: as it is dequantized again, where nothing reads it before it is quantized.

    An activation that the range of an unsigned type does (``Relu``, ``Clip``) is often left out of quantized models.
    """
    value = next(v for node in model.graph for v in node.outputs if v.name == name)
    readers = consumers(value)
    if value.is_graph_output() or not readers or any(n.op_type != "QuantizeLinear" for n in readers):
        return name
    again = (n for n in consumers(readers[0].outputs[0]) if n.op_type == "DequantizeLinear")
    found = next(again, None)
    return name if found is None else str(found.outputs[0].name)


def split(model: ir.Model, values: Mapping[str, str]) -> ir.Model:
    """A copy of ``model`` whose outputs are ``values`` and where whatever reads one of them reads an input instead.

    So each of them is computed from given ones alone. ``values`` has the name of its input for each.
    """
    copy = model.clone()
    named = {str(v.name): v for node in copy.graph for v in node.outputs}
    for name, stand_in in values.items():
        value = named[name]
        given = ir.Value(name=stand_in, type=value.type, shape=value.shape)
        for same in _equal(value):
            same.replace_all_uses_with(given, replace_graph_outputs=True)
        copy.graph.inputs.append(given)
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(named[name] for name in values)
    return copy


def _equal(value: ir.Value) -> tuple[ir.Value, ...]:
    """The values that dequantize the same integers; exporters repeat DequantizeLinear for every reader."""
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear":
        return (value,)
    integers = node.inputs[0]
    assert integers is not None
    again = [n for n in consumers(integers) if n.op_type == node.op_type and n.inputs[1:] == node.inputs[1:]]
    return tuple(n.outputs[0] for n in again)


def _require_same(model: ir.Model, reference: ir.Model, side: Literal["inputs", "outputs"]) -> None:
    ours, theirs = ({str(v.name) for v in getattr(m.graph, side)} for m in (model, reference))
    if ours != theirs:
        raise UsageError(
            "reference-inputs" if side == "inputs" else "outputs-differ",
            where="layers",
            cause=f"{side} of the reference are {', '.join(sorted(theirs))}, of the model {', '.join(sorted(ours))}",
            fix="give the float model that the other was made from",
        )


def _fitting(feed: Feed, model: ir.Model) -> dict[str, Array]:
    """What ``model`` takes of ``feed``, in the element types that it takes."""
    types = {str(v.name): type_of(v).dtype.numpy for v in model.graph.inputs}
    return {n: np.asarray(feed[n]).astype(dtype, copy=False) for n, dtype in types.items()}


def _others(reference: ir.Model, names: Mapping[str, str]) -> Iterator[str]:
    for node in reference.graph:
        for v in node.outputs:
            if v.name and v.name not in names and has_type(v) and type_of(v).dtype.is_float and not is_constant(v):
                yield v.name
