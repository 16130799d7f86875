"""A kernel with edges as a list of steps, for walks that follow every path through it.

Instructions are no steps, only places between them; a step is a statement of an edge or an end of a loop. Queues of
messages are fields of bits: the oldest message lowest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from tilewright.backends.ascend.placed.form import Core, Instruction, Loop, Node, Pipe, Placed
from tilewright.backends.ascend.placed.stream import PIPE_ORDER
from tilewright.backends.ascend.synchronization.candidate import Candidate
from tilewright.backends.ascend.synchronization.facts import Facts, Trips, trips_of

_PIPES = len(PIPE_ORDER)
#: A numbered instruction (in program order), or ("set", edge), or ("wait", edge).
Name = int | tuple[str, int]


class Kind(IntEnum):
    """What a step is, and what the numbers behind it are.

    SET: edge, source pipe, bit of the newest message. WAIT: edge, bit of the oldest, queue, pipes that hear it.
    BARRIER: edge, pipe. PRIME: edge, source pipe, queue. DRAIN: as WAIT. ENTER and END: loop, place to go on at (behind
    the loop; its body), number among counted loops or -1, least and largest trip count.
    """

    SET = 0
    WAIT = 1
    BARRIER = 2
    PRIME = 3
    DRAIN = 4
    ENTER = 5
    END = 6
    STOP = 7


@dataclass(frozen=True, slots=True)
class Point:
    """A statement as a source or sink: the place in front of it, its pipe, and the loops around it.

    ``issues``: the pipes that know of it as soon as it has happened, for a cross-core wait.
    """

    place: int
    pipe: int
    loops: tuple[str, ...]
    issues: int = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """The loops of a kernel: number and trip count of each, and which of them have their iterations counted."""

    numbers: Mapping[str, int]
    trips: Mapping[str, Trips]
    counted: Mapping[str, int]
    fused: bool

    def bit(self, core: Core, pipe: Pipe, other: bool = False) -> int:
        """The bit of a pipe; ``other`` is the vector core of the group that the source does not run on."""
        unit = 0 if self.fused or core == "cube" else 2 if other else 1
        return 1 << (unit * _PIPES + PIPE_ORDER.index(pipe))

    def pipes(self, core: Core, other: bool = False) -> int:
        """All pipes of a core."""
        return ((1 << _PIPES) - 1) * self.bit(core, "S", other)


def shape_of(placed: Placed, facts: Facts) -> Shape:
    """The loops of ``placed``."""
    trips: dict[str, Trips] = {}

    def collect(body: tuple[Node, ...]) -> None:
        for node in body:
            if isinstance(node, Loop):
                trips[node.var] = trips_of(node, facts)
                collect(node.body)

    collect(placed.body)
    counted = [name for name, t in trips.items() if t.counted]
    fused = "split" not in placed.target.features
    return Shape({name: i for i, name in enumerate(trips)}, trips, {name: i for i, name in enumerate(counted)}, fused)


@dataclass(slots=True)
class Steps:
    """The steps, and where each statement is. With ``both``, the second vector core of the group is followed too."""

    shape: Shape
    edges: Mapping[int, Candidate]
    both: bool
    ops: list[tuple[int, ...]] = field(default_factory=list)
    points: dict[Name, Point] = field(default_factory=dict)
    _queues: dict[tuple[int, bool], tuple[int, int, int]] = field(default_factory=dict)
    _at: dict[tuple[int, ...], list[tuple[int, Candidate]]] = field(default_factory=dict)
    _sites: int = 0

    def __post_init__(self) -> None:
        top = 0
        for n, c in self.edges.items():
            self._at.setdefault(c.body, []).append((n, c))
            for other in (False, True) if self.both and "vector" in (c.source[0], c.sink[0]) else (False,):
                width = max(1, c.distance)
                low = 1 << top
                self._queues[n, other] = low, low << (width - 1), ((1 << width) - 1) << top
                top += width

    def run(self, body: tuple[Node, ...]) -> Steps:
        """Fill in the steps of a whole program."""
        self._body(body, (), ())
        self.ops.append((Kind.STOP,))
        return self

    def _body(self, body: tuple[Node, ...], path: tuple[int, ...], loops: tuple[str, ...]) -> None:
        here = self._at.get(path, [])
        around = [(n, c) for n, c in self.edges.items() if c.distance] if not path else []
        for i, node in enumerate(body):
            for n, c in around:
                if c.body[0] == i:
                    self._put(Kind.PRIME, n, c)
            for n, c in here:
                if c.before == i:
                    self._mark("wait", n, c, loops)
                    self._put(Kind.BARRIER if c.is_barrier else Kind.WAIT, n, c)
            self._node(node, (*path, i), loops)
            for n, c in here:
                if c.after == i and not c.is_barrier:
                    self._mark("set", n, c, loops)
                    self._put(Kind.SET, n, c)
            for n, c in around:
                if c.body[0] == i:
                    self._put(Kind.DRAIN, n, c)

    def _node(self, node: Node, path: tuple[int, ...], loops: tuple[str, ...]) -> None:
        if isinstance(node, Instruction):
            self.points[self._sites] = Point(len(self.ops), self.shape.bit(node.core, node.pipe), loops)
            self._sites += 1
        elif isinstance(node, Loop):
            trips = self.shape.trips[node.var]
            number, slot = self.shape.numbers[node.var], self.shape.counted.get(node.var, -1)
            at = len(self.ops)
            self.ops.append(())
            self._body(node.body, path, (*loops, node.var))
            self.ops.append((Kind.END, number, at + 1, slot, trips.least, trips.most))
            self.ops[at] = (Kind.ENTER, number, len(self.ops), slot, trips.least, trips.most)

    def _mark(self, action: str, n: int, c: Candidate, loops: tuple[str, ...]) -> None:
        core, pipe = c.source if action == "set" else c.sink
        issues = self.shape.pipes(core) if action == "wait" and c.crosses else 0
        self.points[action, n] = Point(len(self.ops), self.shape.bit(core, pipe), loops, issues)

    def _put(self, kind: Kind, n: int, c: Candidate) -> None:
        for other in (False, True):
            if (n, other) not in self._queues:
                continue
            low, last, queue = self._queues[n, other]
            if kind == Kind.BARRIER:
                self.ops.append((kind, n, self.shape.bit(*c.sink, other)))
            elif kind in (Kind.SET, Kind.PRIME):
                self.ops.append((kind, n, self.shape.bit(*c.source, other), last if kind == Kind.SET else queue))
            else:
                hears = self.shape.pipes(c.sink[0], other) if c.crosses else self.shape.bit(*c.sink, other)
                self.ops.append((kind, n, low, queue, hears))
