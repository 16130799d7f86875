"""The first layer of a quantized model that loses more than is allowed, and the smallest part of it that does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.accuracy import Comparison
from tilewright.diagnosis.alignment import align
from tilewright.diagnosis.layers import observed
from tilewright.diagnosis.minimal import Minimal, extract, region
from tilewright.diagnosis.states import Limits, values_of
from tilewright.errors import UsageError
from tilewright.frontend.onnx import import_model

Array = NDArray[Any]
Values = Mapping[str, Array]
Found = tuple[Literal["model"], str, Comparison, str, str, Minimal | None]


def first_off(model: ir.Model, reference: Path, feed: Values, limits: Limits, name: str) -> Found:
    """The first value of the reference, in order of execution, that is off in ``model``: the fields of a ``Fault``.

    Raises :class:`UsageError` (``layers-unmatched``) where no value is off that both have.
    """
    float_ = import_model(reference)
    truth, values = values_of(float_, feed), values_of(model, feed)
    seen = {mine: observed(model, theirs) for mine, theirs in align(float_, model).items()}
    off = (limits.compare(mine, values[theirs], truth[mine]) for mine, theirs in seen.items())
    tensor = next((c for c in off if not c.ok), None)
    if tensor is None:
        cause, fix = "no value that both models have is off", "compare the two with tilewright verify --layers"
        raise UsageError("layers-unmatched", where=name, cause=cause, fix=fix)
    op_type = next(n.op_type for n in float_.graph for v in n.outputs if v.name == tensor.name)
    told = f"{name} differs from {reference.name} before it is compiled"
    return "model", name, tensor, op_type, told, _part(float_, model, tensor.name, seen, truth, limits)


def _part(
    reference: ir.Model, model: ir.Model, target: str, seen: Mapping[str, str], truth: Values, limits: Limits
) -> Minimal | None:
    """As few layers as lose too much when they start from what the reference computes."""
    ends = {mine: theirs for mine, theirs in seen.items() if mine != target}
    while True:
        nodes = region(model, seen[target], 1 << 20, set(ends.values()))
        beside = region(reference, target, 1 << 20, set(ends))
        given = dict(truth) | {theirs: truth[mine] for mine, theirs in ends.items()} | {seen[target]: truth[target]}
        part, feed = extract(model, seen[target], nodes, given)
        right, also = extract(reference, target, beside, truth)
        got = values_of(part, _typed(part, feed))[seen[target]]
        found = limits.compare(target, got, values_of(right, also)[target])
        if not found.ok:
            return Minimal(part, {**also, **_typed(part, feed)}, found, right)
        used = {str(v.name) for n in (*nodes, *beside) for v in n.inputs if v is not None}
        nearest = [mine for mine, theirs in ends.items() if mine in used or theirs in used]
        if not nearest:
            return None
        for mine in nearest:
            del ends[mine]


def _typed(part: Any, feed: Values) -> dict[str, Array]:
    """``feed`` in the element types of the part, which may be narrower than those of the reference."""
    import onnx

    kinds = {i.name: onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in part.graph.input}
    return {n: a.astype(kinds[n]) for n, a in feed.items()}
