"""Which static sizes a region gets programs for.

A symbol is *padded*: any size up to that of the bucket runs in its program; or *exact*: only just that size does.
Sizes that a run has to find equal (``T == P + S``) are equal in every bucket.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product

import onnx_ir as ir
from tilewright.backends.xla.rising import holds
from tilewright.backends.xla.work import evaluated, work_of
from tilewright.errors import UsageError
from tilewright.ir.facts import Assumption, assumptions, dimension_names, facts
from tilewright.ir.graph import has_type, known_value, type_of
from tilewright.ir.late import late_symbols
from tilewright.ir.ranges import POSITIVE_INFINITY, Range
from tilewright.ir.symbolic import Expr, Symbol, symbol
from tilewright.passes.place import Region

#: Programs of a region where nobody names sizes: each takes a compiler seconds to minutes.
PROGRAMS = 16
#: Programs of a region at most, whatever sizes are named.
MOST_PROGRAMS = 64
#: A range up to this size or more is one of rows, which an accelerator computes in tiles (of 8 × 128 on TPUs): sizes
#: below :data:`TILE` cost as much as that.
LARGE = 128
TILE = 8
#: Sizes that are tried for one that fits.
TRIED = 4096


@dataclass(frozen=True, slots=True)
class Bucket:
    """The static size of each symbol, and the symbols whose true size may be less.

    ``bound`` are symbols whose size is computed from others, as a run has to find it.
    """

    sizes: Mapping[str, int]
    padded: tuple[str, ...]
    bound: Mapping[str, Expr] = field(default_factory=dict)


def buckets_of(
    model: ir.Model, region: Region, asked: Mapping[str, tuple[int, ...]], exact: Collection[str] = ()
) -> tuple[Bucket, ...]:
    """The buckets of a region, by rising sizes; only symbols that the region contains multiply them.

    ``asked`` are sizes by symbol. Other symbols share :data:`PROGRAMS` programs: all get sizes that double up to their
    bound (:func:`ladder`); where that is too many, those are left out that save least work, small sizes being as likely
    as large ones and 1 as likely as all others.

    Args:
        exact: symbols that are met at just these sizes; at every size of their range where none are asked.

    Raises:
        UsageError: a symbol without an upper bound that nobody gave sizes for; more than :data:`MOST_PROGRAMS`.
    """
    known = facts(model)
    symbols, equal = _bound_together(model, region)
    exact = {s for e in exact for s in (equal[e].symbols if e in equal else {e})}
    exact |= {s for e in equal.values() if not _rises(e, known) for s in e.symbols}
    conditions = unsolved(model, region)

    def fits(name: str) -> Callable[[int], bool]:
        own = [a for a in conditions if a.left.symbols | a.right.symbols == {name}]
        return lambda n: all(a.left.evaluate({name: n}) == a.right.evaluate({name: n}) for a in own)

    fixed: dict[str, tuple[int, ...]] = {}
    for s in (s for s in symbols if s in asked or s in exact):
        if s not in asked:
            ladder(_name(model, s), known[s])  # which needs a bound as well
        fixed[s] = tuple(n for n in (asked[s] if s in asked else sizes_in(known[s])) if fits(s)(n))
    count = combinations(fixed, conditions)
    if count > MOST_PROGRAMS:
        raise UsageError(
            "bucket-many",
            where=", ".join(f"{_name(model, s)}={','.join(map(str, sizes))}" for s, sizes in fixed.items()),
            cause=f"every combination is a program of its own: {count}, and {MOST_PROGRAMS} at most are built",
            fix="name fewer sizes (--bucket)",
        )
    if not count:  # no sizes are equal where they have to be
        return ()
    free = {s: ladder(_name(model, s), known[s], fits(s)) for s in symbols if s not in fixed}
    ladders = fixed | _thinned(free, _powers(region, free, fixed), max(PROGRAMS // count, 1))
    padded = {s for s in symbols if s not in exact and ladders[s] and known[s].lo < ladders[s][-1]}
    padded |= {s for s, e in equal.items() if e.symbols & padded}
    found = []
    for combination in product(*(ladders[s] for s in symbols)):
        sizes = dict(zip(symbols, combination, strict=True))
        sizes |= {s: e.evaluate(sizes) for s, e in equal.items()}
        if all(a.left.evaluate(sizes) == a.right.evaluate(sizes) for a in conditions):
            found.append(Bucket(sizes, tuple(s for s in sizes if s in padded), equal))
    return tuple(found)


def unsolved(model: ir.Model, region: Region) -> list[Assumption]:
    """Sizes that have to be equal, of a region, where neither is a symbol that could be computed from the other: of one
    symbol, which then has only such sizes (``S == 3*(S // 3)``); of several, which have to be exact (``2*S == 3*T``).
    """
    symbols, equal = _bound_together(model, region)
    have = {*symbols, *equal}
    return [
        a
        for a in assumptions(model)
        if a.left.substitute(equal) != a.right.substitute(equal) and a.left.symbols | a.right.symbols <= have
    ]


def combinations(sizes: Mapping[str, Sequence[int]], conditions: Sequence[Assumption]) -> int:
    """How many combinations of sizes there are, of at most :data:`TRIED` those whose sizes are equal where they have
    to be."""
    count = math.prod(map(len, sizes.values()))
    own = [a for a in conditions if a.left.symbols | a.right.symbols <= set(sizes)]
    if not own or count > TRIED:
        return count
    each = (dict(zip(sizes, combination, strict=True)) for combination in product(*sizes.values()))
    return sum(all(a.left.evaluate(n) == a.right.evaluate(n) for a in own) for n in each)


def symbols_of(model: ir.Model, region: Region) -> list[str]:
    """Symbols that a region's shapes and known integers are made of, those that only a run tells left out."""
    values = dict.fromkeys(v for n in region.nodes for v in (*n.inputs, *n.outputs) if v is not None and v.name)
    values |= dict.fromkeys((*region.inputs, *region.outputs))
    shapes = [e for v in values if has_type(v) for e in type_of(v).shape]
    shapes += [e for v in values if (elements := known_value(v)) is not None for e in elements.flat]
    return sorted({s for e in shapes for s in e.symbols} - late_symbols(model).keys())


def sizes_in(bounds: Range) -> range:
    """Every size of a range that has an upper bound."""
    return range(-(-bounds.lo // bounds.divisor) * bounds.divisor, bounds.hi + 1, bounds.divisor)


def ladder(name: str, bounds: Range, fits: Callable[[int], bool] = lambda n: True) -> tuple[int, ...]:
    """Sizes that double, up to the upper bound; from :data:`TILE` on where that is :data:`LARGE` or more.

    Each is the next that ``fits``; none where no size does. Raises :class:`UsageError` where there is no upper bound.
    """
    if bounds.hi >= POSITIVE_INFINITY:
        raise UsageError(
            "bucket-unbounded",
            where=f"dimension {name}",
            cause="a static program needs its largest size, and none is given",
            fix=f"bound it (--input-shape x:{name}=1..128,…), or name the sizes (--bucket {name}=32,128)",
        )
    every = sizes_in(bounds)
    last = next((n for n in reversed(every[-TRIED:]) if fits(n)), None)
    if last is None:
        return ()
    found, size = {last}, TILE if bounds.hi >= LARGE else 1
    while size < last:
        if size >= bounds.lo:
            rising = every[bisect_left(every, size) :][:TRIED]
            found.add(next((n for n in rising if fits(n)), last))
        size *= 2
    return tuple(sorted(found))


def _thinned(
    ladders: Mapping[str, tuple[int, ...]], powers: Mapping[str, float], limit: int
) -> dict[str, tuple[int, ...]]:
    """At most ``limit`` combinations: from the largest sizes on, one more at a time, that which saves most work for
    the programs that it adds."""
    chosen = {s: sizes[-1:] for s, sizes in ladders.items()}
    while True:
        count = math.prod(map(len, chosen.values()))
        gains = []
        for s, have in chosen.items():
            if count // max(len(have), 1) * (len(have) + 1) > limit:
                continue
            before, programs = _use(ladders[s], have, powers[s]), math.log((len(have) + 1) / max(len(have), 1))
            for size in set(ladders[s]) - set(have):
                more = tuple(sorted((*have, size)))
                gains.append((-math.log(_use(ladders[s], more, powers[s]) / before) / programs, s, more))
        if not gains:
            return chosen
        _, s, more = min(gains)
        chosen[s] = more


def _use(ladder: Sequence[int], sizes: Sequence[int], power: float) -> float:
    """The share of work that is not padding, where small sizes are as likely as large ones, from the first of a ladder
    on, and 1 (one request, one token) as likely as all others."""
    between = [(a + b + 1) // 2 for a, b in pairwise(ladder)]
    ones = [1] * (2 * len(ladder) * (ladder[0] == 1))
    tried = [max(n, 1) for n in (*ladder, *between, *ones)]
    used = [math.pow(n / sizes[bisect_left(sizes, n)], power) for n in tried if n <= sizes[-1]]
    return sum(used) / len(tried)


def _powers(
    region: Region, ladders: Mapping[str, Sequence[int]], fixed: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """By which power of each symbol work grows where all are large: 1 of a batch, more of a sequence."""
    work = work_of(region)
    largest = {s: sizes[-1] if sizes else 0 for s, sizes in {**ladders, **fixed}.items()}

    def power(s: str) -> float:
        sizes = {**largest, s: max(largest[s] // 2, 1)}
        more, less = (evaluated(work, n) for n in (largest, sizes))
        return math.log(more / less) / math.log(largest[s] / sizes[s]) if 0 < less < more else 1.0

    return {s: power(s) for s in ladders}


def _bound_together(model: ir.Model, region: Region) -> tuple[list[str], dict[str, Expr]]:
    """The symbols of a region whose sizes are free, and the others as expressions over these: of sizes that inference
    took to be equal, one is what the other says, where it stands alone."""
    symbols = set(symbols_of(model, region))
    late = late_symbols(model)
    equal: dict[str, Expr] = {}
    for a in assumptions(model):
        left, right = (e.substitute(equal) for e in (a.left, a.right))
        if left == right or not (left.symbols | right.symbols) & symbols:
            continue
        if any(s in late for s in left.symbols | right.symbols):
            continue
        for one, other in ((right, left), (left, right)):
            name = _alone(one)
            if name is not None and name not in other.symbols:
                equal = {s: e.substitute({name: other}) for s, e in equal.items()} | {name: other}
                break
    symbols |= {s for n, e in equal.items() if n in symbols for s in e.symbols}
    return sorted(symbols - equal.keys()), {s: e for s, e in sorted(equal.items()) if s in symbols}


def _rises(e: Expr, known: Mapping[str, Range]) -> bool:
    """Whether padding the symbols of an expression pads what it says."""
    return holds(e, {s: known[s].hi for s in e.symbols}, e.symbols, known)


def _alone(e: Expr) -> str | None:
    """The name when an expression is one symbol."""
    atom = e.atoms[0] if len(e.atoms) == 1 else None
    return atom.name if isinstance(atom, Symbol) and e == symbol(atom.name) else None


def _name(model: ir.Model, name: str) -> str:
    return dimension_names(model).get(name, name)
