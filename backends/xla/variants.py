"""The programs of a region: one for each bucket, and of exact sizes along dimensions that cannot be padded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir
from tilewright.backends.base import ProgramSettings, Refusal, Refused
from tilewright.backends.xla.buckets import PROGRAMS, Bucket, buckets_of, combinations, sizes_in, symbols_of, unsolved
from tilewright.backends.xla.emit import Emitted, Unplaceable, emit
from tilewright.backends.xla.rule import Policy
from tilewright.backends.xla.sharding import Shardings, shard
from tilewright.ir.facts import dimension_names, facts
from tilewright.ir.graph import has_type, type_of
from tilewright.ir.ranges import POSITIVE_INFINITY
from tilewright.passes.place import Region


def programs_of(
    model: ir.Model, region: Region, settings: ProgramSettings, policy: Policy
) -> tuple[list[tuple[Bucket, Emitted]], Shardings | None]:
    """The program of each bucket, by rising sizes, and how it lies on a mesh, where there is one.

    Where a node cannot be masked along a padded dimension, there is a program for every size of it, if that makes at
    most :data:`~tilewright.backends.xla.buckets.PROGRAMS` of them.

    Raises:
        Refused: a node has no form, or would need more programs of exact sizes than that.
        UsageError: as :func:`~tilewright.backends.xla.buckets.buckets_of`.
    """
    exact = set(settings.exact) & set(symbols_of(model, region))
    for a in unsolved(model, region):
        together = a.left.symbols | a.right.symbols
        if len(together) == 1:
            continue
        more = together - exact
        if why := _too_many(model, region, exact | more, settings):
            reading = [n for n in region.nodes if more & _symbols(n)]
            raise Refused([Refusal(n, f"it needs {a.left} == {a.right} of each program, and {why}") for n in reading])
        exact |= more
    while True:
        # Sizes that were asked for to be padded up to are none to be met: then every size of the range is.
        asked = {s: sizes for s, sizes in settings.buckets.items() if s in settings.exact or s not in exact}
        buckets = buckets_of(model, region, asked, exact)
        if not buckets:
            raise Refused(
                [Refusal(n, "no sizes of the programs are equal where they have to be") for n in region.nodes]
            )
        shardings = None
        if settings.mesh:
            shardings, buckets = shard(model, region, buckets, settings.mesh, settings.shard)
        try:
            return [(b, emit(model, region, b.sizes, b.padded, policy, shardings)) for b in buckets], shardings
        except Unplaceable as error:
            more = error.exact - exact
            if not more:
                raise Refused([Refusal(error.node, error.reason)]) from error
            if why := _too_many(model, region, exact | more, settings):
                raise Refused([Refusal(error.node, f"{error.reason}, and {why}")]) from error
            exact |= more


def _too_many(model: ir.Model, region: Region, exact: Iterable[str], settings: ProgramSettings) -> str:
    """Why there is no program for every size of these symbols; empty where there is one."""
    known, names = facts(model), dimension_names(model)
    sizes: dict[str, Sequence[int]] = {
        s: settings.buckets[s] if s in settings.exact and s in settings.buckets else sizes_in(known[s])
        for s in sorted(exact)
    }
    if combinations(sizes, unsolved(model, region)) <= PROGRAMS:
        return ""
    counts = {s: "any number of" if known[s].hi >= POSITIVE_INFINITY else str(len(n)) for s, n in sizes.items()}
    told = ", ".join(f"{names.get(s, s)} has {count}" for s, count in counts.items())
    first = names.get(s := next(iter(counts)), s)
    return (
        f"programs of exact sizes would be too many ({told} sizes; at most {PROGRAMS} programs): bound it with "
        f"--input-shape, or name the sizes that are run with --bucket {first}==16,32"
    )


def _symbols(node: ir.Node) -> set[str]:
    values = [v for v in (*node.inputs, *node.outputs) if v is not None and v.name and has_type(v)]
    return {s for v in values for e in type_of(v).shape for s in e.symbols}
