"""The placed form: a kernel with addresses, pipes, slots and flags, as an Ascend core runs it.

One tree holds the statements of the cube core and of the vector core in the order of the scheduled kernel; each core's
program is that tree without the other core's statements (:func:`program_of`). The cores of a group (on 2201 one cube
core and two vector cores) meet only in global memory. Sizes and offsets are expressions over dimension symbols, loop
variables and the symbols named below, so loops keep symbolic trip counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, Union

from tilewright.backends.ascend.placed.layout import padded_shape
from tilewright.ir.symbolic import ZERO, Expr, symbol
from tilewright.ir.types import DType
from tilewright.kernel.tile import Kernel
from tilewright.target import Target

Core = Literal["cube", "vector"]
Scope = Literal["gm", "l1", "l0a", "l0b", "l0c", "ub", "bt", "fb"]
Pipe = Literal["S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX"]

#: Which group of cores runs, how many groups there are, and which vector core of the group this is.
GROUP, GROUPS, SUBBLOCK = symbol("_group"), symbol("_groups"), symbol("_sub")


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory of one scope. ``shape`` is in elements of one slot; global tensors have symbolic shapes and no address.

    ``slots`` copies lie one behind the other from ``address`` (bytes); the loop ``rotates`` takes them in turn.
    A ``workspace`` is global memory of one group of cores.
    """

    name: str
    scope: Scope
    dtype: DType
    shape: tuple[Expr, ...]
    layout: str = "ND"
    address: int = 0
    slots: int = 1
    rotates: str | None = None
    core: Core | None = None
    workspace: bool = False

    @property
    def element_bytes(self) -> int:
        return max(1, self.dtype.bits // 8)

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot, in whole fractals. Raises ``ValueError`` for a symbolic shape."""
        sizes = [s.value for s in self.shape]
        if self.layout != "ND":
            sizes = list(padded_shape(self.layout, self.element_bytes, self.scope, sizes[0], sizes[1]))
        total = self.element_bytes
        for s in sizes:
            total *= s
        return total

    @property
    def end(self) -> int:
        """First byte behind the last slot."""
        return self.address + self.slots * self.slot_bytes


@dataclass(frozen=True, slots=True)
class View:
    """Elements ``offset + Σ i·stride`` of a row-major buffer, ``0 <= i < count`` for each of ``dims``."""

    buffer: str
    offset: Expr
    dims: tuple[tuple[Expr, Expr], ...]
    slot: Expr = ZERO


@dataclass(frozen=True, slots=True)
class Block:
    """``rows × columns`` elements from (``row``, ``column``) of a matrix in fractal layout.

    With ``whole`` the fractals that contain them are touched entirely, as an L1 to L0 load does.
    """

    buffer: str
    row: Expr
    column: Expr
    rows: Expr
    columns: Expr
    slot: Expr = ZERO
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number in an instruction: a literal or an index expression."""

    value: float | Expr


Access = Union[View, Block]
Operand = Union[View, Block, Scalar]


#: A number, a choice, a size that is known at run time, or several of these.
Parameter = Union[int, float, str, tuple[Union[int, Expr], ...], Expr]


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a pipe. ``init`` is zero where a ``mmad`` starts a sum instead of adding to ``dst``.

    ``scratch`` is memory that it also writes. A vector instruction covers a whole tile; an emitter cuts it into
    repeats of 256 bytes. ``parameters`` are those that :mod:`tilewright.backends.ascend.placed.instructions` names.
    """

    op: str
    core: Core
    pipe: Pipe
    dst: Access
    srcs: tuple[Operand, ...] = ()
    init: Expr | None = None
    transpose: bool = False
    scratch: View | None = None
    parameters: tuple[tuple[str, Parameter], ...] = ()

    def parameter(self, name: str, default: Parameter = 0) -> Parameter:
        """The value of a parameter, or ``default``."""
        return dict(self.parameters).get(name, default)

    @property
    def reads(self) -> tuple[Access, ...]:
        """Accesses that are read, apart from the accumulator of a ``mmad``."""
        return tuple(s for s in self.srcs if not isinstance(s, Scalar))

    @property
    def adds(self) -> bool:
        """Whether it may add to what its destination holds, which it then reads."""
        return (self.op == "mmad" and self.init is not None) or bool(self.parameter("add"))

    @property
    def writes(self) -> tuple[Access, ...]:
        return (self.dst,) if self.scratch is None else (self.dst, self.scratch)


@dataclass(frozen=True, slots=True)
class Flag:
    """``SetFlag`` on pipe ``src`` or ``WaitFlag`` on pipe ``dst``; the event is ``events[slot % len(events)]``."""

    action: Literal["set", "wait"]
    core: Core
    src: Pipe
    dst: Pipe
    events: tuple[int, ...]
    slot: Expr
    edge: int


@dataclass(frozen=True, slots=True)
class CrossFlag:
    """``CrossCoreSetFlag`` on ``pipe``, or ``CrossCoreWaitFlag``, which holds back all that the core issues later."""

    action: Literal["set", "wait"]
    core: Core
    pipe: Pipe
    flag: int
    edge: int


@dataclass(frozen=True, slots=True)
class Barrier:
    """``PipeBarrier``: what the pipe starts later starts after all that it started before has ended."""

    core: Core
    pipe: Pipe
    edge: int


@dataclass(frozen=True, slots=True)
class Read:
    """The scalar unit of ``core`` reads one integer of a global tensor into the symbol ``var``.

    ``source`` views one element of a tensor that the kernel does not write. Later statements of the core may use
    ``var``, up to the end of the body that the read stands in. In this order, where they are there: the first of
    ``swap`` is replaced by the second; ``add`` is added; to a negative value ``wrap`` is added: an index that counts
    from the end. A value outside ``0 <= value < limit`` is then replaced by ``bad`` (0, or -1, which a store makes
    lanes of none from), and the core stores 1 into the kernel's fault word: a run that met such an index is refused
    afterwards.
    """

    core: Core
    var: str
    source: View
    limit: Expr
    wrap: Expr | None = None
    add: Expr | None = None
    swap: tuple[int, int] | None = None
    bad: int = 0

    @property
    def pipe(self) -> Pipe:
        return "S"


@dataclass(frozen=True, slots=True)
class Let:
    """The scalar unit of ``core`` gives the symbol ``var`` a new value, ``0 <= value < limit``, which it keeps
    until the next ``Let`` of it.

    The first one of each symbol stands in front of all loops; the others stand before everything else in the body of a
    loop, so that a body sees one value. A pipeline remembers with them what the turns before it were about.
    """

    core: Core
    var: str
    value: Expr
    limit: Expr

    @property
    def pipe(self) -> Pipe:
        return "S"


@dataclass(frozen=True, slots=True)
class Loop:
    """``for var in range(lo, hi, step)``. The symbol :func:`counter` of the loop counts its iterations and is never
    reset, so slots and flags rotate on across the loops around it."""

    var: str
    lo: Expr
    hi: Expr
    step: Expr
    body: tuple[Node, ...]


Node = Union[Instruction, Flag, CrossFlag, Barrier, Read, Let, Loop]


@dataclass(frozen=True, slots=True)
class Edge:
    """A synchronisation that the pass put in: which statements belong to it, and why it is there.

    ``distance`` 0 orders statements of one iteration of ``loop``; ``d`` orders iteration ``i + d`` after ``i``, with
    ``d`` sets before the outermost loop and ``d`` waits behind it.
    """

    number: int
    kind: Literal["flag", "cross", "barrier"]
    source: str
    sink: str
    loop: str | None
    distance: int
    reason: str


@dataclass(frozen=True, slots=True)
class Placed:
    """A kernel in placed form for one target."""

    kernel: Kernel
    target: Target
    buffers: tuple[Buffer, ...]
    body: tuple[Node, ...]
    blocks: Expr
    edges: tuple[Edge, ...] = field(default=())

    def buffer(self, name: str) -> Buffer:
        """The buffer called ``name``. Raises ``KeyError``."""
        for b in self.buffers:
            if b.name == name:
                return b
        raise KeyError(name)

    @property
    def cores(self) -> tuple[Core, ...]:
        """The kinds of core that have work."""
        used = {n.core for n in statements(self.body)}
        return tuple(c for c in ("cube", "vector") if c in used)


def counter(loop: str) -> str:
    """The symbol that counts the iterations of a loop."""
    return f"_n_{loop}"


def statements(body: tuple[Node, ...]) -> Iterator[Instruction | Flag | CrossFlag | Barrier | Read | Let]:
    """Every statement below ``body`` that is not a loop, in program order."""
    for node in body:
        if isinstance(node, Loop):
            yield from statements(node.body)
        else:
            yield node


def program_of(body: tuple[Node, ...], core: Core) -> tuple[Node, ...]:
    """What ``core`` runs: its own statements and the loops around them."""
    kept: list[Node] = []
    for node in body:
        if isinstance(node, Loop):
            inner = program_of(node.body, core)
            if inner:
                kept.append(replace(node, body=inner))
        elif node.core == core:
            kept.append(node)
    return tuple(kept)


def without_edge(placed: Placed, number: int) -> Placed:
    """``placed`` with one synchronisation edge deleted whole: its sets, its waits, or its barrier."""

    def strip(body: tuple[Node, ...]) -> tuple[Node, ...]:
        kept: list[Node] = []
        for node in body:
            if isinstance(node, Loop):
                kept.append(replace(node, body=strip(node.body)))
            elif isinstance(node, Instruction | Read | Let) or node.edge != number:
                kept.append(node)
        return tuple(kept)

    return replace(placed, body=strip(placed.body), edges=tuple(e for e in placed.edges if e.number != number))
