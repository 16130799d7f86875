"""Convolutions as the image to columns of the cube core sees them: windows that slide over an image.

A kernel says the same as a product whose left operand is read at ``y·dilation + oy·stride - top``. Output pixels are
one axis, of one image (``b`` apart) or of all images of a batch (``m // pixels`` is the image then).
"""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.backends.ascend.placed.layout import BLOCK_BYTES, FRACTAL, round_up
from tilewright.backends.ascend.placing.operand import factor_of
from tilewright.ir.symbolic import ZERO, Expr, Operation, Symbol, constant, maximum, minimum, symbol
from tilewright.kernel.analysis import as_product
from tilewright.kernel.expr import Load, Value
from tilewright.kernel.schedule import Pack
from tilewright.kernel.tile import Define, Kernel

#: What ``load_image`` has room for: kernel and dilation, stride, pads.
_KERNEL, _STRIDE, _PAD = 255, 63, 255
#: The last window that it counts to, and the length of a row of windows.
WINDOWS, DEPTHS = 32767, 65535
#: Pixels of one transfer into L1 (rows of Nd2NzParams).
PIXELS = 16384


@dataclass(frozen=True, slots=True)
class Slide:
    """How windows move along one dimension: positions of the window and their axis, if there is one."""

    axis: str | None
    taps: int
    stride: int
    dilation: int
    before: int
    size: int
    steps: int

    @property
    def reach(self) -> int:
        """Positions that one window spans."""
        return (self.taps - 1) * self.dilation + 1

    @property
    def after(self) -> int:
        """Positions behind the image that the last window reaches."""
        return max(0, (self.steps - 1) * self.stride + self.reach - self.before - self.size)

    @property
    def exact(self) -> bool:
        """Whether the instruction counts as many windows."""
        return (self.size + self.before + self.after - self.reach) // self.stride + 1 == self.steps


