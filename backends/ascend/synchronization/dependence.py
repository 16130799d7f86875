"""Which statements must be ordered: dependences with iteration distances, found in the tree itself.

Two statements depend on each other when both may touch one byte and at least one writes it. Let L be the innermost loop
around both. A *near* dependence orders statements of one iteration of L; a *far* one orders iteration ``n + d`` after
iteration ``n``, for ``d = first`` and every ``period`` after that, ``n`` counting all iterations that L ever runs:
first and period are 1 where the memory is the same in every iteration, and follow from the slots where the buffer
rotates with L. Loops inside L are at any iteration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tilewright.backends.ascend.placed.form import (
    Access,
    Instruction,
    Loop,
    Node,
    Placed,
    View,
    counter,
)
from tilewright.backends.ascend.synchronization.conflict import (
    apart_in_turn,
    bytes_meet,
    may_meet,
    memories_meet,
    slot_distances,
)
from tilewright.backends.ascend.synchronization.facts import Facts
from tilewright.backends.ascend.synchronization.touched import Touched, touched
from tilewright.ir.ranges import Range, bounds
from tilewright.ir.symbolic import ceildiv, constant, symbol

#: Turns of loops with more trips are not told apart: walks keep count of them.
_FEW = 8


@dataclass(frozen=True, slots=True)
class Site:
    """An instruction and where it stands: child numbers from the root, and the loops around it."""

    node: Instruction
    path: tuple[int, ...]
    loops: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Count:
    """Iterations of ``loop`` since the source ran: ``first``, and every ``period`` from there on (None: only first)."""

    loop: str
    first: int
    period: int | None


@dataclass(frozen=True, slots=True)
class Dependence:
    """Site ``second`` must start after site ``first`` has ended, where every one of ``counts`` holds.

    ``body`` is the path of the innermost body around both. ``near``: they are ordered within an iteration too. With
    ``everywhere`` the two may be on different vector cores of a group.
    """

    first: int
    second: int
    body: tuple[int, ...]
    loop: str | None
    near: bool
    far: bool
    counts: tuple[Count, ...]
    slots: int
    everywhere: bool
    reason: str


def sites(body: tuple[Node, ...], path: tuple[int, ...] = (), loops: tuple[str, ...] = ()) -> Iterator[Site]:
    """Every instruction in program order."""
    for i, node in enumerate(body):
        if isinstance(node, Loop):
            yield from sites(node.body, (*path, i), (*loops, node.var))
        elif isinstance(node, Instruction):
            yield Site(node, (*path, i), loops)


def dependences(placed: Placed, facts: Facts) -> list[Dependence]:
    """Every dependence that no two others imply, sources in program order."""
    everything = list(sites(placed.body))
    finder = _Finder(placed, facts, everything)
    touched: dict[str, list[int]] = {}
    for n, site in enumerate(everything):
        for name in dict.fromkeys(a.buffer for a in (*site.node.reads, *site.node.writes)):
            touched.setdefault(name, []).append(n)
    pairs: dict[tuple[int, int], None] = {}
    names = sorted(touched)
    for i, a in enumerate(names):
        for b in names[i:]:
            if (a, b) in finder.meeting:
                pairs.update({(min(p, q), max(p, q)): None for p in touched[a] for q in touched[b]})
    found: list[Dependence] = []
    for p, q in sorted(pairs):
        found += finder.between(p, q)
    return _immediate(found, everything)


@dataclass(frozen=True, slots=True)
class _Meeting:
    """How two accesses may meet: ``near``, and far as the counts say; ``depth`` loops are around the body of those.
    ``turns``: in which turns of a loop around the second alone they are near, where those are not all."""

    near: bool
    far: tuple[Count, ...] | None
    slots: int
    depth: int
    turns: tuple[Count, ...] = ()


@dataclass(frozen=True, slots=True)
class _Found:
    """What is said of a dependence."""

    reason: str
    slots: int
    everywhere: bool
    depth: int
    turns: tuple[Count, ...] = ()


class _Finder:
    def __init__(self, placed: Placed, facts: Facts, everything: list[Site]):
        self.buffers = {b.name: b for b in placed.buffers}
        self.facts, self.sites = facts, everything
        # Equal accesses are one object, so that a meeting of two is looked up by their identities.
        known: dict[Access, Access] = {}
        self.touched = [
            Touched(*(tuple(known.setdefault(a, a) for a in part) for part in (t.reads, t.writes)))
            for t in (touched(s.node, self.buffers) for s in everything)
        ]
        self._met: dict[tuple[object, ...], _Meeting | None] = {}
        names = [b.name for b in placed.buffers]
        self.meeting = {(a, b) for a in names for b in names if memories_meet(self.buffers[a], self.buffers[b])}
        aliases = {p.alias: p.name for p in placed.kernel.params if p.alias is not None}
        self.fused = "split" not in placed.target.features
        self.subblocks = int(placed.target.extra["subblocks"])
        self.around = {loop.var: loop for loop in _loops(placed.body)}
        steps = {name: loop.step for name, loop in self.around.items()}
        #: Loops with a constant positive step.
        self.steps = {name: n.value for name, n in steps.items() if n.is_constant and n.value > 0}
        self.trips = dict(_trips(placed.body))
        self.outermost = {node.var for node in placed.body if isinstance(node, Loop)}
        #: What has one value in a whole run of a core; loop variables, counters and what a scalar unit read have not.
        self.fixed = frozenset(name for name, _ in placed.kernel.facts) | {"_group", "_groups", "_sub"}
        read = {a.buffer for s in everything for a in (*s.node.reads, *((s.node.dst,) if s.node.adds else ()))}
        both = read & {s.node.dst.buffer for s in everything}
        tensors = {b.name for b in placed.buffers if b.scope == "gm" and not b.workspace} - aliases.keys()
        written = [s.node.dst.buffer for s in everything]
        #: Where whole blocks leave, the end of a row may be written twice, by statements of one iteration: elsewhere no
        #: two statements write one place of an output.
        twice = {b for b in tensors if "copy_pad" not in placed.target.features and written.count(b) > 1}
        self.skipped = tensors - both - twice
        #: Each place of an output is one iteration's. What is read of an output is its last block, in one iteration of
        #: all that there are: every other run of a store ends where the next one begins, at a block.
        self.once = {p.name for p in placed.kernel.params if p.role == "out"} & tensors
        fetched = [s.node for s in everything if s.node.op == "copy_in"]
        self.once |= {n.dst.buffer for n in fetched if any(a.buffer in self.once for a in n.reads)}

    def between(self, p: int, q: int) -> Iterator[Dependence]:
        """Dependences between sites ``p <= q``."""
        a, b = self.sites[p], self.sites[q]
        common = 0
        for one, other in zip(a.path[:-1], b.path[:-1], strict=False):
            if one != other:
                break
            common += 1
        body, loop = a.path[:common], a.loops[common - 1] if common else None
        near: list[_Found] = []
        far: dict[tuple[bool, tuple[Count, ...]], _Found] = {}
        for x, y, kind in _pairs(self.touched[p], self.touched[q]):
            if met := self._meeting(x, y, a, b, common):
                found = _Found(f"{x.buffer} {kind}", met.slots, self._on_other_cores(x, y, a, b), met.depth, met.turns)
                if met.near and p != q:
                    near.append(found)
                # A path from this iteration's ``a`` orders those of earlier iterations too, if there is an ``a`` in it.
                if met.far is not None and (p == q or not met.near or len(a.path) > common + 1):
                    far.setdefault((False, met.far), found)
        for x, y, kind in _pairs(self.touched[q], self.touched[p]) if p != q else ():
            met = self._meeting(x, y, b, a, common)
            if met is not None and met.far is not None:
                found = _Found(f"{x.buffer} {kind}", met.slots, self._on_other_cores(x, y, b, a), met.depth)
                far.setdefault((True, met.far), found)
        if near:
            same: tuple[Count, ...] = (Count(loop, 0, None),) if loop else ()
            if len({f.turns for f in near}) == 1:
                same += near[0].turns
            slots, everywhere = min(f.slots for f in near), any(f.everywhere for f in near)
            yield Dependence(p, q, body, loop, True, False, same, slots, everywhere, near[0].reason)
        for (back, counts), f in far.items():
            first, second = (q, p) if back else (p, q)
            held = bool(near) and not back and f.depth == common
            where = a.path[: f.depth], a.loops[f.depth - 1]
            yield Dependence(first, second, *where, held, True, counts, f.slots, f.everywhere, f.reason)

    def _meeting(self, x: Access, y: Access, a: Site, b: Site, common: int) -> _Meeting | None:
        if (x.buffer, y.buffer) not in self.meeting or x.buffer in self.skipped:
            return None
        if self.buffers[x.buffer].scope != "gm" and not self.fused and a.node.core != b.node.core:
            return None
        key = (id(x), id(y), a.loops[:common])
        if key not in self._met:
            self._met[key] = self._met_in(x, y, a.loops[:common])
        return self._met[key]

    def _met_in(self, x: Access, y: Access, loops: tuple[str, ...]) -> _Meeting | None:
        """How two accesses meet in a body within ``loops``."""
        bx, by, common = self.buffers[x.buffer], self.buffers[y.buffer], len(loops)
        if bx is by:
            near = may_meet(x, y, bx, self.facts, self.fixed | set(loops))
            depth = 0 if bx.name in self.once else self._carried(x, y, loops)
        else:
            near = bytes_meet(x, y, (bx, by), self.facts, self.fixed | set(loops))
            depth = common if bytes_meet(x, y, (bx, by), self.facts, self.fixed) else 0
        turn = self._turn(x, y, loops)
        near = near and not turn
        if (not near and not depth) or (turn is not None and turn < 0):
            return None
        slots = bx.slots if turn is not None and bx.rotates == loops[-1] else 1
        if not depth:
            return _Meeting(near, None, slots, common, self._first_turns(x, y, loops) if near else ())
        counts: tuple[Count, ...] = (Count(loops[depth - 1], 1, 1),)
        inner = self._inner_turns(x, y, loops)
        if turn is None:
            counts += inner
        elif bx.rotates == loops[depth - 1]:
            counts = (Count(loops[depth - 1], turn or bx.slots, bx.slots),)
        elif bx.rotates in loops[:depth]:
            counts = (*counts, Count(str(bx.rotates), turn, bx.slots))
        if bx is by:
            counts += self._same_turns(x, y, loops[depth:])
        return _Meeting(near, counts, slots, depth, inner if near else ())

    def _carried(self, x: Access, y: Access, loops: tuple[str, ...]) -> int:
        """How deep the innermost loop is from one iteration of which to another the accesses may meet; 0: none."""
        if not loops or not may_meet(x, y, self.buffers[x.buffer], self.facts, self.fixed):
            return 0
        for depth in range(len(loops), 0, -1):
            var, outer = loops[depth - 1], self.fixed | set(loops[: depth - 1])
            if var not in self.steps or not apart_in_turn(
                x, y, self.buffers[x.buffer], (var, self.steps[var]), self.facts, outer
            ):
                return depth
        return 0

    def _turn(self, x: Access, y: Access, loops: tuple[str, ...]) -> int | None:
        """Iterations of the rotating loop (modulo slots) from ``x`` until ``y`` has the same slot, or one that shares
        its bytes; None: it may have at any time; negative: it never has."""
        bx, by = self.buffers[x.buffer], self.buffers[y.buffer]
        if bx.rotates not in loops or (bx.rotates, bx.slots) != (by.rotates, by.slots) or bx.slots == 1:
            return None
        counts = symbol(counter(str(bx.rotates)))
        turns = [v.slot - counts for v in (x, y)]
        if not all(t.is_constant for t in turns):
            return None
        apart = {0} if bx is by else slot_distances(bx, by)
        if len(apart) != 1:
            return None if apart else -1
        return (turns[0].value - turns[1].value - apart.pop()) % bx.slots

    def _same_turns(self, x: Access, y: Access, inner: tuple[str, ...]) -> tuple[Count, ...]:
        """Loops in the body, of trips that are known, in whose same turns alone ``x`` and ``y`` meet."""
        buffer, found = self.buffers[x.buffer], list[Count]()
        for var in inner:
            trips = self.trips.get(var, 0)
            if 1 < trips <= _FEW and apart_in_turn(x, y, buffer, (var, self.steps[var]), self.facts, self.fixed):
                found.append(Count(var, 0, trips))
        return tuple(found)

    def _inner_turns(self, x: Access, y: Access, loops: tuple[str, ...]) -> tuple[Count, ...]:
        """How many turns of the rotating loop, which is inside of ``loops``, end between two accesses to one slot."""
        buffer = self.buffers[x.buffer]
        if x.buffer != y.buffer or buffer.slots == 1 or buffer.rotates is None or buffer.rotates in loops:
            return ()
        turns = [v.slot - symbol(counter(buffer.rotates)) for v in (x, y)]
        if not all(t.is_constant for t in turns):
            return ()
        first = (turns[0].value - turns[1].value) % buffer.slots
        if first == 1 and self._nothing_last(x, self.around[buffer.rotates]):
            first += buffer.slots
        return (Count(buffer.rotates, first, buffer.slots),)

    def _nothing_last(self, x: Access, loop: Loop) -> bool:
        """Whether ``x``, which stands in ``loop``, touches nothing in the last turn of each run of it, that whose end
        is the only one before what comes behind the loop."""
        if not isinstance(x, View) or loop.var not in self.steps:
            return False
        # The last value of the variable is at most a step below the limit.
        ranges = {**self.facts.ranges, "_left": Range(0, self.steps[loop.var] - 1)}
        last = {loop.var: loop.hi - 1 - symbol("_left")}
        return any(loop.var in n.symbols and bounds(n.substitute(last), ranges)[1] <= 0 for n, _ in x.dims)

    def _first_turns(self, x: Access, y: Access, loops: tuple[str, ...]) -> tuple[Count, ...]:
        """In which turns of a loop ``y`` has the slot that ``x`` has in front of that loop."""
        buffer = self.buffers[x.buffer]
        if turns := self._inner_turns(x, y, loops):
            return turns
        if loops or x.buffer != y.buffer or buffer.rotates not in self.outermost or not x.slot.is_constant:
            return ()
        turn = y.slot - symbol(counter(str(buffer.rotates)))
        if not turn.is_constant:
            return ()
        return (Count(str(buffer.rotates), (x.slot.value - turn.value) % buffer.slots, buffer.slots),)

    def _on_other_cores(self, x: Access, y: Access, a: Site, b: Site) -> bool:
        """Whether two vector cores of a group may meet in a workspace."""
        buffer = self.buffers[x.buffer]
        if self.subblocks < 2 or buffer.scope != "gm" or not a.node.core == b.node.core == "vector":
            return False
        for i in range(self.subblocks):
            for j in range(self.subblocks):
                if i != j and may_meet(_of_core(x, i), _of_core(y, j), buffer, self.facts, self.fixed):
                    return True
        return False


def _loops(body: tuple[Node, ...]) -> Iterator[Loop]:
    for node in body:
        if isinstance(node, Loop):
            yield node
            yield from _loops(node.body)


def _trips(body: tuple[Node, ...]) -> Iterator[tuple[str, int]]:
    """Loops that run the same number of times whenever they are reached."""
    for node in body:
        if isinstance(node, Loop):
            if node.step.is_constant and node.step.value > 0:
                trips = ceildiv(node.hi - node.lo, node.step)
                if trips.is_constant:
                    yield node.var, trips.value
            yield from _trips(node.body)


def _of_core(access: Access, sub: int) -> Access:
    if isinstance(access, View):
        return replace(access, offset=access.offset.substitute({"_sub": constant(sub)}))
    values = {"_sub": constant(sub)}
    return replace(access, row=access.row.substitute(values), column=access.column.substitute(values))


def _pairs(first: Touched, second: Touched) -> Iterator[tuple[Access, Access, str]]:
    """Accesses of two statements of which one writes."""
    for x in first.writes:
        for y in second.reads:
            yield x, y, "is read after it is written"
        for y in second.writes:
            yield x, y, "is written again"
    for x in first.reads:
        for y in second.writes:
            yield x, y, "is overwritten after it is read"


# -- what others imply -----------------------------------------------------------------------------------------------


def _immediate(found: list[Dependence], everything: list[Site]) -> list[Dependence]:
    """Leave out what two shorter dependences imply: through a statement of the same body, which runs in every
    iteration between the two. The span of each is shorter than what it implies, so no proof goes in a circle."""
    bodies = [s.path[:-1] for s in everything]
    near_from: dict[int, set[int]] = {}
    near_to: dict[int, set[int]] = {}
    far_from: dict[int, dict[int, tuple[Count, ...]]] = {}
    far_to: dict[int, dict[int, tuple[Count, ...]]] = {}
    for d in found:
        if d.everywhere or any(c.period is not None and not d.far for c in d.counts):
            continue
        if d.far:
            far_from.setdefault(d.first, {})[d.second] = d.counts
            far_to.setdefault(d.second, {})[d.first] = d.counts
        else:
            near_from.setdefault(d.first, set()).add(d.second)
            near_to.setdefault(d.second, set()).add(d.first)
    kept = []
    for d in found:
        if d.everywhere:
            implied = False
        elif not d.far:
            between = near_from.get(d.first, set()) & near_to.get(d.second, set())
            implied = any(bodies[c] == d.body for c in between)
        else:
            later = near_from.get(d.first, set()) & far_to.get(d.second, {}).keys()
            earlier = far_from.get(d.first, {}).keys() & near_to.get(d.second, set())
            implied = any(bodies[c] == d.body and _covers(far_to[d.second][c], d.counts) for c in later) or any(
                bodies[c] == d.body and _covers(far_from[d.first][c], d.counts) for c in earlier
            )
        if not implied:
            kept.append(d)
    return kept


def _covers(a: tuple[Count, ...], b: tuple[Count, ...]) -> bool:
    """Whether every pair of iterations that ``b`` orders is one of ``a``."""
    return a == b or (len(a) == 1 and a[0].first == a[0].period == 1 and a[0].loop == b[0].loop)
