"""The entry points of an artifact: which models they are made of, their common sizes, and their states."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Union

import onnx_ir as ir
from tilewright.build import Lowered
from tilewright.errors import UsageError
from tilewright.frontend.buckets import apply_buckets
from tilewright.frontend.constants import require_known
from tilewright.frontend.input_shapes import unknown_input
from tilewright.frontend.onnx import import_model
from tilewright.ir.graph import is_constant, type_of
from tilewright.ir.skeleton import skeleton_bytes
from tilewright.ops.program import values_of
from tilewright.options import Options

if TYPE_CHECKING:
    import onnx

#: An ONNX file, a model in memory, or a graph that was imported already (from PyTorch).
Model = Union[str, "os.PathLike[str]", "onnx.ModelProto", ir.Model]

#: The entry point of a model that is given alone.
MAIN = "main"


def entries_of(model: Model | Mapping[str, Model]) -> dict[str, Model]:
    """Models by entry point, in order. Raises :class:`UsageError` for none, and for a name that cannot be one."""
    models = dict(model) if isinstance(model, Mapping) else {MAIN: model}
    if not models:
        raise UsageError("entry-name", where="compile", cause="there is no model", fix="give {name: model, …}")
    for name in models:
        if not isinstance(name, str) or not name or not name.isprintable():
            cause, fix = "it cannot be the name of an entry point", "a name is printable text: prefill, decode"
            raise UsageError("entry-name", where=repr(name), cause=cause, fix=fix)
    return models


def import_entries(models: Mapping[str, Model], options: Options) -> dict[str, ir.Model]:
    """The graph of each entry point; sizes apply to each that has the input.

    Raises :class:`UsageError` for the size of an input that none has, and what the import raises.
    """
    shapes, constants, alone = dict(options.input_shapes), dict(options.constants), len(models) == 1
    graphs = {
        name: model
        if isinstance(model, ir.Model)
        else import_model(model, shapes, constants=constants, every_shape=alone)
        for name, model in models.items()
    }
    require_known(constants, graphs.values())
    inputs = dict.fromkeys(str(v.name) for graph in graphs.values() for v in graph.graph.inputs)
    for name in shapes:
        if name not in inputs:
            raise unknown_input(name, inputs)
    apply_buckets(list(graphs.values()), dict(options.buckets), options.exact)
    return graphs


def states_of(graphs: Mapping[str, ir.Model], options: Options) -> dict[str, tuple[tuple[int, int], ...]]:
    """The states of each entry point, as positions of the input and of the output.

    Raises :class:`UsageError`: ``state-name`` where no entry point has both, ``state-twice``, ``state-type``.
    """
    for side, names in zip(("input", "output"), zip(*options.states, strict=True), strict=False):
        for name in names:
            if names.count(name) > 1:
                cause, fix = f"this {side} is in two states", "an input has one new value, an output one old one"
                raise UsageError("state-twice", where=f"state {name!r}", cause=cause, fix=fix)
    found: dict[str, list[tuple[int, int]]] = {entry: [] for entry in graphs}
    for pair in options.states:
        having = [
            e for e, g in graphs.items() if pair[0] in _names(g.graph.inputs) and pair[1] in _names(g.graph.outputs)
        ]
        if not having:
            raise _unknown_state(pair, graphs)
        for entry in having:
            found[entry].append(_state(graphs[entry], pair, entry))
    return {entry: tuple(pairs) for entry, pairs in found.items()}


def _names(values: Sequence[ir.Value]) -> list[str]:
    return [str(v.name) for v in values]


def _state(graph: ir.Model, pair: tuple[str, str], entry: str) -> tuple[int, int]:
    into, out = _names(graph.graph.inputs).index(pair[0]), _names(graph.graph.outputs).index(pair[1])
    old, new = type_of(graph.graph.inputs[into]), type_of(graph.graph.outputs[out])
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        raise UsageError(
            "state-type",
            where=f"state {pair[0]}={pair[1]} of entry {entry!r}",
            cause=f"the input is {old}, the output is {new}",
            fix="a state keeps its type and shape: write into a cache of full length, or bind sizes (--input-shape)",
        )
    return into, out


def _unknown_state(pair: tuple[str, str], graphs: Mapping[str, ir.Model]) -> UsageError:
    told = "; ".join(
        f"{entry}: inputs {', '.join(_names(g.graph.inputs))}, outputs {', '.join(_names(g.graph.outputs))}"
        for entry, g in graphs.items()
    )
    where, cause = f"state {pair[0]}={pair[1]}", "no entry point has this input and this output"
    return UsageError("state-name", where=where, cause=cause, fix=f"there are {told}")


def constants_used(entries: Sequence[Lowered]) -> Iterator[ir.Value]:
    """Every constant that a kernel reads or an entry point returns, in order, some more than once."""
    for entry in entries:
        for step in entry.steps:
            yield from filter(is_constant, values_of(step))
        if not entry.steps:  # it stays a graph
            for node in entry.model.graph:
                yield from (v for v in node.inputs if v is not None and is_constant(v))
        yield from filter(is_constant, entry.model.graph.outputs)


def name_of(model: Model) -> str:
    """The file's name, or the graph's."""
    return Path(model).name if isinstance(model, str | os.PathLike) else (model.graph.name or "model")


def digest_of(model: Model) -> str:
    """SHA-256 of the model file (not of its external data, whose hash is that of the artifact's weights)."""
    if isinstance(model, str | os.PathLike):
        with Path(model).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    if not isinstance(model, ir.Model):
        return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    found = hashlib.sha256(skeleton_bytes(model))  # one message holds 2 GB at most, weights may be more
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            found.update(value.const_value.tobytes())
    return found.hexdigest()
