"""Placed programs of one instruction between transfers, over rows and columns of open size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tilewright.backends.ascend.placed.form import (
    GROUP,
    GROUPS,
    SUBBLOCK,
    Access,
    Block,
    Buffer,
    Core,
    Instruction,
    Loop,
    Node,
    Operand,
    Placed,
    Scalar,
    View,
)
from tilewright.backends.ascend.placed.instructions import INSTRUCTIONS
from tilewright.backends.ascend.placed.layout import SCOPE_LAYOUT, round_up
from tilewright.backends.ascend.placing.frame import BLOCK_LOOP
from tilewright.backends.ascend.synchronization.synchronize import synchronize
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import ZERO, Expr, as_expr, ceildiv, constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.tile import Kernel, Param

from tests.ascend.trials import targets

Array = np.ndarray[Any, Any]
R, C = symbol("R"), symbol("C")
ONE = constant(1)


@dataclass(frozen=True)
class Single:
    """A program of one instruction. ``high``: most rows and columns; ``spread``: inputs that are one number a row."""

    placed: Placed
    high: tuple[int, int]

    def inputs(self, dims: Mapping[str, int], seed: int = 0) -> dict[str, Array]:
        """Values of every kind: ordinary ones, wide ones, whole numbers, zeros of both signs, infinities, NaN."""
        random = np.random.default_rng(seed)
        result = {}
        for p in self.placed.kernel.params:
            if p.role != "out":
                shape = [e.evaluate(dims) for e in p.shape]
                result[p.name] = hard(p.dtype, shape, random)
        return result


def hard(dtype: DType, shape: Sequence[int], random: np.random.Generator) -> Array:
    """Values that rounding and saturation trip over."""
    if not dtype.is_float:
        info = np.iinfo(dtype.numpy)
        values = random.integers(info.min, info.max, shape, endpoint=True)
        small = random.integers(-9 if dtype.is_signed else 0, 9, shape)
        return np.where(random.random(shape) < 0.5, values, small).astype(dtype.numpy)
    values = random.standard_normal(shape) * np.exp2(random.integers(-20, 20, shape))
    special = random.choice([0.0, -0.0, 0.5, -1.5, 2.5, 65519.0, 65520.0, 1e-7, np.inf, -np.inf, np.nan, 3e38], shape)
    with np.errstate(over="ignore"):
        return np.where(random.random(shape) < 0.2, special, values).astype(dtype.numpy)


def local(name: str, dtype: DType, shape: Sequence[int], scope: str = "ub", layout: str = "") -> Buffer:
    """A buffer without an address yet."""
    core: Core = "vector" if scope == "ub" else "cube"
    sizes = tuple(map(constant, shape))
    return Buffer(name, scope, dtype, sizes, layout or SCOPE_LAYOUT[scope], core=core)  # type: ignore[arg-type]


def program(
    name: str,
    params: Sequence[Param],
    buffers: Sequence[Buffer],
    body: Sequence[Node],
    high: tuple[int, int],
    target: str = "ascend:910b3",
) -> Placed:
    """A kernel that one core runs once, with addresses one behind the other, synchronised."""
    found = targets()[target]
    ends: dict[str, int] = {}
    given = [Buffer(p.name, "gm", p.dtype, p.shape) for p in params]
    for b in buffers:
        align = max(32, int(found.extra["alignment"][b.scope]))
        start = round_up(ends.get(b.scope, 0), align)
        given.append(Buffer(b.name, b.scope, b.dtype, b.shape, b.layout, start, core=b.core))
        ends[b.scope] = given[-1].end
    used = {s for p in params for e in p.shape for s in e.symbols}
    facts = tuple((s, Range(1, n)) for s, n in (("C", high[1]), ("R", high[0])) if s in used)
    kernel = Kernel(name, tuple(params), facts, (), ())
    vector = any(b.core == "vector" for b in buffers)
    lo, step = (2 * GROUP + SUBBLOCK, 2 * GROUPS) if vector else (GROUP, GROUPS)
    loop = Loop(BLOCK_LOOP, lo, ONE, step, tuple(body))
    return synchronize(Placed(kernel, found, tuple(given), (loop,), ONE))


def pitch(columns: int, dtype: DType) -> int:
    """Elements of a row in the unified buffer."""
    return round_up(columns, 32 * 8 // dtype.bits)


def rows(buffer: str, counts: tuple[Expr, Expr], strides: tuple[int, int]) -> View:
    return View(buffer, ZERO, tuple((n, constant(s)) for n, s in zip(counts, strides, strict=True)))


@dataclass(frozen=True)
class Source:
    """An operand: its type and how it meets rows and columns: ``rows × columns``, one ``row`` for all, or ``blocks``,
    of which each serves a row."""

    dtype: DType
    kind: str = "full"


def vector(
    name: str,
    op: str,
    result: DType,
    sources: Sequence[Source | float | Expr],
    high: tuple[int, int] = (8, 100),
    *,
    parameters: tuple[tuple[str, Any], ...] = (),
    out: str = "full",
) -> Single:
    """``op`` over R × C lanes; ``out`` is ``full``, ``rows`` (one number a row) or ``blocks``."""
    params, buffers, body, operands = [], [], [], []
    for i, s in enumerate(sources):
        if not isinstance(s, Source):
            operands.append(Scalar(s))
            continue
        block = 32 * 8 // s.dtype.bits
        shape = {"full": (R, C), "row": (ONE, C), "blocks": (R, constant(block)), "rows": (ONE, R)}[s.kind]
        room = {"full": high, "row": (1, high[1]), "blocks": (round_up(high[0], 8), block), "rows": (1, high[0])}[
            s.kind
        ]
        step = pitch(round_up(room[1], 8), s.dtype)
        params.append(Param(f"X{i}", s.dtype, shape))
        buffers.append(local(f"x{i}", s.dtype, (room[0], step)))
        here, there = rows(f"x{i}", shape, (step, 1)), View(f"X{i}", ZERO, ((shape[0], shape[1]), (shape[1], ONE)))
        body.append(Instruction("copy_in", "vector", "MTE2", here, (there,)))
        strides = {"full": (step, 1), "row": (0, 1), "blocks": (step, 0), "rows": (1, 0)}[s.kind]
        operands.append(rows(f"x{i}", (R, constant(block)) if s.kind == "rows" else (R, C), strides))
    to = {"full": (R, C), "rows": (ONE, R), "blocks": (R, constant(32 * 8 // result.bits))}[out]
    room = {"full": high, "rows": (1, high[0]), "blocks": (round_up(high[0], 8), 32 * 8 // result.bits)}[out]
    step = pitch(round_up(room[1], 8), result)
    params.append(Param("Y", result, to, "out"))
    buffers.append(local("y", result, (room[0], step)))
    dst = View("y", ZERO, ((R, ONE),)) if out == "rows" else rows("y", to, (step, 1))
    body.append(Instruction(op, "vector", INSTRUCTIONS[op].pipe, dst, tuple(operands), parameters=parameters))
    there = View("Y", ZERO, ((to[0], to[1]), (to[1], ONE)))
    body.append(Instruction("copy_out", "vector", "MTE3", there, (rows("y", to, (step, 1)),)))
    return Single(program(name, params, buffers, body, high), high)


def chosen(name: str, mode: str, dtype: DType, right: Source | float, high: tuple[int, int] = (8, 100)) -> Single:
    """Where X0 compares so with ``right``, X0, else X1."""
    step, bits = pitch(high[1], dtype), round_up(-(-high[1] // 8), 32)
    params = [Param("X0", dtype, (R, C)), Param("X1", dtype, (R, C)), Param("Y", dtype, (R, C), "out")]
    buffers = [local(n, dtype, (high[0], step)) for n in ("x0", "x1", "y")]
    buffers.append(local("bits", DType.U8, (high[0], bits)))
    lanes = {n: rows(n, (R, C), (step, 1)) for n in ("x0", "x1", "y")}
    there = {n: View(n, ZERO, ((R, C), (C, ONE))) for n in ("X0", "X1", "Y")}
    body = [Instruction("copy_in", "vector", "MTE2", lanes[n.lower()], (there[n],)) for n in ("X0", "X1")]
    other: Operand = lanes["x1"] if isinstance(right, Source) else Scalar(right)
    mask = rows("bits", (R, ceildiv(C, 8)), (bits, 1))
    body.append(Instruction(f"compare_{mode}", "vector", "V", mask, (lanes["x0"], other)))
    body.append(Instruction("select", "vector", "V", lanes["y"], (mask, lanes["x0"], lanes["x1"])))
    body.append(Instruction("copy_out", "vector", "MTE3", there["Y"], (lanes["y"],)))
    return Single(program(name, params, buffers, body, high), high)


def widened(name: str, high: tuple[int, int] = (5, 96)) -> Single:
    """Bytes of two integers of 4 bits each, R × C of them, as R × 2C numbers."""
    near, far = pitch(high[1], DType.U8), pitch(2 * high[1], DType.F16)
    params = [Param("X0", DType.U8, (R, C)), Param("Y", DType.F16, (R, C * 2), "out")]
    buffers = [local("x0", DType.U8, (high[0], near)), local("y", DType.F16, (high[0], far))]
    to, here = rows("y", (R, C * 2), (far, 1)), rows("x0", (R, C), (near, 1))
    body = [
        Instruction("copy_in", "vector", "MTE2", here, (matrix("X0", R, C),)),
        Instruction("widen", "vector", "V", to, (here,)),
        Instruction("copy_out", "vector", "MTE3", matrix("Y", R, C * 2), (to,)),
    ]
    return Single(program(name, params, buffers, body, high), high)


def product(
    name: str,
    dtype: DType,
    result: DType,
    *,
    turned: tuple[bool, bool] = (False, False),
    depth: int = 40,
    bias: DType | None = None,
    parameters: tuple[tuple[str, Any], ...] = (),
) -> Single:
    """R × C sums of ``depth`` products; an operand lies turned in memory where ``turned`` says so."""
    high = (40, 50)
    sums = DType.I32 if dtype is DType.I8 else DType.F32
    k = constant(depth)
    shapes = [(k, R) if turned[0] else (R, k), (C, k) if turned[1] else (k, C)]
    most = [(depth, high[0]) if turned[0] else (high[0], depth), (high[1], depth) if turned[1] else (depth, high[1])]
    params = [Param(n, dtype, s) for n, s in zip("AB", shapes, strict=True)]
    buffers = [local(n, dtype, s, "l1") for n, s in zip(("a1", "b1"), most, strict=True)]
    buffers += [local("a0", dtype, (high[0], depth), "l0a"), local("b0", dtype, (depth, high[1]), "l0b")]
    buffers.append(local("c0", sums, high, "l0c"))
    body: list[Node] = []
    for tensor, near, shape in zip("AB", ("a1", "b1"), shapes, strict=True):
        body.append(Instruction("nd2nz", "cube", "MTE2", block(near, *shape), (matrix(tensor, *shape),)))
    body.append(load("a0", (R, k), "a1", turned[0]))
    body.append(load("b0", (k, C), "b1", turned[1]))
    operands: list[Access] = [block("a0", R, k), block("b0", k, C)]
    if bias is not None:
        row = (View("bias", ZERO, ((constant(64), ONE),)), View("BIAS", ZERO, ((constant(64), ONE),)))
        params.append(Param("BIAS", bias, (constant(64),)))
        buffers += [local("bias", bias, (64,), "l1", "ND"), local("table", sums, (64,), "bt")]
        body.append(Instruction("copy_nz", "cube", "MTE2", row[0], (row[1],)))
        whole = View("table", ZERO, row[0].dims)
        body.append(Instruction("load_bias", "cube", "MTE1", whole, (row[0],)))
        operands.append(View("table", ZERO, ((C, ONE),)))
    body.append(Instruction("mmad", "cube", "M", block("c0", R, C), tuple(operands)))
    body.append(Instruction("fixpipe", "cube", "FIX", matrix("Y", R, C), (block("c0", R, C),), parameters=parameters))
    params.append(Param("Y", result, (R, C), "out"))
    return Single(program(name, params, buffers, body, high), high)


def load(dst: str, shape: tuple[Expr, Expr], src: str, turned: bool) -> Instruction:
    there = (shape[1], shape[0]) if turned else shape
    ends = Block(dst, ZERO, ZERO, *shape, whole=True), Block(src, ZERO, ZERO, *there, whole=True)
    return Instruction("load", "cube", "MTE1", ends[0], (ends[1],), transpose=turned)


def block(buffer: str, height: Expr | int, width: Expr | int) -> Block:
    return Block(buffer, ZERO, ZERO, as_expr(height), as_expr(width))


def matrix(tensor: str, height: Expr, width: Expr) -> View:
    return View(tensor, ZERO, ((height, width), (width, ONE)))
