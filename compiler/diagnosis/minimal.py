"""The smallest part of a graph that still goes wrong, as a model of its own with the inputs that show it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common
from tilewright.accuracy import Comparison
from tilewright.ir.graph import is_constant
from tilewright.passes.fusion.outline import inline_fused

Array = NDArray[Any]
Values = Mapping[str, Array]

#: How far back from the tensor that is off a part reaches, in nodes, as long as it does not go wrong by itself.
_DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 1 << 20)

#: The comparison that shows a part going wrong; ``None`` where it does not, or cannot be compiled.
Reproduces = Callable[[onnx.ModelProto, Values], Comparison | None]


@dataclass(frozen=True, slots=True)
class Minimal:
    """A part that goes wrong by itself, which was tried.

    Attributes:
        model, feed: as ONNX, and inputs that show it.
        comparison: how far it is off.
        reference: the part of the reference model beside it, where that is another one.
    """

    model: onnx.ModelProto
    feed: Values
    comparison: Comparison
    reference: onnx.ModelProto | None = None

    @property
    def nodes(self) -> int:
        """How many operators it has."""
        return len(self.model.graph.node)

    def save(self, folder: Path) -> list[Path]:
        """Write ``minimal.onnx`` and ``minimal.npz`` (and ``reference.onnx``) into ``folder``, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        models = {"minimal.onnx": self.model} | ({"reference.onnx": self.reference} if self.reference else {})
        for name, model in models.items():
            (folder / name).write_bytes(model.SerializeToString(deterministic=True))
        np.savez(folder / "minimal.npz", **{n: _plain(a) for n, a in self.feed.items()})  # type: ignore[arg-type]
        return [folder / name for name in (*models, "minimal.npz")]


def minimal(model: ir.Model, target: str, values: Values, reproduces: Reproduces) -> Minimal | None:
    """The smallest part of ``model`` that ends in ``target`` and goes wrong; ``None`` where not even all of it does.

    ``values`` are those of the whole, right ones: what the part reads is taken from them. Parts grow backwards.
    """
    tried = 0
    for depth in _DEPTHS:
        nodes = region(model, target, depth)
        if len(nodes) == tried:
            break
        tried = len(nodes)
        part, feed = extract(model, target, nodes, values)
        found = reproduces(part, feed)
        if found is not None:
            return Minimal(part, feed, found)
    return None


def region(model: ir.Model, target: str, depth: int, ends: Collection[str] = ()) -> list[ir.Node]:
    """Nodes at most ``depth`` before ``target``, in order, and not before values named in ``ends``.

    What makes sizes and axes (integers of one axis at most) is always in it: given as inputs they would be unknown.
    """
    named = _named(model)
    wave, chosen = {named[target]}, dict[ir.Node, None]()
    for _ in range(depth):
        nodes = [n for v in wave if (n := v.producer()) is not None and n not in chosen]
        if not nodes:
            break
        chosen |= dict.fromkeys(nodes)
        wave = {v for n in nodes for v in n.inputs if v is not None and v.name not in ends}
    shapes = [v for n in chosen for v in n.inputs if v is not None and _is_structure(v)]
    while shapes:
        node = shapes.pop().producer()
        if node is not None and node not in chosen:
            chosen[node] = None
            shapes += [v for v in node.inputs if v is not None and _is_structure(v)]
    return [n for n in model.graph if n in chosen]


def extract(
    model: ir.Model, target: str, nodes: Collection[ir.Node], values: Values
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """``nodes`` as a model with the output ``target``, fused operators taken apart, and the inputs that it reads.

    Sizes are those of ``values``.
    """
    chosen = {id(n) for n in nodes}
    keep = [id(n) in chosen for n in model.graph]
    copy = model.clone()
    copy.metadata_props.clear()
    feed: dict[str, Array] = {}
    inputs: dict[str, ir.Value] = {}
    kept = [n for n, k in zip(copy.graph, keep, strict=True) if k]
    made = {v for n in kept for v in n.outputs}
    for node in kept:
        for i, value in enumerate(node.inputs):
            if value is None or value in made or is_constant(value):
                continue
            name = str(value.name)
            if name not in inputs:
                feed[name] = values[name]
                shape = ir.Shape(values[name].shape)
                inputs[name] = value if value.is_graph_input() else ir.Value(name=name, type=value.type, shape=shape)
                inputs[name].shape = shape
            node.replace_input_with(i, inputs[name])
    result = _named(copy)[target]
    _keep_only(copy, kept, list(inputs.values()), result)
    inline_fused(copy)
    result = copy.graph.outputs[0]
    result.shape = ir.Shape(values[target].shape)
    common.RemoveUnusedFunctionsPass()(copy)  # type: ignore[no-untyped-call]
    common.RemoveUnusedOpsetsPass()(copy)
    proto = ir.to_proto(copy)
    del proto.graph.value_info[:]
    return proto, feed


def _keep_only(model: ir.Model, nodes: list[ir.Node], inputs: list[ir.Value], result: ir.Value) -> None:
    model.graph.outputs.clear()
    model.graph.inputs.clear()
    wanted = set(nodes)
    for node in reversed(list(model.graph)):
        if node not in wanted:
            for output in node.outputs:
                output.name = None  # an input of the part has it now
            model.graph.remove(node)
    model.graph.inputs.extend(inputs)
    model.graph.outputs.append(result)
    used = {v for n in nodes for v in n.inputs if v is not None}
    for name, value in list(model.graph.initializers.items()):
        if value not in used and value is not result:
            del model.graph.initializers[name]


def _named(model: ir.Model) -> dict[str, ir.Value]:
    return {str(v.name): v for v in _computed(model) if v.name}


def _computed(model: ir.Model) -> Iterator[ir.Value]:
    for node in model.graph:
        yield from node.outputs


def _is_structure(value: ir.Value) -> bool:
    """A computed integer tensor of at most one axis: a shape, an axis, a count."""
    short = value.shape is not None and len(value.shape) <= 1
    integral = value.dtype in (ir.DataType.INT64, ir.DataType.INT32)
    return short and integral and not is_constant(value) and not value.is_graph_input()


def _plain(array: Array) -> Array:
    """What a file of NumPy holds: for element types that NumPy lacks, the bits."""
    return array if array.dtype.isbuiltin == 1 else array.view(f"u{array.dtype.itemsize}")
