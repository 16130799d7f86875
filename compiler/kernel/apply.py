"""From a lowered kernel and a schedule to the scheduled tree: the one place that makes loops, tiles and guards."""

from __future__ import annotations

from dataclasses import replace

from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr, Symbol, constant, maximum, minimum
from tilewright.kernel.analysis import identity, loads_of, refs_of, transform, used_symbols
from tilewright.kernel.expr import Const, Load, Ref, Value
from tilewright.kernel.hidden import visible_limit
from tilewright.kernel.pack import apply_packs, rewrite_loads
from tilewright.kernel.placement import Key, Path, Placement
from tilewright.kernel.schedule import (
    DEFAULT_SPACE,
    INLINE,
    Alloc,
    Compute,
    Fill,
    For,
    Node,
    Rotate,
    Schedule,
    Scheduled,
    ScheduleError,
    Stage,
    Tile,
    TileDim,
    Write,
)
from tilewright.kernel.scope import Scope
from tilewright.kernel.tile import Define, Kernel, Param, Scan, Statement, Store


def apply(kernel: Kernel, schedule: Schedule) -> Scheduled:
    """``kernel`` as a tree of loops over tiles. Raises :class:`ScheduleError` where the schedule is not allowed."""
    _check(kernel, schedule)
    rewritten = _rewrite(kernel, schedule)
    pinned: dict[str, Path] = {}
    placement = Placement(rewritten, schedule, pinned).solve()
    pads: dict[str, int] = {}
    spaces = dict(schedule.spaces)
    for stage in sorted(schedule.stages, key=lambda s: s.depth):
        rewritten, added = _stage(placement, stage)
        for tile, path in added.items():
            pinned[tile] = path
            pads[tile], spaces[tile] = stage.pad, stage.space
        placement = Placement(rewritten, schedule, pinned).solve()
    builder = _Builder(placement, apply_packs(kernel, schedule.packs), spaces, pads)
    return Scheduled(kernel, schedule, builder.nest((), Scope.root(kernel, schedule)))


def _check(kernel: Kernel, schedule: Schedule) -> None:
    stored = {a for s in kernel.body if isinstance(s, Store) for a in s.axes}
    inner = {s.axis for s in kernel.body if isinstance(s, Scan)}
    for define in defines(kernel):
        inner.update(define.reduce.axes if define.reduce is not None else ())
    kinds = [loop.kind for loop in schedule.loops]
    for loop in schedule.loops:
        if loop.axis not in stored:
            raise ScheduleError(kernel.name, f"a loop over {loop.axis}, which is no axis of an output")
    for loop in schedule.reduce:
        if loop.axis not in inner:
            raise ScheduleError(kernel.name, f"a reduction loop over {loop.axis}, which is not reduced or scanned")
    if any(loop.size < 1 for loop in (*schedule.loops, *schedule.reduce)):
        raise ScheduleError(kernel.name, "a loop of size 0")
    if "block" in kinds[kinds.index("tile") :] if "tile" in kinds else False:
        raise ScheduleError(kernel.name, "a block loop inside a tile loop")


def defines(kernel: Kernel) -> tuple[Define, ...]:
    """Every definition of ``kernel``, those in scans included, in order."""
    found: list[Define] = []
    for s in kernel.body:
        if isinstance(s, Define):
            found.append(s)
        elif isinstance(s, Scan):
            found.extend(s.body)
    return tuple(found)


# -- rewriting the lowered form ------------------------------------------------------------------------------------


