"""Inputs for a graph that is no artifact yet: those that were given, checked, or made up from its signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray
from tilewright import sample
from tilewright.errors import UsageError
from tilewright.ir.facts import DEFAULT_RANGE, facts
from tilewright.ir.graph import type_of

Array = NDArray[Any]
Feed = Mapping[str, Array]


def signature(model: ir.Model) -> list[sample.Input]:
    """The inputs of a graph."""
    found = [(str(v.name), type_of(v)) for v in model.graph.inputs if v.name not in model.graph.initializers]
    return [sample.Input(n, t.dtype.numpy, tuple(map(str, t.shape))) for n, t in found]


def made_up(model: ir.Model, shapes: Mapping[str, Sequence[int]], count: int = 2) -> list[dict[str, Array]]:
    """At most two samples of unequal sizes within the bounds of ``model``; ``shapes`` binds those of some inputs."""
    inputs, known = signature(model), facts(model)
    bound = sample.bind(inputs, shapes)
    samples = []
    for seed, sizes in enumerate(sample.SAMPLES[:count]):
        free = {}
        for i, symbol in enumerate(sample.symbols_of(inputs)):
            r = known.get(symbol, DEFAULT_RANGE)
            free[symbol] = sample.within(sizes[i % len(sizes)], r.lo, r.hi, r.divisor)
        samples.append(sample.make_inputs(inputs, free | bound, seed))
    return samples


def require_fitting(model: ir.Model, feeds: Sequence[Feed], where: str) -> None:
    """Raise :class:`UsageError` for samples whose names, element types or ranks are not those of the inputs."""
    inputs = {i.name: i for i in signature(model)}
    for feed in feeds:
        if set(feed) != set(inputs):
            cause = f"the data has {', '.join(sorted(feed)) or 'nothing'}, the inputs are {', '.join(sorted(inputs))}"
            fix = "give an array for each input, by its name"
            raise UsageError("data-names", where=where, cause=cause, fix=fix)
        sample.bind(list(inputs.values()), {name: array.shape for name, array in feed.items()})
        for name, array in feed.items():
            if array.dtype != inputs[name].dtype:
                cause = f"the data has {array.dtype}, the input is {inputs[name].dtype}"
                fix = "give arrays of the inputs' element types"
                raise UsageError("data-type", where=f"{where}, {name!r}", cause=cause, fix=fix)
