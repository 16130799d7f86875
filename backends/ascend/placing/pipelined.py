"""Attention as a pipeline over cube and vector cores: three turns of work are under way at any time.

A turn takes one piece of the keys of one block of rows. In it the cube core multiplies queries and keys of the newest
piece and, in between, weights and values of the piece ``delay`` turns ago; the vector cores make weights of the newest
piece and add up the result of the one ``delay`` turns ago. So neither waits for the other as long as both take about
as long, and what they hand over lies in as many slots of a workspace, which L2 holds. Pieces follow on one another
across blocks; ``delay`` turns without a new piece end the launch.

Blocks with many keys come first and are dealt out to and fro (group 0, 1, …, n, n, …, 1, 0), so that under a causal
mask every group of cores gets about as many pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from tilewright.backends.ascend.memory.addresses import with_addresses
from tilewright.backends.ascend.placed.form import (
    GROUP,
    GROUPS,
    SUBBLOCK,
    Block,
    Core,
    Instruction,
    Let,
    Loop,
    Placed,
    Scalar,
    View,
    counter,
    program_of,
)
from tilewright.backends.ascend.placed.form import Node as Placing
from tilewright.backends.ascend.placed.layout import FRACTAL, round_up
from tilewright.backends.ascend.placing.frame import BLOCK_LOOP, Frame, with_slots
from tilewright.backends.ascend.placing.numbers import Numbers
from tilewright.backends.ascend.placing.online import PIPELINED, Online, online_of
from tilewright.backends.ascend.placing.place import Context
from tilewright.ir.symbolic import ZERO, Expr, ceildiv, constant, maximum, minimum, product, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import walk
from tilewright.kernel.expr import Cast, Load, operands
from tilewright.kernel.schedule import For, Node, Scheduled, ScheduleError
from tilewright.kernel.tile import Store
from tilewright.target import Target

#: Columns of scores, and of the result, that leave L0C at a time.
PART = 64
#: The deepest sums that one load of L0 brings in.
MOST_DEEP = 128
_ONE = constant(1)
#: What a turn is about: block, first key, rows, keys, and whether it is the block's last.
_FIELDS = ("block", "key", "rows", "keys", "last")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows of a block, keys of a piece, turns of delay; the result's columns are made in ``halves`` of ``half``, whose
    sums are ``deep`` keys at a time."""

    rows: int
    keys: int
    delay: int
    columns: int
    depth: int

    @property
    def halves(self) -> int:
        return -(-self.columns // PART)

    @property
    def half(self) -> int:
        return min(PART, round_up(self.columns, FRACTAL))

    @property
    def deep(self) -> int:
        return PART * self.halves

    @property
    def parts(self) -> int:
        """Parts of the scores beside each half."""
        return self.keys // PART // self.halves


@dataclass(slots=True)
class Pipeline(Context):
    """The placing of one pipelined attention kernel. ``late`` is how many turns ago the piece is about that ranges and
    counts are taken of; ``pieces`` rows a vector core takes at a time."""

    online: Online = field(kw_only=True)
    sizes: Sizes = field(kw_only=True)
    pieces: int = field(kw_only=True)
    nest: tuple[For, ...] = ()
    late: int = 0
    names: dict[str, str] = field(default_factory=dict)
    way_out: tuple[View, Block] = field(init=False)

    # -- what a turn is about --------------------------------------------------------------------------------------

    def item(self, name: str) -> Expr:
        """A field of the turn ``late`` turns ago."""
        return symbol(f"{name}_{self.late}")

    def placed_at(self, block: Expr) -> dict[str, Expr]:
        """The variables of the block loops in terms of a block's number: pieces of rows outermost, the last first."""
        counts = {loop.axis: ceildiv(loop.hi - loop.lo, loop.size) for loop in self.nest}
        inner = [loop for loop in self.nest if loop.axis != self.online.rows]
        result: dict[str, Expr] = {}
        for loop in self.nest:
            if loop.axis == self.online.rows:
                turn = counts[loop.axis] - 1 - block // product(counts[x.axis] for x in inner)
            else:
                turn = block // product(counts[x.axis] for x in inner[inner.index(loop) + 1 :]) % counts[loop.axis]
            result[loop.var] = loop.lo + turn * loop.size
        return result

    def lanes(self, axis: str) -> int:
        """Allocated lanes of ``axis``."""
        known = {self.online.rows: self.sizes.rows, self.online.keys: self.sizes.keys}
        return known[axis] if axis in known else Context.lanes(self, axis)

    def share(self) -> int:
        """Rows of a block that one vector core takes."""
        half = -(-self.sizes.rows // max(1, int(self.target.extra["subblocks"])))
        return min(round_up(self.sizes.rows, 8), round_up(half, 8))

    def piece(self) -> int:
        return min(self.pieces, self.share())

    def vector_rows(self) -> Expr:
        """Rows of the turn's block that this vector core takes."""
        return maximum(0, minimum(self.share(), self.item("rows") - SUBBLOCK * self.share()))

    def start(self, axis: str, vector: bool = False) -> Expr:
        if axis == self.online.keys:
            return self.item("key")
        first = self.scope.ranges[axis].start.substitute(self.placed_at(self.item("block")))
        return first + self.vector_offset() if vector and axis == self.online.rows else first

    def count(self, axis: str, vector: bool = False) -> Expr:
        if axis == self.online.keys:
            return self.item("keys")
        if axis == self.online.rows:
            return minimum(self.piece(), self.vector_rows() - self.strip) if vector else self.item("rows")
        return Context.count(self, axis, vector)

    def expr(self, e: Expr) -> Expr:
        return e.substitute(self.placed_at(self.item("block")))

    def offset(self, load: Load | Store, first: dict[str, Expr]) -> Expr:
        """The element offset of ``load`` with the axes in ``first`` there, the others where the turn is."""
        flat = self.online.offset(self.scheduled.kernel, load)
        others = {a: self.start(a) for a in self.scope.ranges if a in flat.symbols and a not in first}
        return self.expr(flat.substitute({**others, **first}))

    def stride(self, load: Load | Store, axis: str) -> Expr:
        return self.online.offset(self.scheduled.kernel, load).coefficient(axis)

    # -- the tree ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        from tilewright.backends.ascend.placing.weights import Weights

        kernel, o, s = self.scheduled.kernel, self.online, self.sizes
        self.fused, self.split = False, o.rows
        self.nest, limit, inner = _loops(self.scheduled, o)
        for loop in (*self.nest, *inner):
            self.scope = self.scope.enter(loop)
        counts = {loop.axis: ceildiv(loop.hi - loop.lo, loop.size) for loop in self.nest}
        self.blocks = product(counts.values())
        self.cube_tiles = frozenset([o.raw.tile])
        turn, step = Frame(BLOCK_LOOP), Frame("piece")
        self.tree.frames = [turn, step]
        self.tree.bound = {f"{name}_{n}": step.var for name in _FIELDS for n in range(s.delay + 1)}
        rounds = ceildiv(self.blocks, GROUPS)
        end, drains = self._block(turn, rounds, limit)
        self._turns(step, end)
        self._queries(turn)
        self._products(step)
        vector = Weights(self, pipeline=self)
        vector.order = (*(a.name for a in kernel.axes if a.name != o.keys), o.keys)
        vector.numbers = Numbers(self.scope.facts, {})
        vector.place(step)
        # A turn at least: what orders the turns of the outer loop need not hold without any inner one.
        hi = maximum(1, symbol("live") * end + drains * (s.delay * s.keys))
        turn.nodes.append(Loop(step.var, ZERO, hi, constant(s.keys), tuple(step.nodes)))
        self.loops += [*self._first_values(), Loop(turn.var, ZERO, rounds + 1, _ONE, tuple(turn.nodes))]

    def _let(self, frame: Frame | None, var: str, value: Expr, limit: Expr) -> list[Let]:
        cores: tuple[Core, ...] = ("cube", "vector")
        made = [Let(core, var, value, limit) for core in cores]
        if frame is not None:
            frame.nodes += made
        return made

    def _limits(self) -> dict[str, Expr]:
        kernel, o = self.scheduled.kernel, self.online
        keys = kernel.extent(o.keys)
        sizes = constant(self.sizes.rows + 1), constant(self.sizes.keys + 1), constant(2)
        return dict(zip(_FIELDS, (self.blocks, keys, *sizes), strict=True))

    def _first_values(self) -> list[Let]:
        limits = self._limits()
        outer = {"live": constant(2), "here": self.blocks}
        every = {f"{name}_{n}": limits[name] for n in range(self.sizes.delay + 1) for name in _FIELDS}
        return [x for var, limit in (outer | every).items() for x in self._let(None, var, ZERO, limit)]

    def _block(self, turn: Frame, rounds: Expr, limit: Expr) -> tuple[Expr, Expr]:
        """Which block a group takes in a turn of the outer loop: where its keys end, and whether it is the turn that
        only ends what is under way."""
        t = symbol(turn.var)
        number = t * GROUPS + GROUP + (t % 2) * (GROUPS - 1 - 2 * GROUP)
        self._let(turn, "live", maximum(0, minimum(1, self.blocks - number)), constant(2))
        self._let(turn, "here", minimum(number, self.blocks - 1), self.blocks)
        end = limit.substitute(self.placed_at(symbol("here")))
        return end, maximum(0, t + 1 - rounds)

    def _turns(self, step: Frame, end: Expr) -> None:
        """What the turns were about moves on by one, and the newest is about the piece that begins at ``step``."""
        limits, live, at = self._limits(), symbol("live"), symbol(step.var)
        for n in range(self.sizes.delay, 0, -1):
            for name in _FIELDS:
                self._let(step, f"{name}_{n}", symbol(f"{name}_{n - 1}"), limits[name])
        row = next(loop for loop in self.nest if loop.axis == self.online.rows)
        rows = row.hi - self.placed_at(symbol("here"))[row.var]
        values = (
            symbol("here"),
            live * at,
            live * minimum(self.sizes.rows, rows),
            live * minimum(self.sizes.keys, end - at),
            live * (1 - minimum(1, maximum(0, end - at - self.sizes.keys))),
        )
        for name, value in zip(_FIELDS, values, strict=True):
            self._let(step, f"{name}_0", value, limits[name])

    # -- the cube core -----------------------------------------------------------------------------------------------

    def _queries(self, turn: Frame) -> None:
        """The rows of queries of a block in L1."""
        o, s, t = self.online, self.sizes, self.tree
        name = t.add(f"{o.query.tensor}_l1", "l1", o.dtype, (s.rows, s.depth), "cube", frame=turn)
        here = self.placed_at(symbol("here"))
        row = next(loop for loop in self.nest if loop.axis == o.rows)
        rows = symbol("live") * minimum(s.rows, row.hi - here[row.var])
        flat = o.offset(self.scheduled.kernel, o.query)
        first = {a: self.scope.ranges[a].start.substitute(here) for a in self.scope.ranges if a in flat.symbols}
        first[o.depth] = ZERO
        dims = ((rows, flat.coefficient(o.rows)), (constant(s.depth), _ONE))
        dst = Block(name, ZERO, ZERO, rows, constant(s.depth))
        t.emit(turn, "nd2nz", "cube", "MTE2", dst, View(o.query.tensor, flat.substitute(first), dims))

    def _products(self, step: Frame) -> None:
        """Both products of a turn, part by part in turns."""
        o, s, t = self.online, self.sizes, self.tree
        slots = s.delay + 1
        kind = self.score_type()
        names = {
            "scores": t.add(
                "scores", "gm", kind, (s.keys // PART * s.rows, PART), None, frame=step, workspace=True, slots=slots
            ),
            "weights": t.add("weights", "gm", o.dtype, (s.rows, s.keys), None, frame=step, workspace=True, slots=slots),
            "sums": t.add(
                "sums", "gm", DType.F32, (s.halves * s.rows, s.half), None, frame=step, workspace=True, slots=slots
            ),
        }
        query = next(n for n in t.buffers if n.startswith(f"{o.query.tensor}_l1"))
        left = t.add("query_l0", "l0a", o.dtype, (s.rows, s.depth), "cube", frame=step)
        rows, depth = self.item("rows"), constant(s.depth)
        t.emit(
            step, "load", "cube", "MTE1",
            Block(left, ZERO, ZERO, rows, depth, whole=True), Block(query, ZERO, ZERO, rows, depth, whole=True),
        )  # fmt: skip
        inner = t.add("weights_l1", "l1", o.dtype, (s.rows, s.keys), "cube", frame=step)
        self.names = {**names, "query": left, "inner": inner}
        half, part = Frame("half"), Frame("part")
        self._keys(half, part)
        self._values(half, part)
        half.nodes.append(Loop(part.var, ZERO, constant(s.parts), _ONE, tuple(part.nodes)))
        self._sums(half)
        step.nodes.append(Loop(half.var, ZERO, constant(s.halves), _ONE, tuple(half.nodes)))

    def _ago(self, turns: str, slots: int) -> Expr:
        """The slot of ``delay`` turns ago."""
        return symbol(counter(turns)) + (slots - self.sizes.delay)

    def _keys(self, half: Frame, part: Frame) -> None:
        """A part of the scores of the newest piece."""
        o, s, t = self.online, self.sizes, self.tree
        number = symbol(half.var) * s.parts + symbol(part.var)
        rows, depth = self.item("rows"), constant(s.depth)
        keys = maximum(0, minimum(PART, self.item("keys") - number * PART))
        key = t.add(f"{o.key.tensor}_l1", "l1", o.dtype, (PART, s.depth), "cube", frame=part)
        right = t.add("key_l0", "l0b", o.dtype, (s.depth, PART), "cube", frame=part)
        sums = t.add("score_sums", "l0c", DType.F32, (s.rows, PART), "cube", frame=part)
        first = {o.keys: self.item("key") + number * PART, o.depth: ZERO}
        source = View(o.key.tensor, self.offset(o.key, first), ((keys, self.stride(o.key, o.keys)), (depth, _ONE)))
        t.emit(part, "nd2nz", "cube", "MTE2", Block(key, ZERO, ZERO, keys, depth), source)
        to = Block(right, ZERO, ZERO, depth, keys, whole=True)
        t.emit(part, "load", "cube", "MTE1", to, Block(key, ZERO, ZERO, keys, depth, whole=True), transpose=True)
        left = Block(self.names["query"], ZERO, ZERO, rows, depth)
        out = Block(sums, ZERO, ZERO, rows, keys)
        t.emit(part, "mmad", "cube", "M", out, left, Block(right, ZERO, ZERO, depth, keys))
        place = View(self.names["scores"], number * (s.rows * PART), ((rows, constant(PART)), (keys, _ONE)))
        t.emit(part, "fixpipe", "cube", "FIX", place, out)

    def _values(self, half: Frame, part: Frame) -> None:
        """A part of the product of weights and values of the piece ``delay`` turns ago."""
        o, s, t = self.online, self.sizes, self.tree
        self.late = s.delay
        rows, at = self.item("rows"), symbol(part.var) * s.deep
        deep = maximum(0, minimum(s.deep, self.item("keys") - at))
        begin = symbol(half.var) * s.half
        columns = constant(s.half) if s.columns % s.half == 0 else minimum(s.half, s.columns - begin)
        name = t.add(f"{o.values.tensor}_l1", "l1", o.dtype, (s.deep, s.half), "cube", frame=part)
        right = t.add("value_l0", "l0b", o.dtype, (s.deep, s.half), "cube", frame=part)
        left = t.add("weight_l0", "l0a", o.dtype, (s.rows, s.deep), "cube", frame=part)
        sums = t.add("result_sums", "l0c", DType.F32, (s.rows, s.half), "cube", frame=half)
        first = {o.keys: self.item("key") + at, o.columns: begin}
        source = View(
            o.values.tensor, self.offset(o.values, first), ((deep, self.stride(o.values, o.keys)), (columns, _ONE))
        )
        # Rows of a piece that is not there are none of a product either.
        t.emit(part, "nd2nz", "cube", "MTE2", Block(name, ZERO, ZERO, deep, columns), source)
        # The first half brings the weights in, part by part: the cube unit need not wait for all of them.
        once = rows * (1 - symbol(half.var)) if s.halves == 2 else rows
        made = View(
            self.names["weights"], at, ((once, constant(s.keys)), (deep, _ONE)), self._ago("piece", s.delay + 1)
        )
        t.emit(part, "nd2nz", "cube", "MTE2", Block(self.names["inner"], ZERO, at, once, deep), made)
        weights = Block(self.names["inner"], ZERO, at, rows, deep, whole=True)
        t.emit(part, "load", "cube", "MTE1", Block(left, ZERO, ZERO, rows, deep, whole=True), weights)
        to = Block(right, ZERO, ZERO, deep, columns, whole=True)
        t.emit(part, "load", "cube", "MTE1", to, Block(name, ZERO, ZERO, deep, columns, whole=True))
        out = Block(sums, ZERO, ZERO, rows, columns)
        operands = Block(left, ZERO, ZERO, rows, deep), Block(right, ZERO, ZERO, deep, columns)
        t.emit(part, "mmad", "cube", "M", out, *operands, init=symbol(part.var))
        place = View(
            self.names["sums"], symbol(half.var) * (s.rows * s.half), ((rows, constant(s.half)), (columns, _ONE))
        )
        self.names["result"], self.late = sums, 0
        self.way_out = place, out

    def _sums(self, half: Frame) -> None:
        """A half of the result of a piece leaves L0C."""
        self.tree.emit(half, "fixpipe", "cube", "FIX", *self.way_out)

    def score_type(self) -> DType:
        """The type in which scores leave L0C: a cast that all uses of them begin with is done on the way."""
        casts = [v for v in walk(self.online.score) if isinstance(v, Cast) and v.x == self.online.raw]
        plain = [v for v in walk(self.online.score) if self.online.raw in operands(v) and not isinstance(v, Cast)]
        kinds = {v.dtype for v in casts}
        narrow = len(kinds) == 1 and kinds <= {DType.F16, DType.BF16} and not plain
        return kinds.pop() if narrow else DType.F32


def _loops(scheduled: Scheduled, online: Online) -> tuple[tuple[For, ...], Expr, tuple[For, ...]]:
    """The block loops, where the keys end that any row of a block sees, and the loop over keys, if there is one."""
    nest: list[For] = []
    body: Sequence[Node] = scheduled.body
    while blocks := [n for n in body if isinstance(n, For) and n.kind == "block"]:
        nest.append(blocks[0])
        body = blocks[0].body
    inner = tuple(n for n in body if isinstance(n, For) and n.axis == online.keys)
    limit = inner[0].hi if inner else scheduled.kernel.extent(online.keys)
    return tuple(nest), limit, inner


def pruned(body: tuple[Placing, ...]) -> tuple[Placing, ...]:
    """``body`` without the variables that a core does not use."""
    for core in ("cube", "vector"):
        used = _used(program_of(body, core))
        body = _kept(body, core, used)
    return body


def _used(body: tuple[Placing, ...]) -> set[str]:
    """Symbols that instructions and loops depend on, through variables too."""
    names: set[str] = set()
    lets: list[Let] = []

    def visit(nodes: tuple[Placing, ...]) -> None:
        for node in nodes:
            match node:
                case Loop():
                    names.update(node.lo.symbols | node.hi.symbols)
                    visit(node.body)
                case Let():
                    lets.append(node)
                case Instruction():
                    for e in _expressions(node):
                        names.update(e.symbols)

    visit(body)
    before = -1
    while len(names) != before:
        before = len(names)
        for node in lets:
            names.update(node.value.symbols if node.var in names else ())
    return names


def _expressions(node: Instruction) -> Iterator[Expr]:
    for a in (*node.reads, *node.writes):
        yield a.slot
        if isinstance(a, View):
            yield a.offset
            yield from (e for d in a.dims for e in d)
        else:
            yield from (a.row, a.column, a.rows, a.columns)
    yield from (s.value for s in node.srcs if isinstance(s, Scalar) and isinstance(s.value, Expr))
    yield from (v for _, v in node.parameters if isinstance(v, Expr))
    if node.init is not None:
        yield node.init


def _kept(body: tuple[Placing, ...], core: str, used: set[str]) -> tuple[Placing, ...]:
    result: list[Placing] = []
    for node in body:
        if isinstance(node, Loop):
            result.append(replace(node, body=_kept(node.body, core, used)))
        elif not isinstance(node, Let) or node.core != core or node.var in used:
            result.append(node)
    return tuple(result)


#: Rows that a vector core takes at a time, most first: what its memory holds.
_PIECES = (64, 32, 24, 16, 8)


def place_pipelined(scheduled: Scheduled, target: Target, single: frozenset[str] = frozenset()) -> Placed:
    """Attention in placed form before flags and barriers. ``single``: buffers that get one slot.

    Raises :class:`ScheduleError` where the kernel is no attention that this takes, or its pieces do not fit.
    """
    kernel = scheduled.kernel
    online = online_of(kernel)
    if online is None or online.zero or "split" not in target.features:
        raise ScheduleError(kernel.name, "it is no attention that cube and vector cores share")
    tiles = {loop.axis: loop.size for loop in (*scheduled.schedule.loops, *scheduled.schedule.reduce)}
    columns, depth = (kernel.extent(a).value for a in (online.columns, online.depth))
    delay = int(scheduled.schedule.option(PIPELINED, 2))
    sizes = Sizes(tiles[online.rows], tiles[online.keys], delay, columns, depth)
    if max(columns, depth) > MOST_DEEP or sizes.keys % (PART * sizes.halves):
        raise ScheduleError(kernel.name, f"rows of {max(columns, depth)} do not fit L0 beside {sizes.keys} keys")
    problem = ScheduleError(kernel.name, "no number of rows fits")
    for pieces in _PIECES:
        context = Pipeline(scheduled, target, online=online, sizes=sizes, pieces=pieces)
        context.run()
        for name in single & context.tree.buffers.keys():
            context.tree.buffers[name] = replace(context.tree.buffers[name], slots=1, rotates=None)
        draft = replace(context.draft(), body=pruned(tuple(context.loops)))
        try:
            placed = with_addresses(draft, context.tree.kept)
        except ScheduleError as error:
            problem = error
            continue
        pairs = zip(draft.buffers, placed.buffers, strict=True)
        if all(before.slots == after.slots for before, after in pairs if before.scope == "ub"):
            return replace(placed, body=with_slots(placed.body, {b.name: b for b in placed.buffers}))
    raise problem
