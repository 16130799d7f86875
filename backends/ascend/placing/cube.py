"""Contractions on the cube core: gm → L1 → L0A/L0B → L0C, and out through the fixpipe."""

from __future__ import annotations

from dataclasses import dataclass, field

from tilewright.backends.ascend.placed.form import Block, Loop, View
from tilewright.backends.ascend.placed.layout import FRACTAL, round_up
from tilewright.backends.ascend.placing.convolution import convolve
from tilewright.backends.ascend.placing.exits import Exit, Way, find_exit, rewritten
from tilewright.backends.ascend.placing.frame import PANES, Frame, inside
from tilewright.backends.ascend.placing.operand import Factor, factors_of, flat_index, sides_of
from tilewright.backends.ascend.placing.runs import run_length
from tilewright.backends.ascend.placing.staging import OperandPart, Staged, row_pitch
from tilewright.backends.ascend.placing.windows import Windows, windows_of
from tilewright.errors import UnsupportedError
from tilewright.ir.symbolic import ZERO, Expr, as_expr, ceildiv, constant, maximum, minimum, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import as_product, used_symbols
from tilewright.kernel.apply import defines
from tilewright.kernel.expr import Binary, Load, Ref, Value
from tilewright.kernel.pack import packed_params
from tilewright.kernel.schedule import Compute, For, Write
from tilewright.kernel.scope import step

#: Lanes that a row in L1 or the bias table is read in: 64 bytes of the table's 32-bit elements.
_ROW = 16
ONE = constant(1)


@dataclass(frozen=True, slots=True)
class _Panes:
    """Rows of a sum that lie in ``count`` slots of L0C, at most ``height`` in each, and that a loop takes in turn.

    All panes meet one piece of the right operand; each leaves while the products of the next one go on.
    """

    var: str
    height: int
    count: int

    def rows(self, every: Expr) -> tuple[Expr, Expr]:
        """The first row of the pane of this turn, of ``every``, and how many it has: none where a block ends before."""
        first = symbol(self.var) * self.height
        return first, maximum(0, minimum(self.height, every - first))


@dataclass(slots=True)
class Sum:
    """An accumulator tile: its buffer in L0C, its two wide axes, the loop in which it starts, its way out."""

    buffer: str
    axes: tuple[str, ...]
    frame: Frame
    tile: Ref
    exit: Exit
    panes: _Panes | None = None
    last: Expr = ONE
    bias: str | None = None
    workspace: str | None = None


