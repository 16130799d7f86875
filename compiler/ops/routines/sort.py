"""Operators that sort, or pick by order."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from tilewright.ir.symbolic import Expr, minimum, product
from tilewright.ir.types import DType
from tilewright.ops.steps import Program, program


@program("TopK")
def top_k(ctx: Program) -> None:
    """Each row by itself."""
    shape = ctx.type(0).shape
    outer, n, inner = around(shape, ctx.attribute("axis", -1))
    k = ctx.defined("k")
    ctx.call(
        "topk",
        [
            ctx.input(0),
            _output(ctx, 0, ctx.type(0).dtype, outer, k, inner),
            _output(ctx, 1, DType.I64, outer, k, inner),
        ],
        [n, inner, k, ctx.attribute("largest", 1)],
        outputs=2,
        grid=outer * inner,
        scratch=32 * minimum(n, 8 * k),
    )


@program("Unique")
def unique(ctx: Program) -> None:
    """Sort and count, then take the first of each."""
    x, shape, axis = ctx.input(0), ctx.type(0).shape, ctx.attribute("axis")
    outer, n, inner = (1, product(shape), 1) if axis is None else around(shape, axis)
    ranked, count = ctx.temporary(DType.I64, 4, n), ctx.temporary(DType.I64, 1)
    first, times = ctx.temporary(DType.I64, n), ctx.temporary(DType.I64, n)
    inverse = _output(ctx, 2, DType.I64, n)
    sizes = [outer, n, inner]
    ctx.call("unique", [x, ranked, count, first, times, inverse], [*sizes, ctx.attribute("sorted", 1)], outputs=5)
    ctx.read("unique", count)
    found = ctx.defined("unique")
    results = [_output(ctx, i, DType.I64, found) for i in (1, 3)]
    ctx.call("unique_take", [x, first, times, ctx.output(), *results], [*sizes, found], outputs=3)


@program("NonMaxSuppression")
def non_max_suppression(ctx: Program) -> None:
    """Every class of every image by itself; then what was chosen, in rows."""
    boxes, scores = ctx.input(0), ctx.input(1)
    images, classes, n = ctx.type(1).shape
    blocks = images * classes
    chosen, counts = ctx.temporary(DType.I64, blocks, n), ctx.temporary(DType.I64, blocks)
    limits = [ctx.input(i) if ctx.has(i) else scores for i in (2, 3, 4)]
    flags = [ctx.attribute("center_point_box", 0), *(int(ctx.has(i)) for i in (2, 3, 4))]
    ctx.call(
        "nms", [boxes, scores, *limits, chosen, counts], [n, classes, *flags], outputs=2, grid=blocks, scratch=48 * n
    )
    total = ctx.temporary(DType.I64, 1)
    ctx.call("total", [counts, total], [blocks])
    ctx.read("boxes", total)
    ctx.call("nms_rows", [chosen, counts, ctx.output()], [blocks, n, classes])


def around(shape: Sequence[Expr], axis: int) -> tuple[Expr, Expr, Expr]:
    """The number of elements before an axis, at it and after it."""
    at = axis % len(shape)
    return product(shape[:at]), shape[at], product(shape[at + 1 :])


def _output(ctx: Program, index: int, dtype: DType, *shape: Expr) -> ir.Value:
    """An output, or memory in its place where nobody asks for it."""
    return ctx.output(index) if ctx.has_output(index) else ctx.temporary(dtype, *shape)
