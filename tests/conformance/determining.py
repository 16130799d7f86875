"""Which inputs of a model determine shapes: those whose elements the compiler's shape rules ask for.

For a target of static programs they are what has to be a constant: the axes of a sum, the sizes of a Reshape, the
scales of a Resize.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import onnx_ir as ir
from tilewright.frontend.onnx import import_model
from tilewright.ops.context import Infer

#: What they return hangs on the shape of their input, not on its elements.
_SIZES = frozenset(["Shape", "Size"])


def determining(model: onnx.ModelProto) -> list[str]:
    """Names of the inputs of the graph whose elements some shape hangs on, in order. Raises what the import raises."""
    with _asked() as asked:
        graph = import_model(model, {})
    names: set[str] = set()
    pending, seen = list(asked), set(asked)
    while pending:
        value = pending.pop()
        producer = value.producer()
        if producer is None:
            names.add(str(value.name))
        elif producer.op_type not in _SIZES:
            before = [v for v in producer.inputs if v is not None and v not in seen]
            pending += before
            seen.update(before)
    return [str(v.name) for v in graph.graph.inputs if str(v.name) in names]


@contextmanager
def _asked() -> Iterator[list[ir.Value]]:
    """The values whose elements shape rules ask for meanwhile."""
    found: list[ir.Value] = []
    read, constant = Infer._read, Infer.constant

    def note(ctx: Infer, index: int) -> None:
        value = ctx.node.inputs[index] if index < len(ctx.node.inputs) else None
        if value is not None and value not in found:
            found.append(value)

    def noted_read(ctx: Infer, index: int, *more: Any) -> Any:
        note(ctx, index)
        return read(ctx, index, *more)

    def noted_constant(ctx: Infer, index: int) -> Any:
        note(ctx, index)
        return constant(ctx, index)

    Infer._read, Infer.constant = noted_read, noted_constant  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Infer._read, Infer.constant = read, constant  # type: ignore[method-assign]
