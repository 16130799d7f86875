"""A synchronised kernel as a list of steps, for walks that follow every path through it.

Instructions are no steps, only places between them; a step is a flag, a barrier or an end of a loop. Queues of
messages are fields of bits: the oldest message lowest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from tilewright.backends.ascend.placed.form import (
    Barrier,
    Core,
    CrossFlag,
    Flag,
    Instruction,
    Loop,
    Node,
    Pipe,
    Placed,
    statements,
)
from tilewright.backends.ascend.placed.stream import PIPE_ORDER
from tilewright.backends.ascend.synchronization.facts import Facts, Trips, trips_of
from tilewright.errors import InternalError

_PIPES = len(PIPE_ORDER)
#: A numbered instruction (in program order), or ("set", edge), or ("wait", edge).
Name = int | tuple[str, int]


class Kind(IntEnum):
    """What a step is, and what the numbers behind it are.

    SET: edge, source pipe, bit of the new message. WAIT: edge, bit of the oldest, queue, pipes that hear it. BARRIER:
    edge, pipe. ENTER and END: loop, place to go on at (behind the loop; its body), number among counted loops or -1,
    least and largest trip count.
    """

    SET = 0
    WAIT = 1
    BARRIER = 2
    ENTER = 3
    END = 4
    STOP = 5


class Unbalanced(InternalError):
    """A wait has no set before it in the tree, or a loop leaves more or fewer flags set than it found."""


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
                if node.var in trips:
                    raise InternalError(f"{placed.kernel.name}: two loops are called {node.var}")
                trips[node.var] = trips_of(node, facts)
                collect(node.body)

    collect(placed.body)
    counted = [name for name, t in trips.items() if t.counted]
    fused = "split" not in placed.target.features
    return Shape({name: i for i, name in enumerate(trips)}, trips, {name: i for i, name in enumerate(counted)}, fused)


@dataclass(slots=True)
class Steps:
    """The steps of a synchronised tree, and where each statement is. With ``both``, the second vector core of the
    group is followed too. Raises :class:`Unbalanced`."""

    shape: Shape
    both: bool
    ops: list[tuple[int, ...]] = field(default_factory=list)
    points: dict[Name, Point] = field(default_factory=dict)
    _queues: dict[tuple[int, bool], tuple[int, int]] = field(default_factory=dict)
    _sent: dict[int, int] = field(default_factory=dict)
    _sites: int = 0

    def run(self, body: tuple[Node, ...]) -> Steps:
        """Fill in the steps of a whole program."""
        top = 0
        for edge, depth in _depths(body).items():
            for other in (False, True) if self.both else (False,):
                self._queues[edge, other] = 1 << top, ((1 << depth) - 1) << top
                top += depth
        self._body(body, ())
        if left := [e for e, n in self._sent.items() if n]:
            raise Unbalanced(f"edge {left[0]}: more sets than waits")
        self.ops.append((Kind.STOP,))
        return self

    def _body(self, body: tuple[Node, ...], loops: tuple[str, ...]) -> None:
        for node in body:
            match node:
                case Instruction():
                    self.points[self._sites] = Point(len(self.ops), self.shape.bit(node.core, node.pipe), loops)
                    self._sites += 1
                case Loop():
                    self._loop(node, loops)
                case Barrier():
                    for other in (False, True) if self.both and node.core == "vector" else (False,):
                        self.ops.append((Kind.BARRIER, node.edge, self.shape.bit(node.core, node.pipe, other)))
                case Flag(action="set"):
                    self._set(node, node.core, node.src, loops)
                case CrossFlag(action="set"):
                    self._set(node, node.core, node.pipe, loops)
                case Flag() | CrossFlag():
                    self._wait(node, loops)

    def _loop(self, node: Loop, loops: tuple[str, ...]) -> None:
        trips = self.shape.trips[node.var]
        number, slot = self.shape.numbers[node.var], self.shape.counted.get(node.var, -1)
        at, before = len(self.ops), dict(self._sent)
        self.ops.append(())
        self._body(node.body, (*loops, node.var))
        if any(n != before.get(e, 0) for e, n in self._sent.items()):
            raise Unbalanced(f"loop {node.var} does not wait for as many flags as it sets")
        self.ops.append((Kind.END, number, at + 1, slot, trips.least, trips.most))
        self.ops[at] = (Kind.ENTER, number, len(self.ops), slot, trips.least, trips.most)

    def _set(self, node: Flag | CrossFlag, core: Core, pipe: Pipe, loops: tuple[str, ...]) -> None:
        sent = self._sent.get(node.edge, 0)
        # The last one is the one inside the loop: those that fill the queue stand in front of it.
        self.points["set", node.edge] = Point(len(self.ops), self.shape.bit(core, pipe), loops)
        for other in (False, True) if self.both else (False,):
            low = self._queues[node.edge, other][0]
            self.ops.append((Kind.SET, node.edge, self.shape.bit(core, pipe, other), low << sent))
        self._sent[node.edge] = sent + 1

    def _wait(self, node: Flag | CrossFlag, loops: tuple[str, ...]) -> None:
        if not self._sent.get(node.edge):
            raise Unbalanced(f"edge {node.edge}: a wait without a set before it")
        crosses = isinstance(node, CrossFlag)
        pipe = node.pipe if isinstance(node, CrossFlag) else node.dst
        issues = self.shape.pipes(node.core) if crosses else 0
        point = Point(len(self.ops), self.shape.bit(node.core, pipe), loops, issues)
        # The first one is the one inside the loop: those that empty the queue stand behind it.
        self.points.setdefault(("wait", node.edge), point)
        for other in (False, True) if self.both else (False,):
            low, queue = self._queues[node.edge, other]
            hears = self.shape.pipes(node.core, other) if crosses else self.shape.bit(node.core, pipe, other)
            self.ops.append((Kind.WAIT, node.edge, low, queue, hears))
        self._sent[node.edge] -= 1


def _depths(body: tuple[Node, ...]) -> dict[int, int]:
    """Most messages of each edge that are under way at once, if loops are balanced."""
    sent: dict[int, int] = {}
    most: dict[int, int] = {}
    for node in statements(body):
        if isinstance(node, Flag | CrossFlag):
            sent[node.edge] = sent.get(node.edge, 0) + (1 if node.action == "set" else -1)
            most[node.edge] = max(most.get(node.edge, 1), sent[node.edge])
    return most
