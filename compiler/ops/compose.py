"""Composing tile IR from operators: each operator says what one element of its output is, in terms of its inputs.

An :class:`Operand` is a tensor that is not computed yet: ``operand.at(index)`` gives the expression of one element.
Elementwise and movement operators only rewrite that expression, so any region of them, around any reductions, becomes
one kernel. A reduction defines a tile; so does any other value that is used more than once. Lowering never decides an
order, a tile size or a place in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Union

import numpy as np
from tilewright.ir.ranges import Range, bounds
from tilewright.ir.symbolic import ZERO, Expr, IntLike, as_expr, maximum, minimum, symbol
from tilewright.ir.types import DType, TensorType
from tilewright.kernel.expr import Binary, Cast, Const, IndexValue, Load, Ref, Select, Unary, Value, operands
from tilewright.kernel.tile import Axis, Carry, Define, Kernel, Param, Reduction, Scan, Statement, Store
from tilewright.ops.share import share_subexpressions
from tilewright.ops.simplify import simplify, simplify_type

#: Origin of an operand that is in memory.
PARAMETER = "parameter"
#: Origin of an operand whose axes are those of another one in another order.
PERMUTED = "permuted"

Index = Union[Expr, Value]
At = Callable[[tuple[Index, ...]], Value]
Forward = Callable[[Sequence[Expr]], tuple[Expr, ...]]


@dataclass(frozen=True, slots=True)
class Update:
    """``base`` with the elements at ``place(i)`` replaced by ``value(i)``, for every ``i`` within ``shape``."""

    base: Operand
    shape: tuple[Expr, ...]
    place: Callable[[tuple[Index, ...]], tuple[Index, ...]]
    value: At


@dataclass(frozen=True, slots=True)
class Quantized:
    """``(stored - zero) · scale``: one scale and zero point for all, or, with ``axis``, one for each position of that
    axis of ``stored``, or for each ``block`` positions of it (then both have the rank of ``stored``)."""

    stored: Operand
    scale: Operand
    zero: Operand | None
    axis: int | None
    block: int


@dataclass(slots=True, eq=False)
class Operand:
    """A tensor that is not computed yet.

    Attributes:
        type: dtype and shape.
        compute: the element at an index, built once per distinct index.
        known: the contents, when the compiler knows them and they are small.
        origin: the operator that made it and its operands, for rules that look one step back (softmax · V).
        view: when this is a bijective rearrangement of another operand, that operand and the map from its indices to
            ours: a kernel that stores a rearranged tensor iterates over the original.
        quantized: the integers (or narrow floats) that this is, scaled, for products that are computed on those.
        cuts: per dimension, the positions where another formula begins (the joints of a concatenation): a kernel that
            stores the tensor may store each piece by itself.
    """

    type: TensorType
    compute: At
    known: np.ndarray | None = None
    #: The elements of a short integer tensor as expressions, where the compiler knows them or a run reads them.
    symbols: np.ndarray | None = None
    origin: tuple[str, tuple[Operand, ...]] = ("", ())
    view: tuple[Operand, Forward] | None = None
    quantized: Quantized | None = None
    cuts: Mapping[int, tuple[Expr, ...]] = field(default_factory=dict)
    #: When this is another tensor with some elements replaced, how; a kernel that stores it writes those only.
    update: Update | None = None
    #: Stored under the shape of :attr:`type`, whatever the graph's name for that shape: the same elements in order.
    reshaped: bool = False
    _memo: dict[tuple[Index, ...], Value] = field(default_factory=dict)

    def at(self, index: Sequence[Index | int]) -> Value:
        """The element at ``index`` (one entry a dimension)."""
        key = tuple(as_expr(i) if isinstance(i, int) else i for i in index)
        if len(key) != self.type.rank:
            raise ValueError(f"{len(key)} indices for {self.type}")
        if key not in self._memo:
            # An empty tensor is never asked for an element when the kernel runs, and has none to give.
            self._memo[key] = const(0, self.type.dtype) if is_empty(self.type) else self.compute(key)
        return self._memo[key]

    @property
    def is_zero(self) -> bool:
        """Whether the contents are known and all 0."""
        return self.known is not None and not self.known.astype(np.float64).any()

    def scalar(self) -> Value:
        """The only element of a tensor of one element, whatever its rank."""
        return self.at([0] * self.type.rank)

    def broadcast(self, index: Sequence[Index]) -> Value:
        """The element that ``index`` of a broader result reads, under NumPy's broadcasting."""
        tail = index[len(index) - self.type.rank :]
        return self.at([ZERO if size == 1 else i for i, size in zip(tail, self.type.shape, strict=True)])


