"""Rules on single instructions: shapes, types, rooms and limits, each broken once."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from tilewright.backends.ascend.placed.footprint import geometry
from tilewright.backends.ascend.placed.form import Block, Buffer, Instruction, Placed, Scalar, View
from tilewright.backends.ascend.placed.stream import Evaluator
from tilewright.backends.ascend.simulator.legal import check_static
from tilewright.backends.ascend.simulator.limits import check_item
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.ir.symbolic import constant
from tilewright.ir.types import DType
from tilewright.kernel.parse import parse_kernel

from tests.ascend.trials import targets

KERNEL = parse_kernel("""
@kernel
def twice(X: f32[64], Y: out[f32[64]]):
    n: 64
    Y[n] = X[n] * f32(2.0)
""")


def buffer(name: str, scope: str, dtype: DType, shape: tuple[int, ...], layout: str = "ND", address: int = 0) -> Buffer:
    return Buffer(name, scope, dtype, tuple(map(constant, shape)), layout, address)  # type: ignore[arg-type]


BUFFERS: Mapping[str, Buffer] = {
    b.name: b
    for b in (
        buffer("X", "gm", DType.F32, (64,)),
        buffer("Y", "gm", DType.F32, (64,)),
        buffer("big", "gm", DType.F16, (20000, 70000)),
        buffer("words", "gm", DType.U64, (64,)),
        buffer("f", "ub", DType.F32, (16, 16)),
        buffer("g", "ub", DType.F32, (16, 16), address=0x1000),
        buffer("tight", "ub", DType.F32, (4, 8), address=0x2000),
        buffer("h", "ub", DType.F16, (16, 16), address=0x3000),
        buffer("b16", "ub", DType.BF16, (16, 16), address=0x4000),
        buffer("i", "ub", DType.I32, (16, 16), address=0x5000),
        buffer("s", "ub", DType.I16, (16, 16), address=0x6000),
        buffer("m", "ub", DType.U8, (16, 32), address=0x7000),
        buffer("m1", "ub", DType.U8, (3,), address=0x8000),
        buffer("rows", "ub", DType.F16, (5000, 16)),
        buffer("a1", "l1", DType.F16, (32, 32), "NZ"),
        buffer("i1", "l1", DType.I8, (32, 32), "NZ"),
        buffer("row1", "l1", DType.F32, (64,)),
        buffer("a0", "l0a", DType.F16, (32, 32), "zZ"),
        buffer("b0", "l0b", DType.F16, (32, 32), "nZ"),
        buffer("i0", "l0b", DType.I8, (32, 32), "nZ", 0x4000),
        buffer("k0", "l0b", DType.F16, (16, 5000), "nZ", 0x4000),
        buffer("c0", "l0c", DType.F32, (32, 32), "NZ"),
        buffer("bias", "bt", DType.F32, (64,)),
    )
}


def rows(name: str, *dims: tuple[int, int], offset: int = 0) -> View:
    return View(name, constant(offset), tuple((constant(n), constant(s)) for n, s in dims))


def part(name: str, high: int, wide: int, row: int = 0, column: int = 0, whole: bool = False) -> Block:
    return Block(name, constant(row), constant(column), constant(high), constant(wide), whole=whole)


SQUARE = ((16, 16), (16, 1))
PIPES = {
    "copy_in": "MTE2",
    "copy_out": "MTE3",
    "nd2nz": "MTE2",
    "copy_nz": "MTE2",
    "load": "MTE1",
    "load_bias": "MTE1",
    "mmad": "M",
    "fixpipe": "FIX",
}


def make(op: str, dst: View | Block, *srcs: View | Block | Scalar, turn: bool = False, **values: object) -> Instruction:
    pipe = PIPES.get(op, "V")
    core = "vector" if pipe in ("V", "MTE3") or op == "copy_in" else "cube"
    return Instruction(op, core, pipe, dst, srcs, transpose=turn, parameters=tuple(values.items()))  # type: ignore[arg-type]


def judge(node: Instruction, target: str = "ascend:910b3") -> None:
    names = {a.buffer for a in (*node.reads, node.dst)}
    kept = tuple(b for b in BUFFERS.values() if b.name in names | {"X", "Y"})
    placed = Placed(KERNEL, targets()[target], kept, (node,), constant(1))
    check_static(placed)
    buffers = {b.name: b for b in kept}
    known = {b.name: geometry(b, {}) for b in kept}
    check_item(Evaluator(buffers)(node, {}, ""), buffers, known, placed.target)


F, G, H = rows("f", *SQUARE), rows("g", *SQUARE), rows("h", *SQUARE)
GOOD: dict[str, Instruction] = {
    "rows": make("add", F, F, G),
    "a row for all": make("add", F, F, rows("g", (16, 0), (16, 1))),
    "a block a row": make("mul", F, F, rows("g", (16, 16), (16, 0))),
    "a number": make("max", F, G, Scalar(0.5)),
    "cast": make("cast", H, F, round="floor"),
    "mask": make("compare_lt", rows("m", (16, 32), (2, 1)), F, Scalar(1.0)),
    "choose": make("select", F, rows("m", (16, 32), (2, 1)), G, Scalar(0.0)),
    "rows of a block": make("brcb", rows("f", (16, 16), (8, 1)), rows("g", (16, 1), (8, 0))),
    "sums of rows": make("row_sum", rows("g", (16, 1)), F),
    "maxima of blocks": make("block_max", rows("g", (12, 1)), rows("f", (12, 16), (5, 1))),
    "turned": make("transpose", rows("h", (16, 16), (16, 1)), H),
    "into L0B": make("load", part("b0", 32, 32, whole=True), part("a1", 32, 32, whole=True), turn=True),
    "8-bit into L0B": make("load", part("i0", 32, 32, whole=True), part("i1", 32, 32, whole=True), turn=True),
    "product": make("mmad", part("c0", 32, 32), part("a0", 32, 32), part("b0", 32, 32)),
    "product with bias": make(
        "mmad", part("c0", 32, 32), part("a0", 32, 32), part("b0", 32, 32), rows("bias", (32, 1))
    ),
    "strip of sums": make("fixpipe", rows("X", (2, 32), (32, 1)), part("c0", 2, 32, row=4)),
    "added to rows": make("fixpipe", rows("X", (2, 32), (32, 1)), part("c0", 2, 32, row=4), add=1),
    "a row of bias": make("copy_nz", rows("row1", (64, 1)), rows("X", (64, 1))),
}
BAD: dict[str, tuple[str, Instruction]] = {
    "other shapes": ("shape", make("add", F, F, rows("g", (16, 16), (8, 1)))),
    "every second lane": ("stride", make("add", rows("f", (16, 16), (8, 2)), *[rows("g", (16, 16), (8, 1))] * 2)),
    "rows between blocks": ("alignment", make("add", *[rows("f", (4, 12), (8, 1))] * 3)),
    "first lane between blocks": ("alignment", make("add", *[rows("f", (8, 1), offset=2)] * 3)),
    "beyond the buffer": ("bounds", make("add", *[rows("f", (17, 16), (16, 1))] * 3)),
    "mixed types": ("dtype", make("add", F, F, H)),
    "a type that is not added": ("dtype", make("add", *[rows("b16", *SQUARE)] * 3)),
    "bits of floats": ("dtype", make("and", F, F, G)),
    "a number first": ("scope", make("add", F, Scalar(1.0), F)),
    "a number to subtract": ("scope", make("sub", F, F, Scalar(1.0))),
    "two numbers": ("scope", make("add", F, Scalar(1.0), Scalar(2.0))),
    "no such cast": ("dtype", make("cast", rows("i", *SQUARE), rows("b16", *SQUARE), round="odd")),
    "cast of bits": ("dtype", make("cast", rows("b16", *SQUARE), H)),
    "unknown parameter": ("parameter", make("add", F, F, G, relu=1)),
    "mask of another width": ("shape", make("compare_lt", rows("m", (16, 32), (1, 1)), F, G)),
    "mask without room": ("bounds", make("compare_lt", rows("m1", (2, 1)), rows("f", (16, 1)), rows("g", (16, 1)))),
    "mask of words": ("dtype", make("compare_lt", rows("s", (16, 16), (2, 1)), F, G)),
    "blocks without room": ("bounds", make("brcb", rows("tight", (3, 8), (8, 1)), rows("g", (3, 1), (8, 0)))),
    "rows of more than a repeat": ("repeat", make("row_max", rows("f", (1, 1)), rows("g", (1, 256), (65, 1)))),
    "rows of more than a block": ("repeat", make("block_max", rows("g", (8, 1)), rows("f", (8, 16), (9, 1)))),
    "maxima apart": ("stride", make("block_max", rows("f", (3, 16)), rows("g", (3, 16), (8, 1)))),
    "every eighth lane": ("stride", make("copy", rows("f", (8, 1)), rows("g", (8, 8)))),
    "sums of another shape": ("shape", make("row_sum", rows("g", (8, 1)), F)),
    "turned into itself": ("shape", make("transpose", rows("h", (16, 16), (8, 1)), H)),
    "pieces without room": ("bounds", make("transpose", rows("tight", (3, 8), (8, 1)), rows("f", (8, 16), (3, 1)))),
    "too many rows": (
        "transfer",
        make("copy_in", rows("rows", (4096, 16), (16, 1)), rows("big", (4096, 70000), (16, 1))),
    ),
    "rows far apart": ("transfer", make("nd2nz", part("a1", 32, 32), rows("big", (32, 70000), (32, 1)))),
    "no blocks of 32 bytes": ("transfer", make("copy_nz", rows("row1", (5, 1)), rows("X", (5, 1)))),
    "turned 8-bit fractals": ("dtype", make("load", part("i0", 32, 32, whole=True), part("i1", 32, 32, whole=True))),
    "turned into L0A": (
        "dtype",
        make("load", part("a0", 32, 32, whole=True), part("i1", 32, 32, whole=True), turn=True),
    ),
    "half a fractal": (
        "alignment",
        make("load", part("a0", 16, 16, row=8, whole=True), part("a1", 16, 16, whole=True)),
    ),
    "depths that differ": ("shape", make("mmad", part("c0", 32, 32), part("a0", 32, 16), part("b0", 32, 32))),
    "beyond the matrix": ("bounds", make("mmad", part("c0", 32, 40), part("a0", 32, 32), part("b0", 32, 40))),
    "sums between fractals": (
        "alignment",
        make("mmad", part("c0", 8, 32, row=8), part("a0", 8, 32), part("b0", 32, 32)),
    ),
    "a short bias": (
        "shape",
        make("mmad", part("c0", 32, 32), part("a0", 32, 32), part("b0", 32, 32), rows("bias", (16, 1))),
    ),
    "sums into bytes": ("dtype", make("fixpipe", part("i1", 32, 32), part("c0", 32, 32))),
    "added to fractals": ("scope", make("fixpipe", rows("X", (2, 32), (32, 1)), part("c0", 2, 32), add=1, nz=1)),
    "added in L1": ("scope", make("fixpipe", part("a1", 32, 32), part("c0", 32, 32), add=1)),
    "scales without a product": ("dtype", make("fixpipe", rows("X", (2, 32), (32, 1)), part("c0", 2, 32), quant="deq")),
}


@pytest.mark.parametrize("name", GOOD)
def test_accepted(name: str) -> None:
    judge(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    kind, node = BAD[name]
    with pytest.raises(Refused) as refused:
        judge(node)
    assert refused.value.kind == kind, refused.value
    assert node.op in str(refused.value)
