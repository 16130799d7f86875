"""Contractions on the cube core: gm → L1 → L0A/L0B → L0C, and out through the fixpipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tilewright.backends.ascend.placed.form import SUBBLOCK, Block, Loop, View
from tilewright.backends.ascend.placed.layout import FRACTAL, round_up, square
from tilewright.backends.ascend.placing.convolution import convolve
from tilewright.backends.ascend.placing.exits import Exit, Way, addend_of, find_exit, rewritten
from tilewright.backends.ascend.placing.frame import HEIGHT, LEAD, PANES, Frame, inside
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
from tilewright.kernel.tile import Store

#: Lanes that a row in L1 or the bias table is read in: 64 bytes of the table's 32-bit elements.
_ROW = 16
#: Element types that transfers to global memory add (Ascend C reference, SetAtomicAdd) and that a fixpipe makes.
_ADDED = (DType.F32, DType.F16, DType.BF16, DType.I32)
#: Slots of what vector cores copy: what the cube core has waited for holds them back two copies behind, so that no flag
#: has to say that the third slot was read.
_COPIES = 3
ONE = constant(1)


@dataclass(frozen=True, slots=True)
class _Panes:
    """Rows of a sum that lie in ``count`` slots of L0C, at most ``height`` in each, and that a loop takes in turn.

    All panes meet one piece of the right operand; each leaves while the products of the next one go on. The first one
    is ``missing`` rows shorter than the others.
    """

    var: str
    height: int
    count: int
    missing: int = 0

    def rows(self, every: Expr) -> tuple[Expr, Expr]:
        """The first row of the pane of this turn, of ``every``, and how many it has: none where a block ends before."""
        first = symbol(self.var) * self.height - self.missing
        if not self.missing:
            return first, maximum(0, minimum(self.height, every - first))
        end = first + self.height
        first = maximum(0, first)
        return first, maximum(0, minimum(minimum(self.height, end), every - first))


@dataclass(slots=True)
class Sum:
    """An accumulator tile: its buffer in L0C, its two wide axes, the loop in which it starts, its way out.

    ``window``: the rows that it is of, where those are not all; ``others``: the sums of the rest.
    """

    buffer: str
    axes: tuple[str, ...]
    frame: Frame
    tile: Ref
    exit: Exit
    panes: _Panes | None = None
    last: Expr = ONE
    bias: str | None = None
    workspace: str | None = None
    window: tuple[str, int, int] | None = None
    others: tuple[Sum, ...] = ()

    @property
    def parts(self) -> tuple[Sum, ...]:
        """The sums of all rows."""
        return (self, *self.others)


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
        # Waiting for the vector cores holds back everything behind it, so what needs no waiting goes first.
        early = [self._rows_in(part, a, inner) for part in total.parts[:1] if isinstance(a.value, Load)]
        right = self.stage(b, inner, column, node.tile, True)
        lefts = [*early, *(self._rows_in(part, a, inner) for part in total.parts[len(early) :])]
        k1, k0 = c.lanes(inner), self._inner_piece(total, c.lanes(inner), a.dtype)
        for left in lefts:
            self._checked(node, a.dtype, left, right)
        valid = c.count(inner)
        start = sum((symbol(f.var) - c.expr(loop.lo) for f, loop in self.reduction_loops(node)), ZERO)
        for part in total.parts:
            part.last = self._last_turn(node)
        if k1 <= k0:
            self._multiply(c.tree.top, total, node, lefts, right, at=ZERO, piece=valid, start=start)
            return
        frame = Frame(f"{inner}_l0_{node.tile}")
        at = symbol(frame.var)
        piece = minimum(k0, valid - at)
        for part in total.parts:
            part.last = part.last * (1 - minimum(1, maximum(0, valid - k0 - at)))
        self._multiply(frame, total, node, lefts, right, at=at, piece=piece, start=start + at)
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
            first, *others = (self._sum(node, row, column, frame, window) for window in self._windows_of_rows(row))
            self.sums[node.tile] = first
            first.others = tuple(others)
            if first.exit.bias is not None:
                first.bias = self._stage_bias(first.exit.bias, column, node.value.dtype)
            for part in others:
                part.bias = first.bias
        return self.sums[node.tile]

    def _windows_of_rows(self, row: str) -> list[tuple[str, int, int] | None]:
        """The rows that come before the columns, where the schedule asks for some, and the others; ``None``: all."""
        c = self.context
        lead, every = int(c.scheduled.schedule.option(LEAD, 0)) if not c.fused else 0, c.lanes(row)
        return [(row, 0, lead), (row, lead, every - lead)] if 0 < lead < every and lead % FRACTAL == 0 else [None]

    def _sum(self, node: Compute, row: str, column: str, frame: Frame, window: tuple[str, int, int] | None) -> Sum:
        """The sum of the rows in ``window``, which starts in ``frame``."""
        c = self.context
        with c.within(window):
            panes = self._panes(row, FRACTAL if node.value.dtype.is_float else square(1))
            rows, columns = c.lanes(row) if panes is None else panes.height, round_up(c.lanes(column), FRACTAL)
        around, slots = (frame, 2) if panes is None else (Frame(panes.var), panes.count)
        shape = (round_up(rows, FRACTAL), columns)
        name = c.tree.add(node.tile, "l0c", node.value.dtype, shape, "cube", frame=around, slots=slots)
        if panes is not None:
            c.tree.kept.add(name)
        tile = Ref(node.tile, node.axes, node.value.dtype)
        exit = find_exit(tile, c.body, column, kernel=c.scheduled.kernel, way=self._way(column), skip=c.cube_tiles)
        return Sum(name, (row, column), frame, tile, exit, panes, window=window)

    def _rows_in(self, part: Sum, a: Factor, inner: str) -> Staged:
        """The rows of one part of a sum in L1."""
        with self.context.within(part.window):
            return self.stage(a, part.axes[0], inner, part.tile.tile)

    def _panes(self, row: str, step: int) -> _Panes | None:
        """The panes that the schedule asks for, multiples of ``step`` high; the rows that come first are one."""
        c = self.context
        if c.window is not None and c.window[1] == 0:
            return _Panes(c.tree.variable(f"{row}_lead"), c.lanes(row), 1)
        count = int(c.scheduled.schedule.option(PANES, 1))
        if count < 2 or c.fused or c.lanes(row) <= FRACTAL:
            return None
        height = round_up(max(int(c.scheduled.schedule.option(HEIGHT, 0)), -(-c.lanes(row) // count)), step)
        missing = min(count * height - round_up(c.lanes(row), FRACTAL), height - FRACTAL)
        return _Panes(c.tree.variable(f"{row}_pane"), height, count, missing if missing % FRACTAL == 0 else 0)

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

    def _inner_piece(self, total: Sum, inner: int, dtype: DType) -> int:
        """The same for all parts of a sum."""
        pieces = []
        for part in total.parts:
            with self.context.within(part.window):
                pieces.append(self.inner_piece(*self._lanes(part), inner, dtype))
        return min(pieces)

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
        lefts: Sequence[Staged],
        right: Staged,
        *,
        at: Expr,
        piece: Expr,
        start: Expr,
    ) -> None:
        """One piece of the reduced axis: loads and the ``mmad`` of each part of the rows, whose single rows are no
        vector products: an emitter has to switch the GEMV mode off, in which L0A would be read row-major."""
        c = self.context
        assert isinstance(node.value, Binary)
        a, _ = factors_of(node.value.a, node.value.b)
        columns, wide = c.count(total.axes[1]), c.lanes(total.axes[1])
        k0 = self._inner_piece(total, c.lanes(self._roles(node)[2]), a.dtype)
        l0b = ""
        for part, left in zip(total.parts, lefts, strict=True):
            with c.within(part.window):
                (first, rows), (high, _) = self._rows(part), self._lanes(part)
            own, slots = (frame, 2) if part.panes is None else (Frame(part.panes.var), 2 * part.panes.count)
            # One pane alone is loaded anew only when its products are done: they come in order then.
            slots = 1 if part.panes is not None and part.panes.count == 1 else slots
            l0a = self._operand_buffer(f"{node.tile}_a", "l0a", a.dtype, (high, k0), own, slots)
            loads = [(own, l0a, left, rows, piece, (first, at))]
            if not l0b:
                l0b = self._operand_buffer(f"{node.tile}_b", "l0b", a.dtype, (k0, wide), frame)
                loads.append((frame, l0b, right, piece, columns, (at, ZERO)))
            for to, buffer, staged, r, n, corner in loads:
                block = (corner[1], corner[0], n, r) if staged.turned else (*corner, r, n)
                dst = Block(buffer, ZERO, ZERO, r, n, whole=True)
                source = Block(staged.buffer, *block, whole=True)
                c.tree.emit(to, "load", "cube", "MTE1", dst, source, transpose=staged.turned)
            bias = () if part.bias is None else (View(part.bias, ZERO, ((columns, constant(1)),)),)
            c.tree.emit(
                own,
                "mmad",
                "cube",
                "M",
                Block(part.buffer, ZERO, ZERO, rows, columns),
                Block(l0a, ZERO, ZERO, rows, piece),
                Block(l0b, ZERO, ZERO, piece, columns),
                *bias,
                init=start if node.accumulate or start != 0 else None,
            )
            if part.panes is not None:
                frame.nodes.append(Loop(own.var, ZERO, constant(part.panes.count), ONE, tuple(own.nodes)))

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
            for part in total.parts:
                with c.within(part.window):
                    at = constant(part.window[1] * pitch if part.window is not None else 0)
                    dims = ((ZERO, as_expr(pitch)), (c.count(column), constant(1)))
                    self._leave(part, View(total.workspace, at, dims))
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
        """Write a sum straight from L0C, or add it to what vector cores have copied there; False when it needs more
        than its exit or is not stored by rows."""
        c = self.context
        value, load = node.value, None
        if "fixpipe_add" in c.target.features and (found := addend_of(value)) is not None:
            value, load = found
        if not isinstance(value, Ref) or value.tile not in self.sums or "fixpipe_gm" not in c.target.features:
            return False
        total = self.sums[value.tile]
        if self._rows_of(node.tensor, node.index, node.axes, total) is None:
            return False
        if load is not None:
            if node.value.dtype not in _ADDED or c.pack_of(load.tensor) is not None or self._is_shared(node.tensor):
                return False
            source = self._rows_of(load.tensor, load.index, node.axes, total)
            if source is None or source.dims[0][1] == 0:
                return False
        for part in total.parts:
            with c.within(part.window):
                to = self._rows_of(node.tensor, node.index, node.axes, part)
                source = self._rows_of(load.tensor, load.index, node.axes, part) if load is not None else None
                assert to is not None
                self._leave(part, to, source)
        return True

    def _is_shared(self, tensor: str) -> bool:
        """Whether an output is the new contents of an input, or is written in more than one place."""
        kernel = self.context.scheduled.kernel
        stores = [s for s in kernel.body if isinstance(s, Store) and s.tensor == tensor]
        return kernel.param(tensor).alias is not None or len(stores) > 1

    def _rows_of(
        self, tensor: str, indices: tuple[Expr | Value, ...], axes: tuple[str, ...], total: Sum
    ) -> View | None:
        """The block of a tensor in which a sum's rows lie as they are; its rows are counted where it is used."""
        c = self.context
        index = tuple(i for i in indices if isinstance(i, Expr))
        if len(index) < len(indices):
            return None
        row, column = total.axes
        others = {a: c.start(a) for a in axes if a not in total.axes}
        flat = flat_index(c.scheduled.kernel, tensor, tuple(c.expr(i.substitute(others)) for i in index))
        if run_length((flat,), row) != 0 or run_length((flat,), column) != 0 or flat.coefficient(column) != 1:
            return None
        offset = flat.substitute({a: c.start(a) for a in total.axes})
        return View(tensor, offset, ((ZERO, flat.coefficient(row)), (c.count(column), constant(1))))

    def _leave(self, total: Sum, to: View, source: View | None = None) -> None:
        """The finished sum to the rows of ``to``, which it says the distance of; panes leave one by one. With
        ``source`` it is added to those rows, which vector cores copy there while it is computed."""
        c = self.context
        first, rows = self._rows(total)
        once = c.tree.variable("_done") if total.panes is not None else ""
        frame = Frame(once) if once else total.frame
        parameters = (("relu", 1),) if total.exit.relu else ()
        if source is not None:
            self._copied(frame, total, source, to)
            parameters = (*parameters, ("add", 1))
        pitch = to.dims[0][1]
        dst = View(to.buffer, to.offset + first * pitch, ((rows, pitch), to.dims[1]))
        block = Block(total.buffer, ZERO, ZERO, rows, c.count(total.axes[1]))
        c.tree.emit(frame, "fixpipe", "cube", "FIX", dst, block, parameters=parameters)
        if total.panes is not None:
            done = Loop(once, ZERO, total.last, ONE, tuple(frame.nodes))
            total.frame.nodes[:] = inside(total.frame.nodes, total.panes.var, done)

    def _copied(self, frame: Frame, total: Sum, source: View, to: View) -> None:
        """Rows of ``source`` to those of ``to``, half of them by each vector core."""
        c = self.context
        first, rows = self._rows(total)
        high, wide = self._lanes(total)
        half = round_up(-(-high // max(1, int(c.target.extra["subblocks"]))), 8)
        dtype = total.exit.dtype
        shape = (half, row_pitch(wide, dtype))
        name = c.tree.add(f"{source.buffer}_ub", "ub", dtype, shape, "vector", frame=frame, slots=_COPIES)
        count, columns = maximum(0, minimum(half, rows - SUBBLOCK * half)), source.dims[1]
        here = View(name, ZERO, ((count, constant(shape[1])), columns))
        at = first + SUBBLOCK * half
        places = [View(v.buffer, v.offset + at * v.dims[0][1], ((count, v.dims[0][1]), columns)) for v in (source, to)]
        c.tree.emit(frame, "copy_in", "vector", "MTE2", here, places[0])
        c.tree.emit(frame, "copy_out", "vector", "MTE3", places[1], here)
