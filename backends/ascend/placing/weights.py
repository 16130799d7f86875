"""The vector cores' part of pipelined attention: weights of a piece, and the result added up piece by piece.

A row's maximum begins at the lowest number instead of -∞. What is subtracted is then never -∞, which a row that sees
nothing would need a choice for; all weights and sums are the same: exp of -∞ less any number is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from tilewright.backends.ascend.placed.form import Loop, Scalar, View, counter
from tilewright.backends.ascend.placed.layout import round_up
from tilewright.backends.ascend.placing.frame import Frame
from tilewright.backends.ascend.placing.strips import Strip
from tilewright.backends.ascend.placing.vector import VectorPart
from tilewright.ir.symbolic import ZERO, Expr, ceildiv, constant, maximum, minimum, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import transform, walk
from tilewright.kernel.expr import Binary, Cast, Const, IndexValue, Ref, Select, Value

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.online import Online
    from tilewright.backends.ascend.placing.pipelined import Pipeline

#: Columns to which maxima and sums of rows are folded first, and lanes of one repeat of f32.
_FOLDED, _REPEAT = 256, 64
#: Rows of the result that are added up at a time, if there are as many.
_FOLD_ROWS = 32
_LOWEST = float(np.finfo(np.float32).min)
_ONE = constant(1)
#: Lanes of f32 in a block of 32 bytes.
_BLOCK = 8


@dataclass(slots=True)
class Weights(VectorPart):
    """Places the vector cores' statements of one turn."""

    pipeline: Pipeline = field(kw_only=True)
    step: Frame = field(init=False)
    loop: Frame = field(init=False)
    top: str = ""
    shrink: str = ""
    total: str = ""

    # -- a turn ------------------------------------------------------------------------------------------------------

    def place(self, step: Frame) -> None:
        """The weights of the newest piece, then the result of the one ``delay`` turns ago."""
        p, t = self.pipeline, self.context.tree
        self.step = step
        self.top = t.add("top", "ub", DType.F32, (p.share(),), "vector")
        # A row for each turn that is under way. They are no slots: nothing but the order of turns says which is whose.
        turns = (p.sizes.delay + 1, p.share())
        self.shrink, self.total = (t.add(name, "ub", DType.F32, turns, "vector") for name in ("shrink", "total"))
        self._open("strip")
        self._weights()
        self._close()
        self._results()

    def _open(self, name: str) -> None:
        """A loop over pieces of the rows of a vector core, unless one piece is all."""
        p, t = self.pipeline, self.context.tree
        self.loop = Frame(name) if p.piece() < p.share() else self.step
        p.strip = symbol(name) if self.loop is not self.step else ZERO
        t.frames = [t.frames[0], self.step, *([self.loop] if self.loop is not self.step else [])]

    def _close(self) -> None:
        p, t = self.pipeline, self.context.tree
        t.frames = t.frames[:2]
        if self.loop is not self.step:
            rows, piece = p.vector_rows(), constant(p.piece())
            self.step.nodes.append(Loop(self.loop.var, ZERO, rows, piece, tuple(self.loop.nodes)))

    def _row(self, name: str, ago: int, dims: tuple[tuple[Expr, Expr], ...]) -> View:
        """Numbers of rows, of ``ago`` turns ago."""
        p = self.pipeline
        turns = p.sizes.delay + 1
        turn = (symbol(counter(self.step.var)) + (turns - ago) % turns) % turns
        return View(name, turn * p.share() + p.strip, dims)

    def _begin_rows(self) -> None:
        """The first piece of a block finds the lowest maximum, and no weights before its own."""
        p = self.pipeline
        dims = ((p.count(p.online.rows, True) * (1 - minimum(1, p.item("key"))), _ONE),)
        self._v("duplicate", View(self.top, p.strip, dims), Scalar(_LOWEST))
        self._v("duplicate", self._row(self.total, 0, dims), Scalar(0.0))

    # -- weights -----------------------------------------------------------------------------------------------------

    def _weights(self) -> None:
        p = self.pipeline
        axes = (p.online.rows, p.online.keys)
        scores = self._scores(axes)
        self.tiles[p.online.raw.tile] = scores
        value = self._known(p.online.score)
        hidden = hidden_behind(value, p.online)
        value = value if hidden is None else hidden[0]
        self.begin(value)
        found = self.value(value)
        strip = self.strip(self.carry(found, DType.F32), axes, DType.F32)
        if not strip.pooled or strip.axes != axes:
            copy = self.temporary(axes, DType.F32)
            self.emit("copy", copy, axes, strip)
            strip = copy
        self.finish()
        self.tiles.clear()
        if hidden is not None:
            self._hide(strip, hidden[1])
        self._softmax(strip)

    def _hide(self, s: Strip, beyond: Expr) -> None:
        """-∞ where ``beyond`` (a key less the last one that a row sees) is positive: only the columns from the last 64
        on that the first row sees are looked at."""
        p, t = self.pipeline, self.context.tree
        o, pitch = p.online, p.sizes.keys
        first = {o.rows: p.start(o.rows, True), o.keys: p.item("key")}
        others = {a: p.start(a) for a in p.scope.ranges if a in beyond.symbols and a not in first}
        seen = 1 - p.expr(beyond.substitute({**others, **first}))
        rows, keys = p.count(o.rows, True), p.item("keys")
        begin = minimum(keys, maximum(0, seen)) // _REPEAT * _REPEAT
        left = keys - begin
        some = rows * minimum(1, left)
        columns = t.add("column", "ub", DType.F32, (pitch,), "vector")
        ends = t.add("row_end", "ub", DType.F32, (p.piece(),), "vector")
        spread = t.add("row_ends", "ub", DType.F32, (max(p.piece(), _BLOCK), _BLOCK), "vector")
        mask = t.add("seen", "ub", DType.U8, (p.piece(), round_up(pitch // 8, 32)), "vector")
        self._v("iota", View(columns, ZERO, ((left, _ONE),)), Scalar(begin))
        self._v("iota", View(ends, ZERO, ((some, _ONE),)), Scalar(seen))
        self._spread_of(spread, View(ends, ZERO, ((some, _ONE), (constant(_BLOCK), ZERO))), some)
        bits = View(mask, ZERO, ((rows, constant(round_up(pitch // 8, 32))), (ceildiv(left, 8), _ONE)))
        across = View(columns, ZERO, ((rows, ZERO), (left, _ONE)))
        self._v("compare_lt", bits, across, View(spread, ZERO, ((rows, constant(_BLOCK)), (left, ZERO))))
        part = View(s.buffer, begin, ((rows, constant(pitch)), (left, _ONE)))
        self._v("select", part, bits, part, Scalar(-math.inf))

    def _known(self, score: Value) -> Value:
        """The score over what comes out of L0C."""
        p = self.pipeline
        kind = p.score_type()
        left = Ref(p.online.raw.tile, p.online.raw.axes, kind)
        whole: Value = p.online.raw if kind is DType.F32 else Cast(kind, p.online.raw)
        return transform(score, lambda v: left if v == whole else v)

    def tile(self, name: str) -> Strip:
        return self.tiles[name]

    def _scores(self, axes: tuple[str, ...]) -> Strip:
        """This core's rows of the newest piece, part by part."""
        p, t = self.pipeline, self.context.tree
        kind, part = p.score_type(), 64
        name = t.add("scores_ub", "ub", kind, (p.piece(), p.sizes.keys), "vector", frame=self.loop)
        rows, keys = p.count(p.online.rows, True), p.item("keys")
        first = p.vector_offset() * part
        plane, pitch = p.sizes.rows * part, p.sizes.keys
        for at in range(p.sizes.keys // part):
            lanes = maximum(0, minimum(part, keys - at * part))
            dst = View(name, constant(at * part), ((rows, constant(pitch)), (lanes, _ONE)))
            src = View(p.names["scores"], first + at * plane, ((rows, constant(part)), (lanes, _ONE)))
            t.emit(self.loop, "copy_in", "vector", "MTE2", dst, src)
        once = sum(v == p.online.raw for v in walk(p.online.score)) == 1
        return Strip(name, axes, kind, once and kind is DType.F32)

    def _softmax(self, s: Strip) -> None:
        """exp of what ``s`` has beyond its rows' maxima, the maxima and sums themselves, and weights on their way."""
        p, t = self.pipeline, self.context.tree
        rows, keys, pitch = p.count(p.online.rows, True), p.item("keys"), p.sizes.keys
        folded = t.add("folded", "ub", DType.F32, (p.piece(), min(_FOLDED, pitch // 2)), "vector")
        found = t.add("found", "ub", DType.F32, (p.piece(),), "vector")
        spread = t.add("spread", "ub", DType.F32, (max(p.piece(), _BLOCK), _BLOCK), "vector")
        out = t.add("weights_ub", "ub", p.online.dtype, (p.piece(), pitch), "vector", frame=self.loop, slots=1)
        column = ((rows, _ONE),)
        mine, here = View(found, ZERO, column), View(self.top, p.strip, column)
        shrink, total = self._row(self.shrink, 0, column), self._row(self.total, 0, column)
        again = ((rows * minimum(1, p.item("key")), _ONE),)
        scaled = [self._row(self.total, ago, again) for ago in (0, 1)]
        every = View(s.buffer, ZERO, ((rows, constant(pitch)), (keys, _ONE)))
        self._begin_rows()
        self._highest(s, folded, found)
        self._v("max", mine, here, mine)
        self._v("sub", shrink, here, mine)
        self._spread_of(spread, View(found, ZERO, ((rows, _ONE), (constant(_BLOCK), ZERO))), rows)
        self._v("exp", shrink, shrink)
        self._v("sub", every, every, View(spread, ZERO, ((rows, constant(_BLOCK)), (keys, ZERO))))
        self._v("max", here, mine, mine)
        self._v("exp", every, every)
        self._v("mul", *scaled, self._row(self.shrink, 0, again))
        weights = View(out, ZERO, ((rows, constant(pitch)), (keys, _ONE)))
        self._v("cast", weights, every)
        self._added_up(s, found)
        self._v("add", total, total, mine)
        first = p.vector_offset() * pitch
        place = View(p.names["weights"], first, ((rows, constant(pitch)), (keys, _ONE)))
        t.emit(self.loop, "copy_out", "vector", "MTE3", place, weights)
        self.recycle(s)
        for names in self.free.values():
            while s.buffer in names and t.buffers[s.buffer].rotates is not None:
                names.remove(s.buffer)

    def _v(self, op: str, dst: View, *srcs: View | Scalar) -> None:
        self.context.tree.emit(self.loop, op, "vector", "V", dst, *srcs)

    def _highest(self, s: Strip, to: str, result: str) -> None:
        """The maximum of each row of ``s``: columns folded onto others in ``to``, down to one repeat."""
        p = self.pipeline
        rows, keys, pitch = p.count(p.online.rows, True), p.item("keys"), p.sizes.keys
        row = wide = min(_FOLDED, pitch // 2)

        def part(buffer: str, first: int | Expr, count: Expr) -> View:
            return View(buffer, ZERO + first, ((rows, constant(pitch if buffer == s.buffer else row)), (count, _ONE)))

        # Where there are two whole pieces they meet at once; a single one meets itself, and then what there is more.
        whole, low = minimum(1, keys // (2 * wide)), minimum(keys, wide)
        self._v("max", part(to, 0, low), part(s.buffer, 0, low), part(s.buffer, whole * wide, low))
        more = maximum(0, minimum(wide, keys - wide)) * (1 - whole)
        self._v("max", part(to, 0, more), part(to, 0, more), part(s.buffer, wide, more))
        while wide > _REPEAT:
            wide //= 2
            more = maximum(0, minimum(keys, 2 * wide) - wide)
            self._v("max", part(to, 0, more), part(to, 0, more), part(to, wide, more))
        self._v("row_max", View(result, ZERO, ((rows, _ONE),)), part(to, 0, minimum(keys, _REPEAT)))

    def _added_up(self, s: Strip, result: str) -> None:
        """The sum of each row of ``s``, whose columns are folded onto one another in place."""
        p = self.pipeline
        rows, keys, wide = p.count(p.online.rows, True), p.item("keys"), p.sizes.keys

        def part(first: int, count: Expr) -> View:
            return View(s.buffer, constant(first), ((rows, constant(p.sizes.keys)), (count, _ONE)))

        while wide > _REPEAT:
            wide //= 2
            more = maximum(0, minimum(keys, 2 * wide) - wide)
            self._v("add", part(0, more), part(0, more), part(wide, more))
        self._v("row_sum", View(result, ZERO, ((rows, _ONE),)), part(0, minimum(keys, _REPEAT)))

    # -- results -----------------------------------------------------------------------------------------------------

    def _results(self) -> None:
        """The result of the piece ``delay`` turns ago onto what its rows have; the last piece of a block ends it."""
        p, t = self.pipeline, self.context.tree
        s = p.sizes
        p.late = s.delay
        # Results are narrower than scores: more rows at a time, so that their way here is hidden.
        pieces, p.pieces = p.pieces, max(p.pieces, _FOLD_ROWS)
        self._open("fold")
        fold, rows = self.loop, p.count(p.online.rows, True)
        first = 1 - minimum(1, p.item("key"))
        last = p.item("last")
        whole = s.halves * s.half
        acc = t.add("acc", "ub", DType.F32, (p.share(), whole), "vector")
        sums = t.add("sums_ub", "ub", DType.F32, (p.piece(), whole), "vector", frame=fold)
        spread = t.add("spread_late", "ub", DType.F32, (max(p.piece(), _BLOCK), _BLOCK), "vector")
        out = t.add("result_ub", "ub", p.online.dtype, (p.piece(), whole), "vector", frame=fold, slots=1)
        mine = p.vector_offset()
        for half in range(s.halves):
            columns = constant(min(s.half, s.columns - half * s.half))
            to = View(sums, constant(half * s.half), ((rows, constant(whole)), (columns, _ONE)))
            source = View(
                p.names["sums"], mine * s.half + half * s.rows * s.half, ((rows, constant(s.half)), (columns, _ONE))
            )
            t.emit(fold, "copy_in", "vector", "MTE2", to, source)
        columns = constant(s.columns)

        def tile(name: str, count: Expr, at: Expr = ZERO) -> View:
            return View(name, at, ((count, constant(whole)), (columns, _ONE)))

        at = p.strip * whole
        self._spread(spread, self.shrink, rows * (1 - first))
        later = rows * (1 - first)
        self._v("mul", tile(acc, later, at), tile(acc, later, at), self._blocks(spread, later))
        self._v("add", tile(sums, later), tile(acc, later, at), tile(sums, later))
        self._v("mul", tile(acc, rows, at), tile(sums, rows), Scalar(1.0))
        ended = rows * last
        self._spread(spread, self.total, ended)
        self._v("div", tile(sums, ended), tile(acc, ended, at), self._blocks(spread, ended))
        self._v("cast", tile(out, ended), tile(sums, ended))
        store = p.online.store
        place = p.offset(store, {p.online.columns: ZERO, p.online.rows: p.start(p.online.rows, True)})
        dims = ((ended, p.stride(store, p.online.rows)), (columns, _ONE))
        t.emit(fold, "copy_out", "vector", "MTE3", View(store.tensor, place, dims), tile(out, ended))
        self._close()
        p.late = 0
        p.pieces = pieces

    def _spread(self, to: str, source: str, rows: Expr) -> None:
        """Each of ``rows`` numbers of ``delay`` turns ago as a block of 32 bytes."""
        dims = ((rows, _ONE), (constant(_BLOCK), ZERO))
        self._spread_of(to, self._row(source, self.pipeline.sizes.delay, dims), rows)

    def _spread_of(self, to: str, source: View, rows: Expr) -> None:
        self._v("brcb", View(to, ZERO, ((rows, constant(_BLOCK)), (constant(_BLOCK), _ONE))), source)

    def _blocks(self, name: str, rows: Expr) -> View:
        return View(name, ZERO, ((rows, constant(_BLOCK)), (constant(self.pipeline.sizes.columns), ZERO)))


def hidden_behind(score: Value, online: Online) -> tuple[Value, Expr] | None:
    """A causal mask: the scores without it, and by how much a key is beyond the last one that a row sees."""
    match score:
        case Select(
            cond=Binary(op="le" | "lt" as op, a=IndexValue(index=key), b=IndexValue(index=end)),
            a=inner,
            b=Const(value=low),
        ) if low == -math.inf and score.dtype is DType.F32:
            beyond = key - end + (1 if op == "lt" else 0)
            try:
                steps = beyond.coefficient(online.keys), beyond.coefficient(online.rows)
            except ValueError:
                return None
            return (inner, beyond) if steps == (constant(1), constant(-1)) else None
    return None
