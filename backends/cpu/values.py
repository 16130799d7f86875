"""Values of the tile IR as C expressions on vectors: every value is a vector, whatever its type.

In registers ``bool`` is an ``i32`` vector of 0 and -1, floats of less than 32 bits are ``f32`` vectors that hold
rounded values, and integers of less than 8 bits are bytes; in memory they are bytes and bits. Tiles are kept as in
registers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
from tilewright.backends.cpu.lanes import Vectorized
from tilewright.codegen.cstyle import C_TYPES, Text, constant_text, index_text, parenthesized
from tilewright.errors import InternalError
from tilewright.ir.ranges import Facts, bounds
from tilewright.ir.symbolic import Expr, constant, product, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import offset_of, used_symbols, walk
from tilewright.kernel.expr import COMPARE, Binary, Cast, Const, IndexValue, Load, Ref, Select, Unary, Value, operands
from tilewright.kernel.proof import inside
from tilewright.kernel.tile import Param

#: Floats that are computed in f32.
NARROW = tuple(d for d in C_TYPES if d.is_float and d.bits < 32)
_INFIX = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^"}
_INFIX |= {"bitand": "&", "bitor": "|", "bitxor": "^"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def register_type(dtype: DType) -> DType:
    """The type of the vector that holds values of ``dtype`` in registers and tiles."""
    if dtype is DType.BOOL:
        return DType.I32
    if dtype.bits < 8 and dtype.is_integer:
        return DType.I8 if dtype.is_signed else DType.U8
    return DType.F32 if dtype in NARROW else dtype


def memory_type(dtype: DType) -> str:
    """The name of the vector that is loaded from memory or stored there for ``dtype``."""
    if dtype is DType.BOOL or dtype in NARROW or dtype.bits < 8:
        return "u16" if dtype.bits == 16 else "u8"
    return str(dtype)


@dataclass(frozen=True, slots=True)
class Buffer:
    """A tile in memory: offset of the element at the current axes is the sum of ``(axis - start) * stride``."""

    name: str
    dtype: DType
    strides: Mapping[str, Expr]
    starts: Mapping[str, Expr]
    #: Elements allocated along the innermost axis, and that axis.
    inner: str | None
    #: Lanes of each axis that the tile was made for; ``None`` where symbolic.
    lanes: Mapping[str, int | None]
    #: With panels of so many elements of ``inner``, its stride is that from one panel to the next.
    panel: int | None = None

    def offset(self, axes: tuple[str, ...]) -> Expr:
        """Offset of the element at the current position of ``axes``."""
        total = constant(0)
        for axis in axes:
            at = symbol(axis) - self.starts[axis]
            if self.panel is not None and axis == self.inner:
                total = total + at // self.panel * self.strides[axis] + at % self.panel
            else:
                total = total + at * self.strides[axis]
        return total


@dataclass(slots=True)
class Values:
    """Spells values at one place: inside the loops over all axes, the lanes along ``lane.axis``.

    Attributes:
        live: C text of the number of valid lanes; ``None`` when all are.
        known: values that are in a variable already.
        at: axis → the position of this element, where that is not the loop's variable.
        inside: index expressions (before ``at``) that reach outside no tensor here, whatever the ranges allow.
        loaded: what was read at an offset, shared by elements that stand side by side; ``None``: reads stay in place.
    """

    out: Text
    params: Mapping[str, Param]
    buffers: Mapping[str, Buffer]
    names: Mapping[str, str]
    lane: Vectorized
    live: str | None
    fresh: Callable[[str], str]
    #: Full-vector access of a tile is allowed beyond its live lanes.
    whole: Callable[[Buffer], bool]
    #: Of the kernel's axes.
    extents: Mapping[str, Expr] = field(default_factory=dict)
    known: dict[Value, str] = field(default_factory=dict)
    at: Mapping[str, Expr] = field(default_factory=dict)
    inside: frozenset[Expr] = frozenset()
    loaded: dict[object, str] | None = None
    #: Tiles of which the current vector is in a variable.
    local: dict[str, str] = field(default_factory=dict)
    _lane_reads: dict[str, str] = field(default_factory=dict)

    def spell(self, v: Value) -> str:
        """The C expression of ``v``; what is used more than once goes into a variable first."""
        counts: dict[Value, int] = {}
        for x in walk(v):
            counts[x] = counts.get(x, 0) + 1
        for x in dict.fromkeys(walk(v)):
            if counts[x] > 1 and not isinstance(x, (Const, Ref, IndexValue)) and x not in self.known:
                self.known[x] = self.assign("t", x.dtype, self._text(x))
        return self._value(v)

    def assign(self, name: str, dtype: DType, text: str) -> str:
        """A new constant of ``dtype`` that holds ``text``; returns its name."""
        name = self.fresh(name)
        self.out.line(f"const {register_type(dtype)}v {name} = {text};")
        return name

    def index(self, e: Expr) -> str:
        """C text of an index expression."""
        return index_text(e, self.names)

    # -- memory ------------------------------------------------------------------------------------------------------

    def store(self, tensor: Param, index: tuple[Expr | Value, ...], text: str) -> None:
        """Write a vector of register type to a tensor; nothing where a run-time index is outside."""
        ctype, stored = memory_type(tensor.dtype), _to_memory(tensor.dtype, text)
        entries, checks, varies = self._rows(tensor, index)
        offset = offset_of(tensor, entries).substitute(self.at)
        with ExitStack() as stack:
            if checks and not varies:
                stack.enter_context(self.out.block(f"if ({' && '.join(checks)})"))
            if not varies and tensor.dtype.bits >= 8:
                self._store(ctype, f"{self.names[tensor.name]} + {self.index(offset)}", offset, stored)
                return
            name, count = self.fresh("r"), "1" if self.lane.axis is None else self.live or "TW_LANES"
            at = index_text(self._in_lane(offset), {**self.names, **self._lane_reads})
            self.out.line(f"const {ctype}v {name} = {stored};")
            self.out.line(f"for (int l = 0; l < TW_LANES && l < {count}; l++)")
            write = self._put(tensor, at, f"{name}[l]")
            self.out.line(f"    if ({' && '.join(checks)}) {write}" if varies else f"    {write}")

    def _put(self, tensor: Param, at: str, element: str) -> str:
        """Write one element, which may share its byte with others."""
        if tensor.dtype.bits >= 8:
            return f"{self.names[tensor.name]}[{at}] = {element};"
        count = self.index(product(tensor.shape))
        return f"put_packed({self.names[tensor.name]}, {tensor.dtype.bits}, {at}, {element}, {count});"

    def _rows(self, tensor: Param, index: tuple[Expr | Value, ...]) -> tuple[tuple[Expr, ...], list[str], bool]:
        """An index to write at as expressions, the checks of its run-time entries, and whether one varies by lane."""
        entries: list[Expr] = []
        checks: list[str] = []
        varies = False
        for i, size in zip(index, tensor.shape, strict=True):
            if isinstance(i, Expr):
                entries.append(i)
                continue
            name, text = self.fresh("row"), f"to(i64, {self.spell(i)})"
            if self.lane.axis is not None and self.lane.axis in _depends(i):
                self.out.line(f"const i64v {name} = {text};")
                entries.append(symbol(f"{name}_l"))
                self._lane_reads[f"{name}_l"] = f"{name}[l]"
                checks.append(f"row_inside(args, {name}[l], {self.index(size)})")
                varies = True
            else:
                self.out.line(f"const int64_t {name} = ({text})[0];")
                entries.append(symbol(name))
                checks.append(f"row_inside(args, {name}, {self.index(size)})")
        return tuple(entries), checks, varies

    def store_tile(self, tile: Buffer, axes: tuple[str, ...], text: str) -> None:
        """Write a vector to a tile."""
        offset, ctype = tile.offset(axes).substitute(self.at), str(register_type(tile.dtype))
        address = f"{tile.name} + {self.index(offset)}"
        if self.lane.stride(offset) == 1 and self.whole(tile):
            self.out.line(f"store_{ctype}({address}, {text});")
        else:
            self._store(ctype, address, offset, text)

    def _store(self, ctype: str, address: str, offset: Expr, text: str) -> None:
        step = self.lane.stride(offset)
        count = self.live or "TW_LANES"
        if self.lane.axis is None or step == 0:
            self.out.line(f"*({address}) = ({text})[0];")
        elif step == 1:
            function = "store_part" if self.live else "store"
            self.out.line(f"{function}_{ctype}({address}, {text}{f', {self.live}' if self.live else ''});")
        elif step is not None:
            self.out.line(f"store_strided_{ctype}({address}, {self.index(step)}, {text}, {count});")
        else:
            name = self.fresh("r")
            self.out.line(f"const {ctype}v {name} = {text};")
            base, _, _ = address.partition(" + ")
            at = self.index(self._in_lane(offset))
            self.out.line(f"for (int l = 0; l < TW_LANES && l < {count}; l++) {base}[{at}] = {name}[l];")

    def _in_lane(self, e: Expr) -> Expr:
        return e.substitute({self.lane.axis: symbol(self.lane.axis) + symbol("l")}) if self.lane.axis else e

    def _load(self, v: Load) -> str:
        param = self.params[v.tensor]
        ctype, pointer = memory_type(v.dtype), self.names[v.tensor]
        index, gathered = self._indices(v, param)
        offset = offset_of(param, index).substitute(self.at)
        checks = self._outside(v, param, index) if v.fill is not None else []
        key = (v.tensor, offset, tuple(checks))
        if self.loaded is not None and not gathered and key in self.loaded:
            return self.loaded[key]
        step = None if gathered or any(self._varies(e) for e, _ in checks) else self.lane.stride(offset)
        if v.dtype.bits < 8 and step != 0:
            step = None  # several elements share a byte
        if step is None:
            text = self._load_lanes(v, ctype, pointer, offset, checks)
        elif step == 0:
            text = f"set_{ctype}({_get(v.dtype, pointer, self.index(offset))})"
        elif step == 1:
            part = f"_part_{ctype}({pointer} + {self.index(offset)}, {self.live})"
            text = f"load{part}" if self.live else f"load_{ctype}({pointer} + {self.index(offset)})"
        else:
            count = self.live or "TW_LANES"
            text = f"load_strided_{ctype}({pointer} + {self.index(offset)}, {self.index(step)}, {count})"
        if checks and step is not None:
            inside = self.fresh("inside")
            self.out.line(f"const int {inside} = {' && '.join(self._check(e, size) for e, size in checks)};")
            text = f"({inside} ? {text} : set_{ctype}({self._fill(v)}))"
        text = _from_memory(v.dtype, text)
        if self.loaded is not None and not gathered:
            text = self.loaded[key] = self.assign("x", v.dtype, text)
        return text

    def _is_same(self, e: Expr) -> bool:
        """Whether all lanes have the same ``e``."""
        return self.lane.stride(e.substitute(self.at)) == 0

    def _varies(self, e: Expr) -> bool:
        return self.lane.axis is not None and self.lane.axis in e.symbols

    def _indices(self, v: Load, param: Param) -> tuple[tuple[Expr, ...], bool]:
        """Indices as expressions; a gathered one becomes a variable (an array over lanes where it varies)."""
        index: list[Expr] = []
        varies = False
        for i, size in zip(v.index, param.shape, strict=True):
            if isinstance(i, Expr):
                index.append(i)
                continue
            name = self.fresh("row")
            text = f"to(i64, {self.spell(i)})"
            extent = self.index(size)
            if self.lane.axis is not None and self.lane.axis in _depends(i):
                self.out.line(f"const i64v {name} = {text};")
                # The expression reads lane l.
                index.append(symbol(f"{name}_l"))
                self._lane_reads[f"{name}_l"] = f"checked_row(args, {name}[l], {extent})"
                varies = True
            else:
                self.out.line(f"const int64_t {name} = checked_row(args, ({text})[0], {extent});")
                index.append(symbol(name))
        return tuple(index), varies

    def _outside(self, v: Load, param: Param, index: tuple[Expr, ...]) -> list[tuple[Expr, Expr]]:
        checks = []
        for e, size in zip(index, param.shape, strict=True):
            facts, here = self.lane.facts, e.substitute(self.at)
            if e not in self.inside and not is_inside(here, size, self.extents, facts):
                checks.append((here, size))
        return checks

    def _check(self, e: Expr, size: Expr) -> str:
        # One unsigned comparison tests both ends.
        return f"(uint64_t)({self.index(e)}) < (uint64_t)({self.index(size)})"

    def _fill(self, v: Load) -> str:
        if v.dtype in NARROW:
            return str(
                int(np.asarray(v.fill).astype(v.dtype.numpy).view(np.uint16 if v.dtype.bits == 16 else np.uint8))
            )
        if v.dtype.bits < 8:
            return str(int(v.fill or 0) & (1 << v.dtype.bits) - 1)
        return "1" if v.dtype is DType.BOOL and v.fill else constant_text(v.fill or 0, v.dtype)

    def _load_lanes(self, v: Load, ctype: str, pointer: str, offset: Expr, checks: list[tuple[Expr, Expr]]) -> str:
        name = self.fresh("x")
        names = {**self.names, **self._lane_reads}
        read = _get(v.dtype, pointer, index_text(self._in_lane(offset), names))
        if checks:
            inside = " && ".join(
                f"(uint64_t)({index_text(self._in_lane(e), names)}) < (uint64_t)({index_text(size, names)})"
                for e, size in checks
            )
            read = f"{inside} ? {read} : {self._fill(v)}"
        count = self.live or "TW_LANES"
        self.out.line(f"{ctype}v {name} = set_{ctype}(0);")
        steps, otherwise = [self.lane.stride(e) for e in (offset, *(e for e, _ in checks))], ""
        if checks and not self._lane_reads and v.dtype.bits >= 8 and steps[0] == 1 and None not in steps:
            # Between two positions that are inside, all are: the border alone is read lane by lane.
            last = {**names, "l": f"(min_int({count}, TW_LANES) - 1)" if self.live else "(TW_LANES - 1)"}
            tests = [self._check(e, size) for e, size in checks]
            tests += [
                f"(uint64_t)({index_text(self._in_lane(e), last)}) < (uint64_t)({index_text(size, names)})"
                for e, size in checks
                if self._varies(e)
            ]
            part, rest = ("_part", f", {self.live}") if self.live else ("", "")
            whole = f"load{part}_{ctype}({pointer} + {self.index(offset)}{rest})"
            self.out.line(f"if ({' && '.join(tests)}) {name} = {whole};")
            otherwise = "else "
        self.out.line(f"{otherwise}for (int l = 0; l < TW_LANES && l < {count}; l++) {name}[l] = {read};")
        return name

    # -- expressions -------------------------------------------------------------------------------------------------

    def _value(self, v: Value) -> str:
        return self.known[v] if v in self.known else self._text(v)

    def _text(self, v: Value) -> str:
        match v:
            case Const(value=value, dtype=dtype):
                return f"set_{register_type(dtype)}({constant_text(value, dtype)})"
            case Load():
                return self._load(v)
            case Ref():
                return self._ref(v)
            case IndexValue():
                return self._index_value(v)
            case Unary(op=op, x=x):
                return _unary(op, x.dtype, self._value(x))
            case Binary(op=op, a=IndexValue(index=a), b=IndexValue(index=b)) if c := self._positions(op, a, b):
                return c
            case Binary(op="max" | "min" as op, a=a, b=b) if (limit := _number(a, b)) is not None:
                function = f"{'at_least' if op == 'max' else 'at_most'}_{register_type(a.dtype)}"
                other = b if limit is a else a
                return rounded(a.dtype, f"{function}({self._value(limit)}, {self._value(other)})")
            case Binary(op=op, a=a, b=b):
                return _binary(op, a.dtype, self._value(a), self._value(b))
            case Select(cond=c, a=a, b=b):
                chosen = f"select_{register_type(a.dtype)}"
                return f"{chosen}({self._value(c)}, {self._value(a)}, {self._value(b)})"
            case Cast(dtype=DType.F32 | DType.F64 as dtype, x=IndexValue(index=i)) if self._is_same(i):
                return f"set_{dtype}(({C_TYPES[dtype]})({self.index(i.substitute(self.at))}))"
            case Cast(dtype=dtype, x=x):
                return _cast(dtype, x.dtype, self._value(x))

    def _positions(self, op: str, a: Expr, b: Expr) -> str | None:
        """The comparison of two positions that are the same in all lanes or move by one from lane to lane: one or how
        many lanes hold, not 64-bit lanes."""
        if op not in ("lt", "le", "gt", "ge"):
            return None
        slack = (b - a if op in ("lt", "le") else a - b) - (op in ("lt", "gt"))  # holds where it is not negative
        slack = slack.substitute(self.at)
        step = self.lane.stride(slack)
        if step == 0:
            return f"set_i32(-(({self.index(slack)}) >= 0))"
        if step == -1:
            return f"live(max_int({self.index(slack + 1)}, 0))"
        return f"(~live(max_int({self.index(-slack)}, 0)))" if step == 1 else None

    def _ref(self, v: Ref) -> str:
        if v.tile in self.local:
            return self.local[v.tile]
        tile = self.buffers.get(v.tile)
        if tile is None:
            raise InternalError(f"tile {v.tile} is read before it is computed")
        offset, ctype = tile.offset(v.axes).substitute(self.at), str(register_type(tile.dtype))
        step = self.lane.stride(offset)
        if step == 0:
            return f"set_{ctype}({tile.name}[{self.index(offset)}])"
        if step == 1:
            if self.live is None or self.whole(tile):
                return f"load_{ctype}({tile.name} + {self.index(offset)})"
            return f"load_part_{ctype}({tile.name} + {self.index(offset)}, {self.live})"
        assert step is not None
        count = self.live or "TW_LANES"
        return f"load_strided_{ctype}({tile.name} + {self.index(offset)}, {self.index(step)}, {count})"

    def _index_value(self, v: IndexValue) -> str:
        index = v.index.substitute(self.at)
        step = self.lane.stride(index)
        if step is None:
            name = self.fresh("x")
            self.out.line(f"i64v {name};")
            self.out.line(f"TW_FOR(l, TW_LANES) {name}[l] = {self.index(self._in_lane(index))};")
            text = name
        else:
            text = f"set_i64({self.index(index)})"
            if step != 0:
                text = f"({text} + {'' if step == 1 else f'{parenthesized(self.index(step))} * '}lanes_i64())"
        return text if v.dtype is DType.I64 else _cast(v.dtype, DType.I64, text)


def is_inside(index: Expr, size: Expr, extents: Mapping[str, Expr], facts: Facts) -> bool:
    """Whether ``0 <= index < size`` is known: from the ranges here, or from the extents of the axes."""
    if bounds(index, facts)[0] >= 0 and bounds(index - size, facts)[1] < 0:
        return True
    return inside(index, size, extents, facts)


def _depends(v: Value) -> frozenset[str]:
    names = used_symbols(v)
    for x in operands(v):
        names |= _depends(x)
    return names


def _number(*values: Value) -> Const | None:
    """The first of ``values`` that is a floating-point constant and no NaN."""
    constants = (v for v in values if isinstance(v, Const) and v.dtype.is_float)
    return next((c for c in constants if c.value == c.value), None)


def _get(dtype: DType, pointer: str, at: str) -> str:
    """One element in memory."""
    return f"{pointer}[{at}]" if dtype.bits >= 8 else f"get_packed({pointer}, {dtype.bits}, {at})"


def rounded(dtype: DType, text: str) -> str:
    """What was computed in a wider type, as ``dtype`` holds it."""
    if dtype in NARROW:
        return f"round_{dtype}({text})"
    return f"wrap_{dtype}({text})" if dtype.bits < 8 else text


def _unary(op: str, dtype: DType, x: str) -> str:
    kind = register_type(dtype)
    if op == "not":
        return f"(~{x})"
    if op in ("neg", "bitnot"):
        text = f"(-{x})" if op == "neg" else f"(~{x})"
        return rounded(dtype, text) if dtype.bits < 8 else text
    if op in ("isnan", "isinf"):
        return f"{op}_{kind}({x})"
    return rounded(dtype, f"{op}_{kind}({x})")


def _binary(op: str, dtype: DType, a: str, b: str) -> str:
    kind = register_type(dtype)
    if op in COMPARE:
        if dtype is DType.BOOL:
            a, b = b, a  # true is -1
        text = f"({a} {_COMPARE[op]} {b})"
        return text if kind.bits == 32 else f"to(i32, {text})"
    if op in _INFIX:
        return rounded(dtype, f"({a} {_INFIX[op]} {b})")
    if op == "div" and dtype.is_float:
        return rounded(dtype, f"({a} / {b})")
    if dtype is DType.BOOL and op in ("min", "max"):
        return f"({a} {'&' if op == 'min' else '|'} {b})"
    return rounded(dtype, f"{op}_{kind}({a}, {b})")


def _cast(to: DType, source: DType, x: str) -> str:
    a, b = register_type(source), register_type(to)
    if to is source:
        return x
    if source is DType.BOOL:
        return rounded(to, f"to({b}, {x} & 1)")
    if to is DType.BOOL:
        return f"to(i32, {x} != 0)"
    if a.is_float and b.is_integer:
        # Through a wide integer, so that what does not fit wraps as integers do.
        wide = "i32" if b.bits < 32 else "i64" if b is DType.U32 else str(b)
        return rounded(to, f"to({b}, to({wide}, {x}))" if wide != str(b) else f"to({b}, {x})")
    if to in NARROW and a.bits >= 32 and a is not b:
        return rounded(to, f"odd_f32({x if a is DType.F64 else f'to(f64, {x})'})")  # rounded once, not twice
    return rounded(to, x if a is b else f"to({b}, {x})")


def _to_memory(dtype: DType, text: str) -> str:
    if dtype is DType.BOOL:
        return f"from_condition({text})"
    if dtype in NARROW:
        return f"{dtype}_bits({text})"
    return f"to(u8, {text})" if dtype.bits < 8 and dtype.is_signed else text


def _from_memory(dtype: DType, text: str) -> str:
    if dtype is DType.BOOL:
        return f"to_condition({text})"
    if dtype in NARROW:
        return f"{dtype}_value({text})"
    return f"wrap_{dtype}(to(i8, {text}))" if dtype.bits < 8 and dtype.is_signed else text


def pointer_type(dtype: DType) -> str:
    """The C type of an element in memory."""
    return C_TYPES[dtype]
