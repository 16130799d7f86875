"""The n-grams that ``TfIdfVectorizer`` counts, from its attributes, in an order that can be searched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: Longest n-gram; far beyond what anybody counts.
_LONGEST = 64

#: More items than any row has.
_MOST_SKIPS = 2**48

#: Columns of the result; a hostile index would ask for memory without end.
_MOST_COLUMNS = 2**24


@dataclass(frozen=True, slots=True)
class NGrams:
    """What is counted.

    Attributes:
        items: those of all n-grams, the n-grams of one length together, shortest first, sorted by their items.
        columns_of: the column of each, in that order; ``weights`` likewise.
        counts: n-grams of each length, from 1 on.
        columns: of the result.
        lengths: the shortest and the longest that are counted.
        skips: items that may lie between two neighbours of an n-gram, at most.
    """

    items: tuple[int, ...]
    columns_of: tuple[int, ...]
    weights: tuple[float, ...]
    counts: tuple[int, ...]
    columns: int
    lengths: tuple[int, int]
    skips: int

    @staticmethod
    def of(attribute: Callable[[str], Any]) -> NGrams:
        """Read from attributes. Raises :class:`ValueError` for what does not fit together."""
        shortest, longest, skips = (
            int(attribute(name)) for name in ("min_gram_length", "max_gram_length", "max_skip_count")
        )
        if not 1 <= shortest <= longest <= _LONGEST or skips < 0:
            raise ValueError(f"n-grams of length {shortest} to {longest} with {skips} skips")
        skips = min(skips, _MOST_SKIPS)
        pool, starts = [int(v) for v in attribute("pool_int64s")], [int(v) for v in attribute("ngram_counts")]
        indexes = [int(v) for v in attribute("ngram_indexes")]
        weights = [float(v) for v in attribute("weights") or ()]
        mode = str(attribute("mode"))
        if mode not in ("TF", "IDF", "TFIDF"):
            raise ValueError(f"mode {mode!r}")
        if not indexes or not 0 <= min(indexes) <= max(indexes) < _MOST_COLUMNS:
            raise ValueError("ngram_indexes are no columns")
        if weights and len(weights) != len(indexes):
            raise ValueError(f"{len(weights)} weights for {len(indexes)} n-grams")
        grams = _grams(pool, starts, len(indexes))
        items: list[int] = []
        columns_of, chosen, counts = [], [], []
        for length in range(1, longest + 1):
            of_length = sorted(g for g in grams if len(g[0]) == length)
            if len({gram for gram, _ in of_length}) != len(of_length):
                raise ValueError(f"an n-gram of length {length} is in the pool twice")
            counts.append(len(of_length))
            for gram, number in of_length:
                items += gram
                columns_of.append(indexes[number])
                chosen.append(weights[number] if weights else 1.0)
        return NGrams(
            tuple(items), tuple(columns_of), tuple(chosen), tuple(counts), max(indexes) + 1, (shortest, longest), skips
        )


def _grams(pool: list[int], starts: list[int], most: int) -> list[tuple[tuple[int, ...], int]]:
    """Each n-gram of the pool and its number."""
    found: list[tuple[tuple[int, ...], int]] = []
    for n, start in enumerate(starts, start=1):
        end = starts[n] if n < len(starts) else len(pool)
        if not 0 <= start <= end <= len(pool) or (end - start) % n:
            raise ValueError(f"the items {start} to {end} of the pool are no n-grams of length {n}")
        found += [(tuple(pool[i : i + n]), len(found) + k) for k, i in enumerate(range(start, end, n))]
    if len(found) != most:
        raise ValueError(f"{len(found)} n-grams in the pool, but {most} ngram_indexes")
    return found