class Composer:
    """Collects the axes, parameters and statements of one kernel.

    ``equal`` gives sizes that a run has confirmed to be others the spelling of those: loops over one are then loops
    over the other.
    """

    def __init__(self, name: str, facts: Mapping[str, Range], equal: Mapping[Expr, Expr] | None = None):
        self.name = name
        self.facts = dict(facts)
        self.equal = dict(equal or {})
        self.params: list[Param] = []
        self.axes: dict[str, Expr] = {}
        self.ranges: dict[str, Range] = dict(facts)
        self.body: list[Statement] = []
        self._scopes: list[list[Statement]] = [self.body]
        self._names: dict[str, int] = {}
        self._scanned: set[str] = set()
        #: The axes that the first output is stored over, one a dimension.
        self.over: tuple[Expr, ...] = ()
        #: Whether a sum of products of integers is among the statements.
        self.integral = False

    # -- names, axes, parameters ---------------------------------------------------------------------------------

    def fresh(self, hint: str) -> str:
        """A name not used before in this kernel."""
        taken = set(self.axes) | set(self.facts) | {p.name for p in self.params}
        while True:
            count = self._names.get(hint, 0)
            self._names[hint] = count + 1
            name = hint if count == 0 else f"{hint}{count}"
            if name not in taken:
                return name

    def spelled(self, type_: TensorType) -> TensorType:
        """A type in the spelling of this kernel: equal sizes alike, simplified by the facts."""
        return simplify_type(TensorType(type_.dtype, tuple(self.equal.get(s, s) for s in type_.shape)), self.facts)

    def axis(self, extent: IntLike, hint: str, avoid: Sequence[Index] | None = None) -> Expr:
        """An index variable over ``0 .. extent - 1``.

        With ``avoid``, an existing axis of equal extent that those indices do not mention is used again, so that the
        sum over a row and the row itself are over one axis. A scanned axis is not: within the scan it is only a piece.
        """
        extent = as_expr(extent)
        if avoid is not None:
            used = set().union(*(free_axes(i) for i in avoid)) if avoid else set()
            for name, size in self.axes.items():
                if size == extent and name not in used and name not in self._scanned:
                    return symbol(name)
        name = self.fresh(hint)
        self.axes[name] = extent
        self.ranges[name] = Range(0, max(0, bounds(extent - 1, self.facts)[1]))
        return symbol(name)

    def param(self, name: str, type_: TensorType, role: str, limit: int | None = None) -> Operand:
        """A tensor in memory as an operand."""
        self.params.append(Param(name, type_.dtype, type_.shape, role, limit=limit))  # type: ignore[arg-type]
        return Operand(type_, lambda index: Load(name, self._simplified(index), type_.dtype), origin=(PARAMETER, ()))

    def sized(self, x: Operand, shape: Sequence[Expr]) -> Operand | None:
        """``x`` under sizes that a run has seen to be equal to its own; ``None`` when it is no input in memory."""
        place = x.at([ZERO] * x.type.rank) if x.origin[0] == PARAMETER else None
        name = place.tensor if isinstance(place, Load) else ""
        for n, p in enumerate(self.params):
            if p.name == name and p.role == "in":
                self.params[n] = Param(p.name, p.dtype, tuple(shape), p.role)
                return Operand(TensorType(p.dtype, tuple(shape)), x.compute, origin=x.origin)
        return None

    def _simplified(self, index: Sequence[Index]) -> tuple[Index, ...]:
        return tuple(simplify(i, self.ranges) if isinstance(i, Expr) else i for i in index)

    def is_weight(self, x: Operand) -> bool:
        """Whether ``x`` is a constant in memory, in whatever order of axes."""
        if not _in_memory(x):
            return False
        place = x.at([ZERO] * x.type.rank)
        roles = {p.name: p.role for p in self.params}
        return isinstance(place, Load) and roles[place.tensor] == "const"

    def padded(self, x: Operand, index: Sequence[Index], fill: float | int) -> Value:
        """The element of ``x`` at ``index``, ``fill`` outside it. A gathered index is taken to be inside."""
        inside = self.inside(index, x.type.shape)
        if inside is None:
            return x.at(index)
        if _in_memory(x) and isinstance(value := x.at(index), Load):
            return Load(value.tensor, value.index, value.dtype, fill)
        clamped = [
            maximum(0, minimum(i, size - 1)) if isinstance(i, Expr) else i
            for i, size in zip(index, x.type.shape, strict=True)
        ]
        return select(inside, x.at(clamped), fill)

    def inside(self, index: Sequence[Index], shape: Sequence[Expr]) -> Value | None:
        """Whether an index lies within a shape, leaving out what is certain; ``None`` when all of it is."""
        result: Value | None = None
        for i, size in zip(index, shape, strict=True):
            if not isinstance(i, Expr):
                continue
            for op, limit, sure in (
                ("ge", ZERO, bounds(i, self.ranges)[0] >= 0),
                ("lt", size, self.axes.get(str(i)) == size or bounds(i - size, self.ranges)[1] < 0),
            ):
                if sure:
                    continue
                test = Binary(op, IndexValue(i), IndexValue(limit))
                result = test if result is None else Binary("and", result, test)
        return result

    # -- statements ----------------------------------------------------------------------------------------------

    def reduce(self, op: str, axes: Sequence[Expr], value: Value, hint: str = "r") -> Value:
        """The reduction of ``value`` over ``axes``, as a tile over whatever other axes it depends on."""
        names = tuple(str(a) for a in axes)
        over = self.ordered(free_axes(value) - set(names))
        tile = self.fresh(hint)
        self._scopes[-1].append(Define(tile, over, value, Reduction(op, names)))
        return Ref(tile, over, value.dtype)

    def define(self, value: Value, hint: str = "t") -> Value:
        """``value`` as a tile of its own."""
        over = self.ordered(free_axes(value))
        tile = self.fresh(hint)
        self._scopes[-1].append(Define(tile, over, value))
        return Ref(tile, over, value.dtype)

    def scan(self, axis: Expr, inits: Mapping[str, tuple[Collection[str], Const]], step: Step) -> dict[str, Value]:
        """A scan over ``axis``. ``inits`` gives each carry's axes and start; ``step`` maps carries to the next ones.

        Returns the carries' final values.
        """
        carries = {n: Carry(self.fresh(n), self.ordered(over), init) for n, (over, init) in inits.items()}
        refs: dict[str, Value] = {n: Ref(c.tile, c.axes, c.init.dtype) for n, c in carries.items()}
        inner: list[Statement] = []
        self._scanned.add(str(axis))
        self._scopes.append(inner)
        nexts = {name: self._as_ref(value, carries[name].axes) for name, value in step(refs).items()}
        self._scopes.pop()
        body = tuple(s for s in inner if isinstance(s, Define))
        yields = tuple((carries[n].tile, nexts[n].tile) for n in carries)
        self._scopes[-1].append(Scan(str(axis), tuple(carries.values()), body, yields))
        return refs

    def ordered(self, names: Collection[str]) -> tuple[str, ...]:
        """Those of ``names`` that are axes, in order of creation."""
        return tuple(a for a in self.axes if a in names)

    def _as_ref(self, value: Value, axes: tuple[str, ...]) -> Ref:
        if isinstance(value, Ref) and value.axes == axes:
            return value
        tile = self.fresh("next")
        self._scopes[-1].append(Define(tile, axes, value))
        return Ref(tile, axes, value.dtype)

    def output(self, name: str, type_: TensorType, alias: str | None = None) -> None:
        """Declare an output parameter, the new contents of parameter ``alias``."""
        self.params.append(Param(name, type_.dtype, type_.shape, "out", alias))

    def store(self, name: str, axes: Sequence[Expr], index: Sequence[Index], value: Value) -> None:
        """``name[index] = value`` over ``axes``."""
        names = tuple(str(a) for a in axes)
        entries = tuple(simplify(i, self.ranges) if isinstance(i, Expr) else i for i in index)
        self.body.append(Store(name, names, entries, value))

    def kernel(self) -> Kernel:
        """The finished kernel; only symbols and axes that occur are kept."""
        body = share_subexpressions(self.body, tuple(self.axes), self.fresh)
        used_axes = {a for s in body for a in statement_axes(s)}
        axes = tuple(Axis(n, e) for n, e in self.axes.items() if n in used_axes)
        return Kernel(self.name, tuple(self.params), tuple(self.facts.items()), axes, body)


