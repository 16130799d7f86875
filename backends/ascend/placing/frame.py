"""The tree being placed: open loops, buffers without addresses, and the names given out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from tilewright.backends.ascend.placed.form import (
    Access,
    Block,
    Buffer,
    Core,
    Instruction,
    Loop,
    Node,
    Operand,
    Parameter,
    Scalar,
    Scope,
    View,
    counter,
)
from tilewright.backends.ascend.placed.layout import SCOPE_LAYOUT
from tilewright.ir.symbolic import ZERO, Expr, as_expr, symbol
from tilewright.ir.types import DType

#: The loop over the blocks of a kernel that one group of cores takes.
BLOCK_LOOP = "_block"

#: Options of a schedule: slots of operands that come into L1 piece by piece, panes of rows that a sum lies in, and how
#: many rows are brought in before the columns, apart from the others, so that their products begin early; rows of a
#: pane, where they are more than an even share: the first pane has fewer then.
RING, PANES, LEAD, HEIGHT = "ring", "panes", "lead", "height"


@dataclass(slots=True)
class Frame:
    """An open loop and what stands in it so far. ``loaded``: what was brought in here, by what was asked for.
    ``lo`` is the variable's first value, ``trips`` how many it has."""

    var: str
    nodes: list[Node] = field(default_factory=list)
    loaded: dict[object, object] = field(default_factory=dict)
    lo: Expr = ZERO
    trips: Expr = ZERO


@dataclass(slots=True)
class Tree:
    """Frames from the block loop inwards, and every buffer. ``fused``: one core has all pipes. ``kept``: those whose
    slots hold what later turns of a loop read again. ``bound``: the loop whose body gives a symbol its value."""

    frames: list[Frame]
    buffers: dict[str, Buffer] = field(default_factory=dict)
    variables: set[str] = field(default_factory=set)
    bound: dict[str, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    fused: bool = False

    def variable(self, name: str) -> str:
        """A name for a loop's variable that no other loop has."""
        unique, n = name, 2
        while unique in self.variables:
            unique, n = f"{name}_{n}", n + 1
        self.variables.add(unique)
        return unique

    @property
    def top(self) -> Frame:
        return self.frames[-1]

    def frame_of(self, expressions: Iterable[Expr]) -> Frame:
        """The innermost open loop on whose variable one of ``expressions`` depends; the block loop at least."""
        used = {self.bound.get(s, s) for e in expressions for s in e.symbols}
        for frame in reversed(self.frames[1:]):
            if frame.var in used:
                return frame
        return self.frames[0]

    def repeated(self, frame: Frame, expressions: Iterable[Expr]) -> list[Frame]:
        """Open loops around ``frame`` whose every turn would read the same again: nothing depends on them, though on
        a loop further out."""
        used = set[str]().union(*(e.symbols for e in expressions))
        inside = self.frames[1 : self.frames.index(frame)]
        return [f for f in inside if f.var not in used]

    def emit(
        self,
        frame: Frame,
        op: str,
        core: Core,
        pipe: str,
        dst: Access,
        *srcs: Operand,
        init: Expr | None = None,
        transpose: bool = False,
        parameters: tuple[tuple[str, Parameter], ...] = (),
    ) -> None:
        """Append an instruction to ``frame``; a fused core, which does everything, is called a vector core."""
        core = "vector" if self.fused else core
        frame.nodes.append(
            Instruction(op, core, pipe, dst, srcs, init, transpose, parameters=parameters)  # type: ignore[arg-type]
        )

    def add(
        self,
        name: str,
        scope: Scope,
        dtype: DType,
        shape: Iterable[int],
        core: Core | None,
        *,
        frame: Frame | None = None,
        workspace: bool = False,
        layout: str = "",
        slots: int = 2,
    ) -> str:
        """A new buffer; with ``frame`` it has slots that rotate with that loop. Returns its name."""
        core = "vector" if self.fused and core is not None else core
        unique, n = name, 2
        while unique in self.buffers:
            unique, n = f"{name}_{n}", n + 1
        sizes = tuple(as_expr(s) for s in shape)
        rotates = frame.var if frame is not None else None
        slots = slots if frame is not None else 1
        self.buffers[unique] = Buffer(
            unique, scope, dtype, sizes, layout or SCOPE_LAYOUT[scope], 0, slots, rotates, core, workspace
        )
        return unique


def with_slots(body: Iterable[Node], buffers: dict[str, Buffer]) -> tuple[Node, ...]:
    """``body`` with the slot of each access to a rotating buffer filled in, where it says none."""

    def access(a: Operand) -> Operand:
        if isinstance(a, Scalar) or buffers[a.buffer].rotates is None or a.slot != ZERO:
            return a
        return replace(a, slot=symbol(counter(str(buffers[a.buffer].rotates))))

    result: list[Node] = []
    for node in body:
        if isinstance(node, Loop):
            result.append(replace(node, body=with_slots(node.body, buffers)))
        elif isinstance(node, Instruction):
            dst = access(node.dst)
            assert isinstance(dst, View | Block)
            result.append(replace(node, dst=dst, srcs=tuple(access(s) for s in node.srcs)))
        else:
            result.append(node)
    return tuple(result)


def inside(body: Iterable[Node], var: str, node: Node) -> list[Node]:
    """``body`` with ``node`` as the last statement of the loop over ``var``."""
    result: list[Node] = []
    for n in body:
        if isinstance(n, Loop):
            own = [*n.body, node] if n.var == var else inside(n.body, var, node)
            result.append(replace(n, body=tuple(own)))
        else:
            result.append(n)
    return result
