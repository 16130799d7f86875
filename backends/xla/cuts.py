"""Which weights of a region are cut over the devices of a mesh, and which activations are cut with them.

Found by structure, in one walk over the nodes. A product with a weight whose operand is whole is cut along its output
features, and the cut goes on with its result: through elementwise operators, views, products of heads, softmax. Where
it meets the contraction of another product with a weight, that weight is cut along the contraction, each device adds
its share and the sum is whole again: one all-reduce for attention (heads), one for feed-forward. Convolutions go the
same way, along channels. Where a cut cannot go on (a norm over the features, a size that cannot be divided, a residual
that has to stay whole), the weights that began it stay whole and the walk starts over without them: each start takes at
least one away, so it ends.

This is the scheme of Shoeybi et al., arXiv:1909.08053, found in the graph instead of written into the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
from tilewright.ir.graph import is_constant, type_of
from tilewright.ir.types import TensorType
from tilewright.passes.place import Region

#: Operators through which a constant is still a constant that can be cut: dequantization and views.
_CARRIES = ("DequantizeLinear", "Cast", "Identity", "Transpose")


@dataclass(frozen=True, slots=True)
class Along:
    """A value is cut along ``dim``, because of ``sources``: weights, or inputs of the region."""

    dim: int
    sources: frozenset[ir.Value]


@dataclass(frozen=True, slots=True)
class Cuts:
    """What is cut in ``count`` parts.

    Attributes:
        values: dimension of each activation, inputs of the region and its outputs among them.
        weights: dimension of each constant; those that are not there stay whole.
        whole: activations that come out whole where a cut ends: sums over devices.
        kept: why weights that could have been cut are not.
    """

    count: int
    values: Mapping[ir.Value, int] = field(default_factory=dict)
    weights: Mapping[ir.Value, int] = field(default_factory=dict)
    whole: tuple[ir.Value, ...] = ()
    kept: Mapping[ir.Value, str] = field(default_factory=dict)


class Impossible(Exception):
    """A cut cannot go on; ``sources`` began it."""

    def __init__(self, sources: Iterable[ir.Value], reason: str):
        super().__init__(reason)
        self.sources, self.reason = frozenset(sources), reason


class Wanted(Exception):
    """An input of the region has to be cut as well."""

    def __init__(self, value: ir.Value, along: Along):
        super().__init__()
        self.value, self.along = value, along


def cuts_of(region: Region, count: int) -> Cuts:
    """The cuts of a region over ``count`` devices."""
    kept: dict[ir.Value, str] = {}
    given: dict[ir.Value, Along] = {}
    ancestors = _Ancestors(region)
    while True:
        walk = Walk(region, count, kept, given, ancestors)
        try:
            return walk.run()
        except Impossible as error:
            kept |= dict.fromkeys(error.sources, error.reason)
            given = {v: a for v, a in given.items() if not a.sources & error.sources}
        except Wanted as wanted:
            given[wanted.value] = wanted.along


class _Ancestors:
    """Whether a value is computed from another; remembered."""

    def __init__(self, region: Region):
        self.inside = frozenset(region.nodes)
        self.known: dict[ir.Value, frozenset[ir.Value]] = {}

    def computes(self, value: ir.Value, other: ir.Value) -> bool:
        """Whether ``other`` is computed from ``value``."""
        return value in self._of(other)

    def _of(self, value: ir.Value) -> frozenset[ir.Value]:
        if value not in self.known:
            seen: set[ir.Value] = set()
            waiting = [value]
            while waiting:
                node = waiting.pop().producer()
                if node is not None and node in self.inside:
                    new = [v for v in node.inputs if v is not None and v not in seen]
                    seen.update(new)
                    waiting += new
            self.known[value] = frozenset(seen)
        return self.known[value]


class Walk:
    """One walk over a region."""

    def __init__(
        self,
        region: Region,
        count: int,
        kept: Mapping[ir.Value, str],
        given: Mapping[ir.Value, Along],
        ancestors: _Ancestors,
    ):
        self.region, self.count, self.kept, self.ancestors = region, count, kept, ancestors
        self.values: dict[ir.Value, Along] = dict(given)
        self.weights: dict[ir.Value, int] = {}
        self.mixed: set[ir.Value] = set()
        self.whole: list[ir.Value] = []
        self.fixed: set[ir.Value] = set()

    def run(self) -> Cuts:
        """Raises :class:`Impossible` and :class:`Wanted`."""
        from tilewright.backends.xla.cut_rules import find_cut_rule

        for node in self.region.nodes:
            if all(v is None or self.is_fixed(v) for v in node.inputs) and node.op_type in _CARRIES:
                self.fixed.update(node.outputs)
                continue
            step = Step(self, node)
            rule: Callable[[Step], None] = find_cut_rule(node)
            rule(step)
        values = {v: a.dim for v, a in self.values.items()}
        weights = {v: d for v, d in self.weights.items() if v not in self.mixed}
        return Cuts(self.count, values, weights, tuple(self.whole), dict(self.kept))

    def is_fixed(self, value: ir.Value) -> bool:
        """Whether a value is a constant, or one that was only dequantized or turned."""
        return is_constant(value) or value in self.fixed

    def root(self, value: ir.Value) -> ir.Value:
        """The constant that a fixed value is made of."""
        while (node := value.producer()) is not None and value in self.fixed:
            assert node.inputs[0] is not None
            value = node.inputs[0]
        return value

    def cut_weight(self, value: ir.Value, dim: int) -> None:
        """Cut a fixed value along ``dim``, where its size can be divided; a constant that is wanted in two ways stays
        whole (each device then takes its part of the whole)."""
        size = type_of(value).shape[dim]
        if not size.is_constant or size.value % self.count:
            return
        node = value.producer()
        if not is_constant(value) and node is not None:
            self._carried(node, dim)
        elif self.weights.setdefault(value, dim) != dim:
            self.mixed.add(value)

    def _carried(self, node: ir.Node, dim: int) -> None:
        source = node.inputs[0]
        assert source is not None
        if node.op_type == "Transpose":
            order = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
            self.cut_weight(source, order[dim] if order else type_of(source).rank - 1 - dim)
            return
        self.cut_weight(source, dim)
        rank = type_of(source).rank
        axis = node.attributes["axis"].as_int() % rank if "axis" in node.attributes else 1
        for scale in (v for v in node.inputs[1:] if v is not None and node.op_type == "DequantizeLinear"):
            if type_of(scale).rank == rank:
                self.cut_weight(scale, dim)
            elif type_of(scale).rank == 1 and axis == dim:
                self.cut_weight(scale, 0)


class Step:
    """A node of a walk, as a rule sees it."""

    def __init__(self, walk: Walk, node: ir.Node):
        self.walk, self.node, self.count = walk, node, walk.count

    @property
    def inputs(self) -> Sequence[ir.Value | None]:
        """Inputs, ``None`` where one is left out."""
        return self.node.inputs

    def value(self, index: int) -> ir.Value | None:
        """An input, or ``None``."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def cut(self, index: int) -> Along | None:
        """How an input is cut; ``None``: it is whole."""
        value = self.value(index)
        return None if value is None else self.walk.values.get(value)

    def type(self, index: int) -> TensorType:
        """The type of an input that is there."""
        value = self.node.inputs[index]
        assert value is not None
        return type_of(value)

    def result(self, output: int = 0) -> TensorType:
        """The type of an output."""
        return type_of(self.node.outputs[output])

    def is_fixed(self, index: int) -> bool:
        """Whether an input is there, and a weight."""
        value = self.value(index)
        return value is not None and self.walk.is_fixed(value)

    def any_cut(self) -> frozenset[ir.Value]:
        """What began the cuts of all inputs; empty where all are whole."""
        return frozenset().union(*(a.sources for i in range(len(self.inputs)) if (a := self.cut(i)) is not None))

    def divides(self, size: int) -> bool:
        """Whether ``size`` can be cut."""
        return size % self.count == 0

    def passes(self, dim: int, sources: frozenset[ir.Value], output: int = 0) -> None:
        """An output is cut along ``dim``."""
        value = self.node.outputs[output]
        size = type_of(value).shape[dim]
        if not size.is_constant or not self.divides(size.value):
            self.fails(sources, f"{size} of {value.name!r} cannot be divided by {self.count}")
        self.walk.values[value] = Along(dim, sources)

    def ends(self, output: int = 0) -> None:
        """An output is whole again: a sum over devices."""
        self.walk.whole.append(self.node.outputs[output])

    def begins(self, weight: int, dim: int, output_dim: int) -> None:
        """A cut that begins here: a weight along ``dim``, the output along ``output_dim``; nothing where that failed
        before."""
        value = self.node.inputs[weight]
        assert value is not None
        root = self.walk.root(value)
        if root in self.walk.kept:
            return
        size = type_of(value).shape[dim].value
        if not self.divides(size):
            self.fails([root], f"{size} {'features' if dim else 'rows'} cannot be divided by {self.count}")
        self.walk.cut_weight(value, dim)
        self.passes(output_dim, frozenset([root]))

    def cut_weight(self, index: int, dim: int) -> None:
        """Cut a weight as its operand is."""
        value = self.node.inputs[index]
        assert value is not None
        self.walk.cut_weight(value, dim)

    def follow(self, index: int, dim: int, sources: frozenset[ir.Value]) -> None:
        """An input that is whole meets another that is cut: its part is taken, of an input of the region only that part
        is given."""
        value = self.node.inputs[index]
        if value is None:
            return
        if self.walk.is_fixed(value):
            self.walk.cut_weight(value, dim)
        elif value in self.walk.region.inputs:
            size = type_of(value).shape[dim]
            if size.is_constant and self.divides(size.value):
                raise Wanted(value, Along(dim, sources))

    def fails(self, sources: Iterable[ir.Value], reason: str) -> None:
        """Raise :class:`Impossible`."""
        raise Impossible(sources, reason)

    def whole(self, reason: str = "") -> None:
        """Every input has to be whole."""
        if sources := self.any_cut():
            node = f"{self.node.op_type} {self.node.name!r}"
            self.fails(sources, f"{node} needs its operand whole{': ' + reason if reason else ''}")