def _in_memory(x: Operand) -> bool:
    """Whether the elements of ``x`` are read from memory at indices of their own, in whatever order of axes."""
    return x.origin[0] == PARAMETER or (x.origin[0] == PERMUTED and _in_memory(x.origin[1][0]))


def is_empty(type_: TensorType) -> bool:
    """Whether a tensor has no elements whatever the open sizes are."""
    return any(size == ZERO for size in type_.shape)


Step = Callable[[Mapping[str, Value]], Mapping[str, Value]]


def free_axes(v: Index) -> frozenset[str]:
    """Names of index variables and dimension symbols that a value or index hangs on."""
    # What is composed here is a graph with shared parts (x · sigmoid(x), thirty deep): each part is looked at once.
    names: set[str] = set()
    seen: set[int] = set()
    pending: list[Index] = [v]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        match current:
            case Expr():
                names |= current.symbols
            case Ref(axes=axes):
                names.update(axes)
            case IndexValue(index=index):
                names |= index.symbols
            case Load(index=indices):
                pending += indices
            case _:
                pending += operands(current)
    return frozenset(names)


def statement_axes(s: Statement) -> frozenset[str]:
    """Every axis that a statement runs over."""
    match s:
        case Define(axes=axes, reduce=reduce):
            return frozenset(axes) | frozenset(reduce.axes if reduce else ())
        case Store(axes=axes):
            return frozenset(axes)
        case Scan(axis=axis, carries=carries, body=body):
            inner = [statement_axes(d) for d in body] + [frozenset(c.axes) for c in carries]
            return frozenset([axis]).union(*inner)


