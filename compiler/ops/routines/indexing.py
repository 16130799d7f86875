"""Indexed writes that accumulate, slices picked by a condition, sizes computed from numbers of any dtype."""

from __future__ import annotations

from tilewright.ir.symbolic import constant, product
from tilewright.ir.types import DType
from tilewright.ops.steps import Program, program

#: Reductions of the scatter operators, as routines number them.
_REDUCTIONS = ("none", "add", "mul", "min", "max")


@program("ScatterElements", "ScatterND")
def scatter(ctx: Program) -> None:
    """Elements that meet in one place are combined in their order; what only replaces is a kernel."""
    reduction = ctx.attribute("reduction", "none")
    if reduction == "none":
        ctx.kernel()
        return
    x, indices = ctx.type(0).shape, ctx.type(1).shape
    values, op = [ctx.input(0), ctx.input(1), ctx.input(2), ctx.output()], _REDUCTIONS.index(reduction)
    if ctx.node.op_type == "ScatterND":
        depth = indices[-1].value
        rows, part = product(indices[:-1]), product(x[depth:])
        ctx.call("scatter_nd", values, [product(x), op, rows, depth, part, *x[:depth]])
        return
    axis = ctx.attribute("axis", 0) % len(x)
    # Slices before the axis are independent of one another.
    ctx.call("scatter_elements", values, [op, axis, len(x), *x, *indices], grid=product(x[:axis]))


@program("Compress")
def compress(ctx: Program) -> None:
    """Count what the condition picks, then copy it."""
    x, picked = ctx.type(0).shape, ctx.type(1).shape[0]
    axis = ctx.attribute("axis")
    before, size, after = constant(1), product(x), constant(1)
    if axis is not None:
        axis %= len(x)
        before, size, after = product(x[:axis]), x[axis], product(x[axis + 1 :])
    count = ctx.temporary(DType.I64, 1)
    ctx.call("compress_count", [ctx.input(1), count], [picked, size])
    ctx.read("compress", count)
    dims = [picked, size, after, ctx.defined("compress")]
    ctx.call("compress", [ctx.input(0), ctx.input(1), ctx.output()], dims, grid=before)


@program("OneHot")
def one_hot(ctx: Program) -> None:
    """A depth that is no integer is made one first."""
    if not ctx.type(1).dtype.is_integer:
        depth = ctx.temporary(DType.I64, 1)
        ctx.call("to_size", [ctx.input(1), depth])
        ctx.read("depth", depth)
    ctx.kernel()


@program("Range")
def arange(ctx: Program) -> None:
    """How many floating-point numbers there are is computed first."""
    if ctx.type(0).dtype.is_float and ctx.defines("count"):
        count = ctx.temporary(DType.I64, 1)
        ctx.call("range_count", [ctx.input(0), ctx.input(1), ctx.input(2), count])
        ctx.read("count", count)
    ctx.kernel()
