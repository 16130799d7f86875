"""Questions that emitters, the verifier and the interpreters all ask of values and kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from tilewright.ir.symbolic import ZERO, Expr, as_expr
from tilewright.ir.types import DType
from tilewright.kernel.expr import Binary, Cast, Const, IndexValue, Load, Ref, Select, Unary, Value, operands
from tilewright.kernel.schedule import Compute, For, Node, Scheduled, ScheduleError
from tilewright.kernel.scope import trips
from tilewright.kernel.tile import Define, Param


def walk(value: Value) -> Iterator[Value]:
    """``value`` and every value inside it, operands first."""
    for x in operands(value):
        yield from walk(x)
    yield value


def transform(value: Value, fn: Callable[[Value], Value]) -> Value:
    """Rebuild ``value`` bottom up, ``fn`` applied to every node. Unchanged parts are shared."""
    match value:
        case Unary(x=x) | Cast(x=x):
            y = transform(x, fn)
            value = value if y is x else replace(value, x=y)
        case Binary(a=a, b=b):
            ta, tb = transform(a, fn), transform(b, fn)
            value = value if ta is a and tb is b else replace(value, a=ta, b=tb)
        case Select(cond=c, a=a, b=b):
            tc, ta, tb = transform(c, fn), transform(a, fn), transform(b, fn)
            value = value if tc is c and ta is a and tb is b else Select(tc, ta, tb)
        case Load(index=index):
            changed = tuple(i if isinstance(i, Expr) else transform(i, fn) for i in index)
            value = value if all(x is y for x, y in zip(index, changed, strict=True)) else replace(value, index=changed)
    return fn(value)


def loads_of(value: Value) -> tuple[Load, ...]:
    """The loads in ``value``, gathered indices included, in order of first use, without repetition."""
    return tuple(dict.fromkeys(v for v in walk(value) if isinstance(v, Load)))


def refs_of(value: Value) -> tuple[Ref, ...]:
    """The tiles read in ``value``, in order of first use, without repetition."""
    return tuple(dict.fromkeys(v for v in walk(value) if isinstance(v, Ref)))


def gathered(index: tuple[Expr | Value, ...]) -> tuple[Value, ...]:
    """The entries of an index that are values, known at run time only."""
    return tuple(i for i in index if not isinstance(i, Expr))


def index_symbols(index: tuple[Expr | Value, ...]) -> frozenset[str]:
    """Names of axes and dimensions on which an index depends."""
    return frozenset[str]().union(*(i.symbols if isinstance(i, Expr) else used_symbols(i) for i in index))


def offset_of(param: Param, index: tuple[Expr, ...]) -> Expr:
    """The element offset of ``index`` in a row-major tensor."""
    total = ZERO
    for i, size in zip(index, param.shape, strict=True):
        total = total * size + i
    return as_expr(total)


def used_symbols(value: Value) -> frozenset[str]:
    """Names of axes and dimensions on which ``value`` depends directly."""
    names: set[str] = set()
    for v in walk(value):
        match v:
            case Load(index=index):
                names.update(*(i.symbols for i in index if isinstance(i, Expr)))
            case IndexValue(index=i):
                names.update(i.symbols)
            case Ref(axes=axes):
                names.update(axes)
    return frozenset(names)


def identity(op: str, dtype: DType) -> Const:
    """The value that changes nothing under reduction ``op``: what padded lanes count as."""
    if op in ("any", "all"):
        return Const(op == "all", dtype)
    if op in ("sum", "prod"):
        number = 0 if op == "sum" else 1
        return Const(float(number) if dtype.is_float else number, dtype)
    if dtype.is_float:
        return Const(-np.inf if op == "max" else np.inf, dtype)
    if dtype is DType.BOOL:
        return Const(op == "min", dtype)
    low = -(2 ** (dtype.bits - 1)) if dtype.is_signed else 0
    high = 2 ** (dtype.bits - dtype.is_signed) - 1
    return Const(low if op == "max" else high, dtype)


# -- contractions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Product:
    """A sum of products of two operands, with the role of each axis from the operand that carries it.

    ``batch`` axes are in both operands and in the result, ``m`` in ``a`` and the result, ``n`` in ``b`` and the
    result, ``k`` are summed over (some may be carried by one operand only).
    """

    a: Value
    b: Value
    batch: tuple[str, ...]
    m: tuple[str, ...]
    n: tuple[str, ...]
    k: tuple[str, ...]


def as_product(compute: Define | Compute) -> Product | None:
    """The contraction that ``compute`` is, or ``None`` when it is not a sum of a product that carries new axes on
    both sides. ``a`` is the operand with the earlier axes of the result."""
    if compute.reduce is None or compute.reduce.op != "sum":
        return None
    value = compute.value
    if not isinstance(value, Binary) or value.op != "mul":
        return None
    in_a, in_b = used_symbols(value.a), used_symbols(value.b)
    batch = tuple(x for x in compute.axes if x in in_a and x in in_b)
    m = tuple(x for x in compute.axes if x in in_a and x not in in_b)
    n = tuple(x for x in compute.axes if x in in_b and x not in in_a)
    k = compute.reduce.axes
    if not any(x in in_a and x in in_b for x in k):
        return None
    if n and (not m or compute.axes.index(n[0]) < compute.axes.index(m[0])):
        return Product(value.b, value.a, batch, n, m, k)
    return Product(value.a, value.b, batch, m, n, k)


# -- the tree ------------------------------------------------------------------------------------------------------


def grid(scheduled: Scheduled) -> tuple[tuple[str, str, Expr], ...]:
    """The block loops, outermost first, as (axis, variable, number of iterations as an expression over dimensions and
    the variables of the loops before it). Raises :class:`ScheduleError` when stores stand under different nests."""
    found: list[tuple[str, str, Expr]] = []
    body = scheduled.body
    while any(isinstance(node, For) and node.kind == "block" for node in body):
        if len(body) != 1:
            raise ScheduleError(scheduled.kernel.name, "more than one nest of block loops")
        (loop,) = body
        assert isinstance(loop, For)
        found.append((loop.axis, loop.var, trips(loop)))
        body = loop.body
    return tuple(found)


def block_body(scheduled: Scheduled) -> tuple[Node, ...]:
    """What one block runs: the tree inside the block loops that :func:`grid` lists."""
    body = scheduled.body
    for _ in grid(scheduled):
        (loop,) = body
        assert isinstance(loop, For)
        body = loop.body
    return body