@dataclass(frozen=True, slots=True)
class Windows:
    """A convolution: ``rows`` counts output pixels, ``image`` is which image one belongs to (over block starts).

    ``planar``: the channels of the image lie apart, each a plane of pixels.
    """

    load: Load
    weights: Load
    rows: str
    columns: str
    channel: str
    down: Slide
    across: Slide
    channels: int
    planar: bool

    @property
    def pixels(self) -> int:
        """Output pixels of an image."""
        return self.down.steps * self.across.steps

    @property
    def taps(self) -> int:
        return self.down.taps * self.across.taps

    @property
    def few(self) -> int:
        """Channels of a pixel where there are so few that L1 holds them side by side; 0 for planes of 32 bytes."""
        room = 4 if self.planar else self.channels
        return room if room in ((4, 8) if self.load.dtype.bits == 16 else (4, 8, 16)) else 0

    @property
    def fine(self) -> int:
        """Elements of a row of a fractal."""
        return BLOCK_BYTES * 8 // self.load.dtype.bits

    @property
    def depth(self) -> int:
        """Length of a row of windows, every channel of the image."""
        return self.depth_of(self.channels)

    def depth_of(self, channels: int) -> int:
        """Length of a row of windows over so many channels."""
        return self.taps * (self.few or round_up(channels, self.fine))

    # -- tiles -----------------------------------------------------------------------------------------------------

    def high(self, pixels: int) -> int:
        """Rows of the image that windows of ``pixels`` neighbours read, wherever a tile of that size begins."""
        wide = self.across.steps
        lines = pixels // wide if pixels % wide == 0 else 1 if wide % pixels == 0 else (pixels + wide - 2) // wide + 1
        return min(self.down.size, (lines - 1) * self.down.stride + self.down.reach)

    def counted(self, pixels: int) -> bool:
        """Whether the instruction counts to every window of a tile of ``pixels``."""
        high = self.high(pixels)
        last = self.pixels if high == self.down.size else (high // self.down.stride + 2) * self.across.steps
        return last <= WINDOWS

    def batch(self, first: Expr) -> Expr:
        """The image of output pixel ``first``, where the axis of pixels counts through a batch."""
        return first // self.pixels

    def pack(self, tensor: str, kernel: Kernel) -> Pack:
        """The weights in columns of fractals, in the order of a row of windows: whole fractals, zero filled."""
        shape = [s.value for s in kernel.param(tensor).shape]
        d = {axis: symbol(f"d{n}") for n, axis in enumerate(map(str, self.weights.index))}
        size = {axis: shape[n] for n, axis in enumerate(map(str, self.weights.index))}
        y, x = (d[s.axis] if s.axis else ZERO for s in (self.down, self.across))
        o, c = d[self.columns], d.get(self.channel, ZERO)
        wide = constant(round_up(size[self.columns], FRACTAL))
        if self.few:
            at = (y * self.across.taps + x) * self.few + c
            steps = constant(-(-self.depth // self.fine))
            return Pack(tensor, (at // self.fine, o, at % self.fine), (steps, wide, constant(self.fine)))
        index = (c // self.fine, y, x, o, c % self.fine)
        planes = constant(-(-self.channels // self.fine))
        taps = (constant(self.down.taps), constant(self.across.taps))
        return Pack(tensor, index, (planes, *taps, wide, constant(self.fine)))


@dataclass(frozen=True, slots=True)
class Tile:
    """Where the windows of a tile of output pixels lie, all numbers over the starts of blocks.

    ``top``: first row of the image in L1, of ``high`` rows that always lie inside the image; ``first``: the first
    window, counted in the image of L1 under ``pads`` (top, left, bottom, right).
    """

    high: int
    top: Expr
    first: Expr
    pads: tuple[int | Expr, int, int, int]


def tile_of(w: Windows, start: Expr, pixels: int) -> Tile:
    """The tile of ``pixels`` output pixels from ``start`` of its image on.

    Rows in L1 never lie outside the image: at its upper end windows begin ``pads`` before the first row, at its lower
    end rows that come before the first window are left of it.
    """
    down, wide, high = w.down, w.across.steps, w.high(pixels)
    sides = (w.across.before, down.after, w.across.after)
    if high == down.size:
        return Tile(high, ZERO, start, (down.before, *sides))
    at = (start // wide) * down.stride - down.before
    top = maximum(0, minimum(at, down.size - high))
    ahead = at - top
    step = maximum(0, ahead + (down.stride - 1)) // down.stride
    first = step * wide + (ZERO if pixels % wide == 0 else start % wide)
    return Tile(high, top, first, (step * down.stride - ahead, *sides))


# -- recognition ---------------------------------------------------------------------------------------------------


def windows_of(kernel: Kernel, define: Define) -> Windows | None:
    """The convolution that ``define`` is; ``None`` for another product, or sizes that only a run tells."""
    product = as_product(define)
    if product is None or product.batch or define.reduce is None:
        return None
    sides = ((product.a, product.m, product.b, product.n), (product.b, product.n, product.a, product.m))
    for image, m, weights, n in sides:
        if found := _windows(kernel, define, (image, m), (weights, n)):
            return found
    return None


def _windows(
    kernel: Kernel, define: Define, left: tuple[Value, tuple[str, ...]], right: tuple[Value, tuple[str, ...]]
) -> Windows | None:
    image, weights = factor_of(left[0]), factor_of(right[0])
    x, w = image.value, weights.value
    if not isinstance(x, Load) or not isinstance(w, Load) or len(right[1]) != 1 or not left[1]:
        return None
    if image.dtype.bits not in (8, 16) or w.fill is not None or kernel.param(w.tensor).role != "const":
        return None
    rows, columns = left[1][-1], right[1][0]
    reduced = define.reduce.axes if define.reduce is not None else ()
    plain = {columns, *reduced}
    if len(x.index) != 4 or any(not isinstance(i, Expr) for i in (*x.index, *w.index)):
        return None
    # Each axis is one dimension of the weights, and what has no axis is one element.
    named = [str(i) for i in w.index if isinstance(i, Expr) and not i.is_constant]
    single = [kernel.param(w.tensor).shape[n] for n, i in enumerate(w.index) if isinstance(i, Expr) and i.is_constant]
    if sorted(named) != sorted(plain) or any(s != 1 for s in single):
        return None
    shapes = [s for p in (x.tensor, w.tensor) for s in kernel.param(p).shape[1 if p == x.tensor else 0 :]]
    if any(not s.is_constant for s in shapes) or any(s < 1 for s in (e.value for e in shapes)):
        return None
    return _placed(kernel, x, w, rows, columns, reduced)


def _placed(kernel: Kernel, x: Load, w: Load, rows: str, columns: str, reduced: tuple[str, ...]) -> Windows | None:
    index = [i for i in x.index if isinstance(i, Expr)]
    sizes = [s.value for s in kernel.param(x.tensor).shape[1:]]
    batch = index[0]
    for planar, order in ((False, (1, 2, 3)), (True, (2, 3, 1))):
        y, z, c = (index[n] for n in order)
        high, wide, channels = (sizes[n - 1] for n in order)
        channel = str(c) if c.symbols else ""
        if (channel and channel not in reduced) or (not channel and (c != 0 or channels != 1)):
            continue
        if channel and kernel.extent(channel) != channels:
            continue
        steps = _steps(kernel, batch, rows, z)
        if steps is None:
            continue
        position = symbol(rows) // steps[1]
        position = position if rows not in batch.symbols else position % steps[0]
        down = _slide(kernel, y, position if steps[0] > 1 else ZERO, reduced, high, steps[0])
        beside = symbol(rows) if steps[0] == 1 and rows not in batch.symbols else symbol(rows) % steps[1]
        across = _slide(kernel, z, beside, reduced, wide, steps[1])
        if down is None or across is None:
            continue
        found = Windows(x, w, rows, columns, channel, down, across, channels, planar)
        named = {channel, down.axis or "", across.axis or ""} - {""}
        if named == set(reduced) and _takes(found, x):
            return found
    return None


def _steps(kernel: Kernel, batch: Expr, rows: str, across: Expr) -> tuple[int, int] | None:
    """Rows and columns of the output image."""
    extent = kernel.extent(rows)
    if rows in batch.symbols:
        atoms = [a for a in batch.atoms if isinstance(a, Operation)]
        if len(atoms) != 1 or batch != symbol(rows) // atoms[0].args[1] or not atoms[0].args[1].is_constant:
            return None
        pixels = atoms[0].args[1].value
    elif extent.is_constant:
        pixels = extent.value
    else:
        return None
    wide = 1
    for atom in across.atoms:
        if isinstance(atom, Operation) and atom.op == "%" and atom.args[0] == symbol(rows):
            wide = atom.args[1].value if atom.args[1].is_constant else 0
        elif atom == Symbol(rows):
            wide = pixels
    return (pixels // wide, wide) if wide and pixels % wide == 0 and pixels > 1 else None


def _slide(
    kernel: Kernel, index: Expr, position: Expr, reduced: tuple[str, ...], size: int, steps: int
) -> Slide | None:
    """``index`` as ``axis·dilation + position·stride - before``."""
    axis, dilation, stride, rest, moves = None, 1, 1, index, False
    for monomial, factor in index.terms:
        if len(monomial) != 1 or monomial[0][1] != 1:
            continue
        atom = monomial[0][0]
        if isinstance(atom, Symbol) and atom.name in reduced:
            if axis is not None:
                return None
            axis, dilation = atom.name, factor
            rest = rest - symbol(axis) * factor
        elif position.symbols and position == Expr([(monomial, 1)]):
            stride, moves = factor, True
            rest = rest - position * factor
    taps = kernel.extent(axis) if axis else constant(1)
    if not rest.is_constant or not taps.is_constant or rest.value > 0 or moves != bool(position.symbols):
        return None
    slide = Slide(axis, taps.value, stride, dilation, -rest.value, size, steps)
    limits = ((slide.taps, _KERNEL), (dilation, _KERNEL), (stride, _STRIDE), (slide.before, _PAD), (slide.after, _PAD))
    return slide if slide.exact and all(0 <= n <= most for n, most in limits) else None


def _takes(w: Windows, x: Load) -> bool:
    """Whether the instruction makes these windows: channels in whole blocks or few, padding where there is some; single
    pixels are rows of a product, which strided transfers bring in without those between."""
    if w.taps == 1:
        return False
    slides = (w.down, w.across)
    if w.planar and (w.channels > w.few or all(s.stride >= s.reach for s in slides)):
        return False
    if not w.few and w.channels % w.fine:
        return False
    outside = w.down.before or w.down.after or w.across.before or w.across.after
    if outside and not isinstance(x.fill, int | float):
        return False
    fits = w.load.dtype.bits == 8 or not x.fill
    return fits and (x.fill is None or float(x.fill).is_integer()) and w.across.size * w.down.size < 1 << 24