@dataclass(slots=True)
class CubePart(OperandPart):
    """Places contractions. ``sums``: accumulator tiles by name."""

    sums: dict[str, Sum] = field(default_factory=dict)

    def contract(self, node: Compute) -> None:
        """One step of a sum of products: bring both operands to L0 piece by piece and multiply."""
        assert isinstance(node.value, Binary) and node.reduce is not None
        c = self.context
        if (windows := self._windows(node)) is not None:
            self._check_dtype(node, *factors_of(node.value.a, node.value.b))
            convolve(self, node, windows)
            return
        row, column, inner = self._roles(node)
        a, b = factors_of(node.value.a, node.value.b)
        if row not in a.axes:
            a, b = b, a
        self._check_dtype(node, a, b)
        total = self.accumulator(node, row, column)
        if isinstance(a.value, Load):
            left, right = self.stage(a, row, inner, node.tile), self.stage(b, inner, column, node.tile, True)
        else:
            # Waiting for the vector cores holds back everything behind it, so what needs no waiting goes first.
            right, left = self.stage(b, inner, column, node.tile, True), self.stage(a, row, inner, node.tile)
        k1, k0 = c.lanes(inner), self.inner_piece(*self._lanes(total), c.lanes(inner), a.dtype)
        left, right = self._checked(node, a.dtype, left, right)
        valid = c.count(inner)
        start = sum((symbol(f.var) - c.expr(loop.lo) for f, loop in self.reduction_loops(node)), ZERO)
        total.last = self._last_turn(node)
        if k1 <= k0:
            self._multiply(c.tree.top, total, node, left, right, at=ZERO, piece=valid, start=start)
            return
        frame = Frame(f"{inner}_l0_{node.tile}")
        at = symbol(frame.var)
        piece = minimum(k0, valid - at)
        total.last = total.last * (1 - minimum(1, maximum(0, valid - k0 - at)))
        self._multiply(frame, total, node, left, right, at=at, piece=piece, start=start + at)
        c.tree.top.nodes.append(Loop(frame.var, ZERO, valid, constant(k0), tuple(frame.nodes)))

    def _windows(self, node: Compute) -> Windows | None:
        """The convolution that ``node`` is, where the schedule leaves windows whole."""
        c = self.context
        define = next(d for d in defines(c.scheduled.kernel) if d.tile == node.tile)
        found = windows_of(c.scheduled.kernel, define)
        if found is None or c.pack_of(found.weights.tensor) != found.pack(found.weights.tensor, c.scheduled.kernel):
            return None
        slides = (found.down, found.across)
        return found if all(s.axis is None or c.lanes(s.axis) == s.taps for s in slides) else None

    def _roles(self, node: Compute) -> tuple[str, str, str]:
        """Row, column and reduced axis; every other axis has one lane here."""
        c, found = self.context, as_product(node)
        assert found is not None
        product = sides_of(c.scheduled.kernel, found)
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

    def accumulator(self, node: Compute, row: str, column: str) -> Sum:
        if node.tile not in self.sums or not node.accumulate:
            c = self.context
            frame = c.tree.top
            loops = {f.var for f, _ in self.reduction_loops(node)}
            while frame.var in loops:
                frame = c.tree.frames[c.tree.frames.index(frame) - 1]
            panes = self._panes(row)
            rows, columns = c.lanes(row) if panes is None else panes.height, round_up(c.lanes(column), FRACTAL)
            around, slots = (frame, 2) if panes is None else (Frame(panes.var), panes.count)
            shape = (round_up(rows, FRACTAL), columns)
            name = c.tree.add(node.tile, "l0c", node.value.dtype, shape, "cube", frame=around, slots=slots)
            if panes is not None:
                c.tree.kept.add(name)
            tile = Ref(node.tile, node.axes, node.value.dtype)
            exit = find_exit(tile, c.body, column, kernel=c.scheduled.kernel, way=self._way(column), skip=c.cube_tiles)
            total = self.sums[node.tile] = Sum(name, (row, column), frame, tile, exit, panes)
            if exit.bias is not None:
                total.bias = self._stage_bias(exit.bias, column, node.value.dtype)
        return self.sums[node.tile]

    def _panes(self, row: str) -> _Panes | None:
        """The panes that the schedule asks for."""
        c = self.context
        count = int(c.scheduled.schedule.option(PANES, 1))
        if count < 2 or c.fused or c.lanes(row) <= FRACTAL:
            return None
        return _Panes(c.tree.variable(f"{row}_pane"), round_up(-(-c.lanes(row) // count), FRACTAL), count)

    def _way(self, column: str) -> Way:
        """What the target does with sums of these columns; a bias has to fit the table and end with whole blocks."""
        c = self.context
        features = c.target.features
        if c.fused:
            return Way(False, frozenset([DType.F16]), frozenset(), frozenset())
        halves = (DType.F16, DType.BF16) if "fixpipe_cast" in features else ()
        fits = 4 * round_up(c.lanes(column), _ROW) <= c.target.memory["bt"].size
        biases = (DType.F32, DType.F16, DType.I32) if fits else ()
        rows = {
            p.name
            for p in packed_params(c.scheduled)
            if len(p.shape) == 1 and p.shape[0].is_constant and p.shape[0].value % _ROW == 0
        }
        return Way("fixpipe_relu" in features, frozenset(halves), frozenset(biases), frozenset(rows))

    def _stage_bias(self, load: Load, column: str, dtype: DType) -> str:
        """The row of biases for the columns of this block in the bias table."""
        c = self.context
        # The way into the table moves 64 bytes of the row at a time: both have room for whole ones.
        lanes = round_up(c.lanes(column), max(_ROW, 64 * 8 // load.dtype.bits))
        start, count = c.start(column), ceildiv(c.count(column), _ROW) * _ROW
        frame = c.tree.frame_of([start, count])
        row = c.tree.add(f"{load.tensor}_l1", "l1", load.dtype, (lanes,), "cube", frame=frame, layout="ND")
        table = c.tree.add(f"{load.tensor}_bt", "bt", dtype, (lanes,), "cube", frame=frame)
        dims = ((count, constant(1)),)
        c.tree.emit(frame, "copy_nz", "cube", "MTE2", View(row, ZERO, dims), View(load.tensor, start, dims))
        c.tree.emit(frame, "load_bias", "cube", "MTE1", View(table, ZERO, dims), View(row, ZERO, dims))
        return table

    def rewritten(self, value: Value) -> Value:
        """``value`` over sums as they left L0C."""
        for total in self.sums.values():
            value = rewritten(value, total.tile, total.exit)
        return value

    def reduction_loops(self, node: Compute) -> list[tuple[Frame, For]]:
        """Open loops over which this sum runs on: those of its reduced axes, where it adds to what is there."""
        if not node.accumulate or node.reduce is None:
            return []
        loops = {loop.var: loop for a in node.reduce.axes for loop in self.context.scope.ranges[a].loops}
        return [(f, loops[f.var]) for f in self.context.tree.frames if f.var in loops]

    def _last_turn(self, node: Compute) -> Expr:
        """1 in the last turn of the loops over which a sum runs on, else 0."""
        result = constant(1)
        for f, loop in self.reduction_loops(node):
            last = self.context.expr(loop.lo) + (f.trips - 1) * step(loop)
            result = result * (1 - minimum(1, last - symbol(f.var)))
        return result

    def inner_piece(self, rows: int, columns: int, inner: int, dtype: DType) -> int:
        """Reduced lanes whose operands fit half of L0A and half of L0B, in whole fractals."""
        size = max(1, dtype.bits // 8)
        half = min(self.context.target.memory[s].size for s in ("l0a", "l0b")) // 2
        most = half // (size * round_up(max(rows, columns), 16))
        step = max(16, 32 // size)
        return min(round_up(inner, step), most // step * step)

    def _lanes(self, total: Sum) -> tuple[int, int]:
        """Allocated rows and columns of one product."""
        row, column = total.axes
        return total.panes.height if total.panes else self.context.lanes(row), self.context.lanes(column)

    def _rows(self, total: Sum) -> tuple[Expr, Expr]:
        """The first row of the products of this turn among those of the block, and how many there are."""
        every = self.context.count(total.axes[0])
        return (ZERO, every) if total.panes is None else total.panes.rows(every)

    def _multiply(
        self,
        frame: Frame,
        total: Sum,
        node: Compute,
        left: Staged,
        right: Staged,
        *,
        at: Expr,
        piece: Expr,
        start: Expr,
    ) -> None:
        """One piece of the reduced axis: both loads and the ``mmad``, whose single rows are no vector products: an
        emitter has to switch the GEMV mode off, in which L0A would be read row-major."""
        c = self.context
        assert isinstance(node.value, Binary)
        a, _ = factors_of(node.value.a, node.value.b)
        (first, rows), columns = self._rows(total), c.count(total.axes[1])
        (high, wide), k = self._lanes(total), c.lanes(self._roles(node)[2])
        k0 = self.inner_piece(high, wide, k, a.dtype)
        own, slots = (frame, 2) if total.panes is None else (Frame(total.panes.var), 2 * total.panes.count)
        l0a = self._operand_buffer(f"{node.tile}_a", "l0a", a.dtype, (high, k0), own, slots)
        l0b = self._operand_buffer(f"{node.tile}_b", "l0b", a.dtype, (k0, wide), frame)
        loads = [(own, l0a, left, rows, piece, (first, at)), (frame, l0b, right, piece, columns, (at, ZERO))]
        for to, buffer, staged, r, n, corner in loads:
            block = (corner[1], corner[0], n, r) if staged.turned else (*corner, r, n)
            dst = Block(buffer, ZERO, ZERO, r, n, whole=True)
            source = Block(staged.buffer, *block, whole=True)
            c.tree.emit(to, "load", "cube", "MTE1", dst, source, transpose=staged.turned)
        bias = () if total.bias is None else (View(total.bias, ZERO, ((columns, constant(1)),)),)
        c.tree.emit(
            own,
            "mmad",
            "cube",
            "M",
            Block(total.buffer, ZERO, ZERO, rows, columns),
            Block(l0a, ZERO, ZERO, rows, piece),
            Block(l0b, ZERO, ZERO, piece, columns),
            *bias,
            init=start if node.accumulate or start != 0 else None,
        )
        if total.panes is not None:
            frame.nodes.append(Loop(own.var, ZERO, constant(total.panes.count), ONE, tuple(own.nodes)))

    def _operand_buffer(
        self, name: str, scope: str, dtype: DType, shape: tuple[int, int], frame: Frame, slots: int = 2
    ) -> str:
        return self.context.tree.add(name, scope, dtype, shape, "cube", frame=frame, slots=slots)  # type: ignore[arg-type]

    def _checked(self, node: Compute, dtype: DType, left: Staged, right: Staged) -> tuple[Staged, Staged]:
        """The operands; refused where fractals would have to be turned that no load turns."""
        if dtype.bits != 16 and (left.turned or not (right.turned or right.squares)):
            raise UnsupportedError(
                "ascend-transposed-load",
                where=f"kernel {self.context.scheduled.kernel.name}, tile {node.tile}",
                cause=f"fractals of {dtype} are not turned here on the way to L0; 16-bit ones are, 32-bit ones to L0B",
                fix="store the left operand by rows and the right operand by columns",
            )
        return left, right

    # -- out of L0C ----------------------------------------------------------------------------------------------

    def export(self, tile: str) -> tuple[str, tuple[str, ...], Frame, int]:
        """The finished sum in a workspace: its name, axes, loop and row pitch in elements."""
        c, total = self.context, self.sums[tile]
        row, column = total.axes
        dtype = total.exit.dtype
        pitch = row_pitch(c.lanes(column), dtype)
        if total.workspace is None:
            shape = (c.lanes(row), pitch)
            total.workspace = c.tree.add(f"{tile}_out", "gm", dtype, shape, None, frame=total.frame, workspace=True)
            self._leave(total, View(total.workspace, ZERO, ((ZERO, as_expr(pitch)), (c.count(column), constant(1)))))
        return total.workspace, total.axes, total.frame, pitch

    def drained(self, tile: str) -> tuple[str, tuple[str, ...], Frame]:
        """The finished sum in the unified buffer of a fused core, by rows: its buffer, axes and loop.

        It comes out of L0C in whole fractals; two instructions put their rows in order, one for the whole fractals of
        a row and one for its end. Where tiles have its rows last, one instruction turns the fractals instead.
        """
        c, total = self.context, self.sums[tile]
        row, column = total.axes
        frame = c.tree.top if c.stripped else total.frame
        if ("drained", tile) not in frame.loaded:
            dtype, lanes = total.exit.dtype, {a: round_up(c.vector_lanes(a), FRACTAL) for a in total.axes}
            first = {a: c.strip if a == c.split else ZERO for a in total.axes}
            rows, columns = (c.count(a, True) for a in total.axes)
            across, down = ceildiv(columns, FRACTAL), ceildiv(rows, FRACTAL) * FRACTAL
            plane, pitch = lanes[row] * FRACTAL, lanes[column]
            raw = c.tree.add(f"{tile}_raw", "ub", dtype, (lanes[row] * pitch,), "cube", frame=frame)
            whole = Block(total.buffer, first[row], first[column], down, across * FRACTAL, whole=True)
            fine = (constant(FRACTAL), constant(1))
            dst = View(raw, ZERO, ((across, constant(plane)), (down, constant(FRACTAL)), fine))
            c.tree.emit(frame, "drain", "cube", "V", dst, whole)
            if self.vector.turns(total.axes):
                frame.loaded["drained", tile] = self._turned(frame, raw, (lanes[row], pitch), rows, columns)
                return self.drained(tile)
            name = c.tree.add(f"{tile}_ub", "ub", dtype, (lanes[row], pitch), "cube")
            full, rest = columns // FRACTAL, columns % FRACTAL
            for at, ends in ((ZERO, ((full, FRACTAL, plane), (constant(FRACTAL), 1, 1))), (full, ((rest, 1, 1),))):
                to = ((rows, constant(pitch)), *((n, constant(d)) for n, d, _ in ends))
                out = ((rows, constant(FRACTAL)), *((n, constant(s)) for n, _, s in ends))
                if ends[0][0] == 0:
                    continue
                views = View(name, at * FRACTAL, to), View(raw, at * plane, out)
                c.tree.emit(frame, "copy", "vector", "V", *views)
            frame.loaded["drained", tile] = name
        axes = (column, row) if self.vector.turns(total.axes) else total.axes
        return str(frame.loaded["drained", tile]), axes, frame

    def _turned(self, frame: Frame, raw: str, shape: tuple[int, int], rows: Expr, columns: Expr) -> str:
        """``rows`` and ``columns`` of the fractals in ``raw``, which has room for ``shape``: each column as a row. The
        lanes beside them that fill up the last fractal are nobody's."""
        c, fine, (high, wide) = self.context, constant(FRACTAL), shape
        name = c.tree.add(f"{raw}_turned", "ub", c.tree.buffers[raw].dtype, (wide, high), "cube")
        plane, full, rest = constant(FRACTAL * high), columns // FRACTAL, columns % FRACTAL
        some = rows * minimum(1, rest)
        if full != 0:
            dst = View(name, ZERO, ((full, plane), (fine, constant(high)), (rows, ONE)))
            source = View(raw, ZERO, ((full, plane), (rows, fine), (fine, ONE)))
            c.tree.emit(frame, "transpose", "vector", "V", dst, source)
        if rest != 0:
            dst = View(name, full * plane, ((rest, constant(high)), (some, ONE)))
            source = View(raw, full * plane, ((some, fine), (rest, ONE)))
            c.tree.emit(frame, "transpose", "vector", "V", dst, source)
        return name

    def write(self, node: Write) -> bool:
        """Write a sum straight from L0C; False when it needs more than its exit or is not stored by rows."""
        c = self.context
        value = node.value
        if not isinstance(value, Ref) or value.tile not in self.sums or "fixpipe_gm" not in c.target.features:
            return False
        index = tuple(i for i in node.index if isinstance(i, Expr))
        if len(index) < len(node.index):
            return False
        total = self.sums[value.tile]
        row, column = total.axes
        others = {a: c.start(a) for a in node.axes if a not in total.axes}
        flat = flat_index(c.scheduled.kernel, node.tensor, tuple(c.expr(i.substitute(others)) for i in index))
        if run_length((flat,), row) != 0 or run_length((flat,), column) != 0 or flat.coefficient(column) != 1:
            return False
        offset = flat.substitute({a: c.start(a) for a in total.axes})
        dims = (ZERO, flat.coefficient(row)), (c.count(column), constant(1))
        self._leave(total, View(node.tensor, offset, dims))
        return True

    def _leave(self, total: Sum, to: View) -> None:
        """The finished sum to the rows of ``to``, which it says the distance of; panes leave one by one."""
        c = self.context
        first, rows = self._rows(total)
        frame = total.frame if total.panes is None else Frame(total.panes.var)
        pitch = to.dims[0][1]
        dst = View(to.buffer, to.offset + first * pitch, ((rows, pitch), to.dims[1]))
        parameters = (("relu", 1),) if total.exit.relu else ()
        source = Block(total.buffer, ZERO, ZERO, rows, c.count(total.axes[1]))
        c.tree.emit(frame, "fixpipe", "cube", "FIX", dst, source, parameters=parameters)
        if total.panes is not None:
            once = Loop(c.tree.variable("_done"), ZERO, total.last, ONE, tuple(frame.nodes))
            total.frame.nodes[:] = inside(total.frame.nodes, total.panes.var, once)
