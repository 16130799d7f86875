"""The statements of a core in issue order, their expressions evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tilewright.backends.ascend.placed.footprint import Touch, touch, value_of
from tilewright.backends.ascend.placed.form import (
    Barrier,
    Buffer,
    CrossFlag,
    Flag,
    Instruction,
    Loop,
    Node,
    Read,
    Scalar,
    counter,
)
from tilewright.backends.ascend.placed.text import statement_text
from tilewright.ir.symbolic import Expr

PIPE_ORDER = ("S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX")
Statement = Instruction | Flag | CrossFlag | Barrier | Read
#: What a scalar read gives under the values of the symbols.
Reader = Callable[[Read, Mapping[str, int]], int]


#: What a flag or a barrier touches.
NOTHING = Touch("", 0, 0, (0,), (0,))


@dataclass(frozen=True, slots=True)
class Item:
    """One statement as issued. ``where`` are the loop variables, for messages."""

    node: Statement
    pipe: str
    where: str
    event: int = 0
    dst: Touch = NOTHING
    sources: tuple[Touch | float | int, ...] = ()
    scratch: Touch | None = None
    init: int = 0

    @property
    def text(self) -> str:
        return f"{statement_text(self.node)}  at {self.where or 'top'}"


def lowest(node: Read, env: Mapping[str, int]) -> int:
    """A reader for where there is no data: every index is 0."""
    return 0


def issue(
    body: tuple[Node, ...], buffers: Mapping[str, Buffer], env: Mapping[str, int], read: Reader = lowest
) -> Iterator[Item]:
    """The statements of a program, evaluated; loop counters run on from one entry of a loop to the next."""
    for node, values, where in walk(body, dict(env), "", read):
        yield item_of(node, buffers, values, where)


def walk(
    body: tuple[Node, ...], env: dict[str, int], where: str, read: Reader = lowest
) -> Iterator[tuple[Statement, dict[str, int], str]]:
    """Every statement as often as it runs, with the values of the symbols (one dictionary, changed in place)."""
    for node in body:
        if isinstance(node, Loop):
            lo, hi, step = (value_of(e, env) for e in (node.lo, node.hi, node.step))
            count = counter(node.var)
            env.setdefault(count, 0)
            for v in range(lo, hi, step):
                env[node.var] = v
                yield from walk(node.body, env, f"{where}{node.var}={v} ", read)
                env[count] += 1
        else:
            if isinstance(node, Read):
                env[node.var] = read(node, env)
            yield node, env, where


def item_of(node: Statement, buffers: Mapping[str, Buffer], env: Mapping[str, int], where: str) -> Item:
    """A statement with its expressions evaluated under ``env``."""
    match node:
        case Instruction():
            sources = tuple(
                _number(s.value, env) if isinstance(s, Scalar) else touch(s, buffers[s.buffer].slots, env)
                for s in node.srcs
            )
            scratch = None if node.scratch is None else touch(node.scratch, buffers[node.scratch.buffer].slots, env)
            init = 0 if node.init is None else value_of(node.init, env)
            dst = touch(node.dst, buffers[node.dst.buffer].slots, env)
            return Item(node, node.pipe, where, 0, dst, sources, scratch, init)
        case Flag():
            pipe = node.src if node.action == "set" else node.dst
            event = node.events[value_of(node.slot, env) % len(node.events)]
            return Item(node, pipe, where, event)
    return Item(node, node.pipe, where)


def _number(value: float | Expr, env: Mapping[str, int]) -> float | int:
    return value_of(value, env) if isinstance(value, Expr) else value
