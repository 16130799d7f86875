"""One node of a graph on its way into GE: what its form reads of it and adds to the graph that is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from tilewright.backends.ascend.graph_route.ge_graph import GeGraph, Ref
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.ir.types import DType, TensorType


class Unmapped(Exception):
    """A node that has no form in GE here; the text is the reason."""


class Site:
    """One node, and the graph that its form goes into."""

    def __init__(self, graph: GeGraph, node: ir.Node, value: Callable[[ir.Value], Ref]):
        self.graph, self.node, self._value = graph, node, value
        self.outputs = [type_of(o) for o in node.outputs if o.name]
        self.name = str(node.name or node.outputs[0].name)

    @property
    def type(self) -> TensorType:
        """Of the first output."""
        return self.outputs[0]

    def given(self, index: int) -> bool:
        """Whether the node has an input there."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def input(self, index: int) -> Ref:
        """What an input is in GE."""
        value = self.node.inputs[index]
        assert value is not None
        return self._value(value)

    def optional(self, index: int) -> Ref | None:
        return self.input(index) if self.given(index) else None

    def typed(self, index: int) -> TensorType:
        """The type of an input."""
        value = self.node.inputs[index]
        assert value is not None
        return type_of(value)

    def elements(self, index: int, what: str) -> list[int]:
        """The integers in an input that has to be a constant."""
        value = self.node.inputs[index]
        assert value is not None
        if not is_constant(value):
            raise Unmapped(f"its {what} are computed while it runs, and GE has them in an attribute")
        return [int(n) for n in constant_array(value).reshape(-1)]

    def attribute(self, name: str, default: Any) -> Any:
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def ints(self, values: Sequence[int], dtype: DType = DType.I64) -> Ref:
        return self.graph.constant(np.array(values, dtype.numpy), f"{self.name}/constant")

    def scalar(self, value: float, dtype: DType) -> Ref:
        return self.graph.constant(np.array(value, dtype.numpy), f"{self.name}/constant")

    def add(self, operator: str, inputs: Mapping[str, Any], layout: str = "ND", **attributes: Any) -> list[Ref]:
        """The last operator of a node, whose outputs are the node's."""
        return self.graph.add(operator, self.name, inputs, self.outputs, attributes, layout)

    def inner(self, operator: str, inputs: Mapping[str, Any], type_: TensorType, **attributes: Any) -> Ref:
        """An operator before the last."""
        return self.graph.add(operator, f"{self.name}/{operator}", inputs, [type_], attributes)[0]


#: What GE's operators make of one operator of a graph: the outputs of a node.
Form = Callable[[Site], list[Ref]]
