"""A fused core (310P): cube and vector statements in one stream, sums to the unified buffer, back to L1, and out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tilewright.backends.ascend.placed.form import Barrier, Block, Buffer, Flag, Instruction, Node, Placed, Scalar, View
from tilewright.backends.ascend.simulator.machine import check
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.ascend.simulator.timing import launch_time
from tilewright.ir.symbolic import ZERO, constant
from tilewright.ir.types import DType
from tilewright.kernel.parse import parse_kernel

from tests.ascend.trials import targets

M, K, N = 32, 48, 32
KERNEL = parse_kernel(f"""
@kernel
def scaled(A: f16[{M}, {K}], B: f16[{N}, {K}], C: out[f32[{M}, {N}]]):
    m: {M}
    n: {N}
    k: {K}
    acc[m, n] = sum(k, f32(A[m, k]) * f32(B[n, k]))
    C[m, n] = acc[m, n] * f32(2.0)
""")


def matrix(buffer: str, rows: int, columns: int, whole: bool = False) -> Block:
    return Block(buffer, ZERO, ZERO, constant(rows), constant(columns), whole=whole)


def rows(buffer: str, *dims: tuple[int, int]) -> View:
    return View(buffer, ZERO, tuple((constant(n), constant(s)) for n, s in dims))


def buffer(name: str, scope: str, dtype: DType, shape: tuple[int, ...], layout: str, address: int = 0) -> Buffer:
    return Buffer(name, scope, dtype, tuple(map(constant, shape)), layout, address)  # type: ignore[arg-type]


def then(source: str, sink: str, event: int = 0) -> tuple[Flag, Flag]:
    events = (event,)
    return (
        Flag("set", "cube", source, sink, events, ZERO, 0),  # type: ignore[arg-type]
        Flag("wait", "cube", source, sink, events, ZERO, 0),  # type: ignore[arg-type]
    )


BUFFERS = (
    *(Buffer(p.name, "gm", p.dtype, p.shape) for p in KERNEL.params),
    buffer("a1", "l1", DType.F16, (M, K), "NZ"),
    buffer("b1", "l1", DType.F16, (N, K), "NZ", 0x4000),
    buffer("a0", "l0a", DType.F16, (M, K), "zZ"),
    buffer("b0", "l0b", DType.F16, (K, N), "nZ"),
    buffer("c0", "l0c", DType.F32, (M, N), "NZ"),
    buffer("u", "ub", DType.F32, (N // 16, M, 16), "ND"),
    buffer("v", "ub", DType.F32, (N // 16, M, 16), "ND", 0x4000),
)
FRACTALS = ((N // 16, 16 * M), (M, 16), (16, 1))


def instruction(op: str, pipe: str, dst: View | Block, *srcs: View | Block | Scalar, turn: bool = False) -> Instruction:
    core = "vector" if pipe in ("V", "MTE3") else "cube"
    return Instruction(op, core, pipe, dst, srcs, transpose=turn)  # type: ignore[arg-type]


BODY: tuple[Node, ...] = (
    instruction("nd2nz", "MTE2", matrix("a1", M, K), rows("A", (M, K), (K, 1))),
    instruction("nd2nz", "MTE2", matrix("b1", N, K), rows("B", (N, K), (K, 1))),
    *then("MTE2", "MTE1"),
    instruction("load", "MTE1", matrix("a0", M, K, True), matrix("a1", M, K, True)),
    instruction("load", "MTE1", matrix("b0", K, N, True), matrix("b1", N, K, True), turn=True),
    *then("MTE1", "M"),
    instruction("mmad", "M", matrix("c0", M, N), matrix("a0", M, K), matrix("b0", K, N)),
    *then("M", "V"),
    instruction("drain", "V", rows("u", *FRACTALS), matrix("c0", M, N)),
    Barrier("vector", "V", 1),
    instruction("mul", "V", rows("v", *FRACTALS), rows("u", *FRACTALS), Scalar(2.0)),
    *then("V", "MTE3"),
    instruction("copy_out", "MTE3", rows("C", (N // 16, 16), (M, N), (16, 1)), rows("v", *FRACTALS)),
)


def program(body: tuple[Node, ...] = BODY, target: str = "ascend:310p3") -> Placed:
    return Placed(KERNEL, targets()[target], BUFFERS, body, constant(1))


def inputs() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.integers(-8, 9, (n, K)).astype(np.float16) for name, n in (("A", M), ("B", N))}


def test_one_core_multiplies_and_scales() -> None:
    values = inputs()
    got = check(program(), values, {}, groups=1).outputs["C"]
    np.testing.assert_array_equal(got, 2 * values["A"].astype(np.float32) @ values["B"].astype(np.float32).T)
    timing = launch_time(program(), {})
    assert timing.cores == ("fused",) and timing.macs == M * N * K
    assert set(timing.busy) == {("fused", p) for p in ("MTE2", "MTE1", "M", "V", "MTE3")}


@pytest.mark.parametrize("n", [n for n, node in enumerate(BODY) if isinstance(node, Flag) and node.action == "set"])
def test_each_flag_is_needed(n: int) -> None:
    with pytest.raises(Refused) as refused:
        check(program((*BODY[:n], *BODY[n + 2 :])), inputs(), {}, groups=1)
    assert refused.value.kind in ("race", "unwritten")


def test_what_each_kind_of_core_lacks() -> None:
    with pytest.raises(Refused) as refused:
        check(program(target="ascend:910b3"), inputs(), {}, groups=1)
    assert refused.value.kind in ("pipe", "scope")
    out = instruction("fixpipe", "FIX", rows("C", (M, N), (N, 1)), matrix("c0", M, N))
    with pytest.raises(Refused) as refused:
        check(program((*BODY[:9], out)), inputs(), {}, groups=1)
    assert refused.value.kind == "scope"
    narrow = tuple(replace(b, dtype=DType.BF16) if b.name in ("A", "B", "a1", "b1", "a0", "b0") else b for b in BUFFERS)
    with pytest.raises(Refused) as refused:
        check(replace(program(), buffers=narrow), inputs(), {}, groups=1)
    assert refused.value.kind == "dtype"


def test_sums_leave_l0c_by_whole_fractals() -> None:
    rowwise = instruction("drain", "V", rows("u", (M, N), (N, 1)), matrix("c0", M, N))
    with pytest.raises(Refused) as refused:
        check(program((*BODY[:11], rowwise)), inputs(), {}, groups=1)
    assert refused.value.kind == "transfer"


def test_the_unified_buffer_goes_back_to_l1() -> None:
    """C in f16 fractals: UB to L1, where a second product could take it."""
    half = buffer("h", "ub", DType.F16, (N // 16, M, 16), "ND", 0x8000)
    again = buffer("h1", "l1", DType.F16, (M, N), "NZ", 0x8000)
    body: tuple[Node, ...] = (
        *BODY[:13],
        instruction("cast", "V", rows("h", *FRACTALS), rows("u", *FRACTALS)),
        *BODY[13:16],
        instruction("ub2l1", "MTE3", matrix("h1", M, N), rows("h", *FRACTALS)),
        BODY[16],
    )
    result = check(replace(program(body), buffers=(*BUFFERS, half, again)), inputs(), {}, groups=1)
    assert result.executed == len(body)
