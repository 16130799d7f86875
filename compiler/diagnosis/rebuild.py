"""Compiling again: the whole model, or a part of it to see whether it goes wrong by itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from tilewright import driver, engines
from tilewright.accuracy import Comparison
from tilewright.diagnosis.minimal import Reproduces
from tilewright.diagnosis.states import Limits, State, values_of
from tilewright.entries import Model
from tilewright.errors import InternalError, TilewrightError
from tilewright.frontend.onnx import import_model
from tilewright.options import Options
from tilewright.passes.base import Pass

Array = NDArray[Any]
Values = Mapping[str, Array]


def run(model: Model, options: Options, feed: Values, passes: Sequence[Pass] | None = None) -> dict[str, Array]:
    """Outputs of ``model``, compiled for the one target of ``options`` and run in a process of its own."""
    artifact = driver.compile(model, options=options, passes=passes)
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        path = Path(folder) / "again.tw"
        artifact.save(path)
        return engines.run_apart("tilewright", path, [feed], options.targets[0]).outputs[0]


def imported(proto: onnx.ModelProto) -> State:
    """A model as it is imported."""
    return State("import", import_model(proto))


def checks(states: Callable[[onnx.ModelProto], Sequence[State]], limits: Limits) -> Reproduces:
    """Whether one of the states that a part goes through has another output than the part itself."""

    def reproduces(part: onnx.ModelProto, feed: Values) -> Comparison | None:
        name = part.graph.output[0].name
        try:
            want = values_of(part, feed)[name]
            found = (limits.compare(name, values_of(s.graph, feed)[name], want) for s in states(part))
            return next((c for c in found if not c.ok), None)
        except (TilewrightError, InternalError):
            return None  # by itself it cannot be compiled or run: a larger part may

    return reproduces


def compiled_check(options: Options, limits: Limits) -> Reproduces:
    """Whether a part that is compiled has another output than the reference evaluator gives."""

    def reproduces(part: onnx.ModelProto, feed: Values) -> Comparison | None:
        name = part.graph.output[0].name
        try:
            found = limits.compare(name, run(part, options, feed)[name], values_of(part, feed)[name])
        except (TilewrightError, InternalError):
            return None
        return None if found.ok else found

    return reproduces
