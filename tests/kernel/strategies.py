"""Random kernels for hypothesis: well typed, every name bound, not necessarily meaningful."""

from __future__ import annotations

import math

from hypothesis import strategies as st
from tilewright.ir.symbolic import Expr, Range, constant, maximum, minimum, symbol
from tilewright.ir.types import DType
from tilewright.kernel.expr import Binary, Cast, Const, IndexValue, Load, Ref, Select, Unary, Value
from tilewright.kernel.tile import Axis, Carry, Define, Kernel, Param, Reduction, Scan, Statement, Store

DIMS = ("M", "N")
AXES = ("m", "n", "k")
PARAMS = (
    Param("X", DType.F32, (symbol("M"), symbol("N"))),
    Param("W", DType.F16, (constant(8),), "const"),
    Param("I", DType.I32, (symbol("N") * 2 + 1,)),
    Param("B", DType.BOOL, ()),
)


def exprs(names: tuple[str, ...], depth: int = 3) -> st.SearchStrategy[Expr]:
    """Index expressions over ``names`` with every operation; divisors are positive constants or shifted symbols."""
    leaves = st.one_of(st.sampled_from([symbol(n) for n in names]), st.integers(-9, 9).map(constant))
    divisors = st.integers(1, 9).map(constant)

    def extend(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
        return st.one_of(
            st.builds(lambda a, b: a + b, inner, inner),
            st.builds(lambda a, b: a - b, inner, inner),
            st.builds(lambda a, b: a * b, inner, inner),
            st.builds(lambda a, b: a // b, inner, divisors),
            st.builds(lambda a, b: a % b, inner, divisors),
            st.builds(minimum, inner, inner),
            st.builds(maximum, inner, inner),
        )

    return st.recursive(leaves, extend, max_leaves=depth + 1)


def literals(dtype: DType) -> st.SearchStrategy[Value]:
    """Literals of a dtype, infinities included (a NaN is not equal to itself)."""
    if dtype is DType.BOOL:
        return st.booleans().map(lambda v: Const(v, dtype))
    if dtype.is_float:
        return st.one_of(st.floats(allow_nan=False), st.sampled_from([math.inf, -math.inf, -0.0])).map(
            lambda v: Const(v, dtype)
        )
    return st.integers(-100, 100).map(lambda v: Const(v, dtype))


@st.composite
def values(draw: st.DrawFn, dtype: DType, tiles: dict[str, tuple[tuple[str, ...], DType]], depth: int = 2) -> Value:
    """A value of ``dtype`` over all axes."""
    index = exprs((*AXES, *DIMS), 2)
    if depth == 0:
        options: list[st.SearchStrategy[Value]] = [literals(dtype)]
        for p in PARAMS:
            if p.dtype is dtype:
                fill = st.sampled_from([None, 0, -1.5, math.inf]) if dtype.is_float else st.none()
                entries = st.tuples(*(index for _ in p.shape))
                options.append(st.builds(Load, st.just(p.name), entries, st.just(dtype), fill))
        if dtype in (DType.I64, DType.I32):
            options.append(st.builds(IndexValue, index, st.just(dtype)))
        options += [st.just(Ref(n, axes, d)) for n, (axes, d) in tiles.items() if d is dtype]
        return draw(st.one_of(options))
    sub = values(dtype, tiles, depth - 1)
    if draw(st.booleans()):
        return draw(sub)
    other = draw(st.sampled_from([DType.F32, DType.F16, DType.I32, DType.I64]))
    if dtype is DType.BOOL:
        operand = values(other, tiles, depth - 1)
        compare = st.builds(Binary, st.sampled_from("eq ne lt le gt ge".split()), operand, operand)
        logic = st.builds(Binary, st.sampled_from("and or xor bitand".split()), sub, sub)
        return draw(st.one_of(compare, logic, st.builds(Unary, st.just("not"), sub)))
    ops = "add sub mul div mod fmod pow min max".split() + ([] if dtype.is_float else "bitand bitor shl shr".split())
    single = "neg abs exp erf sigmoid".split() if dtype.is_float else "neg abs bitnot".split()
    gathered = Load("I", (draw(values(DType.I64, tiles, 0)),), DType.I32)
    return draw(
        st.one_of(
            st.builds(Binary, st.sampled_from(ops), sub, sub),
            st.builds(Unary, st.sampled_from(single), sub),
            st.builds(Select, values(DType.BOOL, tiles, depth - 1), sub, sub),
            st.builds(Cast, st.just(dtype), values(other, tiles, depth - 1)).filter(lambda c: not is_literal(c.x)),
            st.just(Cast(dtype, gathered)),
        )
    )


def is_literal(v: Value) -> bool:
    return isinstance(v, Const)


@st.composite
def kernels(draw: st.DrawFn) -> Kernel:
    """Kernels with definitions, reductions, a scan now and then, and stores."""
    tiles: dict[str, tuple[tuple[str, ...], DType]] = {}

    def define(name: str, dtype: DType | None = None) -> Define:
        kind = dtype or draw(st.sampled_from([DType.F32, DType.F16, DType.I32, DType.BOOL]))
        axes = draw(st.permutations(AXES).map(lambda p: tuple(p[:2])))
        reduce = draw(st.sampled_from([None, None, "sum", "max"]))
        value = draw(values(kind, tiles))
        tiles[name] = (axes, kind)
        over = tuple(a for a in AXES if a not in axes)
        return Define(name, axes, value, Reduction(reduce, over) if reduce else None)

    body: list[Statement] = [define(f"t{n}") for n in range(draw(st.integers(0, 3)))]
    if draw(st.booleans()):
        tiles["carry"] = (("m",), DType.F32)
        inner = (define("u0", DType.F32), define("u1"))
        carry = Carry("carry", ("m",), Const(draw(st.floats(allow_nan=False)), DType.F32))
        body.append(Scan("k", (carry,), inner, (("carry", "u0"),)))
    for n in range(draw(st.integers(1, 2))):
        axes = draw(st.permutations(AXES).map(lambda p: tuple(p[:2])))
        body.append(Store("Y", axes, tuple(symbol(a) + n for a in axes), draw(values(DType.F32, tiles))))
    ranges = st.builds(Range, st.sampled_from([-(2**62), 0, 1]), st.sampled_from([64, 2**62]), st.sampled_from([1, 8]))
    facts = tuple((d, draw(ranges)) for d in DIMS)
    out = Param("Y", DType.F32, (symbol("M"), symbol("N")), "out", draw(st.sampled_from([None, "X"])))
    axes = tuple(Axis(a, draw(exprs(DIMS, 1))) for a in AXES)
    return Kernel("random", (*PARAMS, out), facts, axes, tuple(body))
