"""Are two graphs the same up to names? Operators, attributes, topology and constants by value."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.passes.match import COMMUTATIVE

#: Significant digits of constants: scales that exporters multiply in other orders differ in the last bit.
_DIGITS = 5

Key = tuple[Any, ...]


def same_structure(a: ir.Model, b: ir.Model, *, same_constants: dict[float, float] | None = None) -> list[str]:
    """What is in one graph and not in the other; empty when they are isomorphic.

    ``same_constants`` maps scalar constants to what they are taken for, for differences that a test is to leave out.
    """
    left, right = (_Keys(m, same_constants or {}) for m in (a, b))
    return [
        f"{sign} {left.text(key)} ×{count}"
        for sign, counts in (("-", left.nodes - right.nodes), ("+", right.nodes - left.nodes))
        for key, count in sorted(counts.items(), key=repr)
    ] + ([] if left.outputs == right.outputs else ["the outputs are computed differently"])


class _Keys:
    """A number for each distinct expression of a graph, the same in every graph."""

    _numbers: ClassVar[dict[Key, int]] = {}

    def __init__(self, model: ir.Model, same_constants: dict[float, float]):
        self.model = model
        self._same = same_constants
        self._found: dict[ir.Value, int] = {v: self._number(("input", i)) for i, v in enumerate(model.graph.inputs)}
        self.nodes = Counter(self._node(n) for n in model.graph)
        self.outputs = [self._value(v) for v in model.graph.outputs]

    def text(self, number: int) -> str:
        """One expression, its operands as numbers."""
        return str(next(k for k, n in self._numbers.items() if n == number))[:200]

    def _number(self, key: Key) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def _node(self, node: ir.Node) -> int:
        inputs = [None if v is None else self._value(v) for v in node.inputs]
        if node.op_type in COMMUTATIVE:
            inputs.sort(key=repr)
        number = self._number((node.op_type, node.domain, _attributes(node), tuple(inputs), len(node.outputs)))
        for i, output in enumerate(node.outputs):
            self._found[output] = number if i == 0 else self._number(("output", number, i))
        return number

    def _value(self, value: ir.Value) -> int:
        if value not in self._found:
            assert is_constant(value), value.name
            array = constant_array(value)
            if array.dtype.kind == "f":
                if array.size == 1:
                    number = array.reshape(-1)[0].item()
                    array = np.full(array.shape, self._same.get(number, number), array.dtype)
                array = np.array([f"{x:.{_DIGITS - 1}e}" for x in array.reshape(-1)]).reshape(array.shape)
            self._found[value] = self._number(("constant", array.shape, array.tobytes()))
        return self._found[value]


def _attributes(node: ir.Node) -> str:
    """Attributes without those that say what the operator does anyway; axes counted from the front."""
    schema = onnx.defs.get_schema(node.op_type, 24, node.domain)
    found: dict[str, str] = {}
    for name, attribute in node.attributes.items():
        default = schema.attributes[name].default_value
        value = attribute.value
        if default.type and onnx.helper.get_attribute_value(default) in (value, str(value).encode()):
            continue
        if name == "axis" and node.inputs[0] is not None:
            value = attribute.as_int() % type_of(node.inputs[0]).rank
        found[name] = f"{value:.4e}" if isinstance(value, float) else str(value)
    return str(sorted(found.items()))
