"""Small plans for the runtime over the mock driver: one entry point each."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import Expr, constant, symbol
from tilewright.ir.types import DType
from tilewright.plan.plan import (
    Allocate,
    Buffer,
    Copy,
    EntryPoint,
    Free,
    HostLaunch,
    Instruction,
    Launch,
    LoadScalar,
    Plan,
    Signature,
)

from tests.cuda.mock.driver import NAMES, SCRATCHED, SELECT, SPLIT64, SPLIT512
from tests.runtime.programs import ADD, COUNT, KEEP, RELU, blocks

N = symbol("N")
F32, I64 = DType.F32, DType.I64
BYTES, ONE = N * 4, constant(1)


def entry(
    buffers: Sequence[Buffer],
    code: Sequence[Instruction],
    *,
    inputs: Sequence[Signature] = (Signature("x", F32, (N,)),),
    outputs: Sequence[Signature] = (Signature("y", F32, (N,)),),
    states: tuple[tuple[int, int], ...] = (),
    least: int = 1,
) -> EntryPoint:
    """``main`` over one symbol."""
    return EntryPoint(
        "main", tuple(inputs), tuple(outputs), states, (("N", Range(least, 1 << 24)),), tuple(buffers), tuple(code)
    )


def plan(*entries: EntryPoint, host: tuple[str, ...] = ()) -> Plan:
    """A plan without constants over the mock's kernels; ``host`` names those of ``tests/runtime/kernels.c``."""
    return Plan(entries, (), NAMES, host)


def one(kernel: int, grid: Expr = ONE, scratch: int = 0) -> Plan:
    """y = kernel(x)."""
    buffers = (Buffer("input", BYTES), Buffer("output", BYTES))
    return plan(entry(buffers, (Launch(kernel, (0, 1), (N,), grid, constant(scratch)),), least=0))


def twice() -> Plan:
    """y = (x + x) + (x + x) through two temporaries."""
    buffers = (Buffer("input", BYTES), Buffer("output", BYTES), Buffer("temporary", BYTES))
    grid = blocks(N)
    return plan(entry(buffers, (Launch(ADD, (0, 0, 2), (N,), grid), Launch(ADD, (2, 2, 1), (N,), grid))))


def counters() -> Plan:
    """Kernels with 64 and 512 bytes of counters after each other, twice."""
    buffers = (Buffer("input", BYTES), Buffer("output", BYTES), Buffer("temporary", BYTES))
    small, large = constant(4096), constant(2048)
    code = (
        Launch(SPLIT64, (0, 2), (N,), constant(1), small),
        Launch(SPLIT512, (2, 1), (N,), constant(1), large),
        Launch(SPLIT64, (1, 2), (N,), constant(1), small),
        Launch(SPLIT512, (2, 1), (N,), constant(1), large),
    )
    return plan(entry(buffers, code))


def scratched() -> Plan:
    return one(SCRATCHED, constant(5))


def select() -> Plan:
    """y[0] = table[index[0]], with a word for faults."""
    buffers = (Buffer("input", BYTES, 0), Buffer("input", constant(8), 1), Buffer("output", constant(4)))
    inputs = (Signature("table", F32, (N,)), Signature("index", I64, (constant(1),)))
    outputs = (Signature("y", F32, (constant(1),)),)
    return plan(entry(buffers, (Launch(SELECT, (0, 1, 2), (N,), constant(1)),), inputs=inputs, outputs=outputs))


def host_step() -> Plan:
    """y = relu(x + x) + x, the relu on the host."""
    buffers = (
        Buffer("input", BYTES),
        Buffer("output", BYTES),
        Buffer("temporary", BYTES),
        Buffer("temporary", BYTES, space="host"),
        Buffer("temporary", BYTES, space="host"),
        Buffer("temporary", BYTES),
    )
    grid = blocks(N)
    code = (
        Launch(ADD, (0, 0, 2), (N,), grid),
        Copy(2, 3, BYTES),
        HostLaunch(RELU, (3, 4), (N,), grid),
        Copy(4, 5, BYTES),
        Launch(ADD, (5, 0, 1), (N,), grid),
    )
    from tests.runtime import programs

    return plan(entry(buffers, code), host=programs.KERNELS)


def host_only() -> Plan:
    """y = relu(x) on the host: input and output are wanted there."""
    buffers = (Buffer("input", BYTES, space="host"), Buffer("output", BYTES, space="host"))
    from tests.runtime import programs

    return plan(entry(buffers, (HostLaunch(RELU, (0, 1), (N,), blocks(N)),)), host=programs.KERNELS)


def nonzero(space: str = "device") -> Plan:
    """The elements of x that are not 0, written straight to an output whose size is known only then."""
    found = symbol("found")
    buffers = (
        Buffer("input", BYTES),
        Buffer("temporary", constant(8)),
        Buffer("temporary", found * 4),
        Buffer("output", found * 4, space=space),  # type: ignore[arg-type]
    )
    code = (
        Launch(COUNT, (0, 1), (N,), constant(1)),
        LoadScalar("found", 1, I64, constant(0)),
        Allocate(2),
        Launch(KEEP, (0, 2), (N,), constant(1)),
        Copy(2, 3, found * 4),
        Free(2),
    )
    return plan(entry(buffers, code, outputs=(Signature("y", F32, (found,)),), least=0))
