"""The statements of a core in issue order, their expressions evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tilewright.backends.ascend.placed.evaluate import compiled
from tilewright.backends.ascend.placed.footprint import Touch, value_of
from tilewright.backends.ascend.placed.form import (
    Access,
    Barrier,
    Block,
    Buffer,
    CrossFlag,
    Flag,
    Instruction,
    Let,
    Loop,
    Node,
    Parameter,
    Placed,
    Read,
    Scalar,
    counter,
    program_of,
)
from tilewright.backends.ascend.placed.text import statement_text
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.ir.symbolic import Expr, as_expr

PIPE_ORDER = ("S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX")
Statement = Instruction | Flag | CrossFlag | Barrier | Read | Let
#: What a scalar read gives under the values of the symbols.
Reader = Callable[[Read, Mapping[str, int]], int]


#: A parameter whose expression has a value.
Value = int | float | str | tuple[int, ...]

#: What a flag or a barrier touches.
NOTHING = Touch("", 0, 0, (0,), (0,))


@dataclass(frozen=True, slots=True)
class Item:
    """One statement as issued. ``where`` are the loop variables, for messages; ``values`` the parameters."""

    node: Statement
    pipe: str
    where: str
    event: int = 0
    dst: Touch = NOTHING
    sources: tuple[Touch | float | int, ...] = ()
    scratch: Touch | None = None
    init: int = 0
    values: tuple[tuple[str, Value], ...] = ()

    @property
    def text(self) -> str:
        return f"{statement_text(self.node)}  at {self.where or 'top'}"

    @property
    def reads(self) -> tuple[Touch, ...]:
        """What is read, apart from the accumulator of a ``mmad``."""
        return tuple(s for s in self.sources if isinstance(s, Touch))


def lowest(node: Read, env: Mapping[str, int]) -> int:
    """A reader for where there is no data: every index is 0."""
    return 0


def issue(
    body: tuple[Node, ...], buffers: Mapping[str, Buffer], env: Mapping[str, int], read: Reader = lowest
) -> Iterator[Item]:
    """The statements of a program, evaluated; loop counters run on from one entry of a loop to the next."""
    evaluate = evaluator(buffers)
    for node, values, where in walk(body, dict(env), "", read):
        yield evaluate(node, values, where)


def programs(placed: Placed) -> list[tuple[str, int, tuple[Node, ...]]]:
    """The kinds of core of one group that have work: name, how many there are, and the program of each.

    Where cube and vector units are one core, it runs the statements of both in one stream.
    """
    if "split" not in placed.target.features:
        return [("fused", 1, placed.body)]
    subblocks = max(1, int(placed.target.extra["subblocks"]))
    return [(k, subblocks if k == "vector" else 1, program_of(placed.body, k)) for k in placed.cores]


def walk(
    body: tuple[Node, ...], env: dict[str, int], where: str, read: Reader = lowest
) -> Iterator[tuple[Statement, dict[str, int], str]]:
    """Every statement as often as it runs, with the values of the symbols (one dictionary, changed in place)."""
    for node, values, place in turns(body, env, where, read):
        if not isinstance(node, Loop):
            yield node, values, place


def turns(
    body: tuple[Node, ...], env: dict[str, int], where: str, read: Reader = lowest
) -> Iterator[tuple[Node, dict[str, int], str]]:
    """As :func:`walk`, and each loop itself at the beginning of each of its turns. Statements in front of a loop and
    behind it may name its counter, also where the loops around it never run."""
    _counted(body, env)
    yield from _turns(body, env, where, read)


def _counted(body: tuple[Node, ...], env: dict[str, int]) -> None:
    for node in body:
        if isinstance(node, Loop):
            env.setdefault(counter(node.var), 0)
            _counted(node.body, env)


def _turns(
    body: tuple[Node, ...], env: dict[str, int], where: str, read: Reader
) -> Iterator[tuple[Node, dict[str, int], str]]:
    for node in body:
        if isinstance(node, Loop):
            lo, hi, step = (value_of(e, env) for e in (node.lo, node.hi, node.step))
            count = counter(node.var)
            for v in range(lo, hi, step):
                env[node.var] = v
                inner = f"{where}{node.var}={v} "
                yield node, env, inner
                yield from _turns(node.body, env, inner, read)
                env[count] += 1
        else:
            if isinstance(node, Let):
                env[node.var] = _given(node, env)
                continue
            if isinstance(node, Read):
                env[node.var] = read(node, env)
            yield node, env, where


def _given(node: Let, env: Mapping[str, int]) -> int:
    """The value of a ``Let``. Raises :class:`Refused` where it is not below its limit."""
    value, limit = value_of(node.value, env), value_of(node.limit, env)
    if not 0 <= value < limit:
        raise Refused("let", f"{value} is not in 0 .. {limit - 1}", statement_text(node))
    return value


def item_of(node: Statement, buffers: Mapping[str, Buffer], env: Mapping[str, int], where: str) -> Item:
    """A statement with its expressions evaluated under ``env``."""
    return evaluator(buffers)(node, env, where)


def evaluator(buffers: Mapping[str, Buffer]) -> Evaluator:
    """The evaluator of ``buffers``; the latest ones are kept."""
    for known in _EVALUATORS:
        if known.buffers is buffers:
            return known
    _EVALUATORS.insert(0, Evaluator(buffers))
    del _EVALUATORS[4:]
    return _EVALUATORS[0]


class Evaluator:
    """Evaluates statements over one set of buffers, each distinct set of numbers once."""

    def __init__(self, buffers: Mapping[str, Buffer]):
        self.buffers = buffers
        # The node is kept with what belongs to it, so that its identity stays its own.
        self._known: dict[int, tuple[Statement, Callable[[Mapping[str, int]], tuple[int, ...]], _Shape, _Seen]] = {}

    def __call__(self, node: Statement, env: Mapping[str, int], where: str) -> Item:
        entry = self._known.get(id(node))
        if entry is None:
            shape = _shape(node, self.buffers)
            entry = self._known[id(node)] = (node, compiled(shape.expressions), shape, {})
        _, evaluate, shape, seen = entry
        numbers = evaluate(env)
        parts = seen.get(numbers)
        if parts is None:
            if len(seen) > _MOST:
                seen.clear()
            parts = seen[numbers] = shape.build(numbers)
        return Item(node, shape.pipe, where, *parts)


#: An item but for its statement, pipe and place: event, destination, sources, scratch, start, parameters.
_Parts = tuple[int, Touch, tuple[Touch | float | int, ...], Touch | None, int, tuple[tuple[str, Value], ...]]
_Seen = dict[tuple[int, ...], _Parts]
_NONE: _Parts = (0, NOTHING, (), None, 0, ())
#: Sets of numbers that are kept of one statement.
_MOST = 20000
_EVALUATORS: list[Evaluator] = []


@dataclass(frozen=True, slots=True)
class _Shape:
    """How an item is made from the numbers of a statement's expressions."""

    pipe: str
    expressions: tuple[Expr, ...]
    build: Callable[[tuple[int, ...]], _Parts]


