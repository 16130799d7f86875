"""The nests of block loops of a scheduled kernel, and the order that its tiles have their axes in.

Outputs over different axes stand under loops of their own. Each innermost body becomes a nest by itself, with what
stands before it on the way in, so that every nest is perfect and its blocks are dealt out to the cores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tilewright.backends.ascend.placing.operand import flat_index
from tilewright.errors import UnsupportedError
from tilewright.ir.symbolic import Expr
from tilewright.kernel.analysis import loads_of, refs_of
from tilewright.kernel.expr import Load, Ref, Value, operands
from tilewright.kernel.schedule import Alloc, Compute, Fill, For, Node, Rotate, Write
from tilewright.kernel.tile import Kernel

#: Block loops from the outside in, and what stands inside them.
Nest = tuple[tuple[For, ...], tuple[Node, ...]]


def nests_of(body: Sequence[Node], kernel: str) -> list[Nest]:
    """Every nest, in the order of the kernel. Raises :class:`UnsupportedError` where one needs a whole axis that its
    loops cut."""
    return _nests(tuple(body), (), (), kernel)


def _nests(body: tuple[Node, ...], loops: tuple[For, ...], before: tuple[Node, ...], kernel: str) -> list[Nest]:
    blocks = [n for n in body if isinstance(n, For) and n.kind == "block"]
    here = tuple(n for n in body if n not in blocks)
    found: list[Nest] = []
    if not blocks or any(isinstance(n, Write) for n in flat(here)):
        found.append((loops, _needed((*before, *here))))
    made = tuple(n for n in here if not any(isinstance(x, Write) for x in flat((n,))))
    for loop in blocks:
        outer = _needed((*before, *made), flat(loop.body))
        cut = [a for n in flat(outer) if isinstance(n, Compute) and n.reduce for a in n.reduce.axes if a == loop.axis]
        if cut:
            raise UnsupportedError(
                "ascend-block-nest",
                where=f"kernel {kernel}",
                cause=f"an output that is cut along {loop.axis} needs a reduction over all of it",
                fix="run this kernel on the host",
            )
        found += _nests(loop.body, (*loops, loop), outer, kernel)
    return found


def _needed(body: tuple[Node, ...], users: Sequence[Node] | None = None) -> tuple[Node, ...]:
    """Statements that something behind them uses: a write, or ``users``."""
    wanted = tiles_used(users) if users is not None else set()
    kept: list[Node] = []
    for node in reversed(body):
        inner = flat((node,))
        makes = {n.tile for n in inner if isinstance(n, Compute | Fill)}
        makes |= {n.tile.name for n in inner if isinstance(n, Alloc)}
        makes |= {c for n in inner if isinstance(n, Rotate) for c, _ in n.pairs}
        if makes & wanted or any(isinstance(n, Write) for n in inner):
            kept.append(node)
            wanted |= tiles_used(inner) | makes
    return tuple(reversed(kept))


def flat(body: Sequence[Node]) -> list[Node]:
    """Every statement below ``body`` that is no loop."""
    result: list[Node] = []
    for node in body:
        result += flat(node.body) if isinstance(node, For) else [node]
    return result


def tiles_used(body: Sequence[Node]) -> set[str]:
    """Tiles that statements read or add to."""
    names: set[str] = set()
    for node in body:
        match node:
            case Compute():
                names |= {r.tile for r in refs_of(node.value)} | ({node.tile} if node.accumulate else set())
            case Write():
                names |= {r.tile for r in refs_of(node.value)}
                names |= {r.tile for i in node.index if not isinstance(i, Expr) for r in refs_of(i)}
            case Rotate():
                names |= {t for pair in node.pairs for t in pair}
    return names


def index_tiles(body: Sequence[Node]) -> frozenset[str]:
    """Tiles that are read only inside the indices of loads."""
    inside: set[str] = set()
    outside: set[str] = set()
    for node in flat(body):
        if isinstance(node, Rotate):
            outside |= {t for pair in node.pairs for t in pair}
        if not isinstance(node, Compute | Write):
            continue
        hidden = {i for load in loads_of(node.value) for i in load.index if not isinstance(i, Expr)}
        inside |= {r.tile for i in hidden for r in refs_of(i)}
        outside |= {r.tile for r in _open_refs(node.value)}
    return frozenset(inside - outside)


def _open_refs(value: Value) -> list[Ref]:
    """References of ``value`` outside the indices of its loads."""
    if isinstance(value, Load):
        return []
    found = [value] if isinstance(value, Ref) else []
    return [*found, *(r for x in operands(value) for r in _open_refs(x))]


def lane_order(kernel: Kernel, body: Sequence[Node], lanes: Callable[[str], int]) -> tuple[str, ...]:
    """The axes of ``kernel``, last the one along which most of what ``body`` accesses is contiguous; in front of what
    sums keep and lies along memory, what they go over and does not: rows are added to one another, where the sum of
    each row would take seven times as long. ``lanes``: of an axis here."""
    votes: dict[str, int] = {}
    sizes: Mapping[str, int] = {a.name: lanes(a.name) for a in kernel.axes}
    for node in flat(body):
        if not isinstance(node, Compute | Write):
            continue
        accesses = [(x.tensor, x.index) for x in loads_of(node.value)]
        if isinstance(node, Write):
            accesses.append((node.tensor, node.index))
        for tensor, index in accesses:
            flat_at = flat_index(kernel, tensor, tuple(i if isinstance(i, Expr) else Expr(()) for i in index))
            near = [a for a in sizes if sizes[a] > 1 and _steps(flat_at, a)]
            if near:
                weight = 1
                for axis in flat_at.symbols & sizes.keys():
                    weight *= sizes[axis]
                votes[near[-1]] = votes.get(near[-1], 0) + weight
    names = [a.name for a in kernel.axes]
    if votes:
        last = max(names, key=lambda a: (votes.get(a, 0), names.index(a)))
        names = [a for a in names if a != last] + [last]
    for node in flat(body):
        if isinstance(node, Compute) and node.reduce is not None:
            for axis in node.reduce.axes:
                kept = [n for n, a in enumerate(names) if a in node.axes and votes.get(a, 0) > votes.get(axis, 0)]
                if kept and kept[0] < names.index(axis) < len(names) - 1:
                    names.remove(axis)
                    names.insert(kept[0], axis)
    return tuple(names)


def _steps(index: Expr, axis: str) -> bool:
    try:
        return index.coefficient(axis) == 1
    except ValueError:
        return False
