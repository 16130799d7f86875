"""Classes of kernels that reach different shares of a machine, told apart by what the body does."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.ir.symbolic import Expr, product
from tilewright.kernel.analysis import Product, as_product, loads_of, offset_of, walk
from tilewright.kernel.expr import Binary, IndexValue, Load, Unary
from tilewright.kernel.tile import Define, Kernel, Scan, Store

#: Most specific first. ``scan`` carries values along an axis (attention); ``contraction`` is a sum of products whose
#: operands both bring axes of the result (matrix products, convolutions); ``window`` reduces over an axis that is added
#: to another in an index (depthwise convolutions, pooling); ``rows`` reduces whole axes (softmax, normalization);
#: ``elementwise`` computes without a reduction; ``movement`` computes nothing.
KINDS = ("scan", "contraction", "window", "rows", "elementwise", "movement")


def kind_of(kernel: Kernel) -> str:
    """The class of a kernel: the first of :data:`KINDS` that one of its statements shows."""
    if any(isinstance(s, Scan) for s in kernel.body):
        return "scan"
    if any(True for _ in products_of(kernel)):
        return "contraction"
    reductions = [d for d in defines_of(kernel) if d.reduce is not None]
    if any(map(_slides, reductions)):
        return "window"
    if reductions:
        return "rows"
    values = [s.value for s in kernel.body if isinstance(s, Define | Store)]
    if any(isinstance(v, Binary | Unary) for value in values for v in walk(value)):
        return "elementwise"
    return "movement"


def defines_of(kernel: Kernel) -> Iterator[Define]:
    """Every definition of a kernel, those inside scans included."""
    for s in kernel.body:
        if isinstance(s, Define):
            yield s
        elif isinstance(s, Scan):
            yield from s.body


def products_of(kernel: Kernel) -> Iterator[Product]:
    """The sums of products in which each operand (or the only one that has any) brings axes of its own."""
    for define in defines_of(kernel):
        found = as_product(define)
        if found is not None and (found.n or not found.batch):
            yield found


def is_conversion(kernel: Kernel) -> bool:
    """Whether a kernel only puts the elements of one tensor in another order: a transposition, a change of layout.

    Every element of one input goes to one element of the output unchanged, and not all to the place that they had;
    copies, slices, gathers, broadcasts, padding and concatenations are no conversions.
    """
    stores = [s for s in kernel.body if isinstance(s, Store)]
    if len(kernel.body) != 1 or len(stores) != 1 or not isinstance(stores[0].value, Load):
        return False
    (store,) = stores
    load = store.value
    assert isinstance(load, Load)
    read, written = (tuple(i for i in index if isinstance(i, Expr)) for index in (load.index, store.index))
    if load.fill is not None or len(read) < len(load.index) or len(written) < len(store.index):
        return False
    source, target = kernel.param(load.tensor), kernel.param(store.tensor)
    if product(source.shape) != product(target.shape):
        return False
    return offset_of(source, read) != offset_of(target, written)


def _slides(define: Define) -> bool:
    """Whether an index adds an axis that is reduced over to one that is not."""
    assert define.reduce is not None
    inner, outer = set(define.reduce.axes), set(define.axes)
    for load in loads_of(define.value):
        for index in load.index:
            if isinstance(index, Expr) and index.symbols & inner and index.symbols & outer:
                return True
    return any(
        isinstance(v, IndexValue) and v.index.symbols & inner and v.index.symbols & outer for v in walk(define.value)
    )
