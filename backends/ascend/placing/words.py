"""Casts that a fused core lacks, made of what it has: integers of 64 bits as pairs of words, f32 as i32.

Words come out of the bytes of a tile by ``gather``, and go back so. ``f32(v)`` of a 64-bit integer is rounded once: of
``v = p·2^42 + q·2^18 + r`` with ``0 <= q < 2^24`` and ``0 <= r < 2^18`` the sum ``s + e = p·2^24 + q`` is exact
(Fast2Sum: Dekker, "A floating-point technique for extending the available precision", 1971). Where ``e`` is 0, ``s +
r/2^18`` is rounded as it should be. Where it is not, ``s`` is at least 2^24 and boundaries between f32 are whole
numbers; the whole number ``e`` and what is behind it stay on their side of them if any ``r > 0`` counts as one half.

The bits of ``x + 1.5·2^23`` are those of ``1.5·2^23`` and ``x``, to the nearest whole number, for ``|x| <= 2^22``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.backends.ascend.placed.form import Scalar, View
from tilewright.backends.ascend.placing.strips import SPREAD, Piece, Strip, dense_strides
from tilewright.ir.symbolic import ZERO, constant
from tilewright.ir.types import DType

if TYPE_CHECKING:
    from tilewright.backends.ascend.placing.arithmetic import Arithmetic

F32, I32, I64 = DType.F32, DType.I32, DType.I64
_LOW, _HIGH = 18, 10
_MAGIC = 1.5 * 2.0**23
_MAGIC_BITS = 0x4B400000
_HALF_WORD = 65536.0
_ONE = constant(1)


def words_of(core: Arithmetic, piece: Strip) -> tuple[Strip, Strip]:
    """The lower and the upper 32 bits of a tile of 64-bit integers, which stays."""
    axes = tuple(a for a in piece.axes if a != SPREAD)
    pitch = {a: s.value * 8 for a, s in zip(axes, core.strides(piece), strict=False)}
    kept = Strip(piece.buffer, piece.axes, piece.dtype)
    low, high = (core.gathered(kept, axes, core.positions(axes, dict(pitch), n), I32) for n in (0, 4))
    return low, high


def from_long(core: Arithmetic, piece: Strip, dtype: DType) -> Strip:
    """64-bit integers as ``dtype``: low bits as integers, to the nearest f32 and on from there; uses ``piece`` up."""
    low, high = words_of(core, piece)
    core.recycle(piece)
    if dtype.is_integer:
        core.recycle(high)
        return _strip(core.carry(low, dtype))
    return _strip(core.carry(_rounded_once(core, low, high), dtype))


def _rounded_once(core: Arithmetic, low: Strip, high: Strip) -> Strip:
    top, sign = _shifted(core, low, _LOW), _shifted(core, low, 31)
    rest = _less(core, low, core.lend(top), 1 << _LOW)
    middle = _less(core, top, sign, 1 << (32 - _LOW))  # as if the lower word had no sign
    above = _shifted(core, high, _HIGH)
    below = _less(core, high, core.lend(above), 1 << _HIGH)
    below = core.binary("mul", below, Scalar(float(1 << (32 - _LOW))), I32)
    middle = core.binary("add", below, middle, I32)
    a, b, r = (core.carry(x, F32) for x in (above, middle, rest))
    a = core.binary("mul", a, Scalar(2.0**24), F32)
    s = core.binary("add", core.lend(a), core.lend(b), F32)
    taken = core.binary("sub", core.lend(s), a, F32)
    e = core.binary("sub", b, taken, F32)
    some = core.binary("min", core.lend(r), Scalar(0.5), F32)
    near = core.binary("add", core.lend(e), some, F32)
    exact = core.binary("mul", r, Scalar(2.0**-_LOW), F32)
    last = core.choose("eq", (e, Scalar(0.0)), (exact, near), F32)
    whole = core.binary("add", s, last, F32)
    return _strip(core.binary("mul", whole, Scalar(2.0**_LOW), F32))


def _shifted(core: Arithmetic, x: Strip, by: int) -> Strip:
    result = core.temporary(x.axes, I32)
    core.emit("shift_right", result, x.axes, x, parameters=(("by", by),))
    return result


def _less(core: Arithmetic, x: Piece, y: Piece, times: int) -> Piece:
    """``x - times · y``."""
    return core.binary("add", x, core.binary("mul", y, Scalar(-float(times)), I32), I32)


def to_word(core: Arithmetic, x: Strip, rounding: str) -> Strip:
    """f32 below 2^31 as i32; uses ``x`` up. Halves of a word are rounded apart: both to the nearest, of which the
    upper one leaves the lower one its sign."""
    if rounding not in ("", "rint"):
        x = core.rounded(x, rounding)
    high = core.binary("add", core.binary("mul", core.lend(x), Scalar(1 / _HALF_WORD), F32), Scalar(_MAGIC), F32)
    whole = core.binary("add", core.lend(high), Scalar(-_MAGIC), F32)
    low = core.binary("add", x, core.binary("mul", whole, Scalar(-_HALF_WORD), F32), F32)
    low = core.binary("add", low, Scalar(_MAGIC), F32)
    upper, lower = (_bits(core, _strip(piece)) for piece in (high, low))
    # The bits of the number that was added are none in the upper half once they are moved up.
    upper_half = core.binary("mul", upper, Scalar(_HALF_WORD), I32)
    return _strip(core.binary("add", core.binary("add", upper_half, lower, I32), Scalar(-float(_MAGIC_BITS)), I32))


def _bits(core: Arithmetic, x: Strip) -> Strip:
    """f32 as the integers that have their bits; uses ``x`` up."""
    result = core.temporary(x.axes, I32)
    core.emit("copy", result, x.axes, x)
    core.recycle(x)
    return result


def into_long(core: Arithmetic, piece: Strip, out: Strip) -> None:
    """Integers of 32 bits, over the axes of ``out``, as 64-bit ones there; uses ``piece`` up."""
    c, axes = core.context, out.axes
    tree = c.tree
    shape = core.shape(axes, I32)
    plane = 1
    for n in shape:
        plane *= n
    pair = tree.add("t", "ub", I32, (2, *shape), "vector")
    one = Strip(pair, axes, I32)
    strides = [constant(s) for s in dense_strides(shape)]
    counts = [c.count(a, True) for a in axes] or [_ONE]
    dims = tuple(zip(counts, strides, strict=True))
    source = core.view(piece, axes)
    low, high = View(pair, ZERO, dims), View(pair, constant(plane), dims)
    tree.emit(tree.top, "copy", "vector", "V", low, source)
    tree.emit(tree.top, "shift_right", "vector", "V", high, source, parameters=(("by", 31),))
    core.recycle(piece)
    offsets = _pairs(core, one, shape, plane)
    to = core.view(out, axes)
    everything = View(pair, ZERO, ((constant(2), constant(plane)), *dims))
    tree.emit(tree.top, "gather", "vector", "V", to, everything, offsets)


def _pairs(core: Arithmetic, one: Strip, shape: tuple[int, ...], plane: int) -> View:
    """Where the words of each lane are: word ``k`` of lane ``j`` in plane ``k``."""
    c, axes, tree = core.context, one.axes, core.context.tree
    lanes = 2 * shape[-1]
    line, odd = (tree.add("t", "ub", I32, (lanes,), "vector") for _ in range(2))
    words = (c.count(axes[-1], True) if axes else _ONE) * 2
    run, other = (View(b, ZERO, ((words, _ONE),)) for b in (line, odd))

    def emit(op: str, dst: View, *sources: View | Scalar, **parameters: int) -> None:
        tree.emit(tree.top, op, "vector", "V", dst, *sources, parameters=tuple(parameters.items()))

    # With j = w >> 1 and k = w - 2j: 4 (j + plane k) = 4 (w plane + j (1 - 2 plane)).
    emit("iota", run, Scalar(ZERO))
    emit("shift_right", other, run, by=1)
    emit("mul", other, other, Scalar(constant(4 - 8 * plane)))
    emit("mul", run, run, Scalar(constant(4 * plane)))
    emit("add", run, run, other)
    rows = axes[:-1]
    if not rows:
        return run
    pitch = {a: s * 4 for a, s in zip(axes, dense_strides(shape), strict=True)}
    starts = core.spread(core.positions(rows, dict(pitch)), axes)
    assert isinstance(starts, Strip)
    made = tree.add("t", "ub", I32, (*shape[:-1], lanes), "vector")
    counts = [c.count(a, True) for a in rows]
    near = [constant(s) for s in dense_strides((*shape[:-1], lanes))]
    dst = View(made, ZERO, (*zip(counts, near[:-1], strict=True), (words, _ONE)))
    each = View(starts.buffer, ZERO, (*zip(counts, core.strides(starts)[:-1], strict=True), (words, ZERO)))
    emit("add", dst, each, View(line, ZERO, (*((n, ZERO) for n in counts), (words, _ONE))))
    core.recycle(starts)
    return dst


def _strip(piece: Piece) -> Strip:
    assert isinstance(piece, Strip)
    return piece
