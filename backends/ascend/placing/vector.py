"""Everything that is no contraction, on the vector cores: element-wise arithmetic, row reductions, loads and stores.

A tile takes the buffer its last instruction wrote; temporaries are recycled as soon as nothing reads them. A row
statistic that meets a whole tile is first spread over blocks of 32 bytes (``Brcb``), which instructions can repeat
along a row; a column vector repeats along rows with stride 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import Scalar
from tilewright.backends.ascend.placing.operand import flat_index
from tilewright.backends.ascend.placing.special import SPECIAL
from tilewright.backends.ascend.placing.strips import Piece, Strip, Strips
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType
from tilewright.kernel.analysis import used_symbols
from tilewright.kernel.expr import COMPARE, Binary, Cast, Const, IndexValue, Load, Ref, Select, Unary, Value
from tilewright.kernel.schedule import Compute, Fill, For, Node, Rotate, Write

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.cube import CubePart

#: Element-wise operations that are one instruction.
_DIRECT_UNARY = {"exp": "exp", "log": "ln", "abs": "abs", "sqrt": "sqrt"}
_DIRECT_BINARY = frozenset(["add", "sub", "mul", "div", "max", "min"])
#: Those with a form that takes one scalar (Adds, Muls, Maxs, Mins).
_WITH_SCALAR = frozenset(["add", "mul", "max", "min"])


@dataclass(slots=True)
class VectorPart(Strips):
    """Places vector work. ``tiles``: kernel tiles by name."""

    cube: CubePart = field(init=False)
    tiles: dict[str, Strip] = field(default_factory=dict)

    # -- statements ----------------------------------------------------------------------------------------------

    def fill(self, node: Fill) -> None:
        """Every lane of a tile becomes a constant."""
        c = self.context
        tile = c.scope.tiles[node.tile]
        strip = self.temporary(c.wide([d.axis for d in tile.dims]), tile.dtype)
        self.emit("duplicate", strip, strip.axes, Scalar(float(node.value.value)))
        self.tiles[node.tile] = strip
        self.kept_here().add(node.tile)

    def compute(self, node: Compute) -> None:
        """One definition, element-wise or reduced along the last axis."""
        c = self.context
        if node.reduce is None:
            self._adopt(node.tile, self.value(node.value, c.wide(node.axes)), c.wide(node.axes), node.value.dtype)
            return
        own, reduced = c.wide(node.axes), c.wide(node.reduce.axes)
        op = {"sum": "row_sum", "max": "row_max", "min": "row_min"}.get(node.reduce.op)
        if op is None or len(reduced) > 1:
            raise self.unsupported(f"a {node.reduce.op} over {', '.join(reduced)}")
        source = self.strip(self.value(node.value, (*own, *reduced)), (*own, *reduced), node.value.dtype)
        result = self.temporary(own, node.value.dtype)
        view = self.view(source, (*own, *reduced))
        c.tree.emit(c.tree.top, op, "vector", "V", self.view(result, own), view)
        self.recycle(source)
        if node.accumulate:
            total = self.tiles[node.tile]
            self.emit(op.replace("row_", "").replace("sum", "add"), total, own, total, result)
            self.recycle(result)
        else:
            self._adopt(node.tile, result, own, node.value.dtype)

    def write(self, node: Write) -> None:
        """Store to global memory, the last conversion going straight into the outgoing buffer."""
        c = self.context
        axes = c.wide(node.axes)
        out = self._converted(node.value, axes, f"{node.tensor}_out")
        others = {a: c.start(a, True) for a in node.axes if a not in axes}
        index = tuple(c.expr(i.substitute(others)) for i in node.index if isinstance(i, Expr))
        if len(index) < len(node.index):
            raise self.unsupported(f"a scatter to {node.tensor}")
        flat = flat_index(c.scheduled.kernel, node.tensor, index)
        c.tree.emit(
            c.tree.top, "copy_out", "vector", "MTE3", self.in_memory(node.tensor, flat, axes), self.view(out, axes)
        )

    def rotate(self, node: Rotate) -> None:
        """Carries take their new values."""
        for carry, tile in node.pairs:
            old, new = self.tiles[carry], self.tiles[tile]
            self.emit("copy", old, old.axes, new)

    def release(self, node: Node, used: set[str]) -> None:
        """Recycle tiles that no later statement of this body uses, unless an outer one may."""
        if isinstance(node, Compute | For | Rotate | Write):
            declared = {t for t in self.tiles if t in self.context.scope.tiles and self._is_local(t)}
            for name in sorted(declared - used):
                strip = self.tiles.pop(name)
                if strip.buffer not in {s.buffer for s in self.tiles.values()}:
                    self.recycle(strip)

    def _is_local(self, tile: str) -> bool:
        """Whether the tile was made in the innermost open loop."""
        return tile in self.kept_here()

    def kept_here(self) -> set[str]:
        return self.context.tree.top.loaded.setdefault("tiles", set())  # type: ignore[return-value]

    def export(self, value: Value, axes: tuple[str, ...], workspace: str, pitch: int) -> None:
        """Write this core's rows of ``value`` to a workspace that the cube core will read."""
        c = self.context
        out = self._converted(value, axes, f"{workspace}_out")
        target = self.workspace(workspace, axes, pitch)
        c.tree.emit(c.tree.top, "copy_out", "vector", "MTE3", target, self.view(out, axes))

    def axes_of(self, value: Value) -> tuple[str, ...]:
        """The axes of ``value`` in the order of the kernel."""
        used = used_symbols(value)
        return tuple(a.name for a in self.context.scheduled.kernel.axes if a.name in used)

    # -- values --------------------------------------------------------------------------------------------------

    def value(self, v: Value, axes: tuple[str, ...]) -> Piece:
        """Compute ``v``; the result has those of ``axes`` that it depends on."""
        match v:
            case Const(value=number):
                return Scalar(float(number))
            case Ref(tile=tile):
                return self._tile(tile)
            case Load():
                return self._load(v)
            case IndexValue():
                return self._index(v)
            case Cast(dtype=dtype, x=x):
                return self._cast(self.value(x, axes), dtype)
            case Unary(op=op, x=x):
                return self._unary(op, self.value(x, axes), v.dtype)
            case Binary(op=op) if op not in COMPARE:
                return self._binary(op, self.value(v.a, axes), self.value(v.b, axes), v.dtype)
            case Select(cond=cond, a=a, b=b):
                return self._select(cond, a, b, axes)
        raise self.unsupported(f"{type(v).__name__.lower()} {getattr(v, 'op', '')}".strip())

    def _tile(self, tile: str) -> Strip:
        if tile in self.context.cube_tiles:
            return self._import(tile)
        strip = self.tiles[tile]
        return Strip(strip.buffer, strip.axes, strip.dtype)

    def _import(self, tile: str) -> Strip:
        """A sum of the cube core: this core's rows of it, through the workspace."""
        c = self.context
        workspace, axes, frame, pitch = self.cube.export(tile)
        frame = c.tree.top if c.stripped else frame
        if ("import", tile) not in frame.loaded:
            dtype = c.tree.buffers[workspace].dtype
            name = self.buffer(f"{tile}_ub", axes, dtype, frame)
            strip = Strip(name, axes, dtype)
            source = self.workspace(workspace, axes, pitch)
            c.tree.emit(frame, "copy_in", "vector", "MTE2", self.view(strip, axes), source)
            frame.loaded["import", tile] = strip
        return frame.loaded["import", tile]  # type: ignore[return-value]

    def _load(self, load: Load) -> Strip:
        c = self.context
        if any(not isinstance(i, Expr) for i in load.index):
            raise self.unsupported(f"a gathered read of {load.tensor}")
        if load.fill is not None:
            raise self.unsupported(f"a read of {load.tensor} outside its bounds on a vector core")
        axes = c.wide(self.axes_of(load))
        others = {a: c.start(a, True) for a in self.axes_of(load) if a not in axes}
        index = tuple(c.expr(i.substitute(others)) for i in load.index if isinstance(i, Expr))
        flat = flat_index(c.scheduled.kernel, load.tensor, index)
        axes = tuple(sorted(axes, key=lambda a: flat.coefficient(a) == 1))
        frame = c.tree.frame_of([*index, *(e for a in axes for e in (c.start(a, True), c.count(a, True)))])
        if load not in frame.loaded:
            strip = Strip(self.buffer(f"{load.tensor}_ub", axes, load.dtype, frame), axes, load.dtype)
            source = self.in_memory(load.tensor, flat, axes)
            c.tree.emit(frame, "copy_in", "vector", "MTE2", self.view(strip, axes), source)
            frame.loaded[load] = strip
        return frame.loaded[load]  # type: ignore[return-value]

    def _index(self, v: IndexValue) -> Piece:
        """Positions along one axis, as f32, which is exact below 2^24."""
        c = self.context
        axes = c.wide([a.name for a in c.scheduled.kernel.axes if a.name in v.index.symbols])
        others = {a: c.start(a, True) for a in c.scope.ranges if a in v.index.symbols and a not in axes}
        index = c.expr(v.index.substitute(others))
        low, high = bounds(v.index, c.scope.facts)
        if max(-low, high) >= 1 << 24:
            raise self.unsupported(f"positions {v.index} up to {high}, which f32 cannot hold")
        if not axes:
            return Scalar(index)
        if len(axes) > 1 or index.coefficient(axes[0]) != 1:
            raise self.unsupported(f"positions {v.index} over {len(axes)} axes")
        strip = self.temporary(axes, DType.F32)
        first = index.substitute({axes[0]: c.start(axes[0], True)})
        self.emit("iota", strip, axes, Scalar(first))
        return strip

    def _cast(self, piece: Piece, dtype: DType) -> Piece:
        if isinstance(piece, Scalar) or piece.dtype == dtype:
            return piece
        result = self.temporary(piece.axes, dtype)
        self.emit("cast", result, piece.axes, piece)
        self.recycle(piece)
        return result

    def _unary(self, op: str, piece: Piece, dtype: DType) -> Piece:
        if isinstance(piece, Scalar):
            piece = self.strip(piece, (), dtype)
        if op == "neg":
            return self._binary("mul", piece, Scalar(-1.0), dtype)
        if op == "reciprocal":
            return self._binary("div", Scalar(1.0), piece, dtype)
        if op in SPECIAL:
            return SPECIAL[op](self, piece)
        if op not in _DIRECT_UNARY:
            raise self.unsupported(op)
        result = self.result(piece.axes, dtype, piece)
        self.emit(_DIRECT_UNARY[op], result, piece.axes, piece)
        self.recycle(piece, result)
        return result

    def _binary(self, op: str, a: Piece, b: Piece, dtype: DType) -> Piece:
        if op not in _DIRECT_BINARY:
            raise self.unsupported(op)
        axes = self.joined(a, b)
        if isinstance(a, Scalar) and not isinstance(b, Scalar) and op in _WITH_SCALAR:
            a, b = b, a
        if isinstance(b, Scalar) and op == "sub" and not isinstance(b.value, Expr):
            op, b = "add", Scalar(-b.value)
        if isinstance(a, Scalar):
            a = self.strip(a, axes, dtype)
        if isinstance(b, Scalar) and op not in _WITH_SCALAR:
            b = self.strip(b, axes, dtype)
        a, b = self.spread(a, axes), self.spread(b, axes)
        result = self.result(axes, dtype, a, b)
        self.emit(op, result, axes, a, b)
        self.recycle(a, result)
        self.recycle(b, result)
        return result

    def _select(self, cond: Value, a: Value, b: Value, axes: tuple[str, ...]) -> Piece:
        if not isinstance(cond, Binary) or cond.op not in COMPARE:
            raise self.unsupported("a selection by anything but one comparison")
        left, right = self.value(cond.a, axes), self.value(cond.b, axes)
        x, y = self.value(a, axes), self.value(b, axes)
        return self.choose(cond.op, (left, right), (x, y), a.dtype)

    def choose(self, op: str, sides: tuple[Piece, Piece], values: tuple[Piece, Piece], dtype: DType) -> Piece:
        """The first of ``values`` where the comparison of ``sides`` holds, else the second."""
        left, right = sides
        x, y = values
        c = self.context
        axes = self.joined(self.joined_strip(left, right), self.joined_strip(x, y))
        left = self.spread(self.strip(left, axes, DType.F32), axes)
        right = (
            right
            if isinstance(right, Scalar) and not isinstance(right.value, Expr)
            else self.strip(right, axes, DType.F32)
        )
        right = self.spread(right, axes)
        mask = self.temporary(axes, DType.U8, 8)
        view = self.view(mask, axes, 8)
        c.tree.emit(c.tree.top, f"compare_{op}", "vector", "V", view, self.view(left, axes), self.at(right, axes))
        self.recycle(left)
        self.recycle(right)
        x, y = (self.spread(self.strip(p, axes, dtype), axes) for p in (x, y))
        result = self.result(axes, dtype, x, y)
        c.tree.emit(
            c.tree.top,
            "select",
            "vector",
            "V",
            self.view(result, axes),
            view,
            self.view(x, axes),
            self.view(y, axes),
        )
        for p in (mask, x, y):
            self.recycle(p, result)
        return result

    # -- results -------------------------------------------------------------------------------------------------

    def _adopt(self, tile: str, piece: Piece, axes: tuple[str, ...], dtype: DType) -> None:
        """``tile`` becomes what was computed, in the buffer where it is if that is nobody else's."""
        strip = self.strip(piece, axes, dtype)
        if not strip.pooled or strip.axes != axes:
            copy = self.temporary(axes, dtype)
            self.emit("copy", copy, axes, self.spread(strip, axes))
            strip = copy
        self.tiles[tile] = strip
        self.kept_here().add(tile)

    def _converted(self, value: Value, axes: tuple[str, ...], name: str) -> Strip:
        """``value`` in a buffer of its own, double where it can be, for a transfer to read."""
        inner = value.x if isinstance(value, Cast) else value
        piece = self.spread(self.strip(self.value(inner, axes), axes, inner.dtype), axes)
        out = Strip(self.buffer(name, axes, value.dtype, self.context.tree.top), axes, value.dtype)
        self.emit("cast" if inner.dtype != value.dtype else "copy", out, axes, piece)
        self.recycle(piece)
        return out

    # -- for :mod:`special` --------------------------------------------------------------------------------------

    def apply(self, op: str, *pieces: Piece) -> Piece:
        """An element-wise instruction on f32; operands that are temporaries are used up."""
        if len(pieces) == 1:
            return self._unary(op, pieces[0], DType.F32)
        return self._binary(op, pieces[0], pieces[1], DType.F32)

    def lend(self, piece: Piece) -> Piece:
        """``piece`` for one use that leaves it intact."""
        return Strip(piece.buffer, piece.axes, piece.dtype) if isinstance(piece, Strip) else piece
