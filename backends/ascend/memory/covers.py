"""Whether one access writes all that another reads, for all values of the symbols: sound, not complete."""

from __future__ import annotations

from tilewright.backends.ascend.placed.form import Access, Block, Buffer, View
from tilewright.backends.ascend.placed.layout import BLOCK_BYTES
from tilewright.backends.ascend.synchronization.facts import Facts
from tilewright.ir.symbolic import Expr, constant

#: Counts and strides of a view from the outermost dimension inwards, without those of one lane.
_Dims = list[tuple[Expr, int]]


def covers(written: Access, read: Access | None, buffer: Buffer, facts: Facts) -> bool:
    """Whether every element of ``read`` is one of ``written``. ``None`` stands for the whole slot."""
    if isinstance(written, Block):
        return _block_covers(written, read, buffer, facts)
    whole = read if read is not None else _everything(buffer)
    return isinstance(whole, View) and _view_covers(written, whole, buffer, facts)


def _everything(buffer: Buffer) -> View:
    total = buffer.slot_bytes // buffer.element_bytes
    return View(buffer.name, constant(0), ((constant(total), constant(1)),))


def _block_covers(written: Block, read: Access | None, buffer: Buffer, facts: Facts) -> bool:
    if read is None:
        # Padding of a matrix in fractals is nobody's.
        corner = (written.row, written.column, written.rows, written.columns)
        return len(buffer.shape) == 2 and corner == (constant(0), constant(0), *buffer.shape)
    if not isinstance(read, Block):
        return False
    rows = (written.row, written.rows), (read.row, read.rows)
    columns = (written.column, written.columns), (read.column, read.columns)
    return all(_inside(r[0] - w[0], r[1], w[1], facts) for w, r in (rows, columns))


def _view_covers(written: View, read: View, buffer: Buffer, facts: Facts) -> bool:
    w, r = _dims(written, buffer), _dims(read, buffer)
    distance = read.offset - written.offset
    if w is None or r is None or not distance.is_constant or distance.value < 0:
        return False
    if w == r and distance.value == 0:
        return True
    if not w:
        return not r and distance.value == 0
    # One run of elements contains whatever lies between its ends.
    if len(w) == 1 and w[0][1] == 1:
        reach = sum(((count - 1) * stride for count, stride in r), constant(0))
        return facts.bounds(w[0][0] - 1 - reach - distance)[0] >= 0
    strides = [stride for _, stride in w]
    counts = dict.fromkeys(strides, constant(1))
    if len(counts) < len(strides):
        return False
    if len({stride for _, stride in r}) < len(r):
        return False
    for count, stride in r:
        if stride not in counts:
            return False
        counts[stride] = count
    left = distance.value
    for count, stride in w:
        steps, left = divmod(left, stride)
        if not _inside(constant(steps), counts[stride], count, facts):
            return False
    return left == 0


def _dims(v: View, buffer: Buffer) -> _Dims | None:
    """Dimensions by falling stride, neighbours that are one run joined; ``None`` where they are not plain."""
    found: _Dims = []
    lanes = max(1, BLOCK_BYTES // buffer.element_bytes)
    for n, (count, stride) in enumerate(v.dims):
        if not stride.is_constant or stride.value < 0:
            return None
        if stride.value == 0:
            # A row of stride 0 is one block that is read over and over; other dimensions repeat rows.
            if n == len(v.dims) - 1:
                found.append((constant(lanes), 1))
            continue
        if count != 1:
            found.append((count, stride.value))
    found.sort(key=lambda d: -d[1])
    joined: _Dims = []
    for many, apart in found:
        if joined and many.is_constant and joined[-1][1] == many.value * apart:
            joined[-1] = (joined[-1][0] * many, apart)
        else:
            joined.append((many, apart))
    return joined


def _inside(first: Expr, count: Expr, room: Expr, facts: Facts) -> bool:
    """Whether ``first .. first + count - 1`` lies within ``0 .. room - 1``."""
    if first == 0 and count == room:
        return True
    return facts.bounds(first)[0] >= 0 and facts.bounds(room - first - count)[0] >= 0
