"""What an artifact takes: made-up samples, the sizes of its dimensions, and whether given data fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tilewright import sample
from tilewright.errors import UsageError

if TYPE_CHECKING:
    from tilewright.runtime.manifest import EntryInfo

Array = NDArray[Any]


def samples(
    artifact: Path | str,
    shapes: Mapping[str, Sequence[int]] | None = None,
    count: int = 2,
    entry: str | None = None,
) -> list[dict[str, Array]]:
    """Made-up inputs for an artifact, without running it.

    Args:
        artifact: a ``.tw`` file.
        shapes: concrete shapes of some inputs; what they leave open gets small unequal sizes within its bounds.
        count: how many samples, at most 2; they differ in sizes and values.
        entry: of which entry point; the first when ``None``.
    """
    info = entry_of(artifact, entry)
    inputs, bound = _bound(info, shapes or {})
    exact = _exact(artifact)
    return [
        sample.make_inputs(inputs, _free(info, inputs, sizes, exact) | bound, seed)
        for seed, sizes in enumerate(sample.SAMPLES[:count])
    ]


def sizes(
    artifact: Path | str, shapes: Mapping[str, Sequence[int]] | None = None, entry: str | None = None
) -> dict[str, int]:
    """The dimension symbols of the first of :func:`samples`: what ``shapes`` say, small sizes for the others."""
    info = entry_of(artifact, entry)
    inputs, bound = _bound(info, shapes or {})
    return _free(info, inputs, sample.SAMPLES[0], _exact(artifact)) | bound


def entry_of(artifact: Path | str, name: str | None) -> EntryInfo:
    """What an artifact says of an entry point; of the first when ``None``. Raises :class:`UsageError`."""
    from tilewright.runtime import open_artifact

    entries = {e.name: e for e in open_artifact(artifact).manifest.entries}
    if name is None:
        return next(iter(entries.values()))
    if name not in entries:
        raise UsageError(
            "unknown-entry-point",
            where=str(artifact),
            cause=f"there is no entry point {name!r}",
            fix=f"use one of {', '.join(map(repr, entries))}",
        )
    return entries[name]


def own_inputs(path: Path, entry: str | None, feeds: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """Samples without inputs that the entry point was given while it was compiled, which data may still have.

    Raises :class:`UsageError` where these have other values.
    """
    from tilewright.verification import constant_inputs

    constants = constant_inputs(path, entry)
    for feed in feeds:
        for name, value in constants.items():
            if name in feed and not np.array_equal(feed[name], value):
                cause = f"{name} is {value.tolist()} in the artifact, and another in the data"
                fix = f"leave {name!r} out, or compile the model with that value"
                raise UsageError("data-names", where=str(path), cause=cause, fix=fix)
    return [{n: a for n, a in feed.items() if n not in constants} for feed in feeds]


def require_feeds(path: Path, entry: EntryInfo, feeds: Sequence[Mapping[str, Array]]) -> None:
    """Raise :class:`UsageError` unless every sample has an array of a fitting shape for each input, and no more."""
    names = {i.name for i in entry.inputs}
    for feed in feeds:
        if set(feed) != names:
            cause = f"the data has {', '.join(sorted(feed))}, the inputs are {', '.join(sorted(names))}"
            raise UsageError(
                "data-names", where=str(path), cause=cause, fix="give an array for each input, by its name"
            )
        _bound(entry, {name: array.shape for name, array in feed.items()})


def _free(
    entry: EntryInfo, inputs: Sequence[sample.Input], sizes: Sequence[int], exact: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """Every symbol at one of ``sizes``, in turn, within its bounds; at one of its own where only these are run."""
    bounds = {s.name: (s.min, s.max, s.multiple) for s in entry.symbols}
    found = {s: sample.within(sizes[i % len(sizes)], *bounds[s]) for i, s in enumerate(sample.symbols_of(inputs))}
    return {s: next((e for e in exact.get(s, ()) if e >= n), n) for s, n in found.items()}


def _exact(artifact: Path | str) -> dict[str, list[int]]:
    """The sizes of symbols that an artifact was compiled for exactly, as its record says; rising."""
    from tilewright.runtime import open_artifact

    found: dict[str, list[int]] = {}
    options = open_artifact(artifact).manifest.provenance.get("options")
    buckets = options.get("buckets") if isinstance(options, dict) else None
    for told in buckets.values() if isinstance(buckets, dict) else ():
        if isinstance(told, dict) and told.get("exact") is True:
            sizes, symbols = told.get("sizes"), told.get("symbols")
            if isinstance(sizes, list) and isinstance(symbols, list):
                found |= {str(s): [n for n in sizes if isinstance(n, int)] for s in symbols}
    return found


def _bound(entry: EntryInfo, shapes: Mapping[str, Sequence[int]]) -> tuple[list[sample.Input], dict[str, int]]:
    """The inputs, and the sizes of symbols that ``shapes`` say. Raises ``UsageError`` where the artifact takes none."""
    inputs = [sample.Input(i.name, sample.numpy_dtype(i.dtype), i.shape) for i in entry.inputs]
    bound = sample.bind(inputs, shapes)
    for s in entry.symbols:
        size = bound.get(s.name, s.min)
        if not s.min <= size <= s.max or size % s.multiple:
            step = f" in steps of {s.multiple}" if s.multiple > 1 else ""
            cause = f"{s.name} would be {size}, the artifact takes {s.min} to {s.max}{step}"
            fix = "give sizes that the file takes"
            raise UsageError("input-shape-conflict", where=f"entry {entry.name!r}", cause=cause, fix=fix)
    return inputs, bound
