"""The lowered form of the tile IR: what a kernel computes, over an index domain, with no order and no memory.

A :class:`Kernel` has parameters, *axes* (named index variables with extents; every index expression is over axis
names and dimension symbols) and a body of single-assignment statements. As text it is a Python subset::

    @kernel
    def matmul_bias_gelu(A: f16[M, K], B: const[f16[K, N]], bias: const[f32[N]], C: out[f16[M, N]]):
        where(1 <= M <= 4096, K % 64 == 0)
        m: M; n: N; k: K
        acc[m, n] = sum(k, f32(A[m, k]) * f32(B[k, n]))
        y[m, n] = acc[m, n] + bias[n]
        C[m, n] = f16(y[m, n] * f32(0.5))

Attention carries values along a scanned axis; the result may not depend on how the axis is cut into tiles::

        for t in scan(mx=f32(-inf)[i], l=f32(0)[i], o=f32(0)[i, d]):
            s[i, t] = sum(d, f32(Q[i, d]) * f32(K[t, d]))
            top[i] = max(t, s[i, t])
            …
            yield_(mx=mx2, l=l2, o=o2)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Union

from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType
from tilewright.kernel.expr import Const, Value

Role = Literal["in", "const", "out"]

#: Identities: ``sum`` 0, ``prod`` 1, ``max``/``min`` the dtype's extremes, ``any`` False, ``all`` True.
REDUCTIONS = frozenset(["sum", "prod", "max", "min", "any", "all"])


@dataclass(frozen=True, slots=True)
class Param:
    """A tensor in memory, row-major. ``const`` ones are known at compile time and may be packed.

    ``alias`` names an input parameter that an output is the new contents of: its memory holds the input's elements
    before the kernel runs, and those that no store writes stay. ``limit`` is a magnitude that no element of a constant
    of 8-bit integers exceeds, where that is known and low enough for some target to make use of it.
    """

    name: str
    dtype: DType
    shape: tuple[Expr, ...]
    role: Role = "in"
    alias: str | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """A named index running over ``0 .. extent - 1``."""

    name: str
    extent: Expr


@dataclass(frozen=True, slots=True)
class Reduction:
    """``op`` over ``axes``, in any order of evaluation."""

    op: str
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Define:
    """``tile[axes] = value``, or the reduction of ``value`` over further axes. The tile's dtype is ``value.dtype``."""

    tile: str
    axes: tuple[str, ...]
    value: Value
    reduce: Reduction | None = None


@dataclass(frozen=True, slots=True)
class Store:
    """``tensor[index] = value`` for every position of ``axes``; positions write distinct elements.

    An index that is a value is known at run time only (a scatter): outside the tensor, nothing is written and the run
    is refused; that positions differ is then up to who made the kernel.
    """

    tensor: str
    axes: tuple[str, ...]
    index: tuple[Expr | Value, ...]
    value: Value


@dataclass(frozen=True, slots=True)
class Carry:
    """A tile that lives along a scan, starting at ``init``."""

    tile: str
    axes: tuple[str, ...]
    init: Const


@dataclass(frozen=True, slots=True)
class Scan:
    """Run ``body`` for successive pieces of ``axis``; ``yields`` pairs a carry with the tile that becomes it.

    In the body, ``Ref`` of a carry reads its value before the piece. Afterwards it reads the final value.
    """

    axis: str
    carries: tuple[Carry, ...]
    body: tuple[Define, ...]
    yields: tuple[tuple[str, str], ...]


Statement = Union[Define, Store, Scan]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A lowered kernel. ``facts`` bounds each dimension symbol; parameters are in call order, outputs last."""

    name: str
    params: tuple[Param, ...]
    facts: tuple[tuple[str, Range], ...]
    axes: tuple[Axis, ...]
    body: tuple[Statement, ...]

    def param(self, name: str) -> Param:
        """The parameter called ``name``. Raises ``KeyError``."""
        for p in self.params:
            if p.name == name:
                return p
        raise KeyError(name)

    def extent(self, axis: str) -> Expr:
        """The extent of an axis. Raises ``KeyError``."""
        for a in self.axes:
            if a.name == axis:
                return a.extent
        raise KeyError(axis)
