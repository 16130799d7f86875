"""``assign-layouts``: chooses for each value with channels whether memory holds them first or last.

    FusedConv(x: [B,64,56,56], …) → y: [B,64,56,56]   →   FusedConv(x': [B,56,56,64], …) → y': [B,56,56,64]

The body of a node that reads or writes a value in another layout than its operators mean begins or ends with a
Transpose, which lowering takes into its index functions: no kernel comes of it. Only where a writer and a reader want
different layouts, and it is cheaper than to go across memory in either, a Transpose of the graph stands between them.
The choice is a minimum cut (:mod:`tilewright.passes.layout.choice`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import FUSED_DOMAIN, body_of, constant_array, is_constant, set_type, type_of
from tilewright.ir.layout import Layout, set_layout
from tilewright.ir.types import TensorType
from tilewright.ops.infer import infer_node
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.fusion.outline import rearranged
from tilewright.passes.layout.candidates import FIRST, LAST, Candidate, find_candidates
from tilewright.passes.layout.channels import find_channels
from tilewright.passes.layout.cost import LayoutCost, Traffic
from tilewright.passes.layout.problem import MEMORY, build_choice, candidate_inputs, made, read, renames_only
from tilewright.passes.rewrite import Rewriter
from tilewright.passes.views import view

#: Labels in the names of values.
_TOLD = {FIRST: "channels_first", LAST: "channels_last"}


@dataclass(slots=True)
class AssignLayouts(Pass):
    """Convolutions and pools read and write rows of channels; what lies between them follows."""

    name: ClassVar[str] = "assign-layouts"
    #: What layouts cost on the target; without one, :class:`Traffic`.
    cost: LayoutCost | None = None

    def run(self, model: ir.Model) -> PassResult:
        candidates = find_candidates(model, find_channels(model))
        labels = build_choice(model, candidates, self.cost or Traffic()).solve() if candidates else {}
        plain = {made(v): c.plain for v, c in candidates.items()}
        plain |= {read(v, n): candidates[v].plain for n in model.graph for v in candidate_inputs(n, candidates)}
        if all(labels.get(port, label) == label for port, label in plain.items()):
            return PassResult(False)
        return PassResult(True, _Assignment(model, candidates, labels).apply())


class _Assignment:
    """Puts chosen labels into the graph, in order of computation; what lies in memory takes the place of values."""

    def __init__(self, model: ir.Model, candidates: Mapping[ir.Value, Candidate], labels: Mapping[Hashable, int]):
        self.model, self.candidates, self.labels = model, candidates, labels
        self.rewriter = Rewriter(model)
        self.misses: list[Miss] = []
        self.names = {v: v.name for v in candidates}
        #: By candidate and label: the value that lies in memory so.
        self.memory = {(v, c.plain): v for v, c in candidates.items() if v.producer() is None}

    def apply(self) -> list[Miss]:
        replaced = [node for node in list(self.model.graph) if self._node(node)]
        for value in [v for v in self.candidates if v.is_graph_output() or v.uses()]:
            if value.is_graph_output() or any(use.node.graph is not self.model.graph for use in value.uses()):
                self._as_before(value)
        self.model.graph.remove(replaced, safe=True)
        for value in self.candidates:
            if is_constant(value) and not value.uses() and not value.is_graph_output():
                self.model.graph.initializers.pop(value.name or "")
        used = {n.op_identifier() for n in self.model.graph}
        for identifier in [i for i in self.model.functions if i[0] == FUSED_DOMAIN and i not in used]:
            del self.model.functions[identifier]
        return self.misses

    def _node(self, node: ir.Node) -> bool:
        """Give one node its layouts; True when another one has taken its place."""
        outs = [v for v in node.outputs if v in self.candidates]
        if self._is_name(node):
            self.memory[outs[0], self._made(outs[0])] = self._named(node)
            return True
        reads = {v: self._layout(v, node) for v in candidate_inputs(node, self.candidates)}
        writes = {v: self._layout(v) for v in outs}
        for position, value in enumerate(node.inputs):
            if value is not None and value in reads:
                node.replace_input_with(position, self._lying(value, self._read(value, node), node))
        if all(layout.is_identity for layout in (*reads.values(), *writes.values())):
            self.memory |= {(v, self._made(v)): v for v in outs}
            return False
        new = rearranged(
            self.rewriter,
            node,
            {self._lying(v, self._read(v, node), node): layout for v, layout in reads.items()},
            writes,
        )
        for old, value in zip(node.outputs, new.outputs, strict=True):
            if old in writes:
                self._name(value, old)
                set_layout(value, writes[old])
                self.memory[old, self._made(old)] = value
            else:
                value.name, old.name = old.name, self.rewriter.unique(f"{old.name}_before")
                old.replace_all_uses_with(value, replace_graph_outputs=True)
        return True

    # -- labels and layouts ------------------------------------------------------------------------------------------

    def _made(self, value: ir.Value) -> int:
        return self.labels[made(value)]

    def _read(self, value: ir.Value, node: ir.Node) -> int:
        return self.labels[read(value, node)]

    def _layout(self, value: ir.Value, node: ir.Node | None = None) -> Layout:
        return self.candidates[value].layout(self._made(value) if node is None else self._read(value, node))

    def _name(self, new: ir.Value, old: ir.Value) -> None:
        """A name that tells the layout; that of the value itself where it lies as before."""
        label = self._made(old)
        if label == self.candidates[old].plain:
            new.name, old.name = old.name, self.rewriter.unique(f"{old.name}_before")
        else:
            new.name = self.rewriter.unique(f"{old.name}_{_TOLD[label]}")

    # -- memory ------------------------------------------------------------------------------------------------------

    def _lying(self, value: ir.Value, label: int, before: ir.Node | None) -> ir.Value:
        """``value`` as it lies in memory under ``label``; where it does not yet, by a Transpose of the graph."""
        found = self.memory.get((value, label))
        if found is not None:
            return found
        source, target = self._layout(value), self.candidates[value].layout(label)
        perm = target.of(source.inverse.order)
        if is_constant(value):
            array = np.ascontiguousarray(constant_array(value).transpose(perm))
            self.memory[value, label] = converted = self.rewriter.constant(array, f"{value.name}_{_TOLD[label]}")
            return converted
        converted = self._transpose(self.memory[value, self._made(value)], perm, before)
        converted.name = self.rewriter.unique(f"{value.name}_{_TOLD[label]}")
        set_layout(converted, target)
        self.memory[value, label] = converted
        reader = "it is an output of the model" if before is None else f"{before.op_type} reads it otherwise"
        self.misses.append(Miss(f"{value.name}", f"converted ({type_of(value)}): {reader}"))
        return converted

    def _transpose(self, x: ir.Value, perm: tuple[int, ...], before: ir.Node | None) -> ir.Value:
        node = ir.Node("", "Transpose", [x], [ir.AttrInt64s("perm", perm)])
        if before is None:
            self.model.graph.append(node)
        else:
            before.prepend(node)
        infer_node(self.model, node)
        return node.outputs[0]

    def _as_before(self, value: ir.Value) -> None:
        """Outputs of the model and readers in other graphs see what they saw."""
        new = self._lying(value, self.candidates[value].plain, None)
        if new is not value:
            if new.name != self.names[value]:
                new.name, value.name = self.names[value], self.rewriter.unique(f"{value.name}_before")
            value.replace_all_uses_with(new, replace_graph_outputs=True)

    # -- other names for the same memory -------------------------------------------------------------------------------

    def _is_name(self, node: ir.Node) -> bool:
        """Whether the node moves nothing under the chosen labels, but is written for other layouts."""
        if body_of(self.model, node) is not None or node.op_type not in MEMORY | {"Transpose"}:
            return False
        x, y = node.inputs[0], node.outputs[0]
        if x is None or x not in self.candidates or y not in self.candidates or self._read(x, node) != self._made(y):
            return False
        if node.op_type == "Transpose":
            return renames_only(node, self.candidates[x], self.candidates[y])
        return not self._layout(y).is_identity

    def _named(self, node: ir.Node) -> ir.Value:
        x, y = node.inputs[0], node.outputs[0]
        assert x is not None
        source = self._lying(x, self._read(x, node), node)
        shape = self._layout(y).of(type_of(y).shape)
        if node.op_type == "Transpose" or shape == type_of(source).shape:
            new = self.rewriter.new("Identity", [source], before=node)
        else:
            found = view(self.rewriter, source, shape, before=node)
            assert found is not None, "keeps_memory has asked"
            new = found
        self._name(new, y)
        set_type(new, TensorType(type_of(y).dtype, shape))
        set_layout(new, self._layout(y))
        return new
