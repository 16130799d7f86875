"""Schedules of CPU kernels: which template (``templates/``) fits which kernel, best guess first.

Classes are told apart by what the body does, not by an operator's name: a scan (attention), a sum of products
(matrix products and convolutions), and the rest (softmax, normalization, elementwise).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tilewright.backends.cpu.templates.byte_product import byte_product
from tilewright.backends.cpu.templates.contraction import contraction
from tilewright.backends.cpu.templates.integer import integer_contraction
from tilewright.backends.cpu.templates.matvec import rows_and_columns
from tilewright.backends.cpu.templates.rows import rows
from tilewright.backends.cpu.templates.scan import attention
from tilewright.backends.cpu.templates.window import window, window_product
from tilewright.kernel.analysis import as_product
from tilewright.kernel.apply import apply
from tilewright.kernel.schedule import Schedule, ScheduleError
from tilewright.kernel.tile import Define, Kernel, Scan
from tilewright.target import Target


def schedules(kernel: Kernel, target: Target) -> Iterator[Schedule]:
    """Legal schedules of a kernel, best guess first; the last is always one block with everything whole."""
    for candidate in (*_candidates(kernel, target), Schedule()):
        try:
            apply(kernel, candidate)
        except ScheduleError:
            continue
        yield candidate


def _candidates(kernel: Kernel, target: Target) -> Iterable[Schedule]:
    scans = [s for s in kernel.body if isinstance(s, Scan)]
    if len(scans) == 1:
        yield from attention(kernel, scans[0], target)
    yield from byte_product(kernel, target)
    for define in kernel.body:
        if isinstance(define, Define):
            yield from integer_contraction(kernel, define, target)
        if isinstance(define, Define) and (product := as_product(define)) is not None:
            product = rows_and_columns(kernel, product)
            if product.n:
                yield from window_product(kernel, product, target)
                yield from contraction(kernel, define, product, target)
    for define in kernel.body:
        if isinstance(define, Define) and define.reduce is not None:
            yield from window(kernel, define, target)
    yield from rows(kernel)


def choose(kernel: Kernel, target: Target) -> Schedule:
    """The best guess."""
    return next(schedules(kernel, target))
