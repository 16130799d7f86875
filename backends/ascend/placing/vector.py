"""Everything that is no contraction, on the vector cores: statements of the scheduled form as vector instructions.

A tile takes the buffer its last instruction wrote; temporaries are recycled as soon as nothing reads them. A row
statistic that meets a whole tile is first spread over blocks of 32 bytes (``Brcb``), which instructions can repeat
along a row; a column vector repeats along rows with stride 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import SUBBLOCK, Instruction, Scalar, View
from tilewright.backends.ascend.placed.layout import FRACTAL
from tilewright.backends.ascend.placing.blocks import leave_in_blocks
from tilewright.backends.ascend.placing.casts import held, steps
from tilewright.backends.ascend.placing.frame import Frame
from tilewright.backends.ascend.placing.numbers import folded
from tilewright.backends.ascend.placing.operand import flat_index
from tilewright.backends.ascend.placing.parts import parts_of, put
from tilewright.backends.ascend.placing.reductions import Reductions
from tilewright.backends.ascend.placing.strips import SPREAD, Piece, Strip
from tilewright.backends.ascend.placing.words import into_long
from tilewright.ir.symbolic import Expr, constant
from tilewright.ir.types import DType
from tilewright.kernel.analysis import used_symbols
from tilewright.kernel.expr import Cast, Load, Ref, Value
from tilewright.kernel.schedule import Compute, Fill, For, Node, Rotate, Write

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.cube import CubePart
    from tilewright.backends.ascend.placing.frame import Frame

_FOLD = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "max", "all": "min"}


@dataclass(slots=True)
class VectorPart(Reductions):
    """Places vector work. ``indices``: tiles that are only read as the index of a load."""

    cube: CubePart = field(init=False)
    indices: frozenset[str] = frozenset()

    # -- statements ----------------------------------------------------------------------------------------------

    def fill(self, node: Fill) -> None:
        """Every lane of a tile becomes a constant."""
        tile = self.context.scope.tiles[node.tile]
        dtype = DType.F16 if tile.dtype is DType.BOOL else self._sum_type(node.tile)
        strip = self.temporary(self.wide([d.axis for d in tile.dims]), dtype)
        self.emit("duplicate", strip, strip.axes, Scalar(float(node.value.value)))
        self.keep(node.tile, strip)

    def _sum_type(self, tile: str) -> DType:
        """The type in which a tile that is filled first holds what is then combined into it."""
        made = self.numbers.made.get(tile)
        dtype = self.context.scope.tiles[tile].dtype
        if made is None or made.reduce is None:
            return dtype if dtype in (DType.F32, DType.F16) else DType.F32 if dtype is DType.BF16 else DType.I32
        if dtype.is_integer:
            return DType.I32 if made.reduce.op in ("sum", "prod") else self.carrier(made.value)
        return DType.F32 if dtype is DType.BF16 or made.reduce.op in ("sum", "prod") else dtype

    def compute(self, node: Compute) -> None:
        """One definition, element-wise or reduced."""
        if node.tile in self.indices:
            return
        value = folded(node.value, self.context.scope.facts, self.numbers.made)
        own = self.wide(node.axes)
        self.begin(value)
        if node.reduce is None:
            self._adopt(node.tile, self.value(value), own, value)
        else:
            self._reduce(node, value, own)
        self.finish()

    def _reduce(self, node: Compute, value: Value, own: tuple[str, ...]) -> None:
        assert node.reduce is not None
        op, axes = node.reduce.op, self.wide(node.reduce.axes)
        result = self.reduced(op, value, own, axes)
        if node.accumulate:
            total = self.tiles[node.tile]
            result = self._strip(self.carry(result, total.dtype))
            self.emit(_FOLD[op], total, own, total, result)
            self.recycle(result)
            return
        self.keep(node.tile, result)

    def write(self, node: Write) -> None:
        """Store to global memory, the last operation going straight into the outgoing buffer."""
        c = self.context
        if any(not isinstance(i, Expr) for i in node.index):
            self._write_at(node)
            return
        axes = self.wide(node.axes)
        index = tuple(self._settled(i, axes) for i in node.index if isinstance(i, Expr))
        flat = flat_index(c.scheduled.kernel, node.tensor, index)
        strides = {a: self._stride(flat, a, node.tensor) for a in axes}
        value = folded(node.value, c.scope.facts, self.numbers.made)
        self.begin(value)
        if "copy_pad" not in c.target.features and (parts := parts_of(self, node)) is not None:
            put(self, parts, node, value)
            self.finish()
            return
        near = next((a for a in reversed(axes) if strides[a] == 1), None)
        natural = (*(a for a in axes if a != near), near) if near is not None else axes
        moves = isinstance(value, Load) and (near is not None or not axes)
        if moves and isinstance(value, Load) and (moved := self._moved(value, natural)) is not None:
            self._leave(node.tensor, moved, flat, natural, strides)
        elif not axes or near == axes[-1]:
            self._leave(node.tensor, self.converted(value, axes, f"{node.tensor}_out"), flat, axes, strides)
        elif near is not None:
            out = self.converted(value, axes, f"{node.tensor}_out", narrow=False)
            leaving = self._outgoing(self.turned(out, natural), natural, node.value.dtype, node.tensor)
            self._leave(node.tensor, leaving, flat, natural, strides)
        else:
            self._scatter(node, value, flat, axes, strides)
        self.finish()

    def _write_at(self, node: Write) -> None:
        """Store where an index points that only a run tells."""
        c = self.context
        index, gathers = self._indices(Load(node.tensor, node.index, node.value.dtype))
        axes = self.wide(node.axes)
        rows = self.wide(self._used(gathers))
        settled = [None if i is None else self._settled(i, axes) for i in index]
        strides = self._strides_beside(node.tensor, settled, axes, rows)
        near = next((a for a in reversed(axes) if strides.get(a) == 1), None)
        inner = (*(a for a in axes if a not in rows and a != near), *((near,) if near else ()))
        order, dtype = (*rows, *inner), held(node.value.dtype)
        value = folded(node.value, c.scope.facts, self.numbers.made)
        self.begin(value)
        strip = self._moved(value, order) if isinstance(value, Load) and near else None
        if strip is None and near is None and axes:
            strip = self._apart(value, axes, node.tensor, dtype)
        elif strip is None and order == axes:
            strip = self.converted(value, axes, f"{node.tensor}_out")
        elif strip is None:
            out = self.converted(value, axes, f"{node.tensor}_out", narrow=False)
            strip = self._outgoing(self.turned(out, order), order, node.value.dtype, node.tensor)
        self._left_at(node.tensor, strip, settled, gathers, inner)
        self.finish()

    def _apart(self, value: Value, axes: tuple[str, ...], tensor: str, dtype: DType) -> Strip:
        """``value`` with each element at the beginning of a block of 32 bytes, from where it can leave alone."""
        if dtype.bits not in (16, 32):
            raise self.unsupported(f"a store of single elements of {dtype}")
        piece = self.converted(value, axes, f"{tensor}_single")
        spread = (*axes, SPREAD)
        wide = Strip(self.buffer(f"{tensor}_out", spread, dtype, self.context.tree.top), spread, dtype)
        self._brcb(piece, wide, 32 * 8 // dtype.bits)
        return wide

    def _moved(self, load: Load, axes: tuple[str, ...]) -> Strip | None:
        """What is only moved, in the order in which it leaves; ``None`` where it has to be turned or spread."""
        index, gathers = self._indices(load)
        used = self.wide({s for i in index if i is not None for s in i.symbols} | self._used(gathers))
        if gathers or set(used) != set(axes) or load.fill is not None:
            strip = None
            if set(used) == set(axes) and used == axes and (gathers or load.fill is not None):
                strip = self.load(load)
            kept = strip is not None and strip.axes in (axes, (*axes, SPREAD)) and strip.dtype == held(load.dtype)
            return strip if kept else None
        flat = flat_index(self.context.scheduled.kernel, load.tensor, tuple(self._settled(i, axes) for i in index if i))
        strides = {a: self._stride(flat, a, load.tensor) for a in axes}
        if axes and strides[axes[-1]] != 1:
            return None
        return self._copied(load, flat, axes, strides, self.context.tree.top)

    def _leave(self, tensor: str, strip: Strip, flat: Expr, axes: tuple[str, ...], strides: dict[str, Expr]) -> None:
        c = self.context
        target, source = self._in_memory(tensor, flat, axes, strides), self.view(strip, axes)
        single = strip.axes[-1:] == (SPREAD,)  # each element by itself
        if "copy_pad" not in c.target.features:
            if single:
                raise self.unsupported(f"single elements of {tensor} are no whole blocks")
            leave_in_blocks(self, strip, target, axes)
            return
        if single:
            one = (constant(1), constant(1))
            target, source = replace(target, dims=(*target.dims, one)), replace(source, dims=(*source.dims, one))
        c.tree.emit(c.tree.top, "copy_out", "vector", "MTE3", target, source)

    def _scatter(self, node: Write, value: Value, flat: Expr, axes: tuple[str, ...], strides: dict[str, Expr]) -> None:
        """Elements that are no neighbours in memory: one transfer each, from blocks of 32 bytes."""
        c = self.context
        wide = self._apart(value, axes, node.tensor, held(node.value.dtype))
        one = (constant(1), constant(1))
        offset = flat.substitute({a: c.start(a, True) for a in axes})
        target = View(node.tensor, offset, (*((c.count(a, True), strides[a]) for a in axes), one))
        c.tree.emit(c.tree.top, "copy_out", "vector", "MTE3", target, self._rows_of(wide))

    def rotate(self, node: Rotate) -> None:
        """Carries take their new values."""
        for carry, tile in node.pairs:
            old, new = self.tiles[carry], self.tiles[tile]
            self.emit("copy", old, old.axes, new)

    def release(self, node: Node, used: set[str]) -> None:
        """Recycle tiles that no later statement of this body uses, unless an outer one may."""
        if isinstance(node, Compute | For | Rotate | Write):
            declared = {t for t in self.tiles if t in self.context.scope.tiles and t in self.kept_here()}
            for name in sorted(declared - used):
                strip = self.tiles.pop(name)
                if strip.buffer not in {s.buffer for s in self.tiles.values()}:
                    self.recycle(strip)

    def export(self, value: Value, axes: tuple[str, ...], workspace: str, pitch: int) -> None:
        """Write this core's rows of ``value`` to a workspace that the cube core will read; one that both cores have
        whole is written by the first of them."""
        c = self.context
        self.begin(value)
        out = self.converted(value, axes, f"{workspace}_out")
        target, source = self.workspace(workspace, axes, pitch), self.view(out, axes)
        if c.split is not None and c.split not in axes:
            target, source = (replace(v, dims=_first_core(v.dims)) for v in (target, source))
        c.tree.emit(c.tree.top, "copy_out", "vector", "MTE3", target, source)
        self.finish()

    def lay(self, value: Value, axes: tuple[str, ...], name: str) -> View:
        """``value`` in the unified buffer of a fused core, from where it goes on into L1."""
        self.begin(value)
        out = self.converted(value, axes, f"{name}_out")
        view = self.view(out, axes)
        self.finish()
        return view

    def axes_of(self, value: Value) -> tuple[str, ...]:
        """The axes of ``value`` in the order of the kernel."""
        used = used_symbols(value)
        return tuple(a.name for a in self.context.scheduled.kernel.axes if a.name in used)

    # -- tiles ---------------------------------------------------------------------------------------------------

    def tile(self, name: str) -> Piece:
        """The strip of a kernel tile; a sum of the cube core comes through the workspace."""
        return self._import(name) if name in self.context.cube_tiles else Reductions.tile(self, name)

    def _import(self, tile: str) -> Strip:
        """A sum of the cube core: this core's rows of it, through the workspace."""
        c = self.context
        if c.fused:
            name, axes, _ = self.cube.drained(tile)
            return Strip(name, axes, c.tree.buffers[name].dtype)
        workspace, axes, frame, pitch = self.cube.export(tile)
        frame = c.tree.top if c.stripped else frame
        if ("import", tile) not in frame.loaded:
            dtype = c.tree.buffers[workspace].dtype
            turned = self.turns(axes)
            name = self.buffer(f"{tile}_ub", axes, dtype, frame, FRACTAL if turned else 1)
            strip = Strip(name, axes, dtype)
            source = self.workspace(workspace, axes, pitch)
            c.tree.emit(frame, "copy_in", "vector", "MTE2", self.view(strip, axes), source)
            strip = self._in_order(strip, frame) if turned else self._side_by_side(strip, frame)
            frame.loaded["import", tile] = strip
        return frame.loaded["import", tile]  # type: ignore[return-value]

    def turns(self, axes: tuple[str, ...]) -> bool:
        """Whether a sum over ``axes`` (rows, columns) is turned before anything is computed from it."""
        return self.context.lanes(axes[0]) > 1 and self.ordered(axes) != axes

    def _in_order(self, strip: Strip, frame: Frame) -> Strip:
        """A sum whose rows are the last axis of tiles, turned once for all that is computed from it."""
        if frame is not self.context.tree.top:
            raise self.unsupported(f"a sum over {', '.join(strip.axes)} that is read turned in an inner loop")
        made = self.turned(strip, strip.axes[::-1])
        return Strip(made.buffer, made.axes, made.dtype)

    def _side_by_side(self, strip: Strip, frame: Frame) -> Strip:
        """A column, each lane of which came in a block of its own, as lanes side by side: rows of one lane reduced."""
        c, axes = self.context, strip.axes
        if len(axes) < 2 or c.lanes(axes[-1]) > 1 or c.lanes(axes[-2]) == 1:
            return strip
        if strip.dtype != DType.F32:
            raise self.unsupported(f"a column of {strip.dtype} sums")
        made = Strip(self.buffer(f"{strip.buffer}_column", axes[:-1], strip.dtype, frame), axes[:-1], strip.dtype)
        c.tree.emit(frame, "row_max", "vector", "V", self.view(made, made.axes), self.view(strip, axes))
        return made

    def _adopt(self, tile: str, piece: Piece, axes: tuple[str, ...], value: Value) -> None:
        """``tile`` becomes what was computed, in the buffer where it is if that is nobody else's."""
        dtype = self.numbers.carrier(value) or value.dtype
        if isinstance(value, Load) and isinstance(piece, Strip) and self.numbers.carrier(value) is None:
            self.keep(tile, piece)  # it can only be moved on
            return
        if isinstance(piece, Strip) and piece.dtype not in (DType.BF16, DType.I32, DType.I64):
            piece = self.carry(piece, dtype)
        strip = self.strip(piece, axes, dtype)
        came = self.context.stripped and isinstance(value, Ref) and value.tile in self.context.cube_tiles
        if came and strip.axes == axes:
            self.keep(tile, Strip(strip.buffer, axes, strip.dtype))  # nobody writes what came in
            return
        kept = strip.buffer in {s.buffer for s in self.kept_parts.values()}
        if not strip.pooled or kept or strip.axes != axes:
            copy = self.temporary(axes, strip.dtype)
            self.emit("copy", copy, axes, strip)
            strip = copy
        self.keep(tile, strip)

    # -- what leaves ---------------------------------------------------------------------------------------------

    def converted(self, value: Value, axes: tuple[str, ...], name: str, narrow: bool = True) -> Strip:
        """``value`` over all of ``axes``, in a buffer of its own that a transfer reads; without ``narrow`` in the type
        that it was computed in."""
        inner = value.x if isinstance(value, Cast) and self._narrows(value) else value
        dtype = held(value.dtype)
        before = len(self.context.tree.top.nodes)
        piece = self.value(inner) if inner is value else self.before_rounding(inner, value.dtype)
        if isinstance(piece, Scalar):
            kind = self.numbers.carrier(inner) or dtype
            piece = self.strip(piece, axes, DType.F32 if kind is DType.F16 and dtype is DType.BF16 else kind)
        if not narrow:
            return self._whole(piece, axes)
        return self._outgoing(piece, axes, value.dtype, name.removesuffix("_out"), before)

    def _narrows(self, value: Cast) -> bool:
        """Whether the cast into the outgoing buffer does what ``value`` does."""
        return value.dtype.is_float and value.x.dtype.is_float

    def _whole(self, piece: Strip, axes: tuple[str, ...]) -> Strip:
        if piece.dtype.bits == 8:
            piece = self._strip(self.carry(piece, DType.F16))
        if piece.axes == axes:
            return piece
        strip = self.temporary(axes, piece.dtype)
        self.emit("copy", strip, axes, piece)
        self.recycle(piece)
        return strip

    def _outgoing(self, piece: Strip, axes: tuple[str, ...], dtype: DType, name: str, before: int = 0) -> Strip:
        """``piece`` as ``dtype`` in a double buffer: the instruction that made it writes there where it can."""
        final = held(dtype)
        if SPREAD in piece.axes:
            raise self.unsupported(f"single elements of {dtype} that are not only moved")
        way = steps(piece.dtype, final, self.context.target.features)
        if (
            way is None
            and final in (DType.I32, DType.I64)
            and piece.dtype.bits <= 32
            and "split" not in self.context.target.features
        ):
            return self._outgoing_words(piece, axes, final, name)
        if way is None:
            raise self.unsupported(f"a store of {dtype} from {piece.dtype}")
        for step in way[:-1]:
            piece = self._strip(self.carry(piece, step))
        top = self.context.tree.top
        turned = bool(top.nodes) and isinstance(top.nodes[-1], Instruction) and top.nodes[-1].op == "transpose"
        out = Strip(self.buffer(f"{name}_out", axes, final, top, FRACTAL if turned and not way else 1), axes, final)
        if way:
            if DType.BF16 in (piece.dtype, final) and "bf16" not in self.context.target.features:
                raise self.unsupported(f"a cast of {piece.dtype} to {final}")
            if piece.axes != axes:
                piece = self._whole(piece, axes)
            self.emit("cast", out, axes, piece)
        elif piece.pooled and piece.axes == axes and self._redirected(piece, out, before):
            pass
        elif final.bits == 8:
            raise self.unsupported(f"a store of {dtype} that is spread")
        else:
            self.emit("copy", out, axes, piece)
        self.recycle(piece)
        return out

    def _outgoing_words(self, piece: Strip, axes: tuple[str, ...], final: DType, name: str) -> Strip:
        """The same for integers that no cast makes of ``piece``."""
        words = self._whole(self._strip(self.carry(piece, DType.I32)), axes)
        if final is DType.I32:
            return self._outgoing(words, axes, final, name)
        out = Strip(self.buffer(f"{name}_out", axes, final, self.context.tree.top), axes, final)
        into_long(self, words, out)
        return out

    def _redirected(self, piece: Strip, out: Strip, before: int) -> bool:
        """Have the last instruction write ``out`` instead of ``piece``; False where others may read that."""
        nodes = self.context.tree.top.nodes
        if len(nodes) <= before or piece.buffer in {s.buffer for s in self.kept_parts.values()}:
            return False
        last = nodes[-1]
        if not isinstance(last, Instruction) or last.pipe != "V" or last.dst != self.view(piece, piece.axes):
            return False
        if any(s.buffer == piece.buffer for s in self.tiles.values()):
            return False
        nodes[-1] = replace(last, dst=self.view(out, out.axes))
        return True


def _first_core(dims: tuple[tuple[Expr, Expr], ...]) -> tuple[tuple[Expr, Expr], ...]:
    """``dims`` on the first vector core of a group, no lane on the second."""
    (count, stride), *rest = dims
    return ((1 - SUBBLOCK) * count, stride), *rest