def _rewrite(kernel: Kernel, schedule: Schedule) -> Kernel:
    """Inlined definitions put into their uses, reads of packed constants changed."""
    packs = {p.tensor: p for p in schedule.packs}
    inlined: dict[str, Value] = {}
    wanted = {tile for tile, space in schedule.spaces if space == INLINE}

    def value(v: Value) -> Value:
        v = rewrite_loads(kernel.name, v, packs) if packs else v
        return transform(v, lambda x: inlined.get(x.tile, x) if isinstance(x, Ref) else x) if wanted else v

    def define(d: Define) -> Define | None:
        d = replace(d, value=value(d.value))
        if d.tile not in wanted:
            return d
        if d.reduce is not None:
            raise ScheduleError(kernel.name, f"{d.tile} is a reduction and cannot be inlined")
        inlined[d.tile] = d.value
        return None

    body: list[Statement] = []
    for s in kernel.body:
        match s:
            case Define():
                if (kept := define(s)) is not None:
                    body.append(kept)
            case Store():
                index = tuple(i if isinstance(i, Expr) else value(i) for i in s.index)
                body.append(replace(s, index=index, value=value(s.value)))
            case Scan():
                for _, tile in s.yields:
                    if tile in wanted:
                        raise ScheduleError(kernel.name, f"{tile} is carried and cannot be inlined")
                body.append(replace(s, body=tuple(d for d in map(define, s.body) if d is not None)))
    return replace(kernel, body=tuple(body))


def _stage(placement: Placement, stage: Stage) -> tuple[Kernel, dict[str, Path]]:
    """The kernel with copies of ``stage.tensor`` below its depth, and where each copy stands."""
    kernel = placement.kernel
    axes = [a.name for a in kernel.axes]
    names = {p.name for p in kernel.params} | {d.tile for d in defines(kernel)}
    staged = {d.tile for d in defines(kernel) if isinstance(d.value, Load) and d.tile in placement.pinned}
    copies: dict[tuple[Path, Value], Define] = {}

    def copy_of(v: Value, path: Path, in_block: bool) -> Value:
        if isinstance(v, Load) and v.tensor == stage.tensor:
            plain = _plain_axes(kernel, v, axes)
            if plain is None and not stage.window:
                indices = ", ".join(map(str, v.index))
                cause = f"{v.tensor} is indexed by {indices} and cannot be staged: plain axes only, or axes as digits"
                raise ScheduleError(kernel.name, cause)
            if plain is not None and stage.window and v.fill is None:
                return v
            dims = tuple(a for a in axes if a in used_symbols(v)) if plain is None or stage.window else plain
        elif isinstance(v, Ref) and v.tile in staged and _source(kernel, v.tile) == stage.tensor:
            dims = v.axes
        else:
            return v
        if in_block:
            raise ScheduleError(kernel.name, f"{stage.tensor} is staged outside a block loop and read inside it")
        if (path, v) not in copies:
            tile = f"{stage.tensor}_{stage.space}"
            while tile in names:
                tile += "_"
            names.add(tile)
            copies[path, v] = Define(tile, dims, v)
        return Ref(copies[path, v].tile, copies[path, v].axes, v.dtype)

    def value(v: Value, where: Path) -> Value:
        real = tuple(k for k in where if k.loop is not None)
        if len(real) < stage.depth:
            return v
        path = where[: where.index(real[stage.depth - 1]) + 1] if stage.depth else ()
        in_block = any(k.loop is not None and k.loop.kind == "block" for k in real[stage.depth :])
        return transform(v, lambda x: copy_of(x, path, in_block))

    def define(d: Define) -> Define:
        if d.tile not in placement.paths or d.tile in staged:
            return d
        return replace(d, value=value(d.value, placement.paths[d.tile] + placement.inner[d.tile]))

    body: list[Statement] = []
    stores = dict(placement.stores)
    for s in kernel.body:
        match s:
            case Define():
                body.append(define(s))
            case Store():
                body.append(replace(s, value=value(s.value, stores[s])))
            case Scan():
                body.append(replace(s, body=tuple(map(define, s.body))))
    if not copies:
        raise ScheduleError(kernel.name, f"{stage.tensor} is not read below {stage.depth} loops: nothing to stage")
    first = sum(isinstance(s, Define) and s.tile in staged for s in kernel.body)
    body[first:first] = copies.values()
    return replace(kernel, body=tuple(body)), {d.tile: path for (path, _), d in copies.items()}


def _source(kernel: Kernel, tile: str) -> str | None:
    """The tensor that a stage's tile was copied from, through earlier stages."""
    value = next(d.value for d in defines(kernel) if d.tile == tile)
    if isinstance(value, Ref):
        return _source(kernel, value.tile)
    return value.tensor if isinstance(value, Load) else None


