"""Values in the unified buffer: numbers, truth values, comparisons and selections.

A truth value is 0 or 1 in f16; where it selects, it is a mask of one bit a lane, as comparisons write them. Integers
are carried in f32 or i32 (:mod:`numbers`), 64-bit ones that only pass through as they are.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from tilewright.backends.ascend.placed.form import Scalar
from tilewright.backends.ascend.placing.angles import ANGLES
from tilewright.backends.ascend.placing.gelu import gelu, gelu_operand, rounded_gelu
from tilewright.backends.ascend.placing.integers import bitwise, inverted, positions_of, words, wrapped
from tilewright.backends.ascend.placing.loads import Loads
from tilewright.backends.ascend.placing.numbers import EXACT, range_of, within
from tilewright.backends.ascend.placing.rounding import rounded_by_sums
from tilewright.backends.ascend.placing.special import SPECIAL, power
from tilewright.backends.ascend.placing.strips import SPREAD, Piece, Strip
from tilewright.backends.ascend.placing.words import from_long, to_word, words_of
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType
from tilewright.kernel.analysis import walk
from tilewright.kernel.expr import COMPARE, Binary, Cast, Const, IndexValue, Load, Ref, Select, Unary, Value

#: Element-wise operations that are one instruction.
_DIRECT_UNARY = {"exp": "exp", "log": "ln", "abs": "abs", "sqrt": "sqrt"}
_DIRECT_BINARY = frozenset(["add", "sub", "mul", "div", "max", "min"])
#: Those with a form that takes one scalar (Adds, Muls, Maxs, Mins).
_WITH_SCALAR = frozenset(["add", "mul", "max", "min"])
#: A comparison with its sides exchanged.
_SWAPPED = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
_ROUNDING = {"floor": "floor", "ceil": "ceil", "round": "rint"}
_COMPUTED = (DType.F32, DType.F16, DType.I32)


@dataclass(slots=True)
class Arithmetic(Loads):
    """Computes values. ``tiles``: kernel tiles by name; ``wanted``: how often each part of the current statement
    occurs; ``kept_parts``: those that occur more than once and are computed already; ``last_axes``: of the last
    mask; ``later``: tiles that statements behind the current one use; ``dying``: those whose last use is in it."""

    wanted: Counter[Value] = field(default_factory=Counter)
    kept_parts: dict[Value, Strip] = field(default_factory=dict)
    last_axes: tuple[str, ...] = ()
    later: set[str] = field(default_factory=set)
    dying: set[str] = field(default_factory=set)
    tiles: dict[str, Strip] = field(default_factory=dict)

    # -- statements ----------------------------------------------------------------------------------------------

    def begin(self, *values: Value) -> None:
        """A statement that computes ``values`` begins: what occurs in them twice is computed once."""
        self.wanted = Counter(x for v in values for x in walk(v) if isinstance(x, Unary | Binary | Select | Cast))
        refs = Counter(x.tile for v in values for x in walk(v) if isinstance(x, Ref))
        buffers = Counter(s.buffer for s in self.tiles.values())
        self.dying = {
            t
            for t, n in refs.items()
            if n == 1 and t not in self.later and t in self.kept_here() and buffers[self.tiles[t].buffer] == 1
        }

    def finish(self) -> None:
        """The statement has ended."""
        for strip in self.kept_parts.values():
            self.recycle(strip)
        self.kept_parts.clear()

    # -- values --------------------------------------------------------------------------------------------------

    def value(self, v: Value, axes: tuple[str, ...] = ()) -> Piece:
        """Compute ``v`` in the type that carries it; the result has the axes that ``v`` depends on.

        ``axes`` are those of the statement; they are not needed to compute a value.
        """
        if v in self.kept_parts:
            return self.lend(self.kept_parts[v])
        piece = self._value(v)
        if self.wanted[v] > 1 and isinstance(piece, Strip) and piece.pooled:
            self.kept_parts[v] = piece
            return self.lend(piece)
        return piece

    def _value(self, v: Value) -> Piece:
        match v:
            case Const(value=number):
                return Scalar(float(number))
            case Ref(tile=tile):
                return self.tile(tile)
            case Load():
                return self.load(v)
            case IndexValue():
                return self._positions(v)
            case Cast(x=x):
                return self._cast(v, x)
            case Unary(op=op, x=x):
                return self._unary_value(v, op, x)
            case Binary(op=op, a=a, b=b) if op in COMPARE:
                return self.flags(self.compared(op, a, b), self.last_axes)
            case Binary(op=op, a=a, b=b) if v.dtype is DType.BOOL:
                return self._logical(op, self.truth(a), self.truth(b))
            case Binary() if (inner := gelu_operand(v)) is not None:
                return gelu(self, self.operand(inner, DType.F32))
            case Binary(op=op, a=a, b=b):
                return self._binary_value(v, op, a, b)
            case Select(cond=cond, a=a, b=b):
                return self._select(v, cond, a, b)
        raise self.unsupported(f"{type(v).__name__.lower()} {getattr(v, 'op', '')}".strip())

    def kept_here(self) -> set[str]:
        """Tiles that were made in the innermost open loop."""
        kept = self.context.tree.top.loaded.setdefault("tiles", set())
        return {t for t in kept if t in self.tiles}  # type: ignore[attr-defined]

    def keep(self, tile: str, strip: Strip) -> None:
        """``tile`` is in ``strip`` from here on."""
        self.tiles[tile] = strip
        self.context.tree.top.loaded.setdefault("tiles", set()).add(tile)  # type: ignore[attr-defined]

    def tile(self, name: str) -> Piece:
        """The strip of a kernel tile: to be read only, unless this is its last use."""
        return self.tiles.pop(name) if name in self.dying else self.lend(self.tiles[name])

    def operand(self, v: Value, dtype: DType) -> Piece:
        """``v`` computed, in ``dtype``."""
        piece = self.value(v)
        if isinstance(piece, Scalar) or piece.dtype == dtype:
            return piece
        if piece.dtype == DType.F32 and dtype == DType.I32 and "split" in self.context.target.features:
            return self.carry(piece, dtype, "trunc")
        return self.carry(piece, dtype)  # a whole number is what any rounding leaves

    def carrier(self, v: Value) -> DType:
        """The type in which ``v`` is computed. Raises :class:`UnsupportedError` where there is none."""
        dtype = self.numbers.carrier(v)
        if dtype is None:
            long = f"integers of {v.dtype} beyond 32 bits (upper bounds of open sizes keep positions within)"
            what = long if v.dtype.is_integer else f"arithmetic on {v.dtype}"
            raise self.unsupported(what)
        return dtype

    def _positions(self, v: IndexValue) -> Piece:
        """Positions along axes: exact in f32 up to 2^24, else in i32."""
        c = self.context
        axes = self.wide([a for a in c.scope.ranges if a in v.index.symbols])
        index = self._settled(v.index, axes)
        if not axes:
            return Scalar(index)
        dtype = self.carrier(v)
        spelled = positions_of(index, axes, v.dtype, c.scope.facts)
        if not isinstance(spelled, IndexValue):
            return self.carry(self.value(spelled), dtype)
        steps = {a: self._stride(index, a, "positions") for a in axes}
        first = index.substitute({a: c.start(a, True) for a in axes})
        if len(axes) == 1 and steps[axes[0]] == 1:
            strip = self.temporary(axes, dtype)
            self.emit("iota", strip, axes, Scalar(first))
            return strip
        low, high = bounds(v.index, c.scope.facts)
        if not within((float(low), float(high)), range_of(DType.I32)):
            raise self.unsupported(f"positions {v.index} up to {high}")
        return self.carry(self.positions(axes, dict(steps), first), dtype)

    # -- conversions ---------------------------------------------------------------------------------------------

    def _cast(self, v: Cast, x: Value) -> Piece:
        source, target = x.dtype, v.dtype
        if target is DType.BOOL:
            return self.truth(x) if source is DType.BOOL else self._value(Binary("ne", x, Const(0, source)))
        if isinstance(x, Load) and source == target:
            return self.value(x)
        if target.is_float:
            return self._to_float(x, target)
        return self._to_integer(v, x)

    def _to_float(self, x: Value, target: DType) -> Piece:
        piece = self.truth(x) if x.dtype is DType.BOOL else self.before_rounding(x, target)
        if isinstance(piece, Scalar):
            return piece
        return self.carry(piece, target)

    def before_rounding(self, v: Value, dtype: DType) -> Piece:
        """``v``, which becomes ``dtype`` next and needs to be no more exact than that."""
        inner = gelu_operand(v) if dtype.is_float and dtype.bits == 16 else None
        if inner is None:
            return self.value(v)
        return rounded_gelu(self, self.operand(inner, DType.F32))

    def _to_integer(self, v: Cast, x: Value) -> Piece:
        inside = self.numbers.interval(x)
        limits = range_of(v.dtype)
        dtype = self.numbers.carrier(v)
        if x.dtype.is_float:
            piece = self.operand(x, DType.F32)
            if isinstance(piece, Scalar):
                return Scalar(float(math.trunc(piece.value))) if isinstance(piece.value, float) else piece
            if dtype is None or dtype is DType.I32:
                wide = DType.I32 if dtype is DType.I32 else DType.I64
                return self.carry(piece, wide, "trunc")
            piece = self.rounded(piece, "trunc")
            if not within(inside, limits):  # out of range is undefined; it saturates, as the unit's own casts do
                piece = self._clamped(piece, limits)
            return piece
        if x.dtype is DType.BOOL:
            return self.carry(self.truth(x), DType.F32)
        piece = self.value(x)
        if isinstance(piece, Scalar) or within(inside, limits):
            return piece
        if v.dtype is DType.I32 and piece.dtype is DType.I64:
            return self.carry(piece, DType.I32)
        if v.dtype.bits <= 16 and piece.dtype in (DType.I32, DType.I64):
            return self.wrapped_low(self._strip(self.carry(self.carry(piece, DType.I32), DType.I16)), v.dtype)
        if v.dtype.bits <= 16 and piece.dtype is DType.F32:
            return self.wrapped_low(piece, v.dtype)
        raise self.unsupported(f"a cast of {x.dtype} to {v.dtype} that wraps around")

    def _clamped(self, piece: Strip, limits: tuple[float, float]) -> Strip:
        self.emit("max", piece, piece.axes, piece, Scalar(limits[0]))
        self.emit("min", piece, piece.axes, piece, Scalar(limits[1]))
        return piece

    def wrapped_low(self, piece: Strip, dtype: DType) -> Piece:
        """The low bits of whole numbers below 2^24, as ``dtype`` reads them: ``x - floor((x - low) / n) n``."""
        low, high = range_of(dtype)
        n = high - low + 1
        x = self.carry(piece, DType.F32)
        turns = self._strip(self.apply("add", self.lend(x), Scalar(-low)))
        turns = self.rounded(self._strip(self.apply("mul", turns, Scalar(1 / n))), "floor")
        return self.apply("add", x, self.apply("mul", turns, Scalar(-n)))

    def carry(self, piece: Piece, dtype: DType, rounding: str = "") -> Piece:
        """A fused core casts neither 64-bit integers nor f32 to i32: words and sums do it there."""
        if isinstance(piece, Strip) and piece.dtype != dtype and "split" not in self.context.target.features:
            if piece.dtype is DType.I64:
                return from_long(self, piece, dtype)
            if piece.dtype is DType.F32 and dtype is DType.I32:
                return to_word(self, piece, rounding)
        return Loads.carry(self, piece, dtype, rounding)

    def rounded(self, piece: Strip, mode: str) -> Strip:
        """A fused core has no cast that rounds f32 to whole numbers: sums do it there."""
        if "split" in self.context.target.features:
            return Loads.rounded(self, piece, mode)
        return rounded_by_sums(self, piece, mode)

    # -- arithmetic ----------------------------------------------------------------------------------------------

    def _unary_value(self, v: Unary, op: str, x: Value) -> Piece:
        if op == "not":
            return self._inverted(self.truth(x))
        if op in ("isnan", "isinf"):
            return self.flags(self._test(op, x), self.last_axes)
        dtype = self.carrier(v)
        if x.dtype.is_integer:
            if op == "bitnot":
                return inverted(self, x, v.dtype)
            if op in _ROUNDING:
                return self.value(x)
            if op in ("neg", "abs"):
                return self._turned(v, op, x, dtype)
            if op != "sign" or dtype is not DType.F32:
                raise self.unsupported(f"{op} of {x.dtype}")
        return self.unary(op, self.operand(x, dtype), dtype)

    def _turned(self, v: Unary, op: str, x: Value, dtype: DType) -> Piece:
        """``-x`` or ``|x|`` of integers; the lowest number of a type stays what it is."""
        piece = self.operand(x, dtype)
        result = self.binary("mul", self.lend(piece), Scalar(-1.0), dtype)
        if op == "abs":
            result = self.binary("max", piece, result, dtype)
        else:
            self.recycle(piece)
        stays = within(self.numbers.applied(op, self.numbers.interval(x)), range_of(v.dtype))
        return result if stays or dtype is DType.I32 else self.wrapped_low(self._strip(result), v.dtype)

    def unary(self, op: str, piece: Piece, dtype: DType) -> Piece:
        """A function of floats; uses ``piece`` up."""
        piece = self.strip(piece, (), dtype)
        match op:
            case "neg":
                return self.binary("mul", piece, Scalar(-1.0), dtype)
            case "reciprocal":
                return self.binary("div", Scalar(1.0), piece, dtype)
            case "rsqrt":
                return self.binary("div", Scalar(1.0), self.unary("sqrt", piece, dtype), dtype)
        if op in _DIRECT_UNARY:
            result = self.result(piece.axes, dtype, piece)
            self.emit(_DIRECT_UNARY[op], result, piece.axes, piece)
            self.recycle(piece, result)
            return result
        wide = self._strip(self.carry(piece, DType.F32))
        if op in _ROUNDING:
            return self.carry(self.rounded(wide, _ROUNDING[op]), dtype)
        function = SPECIAL.get(op) or ANGLES.get(op)
        if function is None:
            raise self.unsupported(op)
        return self.carry(function(self, wide), dtype)

    def _binary_value(self, v: Binary, op: str, a: Value, b: Value) -> Piece:
        dtype = self.carrier(v)
        if v.dtype.is_float:
            if op == "pow":
                return self.carry(power(self, a, b), dtype)
            return self.binary(op, self.operand(a, dtype), self.operand(b, dtype), dtype)
        if dtype is DType.F32 and not all(within(self.numbers.interval(x), (-EXACT, EXACT)) for x in (a, b)):
            dtype = DType.I32
        if op in _DIRECT_BINARY and op != "div":
            if v.dtype.bits < 32 and not self._stays(v, op, a, b):
                return wrapped(self, op, a, b, v.dtype)
            return self.binary(op, self.operand(a, dtype), self.operand(b, dtype), dtype)
        if op.startswith("bit") and dtype is DType.F32:
            return bitwise(self, op, a, b, v.dtype)
        if op in ("div", "mod", "fmod") and dtype is DType.F32:
            return self._quotient(op, self.operand(a, dtype), self.operand(b, dtype))
        raise self.unsupported(f"{op} of {v.dtype}")

    def _stays(self, v: Binary, op: str, a: Value, b: Value) -> bool:
        """Whether the exact result lies in the type: then no bits are cut."""
        made = self.numbers._binary(op, self.numbers.interval(a), self.numbers.interval(b), DType.I64)
        return within(made, range_of(v.dtype))

    def _quotient(self, op: str, a: Piece, b: Piece) -> Piece:
        """Of whole numbers below 2^24: the rounded quotient lies on the right side of every whole number."""
        quotient = self._strip(self.binary("div", self.lend(a), self.lend(b), DType.F32))
        quotient = self.rounded(quotient, "floor" if op == "mod" else "trunc")
        if op == "div":
            return quotient
        whole = self.binary("mul", quotient, b, DType.F32)
        return self.binary("sub", a, whole, DType.F32)

    def binary(self, op: str, a: Piece, b: Piece, dtype: DType) -> Piece:
        """One instruction on two pieces of ``dtype``; uses both up."""
        if op not in _DIRECT_BINARY:
            raise self.unsupported(op)
        axes = self.joined(a, b)
        if isinstance(a, Scalar) and not isinstance(b, Scalar) and op in _WITH_SCALAR:
            a, b = b, a
        if isinstance(b, Scalar) and op == "sub":
            op, b = "add", Scalar(-b.value)
        if isinstance(a, Scalar):
            a = self.strip(a, axes, dtype)
        if isinstance(b, Scalar) and op not in _WITH_SCALAR:
            b = self.strip(b, axes, dtype)
        a, b = self.spread(a, axes), self.spread(b, axes)
        result = self.result(axes, dtype, a, b)
        self.emit(op, result, axes, a, b)
        self.recycle(a, result)
        self.recycle(b, result)
        return result

    def apply(self, op: str, *pieces: Piece) -> Piece:
        """An operation on f32; operands that are temporaries are used up."""
        if len(pieces) == 1:
            return self.unary(op, pieces[0], DType.F32)
        return self.binary(op, pieces[0], pieces[1], DType.F32)

    # -- truth values --------------------------------------------------------------------------------------------

    def truth(self, v: Value) -> Piece:
        """``v``, a truth value, as 0 or 1 in f16."""
        return self.operand(v, DType.F16)

    def flags(self, mask: Strip, axes: tuple[str, ...]) -> Piece:
        """A mask as 0 or 1 in f16; uses it up."""
        ones = self.strip(Scalar(1.0), axes, DType.F16)
        return self.selected(mask, ones, Scalar(0.0), axes, DType.F16)

    def _logical(self, op: str, a: Piece, b: Piece) -> Piece:
        match op:
            case "and" | "min" | "mul" | "bitand":
                return self.binary("min", a, b, DType.F16)
            case "or" | "max" | "bitor":
                return self.binary("max", a, b, DType.F16)
            case "xor" | "bitxor":
                difference = self._strip(self.strip(self.binary("sub", a, b, DType.F16), (), DType.F16))
                return self.unary("abs", difference, DType.F16)
        raise self.unsupported(f"{op} of truth values")

    def _inverted(self, piece: Piece) -> Piece:
        return self.binary("add", self.binary("mul", piece, Scalar(-1.0), DType.F16), Scalar(1.0), DType.F16)

    def mask(self, v: Value) -> tuple[Strip, tuple[str, ...]]:
        """The truth value ``v`` as a mask, and the axes it has."""
        match v:
            case Binary(op=op, a=a, b=b) if op in COMPARE:
                made = self.compared(op, a, b)
            case Unary(op="isnan" | "isinf" as op, x=x):
                made = self._test(op, x)
            case _:
                made = self._compare("ne", self.strip(self.truth(v), (), DType.F16), Scalar(0.0))
        return made, self.last_axes

    def _test(self, op: str, x: Value) -> Strip:
        dtype = self.carrier(x)
        piece = self.strip(self.operand(x, dtype), (), dtype)
        if op == "isnan":
            return self._compare("ne", piece, self.lend(piece))
        return self._compare("eq", self.unary("abs", piece, dtype), Scalar(math.inf))

    def compared(self, op: str, a: Value, b: Value) -> Strip:
        """The mask of a comparison of two values, in a type that holds both."""
        if a.dtype is DType.BOOL:
            return self._compare(op, self.truth(a), self.truth(b))
        if a.dtype.is_float:
            dtype = DType.F16 if a.dtype is DType.F16 else self.carrier(a)
            return self._compare(op, self.operand(a, dtype), self.operand(b, dtype))
        inside = [within(self.numbers.interval(x), (-EXACT, EXACT)) for x in (a, b)]
        if all(inside):
            return self._compare(op, self.operand(a, DType.F32), self.operand(b, DType.F32))
        # A number whose size is below 2^24 is on the same side of x and of x rounded to f32.
        if isinstance(b, Const) and abs(float(b.value)) < EXACT and a.dtype in (DType.I32, DType.I64):
            return self._compare(op, self.carry(self.value(a), DType.F32), Scalar(float(b.value)))
        if isinstance(a, Const) and abs(float(a.value)) < EXACT and b.dtype in (DType.I32, DType.I64):
            return self._compare(_SWAPPED[op], self.carry(self.value(b), DType.F32), Scalar(float(a.value)))
        fits = [within(self.numbers.interval(x), range_of(DType.I32)) for x in (a, b)]
        if all(fits):
            return self._compared_words(op, self.operand(a, DType.I32), self.operand(b, DType.I32))
        return self._compared_long(op, a, b)

    def _compared_words(self, op: str, a: Piece, b: Piece) -> Strip:
        """Of i32: ``a < b`` where ``max(a, b) - a`` is not 0, whatever wraps around; f32 keeps what is not 0."""
        if op in ("gt", "le"):
            op, a, b = _SWAPPED[op], b, a
        if op in ("lt", "ge"):
            top = self.binary("max", self.lend(a), b, DType.I32)
            difference, op = self._difference(top, a), "ne" if op == "lt" else "eq"
        else:
            difference = self._difference(a, b)
        return self._compare(op, self.carry(difference, DType.F32), Scalar(0.0))

    def _difference(self, a: Piece, b: Piece) -> Strip:
        axes = self.joined(a, b)
        left, right = self.strip(a, axes, DType.I32), self.strip(b, axes, DType.I32)
        return self._strip(self.binary("sub", left, right, DType.I32))

    def _compared_long(self, op: str, a: Value, b: Value) -> Strip:
        """Of i64, by their words: the low ones decide where the high ones are equal."""
        (low_a, high_a), (low_b, high_b) = self._words(a), self._words(b)
        if op in ("eq", "ne"):
            same = self._equal(low_a, low_b)
            both = self._logical("and", same, self._equal(high_a, high_b))
            return self._compare("eq", self.strip(both, (), DType.F16), Scalar(1.0 if op == "eq" else 0.0))
        if op in ("gt", "le"):
            (low_a, high_a), (low_b, high_b) = (low_b, high_b), (low_a, high_a)
        # Now a < b, or its opposite. Low words count from the smallest: their sign is turned.
        low_a, low_b = (self.binary("add", x, Scalar(-(2.0**31)), DType.I32) for x in (low_a, low_b))
        tie = self._equal(self.lend(high_a), self.lend(high_b))
        low = self._less(low_a, low_b)
        less = self._logical("or", self._less(high_a, high_b), self._logical("and", tie, low))
        return self._compare("eq", self.strip(less, (), DType.F16), Scalar(1.0 if op in ("lt", "gt") else 0.0))

    def _equal(self, a: Piece, b: Piece) -> Piece:
        mask = self._compared_words("eq", a, b)
        return self.flags(mask, self.last_axes)

    def _less(self, a: Piece, b: Piece) -> Piece:
        mask = self._compared_words("lt", a, b)
        return self.flags(mask, self.last_axes)

    def _words(self, v: Value) -> tuple[Piece, Piece]:
        """The low and the high 32 bits of an i64."""
        piece = self.value(v)
        if isinstance(piece, Scalar):
            raise self.unsupported("a comparison of i64 with a number beyond f32")
        if piece.dtype in (DType.F32, DType.I32) and SPREAD not in piece.axes:
            return words(self, piece)
        if piece.dtype is not DType.I64:
            raise self.unsupported(f"a comparison of {v.dtype} held in {piece.dtype}")
        return words_of(self, piece)

    def _compare(self, op: str, left: Piece, right: Piece) -> Strip:
        """The mask of a comparison of two pieces of one float type; uses both up. Sets ``last_axes``."""
        axes = self.joined(left, right)
        if isinstance(left, Scalar) and isinstance(right, Strip):
            op, left, right = _SWAPPED[op], right, left
        dtype = left.dtype if isinstance(left, Strip) else DType.F32
        left = self.spread(self.strip(left, axes, dtype), axes)
        right = self.spread(right, axes)
        mask = self.temporary(axes, DType.U8, 8)
        c = self.context
        view = self.view(mask, axes, 8)
        c.tree.emit(c.tree.top, f"compare_{op}", "vector", "V", view, self.view(left, axes), self.at(right, axes))
        self.recycle(left)
        self.recycle(right)
        self.last_axes = axes
        return mask

    # -- selection -----------------------------------------------------------------------------------------------

    def _select(self, v: Select, cond: Value, a: Value, b: Value) -> Piece:
        dtype = self.carrier(v)
        x, y = self.operand(a, dtype), self.operand(b, dtype)
        if dtype is DType.I32:
            return self._mixed(cond, x, y)
        mask, axes = self.mask(cond)
        return self.selected(mask, x, y, self.ordered({*axes, *self.joined(x, y)}), dtype, axes)

    def _mixed(self, cond: Value, x: Piece, y: Piece) -> Piece:
        """``y + (x - y) c``, exact whatever wraps around."""
        c = self.carry(self.truth(cond), DType.I32)
        difference = self.binary("sub", x, self.lend(y), DType.I32)
        return self.binary("add", self.binary("mul", difference, c, DType.I32), y, DType.I32)

    def choose(self, op: str, sides: tuple[Piece, Piece], values: tuple[Piece, Piece], dtype: DType) -> Piece:
        """The first of ``values`` where the comparison of ``sides`` holds, else the second; uses all up."""
        mask = self._compare(op, *sides)
        axes = self.ordered({*self.last_axes, *self.joined(*values)})
        return self.selected(mask, *values, axes, dtype, self.last_axes)

    def selected(
        self, mask: Strip, x: Piece, y: Piece, axes: tuple[str, ...], dtype: DType, has: tuple[str, ...] | None = None
    ) -> Piece:
        """``x`` where a bit of ``mask`` (over ``has``) is 1, else ``y``."""
        if has is not None and has and axes[-1] != has[-1]:
            flags = self.flags(mask, has)
            mask = self._compare("ne", self.strip(flags, axes, DType.F16), self.strip(Scalar(0.0), axes, DType.F16))
        elif has is not None and not has and axes:
            flags = self._strip(self.flags(mask, has))
            mask = self._compare("ne", self.spread(flags, axes), self.strip(Scalar(0.0), axes, DType.F16))
        x = self.spread(self.strip(x, axes, dtype), axes)
        y = y if isinstance(y, Scalar) and not isinstance(y.value, Expr) else self.strip(y, axes, dtype)
        y = self.spread(y, axes)
        result = self.result(axes, dtype, x, y)
        c = self.context
        views = (self.view(mask, axes, 8), self.view(x, axes), self.at(y, axes))
        c.tree.emit(c.tree.top, "select", "vector", "V", self.view(result, axes), *views)
        for p in (mask, x, y):
            self.recycle(p, result)
        return result
