"""The states that a graph goes through while it is compiled, and their numbers by the definition of ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright import driver, rounding
from tilewright.accuracy import Comparison, compare
from tilewright.entries import Model
from tilewright.errors import InternalError, UsageError
from tilewright.observe import Stopped
from tilewright.options import Observation, Options

Array = NDArray[Any]
Values = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class State:
    """A graph after a stage or pass that changed it. ``name`` is of that: ``import``, ``fuse-attention`` …"""

    name: str
    graph: ir.Model


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a tensor may be from its reference: ``tolerance`` (``None``: by element type), or a least cosine.

    ``steps`` is what the rounding of a quantized model does to each tensor by name: a ``tolerance`` that is not given
    is no less.
    """

    tolerance: float | None = None
    minimum: float | None = None
    steps: Mapping[str, float] = field(default_factory=dict)

    def compare(self, name: str, got: Array, want: Array) -> Comparison:
        """A tensor beside its reference; a float of another width is compared as the reference's."""
        if got.dtype != want.dtype and {got.dtype.kind, want.dtype.kind} <= {"f", "V"}:
            got = got.astype(want.dtype)
        tolerance = self.tolerance
        if tolerance is None and self.steps:
            tolerance = self.steps.get(name, max(self.steps.values()))
        return compare(name, got, want, tolerance, self.minimum)


def trace(model: Model, options: Options) -> list[State]:
    """Every state that compiling ``model`` goes through before it is lowered; the first is the imported graph.

    Raises what :func:`tilewright.driver.compile` raises.
    """
    states: list[State] = []
    watch = Observation(stop_after="optimize", watch=lambda name, graph: states.append(State(name, graph.clone())))
    with suppress(Stopped):
        driver.compile(model, options=replace(options, observe=watch))
    return states


def steps_of(model: ir.Model, feed: Values) -> dict[str, float]:
    """What rounding does to each value of a quantized state (:attr:`Limits.steps`); nothing where none is left out."""
    proto = ir.to_proto(model)
    rounded = values_of(proto, feed)
    if not rounding.leave_out_pairs(proto):
        return {}
    plain = values_of(proto, feed)
    shared = [name for name in rounded if name in plain]
    return rounding.tolerances([{n: rounded[n] for n in shared}], [plain])


def values_of(model: ir.Model | onnx.ModelProto, feed: Values) -> dict[str, Array]:
    """Every value of a state in order of computation, by the reference evaluator.

    Raises :class:`UsageError` for what it cannot run.
    """
    from tilewright.ir.evaluate import evaluate  # the reference evaluator takes half a second to import

    try:
        return evaluate(model, feed, every=True)
    except InternalError as error:
        raise UsageError(
            "bisect-evaluate",
            where="bisect",
            cause=f"a state of the graph cannot be run as ONNX defines it: {str(error).splitlines()[0]}",
            fix="compile with --dump-ir and compare the states in another engine",
        ) from None
