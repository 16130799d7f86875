"""Questions that emitters, the verifier and the interpreters all ask of values and kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tilewright.ir.symbolic import Expr
from tilewright.kernel.expr import Binary, Cast, IndexValue, Load, Ref, Select, Unary, Value, operands


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
