"""Results that are no whole blocks of 32 bytes, on a core that moves nothing else: borrowed ends, patched blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from tilewright.backends.ascend.placed.form import Instruction, Loop, Node, Placed, View, statements
from tilewright.backends.ascend.simulator.machine import check
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.ir.symbolic import constant
from tilewright.kernel.schedule import ScheduleError
from tilewright.kernel.tile import Kernel

from tests.ascend.modelled import Modelled, build, same_bits
from tests.ascend.single import hard
from tests.ascend.test_limits import judge, make, rows
from tests.ascend.vector import assert_right, made, operations, some, values

TARGET = "ascend:310p3"
Sizes = list[Mapping[str, int]]

ROWS = """def k(X: f16[M, {n}], Y: out[f16[M, {n}]]):
    where({facts})
    m: M
    n: {n}
    Y[m, n] = max(X[m, n], f16(0.5)) + f16(1.0)"""
OPEN = "1 <= M <= 200, 1 <= N <= 100"
#: Kernel and sizes: rows shorter than a block, longer ones, both as a size says, and one row.
RIGHT: dict[str, tuple[str, Sizes]] = {
    "short rows": (ROWS.format(n=10, facts="1 <= M <= 200"), [{"M": m} for m in (1, 2, 8, 130)]),
    "long rows": (ROWS.format(n=21, facts="1 <= M <= 200"), [{"M": m} for m in (1, 19, 200)]),
    "rows of any length": (
        ROWS.format(n="N", facts=OPEN),
        [{"M": m, "N": n} for m, n in ((1, 1), (33, 7), (5, 16), (70, 17), (200, 100))],
    ),
    "one row": (
        """def k(X: f32[N], Y: out[f32[N]]):
    where(1 <= N <= 30000)
    n: N
    Y[n] = X[n] * f32(3.0)""",
        [{"N": n} for n in (1, 8, 1023, 20001)],
    ),
    "rows in pieces": (
        """def k(X: f32[M, 301], Y: out[f32[301, M]]):
    where(1 <= M <= 40)
    m: M
    n: 301
    Y[n, m] = X[m, n]""",
        [{"M": 1}, {"M": 40}],
    ),
    "planes": (
        """def k(X: f16[A, 3, 20], S: f16[20], Y: out[f16[A, 3, 20]]):
    where(1 <= A <= 30)
    a: A
    m: 3
    n: 20
    Y[a, m, n] = X[a, m, n] * S[n]""",
        [{"A": 1}, {"A": 29}],
    ),
    "a number a row": (
        """def k(X: f16[M, 50], Y: out[f32[M]], Z: out[f16[M]]):
    where(1 <= M <= 200)
    m: M
    n: 50
    top[m] = max(n, X[m, n])
    total[m] = sum(n, f32(X[m, n]))
    Y[m] = total[m]
    Z[m] = top[m]""",
        [{"M": m} for m in (1, 9, 130)],
    ),
    "bytes": (
        """def k(X: i8[M, 45], Y: out[i8[M, 45]]):
    where(1 <= M <= 200)
    m: M
    n: 45
    Y[m, n] = max(X[m, n], i8(3))""",
        [{"M": 1}, {"M": 77}],
    ),
    "short rows of bytes": (
        """def k(X: i8[M, 24], Y: out[i8[M, 24]]):
    where(1 <= M <= 200)
    m: M
    n: 24
    Y[m, n] = max(X[m, n], i8(3))""",
        [{"M": m} for m in (1, 3, 33, 200)],
    ),
    "truth values of any number": (
        """def k(X: f16[M], Z: f16[N], Y: out[bool[M, N]]):
    where(1 <= M <= 128, 1 <= N <= 128)
    m: M
    n: N
    Y[m, n] = X[m] < Z[n]""",
        [{"M": m, "N": n} for m, n in ((1, 1), (128, 7), (33, 64), (128, 127), (70, 40))],
    ),
    "a cut of truth values": (
        """def k(X: bool[N, 128], Y: out[bool[N, N]]):
    where(1 <= N <= 128)
    m: N
    n: N
    Y[m, n] = X[m, n]""",
        [{"N": 1}, {"N": 19}, {"N": 128}],
    ),
    "halves of a rotation": (
        """def k(X: f16[B, S, 3, 16], C: f16[B, S, 8], Z: f16[B, S, 8], Y: out[f16[B, 3, S, 16]]):
    where(1 <= B <= 32, 1 <= S <= 128)
    a: B
    b: 3
    m: S
    n: 8
    Y[a, b, m, n] = X[a, m, b, n] * C[a, m, n] - X[a, m, b, n + 8] * Z[a, m, n]
    Y[a, b, m, n + 8] = X[a, m, b, n + 8] * C[a, m, n] + X[a, m, b, n] * Z[a, m, n]""",
        [{"B": 1, "S": 1}, {"B": 3, "S": 37}],
    ),
    "parts of a row": (
        """def k(X: f16[M, 5], Z: f16[M, 7], W: f32[M, 4], Y: out[f16[M, 16]]):
    where(1 <= M <= 200)
    m: M
    n: 5
    k: 7
    j: 4
    Y[m, n] = X[m, n]
    Y[m, j + 12] = f16(W[m, j] * f32(2.0))
    Y[m, k + 5] = Z[m, k]""",
        [{"M": 1}, {"M": 33}, {"M": 200}],
    ),
    "turned": (
        """def k(X: f16[M, N], Y: out[f16[N, M]]):
    where(1 <= M <= 200, 1 <= N <= 200)
    m: M
    n: N
    Y[n, m] = X[m, n]""",
        [{"M": 3, "N": 40}, {"M": 130, "N": 70}],
    ),
    "softmax": (
        """def k(X: f32[M, 75], Y: out[f32[M, 75]]):
    where(1 <= M <= 60)
    m: M
    n: 75
    top[m] = max(n, X[m, n])
    e[m, n] = exp(X[m, n] - top[m])
    total[m] = sum(n, e[m, n])
    Y[m, n] = e[m, n] / total[m]""",
        [{"M": 1}, {"M": 37}],
    ),
}


@pytest.mark.parametrize("kind", ["max", "min", "sum"])
def test_rows_are_reduced_by_blocks(kind: str) -> None:
    """Halves until 32 bytes are left of each row, of which a repeat reduces eight; no index is written beside them."""
    text = """def k(X: {dtype}[M, N], Y: out[{dtype}[M]]):
    where(1 <= M <= 3000, 1 <= N <= {longest})
    m: M
    n: N
    t[m] = {kind}(n, X[m, n])
    Y[m] = t[m]""".format(
        kind=kind, **{"dtype": "f16", "longest": 400} if kind != "sum" else {"dtype": "f32", "longest": 24}
    )
    for dims in ({"M": 1, "N": 1}, {"M": 9, "N": 16}, {"M": 77, "N": 17}, {"M": 300, "N": 24}):
        assert_right(text, dims, target=TARGET)
    made_of = operations(made(text, None, TARGET)[1])
    assert made_of.count(f"block_{kind}") == 1 and not any(o.startswith("row_") for o in made_of)


@pytest.mark.parametrize("name", RIGHT)
def test_numbers(name: str) -> None:
    text, sizes = RIGHT[name]
    for dims in sizes:
        assert_right(text, dims, target=TARGET)


#: Those whose sources are always compiled: rows as one run, borrowed ends, and either as the size says.
QUICK = ("short rows", "long rows", "rows of any length")


@lru_cache(maxsize=2)
def library(quick: bool) -> Modelled:
    names = {name: f"k{n}" for n, name in enumerate(RIGHT) if (name in QUICK) == quick}
    return build({symbol: placed(name)[1] for name, symbol in names.items()}, level="-O0")


def placed(name: str) -> tuple[Kernel, Placed]:
    return made(RIGHT[name][0], None, TARGET)


@pytest.mark.parametrize("name", some(RIGHT, *QUICK))
def test_bits_of_the_sources(name: str) -> None:
    kernel, program = placed(name)
    for dims in RIGHT[name][1]:
        inputs = values(kernel, dims)
        got, _ = library(name in QUICK).run(program, inputs, dims, symbol=f"k{list(RIGHT).index(name)}")
        want = check(program, inputs, dims).outputs
        assert all(same_bits(v, want[o]) for o, v in got.items()), dims


def test_ways_out() -> None:
    short, long = (operations(placed(name)[1]) for name in ("short rows", "long rows"))
    ahead = 2  # rows come in a turn ahead: those of the first turn before the loop, all others in it
    assert short.count("copy_in") == ahead + 1 and "shift_right" in short, "rows become a run, its last block is read"
    assert long.count("copy_out") == 2 and long.count("copy_in") == ahead, "the last block of each row leaves once more"


def test_pieces_that_may_be_too_short_are_refused() -> None:
    text = """def k(X: f16[M, 8], Z: f16[M, 4], Y: out[f16[M, 12]]):
    where(1 <= M <= 200)
    m: M
    n: 8
    k: 4
    Y[m, n] = X[m, n]
    Y[m, k + 8] = Z[m, k]"""
    with pytest.raises(ScheduleError, match="less than 32 bytes, which is the least"):
        made(text, None, TARGET)


def _changed(program: Placed, op: str, buffer: str, **changes: object) -> Placed:
    """The program with the accesses of each ``op`` to ``buffer`` changed."""

    def change(node: Node) -> Node:
        if isinstance(node, Loop):
            return replace(node, body=tuple(map(change, node.body)))
        if isinstance(node, Instruction) and node.op == op and node.dst.buffer == buffer:
            return replace(node, dst=replace(node.dst, **changes), srcs=tuple(replace(s, **changes) for s in node.srcs))  # type: ignore[arg-type]
        return node

    return replace(program, body=tuple(map(change, program.body)))


def test_bytes_behind_a_tensor_stay() -> None:
    """Without the read of the last block, or with one whose lanes are overwritten, what is behind would change."""
    kernel, program = placed("one row")
    inputs, dims = values(kernel, {"N": 1023}), {"N": 1023}
    copies = [n for n in statements(program.body) if isinstance(n, Instruction) and n.op == "copy"]
    (end,) = {n.dst.buffer for n in copies}
    block = ((constant(8), constant(1)),)
    wide = _changed(program, "copy", end, dims=block)
    with pytest.raises(Refused) as refused:
        check(wide, inputs, dims)
    assert refused.value.kind in ("bounds", "shape", "unwritten")


def test_the_checker_refuses_other_runs() -> None:
    def leaving(lanes: int, offset: int = 0) -> Instruction:
        return make("copy_out", rows("Y", (lanes, 1), offset=offset), rows("f", (lanes, 1)))

    judge(leaving(16), TARGET)
    judge(leaving(16, offset=3), TARGET)
    judge(leaving(5))
    with pytest.raises(Refused, match="only whole blocks of 32 leave"):
        judge(leaving(5), TARGET)
    with pytest.raises(Refused, match="bounds"):
        judge(leaving(16, offset=56), TARGET)


ROUND = """def k(X: f32[N], Y: out[f32[N]]):
    where(1 <= N <= 2000)
    n: N
    Y[n] = {op}(X[n])"""


@pytest.mark.parametrize("op", ["round", "floor", "ceil"])
def test_whole_numbers_without_a_cast(op: str) -> None:
    """Sums round as the cast of 910B does, for every f32; of a result of zero the sign may differ."""
    from tilewright.ir.types import DType

    x = hard(DType.F32, (1500,), np.random.default_rng(0))
    x[:8] = [0.5, 1.5, -2.5, 8388607.5, -4194303.5, 0.49999997, -0.49999997, 8388609.0]
    got = [
        check(made(ROUND.format(op=op), None, t)[1], {"X": x}, {"N": 1500}).outputs["Y"]
        for t in (TARGET, "ascend:910b3")
    ]
    np.testing.assert_array_equal(*got)


def test_views_that_follow_on_one_another_do_not_meet() -> None:
    from tilewright.backends.ascend.synchronization.conflict import may_meet
    from tilewright.backends.ascend.synchronization.facts import facts_of
    from tilewright.ir.symbolic import symbol

    _, program = placed("one row")
    facts, y = facts_of(program), program.buffer("Y")
    n = symbol("N")
    first, second = (View("Y", o, ((c, constant(1)),)) for o, c in ((constant(0), n // 8 * 8), (n // 8 * 8, n % 8)))
    shared = frozenset(["N"])
    assert not may_meet(first, second, y, facts, shared) and not may_meet(second, first, y, facts, shared)
    assert may_meet(first, replace(second, offset=second.offset - 1), y, facts, shared)
    assert may_meet(first, second, y, facts, frozenset())
