"""The plan: a small program that runs a model's kernels. Sizes are integer expressions over named dimensions.

A plan knows no target: it names kernels by index into the binary beside it. Every size and offset is evaluated once
per new set of input dimensions and cached; arena offsets are assigned then, from the liveness recorded here, on the
concrete sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Union

from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import ZERO, Expr
from tilewright.ir.types import DType

BufferKind = Literal["input", "output", "constant", "temporary", "state"]
#: Where a buffer lies: in the memory of the target, or in that of the host, where the target has its own.
Space = Literal["device", "host"]


@dataclass(frozen=True, slots=True)
class Signature:
    """An input or output of an entry point. Dimension expressions are over the plan's symbols."""

    name: str
    dtype: DType
    shape: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant in the artifact's weights: its name there, and its (possibly packed) type."""

    name: str
    dtype: DType
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory that instructions name by index.

    ``index`` is the position among inputs, outputs, states or constants; unused for temporaries. ``size`` is in bytes.
    ``base``/``offset`` make a buffer a view into another one (reshape, leading slice): no memory of its own. A view
    comes after its base. A state is memory shared by an input and an output: instructions name it as a state, never as
    that input or output. A constant may be in both spaces; an input or output that the caller holds in the other one is
    moved by the executor.
    """

    kind: BufferKind
    size: Expr
    index: int = 0
    base: int | None = None
    offset: Expr = ZERO
    space: Space = "device"


@dataclass(frozen=True, slots=True)
class Launch:
    """Run kernel ``kernel`` over ``grid`` independent blocks.

    ``buffers`` in the order of the kernel's parameters, ``dims`` in the order of its dimension symbols;
    ``scratch`` bytes for each worker.
    """

    kernel: int
    buffers: tuple[int, ...]
    dims: tuple[Expr, ...]
    grid: Expr
    scratch: Expr = ZERO


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy ``size`` bytes from buffer ``source`` to buffer ``target``, each in either space."""

    source: int
    target: int
    size: Expr


@dataclass(frozen=True, slots=True)
class LoadScalar:
    """Symbol ``name`` becomes element ``element`` of an integer buffer, at this point of the program."""

    name: str
    buffer: int
    dtype: DType
    element: Expr


@dataclass(frozen=True, slots=True)
class Assert:
    """Stop the run with ``message`` unless ``expr`` is within ``[lo, hi]``."""

    expr: Expr
    lo: Expr
    hi: Expr
    message: str


@dataclass(frozen=True, slots=True)
class Allocate:
    """Give a temporary whose size hangs on run-time values memory of its own, until :class:`Free`."""

    buffer: int


@dataclass(frozen=True, slots=True)
class Free:
    """Give back the memory that :class:`Allocate` gave a temporary."""

    buffer: int


@dataclass(frozen=True, slots=True)
class Jump:
    """Continue at instruction ``to`` when ``condition`` is not 0 (always, when it is ``None``)."""

    to: int
    condition: Expr | None = None


@dataclass(frozen=True, slots=True)
class SetScalar:
    """Symbol ``name`` becomes the value of ``expr`` (a loop counter, say)."""

    name: str
    expr: Expr


@dataclass(frozen=True, slots=True)
class Call:
    """Run entry point number ``entry`` of the same plan with these buffers as its inputs and outputs.

    ``symbols`` are the values of its dimension symbols, in their order: buffers have sizes but no shapes. Calls nest
    at most eight deep.
    """

    entry: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    symbols: tuple[Expr, ...] = ()


@dataclass(frozen=True, slots=True)
class Return:
    """The end of an entry point."""


@dataclass(frozen=True, slots=True)
class HostLaunch:
    """Run ``kernel`` of the host kernels, on buffers that lie on the host; otherwise as :class:`Launch`."""

    kernel: int
    buffers: tuple[int, ...]
    dims: tuple[Expr, ...]
    grid: Expr
    scratch: Expr = ZERO


Instruction = Union[Launch, Copy, LoadScalar, Assert, Allocate, Free, Jump, SetScalar, Call, Return, HostLaunch]


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """One way into the model. ``symbols`` are the dimension symbols with their bounds; each occurs alone as some input
    dimension, from which it takes its value, and every other input dimension is checked against its expression."""

    name: str
    inputs: tuple[Signature, ...]
    outputs: tuple[Signature, ...]
    states: tuple[tuple[int, int], ...]  # (input, output) pairs that alias
    symbols: tuple[tuple[str, Range], ...]
    buffers: tuple[Buffer, ...]
    code: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The entry points of one target and the constants they share. ``kernels`` names them in index order, as
    ``host_kernels`` does those that run on the host of a target with memory of its own."""

    entries: tuple[EntryPoint, ...]
    constants: tuple[Constant, ...]
    kernels: tuple[str, ...]
    host_kernels: tuple[str, ...] = ()
