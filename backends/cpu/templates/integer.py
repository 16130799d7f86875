"""The template of products of 8-bit integers with a constant: blocks of rows that are staged once for many columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tilewright.backends.cpu.integer import PANEL, IntegerProduct, form_of, integer_product, quads
from tilewright.backends.cpu.templates.axes import least_blocks, most, stored_axes
from tilewright.backends.cpu.winograd import OPTION, image_rows, windows_of
from tilewright.kernel.expr import Load, Ref
from tilewright.kernel.schedule import Loop, Pack, Schedule
from tilewright.kernel.tile import Define, Kernel
from tilewright.target import Target

#: Row tiles of one block: so often a widened strip of columns is used.
ROW_TILES = 9
#: Bytes of the staged rows of one block: 54 rows of 512 channels under a window of 3 x 3. A piece of the depth of them
#: is used at a time, 83 KB.
STAGED_BYTES = 524288
#: Panels of columns of a block at the least: staging a row takes a twentieth of the time of its products with two, and
#: computing one (a quantization) as much with eight.
LEAST_PANELS = 2
LEAST_COMPUTED = 8
#: Windows of 2 x 2 outputs of one block: weights are transformed once for them, in the time of the products of two.
WINDOWS = (12, 56)
#: Blocks for each core of a target at the least, so that cores finish together.
BLOCKS_PER_UNIT = 4


def integer_contraction(kernel: Kernel, define: Define, target: Target) -> Iterator[Schedule]:
    """Blocks of rows × groups of panels; the constant in panels of quads."""
    found = integer_product(kernel, define)
    pack = None if found is None else quads(kernel, found)
    if found is None or pack is None:
        return
    yield from _by_windows(kernel, found, pack, target)
    free = stored_axes(kernel)
    blocks = [Loop(a, 1, "block") for a in free if a not in (found.column, found.row)]
    if found.row in free:
        assert found.row is not None
        unit = form_of(target, found).tile.rows
        blocks.append(Loop(found.row, _rows(kernel, found, target), "block", balanced=True, unit=unit))
    if found.column in free:
        loops = _columns(
            kernel, found, blocks, LEAST_PANELS if isinstance(found.a, Load | Ref) else LEAST_COMPUTED, target
        )
        if loops:
            yield Schedule(loops=(*blocks, *loops), packs=(pack,))
    yield Schedule(loops=tuple(blocks), packs=(pack,))


def _columns(
    kernel: Kernel, found: IntegerProduct, blocks: Sequence[Loop], least: int, target: Target
) -> tuple[Loop, ...]:
    """A loop over groups of ``least`` panels or more, where there is more than one of them."""
    panels = -(-most(kernel, found.column) // PANEL)
    together, wanted = panels, BLOCKS_PER_UNIT * target.units
    while together > least and least_blocks(kernel, blocks) * -(-panels // together) < wanted:
        together -= 1
    together = -(-panels // -(-panels // together))
    return (Loop(found.column, together * PANEL, "block"),) if together < panels else ()


def _by_windows(kernel: Kernel, found: IntegerProduct, pack: Pack, target: Target) -> Iterator[Schedule]:
    """Blocks of whole image rows for convolutions that take fewer products in windows of 2 x 2 outputs."""
    windows = windows_of(kernel, found) if form_of(target, found).name == "pairs" else None
    rows = None if windows is None else image_rows(windows, *WINDOWS)
    free = stored_axes(kernel)
    if windows is None or rows is None or found.row not in free or found.column not in free:
        return
    assert found.row is not None
    blocks = (Loop(found.row, rows * windows.width, "block"),)
    loops = _columns(kernel, found, blocks, LEAST_PANELS, target)
    yield Schedule(loops=(*blocks, *loops), packs=(pack,), extra=((OPTION, True),))


def _rows(kernel: Kernel, found: IntegerProduct, target: Target) -> int:
    """Rows of one block, whole register tiles."""
    form = form_of(target, found)
    row = found.length(kernel) * (2 if form.name == "pairs" else 1)
    return form.tile.rows * max(1, min(ROW_TILES, STAGED_BYTES // (row * form.tile.rows)))
