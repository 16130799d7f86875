"""Contractions on the cube core: gm → L1 → L0A/L0B → L0C, and out through the fixpipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import Block, Loop, View
from tilewright.backends.ascend.placed.layout import round_up
from tilewright.backends.ascend.placing.frame import Frame
from tilewright.backends.ascend.placing.operand import Factor, factor_of, flat_index
from tilewright.backends.ascend.placing.staging import OperandPart, row_pitch
from tilewright.errors import UnsupportedError
from tilewright.ir.symbolic import ZERO, Expr, as_expr, constant, minimum, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import as_product, used_symbols
from tilewright.kernel.expr import Binary, Cast, Const, Load, Ref, Value
from tilewright.kernel.schedule import Compute, For, Write

if TYPE_CHECKING:
    pass


@dataclass(slots=True)
class _Sum:
    """An accumulator tile: its buffer in L0C, its two wide axes, the loop in which it starts, its way out."""

    buffer: str
    axes: tuple[str, ...]
    frame: Frame
    workspace: str | None = None


@dataclass(slots=True)
class CubePart(OperandPart):
    """Places contractions. ``sums``: accumulator tiles by name."""

    sums: dict[str, _Sum] = field(default_factory=dict)

    def contract(self, node: Compute) -> None:
        """One step of a sum of products: bring both operands to L0 piece by piece and multiply."""
        assert isinstance(node.value, Binary) and node.reduce is not None
        c = self.context
        row, column, inner = self._roles(node)
        a, b = factor_of(node.value.a), factor_of(node.value.b)
        if row not in a.axes:
            a, b = b, a
        self._check_dtype(node, a, b)
        total = self._accumulator(node, row, column)
        if isinstance(a.value, Load):
            left, right = self.stage(a, row, inner, node.tile), self.stage(b, inner, column, node.tile)
        else:
            # Waiting for the vector cores holds back everything behind it, so what needs no waiting goes first.
            right, left = self.stage(b, inner, column, node.tile), self.stage(a, row, inner, node.tile)
        k1, k0 = c.lanes(inner), self._inner_piece(c.lanes(row), c.lanes(column), c.lanes(inner), a.dtype)
        valid = c.count(inner)
        start = sum((symbol(f.var) - c.expr(loop.lo) for f, loop in self._reduction_loops(node)), ZERO)
        if k1 <= k0:
            self._multiply(c.tree.top, total, node, left, right, at=ZERO, piece=valid, start=start)
            return
        frame = Frame(f"{inner}_l0_{node.tile}")
        at = symbol(frame.var)
        piece = minimum(k0, valid - at)
        self._multiply(frame, total, node, left, right, at=at, piece=piece, start=start + at)
        c.tree.top.nodes.append(Loop(frame.var, ZERO, valid, constant(k0), tuple(frame.nodes)))

    def _roles(self, node: Compute) -> tuple[str, str, str]:
        """Row, column and reduced axis; every other axis has one lane here."""
        c, product = self.context, as_product(node)
        assert product is not None
        wide = [c.wide(axes) for axes in (product.m, product.n, product.k)]
        if c.wide(product.batch) or any(len(axes) > 1 for axes in wide):
            names = ", ".join((*c.wide(product.batch), *(a for axes in wide for a in axes)))
            raise UnsupportedError(
                "ascend-contraction-axes",
                where=f"kernel {c.scheduled.kernel.name}, tile {node.tile}",
                cause=f"a contraction over tiles of {names} is no single matrix product",
                fix="choose a schedule that cuts all but one row, one column and one reduced axis into pieces of 1",
            )
        shared = [a for a in product.k if a in used_symbols(product.a) and a in used_symbols(product.b)]
        row, column = (w[0] if w else axes[-1] for w, axes in zip(wide, (product.m, product.n), strict=False))
        return row, column, wide[2][0] if wide[2] else shared[-1]

    def _check_dtype(self, node: Compute, a: Factor, b: Factor) -> None:
        sums = self.context.target.extra["mmad"].get(str(a.dtype))
        if a.dtype != b.dtype or sums != str(node.value.dtype):
            raise UnsupportedError(
                "ascend-mmad-dtype",
                where=f"kernel {self.context.scheduled.kernel.name}, tile {node.tile}",
                cause=f"{self.context.target.spelling} has no mmad of {a.dtype} and {b.dtype} into {node.value.dtype}",
                fix="quantize or cast the operands, or run the kernel on the host",
            )

    def _accumulator(self, node: Compute, row: str, column: str) -> _Sum:
        if node.tile not in self.sums or not node.accumulate:
            c = self.context
            frame = c.tree.top
            loops = {f.var for f, _ in self._reduction_loops(node)}
            while frame.var in loops:
                frame = c.tree.frames[c.tree.frames.index(frame) - 1]
            shape = (c.lanes(row), c.lanes(column))
            name = c.tree.add(node.tile, "l0c", node.value.dtype, shape, "cube", frame=frame)
            self.sums[node.tile] = _Sum(name, (row, column), frame)
        return self.sums[node.tile]

    def _reduction_loops(self, node: Compute) -> list[tuple[Frame, For]]:
        """Open loops over which this sum runs on: those of its reduced axes, where it adds to what is there."""
        if not node.accumulate or node.reduce is None:
            return []
        loops = {loop.var: loop for a in node.reduce.axes for loop in self.context.scope.ranges[a].loops}
        return [(f, loops[f.var]) for f in self.context.tree.frames if f.var in loops]

    def _inner_piece(self, rows: int, columns: int, inner: int, dtype: DType) -> int:
        """Reduced lanes whose operands fit half of L0A and half of L0B, in whole fractals."""
        size = max(1, dtype.bits // 8)
        half = min(self.context.target.memory[s].size for s in ("l0a", "l0b")) // 2
        most = half // (size * round_up(max(rows, columns), 16))
        step = max(16, 32 // size)
        return min(round_up(inner, step), most // step * step)

    def _multiply(
        self,
        frame: Frame,
        total: _Sum,
        node: Compute,
        left: tuple[str, bool],
        right: tuple[str, bool],
        *,
        at: Expr,
        piece: Expr,
        start: Expr,
    ) -> None:
        """One piece of the reduced axis: both loads and the ``mmad``, whose single rows are no vector products: an
        emitter has to switch the GEMV mode off, in which L0A would be read row-major."""
        c = self.context
        assert isinstance(node.value, Binary)
        a = factor_of(node.value.a)
        row, column = total.axes
        rows, columns = c.count(row), c.count(column)
        if a.dtype.bits != 16 and (left[1] or not right[1]):
            raise UnsupportedError(
                "ascend-transposed-load",
                where=f"kernel {c.scheduled.kernel.name}, tile {node.tile}",
                cause=f"fractals of {a.dtype} are not turned on the way to L0; only 16-bit ones are",
                fix="store the left operand by rows and the right operand by columns",
            )
        k = c.lanes(self._roles(node)[2])
        k0 = self._inner_piece(c.lanes(row), c.lanes(column), k, a.dtype)
        l0a = self._operand_buffer(f"{node.tile}_a", "l0a", a.dtype, (c.lanes(row), k0), frame)
        l0b = self._operand_buffer(f"{node.tile}_b", "l0b", a.dtype, (k0, c.lanes(column)), frame)
        for buffer, (source, turned), r, n, corner in (
            (l0a, left, rows, piece, (ZERO, at)),
            (l0b, right, piece, columns, (at, ZERO)),
        ):
            block = (corner[1], corner[0], n, r) if turned else (*corner, r, n)
            dst = Block(buffer, ZERO, ZERO, r, n, whole=True)
            c.tree.emit(frame, "load", "cube", "MTE1", dst, Block(source, *block, whole=True), transpose=turned)
        c.tree.emit(
            frame,
            "mmad",
            "cube",
            "M",
            Block(total.buffer, ZERO, ZERO, rows, columns),
            Block(l0a, ZERO, ZERO, rows, piece),
            Block(l0b, ZERO, ZERO, piece, columns),
            init=start if node.accumulate or start != 0 else None,
        )

    def _operand_buffer(self, name: str, scope: str, dtype: DType, shape: tuple[int, int], frame: Frame) -> str:
        return self.context.tree.add(name, scope, dtype, shape, "cube", frame=frame)  # type: ignore[arg-type]

    # -- out of L0C ----------------------------------------------------------------------------------------------

    def export(self, tile: str) -> tuple[str, tuple[str, ...], Frame, int]:
        """The finished sum in a workspace: its name, axes, loop and row pitch in elements."""
        c, total = self.context, self.sums[tile]
        row, column = total.axes
        dtype = c.tree.buffers[total.buffer].dtype
        pitch = row_pitch(c.lanes(column), dtype)
        if total.workspace is None:
            shape = (c.lanes(row), pitch)
            total.workspace = c.tree.add(f"{tile}_out", "gm", dtype, shape, None, frame=total.frame, workspace=True)
            rows, columns = c.count(row), c.count(column)
            dst = View(total.workspace, ZERO, ((rows, as_expr(pitch)), (columns, constant(1))))
            c.tree.emit(total.frame, "fixpipe", "cube", "FIX", dst, Block(total.buffer, ZERO, ZERO, rows, columns))
        return total.workspace, total.axes, total.frame, pitch

    def write(self, node: Write) -> bool:
        """Write a sum that needs nothing but a cast and a relu straight from L0C; False when it needs more."""
        c = self.context
        relu, tile = _way_out(node.value)
        if tile is None or tile not in self.sums or "fixpipe_gm" not in c.target.features:
            return False
        index = tuple(i for i in node.index if isinstance(i, Expr))
        if len(index) < len(node.index):
            return False
        total = self.sums[tile]
        row, column = total.axes
        others = {a: c.start(a) for a in node.axes if a not in total.axes}
        flat = flat_index(c.scheduled.kernel, node.tensor, tuple(c.expr(i.substitute(others)) for i in index))
        if flat.coefficient(column) != 1:
            return False
        rows, columns = c.count(row), c.count(column)
        offset = flat.substitute({a: c.start(a) for a in total.axes})
        dst = View(node.tensor, offset, ((rows, flat.coefficient(row)), (columns, constant(1))))
        source = Block(total.buffer, ZERO, ZERO, rows, columns)
        c.tree.emit(c.tree.top, "fixpipe", "cube", "FIX", dst, source, parameters=(("relu", 1),) if relu else ())
        return True


def _way_out(value: Value) -> tuple[bool, str | None]:
    """Whether the fixpipe applies a relu to compute ``value`` from a sum, and the sum's tile."""
    if isinstance(value, Cast):
        value = value.x
    match value:
        case Ref(tile=tile):
            return False, tile
        case Binary(op="max", a=Ref(tile=tile), b=Const(value=0)):
            return True, tile
    return False, None
