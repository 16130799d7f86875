"""What attention needs beside products and softmax: turned positions and caches."""

from __future__ import annotations

from tilewright.backends.xla import build
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.contract import accumulator
from tilewright.backends.xla.dialect import bindings, stablehlo
from tilewright.backends.xla.indexing import cut_dim, take
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.backends.xla.rules.gather import wrapped
from tilewright.ir.types import DType


@rule("RotaryEmbedding", padding=Padding.MASKED)
def rotary_embedding(ctx: Rule) -> Tensor:
    """Pairs of channels turned by the angle of their position: ``(a·cos - b·sin, a·sin + b·cos)``.

    Pairs are half the turned channels apart, or side by side (``interleaved``); channels after those that are turned
    stay. Masks nothing: elements of different positions do not meet.
    """
    x, hlo = ctx.input(0), stablehlo()
    dtype, shape = accumulator(x.dtype, ctx), x.shape
    ctx.refuse_padding(x, [x.rank - 1])
    value = x.value
    if x.rank == 3:  # [B, S, H·D]
        heads = ctx.attribute("num_heads", 0)
        if not heads:
            raise ctx.unsupported("three dimensions without num_heads")
        value = build.reshape(value, [*shape[:2], heads, shape[2] // heads])
        spread = [0, 1, 3]
    else:  # [B, H, S, D]
        spread = [0, 2, 3]
    width = build.shape_of(value)[-1]
    turned = ctx.attribute("rotary_embedding_dim", 0) or width
    angles = [ctx.input(1), ctx.input(2)]
    if ctx.has(3):
        rows = wrapped(ctx, ctx.input(3).value, angles[0].type.shape[0])
        tables = [take(t.value, rows, 0) for t in angles]
    else:
        tables = [t.value for t in angles]
    half, near = turned // 2, bool(ctx.attribute("interleaved", 0))
    part = [*build.shape_of(value)[:-1], half]
    cos, sin = (build.convert(cut_dim(t, 2, 0, half), dtype) for t in tables)
    cos, sin = (_over_heads(t, part, spread) for t in (cos, sin))
    moving = build.convert(cut_dim(value, 3, 0, turned), dtype)
    if near:
        pairs = build.reshape(moving, [*part, 2])
        a, b = (build.reshape(cut_dim(pairs, 4, n, n + 1), part) for n in range(2))
    else:
        a, b = cut_dim(moving, 3, 0, half), cut_dim(moving, 3, half, turned)
    first = hlo.subtract(hlo.multiply(a, cos), hlo.multiply(b, sin))
    second = hlo.add(hlo.multiply(a, sin), hlo.multiply(b, cos))
    if near:
        made = hlo.concatenate([build.reshape(v, [*part, 1]) for v in (first, second)], 4)
        made = build.reshape(made, [*part[:-1], turned])
    else:
        made = hlo.concatenate([first, second], 3)
    made = build.convert(made, x.dtype)
    if turned != width:
        made = hlo.concatenate([made, cut_dim(value, 3, turned, width)], 3)
    return ctx.result(build.reshape(made, shape))


def _over_heads(table: Value, part: list[int], spread: list[int]) -> Value:
    """[B or 1, S or 1, half] for every head."""
    shape = build.shape_of(table)
    kept = [n for n in range(3) if shape[n] == part[spread[n]]]
    return build.broadcast(build.reshape(table, [shape[n] for n in kept]), part, [spread[n] for n in kept])


@rule("TensorScatter", padding=Padding.MASKED)
def tensor_scatter(ctx: Rule) -> Tensor:
    """A cache with ``update`` written from position ``first[b]`` on along ``axis``; modulo its size when circular.

    One position is chosen by comparison, which XLA fuses with the copy; several are scattered, where what is padding
    gets a position beyond the end, which XLA drops.
    """
    past, update, hlo = ctx.input(0), ctx.input(1), stablehlo()
    axis = ctx.attribute("axis", -2) % past.rank
    batch, count = past.shape[0], update.shape[axis]
    if ctx.has(2):
        first = build.convert(ctx.input(2).value, DType.I32)
    else:
        first = build.splat(0, DType.I32, [batch])
    at = hlo.add(build.broadcast(first, [batch, count], [0]), build.iota(DType.I32, (batch, count), 1))
    if ctx.attribute("mode", "linear") == "circular":
        at = hlo.remainder(at, build.broadcast(ctx.integer(past.type.shape[axis], DType.I32), [batch, count], ()))
    if count == 1 and update.type.shape[axis].is_constant:
        chosen = build.broadcast(build.reshape(at, [batch]), past.shape, [0])
        here = build.compare(build.iota(DType.I32, past.shape, axis), chosen, "EQ", "SIGNED")
        dims = [d for d in range(past.rank) if d != axis]
        row = build.reshape(update.value, [update.shape[d] for d in dims])
        return ctx.result(hlo.select(here, build.broadcast(row, past.shape, dims), past.value))
    if ctx.padded(update, [axis]):
        true = build.broadcast(ctx.integer(update.type.shape[axis], DType.I32), [batch, count], ())
        inside = build.compare(build.iota(DType.I32, (batch, count), 1), true, "LT", "SIGNED")
        at = hlo.select(inside, at, build.splat(past.shape[axis], DType.I32, [batch, count]))
    return ctx.result(_scattered(past, update, at, axis))


def _scattered(past: Tensor, update: Tensor, at: Value, axis: int) -> Value:
    """``past`` with the rows of ``update`` ([B, …, S, …]) at positions ``at`` ([B, S])."""
    hlo, mlir = stablehlo(), bindings()
    batch, count = build.shape_of(at)
    rows = build.iota(DType.I32, (batch, count, 1), 0)
    indices = hlo.concatenate([rows, build.reshape(at, [batch, count, 1])], 2)
    window = [d for d in range(past.rank) if d not in (0, axis)]
    numbers = hlo.ScatterDimensionNumbers.get(window, [0, axis], [], [], [0, axis], 2)
    # The indices' dimensions, B and S, are where they are in the update: the window takes the others.
    operation = hlo.ScatterOp([past.value.type], [past.value], indices, [update.value], numbers)
    element = mlir.RankedTensorType.get([], past.value.type.element_type)
    block = operation.regions[0].blocks.append(element, element)
    with mlir.InsertionPoint(block):
        hlo.return_([block.arguments[1]])
    return operation.results[0]
