"""Open sizes in ATC's terms: fixed, gears (each compiled as if it were fixed), or ranges.

    --bucket batch=1,4,8           --input_shape="image:-1,3,224,224" --dynamic_batch_size="1,4,8"
    --bucket sequence=16,64        --input_shape="ids:1,-1;mask:1,-1" --dynamic_dims="16,16;64,64"
    (no bucket)                    --input_shape="ids:1,1~128;mask:1,1~128"

Sources: the pages of ``--input_shape``, ``--dynamic_batch_size`` and ``--dynamic_dims`` of CANN 8.0 to 9.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import onnx_ir as ir
from tilewright.errors import UsageError
from tilewright.ir.facts import assumptions, dimension_names, facts
from tilewright.ir.graph import type_of
from tilewright.ir.ranges import POSITIVE_INFINITY, Range, bounds
from tilewright.ir.symbolic import Expr

#: Gears of one model, at least and at most.
FEWEST, MOST = 2, 100

_WINDOWS = frozenset({"AveragePool", "Conv", "ConvTranspose", "GlobalAveragePool", "MaxPool", "Resize"})


@dataclass(frozen=True, slots=True)
class Gears:
    """How ``atc`` is told the sizes of inputs.

    Attributes:
        format: of inputs: ``NCHW`` where all are images, else ``ND``.
        options: of the command line, by name without dashes, in order.
        sizes: the open sizes of each gear, in order; empty where sizes are fixed or ranges.
        dims: of each ``-1``, the input, its axis, and its size.
        how: ``static``, ``batch``, ``dims`` or ``range``.
    """

    format: str
    options: Mapping[str, str]
    sizes: tuple[Mapping[str, int], ...]
    dims: tuple[tuple[str, int, Expr], ...]
    how: str


def gears_of(model: ir.Model, buckets: Mapping[str, Sequence[int]]) -> Gears:
    """How to say the sizes of a model's inputs; ``buckets`` are sizes by symbol.

    Raises :class:`UsageError`: some open sizes have gears and others none, or there are more gears than ATC takes.
    """
    inputs = {str(v.name): type_of(v).shape for v in model.graph.inputs}
    symbols = sorted({s for shape in inputs.values() for size in shape for s in size.symbols})
    asked = {s: tuple(buckets[s]) for s in symbols if s in buckets}
    form = "NCHW" if inputs and all(map(_is_image, model.graph.inputs)) else "ND"
    if not asked:
        known = facts(model)
        how = "range" if symbols else "static"
        return Gears(form, {"input_shape": _shapes(inputs, lambda e: _range(e, known))}, (), (), how)
    names = dimension_names(model)
    if missing := [names.get(s, s) for s in symbols if s not in asked]:
        raise UsageError(
            "gears-incomplete",
            where=f"dimension {', '.join(missing)}",
            cause="other open sizes have gears, and ATC takes gears for all of them or for none",
            fix=f"name its sizes too (--bucket {missing[0]}=1,8), or fix it with --input-shape",
        )
    every = [dict(zip(symbols, sizes, strict=True)) for sizes in product(*(asked[s] for s in symbols))]
    conditions = [a for a in assumptions(model) if a.left.symbols | a.right.symbols <= set(symbols)]
    fits = [g for g in every if all(a.left.evaluate(g) == a.right.evaluate(g) for a in conditions)]
    if len(fits) > MOST or not fits:
        raise UsageError(
            "gears-many",
            where=", ".join(f"{names.get(s, s)}={','.join(map(str, asked[s]))}" for s in symbols),
            cause=f"that makes {len(fits)} gears, of 1 to {MOST} that there may be",
            fix="name fewer sizes (--bucket)" if fits else "name sizes that are equal where the model needs them equal",
        )
    if len(fits) < FEWEST:  # one gear is a fixed shape
        fixed = {"input_shape": _shapes(inputs, lambda e: str(e.evaluate(fits[0])))}
        return Gears(form, fixed, tuple(fits), (), "static")
    dims = tuple((n, axis, e) for n, shape in inputs.items() for axis, e in enumerate(shape) if not e.is_constant)
    shapes = _shapes(inputs, lambda e: str(e.value) if e.is_constant else "-1")
    if form == "NCHW" and all(axis == 0 and e == dims[0][2] for _, axis, e in dims):
        batches = ",".join(str(dims[0][2].evaluate(g)) for g in fits)
        return Gears(form, {"input_shape": shapes, "dynamic_batch_size": batches}, tuple(fits), dims, "batch")
    told = ";".join(",".join(str(e.evaluate(g)) for _, _, e in dims) for g in fits)
    return Gears(form, {"input_shape": shapes, "dynamic_dims": told}, tuple(fits), dims, "dims")


def _is_image(value: ir.Value) -> bool:
    return type_of(value).rank == 4 and any(use.node.op_type in _WINDOWS for use in value.uses())


def _shapes(inputs: Mapping[str, Sequence[Expr]], spell: Callable[[Expr], str]) -> str:
    """``name:sizes`` of every input, of scalars with no sizes, as gears need it."""
    return ";".join(f"{name}:{','.join(map(spell, shape))}" for name, shape in inputs.items())


def _range(size: Expr, known: Mapping[str, Range]) -> str:
    if size.is_constant:
        return str(size.value)
    low, high = bounds(size, known)
    return "-1" if high >= POSITIVE_INFINITY else f"{max(low, 0)}~{high}"
