"""Random kernels for hypothesis: well typed, every name bound, not necessarily meaningful."""

from __future__ import annotations

import math
import random

from hypothesis import strategies as st
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import Expr, constant, maximum, minimum, symbol
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


class _Maker:
    """Random values from one seed: drawing each node from hypothesis itself takes a second a kernel."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.tiles: dict[str, tuple[tuple[str, ...], DType]] = {}

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def expr(self, names: tuple[str, ...], depth: int = 2) -> Expr:
        if depth == 0 or self.chance(0.4):
            return symbol(self.random.choice(names)) if self.chance(0.7) else constant(self.random.randint(-9, 9))
        a, b = self.expr(names, depth - 1), self.expr(names, depth - 1)
        n = self.random.randint(1, 9)
        return self.random.choice([a + b, a - b, a * b, a // n, a % n, minimum(a, b), maximum(a, b)])

    def number(self) -> float:
        return self.random.choice([0.0, -0.0, 1.0, -2.5, 1e-30, 3.4e38, math.inf, -math.inf, self.random.random()])

    def literal(self, dtype: DType) -> Const:
        if dtype is DType.BOOL:
            return Const(self.chance(0.5), dtype)
        return Const(self.number() if dtype.is_float else self.random.randint(-100, 100), dtype)

    def leaf(self, dtype: DType) -> Value:
        options: list[Value] = [self.literal(dtype)]
        index = (*AXES, *DIMS)
        for p in PARAMS:
            if p.dtype is dtype:
                entries = tuple(self.expr(index) for _ in p.shape)
                fill = self.random.choice([None, 0, -1.5, math.inf]) if dtype.is_float else None
                options.append(Load(p.name, entries, dtype, fill))
        if dtype in (DType.I64, DType.I32):
            options.append(IndexValue(self.expr(index), dtype))
        options += [Ref(n, axes, d) for n, (axes, d) in self.tiles.items() if d is dtype]
        return self.random.choice(options)

    def value(self, dtype: DType, depth: int = 4) -> Value:
        """A value of ``dtype`` over all axes."""
        if depth == 0 or self.chance(0.2):
            return self.leaf(dtype)
        a, b = self.value(dtype, depth - 1), self.value(dtype, depth - 1)
        other = self.random.choice([DType.F32, DType.F16, DType.I32, DType.I64])
        if self.chance(0.15):
            return Select(self.value(DType.BOOL, depth - 1), a, b)
        if dtype is DType.BOOL:
            if self.chance(0.5):
                x, y = self.value(other, depth - 1), self.value(other, depth - 1)
                return Binary(self.random.choice("eq ne lt le gt ge".split()), x, y)
            return (
                Unary("not", a) if self.chance(0.3) else Binary(self.random.choice("and or xor bitand".split()), a, b)
            )
        if self.chance(0.1):
            return Cast(dtype, Load("I", (self.value(DType.I64, 1),), DType.I32))
        if self.chance(0.2) and not isinstance(x := self.value(other, depth - 1), Const):
            return Cast(dtype, x)
        if self.chance(0.3):
            single = "neg abs exp erf sigmoid" if dtype.is_float else "neg abs bitnot"
            return Unary(self.random.choice(single.split()), a)
        both = "add sub mul div mod fmod pow min max" + ("" if dtype.is_float else " bitand bitor bitxor shl shr")
        return Binary(self.random.choice(both.split()), a, b)

    def axes(self) -> tuple[str, ...]:
        return tuple(self.random.sample(AXES, 2))

    def define(self, name: str, dtype: DType | None = None) -> Define:
        kind = dtype or self.random.choice([DType.F32, DType.F16, DType.I32, DType.BOOL])
        axes = self.axes()
        value = self.value(kind)
        self.tiles[name] = (axes, kind)
        over = tuple(a for a in AXES if a not in axes)
        op = self.random.choice([None, None, "sum", "max"])
        return Define(name, axes, value, Reduction(op, over) if op else None)

    def kernel(self) -> Kernel:
        """Definitions, reductions, a scan now and then, and stores."""
        body: list[Statement] = [self.define(f"t{n}") for n in range(self.random.randint(0, 3))]
        if self.chance(0.5):
            self.tiles["carry"] = (("m",), DType.F32)
            inner = (self.define("u0", DType.F32), self.define("u1"))
            body.append(Scan("k", (Carry("carry", ("m",), self.literal(DType.F32)),), inner, (("carry", "u0"),)))
        for n in range(self.random.randint(1, 2)):
            axes = self.axes()
            body.append(Store("Y", axes, tuple(symbol(a) + n for a in axes), self.value(DType.F32)))
        choose = self.random.choice
        ranges = [Range(choose([-(2**62), 0, 1]), choose([64, 2**62]), choose([1, 8])) for _ in DIMS]
        out = Param("Y", DType.F32, (symbol("M"), symbol("N")), "out", choose([None, "X"]))
        axes_ = tuple(Axis(a, self.expr(DIMS, 1)) for a in AXES)
        return Kernel("random", (*PARAMS, out), tuple(zip(DIMS, ranges, strict=True)), axes_, tuple(body))


def kernels() -> st.SearchStrategy[Kernel]:
    """Kernels with every kind of statement and expression."""
    return st.integers(0, 2**32 - 1).map(lambda seed: _Maker(seed).kernel())
