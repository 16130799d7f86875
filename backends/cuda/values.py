"""Values of the tile IR as Triton text, in a frame; broadcasts are derived from the named axes."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field

from tilewright.backends.cuda.functions import (
    LANGUAGE,
    NARROW,
    UNIT_FLOATS,
    binary_text,
    is_comparison,
    literal,
    rounded,
    unary_text,
)
from tilewright.backends.cuda.packed import Pairs, pairs_of
from tilewright.backends.cuda.positions import INT32_END, Frame, Position, Positions, Spelled, spread
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr, constant, product, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import gathered, offset_of, used_symbols
from tilewright.kernel.expr import Binary, Cast, Const, IndexValue, Load, Ref, Select, Unary, Value
from tilewright.kernel.schedule import ScheduleError
from tilewright.kernel.tile import Kernel


@dataclass(frozen=True, slots=True)
class Condition:
    """A truth value along ``dims``, of that rank; ``text`` is an operand."""

    text: str
    dims: Frame


@dataclass(slots=True)
class Values:
    """Spells values inside one scope.

    Attributes:
        line: writes one line of program text.
        fresh: a variable name that nothing has, from a stem.
        early: writes a line as far up as what it depends on, those axes, allows.
        tiles: the frame that each tile was made in.
        loaded: what has been read in this scope: key → (variable, its frame).
        native: tensors whose elements are read as a matrix unit takes them, not as they are in registers otherwise.
        faults: whether some index is known at run time only, so that the program needs a place to tell of a bad one.
    """

    kernel: Kernel
    at: Positions
    line: Callable[[str], None]
    fresh: Callable[[str], str]
    early: Callable[[str, Container[str]], None]
    tiles: dict[str, Frame] = field(default_factory=dict)
    loaded: dict[object, tuple[str, Frame]] = field(default_factory=dict)
    native: frozenset[str] = frozenset()
    faults: bool = False

    def spell(self, v: Value, frame: Frame, guards: frozenset[str]) -> Spelled:
        """``v`` in ``frame``; reads of memory are masked along ``guards`` and become variables of their own."""
        match v:
            case Const(value=value, dtype=dtype):
                return Spelled(literal(value, dtype))
            case IndexValue(index=index, dtype=dtype):
                s = self.at.index(index, frame)
                return Spelled(f"tl.cast({s.text}, tl.{LANGUAGE[dtype]})", s.dims)
            case Load():
                return self._load(v, frame, guards)
            case Ref(tile=tile, axes=axes):
                return self._ref(tile, axes, frame)
            case Cast(dtype=dtype, x=Const(value=value)):
                return self.spell(Const(value, dtype), frame, guards)
            case Cast(dtype=DType.F16, x=Load(dtype=DType.I4 | DType.U4) as x):
                return self._load(x, frame, guards, DType.F16)
            case Cast(dtype=dtype, x=x):
                return self._cast(self.spell(x, frame, guards), x.dtype, dtype)
            case Unary(op=op, x=x):
                s = self.spell(x, frame, guards)
                return Spelled(unary_text(op, s, x.dtype), s.dims)
            case Binary(op=op, a=a, b=b):
                left, right = self._indices(v, frame) or (self.spell(a, frame, guards), self.spell(b, frame, guards))
                text = binary_text(op, left, right, a.dtype)
                return Spelled(text, left.dims | right.dims)
            case Select(cond=c, a=a, b=b):
                parts = [self.spell(x, frame, guards) for x in (c, a, b)]
                dims = parts[0].dims | parts[1].dims | parts[2].dims
                text = f"tl.where({', '.join(p.text for p in parts)})"
                literals = all(isinstance(x, Const) for x in (a, b))
                return Spelled(f"{text}.to(tl.{LANGUAGE[a.dtype]})" if literals else text, dims)

    def masks(self, axes: Iterable[str]) -> list[Condition]:
        """Conditions that hold on the lanes inside each of ``axes``."""
        found = (self.at.axes[a] for a in axes)
        return [Condition(p.mask, (p.dim,) if p.dim else ()) for p in found if p.mask is not None]

    def offset(
        self, tensor: str, index: tuple[Expr | Value, ...], frame: Frame, guards: frozenset[str]
    ) -> tuple[Spelled, list[Condition]]:
        """The element offset of ``tensor[index]`` from its base, in 64 bits where 32 do not do, and the conditions
        under which run-time indices are inside; where a lane that is none of padding has one outside, the run is
        refused."""
        p = self.kernel.param(tensor)
        wide = bounds(product(p.shape), self.at.facts)[1] >= INT32_END
        total, gathered, dims = constant(0), [], frozenset[str]()
        conditions: list[Condition] = []
        for k, i in enumerate(index):
            stride = product(p.shape[k + 1 :])
            if isinstance(i, Expr):
                total = total + i * stride
                continue
            row, inside = self._row(i, p.shape[k], frame, guards)
            conditions.append(inside)
            dims |= row.dims
            at = f"{row.operand}.to(tl.int64)" if wide and i.dtype is not DType.I64 else row.operand
            gathered.append(f"{at} * {self.at.index(stride, (), wide).operand}" if stride != 1 else at)
        s = self.at.index(total, frame, wide)
        parts = gathered if total == 0 and gathered else [s.text, *gathered]
        return Spelled(" + ".join(parts), s.dims | dims), conditions

    def _row(self, i: Value, size: Expr, frame: Frame, guards: frozenset[str]) -> tuple[Spelled, Condition]:
        """A run-time index as a variable in ``frame``, and the condition that it is inside; one outside is told of."""
        names = used_symbols(i)
        axes = [a for a in self.at.axes if a in names]
        varying = {d for a in axes if (d := self.at.dim(a)) is not None}
        own = tuple(d for d in frame if d in varying)
        s = self.spell(i, own, guards)
        own = own if s.dims else ()
        row, inside = self.fresh("row"), self.fresh("row_in")
        self.line(f"{row} = {s.text}")
        self.line(f"{inside} = ({row} >= 0) & ({row} < {self.at.index(size, ()).operand})")
        live = [f"({inside} == 0)", *(spread(c.text, own, c.dims) for c in self.masks(a for a in axes if a in guards))]
        self.line(f"_refuse(fault, {' & '.join(live)})")
        self.faults = True
        return Spelled(spread(row, frame, own), frozenset(own)), Condition(inside, own)

    def _is_still(self, v: Load) -> bool:
        """Whether a read needs one line, and no store of this kernel changes what it finds."""
        changed = {x for p in self.kernel.params if p.role == "out" for x in (p.name, p.alias)}
        return v.tensor not in changed and v.dtype.bits >= 8 and all(isinstance(i, Expr) for i in v.index)

    # -- reads ---------------------------------------------------------------------------------------------------

    def _load(self, v: Load, frame: Frame, guards: frozenset[str], wanted: DType | None = None) -> Spelled:
        """A read as a variable; as ``wanted`` (f16, of 4-bit integers) where that is another type."""
        names = used_symbols(v)
        axes = [a for a in self.at.axes if a in names]
        dims = {d for a in axes if (d := self.at.dim(a)) is not None}
        own = tuple(d for d in frame if d in dims)
        masked = [a for a in axes if a in guards]
        key: tuple[object, ...] = (v, own, tuple(masked), tuple(self.at.axes[a].name for a in axes))
        pairs = self._pairs(v, own)
        if wanted is not None and pairs is None:
            return self._cast(self._load(v, frame, guards), v.dtype, wanted)
        if pairs is not None:
            key = (*key, wanted)
        if key not in self.loaded and pairs is not None:
            self.loaded[key] = (self._read_pairs(v, pairs, own, masked, "" if wanted is None else f"_{wanted}"), own)
        if key not in self.loaded:
            offset, inside = self.offset(v.tensor, v.index, own, guards)
            conditions = [*self.masks(masked), *inside, *self._inside(v, own)]
            text = self._read(v, offset, own, conditions)
            self.loaded[key] = (self.fresh(v.tensor.lower()), own)
            line = f"{self.loaded[key][0]} = {text}"
            # What stays in a loop is read before it: Triton does not move reads, of which an empty loop has none.
            if self._is_still(v) and not inside:
                self.early(line, axes)
            else:
                self.line(line)
        name, own = self.loaded[key]
        return Spelled(spread(name, frame, own), frozenset(own))

    def _pairs(self, v: Load, frame: Frame) -> Pairs | None:
        """How a read of 4-bit integers is one of pairs; ``None`` where it is not."""
        if v.dtype not in (DType.I4, DType.U4) or v.fill is not None or gathered(v.index):
            return None
        return pairs_of(
            offset_of(self.kernel.param(v.tensor), tuple(i for i in v.index if isinstance(i, Expr))), frame, self.at
        )

    def _read_pairs(self, v: Load, pairs: Pairs, frame: Frame, masked: list[str], kind: str) -> str:
        """A variable with the elements of ``v``, of which each byte is read once."""
        p = self.at.axes[pairs.axis]
        assert p.dim is not None
        order = (*(d for d in frame if d != p.dim), p.dim)
        half = self.fresh(pairs.half)
        lanes = self.at.lanes[p.dim] // 2
        start = self.at.index(pairs.start, ()).operand
        self.line(f"{half} = {start} + tl.arange(0, {lanes})")
        self.at.axes[pairs.half] = Position(half, p.dim)
        offset = self.at.index(pairs.offset, order).operand
        del self.at.axes[pairs.half]
        conditions = self.masks(a for a in masked if a != pairs.axis)
        if pairs.axis in masked and p.mask is not None:
            conditions.append(Condition(f"({half} * 2 < {self.at.index(p.end, ()).operand})", (p.dim,)))
        more = f", mask={conjunction(conditions, order)}, other=0" if conditions else ""
        codes, name = self.fresh(f"{v.tensor.lower()}_bytes"), self.fresh(v.tensor.lower())
        self.line(f"{codes} = tl.load({v.tensor} + {offset}{more})")
        text = f"_{v.dtype}_pairs{kind}({codes})"
        self.line(
            f"{name} = {text}"
            if order == frame
            else f"{name} = tl.permute({text}, {tuple(order.index(d) for d in frame)})"
        )
        return name

    def _read(self, v: Load, offset: Spelled, frame: Frame, conditions: list[Condition]) -> str:
        """What is read at ``offset`` where ``conditions`` hold, as it is in registers."""
        mask = conjunction(conditions, frame)
        plain = v.dtype.bits >= 8 and (v.dtype not in NARROW or v.tensor in self.native)
        if plain:
            pointer = v.tensor if v.tensor not in self.native else f"{v.tensor}_{UNIT_FLOATS[v.dtype]}"
            more = f", mask={mask}, other={literal(v.fill or 0, v.dtype)}" if mask else ""
            return f"tl.load({pointer} + {offset.operand}{more})"
        more = f", mask={mask}, other=0" if mask else ""
        if v.dtype.bits >= 8:
            text = f"_{v.dtype}_value(tl.load({v.tensor} + {offset.operand}{more}))"
        else:
            at = self.fresh("at")
            self.line(f"{at} = {offset.text}")
            code = f"tl.load({v.tensor} + {at} // {8 // v.dtype.bits}{more})"
            text = f"_get_packed({code}, {at}, {v.dtype.bits}, {v.dtype.is_integer and v.dtype.is_signed})"
            text = f"_{v.dtype}_value({text})" if v.dtype in NARROW else text
        return f"tl.where({mask}, {text}, {literal(v.fill, v.dtype)})" if v.fill is not None and mask else text

    def _inside(self, v: Load, frame: Frame) -> list[Condition]:
        """Conditions that keep a filled read inside its tensor, those that always hold left out."""
        if v.fill is None:
            return []
        conditions = []
        for i, size in zip(v.index, self.kernel.param(v.tensor).shape, strict=True):
            if not isinstance(i, Expr):
                continue  # checked where it is computed
            if (axis := self._same(i, size)) is not None:
                conditions += self.masks([axis])
                continue
            dims = tuple(d for d in frame if d in self.at.index(i, frame).dims)
            at = self.at.index(i, dims).text
            if bounds(i, self.at.facts)[0] < 0:
                conditions.append(Condition(f"({at} >= 0)", dims))
            if bounds(size - 1 - i, self.at.facts)[0] < 0:
                conditions.append(Condition(f"({at} < {self.at.index(size, ()).text})", dims))
        return conditions

    def _same(self, index: Expr, size: Expr) -> str | None:
        """The axis that ``index`` is, when it runs over exactly ``0 … size - 1``."""
        return next((a.name for a in self.kernel.axes if index == symbol(a.name) and a.extent == size), None)

    def _ref(self, tile: str, axes: tuple[str, ...], frame: Frame) -> Spelled:
        made, now = self.tiles[tile], self.at.frame(axes)
        if set(made) != set(now):
            raise ScheduleError(
                self.kernel.name, f"tile {tile} is read in pieces, which Triton's registers do not allow"
            )
        text, order = tile, tuple(d for d in frame if d in made)
        if order != made:
            text = f"tl.permute({tile}, {tuple(made.index(d) for d in order)})"
        return Spelled(spread(text, frame, order), frozenset(made))

    # -- parts ---------------------------------------------------------------------------------------------------

    def _indices(self, v: Binary, frame: Frame) -> tuple[Spelled, Spelled] | None:
        """Two index values that are compared, left in 32 bits where that is enough."""
        if not (is_comparison(v) and isinstance(v.a, IndexValue) and isinstance(v.b, IndexValue)):
            return None
        ranges = [bounds(x.index, self.at.facts) for x in (v.a, v.b)]
        if any(lo < -INT32_END or hi >= INT32_END for lo, hi in ranges):
            return None
        return self.at.index(v.a.index, frame), self.at.index(v.b.index, frame)

    @staticmethod
    def _cast(s: Spelled, before: DType, after: DType) -> Spelled:
        if before is after:
            return s
        if after is DType.BOOL:
            return Spelled(f"{s.operand} != 0", s.dims)
        if not s.dims and s.text.isdigit():
            return s
        # Through a wide integer, so that what does not fit wraps as integers do.
        wide = ""
        if before.is_float and after.is_integer and after.bits < 64 and after is not DType.I32:
            wide = ".to(tl.int64)" if after is DType.U32 else ".to(tl.int32)"
        if after.bits < 8 and after.is_integer:
            return Spelled(rounded(f"{s.operand}{wide}", after), s.dims)
        same = not wide and LANGUAGE[before] == LANGUAGE[after]
        text = s.text if same else f"{s.operand}{wide}.to(tl.{LANGUAGE[after]})"
        return Spelled(rounded(text, after) if after in NARROW else text, s.dims)


def conjunction(conditions: Iterable[Condition], frame: Frame) -> str:
    """All of ``conditions``, in ``frame``; those of the same dimensions are joined before they are broadcast."""
    groups: dict[Frame, list[str]] = {}
    for c in dict.fromkeys(conditions):
        groups.setdefault(c.dims, []).append(c.text)
    ordered = sorted(groups, key=lambda dims: [frame.index(d) for d in dims])
    return " & ".join(spread(" & ".join(groups[dims]), frame, dims) for dims in ordered)
