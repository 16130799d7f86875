"""The proof of equality on programs that differ in what lies in the padding of fractals, and on ones that are wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tilewright.backends.ascend.placed.form import Access, Block, Buffer, Instruction, Placed, View
from tilewright.backends.ascend.simulator.machine import check
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.ascend.synchronization.synchronize import synchronize
from tilewright.backends.ascend.synchronization.verify import unproved
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import ZERO, Expr, as_expr, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.tile import Kernel, Param

from tests.ascend.equivalence import equivalent
from tests.ascend.single import hard
from tests.ascend.trials import targets

ROWS, COLUMNS = 32, 16
R = symbol("R")
DIMS = {"R": 20}
WHOLE = constant(ROWS)


def block(name: str, height: Expr | int, width: int = COLUMNS, slot: int = 0, whole: bool = False) -> Block:
    return Block(name, ZERO, ZERO, as_expr(height), constant(width), constant(slot), whole)


def matrix(name: str, height: Expr | int) -> View:
    return View(name, ZERO, ((as_expr(height), constant(COLUMNS)), (constant(COLUMNS), constant(1))))


def fractals(name: str) -> View:
    sizes = (constant(1), constant(ROWS * COLUMNS)), (WHOLE, constant(COLUMNS)), (constant(COLUMNS), constant(1))
    return View(name, ZERO, sizes)


def step(op: str, pipe: str, dst: Access, *srcs: Access) -> Instruction:
    return Instruction(op, "vector", pipe, dst, srcs)  # type: ignore[arg-type]


def product(number: int, height: Expr | int, left: Expr | int) -> tuple[Instruction, ...]:
    """``height`` rows of products, whose fractals are drained whole, and of which ``left`` rows leave."""
    return (
        step("nd2nz", "MTE2", block("a1", height), matrix("X", height)),
        step("load", "MTE1", block("a0", height, whole=True), block("a1", height, whole=True)),
        step("mmad", "M", block("c", height, slot=number), block("a0", height), block("b0", COLUMNS)),
        step("drain", "V", fractals(f"u{number}"), block("c", ROWS, slot=number, whole=True)),
        step("copy_out", "MTE3", matrix(f"Y{number}", left), matrix(f"u{number}", left)),
    )


def two_products(dtype: DType, left: Expr | int, slots: int = 2) -> Placed:
    """Products of all rows, and then of some in the other slot, without synchronisation."""
    shapes = {"X": (WHOLE, constant(COLUMNS)), "W": (constant(COLUMNS),) * 2}
    params = [Param(n, DType.F16, s) for n, s in shapes.items()]
    params += [Param(n, dtype, (as_expr(h), constant(COLUMNS)), "out") for n, h in (("Y0", ROWS), ("Y1", left))]
    size = WHOLE, constant(COLUMNS)
    buffers = [Buffer(p.name, "gm", p.dtype, p.shape) for p in params]
    buffers += [
        Buffer("a1", "l1", DType.F16, size, "NZ", 0),
        Buffer("b1", "l1", DType.F16, shapes["W"], "NZ", 4096),
        Buffer("a0", "l0a", DType.F16, size, "zZ", 0),
        Buffer("b0", "l0b", DType.F16, shapes["W"], "nZ", 0),
        Buffer("c", "l0c", DType.F32, size, "NZ", 0, slots),
        *(Buffer(f"u{n}", "ub", dtype, (constant(ROWS * COLUMNS),), "ND", 4096 * n) for n in range(2)),
    ]
    buffers = [replace(b, core=None if b.scope == "gm" else "vector") for b in buffers]
    weights = (
        step("nd2nz", "MTE2", block("b1", COLUMNS), matrix("W", COLUMNS)),
        step("load", "MTE1", block("b0", COLUMNS, whole=True), block("b1", COLUMNS, whole=True)),
    )
    body = (*weights, *product(0, ROWS, ROWS), *product(1, R, left))
    kernel = Kernel("two_products", tuple(params), (("R", Range(1, ROWS)),), (), ())
    return Placed(kernel, targets()["ascend:310p3"], tuple(buffers), body, constant(1))


def run(placed: Placed) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    values = {p.name: hard(p.dtype, [e.value for e in p.shape], random) for p in placed.kernel.params[:2]}
    return dict(check(placed, values, DIMS, groups=1).outputs)


def one_slot(placed: Placed) -> Placed:
    return replace(placed, buffers=tuple(replace(b, slots=1) for b in placed.buffers))


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16])
def test_padding_that_is_moved_may_be_anything(dtype: DType) -> None:
    """With one slot the second drain moves rows of the first product in the padding, which nobody reads."""
    original = synchronize(two_products(dtype, R))
    changed = one_slot(original)
    assert equivalent(original, changed, DIMS) == "same sources, other addresses"
    want, got = run(original), run(changed)
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value)


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16])
def test_padding_that_is_moved_and_read_is_not_proved(dtype: DType) -> None:
    original = synchronize(two_products(dtype, ROWS))
    assert unproved(one_slot(original)) is None
    assert equivalent(original, one_slot(original), DIMS) is None
    with pytest.raises(Refused, match="unwritten"):
        run(original)


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16])
def test_a_drain_of_other_sums_is_not_proved(dtype: DType) -> None:
    """In one slot, the second drain in front of the second product: everything is ordered, the sums are the first."""
    bare = two_products(dtype, R, slots=1)
    at = next(n for n, node in enumerate(bare.body) if node.pipe == "V" and node.dst.buffer == "u1")  # type: ignore[union-attr]
    early = (*bare.body[: at - 1], bare.body[at], bare.body[at - 1], *bare.body[at + 1 :])
    original, changed = synchronize(bare), synchronize(replace(bare, body=early))
    assert unproved(changed) is None
    assert equivalent(original, original, DIMS) == "same queues"
    assert equivalent(original, changed, DIMS) is None
