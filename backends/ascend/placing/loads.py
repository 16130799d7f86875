"""Reading tensors into the unified buffer: contiguous, turned, strided, beyond their bounds, and through an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tilewright.backends.ascend.placed.form import Scalar, View
from tilewright.backends.ascend.placed.layout import FRACTAL
from tilewright.backends.ascend.placing.casts import held
from tilewright.backends.ascend.placing.frame import Frame
from tilewright.backends.ascend.placing.indexed import Indexed
from tilewright.backends.ascend.placing.operand import flat_index
from tilewright.backends.ascend.placing.strips import SPREAD, Strip
from tilewright.ir.ranges import bounds
from tilewright.ir.symbolic import ZERO, Expr, ceildiv, constant, maximum, minimum, symbol
from tilewright.ir.types import DType
from tilewright.kernel.expr import Load

#: The longest stride along which a whole span is read rather than single elements.
_SPAN = 4


@dataclass(frozen=True, slots=True)
class _Padded:
    """A read of ``load`` at ``flat``, over ``axes`` with ``strides`` in the tensor, of which the lanes of ``spans`` are
    inside; it stands in ``frame``."""

    load: Load
    flat: Expr
    axes: tuple[str, ...]
    frame: Frame
    spans: Mapping[str, tuple[Expr, Expr]]
    strides: Mapping[str, Expr]

    @property
    def fill(self) -> Scalar:
        """The value of lanes that are outside."""
        return Scalar(float(self.load.fill if self.load.fill is not None else 0))


@dataclass(slots=True)
class Loads(Indexed):
    """Brings tensors in, each as far out of the loops as what it depends on allows."""

    def load(self, load: Load) -> Strip:
        """The elements of ``load`` over those of its axes that have lanes here, in the type of the tensor."""
        c = self.context
        index, gathers = self._indices(load)
        rows = self.wide(self._used(gathers))
        axes = self.wide({s for i in index if i is not None for s in i.symbols} | set(rows))
        settled = [None if i is None else self._settled(i, axes) for i in index]
        known = [i for i in settled if i is not None]
        frame = self._home([*known, *(e for a in axes for e in (c.start(a, True), c.count(a, True)))])
        if gathers:
            frame = c.tree.top
        key = (load, axes)
        if key not in frame.loaded:
            shape = c.scheduled.kernel.param(load.tensor).shape
            open_frames = c.tree.frames
            c.tree.frames = open_frames[: open_frames.index(frame) + 1] if frame in open_frames else [frame]
            if gathers:
                strip = self._gathered_rows(load, axes, settled, gathers, frame)
            else:
                flat = flat_index(c.scheduled.kernel, load.tensor, tuple(known))
                spans = self._spans(load, known, shape, axes)
                strip = self._strip_of(load, flat, axes, frame, spans)
            c.tree.frames = open_frames
            frame.loaded[key] = Strip(strip.buffer, strip.axes, strip.dtype)
        return frame.loaded[key]  # type: ignore[return-value]

    def _home(self, expressions: list[Expr]) -> Frame:
        """The innermost loop that a read depends on; in front of all blocks where it depends on none."""
        tree = self.context.tree
        frame = tree.frame_of(expressions)
        used = set().union(*(e.symbols for e in expressions))
        if frame is not tree.frames[0] or frame.var in used or self.context.cube_tiles:
            return frame
        return self.context.front

    # -- plain reads ---------------------------------------------------------------------------------------------

    def _strip_of(
        self, load: Load, flat: Expr, axes: tuple[str, ...], frame: Frame, spans: dict[str, tuple[Expr, Expr]] | None
    ) -> Strip:
        """What ``flat`` says, over ``axes``. ``spans``: the lanes of each axis that are inside the tensor, where some
        may not be."""
        strides = {a: self._stride(flat, a, load.tensor) for a in axes}
        near = next((a for a in reversed(axes) if strides[a] == 1), None)
        if spans is not None:
            return self._filled(_Padded(load, flat, axes, frame, spans, strides))
        if not axes or near == axes[-1]:
            return self._copied(load, flat, axes, strides, frame)
        if near is not None:
            natural = (*(a for a in axes if a != near), near)
            turns = len(axes) == 2 and held(load.dtype).bits in (16, 32)
            strip = self._copied(load, flat, natural, strides, frame, rows=FRACTAL if turns else 1)
            if strip.dtype.bits == 8:
                strip = self._strip(self.carry(strip, DType.F16))
            return self.turned(strip, axes)
        return self._strided(load, flat, axes, strides, frame)

    def _copied(
        self, load: Load, flat: Expr, axes: tuple[str, ...], strides: dict[str, Expr], frame: Frame, rows: int = 1
    ) -> Strip:
        c = self.context
        dtype = held(load.dtype)
        strip = Strip(self.buffer(f"{load.tensor}_ub", axes, dtype, frame, rows), axes, dtype)
        source = self._in_memory(load.tensor, flat, axes, strides)
        c.tree.emit(frame, "copy_in", "vector", "MTE2", self.view(strip, axes), source)
        return strip

    def _strided(self, load: Load, flat: Expr, axes: tuple[str, ...], strides: dict[str, Expr], frame: Frame) -> Strip:
        """Elements that are not neighbours: where they are near, the span they lie in, else one transfer each."""
        c = self.context
        last = axes[-1]
        dtype = held(load.dtype)
        stride = strides[last]
        counts = [c.count(a, True) for a in axes]
        if stride.is_constant and 0 < abs(stride.value) <= _SPAN and dtype.bits in (16, 32):
            step = abs(stride.value)
            lanes = (c.vector_lanes(last) - 1) * step + 1
            shape = self.shape(axes, dtype, lanes=lanes)
            rotating = frame if frame is not c.front else None
            name = c.tree.add(f"{load.tensor}_ub", "ub", dtype, shape, "vector", frame=rotating)
            strip = Strip(name, axes, dtype)
            offset = flat.substitute({a: c.start(a, True) for a in axes})
            if stride.value < 0:
                offset = offset - (counts[-1] - 1) * step
            span = (counts[-1] - 1) * step + 1
            rows = list(zip(counts[:-1], (strides[a] for a in axes[:-1]), strict=True))
            inner = list(zip(counts[:-1], self.strides(strip)[:-1], strict=True))
            present = minimum(counts[-1], 1)
            source = View(load.tensor, offset, (*rows, (span * present, constant(1))))
            dst = View(name, ZERO, (*inner, (span * present, constant(1))))
            c.tree.emit(frame, "copy_in", "vector", "MTE2", dst, source)
            size = dtype.bits // 8
            steps: dict[str, int | Expr] = {a: s.value * size for a, s in zip(axes, self.strides(strip), strict=True)}
            steps[last] = stride.value * size
            first = (counts[-1] - 1) * (step * size) if stride.value < 0 else 0
            offsets = self.positions(axes, steps, first)
            result = self.temporary(axes, dtype)
            c.tree.emit(c.tree.top, "gather", "vector", "V", self.view(result, axes), dst, self.view(offsets, axes))
            self.recycle(offsets)
            return result
        spread = (*axes, SPREAD)
        name = self.buffer(f"{load.tensor}_ub", spread, dtype, frame)
        strip = Strip(name, spread, dtype)
        offset = flat.substitute({a: c.start(a, True) for a in axes})
        one = (constant(1), constant(1))
        source = View(load.tensor, offset, (*zip(counts, (strides[a] for a in axes), strict=True), one))
        dst = self._rows_of(strip)
        c.tree.emit(frame, "copy_in", "vector", "MTE2", dst, source)
        if load.dtype in (DType.I8, DType.U8):  # bytes are gathered as f16
            wide = Strip(self.buffer(f"{load.tensor}_wide", spread, DType.F16, frame), spread, DType.F16)
            c.tree.emit(frame, "cast", "vector", "V", self._rows_of(wide), dst)
            strip, dtype = wide, DType.F16
        if dtype.bits not in (16, 32):
            return strip  # for a write that goes element by element
        size = dtype.bits // 8
        pitch = {a: s.value * size for a, s in zip(axes, self.strides(strip), strict=False)}
        return self.gathered(strip, axes, self.positions(axes, dict(pitch)))

    # -- reads that may be outside -------------------------------------------------------------------------------

    def _spans(
        self, load: Load, index: list[Expr], shape: tuple[Expr, ...], axes: tuple[str, ...]
    ) -> dict[str, tuple[Expr, Expr]] | None:
        """First lane of each axis inside the tensor and how many are; under the empty name whether anything is."""
        if load.fill is None:
            return None
        c = self.context
        facts = c.scope.padded_facts()
        spans = {a: (ZERO, c.count(a, True)) for a in axes}
        present, outside = constant(1), False
        for original, i, size in zip(self._indices(load)[0], index, shape, strict=True):
            if original is not None:
                if any(original == symbol(a.name) and a.extent == size for a in c.scheduled.kernel.axes):
                    continue  # lanes that are read are those of the axis
                low, high = bounds(original, facts)
                if low >= 0 and bounds(size - original, facts)[0] > 0 and high < bounds(size, c.scope.facts)[0]:
                    continue
            here = [a for a in axes if a in i.symbols]
            if len(here) > 1:
                raise self.unsupported(f"a read of {load.tensor} outside its bounds along {' and '.join(here)}")
            outside = True
            if not here:
                present = present * maximum(0, minimum(1, i + 1)) * maximum(0, minimum(1, size - i))
                continue
            axis = here[0]
            q = self._stride(i, axis, load.tensor)
            if not q.is_constant or q.value <= 0:
                raise self.unsupported(f"a read of {load.tensor} outside its bounds in steps of {q}")
            base = i.substitute({axis: c.start(axis, True)})
            low_lane, count = spans[axis]
            low_lane = maximum(low_lane, ceildiv(-base, q))
            spans[axis] = (low_lane, minimum(count, ceildiv(size - base, q)))
        if not outside:
            return None
        whole = {a: (ZERO, c.count(a, True)) for a in axes}
        result = {a: s if s == whole[a] else (s[0], maximum(0, s[1] - s[0])) for a, s in spans.items()}
        result[""] = (ZERO, present)
        return result

    def _filled(self, r: _Padded) -> Strip:
        """A tile of the fill value, and in it what lies inside the tensor."""
        c, axes = self.context, r.axes
        dtype = held(r.load.dtype)
        last = axes[-1] if axes else ""
        broken = axes and (r.strides[last] != 1 or r.spans[last] != (ZERO, c.count(last, True)))
        if r.load.dtype in (DType.I8, DType.U8) and not broken:
            return self._filled_bytes(r)
        if dtype.bits not in (16, 32):
            raise self.unsupported(f"a padded read of {r.load.dtype}")
        if broken:
            return self._filled_lanes(r)
        strip = Strip(self.buffer(f"{r.load.tensor}_ub", axes, dtype, r.frame), axes, dtype)
        c.tree.emit(r.frame, "duplicate", "vector", "V", self.view(strip, axes), r.fill)
        dst, source = self._inside(r, strip)
        c.tree.emit(r.frame, "copy_in", "vector", "MTE2", dst, source)
        return strip

    def _filled_bytes(self, r: _Padded) -> Strip:
        """The same for bytes, which no instruction fills: they are brought in apart, and cast into a tile of f16."""
        c, axes, tensor = self.context, r.axes, r.load.tensor
        strip = Strip(self.buffer(f"{tensor}_wide", axes, DType.F16, r.frame), axes, DType.F16)
        raw = Strip(self.buffer(f"{tensor}_ub", axes, r.load.dtype, r.frame), axes, r.load.dtype)
        c.tree.emit(r.frame, "duplicate", "vector", "V", self.view(strip, axes), r.fill)
        near, source = self._inside(r, raw)
        inside, _ = self._inside(r, strip)
        c.tree.emit(r.frame, "copy_in", "vector", "MTE2", near, source)
        c.tree.emit(r.frame, "cast", "vector", "V", inside, near)
        return strip

    def _inside(self, r: _Padded, strip: Strip) -> tuple[View, View]:
        """What lies inside the tensor: in ``strip``, whose axes are those of the read or begin with them, and there."""
        c, axes, spans = self.context, r.axes, r.spans
        present = spans[""][1]
        offset = r.flat.substitute({a: c.start(a, True) + spans[a][0] for a in axes})
        counts = [spans[a][1] for a in axes] or [constant(1)]
        counts[0] = counts[0] * present
        inner = self.strides(strip) if axes else (constant(1),)
        corner = sum((spans[a][0] * s for a, s in zip(axes, inner, strict=False)), ZERO)
        dst = View(strip.buffer, corner, tuple(zip(counts, inner, strict=False)))
        outer = [r.strides[a] for a in axes] or [constant(1)]
        return dst, View(r.load.tensor, offset, tuple(zip(counts, outer, strict=True)))

    def _filled_lanes(self, r: _Padded) -> Strip:
        """Where some lanes of a row are outside, or they are no neighbours: each element by itself. A transfer of part
        of a row would leave the rest of its last 32 bytes undefined."""
        c, axes, dtype = self.context, r.axes, held(r.load.dtype)
        spread = (*axes, SPREAD)
        strip = Strip(self.buffer(f"{r.load.tensor}_ub", spread, dtype, r.frame), spread, dtype)
        block = (constant(32 * 8 // dtype.bits), constant(1))
        whole = View(strip.buffer, ZERO, (*self._rows_of(strip).dims[:-1], block))
        c.tree.emit(r.frame, "duplicate", "vector", "V", whole, r.fill)
        one = (constant(1), constant(1))
        dst, source = (replace(v, dims=(*v.dims, one)) for v in self._inside(r, strip))
        c.tree.emit(r.frame, "copy_in", "vector", "MTE2", dst, source)
        size = dtype.bits // 8
        pitch = {a: s.value * size for a, s in zip(axes, self.strides(strip)[:-1], strict=True)}
        return self.gathered(strip, axes, self.positions(axes, dict(pitch)))
