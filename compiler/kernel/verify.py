"""Whether a lowered kernel is well formed. Every problem is found and named, not just the first."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from tilewright.errors import InternalError
from tilewright.ir.ranges import Range, bounds
from tilewright.ir.symbolic import ZERO, Expr
from tilewright.ir.types import DType
from tilewright.kernel.analysis import gathered, index_symbols, loads_of, used_symbols, walk
from tilewright.kernel.expr import IndexValue, Load, Ref, Value
from tilewright.kernel.print import print_value
from tilewright.kernel.proof import at_most, inside
from tilewright.kernel.tile import REDUCTIONS, Carry, Define, Kernel, Param, Scan, Store
from tilewright.kernel.typecheck import type_problems


class InvalidKernel(InternalError):
    """A kernel that breaks a rule of the tile IR; ``problems`` lists them all."""

    def __init__(self, kernel: str, problems: tuple[str, ...]):
        super().__init__(f"kernel {kernel} is not well formed:\n" + "\n".join(f"  {p}" for p in problems))
        self.problems = problems


def verify_kernel(kernel: Kernel) -> None:
    """Raises :class:`InvalidKernel` with every rule that ``kernel`` breaks."""
    problems = tuple(dict.fromkeys(kernel_problems(kernel)))
    if problems:
        raise InvalidKernel(kernel.name, problems)


def kernel_problems(kernel: Kernel) -> Iterator[str]:
    """What is wrong with ``kernel``, one sentence each."""
    yield from _names(kernel)
    yield from _sizes(kernel)
    checker = _Body(kernel)
    for s in kernel.body:
        match s:
            case Define():
                yield from checker.define(s)
            case Store():
                yield from checker.store(s)
            case Scan():
                yield from checker.scan(s)
    for p in kernel.params:
        if p.role == "out":
            if not any(isinstance(s, Store) and s.tensor == p.name for s in kernel.body):
                yield f"output {p.name} is never stored"
            yield from _alias(kernel, p)


def _names(kernel: Kernel) -> Iterator[str]:
    tiles = [d.tile for d in _definitions(kernel)]
    for s in kernel.body:
        if isinstance(s, Scan):
            tiles += [c.tile for c in s.carries]
    seen: dict[str, str] = {}
    for kind, names in (
        ("a parameter", [p.name for p in kernel.params]),
        ("an axis", [a.name for a in kernel.axes]),
        ("a dimension", [n for n, _ in kernel.facts]),
        ("a tile", tiles),
    ):
        for name in names:
            if not name.isidentifier():
                yield f"{name!r} is no identifier"
            if name in seen:
                yield f"{name} is {seen[name]} and {kind}" if seen[name] != kind else f"{name} is {kind} twice"
            seen[name] = kind


def _definitions(kernel: Kernel) -> Iterator[Define]:
    for s in kernel.body:
        if isinstance(s, Define):
            yield s
        elif isinstance(s, Scan):
            yield from s.body


def _sizes(kernel: Kernel) -> Iterator[str]:
    known = {n for n, _ in kernel.facts}
    for name, r in kernel.facts:
        if r.lo > r.hi or r.divisor < 1:
            yield f"the facts of {name} cannot hold: {r.lo} to {r.hi}, a multiple of {r.divisor}"
    for what, sizes in [(f"parameter {p.name}", p.shape) for p in kernel.params] + [
        (f"axis {a.name}", (a.extent,)) for a in kernel.axes
    ]:
        for size in sizes:
            if missing := sorted(size.symbols - known):
                yield f"{what}: nothing is known of {', '.join(missing)} in {size}"
            elif not at_most(ZERO, size, dict(kernel.facts)):
                yield f"{what}: {size} may be negative"


def _alias(kernel: Kernel, out: Param) -> Iterator[str]:
    """In place is safe when an element is read only where it is written."""
    if out.alias is None:
        return
    source = next((p for p in kernel.params if p.name == out.alias), None)
    if source is None or source.role == "out":
        yield f"output {out.name} aliases {out.alias}, which is no input"
        return
    if (source.dtype, source.shape) != (out.dtype, out.shape):
        yield f"output {out.name} aliases {out.alias} of another type"
    written = {s.index for s in kernel.body if isinstance(s, Store) and s.tensor == out.name}
    stores = [s for s in kernel.body if isinstance(s, Store)]
    sites: list[Define | Store] = [*_definitions(kernel), *stores]
    for d in sites:
        reduced = set(d.reduce.axes) if isinstance(d, Define) and d.reduce is not None else set()
        for load in loads_of(d.value):
            if load.tensor == out.alias and ({load.index} != written or used_symbols(load) & reduced):
                yield f"{print_value(load)} reads what the aliased output {out.name} may have overwritten"


@dataclass(slots=True)
class _Body:
    kernel: Kernel
    tiles: dict[str, tuple[tuple[str, ...], DType]] = field(default_factory=dict)
    axes: frozenset[str] = frozenset()
    dims: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.axes = frozenset(a.name for a in self.kernel.axes)
        self.dims = frozenset(n for n, _ in self.kernel.facts)

    def define(self, d: Define) -> Iterator[str]:
        where = f"tile {d.tile}"
        reduced = d.reduce.axes if d.reduce is not None else ()
        yield from self._axis_list(where, (*d.axes, *reduced))
        if d.reduce is not None:
            if d.reduce.op not in REDUCTIONS:
                yield f"{where}: unknown reduction {d.reduce.op}"
            if not reduced:
                yield f"{where}: a reduction over no axis"
            if d.reduce.op not in ("any", "all") and d.value.dtype is DType.BOOL:
                yield f"{where}: {d.reduce.op} of bool"
            if d.reduce.op in ("any", "all") and d.value.dtype is not DType.BOOL:
                yield f"{where}: {d.reduce.op} of {d.value.dtype}, expected bool"
        yield from self._value(where, d.value, (*d.axes, *reduced))
        self.tiles[d.tile] = (d.axes, d.value.dtype)

    def store(self, s: Store) -> Iterator[str]:
        where = f"store to {s.tensor}"
        yield from self._axis_list(where, s.axes)
        yield from self._value(where, s.value, s.axes)
        param = next((p for p in self.kernel.params if p.name == s.tensor), None)
        if param is None or param.role != "out":
            yield f"{where}: it is no output"
            return
        if param.dtype is not s.value.dtype:
            yield f"{where}: {s.value.dtype} into {param.dtype}"
        yield from self._indices(where, s.tensor, s.index, s.axes, True)
        for i in gathered(s.index):
            yield from self._value(where, i, s.axes)
        used = index_symbols(s.index)
        for axis in s.axes:
            if axis not in used and axis in self.axes and bounds(self.kernel.extent(axis), self._facts())[1] > 1:
                yield f"{where}: every position of {axis} writes the same element"
        for name in {str(i) for i in s.index if isinstance(i, Expr) and str(i) in s.axes}:
            if sum(str(i) == name for i in s.index) > 1:
                yield f"{where}: only the diagonal along {name} is written"
        if len(self._stores(s.tensor)) == 1 and param.alias is None:
            yield from self._coverage(where, s, param)

    def _stores(self, tensor: str) -> list[Store]:
        return [x for x in self.kernel.body if isinstance(x, Store) and x.tensor == tensor]

    def _coverage(self, where: str, s: Store, param: Param) -> Iterator[str]:
        """Dimensions indexed by a plain axis, or by a constant, are written whole."""
        for n, (i, size) in enumerate(zip(s.index, param.shape, strict=False)):
            if not isinstance(i, Expr):
                continue
            written = self.kernel.extent(str(i)) if str(i) in self.axes else i if i.is_constant else None
            if written is None:
                continue
            written = written if str(i) in self.axes else written * 0 + 1
            if bounds(size - written, self._facts())[0] > 0:
                yield f"{where}: only {written} of the {size} elements of dimension {n} are written"

    def scan(self, s: Scan) -> Iterator[str]:
        where = f"scan over {s.axis}"
        yield from self._axis_list(where, (s.axis,))
        carries = {c.tile: c for c in s.carries}
        for c in s.carries:
            yield from self._axis_list(f"carry {c.tile}", c.axes)
            if s.axis in c.axes:
                yield f"carry {c.tile} runs over the scanned axis {s.axis}"
            self.tiles[c.tile] = (c.axes, c.init.dtype)
            yield from type_problems(c.init)
        outside = set(self.tiles)
        for d in s.body:
            yield from self.define(d)
            if d.tile in carries:
                yield f"{where}: carry {d.tile} is assigned in the body; yield its new value"
        if sorted(c for c, _ in s.yields) != sorted(carries):
            yield f"{where}: carries {', '.join(carries)} but yields {', '.join(c for c, _ in s.yields) or 'nothing'}"
        for carry, tile in s.yields:
            if carry in carries:
                yield from self._yielded(where, carries[carry], tile)
        self.tiles = {n: t for n, t in self.tiles.items() if n in outside}

    def _yielded(self, where: str, carry: Carry, tile: str) -> Iterator[str]:
        if tile not in self.tiles:
            yield f"{where}: yields {tile}, which is no tile"
        elif self.tiles[tile] != (carry.axes, carry.init.dtype):
            axes, dtype = self.tiles[tile]
            expected = f"{carry.init.dtype}[{', '.join(carry.axes)}]"
            yield f"{where}: carry {carry.tile} is {expected} but {tile} is {dtype}[{', '.join(axes)}]"

    # -- values ------------------------------------------------------------------------------------------------

    def _value(self, where: str, value: Value, bound: Collection[str]) -> Iterator[str]:
        for problem in type_problems(value):
            yield f"{where}: {problem}"
        for name in sorted(used_symbols(value) - set(bound) - self.dims):
            kind = "axis" if name in self.axes else "unknown name"
            yield f"{where}: {kind} {name} is not among [{', '.join(bound)}]"
        for v in walk(value):
            match v:
                case Ref():
                    yield from self._ref(where, v)
                case Load():
                    yield from self._load(where, v, bound)
                case IndexValue(dtype=DType.BOOL):
                    yield f"{where}: an index value of type bool"

    def _ref(self, where: str, v: Ref) -> Iterator[str]:
        if v.tile not in self.tiles:
            yield f"{where}: tile {v.tile} is read before it is assigned, or outside its scan"
        elif self.tiles[v.tile] != (v.axes, v.dtype):
            axes, dtype = self.tiles[v.tile]
            yield f"{where}: {v.tile} is {dtype}[{', '.join(axes)}], read as {v.dtype}[{', '.join(v.axes)}]"

    def _load(self, where: str, v: Load, bound: Collection[str]) -> Iterator[str]:
        param = next((p for p in self.kernel.params if p.name == v.tensor), None)
        if param is None:
            yield f"{where}: {v.tensor} is no parameter"
            return
        if param.role == "out":
            yield f"{where}: output {v.tensor} is read"
        if param.dtype is not v.dtype:
            yield f"{where}: {v.tensor} is {param.dtype}, read as {v.dtype}"
        yield from self._indices(where, v.tensor, v.index, bound, v.fill is None)

    def _indices(
        self, where: str, tensor: str, index: tuple[Expr | Value, ...], bound: Collection[str], prove: bool
    ) -> Iterator[str]:
        shape = self.kernel.param(tensor).shape
        if len(index) != len(shape):
            yield f"{where}: {tensor} has {len(shape)} dimensions, indexed by {len(index)}"
            return
        extents = {a.name: a.extent for a in self.kernel.axes if a.name in bound}
        for n, (i, size) in enumerate(zip(index, shape, strict=True)):
            if not isinstance(i, Expr):
                if not i.dtype.is_integer:
                    yield f"{where}: {tensor} is gathered by a value of type {i.dtype}"
            elif prove and i.symbols <= extents.keys() | self.dims and not inside(i, size, extents, self._facts()):
                yield f"{where}: cannot prove 0 <= {i} < {size} in dimension {n} of {tensor}"

    def _facts(self) -> dict[str, Range]:
        return dict(self.kernel.facts)

    def _axis_list(self, where: str, axes: tuple[str, ...]) -> Iterator[str]:
        for name in axes:
            if name not in self.axes:
                yield f"{where}: {name} is no axis of the kernel"
        if len(set(axes)) != len(axes):
            yield f"{where}: an axis occurs twice in [{', '.join(axes)}]"