def _digits(kernel: Kernel, index: Expr | Value, axes: list[str]) -> bool:
    """Whether ``index`` is a number of which ``axes`` are the digits: different values never meet, as in a window."""
    assert isinstance(index, Expr)
    try:
        factors = {a: index.coefficient(a) for a in axes}
    except ValueError:
        return False
    span = constant(1)
    for axis in sorted(axes, key=lambda a: bounds(factors[a], dict(kernel.facts))[0]):
        if factors[axis] != span:
            return False
        span = span * kernel.extent(axis)
    return True


def _plain_axes(kernel: Kernel, load: Load, axes: list[str]) -> tuple[str, ...] | None:
    """The axes that index ``load``: each in one place, as itself or in a sum of axes (``32*head + column``); ``None``
    where they do otherwise."""
    names: list[str] = []
    for index in load.index:
        if isinstance(index, Expr) and index.symbols.isdisjoint(axes):
            continue
        atoms = index.atoms if isinstance(index, Expr) else ()
        here = [a for a in axes if isinstance(index, Expr) and a in index.symbols]
        plain = all(isinstance(a, Symbol) for a in atoms) and (len(here) < 2 or _digits(kernel, index, here))
        if not here or not plain or any(name in names for name in here):
            return None
        names += here
    return tuple(names)


# -- building the tree ---------------------------------------------------------------------------------------------


