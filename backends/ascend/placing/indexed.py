"""Through an index that only a run tells: rows and single elements that the scalar unit has the numbers of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from tilewright.backends.ascend.placed.form import Loop, Read, View
from tilewright.backends.ascend.placing.casts import Casts, held
from tilewright.backends.ascend.placing.frame import Frame
from tilewright.backends.ascend.placing.numbers import Numbers, folded
from tilewright.backends.ascend.placing.operand import flat_index
from tilewright.backends.ascend.placing.strips import SPREAD, Piece, Strip
from tilewright.ir.symbolic import ZERO, Expr, constant, minimum, symbol
from tilewright.ir.types import DType
from tilewright.kernel.analysis import used_symbols
from tilewright.kernel.expr import Binary, Cast, Const, IndexValue, Load, Ref, Select, Value

_ONE = (constant(1), constant(1))


@dataclass(frozen=True, slots=True)
class _Element:
    """An index that is one element of a tensor, and what :class:`Read` does with it."""

    load: Load
    wrap: Expr | None = None
    add: Expr | None = None
    swap: tuple[int, int] | None = None


@dataclass(slots=True)
class Indexed(Casts):
    """Reads and writes through indices. An index is read by the scalar unit, checked there, and used as an offset."""

    numbers: Numbers = field(init=False)

    # -- indices -------------------------------------------------------------------------------------------------

    def _indices(self, load: Load) -> tuple[list[Expr | None], dict[int, Value]]:
        """Index expressions by dimension, and the values of those that only a run tells."""
        index: list[Expr | None] = []
        gathers: dict[int, Value] = {}
        for n, i in enumerate(load.index):
            value = i if isinstance(i, Expr) else folded(i, self.context.scope.facts, self.numbers.made)
            if isinstance(value, IndexValue):
                value = value.index
            index.append(value if isinstance(value, Expr) else None)
            if not isinstance(value, Expr):
                gathers[n] = value
        return index, gathers

    def _used(self, gathers: dict[int, Value]) -> set[str]:
        names: set[str] = set()
        for value in gathers.values():
            names |= used_symbols(value)
        return names & self.context.scope.ranges.keys()

    def _settled(self, index: Expr, axes: tuple[str, ...]) -> Expr:
        """``index`` with every axis that has one lane here at that lane."""
        c = self.context
        others = {a: c.start(a, True) for a in c.scope.ranges if a in index.symbols and a not in axes}
        return c.expr(index.substitute(others))

    def _stride(self, flat: Expr, axis: str, tensor: str) -> Expr:
        try:
            return flat.coefficient(axis)
        except ValueError:
            raise self.unsupported(f"an access to {tensor} that does not go along {axis} in equal steps") from None

    def _in_memory(self, tensor: str, flat: Expr, axes: tuple[str, ...], strides: dict[str, Expr]) -> View:
        c = self.context
        offset = flat.substitute({a: c.start(a, True) for a in axes})
        dims = tuple((c.count(a, True), strides[a]) for a in axes)
        return View(tensor, offset, dims or ((constant(1), constant(1)),))

    # -- one position of an index after the other ----------------------------------------------------------------

    @contextmanager
    def _each(self, rows: Sequence[str]) -> Iterator[Mapping[str, Expr]]:
        """Loops over the lanes of ``rows``; what is emitted inside stands in the innermost. Gives the lanes."""
        tree = self.context.tree
        frames = [Frame(tree.variable(f"{axis}_row")) for axis in rows]
        counts = [self.context.count(axis, True) for axis in rows]
        tree.frames.extend(frames)
        yield {axis: symbol(frame.var) for axis, frame in zip(rows, frames, strict=True)}
        for frame, count in zip(reversed(frames), reversed(counts), strict=True):
            tree.frames.pop()
            tree.top.nodes.append(Loop(frame.var, ZERO, count, constant(1), tuple(frame.nodes)))

    def _chosen(
        self,
        tensor: str,
        index: Sequence[Expr | None],
        gathers: Mapping[int, Value],
        lanes: Mapping[str, Expr],
        bad: int = 0,
    ) -> tuple[Expr, Expr]:
        """The offset of what an index points at, for one lane of each of ``lanes``, and 0 where ``bad`` is below 0 and
        the index outside, else 1; the scalar unit reads the index."""
        c = self.context
        kernel = c.scheduled.kernel
        shape, here = kernel.param(tensor).shape, c.tree.top
        read = {n: self._scalar(value, lanes, shape[n], here, bad) for n, value in gathers.items()}
        flat = flat_index(kernel, tensor, tuple(i if i is not None else read[n] for n, i in enumerate(index)))
        inside = constant(1)
        for number in read.values() if bad else ():
            inside = inside * minimum(1, number + 1)
        return flat.substitute({a: c.start(a, True) + lane for a, lane in lanes.items()}), inside

    def _gathered_rows(
        self, load: Load, axes: tuple[str, ...], index: list[Expr | None], gathers: dict[int, Value], frame: Frame
    ) -> Strip:
        """Rows whose numbers the scalar unit reads: one transfer for each position of the index."""
        if load.fill is not None:
            raise self.unsupported(f"a gathered read of {load.tensor} that may be outside")
        rows = self.wide(self._used(gathers))
        strides = self._strides_beside(load.tensor, index, axes, rows)
        near = next((a for a in reversed(axes) if strides.get(a) == 1), None)
        dtype = held(load.dtype)
        if near is None and axes:
            return self._gathered_elements(load, axes, index, gathers, frame)
        order = (*rows, *(a for a in axes if a not in rows and a != near), *((near,) if near else ()))
        strip = Strip(self.buffer(f"{load.tensor}_ub", order, dtype, frame), order, dtype)
        own = dict(zip(order, self.strides(strip), strict=True))
        inner = order[len(rows) :]
        with self._each(rows) as lanes:
            flat, _ = self._chosen(load.tensor, index, gathers, lanes)
            source = self._in_memory(load.tensor, flat, inner, strides)
            offset = sum((lane * own[a] for a, lane in lanes.items()), ZERO)
            dst = View(strip.buffer, offset, tuple((self.context.count(a, True), own[a]) for a in inner) or (_ONE,))
            self.context.tree.emit(self.context.tree.top, "copy_in", "vector", "MTE2", dst, source)
        return self.turned(strip, axes)

    def _strides_beside(
        self, tensor: str, index: Sequence[Expr | None], axes: Sequence[str], rows: Sequence[str]
    ) -> dict[str, Expr]:
        """By how much the offset grows along axes that the index does not depend on."""
        known = tuple(i if i is not None else ZERO for i in index)
        flat = flat_index(self.context.scheduled.kernel, tensor, known)
        return {a: self._stride(flat, a, tensor) for a in axes if a not in rows}

    def _gathered_elements(
        self, load: Load, axes: tuple[str, ...], index: list[Expr | None], gathers: dict[int, Value], frame: Frame
    ) -> Strip:
        """Elements that have no neighbours: each into a block of its own, from where they are put side by side."""
        c = self.context
        dtype = held(load.dtype)
        rows = self.wide(self._used(gathers))
        strides = self._strides_beside(load.tensor, index, axes, rows)
        spread = (*axes, SPREAD)
        strip = Strip(self.buffer(f"{load.tensor}_ub", spread, dtype, frame), spread, dtype)
        own = dict(zip(axes, self.strides(strip), strict=False))
        inner = [a for a in axes if a not in rows]
        with self._each(rows) as lanes:
            flat, _ = self._chosen(load.tensor, index, gathers, lanes)
            flat = flat.substitute({a: c.start(a, True) for a in inner})
            counts = [c.count(a, True) for a in inner]
            offset = sum((lane * own[a] for a, lane in lanes.items()), ZERO)
            source = View(load.tensor, flat, (*zip(counts, (strides[a] for a in inner), strict=True), _ONE))
            dst = View(strip.buffer, offset, (*zip(counts, (own[a] for a in inner), strict=True), _ONE))
            c.tree.emit(c.tree.top, "copy_in", "vector", "MTE2", dst, source)
        if dtype.bits not in (16, 32):
            return strip  # for a write that goes element by element
        size = dtype.bits // 8
        return self.gathered(strip, axes, self.positions(axes, {a: s.value * size for a, s in own.items()}))

    def _left_at(
        self, tensor: str, strip: Strip, index: list[Expr | None], gathers: dict[int, Value], inner: tuple[str, ...]
    ) -> None:
        """The lanes of ``strip``, whose last axes are ``inner``, to where an index points: a transfer for each position
        of the index. Where strips end with ``SPREAD`` elements leave one by one. Two positions that are equal race, as
        ONNX leaves open what is kept then."""
        c = self.context
        axes = tuple(a for a in strip.axes if a != SPREAD)
        rows = [a for a in axes if a not in inner]
        strides = self._strides_beside(tensor, index, axes, rows)
        own = dict(zip(axes, self.strides(strip), strict=False))
        with self._each(rows) as lanes:
            flat, inside = self._chosen(tensor, index, gathers, lanes, -1)
            flat = flat.substitute({a: c.start(a, True) for a in inner})
            counts = [c.count(a, True) for a in inner]
            one = (inside, constant(1))
            if inner:
                counts[0], one = counts[0] * inside, _ONE
            single = (one,) if strip.axes[-1:] == (SPREAD,) or not inner else ()
            offset = sum((lane * own[a] for a, lane in lanes.items()), ZERO)
            source = View(strip.buffer, offset, (*zip(counts, (own[a] for a in inner), strict=True), *single))
            target = View(tensor, flat, (*zip(counts, (strides[a] for a in inner), strict=True), *single))
            c.tree.emit(c.tree.top, "copy_out", "vector", "MTE3", target, source)

    # -- an index ------------------------------------------------------------------------------------------------

    def _scalar(self, value: Value, lanes: Mapping[str, Expr], size: Expr, frame: Frame, bad: int) -> Expr:
        """A symbol for an index that the scalar unit reads, checked to be below ``size``, else ``bad``."""
        c = self.context
        found = self._element(value)
        if found is None or found.load.dtype not in (DType.I32, DType.I64) or found.load.fill is not None:
            raise self.unsupported("an index that is computed from anything but one element of a tensor")
        index, inner = self._indices(found.load)
        if inner:
            raise self.unsupported("an index that is itself read through an index")
        at = {a: c.start(a, True) + lane for a, lane in lanes.items()}
        where = [self._settled(i.substitute(at), ()) for i in index if i is not None]
        flat = flat_index(c.scheduled.kernel, found.load.tensor, tuple(where))
        var = c.tree.variable(f"{found.load.tensor}_at")
        source = View(found.load.tensor, flat, (_ONE,))
        wrap = None if found.wrap is None else c.expr(found.wrap)
        add = None if found.add is None else self._settled(found.add.substitute(at), ())
        frame.nodes.append(Read("vector", var, source, c.expr(size), wrap, add, found.swap, bad))
        return symbol(var)

    def _element(self, value: Value) -> _Element | None:
        """The element that ``value`` is, what is added to it, and to it where it is negative."""
        match value:
            case Load():
                return _Element(value)
            case Ref() if (inlined := self._inlined(value)) is not None:
                return self._element(inlined)
            case Cast(x=x) if value.dtype in (DType.I32, DType.I64) and x.dtype.is_integer:
                return self._element(x)
            case Binary(op="add", a=a, b=b):
                return self._plus(a, b) or self._plus(b, a)
            case Select(cond=Binary(op="lt", a=a, b=Const(value=0)), a=Binary(op="add", a=x, b=size), b=y) if (
                a == x == y
            ):
                inner, wrap = self._element(a), _known(size)
                return None if inner is None or inner.wrap or wrap is None else replace(inner, wrap=wrap)
            case Select(cond=cond, a=Const(value=taken), b=y):
                return self._swapped(cond, int(taken), y)
        return None

    def _plus(self, x: Value, added: Value) -> _Element | None:
        inner, by = self._element(x), _known(added)
        if inner is None or by is None or inner.wrap is not None or x.dtype is not DType.I64:
            return None
        return replace(inner, add=by if inner.add is None else inner.add + by)

    def _swapped(self, cond: Value, taken: int, y: Value) -> _Element | None:
        """``taken`` where the element is a certain number."""
        if isinstance(cond, Ref):
            cond = self._inlined(cond) or cond
        inner = self._element(y)
        match cond:
            case Binary(op="eq", a=a, b=Const(value=given)) if inner is not None and self._element(a) == inner:
                plain = inner == _Element(inner.load)
                return replace(inner, swap=(int(given), taken)) if plain else None
        return None

    def _inlined(self, ref: Ref) -> Value | None:
        """What the tile of ``ref`` was defined as, over its axes, where it is no reduction."""
        made = self.numbers.made.get(ref.tile)
        return made.value if made is not None and made.reduce is None and made.axes == ref.axes else None

    def _strip(self, piece: Piece) -> Strip:
        assert isinstance(piece, Strip)
        return piece


def _known(value: Value) -> Expr | None:
    """An integer that the sizes and positions alone make."""
    if isinstance(value, IndexValue) and value.dtype.is_integer:
        return value.index
    return constant(int(value.value)) if isinstance(value, Const) and value.dtype.is_integer else None
