"""The one spelling of a change of shape that keeps the order of elements.

Exporters write the same view as Squeeze, Unsqueeze, Flatten or as a Reshape whose target is computed from run-time
sizes. Written one way, with constant targets, equal graphs are equal, and a function body can hold the view.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.ir.symbolic import Expr
from tilewright.passes.rewrite import Rewriter

#: Operators that only rename positions.
VIEWS = frozenset(["Reshape", "Squeeze", "Unsqueeze", "Flatten"])

Shape = tuple[Expr, ...]


def view(rewriter: Rewriter, x: ir.Value, shape: Shape, *, before: ir.Node) -> ir.Value | None:
    """``x`` in another shape of as many elements: ``x`` itself, an Unsqueeze or Squeeze, or a Reshape to constants.

    ``None`` when two or more sizes would have to be computed at run time.
    """
    source = type_of(x).shape
    if source == shape:
        return x
    added = inserted_ones(source, shape)
    if added is not None:
        return rewriter.new("Unsqueeze", [x, _integers(rewriter, added, "axes")], before=before)
    removed = inserted_ones(shape, source)
    if removed is not None:
        return rewriter.new("Squeeze", [x, _integers(rewriter, removed, "axes")], before=before)
    target = reshape_target(source, shape)
    if target is None:
        return None
    return rewriter.new("Reshape", [x, _integers(rewriter, target, "shape")], before=before)


def inserted_ones(source: Shape, target: Shape) -> list[int] | None:
    """The axes of ``target`` that are 1 and missing in ``source``; ``None`` unless that is all the difference."""
    axes, i = [], 0
    for axis, size in enumerate(target):
        spare = len(target) - axis > len(source) - i
        if i < len(source) and size == source[i] and not (size == 1 and spare and _rest_fits(source, i, target, axis)):
            i += 1
        elif size == 1 and spare:
            axes.append(axis)
        else:
            return None
    return axes if i == len(source) and axes else None


def _rest_fits(source: Shape, i: int, target: Shape, axis: int) -> bool:
    """True when skipping a 1 of the target still leaves room for the rest of the source: prefer the leftmost axes."""
    return inserted_ones(source[i:], target[axis + 1 :]) is not None or source[i:] == target[axis + 1 :]


def reshape_target(source: Shape, shape: Shape) -> list[int] | None:
    """A constant target of Reshape: numbers, 0 for a size kept in its place, at most one -1."""
    if any(s == 0 for s in (*source, *shape)):
        return None
    target: list[int] = []
    for axis, size in enumerate(shape):
        if axis < len(source) and size == source[axis] and not size.is_constant:
            target.append(0)
        else:
            target.append(size.value if size.is_constant else -1)
    return target if target.count(-1) <= 1 else None


def _integers(rewriter: Rewriter, values: list[int], name: str) -> ir.Value:
    return rewriter.constant(np.array(values, dtype=np.int64), name)
