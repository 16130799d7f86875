"""From scheduled kernels to C: a spelling of the tree, one function a kernel, one file a kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from tilewright.backends.cpu.blocked import Block, BlockEmitter, plan_block
from tilewright.backends.cpu.byte_product import ByteEmitter, BytePlan, plan_bytes
from tilewright.backends.cpu.contraction import ContractionEmitter
from tilewright.backends.cpu.finish import finishing, spell_finish
from tilewright.backends.cpu.integer import IntegerProduct, form_of, packed_product
from tilewright.backends.cpu.integer_tile import IntegerEmitter, in_pieces
from tilewright.backends.cpu.keys import Keys, find_keys
from tilewright.backends.cpu.machine import codegen, lanes
from tilewright.backends.cpu.matvec import PIECE
from tilewright.backends.cpu.nest import Nest, emit_fill, emit_nest, plan_nests
from tilewright.backends.cpu.place import Memory, Names, Place
from tilewright.backends.cpu.register_tile import Contraction, Tiling, plan_contraction
from tilewright.backends.cpu.runs import POINTERS, Runs, emit_runs, plan_runs, run_axis
from tilewright.backends.cpu.values import Buffer, pointer_type, register_type
from tilewright.backends.cpu.window import lane_axis
from tilewright.backends.cpu.winograd import OPTION as WINDOWS
from tilewright.backends.cpu.winograd import WinogradEmitter
from tilewright.codegen.cstyle import C_TYPES, Text, identifier
from tilewright.errors import InternalError
from tilewright.ir.symbolic import ZERO, Expr, ceildiv, constant, floordiv, product
from tilewright.kernel.analysis import grid, refs_of
from tilewright.kernel.expr import Load, Ref
from tilewright.kernel.pack import packed_params
from tilewright.kernel.print import print_node
from tilewright.kernel.schedule import Alloc, Compute, Fill, For, Node, Rotate, Scheduled, Tile, Write
from tilewright.kernel.scope import Scope, step, visit
from tilewright.kernel.tile import Param
from tilewright.target import Target


@dataclass(frozen=True, slots=True)
class KernelText:
    """C of one kernel: ``symbol`` is its function; ``scratch`` bytes a worker."""

    symbol: str
    text: str
    scratch: Expr


def emit_kernel(scheduled: Scheduled, target: Target, symbol: str | None = None) -> KernelText:
    """One translation unit that defines ``symbol`` (by default the kernel's name)."""
    return _KernelEmitter(scheduled, target, symbol or f"tw_{identifier(scheduled.kernel.name)}").emit()


class _KernelEmitter:
    def __init__(self, scheduled: Scheduled, target: Target, symbol: str):
        self.scheduled, self.kernel, self.symbol, self.target = scheduled, scheduled.kernel, symbol, target
        table = codegen(target)
        tiling = Tiling(int(table["tile_rows"]), int(table["tile_columns"]) // lanes(target))
        self.columns = tiling.vectors * lanes(target)
        self.keys: dict[str, Keys] = {}
        self.runs: dict[str, Runs] = {}
        self.contractions = ContractionEmitter(symbol, tiling, self.keys)
        piece = target.memory["l1"].size // (4 * self.columns)
        self.blocks = BlockEmitter(symbol, tiling, piece, self.contractions.tiles.functions)
        self.integers = IntegerEmitter(symbol, self.contractions.tiles.functions)
        self.plans: dict[int, Contraction] = {}
        self.integer_plans: dict[int, IntegerProduct] = {}
        plans = plan_bytes(scheduled)
        self.bytes: dict[str, BytePlan] = {p.product.total.tile: p for p in plans}
        self.partial = {p.product.part.tile for p in plans} - self.bytes.keys()  # sums that never leave the registers
        self.buffers: dict[str, Buffer] = {}
        self.elements: dict[str, Expr] = {}
        self.uses: dict[str, set[int]] = {}
        self.memory = Memory()
        self.reused: set[str] = set()  # tiles that live in another's memory
        self.taken: set[str] = set()  # tiles whose memory another one has taken

    def emit(self) -> KernelText:
        """The whole file."""
        used = Names()
        params = {p.name: p for p in packed_params(self.scheduled)}
        names = {name: used.fresh(name) for name, _ in self.kernel.facts}
        names |= {p.name: used.fresh(p.name) for p in self.kernel.params}
        names |= {a.name: used.fresh(a.name) for a in self.kernel.axes}
        self._survey(used, params)
        out = Text()
        scope = Scope.root(self.kernel, self.scheduled.schedule)
        place = Place(out, scope, params, self.buffers, self.elements, names, {}, used, lanes(self.target), self.memory)
        place = replace(place, ends={a: place.index(r.limit) for a, r in scope.ranges.items()})
        with out.block(f"void {self.symbol}(const tw_args *args, int64_t begin, int64_t end)"):
            for n, p in enumerate(self.kernel.params):
                const = "" if p.role == "out" else "const "
                pointer = f"{const}{pointer_type(p.dtype)} *"
                out.line(f"{pointer}const {names[p.name]} = ({pointer})args->buffer[{n}];")
            for n, (name, _) in enumerate(self.kernel.facts):
                out.line(f"const int64_t {names[name]} = args->dim[{n}];")
            self._blocks(place)
        head = Text()
        head.comment(f"{self.kernel.name} for {self.target.spelling}, generated.")
        head.line(f"#define TW_LANES {lanes(self.target)}")
        head.lines('#include "vec.h"', '#include "vec_math.h"', '#include "vec_half.h"', '#include "vec_narrow.h"')
        head.line('#include "vec_libm.h"')
        head.line('#include "bytes.h"')
        head.lines('#include "mma.h"', '#include "matvec.h"', '#include "dot.h"', '#include "transpose.h"')
        head.lines('#include "dot8.h"', "")
        functions = str(self.contractions.tiles.functions) if self.plans or self.integer_plans else ""
        text = str(head) + functions + str(out)
        for header, calls in _HEADERS.items():
            if not any(word in text for word in calls):
                text = text.replace(f'#include "{header}"\n', "")
        return KernelText(self.symbol, text, self.memory.scratch)

    # -- before the text ---------------------------------------------------------------------------------------------

    def _survey(self, used: Names, params: Mapping[str, Param]) -> None:
        """Find contractions, who reads which tile, and the memory layout of each tile."""
        innermost: dict[str, str] = {}
        wide: set[str] = set()
        self._find_runs(used)
        for node, scope in visit(self.scheduled):
            match node:
                case Compute() if node.tile in self.bytes or node.tile in self.partial:
                    if node.tile in self.bytes:
                        wide.add(node.tile)
                        innermost[node.tile] = self.bytes[node.tile].product.column
                    self._use(node, *(r.tile for r in refs_of(node.value)))
                case Compute():
                    runs = next((self.runs[r.tile] for r in refs_of(node.value) if r.tile in self.runs), None)
                    plan = plan_contraction(node, runs.run if runs is not None else None)
                    integer = packed_product(self.kernel, params, node)
                    if integer is not None:
                        self.integer_plans[id(node)] = integer
                        wide.add(node.tile)
                        innermost[node.tile] = integer.column
                    elif plan is None:
                        self._follow_lanes(node, params, scope, innermost)
                    else:
                        self.plans[id(node)] = plan
                        wide.add(node.tile)
                        innermost[node.tile] = plan.column
                        if isinstance(plan.b, Ref):
                            innermost[plan.b.tile] = plan.column
                            wide.add(plan.b.tile)
                    self._use(node, *(r.tile for r in refs_of(node.value)))
                    if node.accumulate:
                        self._use(node, node.tile)
                case Write():
                    self._use(node, *(r.tile for r in refs_of(node.value)))
                case Rotate(pairs=pairs):
                    self._use(node, *(name for pair in pairs for name in pair))
                case Fill(tile=name):
                    self._use(node, name)
        copies = [n for n, _ in visit(self.scheduled) if isinstance(n, Compute) and isinstance(n.value, Load)]
        self.keys.update(find_keys(copies, self.plans, self.uses, params, dict(self.kernel.facts)))
        for node, _ in visit(self.scheduled):
            if isinstance(node, Alloc):
                tile = node.tile
                pad = max(self.columns, PIECE) if tile.name in wide else lanes(self.target)
                self._layout(tile, innermost.get(tile.name), pad, used.fresh(tile.name))

    def _follow_lanes(
        self, node: Compute, params: Mapping[str, Param], scope: Scope, innermost: dict[str, str]
    ) -> None:
        """The lanes of a reduction down an axis, and of what is computed from it, are neighbours in their tiles."""
        lane = {innermost[r.tile] for r in refs_of(node.value) if innermost.get(r.tile) in node.axes}
        if node.reduce is not None and not lane:
            lane = {axis for axis in [lane_axis(node, params, scope, lanes(self.target))] if axis is not None}
        if len(lane) == 1:
            innermost.setdefault(node.tile, lane.pop())

    def _find_runs(self, used: Names) -> None:
        """Tables in place of the tiles whose space is :data:`POINTERS`."""
        tiles = {n.tile.name: n.tile for n, _ in visit(self.scheduled) if isinstance(n, Alloc)}
        computes = [n for n, _ in visit(self.scheduled) if isinstance(n, Compute)]
        copies = {n.tile: n for n in computes if tiles[n.tile].space == POINTERS}
        for node in computes:
            plan = plan_contraction(node)
            if plan is not None and isinstance(plan.a, Ref) and plan.a.tile in copies:
                copy = copies[plan.a.tile]
                run = run_axis(self.kernel, copy.value, (*plan.steps, plan.depth))
                assert run is not None and plan.row is not None
                self.runs[copy.tile] = plan_runs(used.fresh(copy.tile), tiles[copy.tile], copy, plan.row, run)

    def _use(self, node: Node, *tiles: str) -> None:
        for tile in tiles:
            self.uses.setdefault(tile, set()).add(id(node))

    def _layout(self, tile: Tile, inner: str | None, pad: int, name: str) -> None:
        dims = [d for d in tile.dims if d.size != 1]
        if inner is not None and any(d.axis == inner for d in dims):
            dims.sort(key=lambda d: d.axis == inner)
        strides: dict[str, Expr] = {d.axis: ZERO for d in tile.dims}
        stride = constant(1)
        panel = self.columns if tile.name in self.keys and dims[-1].axis == inner else None
        if panel is not None:  # [..., columns // panel, the rest, columns % panel]
            dims = [dims[-1], *dims[:-1]]
            stride = constant(panel)
        for n, d in enumerate(reversed(dims)):
            if panel is not None:
                strides[d.axis] = stride
                stride = stride * (d.size if d.axis != inner else ceildiv(d.size, panel))
                continue
            strides[d.axis] = stride
            size = d.size + tile.pad if n == 0 else d.size
            stride = stride * (ceildiv(size, pad) * pad if n == 0 else size)
        last = inner if panel is not None else dims[-1].axis if dims else None
        sizes = {d.axis: d.size.value if d.size.is_constant else None for d in tile.dims}
        starts = {d.axis: d.start for d in tile.dims}
        self.buffers[tile.name] = Buffer(name, tile.dtype, strides, starts, last, sizes, panel)
        # Room for one more vector: the last row may be read or written past its end.
        total = stride + lanes(self.target)
        self.elements[name] = ceildiv(total, lanes(self.target)) * lanes(self.target)

    # -- the text ----------------------------------------------------------------------------------------------------

    def _blocks(self, place: Place) -> None:
        """The loop over blocks: the number of a block gives the variables of the block loops."""
        out = place.out
        with out.block("for (int64_t block = begin; block < end; block++)"):
            body: Sequence[Node] = self.scheduled.body
            loops: list[For] = []
            for _ in grid(self.scheduled):
                (loop,) = body
                assert isinstance(loop, For)
                loops.append(loop)
                body = loop.body
            trips = {var: count for _, var, count in grid(self.scheduled)}
            many = [loop for loop in loops if trips[loop.var] != 1]
            names = dict(place.names)
            if len(many) > 1:
                out.line("int64_t rest = block;")
            rest = "rest" if len(many) > 1 else "block"
            for n, loop in enumerate(reversed(many)):
                count = place.index(trips[loop.var])
                at = rest if n == len(many) - 1 else f"floor_mod({rest}, {count})"
                names[loop.var] = var = place.fresh(loop.var)
                by = place.step(loop, var, place.index(loop.hi))
                lo = "" if loop.lo == 0 else f"{place.index(loop.lo)} + "
                out.line(f"const int64_t {var} = {lo}{at}{f' * {by}' if by != '1' else ''};")
                if n < len(many) - 1:
                    out.line(f"rest = floor_div(rest, {count});")
            for loop in loops:
                scope = place.scope.enter(loop)
                inner = scope.ranges[loop.axis]
                place = replace(place, scope=scope, names=names)
                if loop.var in inner.start.symbols:
                    by = f"{names[loop.var]}_step" if not step(loop).is_constant else place.index(step(loop))
                    place = place.close(loop, names[loop.var], by, place.index(loop.hi))
                else:
                    place = replace(place, ends={**place.ends, loop.axis: place.index(inner.limit)})
            self._body(place, body)

    def _body(self, place: Place, body: Sequence[Node]) -> None:
        pending: list[Compute | Write] = []
        allocs: list[Tile] = []
        earlier: list[Tile] = []  # of this body: they live as long as what is allocated now

        def flush() -> None:
            nests = plan_nests(place, pending)
            local = {id(n): self._local(n) for n in nests}
            hidden = frozenset().union(*local.values()) if local else frozenset()
            for nest in nests:
                self._reuse(nest, [*earlier, *allocs], hidden)
            for tile in allocs:
                if tile.name not in hidden and tile.name not in self.reused:
                    self._declare(place, tile)
            earlier.extend(allocs)
            for nest in nests:
                emit_nest(place, nest, local[id(nest)])
            pending.clear()
            allocs.clear()

        for n, node in enumerate(body):
            if isinstance(node, Alloc):
                if node.tile.name not in self.runs and node.tile.name not in self.partial:
                    allocs.append(node.tile)
                place = replace(place, scope=place.scope.declare(node.tile))
            elif isinstance(node, Compute) and node.tile in self.partial:
                continue
            elif isinstance(node, Compute) and node.tile in self.bytes:
                flush()
                ByteEmitter(place, self.bytes[node.tile], node, self.contractions).emit()
            elif isinstance(node, Compute) and node.tile in self.runs:
                flush()
                emit_runs(place, self.runs[node.tile], self.contractions.tiles.functions)
            elif isinstance(node, Compute) and id(node) in self.integer_plans:
                integer = self.integer_plans[id(node)]
                product = integer.contraction(node)
                done = None
                if integer.row is not None:
                    done = finishing(place, product, body[n + 1 :], self.uses, tiles=True)
                windows = bool(self.scheduled.schedule.option(WINDOWS, False))
                if done is not None and (windows or not in_pieces(integer, self.kernel)):
                    allocs = [t for t in allocs if t.name != node.tile]  # the sums never leave the registers
                flush()
                finish = spell_finish(place, product, done) if done is not None else None
                form = form_of(self.target, integer)
                if windows:
                    functions = self.contractions.tiles.functions
                    WinogradEmitter(self.symbol, functions, place, node, integer, form).emit(finish)
                else:
                    self.integers.emit(place, node, integer, form, finish)
                if done is not None:
                    return
            elif isinstance(node, (Compute, Write)) and id(node) not in self.plans and not self._is_keys(node):
                pending.append(node)
            elif (
                isinstance(node, Compute) and id(node) in self.plans and (block := self._block(place, node)) is not None
            ):
                done = finishing(place, block.c, body[n + 1 :], self.uses)
                if done is not None and self.blocks.pieces(place, block) is None and isinstance(block.a, Runs):
                    allocs = [t for t in allocs if t.name != node.tile]  # the sums never leave the registers
                flush()
                self._many_rows(place, block, done, body[n + 1 :])
                if done is not None:
                    return
            else:
                flush()
                self._single(place, node)
        flush()

    def _is_keys(self, node: Node) -> bool:
        return isinstance(node, Compute) and node.tile in self.keys and self.keys[node.tile].node is node

    def _block(self, place: Place, node: Node) -> Block | None:
        c = self.plans[id(node)]
        runs = self.runs.get(c.a.tile) if isinstance(c.a, Ref) else None
        block = plan_block(place, c, runs, self.contractions.tiling)
        if block is None and runs is not None:
            raise InternalError(f"{self.kernel.name}: a table of runs for a product that cannot read it")
        return block

    def _many_rows(
        self, place: Place, block: Block, done: Sequence[Compute | Write] | None, rest: Sequence[Node]
    ) -> None:
        """A block of rows; few of them have their own register tile. With ``done``, that is all of ``rest`` as well."""
        with ExitStack() as stack:
            if not isinstance(block.a, Runs):
                after = (lambda: self._body(place, rest)) if done is not None else None
                self.contractions.few_rows(place, stack, block.c, after, block.c.outer)
            self.blocks.emit(place, block, spell_finish(place, block.c, done) if done is not None else None)

    def _local(self, nest: Nest) -> frozenset[str]:
        """Tiles that live in a variable: computed and used in this nest only."""
        inside = {id(s) for s in nest.statements}
        made = {s.tile for s in nest.statements if isinstance(s, Compute) and (s.reduce is None or nest.reduced)}
        return frozenset(t for t in made if self.uses.get(t, set()) <= inside)

    def _reuse(self, nest: Nest, tiles: Sequence[Tile], hidden: frozenset[str]) -> None:
        """Let a tile take the memory of one that only its own statement reads, element by element."""
        here = {t.name for t in tiles}
        for s in nest.statements:
            if not isinstance(s, Compute) or s.reduce is not None or s.tile in hidden or s.tile not in here:
                continue
            new = self.buffers[s.tile]
            for ref in refs_of(s.value):
                old = self.buffers[ref.tile]
                dead = ref.tile in here and self.uses[ref.tile] == {id(s)} and ref.tile not in hidden
                alike = register_type(old.dtype) is register_type(new.dtype) and old.strides == new.strides
                same = alike and old.starts == new.starts and self.elements[old.name] == self.elements[new.name]
                if dead and same and ref.tile not in self.taken and len(ref.axes) == len(s.axes):
                    self.taken.add(ref.tile)
                    self.reused.add(s.tile)
                    self.buffers[s.tile] = replace(new, name=old.name)
                    break

    def _single(self, place: Place, node: Node) -> None:
        match node:
            case For():
                place.out.comment(print_node(node))
                with ExitStack() as stack:
                    inner = place.enter(stack, node)
                    if len(inner.names) == len(place.names):
                        stack.enter_context(place.out.block(""))
                    self._body(inner, node.body)
            case Fill(tile=tile, value=value):
                emit_fill(place, self.buffers[tile], value)
            case Rotate(pairs=pairs):
                self._rotate(place, pairs)
            case Compute() if self._is_keys(node):
                self.keys[node.tile].emit(place)
            case Compute():
                self.contractions.emit(place, self.plans[id(node)])

    def _declare(self, place: Place, tile: Tile) -> None:
        name = self.buffers[tile.name].name
        kind = register_type(tile.dtype)
        self.memory.declare(place.out, name, C_TYPES[kind], self.elements[name], kind.bits // 8)

    def _rotate(self, place: Place, pairs: tuple[tuple[str, str], ...]) -> None:
        """Carries take their new values; a new value that is itself a carry is saved first."""
        out = place.out
        out.comment(print_node(Rotate(pairs)))
        carries = {carry for carry, _ in pairs}
        saved: list[tuple[str, str]] = []
        for carry, tile in pairs:
            to, source = self.buffers[carry], self.buffers[tile]
            kind, size = register_type(to.dtype), self.elements[to.name]
            origin = source.name
            if tile in carries and tile != carry:
                origin = place.fresh(f"{tile}_old")
                self.memory.declare(out, origin, C_TYPES[kind], size, kind.bits // 8)
                out.line(f"memcpy({origin}, {source.name}, sizeof(*{origin}) * ({place.index(size)}));")
            saved.append((to.name, origin))
        for (carry, _), (to_name, origin) in zip(pairs, saved, strict=True):
            kind = register_type(self.buffers[carry].dtype)
            size_text = place.index(self.elements[to_name])
            step_text = "for (int64_t i = 0; i < {n}; i += TW_LANES) store_{t}({a} + i, load_{t}({b} + i));"
            out.line(step_text.format(n=size_text, t=kind, a=to_name, b=origin))


def launch(scheduled: Scheduled, target: Target) -> tuple[Expr, Expr]:
    """Number of blocks, and scratch bytes of one worker, over the kernel's dimension symbols."""
    blocks = product(count for _, _, count in grid(scheduled))
    return blocks, floordiv(emit_kernel(scheduled, target).scratch + 63, 64) * 64


#: Calls that only ``vec_libm.h`` defines: the C library's functions, by name and element type.
_TRIGONOMETRY = "sin cos tan asin acos atan sinh cosh asinh acosh atanh pow fmod mod".split()
_LIBM_CALLS = (
    *(f"{name}_f32(" for name in _TRIGONOMETRY),
    *(f"{name}_f64(" for name in (*_TRIGONOMETRY, "exp", "exp2", "log", "log2", "tanh", "erf", "sigmoid")),
)
#: Headers that are left out where nothing of theirs is called.
_HEADERS = {
    "vec_narrow.h": ("f8e4m3", "f8e5m2", "f8e8m0", "f4e2m1", "wrap_", "_packed("),
    "vec_libm.h": _LIBM_CALLS,
    "bytes.h": ("dot_4(", "dot_8(", "dot_float("),
    "matvec.h": ("few_f32(",),
    "dot.h": ("dot_f32(",),
    "transpose.h": ("transpose_f32(",),
    "dot8.h": ("start_sums_i32(",),
}
