"""``--bucket``: the sizes of a named dimension that a target of static programs gets programs for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir
from tilewright.errors import UsageError
from tilewright.ir import facts as model_facts
from tilewright.ir.graph import type_of
from tilewright.ir.ranges import POSITIVE_INFINITY, Range

#: Sizes by dimension, as it is named in the model or in a signature.
Buckets = Mapping[str, Sequence[int]]

#: Sizes of one dimension at most: each is a program at least.
MOST_SIZES = 64


def parse_bucket(text: str) -> tuple[str, tuple[int, ...], bool]:
    """Name, sizes and whether these are met exactly: of ``sequence=32,64,128``, or exactly ``sequence==32,64``."""
    match = re.fullmatch(r"\s*([^=]*[^=\s])\s*(==?)\s*(\d{1,18}(?:\s*,\s*\d{1,18})*)\s*", text, re.ASCII)
    if not match:
        raise UsageError(
            "bucket-syntax",
            where=f"--bucket {text!r}",
            cause="it is not DIMENSION=SIZES",
            fix="write for instance sequence=32,64,128, or sequence==32,64 for these sizes and no others",
        )
    return match[1], tuple(map(int, match[3].split(","))), match[2] == "=="


def apply_buckets(models: Sequence[ir.Model], buckets: Buckets, exact: Sequence[str] = ()) -> None:
    """Check sizes against the dimensions of graphs, and narrow these: no run is larger than the largest bucket, nor
    smaller than the smallest where sizes are met exactly.

    Raises :class:`UsageError`: ``bucket-name`` for a dimension that no graph has, ``bucket-sizes`` for sizes that do
    not rise, are too many, or that the dimension cannot have.
    """
    for name in exact:
        if name not in buckets:
            raise UsageError("bucket-name", where="exact", cause=f"no sizes of {name!r}", fix="give them in buckets")
    for name, sizes in buckets.items():
        _check_sizes(name, sizes)
        having = [(m, s) for m in models if (s := _symbol(m, name)) is not None]
        if not having:
            raise _unknown(name, models)
        for model, symbol in having:
            known = model_facts.facts(model)
            _check_range(name, sizes, known[symbol])
            low = max(known[symbol].lo, sizes[0] if name in exact else 0)
            known[symbol] = replace(known[symbol], lo=low, hi=sizes[-1])
            model_facts.set_facts(model, known)


def by_symbol(models: Sequence[ir.Model], names: Buckets) -> dict[str, tuple[int, ...]]:
    """The same sizes by the symbols of graphs."""
    return {s: tuple(sizes) for m in models for name, sizes in names.items() if (s := _symbol(m, name)) is not None}


def _symbol(model: ir.Model, name: str) -> str | None:
    """The symbol of an input's dimension that has this name, in a signature or as the model spelled it."""
    spelled = model_facts.dimension_names(model)
    symbols = _dimensions(model)
    return next((s for s in symbols if s == name), next((s for s in symbols if spelled.get(s) == name), None))


def _dimensions(model: ir.Model) -> list[str]:
    return sorted({s for v in model.graph.inputs for e in type_of(v).shape for s in e.symbols})


def _check_sizes(name: str, sizes: Sequence[int]) -> None:
    listed = ", ".join(map(str, sizes))
    if not sizes or any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in sizes):
        raise _sizes_error(name, f"{listed or 'nothing'} is no list of sizes", "give whole numbers, 0 or more")
    if list(sizes) != sorted(set(sizes)):
        raise _sizes_error(name, f"{listed} do not rise", f"write {','.join(map(str, sorted(set(sizes))))}")
    if len(sizes) > MOST_SIZES:
        raise _sizes_error(name, f"{len(sizes)} sizes, each a program", f"name at most {MOST_SIZES}")


def _check_range(name: str, sizes: Sequence[int], bounds: Range) -> None:
    outside = [n for n in sizes if not bounds.lo <= n <= bounds.hi or n % bounds.divisor]
    if outside:
        top = "" if bounds.hi >= POSITIVE_INFINITY else bounds.hi
        steps = f" in steps of {bounds.divisor}" if bounds.divisor > 1 else ""
        cause = f"it is {bounds.lo}..{top}{steps}, never {', '.join(map(str, outside))}"
        raise _sizes_error(name, cause, "name sizes that it can have, or give it another range with --input-shape")


def _sizes_error(name: str, cause: str, fix: str) -> UsageError:
    return UsageError("bucket-sizes", where=f"--bucket of {name!r}", cause=cause, fix=fix)


def _unknown(name: str, models: Sequence[ir.Model]) -> UsageError:
    spelled = {s: model_facts.dimension_names(m).get(s, s) for m in models for s in _dimensions(m)}
    told = ", ".join(s if s == n else f"{s} ({n!r} in the model)" for s, n in spelled.items())
    return UsageError(
        "bucket-name",
        where=f"--bucket of {name!r}",
        cause="no input has a dimension of that name that is open",
        fix=f"the dimensions are {told}" if told else "every size is fixed: leave --bucket out",
    )
