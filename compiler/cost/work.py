"""The least work of a lowered kernel: operations and bytes, as expressions over its dimension symbols."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from tilewright.cost.footprint import bytes_read, bytes_written
from tilewright.cost.kind import defines_of, is_conversion, kind_of, products_of
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import ZERO, Expr, IntLike, product
from tilewright.ir.types import DType
from tilewright.kernel.analysis import used_symbols, walk
from tilewright.kernel.expr import Binary, Cast, Unary, Value
from tilewright.kernel.hidden import visible_limit
from tilewright.kernel.tile import Kernel, Scan, Store

#: Operations that are one instruction of a vector unit on every target. Comparisons, selections, casts, logic and
#: index arithmetic are not counted: they are no arithmetic of the model.
PLAIN = frozenset("add sub mul min max neg abs floor ceil round sign".split())
#: Operations that cost several plain ones; how many is data of the target.
FUNCTIONS = frozenset(
    "div mod fmod pow exp log log2 exp2 sqrt rsqrt reciprocal sin cos tan asin acos atan sinh cosh tanh asinh acosh "
    "atanh erf sigmoid".split()
)
#: Reductions that are arithmetic; ``any`` and ``all`` are logic.
COUNTED_REDUCTIONS = frozenset(["sum", "prod", "max", "min"])


@dataclass(frozen=True, slots=True)
class Amount:
    """:class:`Work` at given sizes: numbers of operations and bytes."""

    flops: int
    functions: Mapping[str, int]
    read: int
    written: int
    constants: int

    @property
    def bytes(self) -> int:
        """All memory touched, each byte once."""
        return self.read + self.written + self.constants


@dataclass(frozen=True, slots=True)
class Work:
    """What a kernel has to do, each value computed once for each position of the axes on which it depends.

    Attributes:
        kind: of :data:`tilewright.cost.kind.KINDS`.
        dtype: the element type whose arithmetic the kernel's operations are: that of a product's operands before they
            are widened, else the widest that is computed in; empty where nothing is computed.
        flops: plain operations; a multiply-add is two. Taps of a convolution that fall into the padding count.
        functions: calls of each function that costs several plain operations, by its name in the tile IR.
        read: bytes of inputs touched, each once.
        written: bytes of outputs.
        constants: bytes of constants touched, each once.
        conversion: whether the kernel only changes the order of one tensor's elements.
    """

    kind: str
    dtype: str
    flops: Expr
    functions: tuple[tuple[str, Expr], ...]
    read: Expr
    written: Expr
    constants: Expr
    conversion: bool = False

    def at(self, sizes: Mapping[str, int]) -> Amount:
        """The numbers at these sizes. Raises ``KeyError`` for a symbol without one."""
        return Amount(
            flops=self.flops.evaluate(sizes),
            functions={name: count.evaluate(sizes) for name, count in self.functions},
            read=self.read.evaluate(sizes),
            written=self.written.evaluate(sizes),
            constants=self.constants.evaluate(sizes),
        )

    def substitute(self, values: Mapping[str, IntLike]) -> Work:
        """The same work over other symbols."""
        return replace(
            self,
            flops=self.flops.substitute(values),
            functions=tuple((name, count.substitute(values)) for name, count in self.functions),
            read=self.read.substitute(values),
            written=self.written.substitute(values),
            constants=self.constants.substitute(values),
        )


@lru_cache(maxsize=1024)
def work_of(kernel: Kernel) -> Work:
    """The work of a lowered kernel.

    What depends on fewer axes than the statement it stands in is computed once for each position of those. In a scan,
    what does not depend on the scanned axis counts once: how often it is repeated is the schedule's choice. What a scan
    provably hides (the keys after a query) is no work.
    """
    counts = _operations(kernel)
    return Work(
        kind=kind_of(kernel),
        dtype=_dtype(kernel),
        flops=sum((n for name, n in counts.items() if name in PLAIN), ZERO),
        functions=tuple(sorted((name, n) for name, n in counts.items() if name in FUNCTIONS)),
        read=bytes_read(kernel, "in"),
        written=bytes_written(kernel),
        constants=bytes_read(kernel, "const"),
        conversion=is_conversion(kernel),
    )


def _operations(kernel: Kernel) -> dict[str, Expr]:
    """Operations by name."""
    extents = {a.name: a.extent for a in kernel.axes}
    visible = [found for s in kernel.body if isinstance(s, Scan) and (found := visible_pairs(kernel, s))]
    counts: dict[str, Expr] = {}

    def add(name: str, axes: Iterable[str]) -> None:
        left = {a for a in axes if a in extents}
        for column, row, pairs in visible:
            if {column, row} <= left:
                counts[name] = counts.get(name, ZERO) + pairs * product(
                    extents[a] for a in sorted(left - {column, row})
                )
                return
        counts[name] = counts.get(name, ZERO) + product(extents[a] for a in sorted(left))

    for value in _values(kernel):
        for v in dict.fromkeys(walk(value)):
            if isinstance(v, Binary | Unary) and v.op in PLAIN | FUNCTIONS:
                add(v.op, used_symbols(v))
    for define in defines_of(kernel):
        if define.reduce is not None and define.reduce.op in COUNTED_REDUCTIONS:
            add("add", {*define.axes, *define.reduce.axes})
    return counts


def visible_pairs(kernel: Kernel, scan: Scan) -> tuple[str, str, Expr] | None:
    """The scanned axis, the axis of rows, and how many pairs of the two are not hidden, as under a causal mask.

    Row ``i`` sees ``i + c`` positions, so that ``n`` rows see ``n * (c + (n - 1 + c)) / 2`` pairs. ``None`` where
    nothing is known to be hidden, or a row may see less than nothing or more than there is.
    """
    limit = visible_limit(scan)
    rows = [] if limit is None else [a for a in kernel.axes if a.name in limit.symbols]
    if limit is None or len(rows) != 1:
        return None
    (row,), facts = rows, dict(kernel.facts)
    try:
        if limit.coefficient(row.name) != 1:
            return None
    except ValueError:
        return None
    first, last = limit.substitute({row.name: 0}), limit.substitute({row.name: row.extent - 1})
    if bounds(first, facts)[0] < 0 or bounds(kernel.extent(scan.axis) - last, facts)[0] < 0:
        return None
    return scan.axis, row.name, (first + last) * row.extent // 2


def _values(kernel: Kernel) -> Iterator[Value]:
    yield from (d.value for d in defines_of(kernel))
    yield from (s.value for s in kernel.body if isinstance(s, Store))


def _dtype(kernel: Kernel) -> str:
    for found in products_of(kernel):
        return str(max((_narrow(found.a), _narrow(found.b)), key=lambda d: d.bits))
    computed = [
        (v.a if isinstance(v, Binary) else v.x).dtype
        for value in _values(kernel)
        for v in walk(value)
        if isinstance(v, Binary | Unary) and v.op in PLAIN | FUNCTIONS
    ]
    computed += [d.value.dtype for d in defines_of(kernel) if d.reduce is not None]
    return str(max(computed, key=lambda d: (d.is_float, d.bits))) if computed else ""


def _narrow(value: Value) -> DType:
    """The element type of an operand before it is widened."""
    while isinstance(value, Cast):
        value = value.x
    return value.dtype