def _shape(node: Statement, buffers: Mapping[str, Buffer]) -> _Shape:
    match node:
        case Instruction():
            return _instruction(node, buffers)
        case Flag():
            pipe = node.src if node.action == "set" else node.dst
            events = node.events
            return _Shape(pipe, (node.slot,), lambda n: (events[n[0] % len(events)], *_NONE[1:]))
    return _Shape(node.pipe, (), lambda n: _NONE)


def _instruction(node: Instruction, buffers: Mapping[str, Buffer]) -> _Shape:
    taken: list[Expr] = []

    def take(e: Expr) -> int:
        taken.append(e)
        return len(taken) - 1

    dst = _access(node.dst, buffers, take)
    cycles = node.pipe == "V" and node.op not in ("brcb", "gather")
    sources = tuple(_source(s, buffers, take, cycles) for s in node.srcs)
    scratch = None if node.scratch is None else _access(node.scratch, buffers, take)
    init = None if node.init is None else take(node.init)
    values = tuple((name, _value(v, take)) for name, v in node.parameters)

    def build(n: tuple[int, ...]) -> _Parts:
        return (
            0,
            dst(n),
            tuple(s(n) for s in sources),
            None if scratch is None else scratch(n),
            0 if init is None else n[init],
            tuple((name, v(n)) for name, v in values),
        )

    return _Shape(node.pipe, tuple(taken), build)


def _source(
    operand: Access | Scalar, buffers: Mapping[str, Buffer], take: Callable[[Expr], int], cycles: bool
) -> Callable[[tuple[int, ...]], Touch | float | int]:
    if isinstance(operand, Scalar):
        return _value(operand.value, take)  # type: ignore[return-value]
    return _access(operand, buffers, take, cycles)


def _value(value: Parameter, take: Callable[[Expr], int]) -> Callable[[tuple[int, ...]], Value]:
    if isinstance(value, Expr):
        at = take(value)
        return lambda n: n[at]
    if isinstance(value, tuple) and any(isinstance(v, Expr) for v in value):
        places = [take(as_expr(v)) for v in value]
        return lambda n: tuple(n[at] for at in places)
    known: Value = value  # type: ignore[assignment]
    return lambda n: known


def _access(
    access: Access, buffers: Mapping[str, Buffer], take: Callable[[Expr], int], cycles: bool = False
) -> Callable[[tuple[int, ...]], Touch]:
    buffer = buffers[access.buffer]
    name, slots, slot = access.buffer, buffer.slots, take(access.slot)
    if isinstance(access, Block):
        whole = access.whole
        row, column, rows, columns = (take(e) for e in (access.row, access.column, access.rows, access.columns))
        return lambda n: Touch(
            name, n[slot] % slots, 0, (max(0, n[rows]), max(0, n[columns])), (), (n[row], n[column]), whole
        )
    offset, dims = take(access.offset), [(take(c), take(s)) for c, s in access.dims]
    lanes = max(1, 32 // buffer.element_bytes) if cycles else 0

    def view(n: tuple[int, ...]) -> Touch:
        counts, strides = tuple(max(0, n[c]) for c, _ in dims), tuple(n[s] for _, s in dims)
        cycle = lanes if lanes and counts and strides[-1] == 0 and counts[-1] > 1 else 0
        return Touch(name, n[slot] % slots, n[offset], counts, strides, cycle=cycle)

    return view
