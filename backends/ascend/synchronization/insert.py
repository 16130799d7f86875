"""The statements of edges, put into the tree."""

from __future__ import annotations

from dataclasses import replace

from tilewright.backends.ascend.placed.form import Barrier, CrossFlag, Flag, Loop, Node, counter
from tilewright.backends.ascend.synchronization.candidate import Candidate
from tilewright.ir.symbolic import ZERO, Expr, constant, symbol

#: Event numbers of each edge.
Events = dict[int, tuple[int, ...]]


def insert(body: tuple[Node, ...], edges: dict[int, Candidate], events: Events) -> tuple[Node, ...]:
    """``body`` with the statements of ``edges``."""
    return _insert(body, (), edges, events)


def _insert(
    body: tuple[Node, ...], path: tuple[int, ...], edges: dict[int, Candidate], events: Events
) -> tuple[Node, ...]:
    result: list[Node] = []
    here = {n: c for n, c in edges.items() if c.body == path}
    for i, node in enumerate(body):
        if not path:
            result += _ends("set", i, edges, events)
        result += [_statement("wait", n, c, events) for n, c in here.items() if c.before == i]
        result.append(
            replace(node, body=_insert(node.body, (*path, i), edges, events)) if isinstance(node, Loop) else node
        )
        result += [_statement("set", n, c, events) for n, c in here.items() if c.after == i and not c.is_barrier]
        if not path:
            result += _ends("wait", i, edges, events)
    return tuple(result)


def _ends(action: str, outermost: int, edges: dict[int, Candidate], events: Events) -> list[Node]:
    """Priming sets in front of, or draining waits behind, the outermost loop of each edge around a loop."""
    nodes: list[Node] = []
    for n, c in edges.items():
        if c.distance and c.body[0] == outermost:
            # Which events are left set depends on the number of iterations, unless there are as many as slots.
            first: Expr = ZERO
            if len(events[n]) > c.distance and action == "wait":
                first = symbol(counter(str(c.loop))) + (len(events[n]) - c.distance)
            elif len(events[n]) > c.distance:
                first = constant(len(events[n]) - c.distance)
            nodes += [_statement(action, n, c, events, first + turn) for turn in range(c.distance)]
    return nodes


def _statement(action: str, number: int, c: Candidate, events: Events, turn: Expr | None = None) -> Node:
    core, pipe = c.source if action == "set" else c.sink
    if c.is_barrier:
        return Barrier(core, pipe, number)
    if c.crosses:
        return CrossFlag(action, core, pipe, events[number][0], number)  # type: ignore[arg-type]
    if turn is None:
        turn = ZERO
        if c.loop is not None and len(events[number]) > 1:
            late = len(events[number]) - c.distance if action == "wait" and c.distance else 0
            turn = symbol(counter(c.loop)) + late % len(events[number])
    return Flag(action, core, c.source[1], c.sink[1], events[number], turn, number)  # type: ignore[arg-type]
