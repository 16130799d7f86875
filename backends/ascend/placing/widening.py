"""Weights of 8 and 4 bits on their way to the cube unit: vector cores widen a slice while the cube core multiplies the
one before.

What lies in memory is packed so that a slice of depth is a run for each 16 columns, in the order of the fractals that
it becomes: widening goes lane by lane, and the cube core reads the result as it reads packed weights. On 2201 it goes
through a workspace with several slots, of which each vector core of a group fills half; a fused core moves it to L1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import SUBBLOCK, Block, Loop, View
from tilewright.backends.ascend.placed.layout import BLOCK_BYTES, FRACTAL, round_up
from tilewright.backends.ascend.placing.dequantized import Dequantized
from tilewright.backends.ascend.placing.frame import Frame
from tilewright.errors import UnsupportedError
from tilewright.ir.symbolic import ZERO, Expr, ceildiv, constant, maximum, minimum, product, symbol
from tilewright.ir.types import DType
from tilewright.kernel.expr import Load
from tilewright.kernel.tile import Param
from tilewright.target import Target

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.place import Context

#: The part of the unified buffer that slices in the making may take; the rest is for what comes after the sums.
_SHARE = 0.55
_ONE = constant(1)
#: Counts and strides of a view.
Runs = tuple[tuple[Expr, Expr], ...]
#: Slices that may be under way between the cores: a meeting takes longer than a slice of 4-bit weights.
_SLOTS = 8
#: Lanes of a repeat of f32.
_REPEAT = 64


@dataclass(frozen=True, slots=True)
class Slice:
    """What is widened in one turn: planes of 16 columns from ``first`` on, ``rows`` lanes of depth from ``start`` on;
    ``most`` of each are allocated."""

    first: Expr
    planes: Expr
    start: Expr
    rows: Expr
    most: tuple[int, int]


def bytes_of(param: Param, target: Target) -> tuple[DType, int]:
    """The element type of a tensor in memory, and how many of the kernel's elements one of those is: integers of less
    than 8 bits lie in bytes, or in words where cores take them apart by shifts."""
    if param.dtype.bits >= 8:
        return param.dtype, 1
    held = DType.U8 if "cast_i4" in target.features else DType.I16
    return held, held.bits // param.dtype.bits


@dataclass(slots=True)
class Widening:
    """Widens slices of the weights of one product to ``dtype``."""

    context: Context
    weights: Dequantized
    dtype: DType
    tile: str

    def __post_init__(self) -> None:
        if self.dtype not in (DType.F16, DType.BF16):
            raise self._unsupported(f"weights widened to {self.dtype}")
        if self._by_shifts and self.weights.zero is not None:
            raise self._unsupported("weights of 4 bits with zero points on these cores")

    @property
    def _by_shifts(self) -> bool:
        """Whether integers of 4 bits are taken out of words: there is no cast of them."""
        return self.weights.integers.dtype is DType.I4 and "cast_i4" not in self.context.target.features

    def run(self, frame: Frame, s: Slice) -> str:
        """Emit the widening of a slice into ``frame``; the name of the buffer in L1 where it ends."""
        c = self.context
        planes, rows = s.most
        matrix = (rows, planes * FRACTAL)
        name = c.tree.add(f"{self.tile}_w_l1", "l1", self.dtype, matrix, "cube", frame=frame)
        if c.fused:
            self._chunks(frame, s, s.planes, ZERO, planes, l1=name)
            return name
        half = -(-planes // max(1, int(c.target.extra["subblocks"])))
        area = (planes, rows * FRACTAL)
        workspace = c.tree.add(
            f"{self.tile}_w", "gm", self.dtype, area, None, frame=frame, workspace=True, slots=_SLOTS
        )
        mine = maximum(0, minimum(half, s.planes - SUBBLOCK * half))
        self._chunks(frame, s, mine, SUBBLOCK * half, half, workspace=workspace)
        dims = ((s.planes, constant(rows * FRACTAL)), (s.rows, constant(FRACTAL)), (constant(FRACTAL), _ONE))
        dst = Block(name, ZERO, ZERO, s.rows, s.planes * FRACTAL)
        c.tree.emit(frame, "copy_nz", "cube", "MTE2", dst, View(workspace, ZERO, dims))
        return name

    def _chunks(
        self, frame: Frame, s: Slice, mine: Expr, skip: Expr, most: int, *, workspace: str = "", l1: str = ""
    ) -> None:
        """The planes of one core, as many at a time as fit beside each other twice; ``skip`` come before them."""
        c = self.context
        room = int(c.target.memory["ub"].size * _SHARE)
        chunk = max(1, min(most, room // self._bytes(s.most[1], s)))
        chunk = -(-most // -(-most // chunk))
        inner, at = frame, ZERO
        if chunk < most:
            inner = Frame(c.tree.variable(f"{self.tile}_chunk"))
            at = symbol(inner.var)
        count = minimum(chunk, mine - at) if chunk < most else mine
        made, pitch = self._widened(inner, s, skip + at, count, chunk)
        lanes = ((count, constant(pitch)), (s.rows, constant(FRACTAL)), (constant(FRACTAL), _ONE))
        if workspace:
            to = View(workspace, (skip + at) * (s.most[1] * FRACTAL), self._runs(s, count, s.most[1] * FRACTAL))
            c.tree.emit(inner, "copy_out", "vector", "MTE3", to, View(made, ZERO, self._runs(s, count, pitch)))
        else:
            block = Block(l1, ZERO, at * FRACTAL, s.rows, count * FRACTAL)
            c.tree.emit(inner, "ub2l1", "cube", "MTE3", block, View(made, ZERO, lanes))
        if inner is not frame:
            frame.nodes.append(Loop(inner.var, ZERO, mine, constant(chunk), tuple(inner.nodes)))

    @staticmethod
    def _runs(s: Slice, count: Expr, pitch: int | Expr) -> Runs:
        """``count`` planes of a slice, each a run; one run where they follow on one another."""
        run = s.rows * FRACTAL
        if run == pitch:
            return ((count * run, _ONE),)
        return (count, constant(0) + pitch), (run, _ONE)

    def _bytes(self, rows: int, s: Slice) -> int:
        """Bytes of the unified buffer that a plane takes."""
        bits = self.weights.integers.dtype.bits
        size = 2 * rows * FRACTAL * bits // 8 + 2 * rows * FRACTAL * 2
        if self._by_shifts:
            size += rows * FRACTAL // 2
        if self.dtype is DType.BF16:
            size += rows * FRACTAL * (2 + 4)
        for load in self.weights.loads[1:]:
            groups = self._groups(load, rows)[0]
            size += 2 * BLOCK_BYTES + groups * FRACTAL * (2 * 2 + 4 + (_REPEAT // FRACTAL * 4))
        return size

    # -- one chunk -----------------------------------------------------------------------------------------------

    def _widened(self, frame: Frame, s: Slice, skip: Expr, count: Expr, chunk: int) -> tuple[str, int]:
        """The numbers of ``count`` planes in the unified buffer; its name, and elements from plane to plane."""
        w, rows = self.weights, s.most[1]
        pitch = rows * FRACTAL
        part = Slice(s.first + skip, count, s.start, s.rows, (chunk, rows))
        raw = self._read(frame, w.integers, part, s.start, s.rows, rows)
        narrow = self.dtype if self.dtype is DType.F16 else DType.F16
        rotating = frame if self.dtype is DType.F16 else None
        here = self.context.tree.add(f"{self.tile}_wide", "ub", narrow, (chunk, pitch), "vector", frame=rotating)
        self._cast(frame, raw, here, part, s.rows, pitch)
        if w.zero is not None:
            zeros, per, groups = self._parameter(frame, w.zero, part, DType.F16)
            self._apply(frame, "sub", here, zeros, part, per, groups, pitch)
        if self.dtype is DType.F16:
            if w.scale is not None:
                scales, per, groups = self._parameter(frame, w.scale, part, DType.F16)
                self._apply(frame, "mul", here, scales, part, per, groups, pitch)
            return here, pitch
        return self._through_f32(frame, here, part, pitch), pitch

    def _through_f32(self, frame: Frame, here: str, part: Slice, pitch: int) -> str:
        """f16 as bf16, by way of f32, in which scales are applied: there is no arithmetic on bf16."""
        c, w, chunk = self.context, self.weights, part.most[0]
        wide = c.tree.add(f"{self.tile}_f32", "ub", DType.F32, (chunk, pitch), "vector")
        runs = self._runs(part, part.planes, pitch)
        c.tree.emit(frame, "cast", "vector", "V", View(wide, ZERO, runs), View(here, ZERO, runs))
        if w.scale is not None:
            self._scaled(frame, wide, w.scale, part, pitch)
        out = c.tree.add(f"{self.tile}_narrow", "ub", self.dtype, (chunk, pitch), "vector", frame=frame)
        c.tree.emit(frame, "cast", "vector", "V", View(out, ZERO, runs), View(wide, ZERO, runs))
        return out

    def _cast(self, frame: Frame, raw: tuple[str, int], here: str, part: Slice, rows: Expr, pitch: int) -> None:
        """Integers to f16, each exactly."""
        name, per = raw
        c = self.context
        if self._by_shifts:
            self._shifted(frame, name, here, part, pitch)
            return
        run = rows * FRACTAL
        near = c.tree.buffers[name].shape[1].value
        to = self._runs(Slice(ZERO, part.planes, ZERO, rows, part.most), part.planes, pitch)
        if len(to) == 1 and near * per == pitch:
            source: Runs = ((part.planes * (pitch // per), _ONE),)
        else:
            to = ((part.planes, constant(pitch)), (run, _ONE))
            source = ((part.planes, constant(near)), (run // per, _ONE))
        op = "widen" if per > 1 else "cast"
        c.tree.emit(frame, op, "vector", "V", View(here, ZERO, to), View(name, ZERO, source))

    def _shifted(self, frame: Frame, name: str, here: str, part: Slice, pitch: int) -> None:
        """Four integers of each word, each of another quarter of the depth: up to the sign's place, and down again."""
        c = self.context
        quarter = pitch // 4
        if not part.rows.is_constant or part.rows.value != part.most[1] or part.most[1] % 4:
            raise self._unsupported("a depth that is no multiple of its slices, with weights of 4 bits on these cores,")
        words = c.tree.add(f"{self.tile}_words", "ub", DType.I16, (part.most[0], quarter), "vector")
        run = ((part.planes * quarter, _ONE),)
        moved = View(words, ZERO, run)
        for n in range(4):
            source = View(name, ZERO, run)
            if n < 3:
                c.tree.emit(frame, "shift_left", "vector", "V", moved, source, parameters=(("by", 12 - 4 * n),))
                source = moved
            c.tree.emit(frame, "shift_right", "vector", "V", moved, source, parameters=(("by", 12),))
            planes = ((part.planes, constant(pitch)), (constant(quarter), _ONE))
            near = ((part.planes, constant(quarter)), (constant(quarter), _ONE))
            c.tree.emit(
                frame, "cast", "vector", "V", View(here, constant(n * quarter), planes), View(words, ZERO, near)
            )

    def _read(self, frame: Frame, load: Load, part: Slice, start: Expr, count: Expr, most: int) -> tuple[str, int]:
        """Rows ``start`` … of the planes of a packed tensor; the buffer, and elements that one of its has."""
        c = self.context
        param = c.scheduled.kernel.param(load.tensor)
        pack = c.pack_of(load.tensor)
        assert pack is not None
        dtype, per = bytes_of(param, c.target)
        rows = product(pack.shape[1:]) // FRACTAL
        run, whole = count * (FRACTAL // per), rows * (FRACTAL // per)
        block = BLOCK_BYTES * 8 // dtype.bits
        lanes = round_up(most * (FRACTAL // per), block)
        name = c.tree.add(f"{load.tensor}_ub", "ub", dtype, (part.most[0], lanes), "vector", frame=frame)
        offset = part.first * whole + start * (FRACTAL // per)
        near: Runs = ((part.planes, constant(lanes)), (run, _ONE))
        far: Runs = ((part.planes, whole), (run, _ONE))
        if run == lanes and run == whole:  # planes follow on one another in both places
            near = far = ((part.planes * run, _ONE),)
        c.tree.emit(frame, "copy_in", "vector", "MTE2", View(name, ZERO, near), View(load.tensor, offset, far))
        return name, per

    # -- scales and zero points ----------------------------------------------------------------------------------

    def _groups(self, load: Load, rows: int) -> tuple[int, int]:
        """How many groups a slice has at most, and rows of a group in it."""
        block = self._block(load)
        if not block or block >= rows:
            return 1, 0
        return -(-rows // block), block

    def _block(self, load: Load) -> int:
        """Lanes of depth that share a scale; 0 where all do."""
        kernel = self.context.scheduled.kernel
        shape, depth = kernel.param(load.tensor).shape, kernel.param(self.weights.integers.tensor).shape[0]
        return 0 if len(shape) < 2 else depth.value // shape[0].value

    def _parameter(self, frame: Frame, load: Load, part: Slice, dtype: DType) -> tuple[str, int, Expr]:
        """Zero points or scales of a chunk as ``dtype``: a row of 16 for each group of each plane."""
        c = self.context
        most, rows = self._groups(load, part.most[1])
        block = self._block(load)
        start = part.start // block if block else ZERO
        groups = part.rows // rows if rows else constant(1)
        name, per = self._read(frame, load, part, start, groups, most)
        pitch = c.tree.buffers[name].shape[1].value * per
        if c.tree.buffers[name].dtype is not dtype:
            source, name = name, c.tree.add(f"{load.tensor}_wide", "ub", dtype, (part.most[0], pitch), "vector")
            run = groups * FRACTAL
            near = ((part.planes, constant(pitch)), (run, _ONE))
            far = ((part.planes, constant(pitch // per)), (run // per, _ONE))
            op = "widen" if per > 1 else "cast"
            c.tree.emit(frame, op, "vector", "V", View(name, ZERO, near), View(source, ZERO, far))
        return name, pitch, groups

    def _apply(
        self, frame: Frame, op: str, here: str, by: str, part: Slice, per: int, groups: Expr, pitch: int
    ) -> None:
        """Combine the lanes of each group with its block of 16 numbers of f16."""
        run = self._rows_of_group(part, groups) * FRACTAL
        step = run if groups != 1 else constant(pitch)
        lanes = ((part.planes, constant(pitch)), (groups, step), (run, _ONE))
        blocks = ((part.planes, constant(per)), (groups, constant(FRACTAL)), (run, ZERO))
        view = View(here, ZERO, lanes)
        self.context.tree.emit(frame, op, "vector", "V", view, view, View(by, ZERO, blocks))

    def _rows_of_group(self, part: Slice, groups: Expr) -> Expr:
        scale = self.weights.scale or self.weights.zero
        assert scale is not None
        rows = self._groups(scale, part.most[1])[1]
        return constant(rows) if rows else part.rows

    def _scaled(self, frame: Frame, wide: str, load: Load, part: Slice, pitch: int) -> None:
        """The same in f32, where 16 numbers are two blocks: they are laid out four times, a repeat."""
        c = self.context
        scales, per, groups = self._parameter(frame, load, part, load.dtype)
        times = _REPEAT // FRACTAL
        run = self._rows_of_group(part, groups)
        if not run.is_constant or run.value % times:
            raise self._unsupported(f"scales of {run} weights in {self.dtype}")
        most = self._groups(load, part.most[1])[0]
        tiled = c.tree.add(f"{load.tensor}_tiled", "ub", DType.F32, (part.most[0], most * _REPEAT), "vector")
        source, count = (part.planes, constant(per)), (groups, constant(FRACTAL))
        far = (source, count, (constant(times), ZERO), (constant(FRACTAL), _ONE))
        near = (
            (part.planes, constant(most * _REPEAT)),
            (groups, constant(_REPEAT)),
            (constant(times), constant(FRACTAL)),
            (constant(FRACTAL), _ONE),
        )
        op = "copy" if load.dtype is DType.F32 else "cast"
        c.tree.emit(frame, op, "vector", "V", View(tiled, ZERO, near), View(scales, ZERO, far))
        repeats = run.value // times
        lanes = (
            (part.planes, constant(pitch)),
            (groups, constant(run.value * FRACTAL)),
            (constant(repeats), constant(_REPEAT)),
            (constant(_REPEAT), _ONE),
        )
        blocks = (
            (part.planes, constant(most * _REPEAT)),
            (groups, constant(_REPEAT)),
            (constant(repeats), ZERO),
            (constant(_REPEAT), _ONE),
        )
        view = View(wide, ZERO, lanes)
        c.tree.emit(frame, "mul", "vector", "V", view, view, View(tiled, ZERO, blocks))

    def _unsupported(self, what: str) -> UnsupportedError:
        return UnsupportedError(
            "ascend-weights",
            where=f"kernel {self.context.scheduled.kernel.name} on {self.context.target.spelling}",
            cause=f"{what} are not widened here",
            fix="quantize in groups of 32, 64 or 128, or run this kernel on the host",
        )


def slice_of(context: Context, rows: str, columns: str) -> Slice:
    """The planes and rows of depth that stand before the product in the open loops."""
    c = context
    planes = -(-c.lanes(columns) // FRACTAL)
    count = ceildiv(c.count(columns), FRACTAL)
    return Slice(c.start(columns) // FRACTAL, count, c.start(rows), c.count(rows), (planes, c.lanes(rows)))
