"""Which tensors become integers, from what a target's kernels absorb; nobody is asked where to put Q and DQ.

A contraction reads integers: what its constant weights are multiplied with is quantized, by one QuantizeLinear where it
is computed, with a DequantizeLinear at each reader. What else stays in integers follows:

- A residual sum or a pool takes integers and gives integers where its result is quantized and all who read it can take
  integers. Then a residual stream is kept as 8 bits; where a norm reads it (transformers), it stays f32.
- One operand of such a sum comes straight from the accumulator of the contraction that is computed last, as f32: the
  contraction's kernel takes the sum on its way out.
- What moves integers unchanged (a maximum over windows, a change of shape) shares scale and zero point with what it
  reads, and takes part only behind what yields integers by itself: after a norm or an attention it is the result that
  is quantized.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import onnx_ir as ir
from tilewright.ir.graph import constant_tensor, consumers, only_consumer
from tilewright.ir.late import is_late
from tilewright.passes.elementwise import ELEMENTWISE
from tilewright.passes.quantize.base import Capability
from tilewright.passes.quantize.contractions import CONTRACTIONS, Contraction, contractions, obstacle


@dataclass(frozen=True, slots=True)
class Quantized:
    """A tensor that is quantized: by whom its integers are read, and which others have the same encoding."""

    value: ir.Value
    readers: tuple[ir.Node, ...]
    group: int


@dataclass(frozen=True, slots=True)
class Placement:
    """What is quantized.

    Attributes:
        layers: the contractions, in order.
        refused: why other contractions are not, by node.
        tensors: in the order of computation.
    """

    layers: tuple[Contraction, ...]
    refused: dict[ir.Node, str]
    tensors: tuple[Quantized, ...]


def place(model: ir.Model, capability: Capability, layers: Collection[str] | None = None) -> Placement:
    """Where ``model`` (canonical) is quantized with static ranges.

    Args:
        model: the graph; it is not changed.
        capability: of the target.
        layers: names of contractions that may be quantized; ``None`` is all.
    """
    refused = {n: why for n in contractions(model) if (why := obstacle(n, capability.static, layers))}
    chosen = [Contraction(n) for n in contractions(model) if n not in refused]
    search = _Search(model, capability, {c.node for c in chosen})
    search.settle()
    return Placement(tuple(chosen), refused, tuple(search.tensors()))


class _Search:
    """The operators that stay in integers: all that could, less those that a rule takes out, until none is."""

    def __init__(self, model: ir.Model, capability: Capability, chosen: set[ir.Node]):
        self.model, self.chosen = model, chosen
        self.position = {n: i for i, n in enumerate(model.graph)}
        # A contraction that was not chosen can read what is quantized for others, as DequantizeLinear gives it.
        self.able = {n for n in contractions(model) if not obstacle(n, capability.static, None)}
        self.results: dict[ir.Node, ir.Value] = {n: _result(n) for n in self.able}
        inside = {v.producer() for n in self.able for v in _chain(n)}
        movers = [n for n in model.graph if n.op_type not in CONTRACTIONS and _moves(n, capability)]
        self.integer: set[ir.Node] = set()
        for node in movers:
            if node in inside:
                continue
            self.results[node] = node.outputs[0]
            if node.op_type in capability.static:
                self.results[node] = _result(node)
                inside |= {v.producer() for v in _chain(node)}
            self.integer.add(node)
        self.passing = {n for n in self.integer if n.op_type not in capability.static}

    def settle(self) -> None:
        """Take out operators until the rules hold for all that are left."""
        changed = True
        while changed:
            out = {n for n in self.integer if not self._stays(n)}
            self.integer -= out
            changed = bool(out)

    def tensors(self) -> Iterable[Quantized]:
        """What is quantized, once the rules hold."""
        direct = {v for n in self.integer if n.op_type == "Add" and (v := self._from_accumulator(n)) is not None}
        wanted = {_activations(n)[0] for n in self.chosen}
        wanted |= {v for n in self.integer for v in _activations(n)} - direct
        groups = _Groups(wanted)
        for node in self.passing & self.integer:
            groups.join([*_activations(node), node.outputs[0]])
        for value in sorted(wanted, key=self._place):
            yield Quantized(value, tuple(n for n in consumers(value) if self._accepts(n, value)), groups.of(value))

    def _stays(self, node: ir.Node) -> bool:
        result = self.results[node]
        if not self._quantized(result) or not self._all_accept(result):
            return False
        sources = _activations(node)
        if not all(self._quantized(v) for v in sources):
            return False
        return node not in self.passing or all(self._yields_integers(v) for v in sources)

    def _quantized(self, value: ir.Value) -> bool:
        """True when a chosen contraction reads ``value``, or all who read it take integers and one asks for them."""
        readers = consumers(value)
        if any(n in self.chosen and n.inputs[0] is value for n in readers):
            return True
        return self._all_accept(value) and any(n in self.integer for n in readers)

    def _all_accept(self, value: ir.Value) -> bool:
        return not value.is_graph_output() and all(self._accepts(n, value) for n in consumers(value))

    def _accepts(self, node: ir.Node, value: ir.Value) -> bool:
        return node in self.integer or (node in self.able and node.inputs[0] is value)

    def _yields_integers(self, value: ir.Value) -> bool:
        """True for a result of a contraction or of an operator that stays in integers, and for inputs of the graph."""
        if value.is_graph_input():
            return True
        return any(value is self.results[n] for n in (*self.able, *self.integer))

    def _from_accumulator(self, add: ir.Node) -> ir.Value | None:
        """The operand of a sum that a contraction's kernel holds in its accumulator: of the last one."""
        ready = [
            (self.position[n], v)
            for v in _activations(add)
            for n in self.able
            if self.results[n] is v and only_consumer(v) is add
        ]
        return max(ready, key=lambda pair: pair[0])[1] if ready else None

    def _place(self, value: ir.Value) -> tuple[int, int]:
        producer = value.producer()
        if producer is None:
            return -1, list(self.model.graph.inputs).index(value)
        return self.position[producer], producer.outputs.index(value)


