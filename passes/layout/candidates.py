"""The values that may lie in memory in two ways: channels before the image, or after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from tilewright.ir.facts import facts
from tilewright.ir.graph import has_type, is_constant, type_of
from tilewright.ir.late import is_late
from tilewright.ir.layout import Layout
from tilewright.ir.ranges import POSITIVE_INFINITY, Range
from tilewright.ir.symbolic import product
from tilewright.ops.steps import program_of
from tilewright.passes.layout.channels import Key

#: Labels: where the channels are.
FIRST, LAST = 0, 1

#: What an open size is taken for when layouts are weighed against each other; limits of the model come first.
_NOMINAL = 16


@dataclass(frozen=True, slots=True)
class Candidate:
    """A value with channels in axis ``channel``, which is 1 or the last; ``size`` in bytes at nominal sizes."""

    value: ir.Value
    channel: int
    size: float
    channels: float

    @property
    def rank(self) -> int:
        """Axes of the value."""
        return type_of(self.value).rank

    @property
    def plain(self) -> int:
        """The label that is the value's own order of axes."""
        return FIRST if self.channel == 1 else LAST

    def layout(self, label: int) -> Layout:
        """The layout of a label."""
        others = [d for d in range(1, self.rank) if d != self.channel]
        return Layout((0, self.channel, *others) if label == FIRST else (0, *others, self.channel))


def find_candidates(model: ir.Model, channels: Mapping[Key, int]) -> dict[ir.Value, Candidate]:
    """Every value of the graph whose two layouts differ in memory: inputs, weights, what is computed."""
    known = facts(model)
    fixed = _fixed(model)
    found: dict[ir.Value, Candidate] = {}
    given = (*model.graph.inputs, *model.graph.initializers.values())
    for value in (*given, *(o for n in model.graph for o in n.outputs)):
        channel = channels.get((None, value))
        if (
            channel is None
            or value in fixed
            or not has_type(value)
            or (is_constant(value) and not value.is_initializer())
        ):
            continue
        shape = type_of(value).shape
        if len(shape) < 3 or channel not in (1, len(shape) - 1):
            continue
        if shape[channel] == 1 or all(s == 1 for d, s in enumerate(shape) if d not in (0, channel)):
            continue  # one order in memory, whatever its name
        sizes = {s: _nominal(known.get(s, Range(1))) for s in product(shape).symbols}
        size = type_of(value).dtype.numpy.itemsize * product(shape).evaluate(sizes)
        wide = shape[channel].evaluate({s: sizes.get(s, _NOMINAL) for s in shape[channel].symbols})
        found[value] = Candidate(value, channel, float(size), float(wide))
    return found


def _fixed(model: ir.Model) -> set[ir.Value]:
    """Values that lie in their own order: routines read and write them, or operators whose shapes a run tells."""
    nodes = [n for n in model.graph if is_late(n) or program_of(n) is not None]
    return {v for n in nodes for v in (*n.inputs, *n.outputs) if v is not None}


def _nominal(known: Range) -> int:
    lo = max(1, known.lo)
    return max(lo, min(_NOMINAL, known.hi if known.hi < POSITIVE_INFINITY else _NOMINAL))