class _Builder:
    def __init__(self, placement: Placement, params: tuple[Param, ...], spaces: dict[str, str], pads: dict[str, int]):
        self.placement, self.spaces, self.pads = placement, spaces, pads
        self.kernel = placement.kernel
        self.shapes = {p.name: p.shape for p in params}
        self.at: dict[Path, list[Define | Scan]] = {}
        for s in self.kernel.body:
            if isinstance(s, Store):
                continue
            name = s.axis if isinstance(s, Scan) else s.tile
            if name in placement.paths:
                self.at.setdefault(placement.paths[name], []).append(s)
                for d in s.body if isinstance(s, Scan) else ():
                    if d.tile in placement.paths:
                        self.at.setdefault(placement.paths[d.tile], []).append(d)
        self.taken = {a.name for a in self.kernel.axes} | {p.name for p in self.kernel.params} | placement.paths.keys()
        self.taken |= {s for p in self.kernel.params for e in p.shape for s in e.symbols}

    def variable(self, axis: str) -> str:
        n = 0
        while f"{axis}{n}" in self.taken:
            n += 1
        self.taken.add(f"{axis}{n}")
        return f"{axis}{n}"

    def loop(self, key: Key, scope: Scope) -> For:
        assert key.loop is not None
        lo, hi = scope.cut(key.loop.axis)
        loop = key.loop
        return For(loop.axis, self.variable(loop.axis), lo, hi, loop.size, loop.kind, (), loop.balanced, loop.unit)

    def nest(self, path: Path, scope: Scope) -> tuple[Node, ...]:
        """What stands at ``path``: definitions first, then stores and the loops of the nest around further stores."""
        nodes, scope = self.definitions(path, scope)
        opened: set[Key] = set()
        for store, where in self.placement.stores:
            if where == path:
                guards = scope.ragged(store.axes)
                nodes.append(Write(store.tensor, store.axes, store.index, store.value, guards))
            elif where[: len(path)] == path and where[len(path)] not in opened:
                key = where[len(path)]
                opened.add(key)
                loop = self.loop(key, scope)
                nodes.append(replace(loop, body=self.nest((*path, key), scope.enter(loop))))
        return tuple(nodes)

    def definitions(self, path: Path, scope: Scope) -> tuple[list[Node], Scope]:
        nodes: list[Node] = []
        for s in self.at.get(path, ()):
            made = self.scan(s, path, scope) if isinstance(s, Scan) else self.define(s, path, scope)
            for node in made:
                scope = scope.after(node)
            nodes += made
        return nodes, scope

    def alloc(self, tile: str, axes: tuple[str, ...], like: Const | Value, scope: Scope) -> Alloc:
        ranges = [scope.ranges[a] for a in axes]
        dims = tuple(TileDim(a, r.size, r.start) for a, r in zip(axes, ranges, strict=True))
        return Alloc(Tile(tile, like.dtype, dims, self.spaces.get(tile, DEFAULT_SPACE), self.pads.get(tile, 0)))

    def define(self, d: Define, path: Path, scope: Scope) -> list[Node]:
        alloc = self.alloc(d.tile, d.axes, d.value, scope)
        scope = scope.declare(alloc.tile)
        keys = self.placement.inner[d.tile]
        if not keys or d.reduce is None:
            return [alloc, self.compute(d, False, scope)]
        body = self.reduction(d, path, keys, scope)
        return [alloc, Fill(d.tile, identity(d.reduce.op, d.value.dtype)), *body]

    def reduction(self, d: Define, path: Path, keys: Path, scope: Scope) -> list[Node]:
        if not keys:
            return [self.compute(d, True, scope)]
        loop = self.loop(keys[0], scope)
        path = (*path, keys[0])
        nodes, inner = self.definitions(path, scope.enter(loop))
        return [replace(loop, body=(*nodes, *self.reduction(d, path, keys[1:], inner)))]

    def scan(self, scan: Scan, path: Path, scope: Scope) -> list[Node]:
        nodes: list[Node] = []
        for carry in scan.carries:
            nodes += [self.alloc(carry.tile, carry.axes, carry.init, scope), Fill(carry.tile, carry.init)]
            scope = scope.after(nodes[-2])
        return nodes + self.pieces(scan, path, self.placement.inner[scan.axis], scope)

    def pieces(self, scan: Scan, path: Path, keys: Path, scope: Scope) -> list[Node]:
        if not keys:
            nodes, _ = self.definitions(path, scope)
            return [*nodes, Rotate(scan.yields)]
        if keys[0].loop is None:
            return self.pieces(scan, (*path, keys[0]), (), scope)
        loop = self.loop(keys[0], scope)
        loop = replace(loop, hi=_visible(scan, loop, scope))
        return [replace(loop, body=tuple(self.pieces(scan, (*path, keys[0]), keys[1:], scope.enter(loop))))]

    def compute(self, d: Define, accumulate: bool, scope: Scope) -> Compute:
        reduced = d.reduce.axes if d.reduce is not None else ()
        guards = tuple(
            a for a in scope.ragged((*d.axes, *reduced)) if a in reduced or self._reads_padding(d.value, a, scope)
        )
        return Compute(d.tile, d.axes, d.value, d.reduce, accumulate, guards)

    def _reads_padding(self, value: Value, axis: str, scope: Scope) -> bool:
        """Whether padded lanes of ``axis`` would read what is not there."""
        for load in loads_of(value):
            if load.fill is not None:
                continue
            for index, size in zip(load.index, self.shapes[load.tensor], strict=True):
                if not isinstance(index, Expr):
                    if axis in used_symbols(index):
                        return True
                elif axis in index.symbols and not _inside(index, size, scope):
                    return True
        return any(axis in ref.axes and not scope.covers(scope.tiles[ref.tile], axis) for ref in refs_of(value))


def _visible(scan: Scan, loop: For, scope: Scope) -> Expr:
    """Where a loop over a scanned axis may end: what no row of the current tiles sees is left out, as under a causal
    mask. Padded rows count, which keeps the limit short. One position is always visited, so that no loop is empty."""
    limit = visible_limit(scan)
    for axis in () if limit is None else sorted(limit.symbols & scope.ranges.keys()):
        assert limit is not None
        try:
            factor = limit.coefficient(axis)
        except ValueError:
            return loop.hi
        if not factor.is_constant:
            return loop.hi
        r = scope.ranges[axis]
        limit = limit.substitute({axis: r.start + r.size - 1 if factor.value > 0 else r.start})
    return loop.hi if limit is None else minimum(loop.hi, maximum(loop.lo + 1, limit))


def _inside(index: Expr, size: Expr, scope: Scope) -> bool:
    """Whether ``index`` provably stays within ``0 … size - 1`` for all lanes, padding included."""
    facts = scope.padded_facts()
    lo, hi = bounds(index, facts)
    return lo >= 0 and hi < bounds(size, scope.facts)[0]
