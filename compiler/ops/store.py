"""The end of a kernel: what is computed is written where it lies, and the kernel is tidied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.ir.symbolic import ZERO, Expr, constant, symbol
from tilewright.ir.types import TensorType
from tilewright.kernel.analysis import gathered, loads_of
from tilewright.kernel.expr import Load
from tilewright.kernel.tile import Axis, Kernel
from tilewright.ops.compose import PARAMETER, Composer, Forward, Operand, Update, free_axes, statement_axes
from tilewright.ops.digits import split_digits
from tilewright.ops.flatten import flatten_axes, name_axes, values_of
from tilewright.ops.hoist import hoist_constants

_OUTPUT_AXES = ("g", "h", "a", "b", "m", "n")


def store(composer: Composer, value: ir.Value, result: Operand, values: list[ir.Value]) -> None:
    """Write an operand to the parameter of ``value``, by a loop over the tensor that it rearranges; each piece of that
    by itself."""
    name = composer.fresh(f"y{sum(p.role == 'out' for p in composer.params)}")
    if result.update is not None and result.update.base.origin[0] == PARAMETER:
        _store_update(composer, name, result.type, result.update, values)
        return
    maps = []
    root = result
    while root.view is not None:
        root, forward = root.view
        maps.append(forward)
    stored = result.type if result.reshaped else type_of(value)
    composer.output(name, composer.spelled(stored))
    order = _memory_order(root, maps)
    shared = _shared_axes(composer, root)
    created = {
        d: shared.get(d) or composer.axis(root.type.shape[d], hint)
        for d, hint in zip(order, _axis_hints(root), strict=True)
    }
    composer.over = composer.over or tuple(created[d] for d in range(root.type.rank))
    for over, position in _pieces(composer, root, [created[d] for d in range(root.type.rank)]):
        index: tuple[Expr, ...] = position
        for forward in reversed(maps):
            index = forward(index)
        composer.store(name, [over[d] for d in order if over[d] != ZERO], index, root.at(position))


def _shared_axes(composer: Composer, root: Operand) -> dict[int, Expr]:
    """The axes of the first output for another one whose shape is that one's but for sizes of 1 (the scale of each row
    beside the rows): what both are made of is then computed once, in one loop."""
    sizes = root.type.shape
    if len(composer.over) != len(sizes):
        return {}
    extents = [composer.axes[str(a)] for a in composer.over]
    if any(size not in (1, extent) for size, extent in zip(sizes, extents, strict=True)):
        return {}
    return {d: axis for d, (axis, size) in enumerate(zip(composer.over, sizes, strict=True)) if size != 1}


#: Pieces of a tensor that are stored by themselves at most; beyond, where an element falls is asked for each.
_MOST_PIECES = 4


def _pieces(composer: Composer, root: Operand, axes: list[Expr]) -> Iterator[tuple[list[Expr], tuple[Expr, ...]]]:
    """The axes of each piece of ``root``, one a dimension (0 where there is one element), and the positions that they
    run over."""
    choices: list[list[tuple[Expr, Expr]]] = []
    count = 1
    for d, axis in enumerate(axes):
        starts = root.cuts.get(d, ())
        if not starts or count * (len(starts) + 1) > _MOST_PIECES:
            choices.append([(axis, axis)])
            continue
        count *= len(starts) + 1
        ends, own = (*starts, root.type.shape[d]), dict[Expr, Expr]()
        choices.append([])
        for start, end in zip((constant(0), *starts), ends, strict=True):
            if end - start not in own:  # pieces of equal length share an axis, and so a loop
                own[end - start] = ZERO if end - start == 1 else composer.axis(end - start, str(axis))
            choices[-1].append((own[end - start], own[end - start] + start))
    for piece in product(*choices):
        yield [axis for axis, _ in piece], tuple(position for _, position in piece)


def _memory_order(root: Operand, maps: Sequence[Forward]) -> list[int]:
    """The axes of what is computed in the order in which they lie where it is stored: a convolution that is stored
    channels-last has its channels last. A mere copy goes in the order of what it reads.
    """
    probes = tuple(symbol(f"axis{d}") for d in range(root.type.rank))
    index: tuple[Expr, ...] = probes
    for forward in reversed(maps):
        index = forward(index)
    permuted = len(index) == len(probes) and set(index) == set(probes)
    if not permuted or root.origin[0] == PARAMETER:
        return list(range(root.type.rank))
    return [probes.index(i) for i in index]


def _store_update(composer: Composer, name: str, type_: TensorType, update: Update, values: list[ir.Value]) -> None:
    """Write what is new only; the output has the other elements already."""
    hints = _OUTPUT_AXES[-len(update.shape) :]
    axes = tuple(composer.axis(size, hint) for size, hint in zip(update.shape, hints, strict=True))
    base = update.base.at([ZERO] * type_.rank)
    assert isinstance(base, Load)
    place, value, alias = update.place(axes), update.value(axes), base.tensor
    if any(load.tensor == alias for v in (value, *gathered(place)) for load in loads_of(v)):
        # What is read must not change meanwhile: the tensor is a parameter twice.
        values.append(values[[p.name for p in composer.params].index(alias)])
        alias = composer.fresh("x")
        composer.param(alias, type_, "in")
    composer.output(name, type_, alias)
    composer.store(name, axes, place, value)


def _axis_hints(root: Operand) -> Sequence[str]:
    rank = root.type.rank
    return _OUTPUT_AXES[6 - rank :] if rank <= 6 else [f"i{d}_" for d in range(rank)]


def tidy(composer: Composer, values: list[ir.Value]) -> tuple[Kernel, tuple[ir.Value, ...]]:
    """The kernel and the values of its parameters: without those that nothing reads, axes split and merged as memory
    tells them apart."""
    kernel = composer.kernel()
    read = {v.tensor for s in kernel.body for v in values_of(s) if isinstance(v, Load)}
    read |= {p.alias for p in kernel.params if p.alias is not None}
    kept = [i for i, p in enumerate(kernel.params) if p.role == "out" or p.name in read]
    symbols = {s for p in (kernel.params[i] for i in kept) for e in p.shape for s in e.symbols}
    symbols |= {s for a in kernel.axes for s in a.extent.symbols}
    symbols |= {s for statement in kernel.body for v in values_of(statement) for s in free_axes(v)}
    slim = Kernel(
        kernel.name,
        tuple(kernel.params[i] for i in kept),
        tuple((n, r) for n, r in kernel.facts if n in symbols),
        kernel.axes,
        kernel.body,
    )
    slim, given = hoist_constants(slim, [values[i] for i in kept], str(values[kept[-1]].name))
    read = {v.tensor for s in slim.body for v in values_of(s) if isinstance(v, Load)} | {
        p.alias for p in slim.params if p.alias is not None
    }
    kept = [i for i, p in enumerate(slim.params) if p.role == "out" or p.name in read]
    slim = replace(slim, params=tuple(slim.params[i] for i in kept), axes=_axes_used(slim))
    return name_axes(flatten_axes(split_digits(slim)), _OUTPUT_AXES), tuple(given[i] for i in kept)


def _axes_used(kernel: Kernel) -> tuple[Axis, ...]:
    used = {a for s in kernel.body for a in statement_axes(s)}
    return tuple(a for a in kernel.axes if a.name in used)
