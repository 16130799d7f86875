"""A scheduled kernel as the text of one Triton function: statements are spelled here, the tree decides the rest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tilewright.backends.cuda.arrival import COUNTER_BYTES, Arrival, Split, split_of
from tilewright.backends.cuda.contraction import Contraction, matrix_product
from tilewright.backends.cuda.definitions import definitions_used
from tilewright.backends.cuda.descriptors import DESCRIPTORS, Descriptors
from tilewright.backends.cuda.functions import (
    LANGUAGE,
    NARROW,
    UNIT_FLOATS,
    combine_text,
    literal,
    pointer_type,
    reduce_text,
)
from tilewright.backends.cuda.grid import GROUP, PERSISTENT, order_tiles, persistent_loop
from tilewright.backends.cuda.launch import Argument, Launch
from tilewright.backends.cuda.merging import merge_of
from tilewright.backends.cuda.positions import INT32_END, Frame, Spelled, parenthesized
from tilewright.backends.cuda.program import MAX_LANES, Program
from tilewright.backends.cuda.schedules.precision import PRECISIONS
from tilewright.backends.cuda.values import Values, conjunction
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import ZERO, Expr, constant, maximum, minimum, product
from tilewright.ir.types import DType
from tilewright.kernel.analysis import identity, loads_of, used_symbols, walk
from tilewright.kernel.expr import Binary, Cast, Load, Ref, Value
from tilewright.kernel.pack import packed_params
from tilewright.kernel.schedule import Alloc, Compute, Fill, For, Node, Rotate, Scheduled, Write
from tilewright.kernel.scope import Scope, trips, visit
from tilewright.kernel.tile import Scan

#: Divisors beyond this buy nothing: 16 bytes are the widest access, 16 elements of a byte each the most in one.
MAX_DIVISOR = 16
#: Where a program tells that a run-time index is outside its tensor; only programs with such indices have it.
FAULT = Argument("fault", "*i32", MAX_DIVISOR, "fault")
_ELEMENTS = {"fp8e4nv": "float8e4nv", "fp8e5": "float8e5"}


def emit_kernel(scheduled: Scheduled, features: frozenset[str] = frozenset()) -> tuple[str, Launch]:
    """The program text of one kernel, and how to launch it. Raises ``ScheduleError`` where Triton cannot follow.

    ``features`` are those of the target that change the text: ``f8``, matrix units that take floats of 8 bits.
    """
    return _Emitter(scheduled, features).run()


class _Emitter:
    def __init__(self, scheduled: Scheduled, features: frozenset[str]):
        self.scheduled = scheduled
        # Reads are of packed constants: their offsets follow the packed shapes.
        self.kernel = replace(scheduled.kernel, params=packed_params(scheduled))
        self.program = Program(scheduled)
        self.at, self.line = self.program.at, self.program.line
        #: Sums missed by products of unsigned bytes: accumulator, their name, where they stand in it, their shape.
        self.missed: list[tuple[str, str, str, str]] = []
        native = _unit_operands(scheduled) if "f8" in features else frozenset()
        self.values = Values(
            self.kernel, self.at, self.line, self.program.fresh, self.program.early_line, native=native
        )
        self.grid = constant(1)
        self.blocks: Descriptors | None = None
        if scheduled.schedule.option(DESCRIPTORS, False):
            packed = {p.tensor for p in scheduled.schedule.packs}
            self.blocks = Descriptors(self.kernel, self.program, packed)
        self.arrival: Arrival | None = None
        self.arrived = False
        self.wide = _wide_sums(scheduled)
        self.addends = _addends(scheduled)
        self.late: dict[str, tuple[Compute, Contraction, Scope]] = {}

    def run(self) -> tuple[str, Launch]:
        scope = Scope.root(self.kernel, self.scheduled.schedule)
        looped = {n.axis for n, _ in visit(self.scheduled) if isinstance(n, For)}
        for tensor in sorted(self.values.native):
            kind = UNIT_FLOATS[self.kernel.param(tensor).dtype]
            self.line(f"{tensor}_{kind} = {tensor}.to(tl.pointer_type(tl.{_ELEMENTS[kind]}), bitcast=True)")
        self.program.open(scope, [a.name for a in self.kernel.axes if a.name not in looped])
        self.nests(self.scheduled.body, scope)
        if self.arrival is not None and not self.arrived:
            raise self.program.refuse(
                f"no loop over {self.arrival.split.axis} right under the blocks that could be split"
            )
        arguments = self.arguments()
        name = self.kernel.name
        head = f"@triton.jit\ndef {name}({', '.join(a.name for a in arguments)}):\n"
        text = head + "\n".join(self.program.lines) + "\n"
        parts = ["import triton\nimport triton.language as tl\n", *definitions_used(text), text]
        option = self.scheduled.schedule.option
        warps, stages = int(option("num_warps", 4)), int(option("num_stages", 3))
        launch = Launch(name, name, arguments, self.grid, warps, stages, *self.workspace())
        return "\n\n".join(parts), launch

    def workspace(self) -> tuple[Expr, int]:
        """Bytes of device memory beside the parameters, and how many of the first are counters."""
        return (constant(self.arrival.bytes), COUNTER_BYTES) if self.arrival is not None else (ZERO, 0)

    def arguments(self) -> tuple[Argument, ...]:
        """Pointers are aligned by the arena and by weights (64 bytes); a symbol has the divisor its facts state."""
        pointers = [Argument(p.name, pointer_type(p.dtype, p.role == "out"), MAX_DIVISOR) for p in self.kernel.params]
        sizes = [
            Argument(s, "i64" if r.hi >= INT32_END else "i32", math.gcd(r.divisor, MAX_DIVISOR))
            for s, r in self.kernel.facts
        ]
        shared = [Argument(self.arrival.workspace, "*fp32", MAX_DIVISOR, "workspace")] if self.arrival else []
        return (*pointers, *sizes, *shared, *([FAULT] if self.values.faults else []))

    # -- axes and loops ------------------------------------------------------------------------------------------

    def body(self, nodes: Sequence[Node], scope: Scope) -> None:
        for n, node in enumerate(nodes):
            match node:
                case For(kind="block"):
                    raise self.program.refuse("nests of block loops that share their outer loops")
                case For():
                    self.loop(node, scope)
                    self.gather(nodes[:n], node)
                case Alloc(tile=tile):
                    if open_ended := [d.axis for d in tile.dims if d.axis not in self.at.axes]:
                        raise self.program.refuse(f"tile {tile.name} holds all of {open_ended[0]}, of unknown size")
                    self.values.tiles[tile.name] = self.at.frame([d.axis for d in tile.dims])
                case Fill(tile=tile, value=value):
                    made = next(n.tile for n in nodes if isinstance(n, Alloc) and n.tile.name == tile)
                    lanes = [self.at.lanes[d] for d in self.values.tiles[tile]] + self.wide.get(tile, [])
                    name = f"{tile}_lanes" if tile in self.wide else tile
                    self.line(
                        f"{name} = tl.full({lanes}, {literal(value.value, made.dtype)}, tl.{LANGUAGE[made.dtype]})"
                    )
                case Compute():
                    self.compute(node, scope)
                case Write():
                    self.write(node)
                case Rotate(pairs=pairs):
                    self.rotate(pairs)
            scope = scope.after(node)

    def nests(self, nodes: Sequence[Node], scope: Scope) -> None:
        """The whole kernel. Several nests of block loops (outputs over different axes) share one launch: the programs
        of one nest, then those of the next."""
        blocks = [n for n in nodes if isinstance(n, For) and n.kind == "block"]
        rest = [n for n in nodes if n not in blocks]
        writes = any(isinstance(n, Write) for n, _ in visit(replace(self.scheduled, body=tuple(rest))))
        self.body(rest, scope)
        for node in rest:
            scope = scope.after(node)
        grids = [self._nest(outer)[1] for outer in blocks]
        alone = len(grids) == 1 and not (writes and bounds(grids[0], self.at.facts)[0] < 1)
        if alone:
            self.block(blocks[0], scope, split_of(self.scheduled, self._nest(blocks[0])[0]))
        elif blocks:
            self.line("pid = tl.program_id(0).to(tl.int64)")  # sizes that are divided by may be
            for n, outer in enumerate(blocks):
                saved = dict(self.at.axes), dict(self.values.loaded), dict(self.at.facts)
                number = self.at.index(grids[n], ()).text
                self.line(f"if pid < {number}:")
                self.program.depth += 1
                self.block(outer, scope, known=True)
                self.line("return")
                self.program.depth -= 1
                self.line(f"pid -= {number}")
                self.at.axes, self.values.loaded, self.at.facts = saved
        total = sum(grids[1:], grids[0]) if grids else constant(1)
        total = total * self.arrival.split.parts if self.arrival is not None else total
        if alone and self.arrival is None and (programs := int(self.scheduled.schedule.option(PERSISTENT, 0))):
            total = minimum(total, programs)
        self.grid = maximum(total, 1) if writes and not alone else total

    @staticmethod
    def _nest(outer: For) -> tuple[list[For], Expr]:
        """Block loops that stand in each other with nothing between, and how many programs they are."""
        nest = [outer]
        while len(nest[-1].body) == 1 and isinstance(inner := nest[-1].body[0], For) and inner.kind == "block":
            nest.append(inner)
        return nest, product(trips(loop) for loop in nest)

    def block(self, outer: For, scope: Scope, split: Split | None = None, known: bool = False) -> None:
        """A nest of block loops as one linear grid; ``known``: ``pid`` counts from its first program already."""
        nest, _ = self._nest(outer)
        scope = self.program.enter(nest, scope)
        if split is not None:
            self.arrival = Arrival(self.program, split)
            self.arrival.open()
        band = int(self.scheduled.schedule.option(GROUP, 1))
        programs = 0 if known or split is not None else int(self.scheduled.schedule.option(PERSISTENT, 0))
        if programs:
            persistent_loop(nest, programs, self.program)
        order_tiles(nest, scope, band, self.program, known or split is not None or programs > 0)
        self.program.settle(nest, scope)
        self.body(nest[-1].body, scope)
        if programs:
            self.program.depth -= 1
            self.program.leave()

    def loop(self, outer: For, scope: Scope) -> None:
        """A loop, or a perfect nest of loops as one (Triton overlaps the loads of an innermost loop only)."""
        nest = [outer]
        while len(nest[-1].body) == 1 and isinstance(inner := nest[-1].body[0], For):
            if {loop.var for loop in nest} & (inner.lo.symbols | inner.hi.symbols):
                break
            nest.append(inner)
        many = [x for x in nest if bounds(trips(x), scope.facts)[1] > 1 or bounds(x.hi - x.lo, scope.facts)[0] < 1]
        saved = dict(self.at.axes), dict(self.values.loaded), dict(self.at.facts)
        stages = int(self.scheduled.schedule.option("num_stages", 3)) if nest[-1].kind == "pipeline" else 1
        if self.scheduled.schedule.option("unroll", False) and all(trips(x).is_constant for x in many):
            stages = 0
        start = len(self.program.lines)
        if many:
            specialize = bool(self.scheduled.schedule.option("specialize", False))
            self.program.head(many, stages, self.arrival if self.is_split(many) else None, specialize)
            self.program.depth += 1
        inside = self.program.enter(nest, scope)
        self.program.settle(nest, inside)
        self.body(nest[-1].body, inside)
        if many:
            self.program.depth -= 1
            self.program.leave()
        for tile, name, where, shape in self.missed:
            self.program.lines.insert(start, "    " * self.program.depth + f"{name} = tl.zeros({shape}, tl.int32)")
            self.line(f"{tile} += {name}{where} * 128")
        self.missed.clear()
        self.at.axes, self.values.loaded, self.at.facts = saved

    def is_split(self, loops: Sequence[For]) -> bool:
        """Whether ``loops``, which run as one, are what the programs of a group share."""
        return self.arrival is not None and not self.arrived and self.arrival.split.axis in {x.axis for x in loops}

    def gather(self, before: Sequence[Node], loop: For) -> None:
        """After a loop: sums that were kept by lanes are reduced, and parts of a split one come together."""
        nodes = list(_below(loop))
        summed = {
            n.tile: n.reduce.op for n in nodes if isinstance(n, Compute) and n.accumulate and n.reduce is not None
        }
        made = {n.tile.name: n.tile.dtype for n in before if isinstance(n, Alloc)}
        for tile in [t for t in made if t in summed and t in self.wide]:
            text, frame = f"{tile}_lanes", self.values.tiles[tile]
            for n in reversed(range(len(frame), len(frame) + len(self.wide[tile]))):
                text = reduce_text(summed[tile], text, n, made[tile])
            self.line(f"{tile} = {text}")
        if not self.is_split([n for n in (loop, *nodes) if isinstance(n, For)]):
            return
        assert self.arrival is not None
        self.arrived = True
        carried = [c for n in nodes if isinstance(n, Rotate) for c, _ in n.pairs]
        scan = next((s for s in self.kernel.body if isinstance(s, Scan) and carried), None)
        merge = merge_of(scan) if scan is not None else None
        if scan is not None and merge is None:
            raise self.program.refuse(f"parts of the scan over {scan.axis} have no known way to come together")
        kept = [t for t in made if t in summed or t in carried]
        if any(made[t].bits != 32 for t in kept):
            raise self.program.refuse("a split loop with accumulators that are not of 32 bits")
        self.arrival.close([(t, made[t], self.values.tiles[t], summed.get(t, "sum")) for t in kept], merge)

    # -- statements ----------------------------------------------------------------------------------------------

    def compute(self, node: Compute, scope: Scope) -> None:
        frame, guards = self.at.frame(node.axes), frozenset(node.guards)
        if set(self.values.tiles[node.tile]) != set(frame):
            raise self.program.refuse(f"tile {node.tile} is written in pieces")
        if node.reduce is None:
            if (text := self.added(node, frame, guards)) is not None:
                self.line(f"{node.tile} = {text}")
                return
            s = self.filled(self.values.spell(node.value, frame, guards), frame, node.value.dtype)
            self.line(f"{node.tile} = {s}")
            return
        if (found := matrix_product(node, scope)) is not None:
            if node.tile in self.addends and self.values.tiles[node.tile] == frame:
                self.late[node.tile] = (node, found, scope)
            else:
                self.line(f"{node.tile} = {self.dot(node, found, scope)}")
            return
        if node.accumulate and node.tile in self.wide:
            s = self.reduced(node, frame, guards)
            text = combine_text(node.reduce.op, f"{node.tile}_lanes", s, node.value.dtype)
            self.line(f"{node.tile}_lanes = {text}")
            return
        text = self.reduction(node, frame, guards)
        if node.accumulate:
            text = combine_text(node.reduce.op, node.tile, text, node.value.dtype)
        self.line(f"{node.tile} = {text}")

    def added(self, node: Compute, frame: Frame, guards: frozenset[str]) -> str | None:
        """A product that was put off to be added to something, which is where the matrix unit begins to add up."""
        value = node.value
        if not isinstance(value, Binary) or value.op != "add":
            return None
        for other, sum_ in ((value.a, value.b), (value.b, value.a)):
            if isinstance(sum_, Ref) and sum_.tile in self.late:
                product, found, scope = self.late.pop(sum_.tile)
                s = self.values.spell(other, frame, guards)
                return self.dot(product, found, scope, self.filled(s, frame, value.dtype))
        return None

    def reduction(self, node: Compute, frame: Frame, guards: frozenset[str]) -> str:
        """The reduction over the lanes of the reduced axes."""
        assert node.reduce is not None
        text = self.reduced(node, frame, guards)
        for n in reversed(range(len(frame), len(frame) + len(self.at.frame(node.reduce.axes)))):
            text = reduce_text(node.reduce.op, text, n, node.value.dtype)
        return text

    def reduced(self, node: Compute, frame: Frame, guards: frozenset[str]) -> str:
        """What is reduced, all lanes of it. Padded lanes of the reduced axes count as the identity."""
        assert node.reduce is not None
        dtype = node.value.dtype
        reduced = self.at.frame(node.reduce.axes)
        whole = (*frame, *reduced)
        s = self.values.spell(node.value, whole, guards)
        masks = self.values.masks([a for a in node.reduce.axes if a in guards])
        rest = identity(node.reduce.op, dtype).value
        if masks and not (rest == 0 and _reads_zero(node.value, node.reduce.axes)):
            shown = s.text if s.dims else f"tl.full({self.at.shape(whole)}, {s.text}, tl.{LANGUAGE[dtype]})"
            s = Spelled(
                f"tl.where({conjunction(masks, whole)}, {shown}, {literal(rest, dtype)})", s.dims | set(reduced)
            )
        return self.filled(s, whole, dtype)

    def dot(self, node: Compute, c: Contraction, scope: Scope, start: str = "") -> str:
        """``tl.dot`` with operands that are zero on padded lanes of the depth, added to ``start``."""
        rows, columns, depth = (self.at.frame(a) for a in (c.rows, c.columns, c.depth))
        if not len(rows) == len(columns) == len(depth) == 1:
            raise self.program.refuse(f"{node.tile} is a product whose axes were not gathered")
        guards = frozenset(node.guards)
        ragged = [a for a in c.depth if a in guards]
        left = self.block_of(c.left, rows + depth, scope) or self.operand(c.left, rows + depth, guards, ragged)
        right = self.block_of(c.right, depth + columns, scope) or self.operand(c.right, depth + columns, guards, ragged)
        if self.values.tiles[node.tile] != rows + columns:
            raise self.program.refuse(f"the axes of {node.tile} interleave rows and columns of a product")
        left, right = self.signed(node, c, left, right)
        start = node.tile if node.accumulate else start
        parts = [left, right, *([start] if start else [])]
        if c.left.dtype is DType.F32:
            precision = str(self.scheduled.schedule.option("precision", "ieee"))
            if precision not in PRECISIONS:
                raise self.program.refuse(f"precision {precision!r} of an f32 product ({', '.join(PRECISIONS)})")
            whole = [_is_short(x) for x in (c.left, c.right)]
            if precision == "tf32x3" and any(whole):
                return self.split_dot(parts, whole, node)
            parts.append(f'input_precision="{precision}"')
        parts.append(f"out_dtype=tl.{LANGUAGE[node.value.dtype]}")
        return f"tl.dot({', '.join(parts)})"

    def block_of(self, value: Value, frame: Frame, scope: Scope) -> str | None:
        """An operand that is read by a descriptor, where the schedule asks for it and it can be."""
        if self.blocks is None or not isinstance(value, Load) or value.fill:
            return None
        text = self.blocks.block(value, frame, scope)
        if text is None:
            return None
        name = self.program.fresh(value.tensor.lower())
        self.line(f"{name} = {text}")
        return name

    def signed(self, node: Compute, c: Contraction, left: str, right: str) -> tuple[str, str]:
        """Operands of which unsigned bytes have lost 128, once the sums that are missed for it have been added to."""
        for n, value in enumerate((c.left, c.right)):
            if value.dtype is DType.U8:
                name = self.program.fresh(f"{node.tile}_missed")
                other, axis = (right, 0) if n == 0 else (left, 1)
                shape = self.at.shape(self.at.frame(c.columns if n == 0 else c.rows))
                total = f"tl.sum({other}.to(tl.int32), axis={axis})"
                if node.accumulate:
                    self.missed.append((node.tile, name, "[None, :]" if n == 0 else "[:, None]", shape))
                    self.line(f"{name} += {total}")
                else:
                    raise self.program.refuse("unsigned bytes in a product without a loop")
                shifted = f"({left if n == 0 else right} ^ 128).to(tl.int8, bitcast=True)"
                left, right = (shifted, right) if n == 0 else (left, shifted)
        return left, right

    def split_dot(self, parts: Sequence[str], whole: Sequence[bool], node: Compute) -> str:
        """A product of f32 of which an operand is whole in tf32: of the other, what tf32 has and the rest, each in one
        product. That is 21 bits, as of three products of tf32."""
        last = f'input_precision="tf32", out_dtype=tl.{LANGUAGE[node.value.dtype]})'
        if all(whole):
            return f"tl.dot({', '.join(parts)}, {last}"
        cut = 1 if whole[0] else 0
        halves = [[f"{name}({x})" if n == cut else x for n, x in enumerate(parts[:2])] for name in ("_rest", "_upper")]
        rest = f"tl.dot({', '.join([*halves[0], *parts[2:]])}, {last}"
        return f"tl.dot({', '.join([*halves[1], rest])}, {last}"

    def operand(self, value: Value, frame: Frame, guards: frozenset[str], ragged: Sequence[str]) -> str:
        s = self.values.spell(value, frame, guards)
        masks = self.values.masks(ragged)
        if masks and not _reads_zero(value, ragged):
            s = Spelled(
                f"tl.where({conjunction(masks, frame)}, {s.text}, {literal(0, value.dtype)})", s.dims | set(frame)
            )
        text = self.filled(s, frame, value.dtype)
        if value.dtype in NARROW and not (isinstance(value, Load) and value.tensor in self.values.native):
            return f"{parenthesized(text)}.to(tl.float16)"  # exact: where the unit has no such type, it has this one
        return text

    def filled(self, s: Spelled, frame: Frame, dtype: DType) -> str:
        """``s`` with all lanes of ``frame``."""
        if math.prod(self.at.lanes[d] for d in frame) > MAX_LANES:
            raise self.program.refuse(f"a tensor of {self.at.shape(frame)} lanes")
        if s.dims == set(frame):
            return s.text
        if not s.dims:
            return f"tl.full({self.at.shape(frame)}, {s.text}, tl.{LANGUAGE[dtype]})"
        return f"tl.broadcast_to({s.text}, {self.at.shape(frame)})"

    def write(self, node: Write) -> None:
        frame, guards = self.at.frame(node.axes), frozenset(node.guards)
        dtype = self.kernel.param(node.tensor).dtype
        value = self.values.spell(node.value, frame, guards)
        offset, inside = self.values.offset(node.tensor, node.index, frame, guards)
        mask = conjunction([*self.values.masks([a for a in node.axes if a in guards]), *inside], frame)
        if dtype.bits < 8:
            self.packed(node.tensor, value, offset, frame, mask)
        else:
            text = f"_{dtype}_bits({self.filled(value, frame, dtype)})" if dtype in NARROW else value.text
            at = offset.operand if offset.dims == set(frame) else parenthesized(self.filled(offset, frame, DType.I64))
            self.line(f"tl.store({node.tensor} + {at}, {text}{f', mask={mask}' if mask else ''})")
        if any(p.alias for p in self.kernel.params):
            self.values.loaded.clear()

    def packed(self, tensor: str, value: Spelled, offset: Spelled, frame: Frame, mask: str) -> None:
        """Elements that share bytes, written into their words."""
        p = self.kernel.param(tensor)
        at = self.program.fresh("at")
        self.line(f"{at} = {self.filled(offset, frame, DType.I32) if frame else f'tl.cast({offset.text}, tl.int64)'}")
        code = f"_{p.dtype}_bits({self.filled(value, frame, p.dtype)})" if p.dtype in NARROW else value.text
        code = self.filled(Spelled(code, value.dims), frame, p.dtype) if frame else f"tl.cast({code}, tl.int32)"
        count = self.at.index(product(p.shape), ()).text
        self.line(f"_put_packed({tensor}, {at}, {code}, {mask or f'{at} >= 0'}, {count}, {p.dtype.bits})")

    def rotate(self, pairs: tuple[tuple[str, str], ...]) -> None:
        carries = {c for c, _ in pairs}
        renamed = {t: self.program.fresh(f"{t}_next") for _, t in pairs if t in carries}
        for tile, name in renamed.items():
            self.line(f"{name} = {tile}")
        for carry, tile in pairs:
            self.line(f"{carry} = {renamed.get(tile, tile)}")


def _unit_operands(scheduled: Scheduled) -> frozenset[str]:
    """Tensors of 8-bit floats that are read as operands of matrix products alone."""
    units, others = set[str](), set[str]()
    for node, scope in visit(scheduled):
        found = matrix_product(node, scope) if isinstance(node, Compute) else None
        operands = [] if found is None else [x for x in (found.left, found.right) if isinstance(x, Load)]
        units |= {x.tensor for x in operands if x.dtype in UNIT_FLOATS}
        if isinstance(node, Compute | Write):
            others |= {x.tensor for x in loads_of(node.value) if x not in operands}
    return frozenset(units - others)


def _is_short(value: Value) -> bool:
    """Whether ``value`` is an integer of at most 8 bits, of which 11 bits of tf32 lose nothing."""
    return isinstance(value, Cast) and value.x.dtype.is_integer and value.x.dtype.bits <= 8


def _reads_zero(value: Value, axes: Sequence[str]) -> bool:
    """Whether padded lanes of ``axes`` are zero in ``value`` because it is nothing but a read masked along them."""
    while isinstance(value, Cast):
        value = value.x
    return isinstance(value, Load) and not value.fill and used_symbols(value).issuperset(axes)


def _wide_sums(scheduled: Scheduled) -> dict[str, list[int]]:
    """Tiles that a loop accumulates without the matrix unit, and the lanes of the axes that it reduces: each lane has a
    sum of its own until the loop is done, since lanes of different warps meet in shared memory."""
    found: dict[str, list[int]] = {}
    for node, scope in visit(scheduled):
        if isinstance(node, Compute) and node.accumulate and node.reduce and matrix_product(node, scope) is None:
            lanes = [n for a in node.reduce.axes if (n := scope.ranges[a].lanes or 1) > 1]
            if lanes:
                found[node.tile] = lanes
    return found


def _addends(scheduled: Scheduled) -> frozenset[str]:
    """Tiles that are used once: as an addend of a tile over the same axes, made in the same body."""
    used: Counter[str] = Counter()
    candidates: set[str] = set()
    for nodes in _bodies(scheduled.body):
        made = {n.tile: n for n in nodes if isinstance(n, Compute) and n.reduce is not None and not n.accumulate}
        for node in nodes:
            values = [node.value] if isinstance(node, Compute | Write) else []
            used.update(v.tile for value in values for v in walk(value) if isinstance(v, Ref))
            if isinstance(node, Rotate):
                used.update(tile for _, tile in node.pairs)
            if isinstance(node, Compute) and isinstance(v := node.value, Binary) and v.op == "add" and not node.reduce:
                refs = [x for x in (v.a, v.b) if isinstance(x, Ref) and x.tile in made]
                candidates.update(x.tile for x in refs if made[x.tile].axes == node.axes and x.axes == node.axes)
    return frozenset(t for t in candidates if used[t] == 1)


def _bodies(body: Sequence[Node]) -> Iterator[Sequence[Node]]:
    yield body
    for node in body:
        if isinstance(node, For):
            yield from _bodies(node.body)


def _below(loop: For) -> Iterator[Node]:
    """Every node inside ``loop``."""
    for node in loop.body:
        yield node
        if isinstance(node, For):
            yield from _below(node)
