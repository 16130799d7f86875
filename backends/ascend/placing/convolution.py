"""Convolutions on the cube core: an image in L1 once for all its windows, image to columns on the way to L0A.

The tile of a block is some neighbouring output pixels of one image. The rows of the image that their windows read lie
in L1 in NC1HWC0, or pixel by pixel where there are few channels; padding comes from the instruction itself. Weights lie
packed in the order of a row of windows and are read in pieces of that row, or once for all blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import Block, Loop, Operand, View
from tilewright.backends.ascend.placed.layout import FRACTAL, round_up
from tilewright.backends.ascend.placing.frame import Frame
from tilewright.backends.ascend.placing.planes import stage_planes
from tilewright.backends.ascend.placing.windows import Tile, Windows, tile_of
from tilewright.ir.symbolic import ZERO, Expr, constant, minimum, symbol
from tilewright.kernel.analysis import offset_of
from tilewright.kernel.schedule import Compute, ScheduleError

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.cube import CubePart, Sum
    from tilewright.backends.ascend.placing.place import Context

#: Options of a schedule: elements of a row of windows whose weights lie in L1 at a time, and whether all of them are
#: brought in before the first block.
DEPTH, RESIDENT = "window_depth", "window_resident"


@dataclass(frozen=True, slots=True)
class _Image:
    """An image in L1, and what the windows of this tile are in it."""

    source: View | Block
    tile: Tile


@dataclass(frozen=True, slots=True)
class _Weights:
    """Weights in L1: the piece of a row of windows that begins at ``start`` lies there."""

    buffer: str
    start: Expr


def convolve(cube: CubePart, node: Compute, w: Windows) -> None:
    """The sums of a tile of output pixels: pieces of a row of windows, each with its weights."""
    c = cube.context
    total = cube.accumulator(node, w.rows, w.columns)
    image = _stage_image(c, w)
    depth = w.depth_of(c.lanes(w.channel) if w.channel else w.channels)
    piece = int(c.scheduled.schedule.option(DEPTH, 0)) or depth
    # The sum starts with the first channels and the first element of a row.
    begun = sum((symbol(f.var) - c.expr(loop.lo) for f, loop in cube.reduction_loops(node)), ZERO)
    if c.scheduled.schedule.option(RESIDENT, False):
        weights = _stage_weights(c, w, c.front, ZERO, constant(depth))
        _pieces(cube, total, w, image, weights, c.tree.top, (ZERO, constant(depth)), begun)
        return
    if piece >= depth:
        weights = _stage_weights(c, w, c.tree.top, ZERO, constant(depth))
        _pieces(cube, total, w, image, weights, c.tree.top, (ZERO, constant(depth)), begun)
        return
    frame = Frame(c.tree.variable(f"{node.tile}_l1"))
    at = symbol(frame.var)
    length = constant(piece) if depth % piece == 0 else minimum(piece, depth - at)
    c.tree.frames.append(frame)
    weights = _stage_weights(c, w, frame, at, length)
    _pieces(cube, total, w, image, weights, frame, (at, length), begun)
    c.tree.frames.pop()
    c.tree.top.nodes.append(Loop(frame.var, ZERO, constant(depth), constant(piece), tuple(frame.nodes)))


# -- into L1 -------------------------------------------------------------------------------------------------------


def _stage_image(c: Context, w: Windows) -> _Image:
    """The rows of the image that the windows of this tile read, as far out of the loops as they allow."""
    kernel, load, pixels = c.scheduled.kernel, w.load, c.lanes(w.rows)
    if w.pixels % pixels:
        raise ScheduleError(kernel.name, f"{pixels} pixels at a time, of images of {w.pixels}")
    start = c.start(w.rows)
    batch = load.index[0]
    assert isinstance(batch, Expr)
    counted = w.rows in batch.symbols
    others = {a: c.start(a) for a in batch.symbols if a != w.rows and a in c.scope.ranges}
    number = w.batch(start) if counted else c.expr(batch.substitute(others))
    tile = tile_of(w, start % w.pixels if counted else start, pixels)
    high, wide = tile.high, w.across.size
    channel = c.start(w.channel) if w.channel else ZERO
    lanes = w.few or (c.lanes(w.channel) if w.channel else w.channels)
    place = (number, ZERO, tile.top, ZERO) if w.planar else (number, tile.top, ZERO, channel)
    offset = offset_of(kernel.param(load.tensor), place)
    frame = c.tree.frame_of([offset])
    key = ("image", load, offset, w.rows)
    if key not in frame.loaded:
        count = high * wide
        shape = (count * lanes,) if w.few else (count, lanes)
        layout = "ND" if w.few else "NC1HWC0"
        name = c.tree.add(f"{load.tensor}_l1", "l1", load.dtype, shape, "cube", frame=frame, layout=layout)
        if w.planar:
            stage_planes(c, w, frame, name, offset, count)
        elif w.few:
            run = ((constant(count * lanes), constant(1)),)
            c.tree.emit(frame, "copy_nz", "cube", "MTE2", View(name, ZERO, run), View(load.tensor, offset, run))
        else:
            matrix = ((constant(count), constant(w.channels)), (constant(lanes), constant(1)))
            dst = Block(name, ZERO, ZERO, constant(count), constant(lanes))
            c.tree.emit(frame, "nd2nz", "cube", "MTE2", dst, View(load.tensor, offset, matrix))
        frame.loaded[key] = name
    name = str(frame.loaded[key])
    if w.few:
        return _Image(View(name, ZERO, ((constant(high * wide * lanes), constant(1)),)), tile)
    return _Image(Block(name, ZERO, ZERO, constant(high * wide), constant(lanes)), tile)


def _stage_weights(c: Context, w: Windows, frame: Frame, at: Expr, count: Expr) -> _Weights:
    """``count`` elements of a row of windows from ``at`` on, for the columns of this block, in columns of fractals."""
    pack = c.pack_of(w.weights.tensor)
    if pack is None:
        raise ScheduleError(c.scheduled.kernel.name, "windows need weights that are packed in their order")
    fine, wide = w.fine, pack.shape[-2]
    columns = c.count(w.columns)
    channel = c.start(w.channel) if w.channel else ZERO
    before = channel // fine * w.taps if not w.few else ZERO
    offset = (at // fine + before) * wide * fine + c.start(w.columns) * fine
    most = count.value if count.is_constant else int(c.scheduled.schedule.option(DEPTH, 0))
    shape = (round_up(c.lanes(w.columns), FRACTAL), round_up(most, fine))
    front = frame is c.front
    if front and offset.symbols:
        raise ScheduleError(c.scheduled.kernel.name, "weights that differ from block to block cannot stay in L1")
    name = c.tree.add(f"{w.weights.tensor}_l1", "l1", w.weights.dtype, shape, "cube", frame=None if front else frame)
    steps = (count + (fine - 1)) // fine
    dims = ((steps, wide * fine), (columns, constant(fine)), (constant(fine), constant(1)))
    dst = Block(name, ZERO, ZERO, columns, steps * fine)
    c.tree.emit(frame, "copy_nz", "cube", "MTE2", dst, View(w.weights.tensor, offset, dims))
    return _Weights(name, at)


# -- products ------------------------------------------------------------------------------------------------------


def _pieces(
    cube: CubePart,
    total: Sum,
    w: Windows,
    image: _Image,
    weights: _Weights,
    around: Frame,
    span: tuple[Expr, Expr],
    begun: Expr,
) -> None:
    """``span`` = (first, count) of a row of windows in pieces that fit half of L0A and of L0B."""
    c = cube.context
    first, length = span
    most = length.value if length.is_constant else int(c.scheduled.schedule.option(DEPTH, 0))
    rows, columns = round_up(c.lanes(w.rows), FRACTAL), c.lanes(w.columns)
    piece = _even(most, cube.inner_piece(rows, columns, most, w.load.dtype), w.fine)
    if most <= piece:
        _product(cube, total, w, image, weights, around, span, begun + first, most)
        return
    # Counted from the beginning of a piece of the weights, so that it is seen to run at least once.
    frame = Frame(c.tree.variable(f"{total.buffer}_l0"))
    at = symbol(frame.var)
    whole = length.is_constant and length.value % piece == 0
    count = constant(piece) if whole else minimum(piece, length - at)
    _product(cube, total, w, image, weights, frame, (first + at, count), begun + first + at, piece)
    around.nodes.append(Loop(frame.var, ZERO, length, constant(piece), tuple(frame.nodes)))


def _even(length: int, most: int, fine: int) -> int:
    """Pieces of at most ``most`` elements, whole rows of fractals, that are as long as each other as can be."""
    return min(most, round_up(-(-length // -(-length // most)), fine))


def _product(
    cube: CubePart,
    total: Sum,
    w: Windows,
    image: _Image,
    weights: _Weights,
    frame: Frame,
    span: tuple[Expr, Expr],
    start: Expr,
    most: int,
) -> None:
    """``span`` = (first, count) of a row of windows, at most ``most``: windows to L0A, weights to L0B, a product."""
    c = cube.context
    at, count = span
    rows, columns = c.lanes(w.rows), c.count(w.columns)
    high, wide = round_up(rows, FRACTAL), c.lanes(w.columns)
    l0a = c.tree.add(f"{total.tile.tile}_a", "l0a", w.load.dtype, (high, round_up(most, w.fine)), "cube", frame=frame)
    l0b = c.tree.add(f"{total.tile.tile}_b", "l0b", w.load.dtype, (round_up(most, w.fine), wide), "cube", frame=frame)
    value = int(w.load.fill or 0)
    parameters = (
        ("image", (image.tile.high, w.across.size)),
        ("kernel", (w.down.taps, w.across.taps)),
        ("stride", (w.down.stride, w.across.stride)),
        ("dilation", (w.down.dilation, w.across.dilation)),
        ("pads", image.tile.pads),
        ("first", image.tile.first),
        ("column", at),
        *((("value", value),) if value else ()),
        *((("channels", w.few),) if w.few else ()),
    )
    windows = Block(l0a, ZERO, ZERO, constant(high), count)
    c.tree.emit(frame, "load_image", "cube", "MTE1", windows, image.source, parameters=parameters)
    turned = Block(weights.buffer, ZERO, at - weights.start, columns, count, whole=True)
    c.tree.emit(
        frame, "load", "cube", "MTE1", Block(l0b, ZERO, ZERO, count, columns, whole=True), turned, transpose=True
    )
    bias: tuple[Operand, ...] = ()
    if total.bias is not None:
        bias = (View(total.bias, ZERO, ((columns, constant(1)),)),)
    c.tree.emit(
        frame,
        "mmad",
        "cube",
        "M",
        Block(total.buffer, ZERO, ZERO, constant(rows), columns),
        Block(l0a, ZERO, ZERO, constant(rows), count),
        Block(l0b, ZERO, ZERO, count, columns),
        *bias,
        init=start if start != 0 else None,
    )