# -- short ways to write expressions ---------------------------------------------------------------------------------


def const(value: float | int | bool, dtype: DType) -> Const:
    """A literal, with a Python value of the dtype's kind."""
    if dtype is DType.BOOL:
        return Const(bool(value), dtype)
    return Const(float(value) if dtype.is_float else int(value), dtype)


def cast(v: Value, dtype: DType) -> Value:
    """``v`` as ``dtype``; nothing when it already is."""
    if v.dtype is dtype:
        return v
    if isinstance(v, Const) and dtype.is_float and v.dtype.is_float:
        return Const(_rounded(v.value, dtype), dtype)
    return Cast(dtype, v)


def _rounded(number: float, dtype: DType) -> float:
    """``number`` as ``dtype`` holds it: a literal cast to a narrow dtype and back has lost its last digits."""
    with np.errstate(over="ignore"):
        return float(np.asarray(number).astype(dtype.numpy))


def size_of(e: Expr, dtype: DType) -> Value:
    """An integer expression as a value of ``dtype``."""
    return const(e.value, dtype) if e.is_constant else cast(IndexValue(e), dtype)


def unary(op: str, x: Value) -> Value:
    """``op(x)``."""
    return Unary(op, x)


def binary(op: str, a: Value, b: Value | float | int) -> Value:
    """``a op b``; a Python number takes the dtype of ``a``."""
    other = const(b, a.dtype) if isinstance(b, int | float) else b
    if a.dtype is not other.dtype:
        raise TypeError(f"{op} of {a.dtype} and {other.dtype}")
    return Binary(op, a, other)


def select(cond: Value, a: Value, b: Value | float | int) -> Value:
    """``a if cond else b``; a Python number takes the dtype of ``a``."""
    return Select(cond, a, const(b, a.dtype) if isinstance(b, int | float) else b)
