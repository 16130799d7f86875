"""Images whose channels lie apart, as the input of a model does: vector cores put the few channels of a pixel together.

They gather four lanes a pixel from as many planes, zero where there are fewer, and hand the pixels to the cube core:
through a workspace, or from the unified buffer of a fused core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import SUBBLOCK, Scalar, View
from tilewright.backends.ascend.placed.layout import BLOCK_BYTES, round_up
from tilewright.backends.ascend.placing.frame import Frame
from tilewright.backends.ascend.placing.windows import Windows
from tilewright.ir.symbolic import ZERO, Expr, constant, maximum, minimum
from tilewright.ir.types import DType

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.place import Context

_ONE = constant(1)


def stage_planes(c: Context, w: Windows, frame: Frame, name: str, offset: Expr, pixels: int) -> None:
    """``pixels`` neighbours of each plane from ``offset`` of the tensor on, pixel by pixel in ``name`` of L1.

    The vector cores of a group halve them.
    """
    lanes, dtype = w.few, w.load.dtype
    kind = dtype if dtype.bits == 16 else DType.F16
    cores = 1 if c.fused else max(1, int(c.target.extra["subblocks"]))
    share = round_up(-(-pixels // cores), BLOCK_BYTES * 8 // dtype.bits)
    first = ZERO if cores == 1 else SUBBLOCK * share
    count: Expr = constant(pixels) if cores == 1 else maximum(0, minimum(share, pixels - first))
    offsets = _offsets(c, lanes, share, kind)
    planes = c.tree.add(f"{w.load.tensor}_planes", "ub", dtype, (lanes, share), "vector", frame=frame)
    apart = w.down.size * w.across.size
    rows = (constant(w.channels), constant(share)), (count, _ONE)
    there = View(w.load.tensor, offset + first, ((constant(w.channels), constant(apart)), (count, _ONE)))
    c.tree.emit(frame, "copy_in", "vector", "MTE2", View(planes, ZERO, rows), there)
    source = planes
    if kind != dtype:
        source = c.tree.add(f"{w.load.tensor}_wide", "ub", kind, (lanes, share), "vector")
        c.tree.emit(frame, "cast", "vector", "V", View(source, ZERO, rows), View(planes, ZERO, rows))
    if lanes > w.channels:
        rest = (constant(lanes - w.channels), constant(share)), (count, _ONE)
        zeros = View(source, constant(w.channels * share), rest)
        c.tree.emit(frame, "duplicate", "vector", "V", zeros, Scalar(0.0))
    run = ((count * lanes, _ONE),)
    out = c.tree.add(f"{w.load.tensor}_pixels", "ub", dtype, (lanes * share,), "vector", frame=frame)
    every = View(source, ZERO, ((constant(lanes), constant(share)), (count, _ONE)))
    together = out if kind == dtype else c.tree.add("t", "ub", kind, (lanes * share,), "vector")
    c.tree.emit(frame, "gather", "vector", "V", View(together, ZERO, run), every, View(offsets, ZERO, run))
    if together != out:
        c.tree.emit(frame, "cast", "vector", "V", View(out, ZERO, run), View(together, ZERO, run))
    whole = ((constant(pixels * lanes), _ONE),)
    if c.fused:
        c.tree.emit(frame, "ub2l1", "cube", "MTE3", View(name, ZERO, whole), View(out, ZERO, whole))
        return
    shape = (pixels * lanes,)
    between = c.tree.add(f"{w.load.tensor}_between", "gm", dtype, shape, None, frame=frame, workspace=True)
    c.tree.emit(frame, "copy_out", "vector", "MTE3", View(between, first * lanes, run), View(out, ZERO, run))
    c.tree.emit(frame, "copy_nz", "cube", "MTE2", View(name, ZERO, whole), View(between, ZERO, whole))


def _offsets(c: Context, lanes: int, share: int, kind: DType) -> str:
    """Where lane ``i`` of pixels of ``lanes`` channels lies in planes of ``share``, in bytes: made once, in front.

    With q = i div lanes it is ((i - q·lanes)·share + q)·size = i·share·size + q·(1 - lanes·share)·size.
    """
    key = ("offsets of pixels", lanes, share)
    if key not in c.front.loaded:
        size, shape = kind.bits // 8, (lanes * share,)
        name, pixel = (c.tree.add(n, "ub", DType.I32, shape, "vector") for n in ("offsets", "t"))
        run = ((constant(lanes * share), _ONE),)
        to, at = View(name, ZERO, run), View(pixel, ZERO, run)
        by = (("by", lanes.bit_length() - 1),)
        c.tree.emit(c.front, "iota", "vector", "V", to, Scalar(0))
        c.tree.emit(c.front, "shift_right", "vector", "V", at, to, parameters=by)
        c.tree.emit(c.front, "mul", "vector", "V", to, to, Scalar(share * size))
        c.tree.emit(c.front, "mul", "vector", "V", at, at, Scalar((1 - lanes * share) * size))
        c.tree.emit(c.front, "add", "vector", "V", to, to, at)
        c.front.loaded[key] = name
    return str(c.front.loaded[key])