class _Groups:
    """Tensors that share an encoding, as sets that are joined; only tensors that are quantized take part."""

    def __init__(self, values: Collection[ir.Value]):
        self._head = {v: v for v in values}
        self._numbers: dict[ir.Value, int] = {}

    def join(self, values: Iterable[ir.Value]) -> None:
        """Let ``values`` share one."""
        heads = [self._find(v) for v in values if v in self._head]
        for head in heads[1:]:
            self._head[head] = heads[0]
            heads[0] = self._find(heads[0])

    def of(self, value: ir.Value) -> int:
        """The number of the group of ``value``, in the order of asking."""
        return self._numbers.setdefault(self._find(value), len(self._numbers))

    def _find(self, value: ir.Value) -> ir.Value:
        while self._head[value] is not value:
            value = self._head[value]
        return value


def _moves(node: ir.Node, capability: Capability) -> bool:
    """True when ``node`` may stay in integers: absorbed, one f32 result, and something f32 that is computed to read."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in capability.static | capability.passing:
        return False
    if len([v for v in node.outputs if v.uses() or v.is_graph_output()]) != 1 or is_late(node):
        return False
    floats = [v for v in node.inputs if v is not None and v.dtype == ir.DataType.FLOAT]
    constants = [v for v in floats if constant_tensor(v) is not None]
    return node.outputs[0].dtype == ir.DataType.FLOAT and bool(floats) and not constants


def _activations(node: ir.Node) -> list[ir.Value]:
    """What ``node`` reads that is f32 and computed."""
    found = [v for v in node.inputs if v is not None and v.dtype == ir.DataType.FLOAT and constant_tensor(v) is None]
    return list(dict.fromkeys(found))


def _chain(node: ir.Node) -> list[ir.Value]:
    """Results of the elementwise operators behind ``node`` that read constants besides, one after the other."""
    values: list[ir.Value] = []
    value = node.outputs[0]
    while True:
        reader = only_consumer(value)
        if reader is None or reader.domain not in ("", "ai.onnx") or reader.op_type not in ELEMENTWISE:
            return values
        result = reader.outputs[0]
        if _activations(reader) != [value] or result.dtype != ir.DataType.FLOAT or result.shape != value.shape:
            return values
        values.append(result)
        value = result


def _result(node: ir.Node) -> ir.Value:
    """What a kernel writes that takes the elementwise operators behind ``node``."""
    return (_chain(node) or [node.outputs[0]])[-1]
