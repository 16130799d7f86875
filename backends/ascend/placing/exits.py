"""How a sum leaves L0C: what of the values computed from it the cube core does itself, on the way in and out.

A row of biases is what the sums start from (the bias table), a cast to 16 bits and a relu are done by the fixpipe. What
is left reads the tile as it then is. A bias that is added after the sum was rounded to 16 bits is added before: that
rounds once instead of twice, and is done only where no result is wider than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tilewright.ir.symbolic import symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import transform, walk
from tilewright.kernel.expr import Binary, Cast, Const, Load, Ref, Value, operands
from tilewright.kernel.schedule import Compute, For, Node, Write
from tilewright.kernel.tile import Kernel

#: Element types in which a fixpipe can round sums of f32.
_HALVES = (DType.F16, DType.BF16)


@dataclass(frozen=True, slots=True)
class Exit:
    """What is done to a sum before anybody sees it: in this order the bias, ``relu`` and the cast to ``dtype``.

    ``value`` is the expression that this computes; ``widened`` where it is the cast of that to f32.
    """

    value: Value
    dtype: DType
    bias: Load | None = None
    relu: bool = False
    widened: bool = False

    def left(self, tile: Ref) -> Value:
        """What stands in place of ``value`` where the tile has left."""
        here = Ref(tile.tile, tile.axes, self.dtype)
        return Cast(DType.F32, here) if self.widened else here


@dataclass(frozen=True, slots=True)
class Way:
    """What a target's cube core can do: ``casts`` and ``relu`` of the fixpipe, and the types of biases it takes, of
    tensors among ``rows``, which end with whole blocks."""

    relu: bool
    casts: frozenset[DType]
    biases: frozenset[DType]
    rows: frozenset[str]


def find_exit(tile: Ref, body: Sequence[Node], column: str, *, kernel: Kernel, way: Way, skip: frozenset[str]) -> Exit:
    """The most that can be done to ``tile`` for all its uses in ``body`` alike. ``skip``: tiles that cube cores sum."""
    wide = any(kernel.param(w.tensor).dtype.bits > 16 for w in _writes(body))
    matcher = _Matcher(tile.tile, column, kernel, way, merge=not wide)
    found: dict[Value, Exit | None] = {}
    for node in _flat(body):
        if isinstance(node, Compute | Write) and not (isinstance(node, Compute) and node.tile in skip):
            found |= dict.fromkeys(_largest(node.value, matcher))
    plain = Exit(tile, tile.dtype)
    if len(found) != 1:
        return plain
    return matcher.match(next(iter(found))) or plain


def rewritten(value: Value, tile: Ref, exit: Exit) -> Value:
    """``value`` with what the exit computes replaced by the tile as it left."""
    return transform(value, lambda v: exit.left(tile) if v == exit.value else v)


def addend_of(value: Value) -> tuple[Value, Load] | None:
    """``(x, load)`` where ``value`` is their sum, rounded once to the type of both; the load is no row of biases.

    Sums of 16-bit floats that are computed in f32 are such: f32 has so many bits that rounding twice is rounding once.
    """
    match value:
        case Cast(dtype=dtype, x=Binary(op="add", a=Cast(x=a), b=Cast(x=b), dtype=DType.F32)) if dtype in _HALVES:
            pass
        case Binary(op="add", a=a, b=b, dtype=dtype):
            pass
        case _:
            return None
    for x, load in ((a, b), (b, a)):
        plain = isinstance(load, Load) and load.fill is None and len(load.index) > 1
        if plain and isinstance(load, Load) and x.dtype == load.dtype == dtype:
            return x, load
    return None


@dataclass(frozen=True, slots=True)
class _Matcher:
    tile: str
    column: str
    kernel: Kernel
    way: Way
    merge: bool

    def match(self, v: Value) -> Exit | None:
        """The exit that computes ``v``, if one does."""
        match v:
            case Ref(tile=tile) if tile == self.tile:
                return Exit(v, v.dtype)
            case Cast(dtype=dtype, x=x):
                return self._cast(v, dtype, self.match(x))
            case Binary(op="add", a=a, b=b):
                return self._biased(v, self.match(a), b) or self._biased(v, self.match(b), a)
            case Binary(op="max", a=a, b=Const(value=0)):
                inner = self.match(a)
                if inner is not None and self.way.relu and not inner.relu:
                    return replace(inner, value=v, relu=True)
        return None

    def _cast(self, v: Value, dtype: DType, inner: Exit | None) -> Exit | None:
        if inner is None:
            return None
        if dtype == inner.dtype and inner.widened:
            return replace(inner, value=v, widened=False)
        if dtype in self.way.casts and inner.dtype == DType.F32:
            return replace(inner, value=v, dtype=dtype)
        if dtype == DType.F32 and inner.dtype in _HALVES and not inner.widened:
            return replace(inner, value=v, widened=True)
        return None

    def _biased(self, v: Value, inner: Exit | None, addend: Value) -> Exit | None:
        if inner is None or inner.bias is not None or inner.relu or inner.widened:
            return None
        if isinstance(addend, Cast) and addend.dtype == DType.F32 and addend.x.dtype == DType.F16:
            load: Value = addend.x
        else:
            load = addend
        rounded = inner.dtype in _HALVES
        if not isinstance(load, Load) or not self._is_bias(load) or (rounded and not self.merge):
            return None
        return replace(inner, value=v, bias=load)

    def _is_bias(self, load: Load) -> bool:
        """Whether the load is a constant row along the columns, from the first one on."""
        param = self.kernel.param(load.tensor)
        plain = load.index == (symbol(self.column),) and load.fill is None
        return plain and load.tensor in self.way.rows and load.dtype in self.way.biases and param.role == "const"


def _largest(value: Value, matcher: _Matcher) -> list[Value]:
    """The largest expressions in ``value`` that an exit computes and that read the tile."""
    if not any(isinstance(v, Ref) and v.tile == matcher.tile for v in walk(value)):
        return []
    if matcher.match(value) is not None:
        return [value]
    return [found for x in operands(value) for found in _largest(x, matcher)]


def _writes(body: Sequence[Node]) -> list[Write]:
    return [n for n in _flat(body) if isinstance(n, Write)]


def _flat(body: Sequence[Node]) -> list[Node]:
    result: list[Node] = []
    for node in body:
        result += _flat(node.body) if isinstance(node, For) else [node]
    return result
