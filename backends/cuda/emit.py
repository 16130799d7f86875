"""A scheduled kernel as the text of one Triton function. What is decided here is spelling; the tree decides the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count

from tilewright.backends.cuda.contraction import contraction
from tilewright.backends.cuda.functions import (
    DEFINITIONS,
    LANGUAGE,
    SIGNATURE,
    combine_text,
    definitions_used,
    literal,
    reduce_text,
)
from tilewright.backends.cuda.launch import Argument, Launch
from tilewright.backends.cuda.positions import INT32_END, Frame, Position, Positions, Spelled
from tilewright.backends.cuda.values import Values, conjunction
from tilewright.errors import InternalError
from tilewright.ir.symbolic import Expr, bounds, constant, product
from tilewright.ir.types import DType
from tilewright.kernel.analysis import identity
from tilewright.kernel.expr import Cast, Load, Value
from tilewright.kernel.schedule import Alloc, Compute, Fill, For, Node, Rotate, Scheduled, ScheduleError, Write
from tilewright.kernel.scope import Scope, trips, visit

#: Most lanes that a Triton tensor may have (``TRITON_MAX_TENSOR_NUMEL`` of Triton 3.9).
MAX_LANES = 1 << 20
#: Divisors beyond this buy nothing: 16 bytes are the widest access, 16 elements of a byte each the most in one.
MAX_DIVISOR = 16

_RESERVED = frozenset(["tl", "triton", "float", "pid", *DEFINITIONS])


def emit_kernel(scheduled: Scheduled) -> tuple[str, Launch]:
    """The program text of one kernel, and how to launch it. Raises ``ScheduleError`` where Triton cannot follow."""
    return _Emitter(scheduled).run()


class _Emitter:
    def __init__(self, scheduled: Scheduled):
        self.scheduled, self.kernel = scheduled, scheduled.kernel
        self.lines: list[str] = []
        self.depth = 1
        self.guarded = {a for n, _ in visit(scheduled) if isinstance(n, Compute | Write) for a in n.guards}
        tiles = {n.tile.name for n, _ in visit(scheduled) if isinstance(n, Alloc)}
        variables = {n.var for n, _ in visit(scheduled) if isinstance(n, For)}
        names = {p.name for p in self.kernel.params} | {s for s, _ in self.kernel.facts} | tiles | variables
        if clash := sorted(names & _RESERVED):
            raise InternalError(f"{self.kernel.name}: {clash[0]} is a name of the emitted program")
        self.taken = names | {a.name for a in self.kernel.axes} | _RESERVED
        self.groups = _groups(scheduled)
        self.at = Positions()
        self.values = Values(self.kernel, self.at, self.line, self.fresh)
        self.grid: Expr | None = None

    def run(self) -> tuple[str, Launch]:
        scope = Scope.root(self.kernel, self.scheduled.schedule)
        self.at.facts = dict(scope.padded_facts())
        for group, sizes in self.groups.items():
            self.at.lanes["_".join(group)] = math.prod(sizes)
            self.line(f"{'_'.join(group)} = tl.arange(0, {math.prod(sizes)})")
        looped = {n.axis for n, _ in visit(self.scheduled) if isinstance(n, For)}
        for axis in self.kernel.axes:
            if axis.name not in looped:
                self.bind(axis.name, scope)
        self.body(self.scheduled.body, scope)
        arguments = self.arguments()
        name = self.kernel.name
        head = f"@triton.jit\ndef {name}({', '.join(a.name for a in arguments)}):\n"
        text = head + "\n".join(self.lines) + "\n"
        parts = ["import triton\nimport triton.language as tl\n", *definitions_used(text), text]
        option = self.scheduled.schedule.option
        warps, stages = int(option("num_warps", 4)), int(option("num_stages", 3))
        return "\n\n".join(parts), Launch(name, name, arguments, self.grid or constant(1), warps, stages)

    # -- lines and names -----------------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def fresh(self, stem: str) -> str:
        name = stem if stem not in self.taken else next(n for i in count() if (n := f"{stem}_{i}") not in self.taken)
        self.taken.add(name)
        return name

    def refuse(self, cause: str) -> ScheduleError:
        return ScheduleError(self.kernel.name, f"Triton: {cause}")

    def arguments(self) -> tuple[Argument, ...]:
        """Pointers are aligned by the arena and by weights (64 bytes); a symbol has the divisor its facts state."""
        pointers = [Argument(p.name, f"*{SIGNATURE[p.dtype]}", MAX_DIVISOR) for p in self.kernel.params]
        sizes = [
            Argument(s, "i64" if r.hi >= INT32_END else "i32", math.gcd(r.divisor, MAX_DIVISOR))
            for s, r in self.kernel.facts
        ]
        return (*pointers, *sizes)

    # -- axes and loops ------------------------------------------------------------------------------------------

    def bind(self, axis: str, scope: Scope) -> None:
        """Make ``axis`` stand for its range in ``scope``."""
        r = scope.ranges[axis]
        start = self.at.index(r.start, ()).text
        group = next((g for g in self.groups if axis in g), None)
        if r.lanes is None or r.lanes & (r.lanes - 1):
            raise self.refuse(f"axis {axis} is taken {r.size} at a time, not a power of two (whole:{axis} pads it)")
        if r.lanes == 1:
            self.at.axes[axis] = Position(start, None)
            return
        name = axis if axis not in self.at.axes else self.fresh(axis)
        if group is None:
            dim = name
            self.at.lanes[dim] = r.lanes
            lane = f"tl.arange(0, {r.lanes})"
        else:
            dim = "_".join(group)
            lane = _member(dim, group.index(axis), self.groups[group])
        self.line(f"{name} = {lane}" if start == "0" else f"{name} = {start} + {lane}")
        mask = None
        if r.ragged and axis in self.guarded:
            mask = self.fresh(f"{name}_in")
            end = r.loops[-1].hi if r.loops else r.limit
            self.line(f"{mask} = {name} < {self.at.index(end, ()).text}")
        self.at.axes[axis] = Position(name, dim, mask)

    def body(self, nodes: Sequence[Node], scope: Scope) -> None:
        for node in nodes:
            match node:
                case For(kind="block"):
                    self.block(node, scope)
                case For():
                    self.loop(node, scope)
                case Alloc(tile=tile):
                    self.values.tiles[tile.name] = self.at.frame([d.axis for d in tile.dims])
                case Fill(tile=tile, value=value):
                    made = next(n.tile for n in nodes if isinstance(n, Alloc) and n.tile.name == tile)
                    shape = self.at.shape(self.values.tiles[tile])
                    self.line(f"{tile} = tl.full({shape}, {literal(value.value, made.dtype)}, tl.{LANGUAGE[made.dtype]})")
                case Compute():
                    self.compute(node, scope)
                case Write():
                    self.write(node)
                case Rotate(pairs=pairs):
                    self.rotate(pairs)
            scope = scope.after(node)

    def enter(self, loops: Sequence[For], scope: Scope) -> Scope:
        """The scope inside ``loops``, their axes bound."""
        for loop in loops:
            if loop.balanced:
                raise self.refuse(f"the loop over {loop.axis} is balanced; lanes are powers of two")
            scope = scope.enter(loop)
        self.at.facts = dict(scope.padded_facts())
        for loop in loops:
            self.bind(loop.axis, scope)
        return scope

    def block(self, outer: For, scope: Scope) -> None:
        """The nest of block loops as one linear grid, the innermost loop fastest."""
        if self.grid is not None:
            raise self.refuse("a kernel with two nests of block loops")
        nest = [outer]
        while len(nest[-1].body) == 1 and isinstance(nest[-1].body[0], For) and nest[-1].body[0].kind == "block":
            nest.append(nest[-1].body[0])
        self.grid = product(trips(loop) for loop in nest)
        many = [loop for loop in nest if trips(loop) != 1]
        inside = dict(scope.facts)
        for loop in nest:
            scope = scope.enter(loop)
        self.at.facts = {**inside, **scope.facts}
        if many:
            self.line("pid = tl.program_id(0)")
        for n, loop in enumerate(reversed(many)):
            number = self.at.index(trips(loop), ()).operand
            last = n == len(many) - 1
            piece = "pid" if last else f"pid % {number}"
            scaled = piece if loop.size == 1 else f"{piece if last else f'({piece})'} * {loop.size}"
            self.line(f"{loop.var} = {scaled}")
            if not last:
                self.line(f"pid = pid // {number}")
        self.at.facts = dict(scope.padded_facts())
        for loop in nest:
            self.bind(loop.axis, scope)
        self.body(nest[-1].body, scope)

    def loop(self, outer: For, scope: Scope) -> None:
        """A loop, or a perfect nest of loops as one (Triton overlaps the loads of an innermost loop only)."""
        nest = [outer]
        while len(nest[-1].body) == 1 and isinstance(inner := nest[-1].body[0], For):
            if {loop.var for loop in nest} & (inner.lo.symbols | inner.hi.symbols):
                break
            nest.append(inner)
        many = [x for x in nest if bounds(trips(x), scope.facts)[1] > 1]
        saved = dict(self.at.axes), dict(self.values.loaded), dict(self.at.facts)
        stages = int(self.scheduled.schedule.option("num_stages", 3)) if nest[-1].kind == "pipeline" else 1
        if many:
            self.head(many, stages)
            self.depth += 1
        self.body(nest[-1].body, self.enter(nest, scope))
        if many:
            self.depth -= 1
        self.at.axes, self.values.loaded, self.at.facts = saved

    def head(self, many: Sequence[For], stages: int) -> None:
        if len(many) == 1:
            lo, hi = (self.at.index(e, ()).text for e in (many[0].lo, many[0].hi))
            self.line(f"for {many[0].var} in tl.range({lo}, {hi}, {many[0].size}, num_stages={stages}):")
            return
        step = self.fresh("step")
        total = self.at.index(product(trips(x) for x in many), ()).text
        self.line(f"for {step} in tl.range(0, {total}, num_stages={stages}):")
        for n, loop in enumerate(many):
            inner = product(trips(x) for x in many[n + 1 :])
            text = step if inner == 1 else f"{step} // {self.at.index(inner, ()).operand}"
            text = text if n == 0 else f"{text} % {self.at.index(trips(loop), ()).operand}"
            text = text if loop.size == 1 else f"({text}) * {loop.size}"
            lo = "" if loop.lo == 0 else f" + {self.at.index(loop.lo, ()).operand}"
            self.line(f"    {loop.var} = {text}{lo}")

    # -- statements ----------------------------------------------------------------------------------------------

    def compute(self, node: Compute, scope: Scope) -> None:
        frame, guards = self.at.frame(node.axes), frozenset(node.guards)
        if set(self.values.tiles[node.tile]) != set(frame):
            raise self.refuse(f"tile {node.tile} is written in pieces")
        if node.reduce is None:
            s = self.filled(self.values.spell(node.value, frame, guards), frame, node.value.dtype)
            self.line(f"{node.tile} = {s}")
            return
        product_of = contraction(node, scope)
        text = self.dot(node, scope) if product_of is not None else self.reduction(node, frame, guards)
        if node.accumulate and product_of is None:
            text = combine_text(node.reduce.op, node.tile, text, node.value.dtype)
        self.line(f"{node.tile} = {text}")

    def reduction(self, node: Compute, frame: Frame, guards: frozenset[str]) -> str:
        """Padded lanes of the reduced axes count as the identity."""
        assert node.reduce is not None
        dtype = node.value.dtype
        reduced = self.at.frame(node.reduce.axes)
        whole = (*frame, *reduced)
        s = self.values.spell(node.value, whole, guards)
        masks = self.values.masks([a for a in node.reduce.axes if a in guards])
        rest = identity(node.reduce.op, dtype).value
        if masks and not (rest == 0 and _reads_zero(node.value)):
            shown = s.text if s.dims else f"tl.full({self.at.shape(whole)}, {s.text}, tl.{LANGUAGE[dtype]})"
            s = Spelled(f"tl.where({conjunction(masks, whole)}, {shown}, {literal(rest, dtype)})", s.dims | set(reduced))
        text = self.filled(s, whole, dtype)
        for n in reversed(range(len(frame), len(whole))):
            text = reduce_text(node.reduce.op, text, n, dtype)
        return text

    def dot(self, node: Compute, scope: Scope) -> str:
        """``tl.dot`` with operands that are zero on padded lanes of the depth."""
        c = contraction(node, scope)
        assert c is not None
        rows, columns, depth = (self.at.frame(a) for a in (c.rows, c.columns, c.depth))
        if not len(rows) == len(columns) == len(depth) == 1:
            raise InternalError(f"{self.kernel.name}: {node.tile} is a product whose axes were not gathered")
        guards = frozenset(node.guards)
        ragged = [a for a in c.depth if a in guards]
        left = self.operand(c.left, rows + depth, guards, ragged)
        right = self.operand(c.right, depth + columns, guards, ragged)
        if node.axes and self.values.tiles[node.tile] != rows + columns:
            raise self.refuse(f"the axes of {node.tile} interleave rows and columns of a product")
        parts = [left, right, *([node.tile] if node.accumulate else [])]
        precision = str(self.scheduled.schedule.option("precision", "ieee"))
        if c.left.dtype is DType.F32:
            parts.append(f'input_precision="{precision}"')
        parts.append(f"out_dtype=tl.{LANGUAGE[node.value.dtype]}")
        return f"tl.dot({', '.join(parts)})"

    def operand(self, value: Value, frame: Frame, guards: frozenset[str], ragged: Sequence[str]) -> str:
        s = self.values.spell(value, frame, guards)
        masks = self.values.masks(ragged)
        if masks and not _reads_zero(value):
            s = Spelled(f"tl.where({conjunction(masks, frame)}, {s.text}, {literal(0, value.dtype)})", s.dims | set(frame))
        return self.filled(s, frame, value.dtype)

    def filled(self, s: Spelled, frame: Frame, dtype: DType) -> str:
        """``s`` with all lanes of ``frame``."""
        if math.prod(self.at.lanes[d] for d in frame) > MAX_LANES:
            raise self.refuse(f"a tensor of {self.at.shape(frame)} lanes")
        if s.dims == set(frame):
            return s.text
        if not s.dims:
            return f"tl.full({self.at.shape(frame)}, {s.text}, tl.{LANGUAGE[dtype]})"
        return f"tl.broadcast_to({s.text}, {self.at.shape(frame)})"

    def write(self, node: Write) -> None:
        frame, guards = self.at.frame(node.axes), frozenset(node.guards)
        value = self.values.spell(node.value, frame, guards)
        offset = self.values.offset(node.tensor, node.index, frame, guards)
        masks = self.values.masks([a for a in node.axes if a in guards])
        mask = f", mask={conjunction(masks, frame)}" if masks else ""
        self.line(f"tl.store({node.tensor} + {offset.operand}, {value.text}{mask})")
        if any(p.alias for p in self.kernel.params):
            self.values.loaded.clear()

    def rotate(self, pairs: tuple[tuple[str, str], ...]) -> None:
        carries = {c for c, _ in pairs}
        renamed = {t: self.fresh(f"{t}_next") for _, t in pairs if t in carries}
        for tile, name in renamed.items():
            self.line(f"{name} = {tile}")
        for carry, tile in pairs:
            self.line(f"{carry} = {renamed.get(tile, tile)}")


def _reads_zero(value: Value) -> bool:
    """Whether masked lanes of ``value`` are zero because it is nothing but a masked read."""
    while isinstance(value, Cast):
        value = value.x
    return isinstance(value, Load) and not value.fill


def _groups(scheduled: Scheduled) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Axes that a matrix product takes as one role, and so share a dimension, with the lanes of each."""
    groups: dict[tuple[str, ...], tuple[int, ...]] = {}
    for node, scope in visit(scheduled):
        found = contraction(node, scope) if isinstance(node, Compute) else None
        for role in (found.rows, found.columns, found.depth) if found is not None else ():
            if len(role) > 1:
                groups[role] = tuple(scope.ranges[a].lanes or 0 for a in role)
    members = [a for g in groups for a in g]
    if len(members) != len(set(members)):
        raise ScheduleError(scheduled.kernel.name, "Triton: two products gather the same axis differently")
    return groups


def _member(dim: str, n: int, sizes: tuple[int, ...]) -> str:
    """The lane of the ``n``-th axis of a group inside the lanes of the whole group (powers of two: bit fields)."""
    inner = math.prod(sizes[n + 1 :])
    text = dim if inner == 1 else f"{dim} // {inner}"
    return text if n == 0 else f"({text}) % {sizes[n]}" if inner != 1 else f"{text} % {sizes[n]}"
