"""What a run is given beside what programs take: sizes, assertions, the bucket that holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tilewright.runtime.errors import InputError
from tilewright.runtime.manifest import EntryInfo
from tilewright.runtime.programs import Entry, Variant, evaluate, lone_symbol, symbols_of
from tilewright.runtime.tensors import Array


def symbols_of_inputs(info: EntryInfo, entry: Entry, arrays: Sequence[Array]) -> dict[str, int]:
    """The value of each symbol, every dimension of every input checked."""
    found: dict[str, int] = {}
    for tensor, slot, array in zip(info.inputs, entry.slots, arrays, strict=False):
        if array.ndim != len(slot.shape):
            raise _misfit(tensor.name, f"it has shape {list(array.shape)}, the model takes {tensor}")
        for expression, size in zip(slot.shape, array.shape, strict=True):
            if (name := lone_symbol(expression)) is not None:
                found.setdefault(name, size)
    for tensor, slot, array in zip(info.inputs, entry.slots, arrays, strict=False):
        try:
            wanted: tuple[int, ...] | None = tuple(evaluate(e, found) for e in slot.shape)
        except ZeroDivisionError:
            wanted = None
        if wanted != array.shape:
            sizes = ", ".join(f"{n}={v}" for n, v in found.items())
            at = f" at {sizes}" if sizes else ""
            raise _misfit(tensor.name, f"it has shape {list(array.shape)}, the model takes {tensor}{at}")
    for s in info.symbols:
        size = found[s.name]
        if size < s.min:
            raise _misfit(s.name, f"it is {size}, the least allowed is {s.min}", "dimension")
        if size > s.max:
            raise _misfit(s.name, f"it is {size}, the most allowed is {s.max}", "dimension")
        if size % s.multiple:
            raise _misfit(s.name, f"it is {size}, not a multiple of {s.multiple}", "dimension")
    return found


def _misfit(name: str, cause: str, what: str = "input") -> InputError:
    fix = "give inputs that fit the model's signature"
    return InputError("input-mismatch", where=f"{what} {name!r}", cause=cause, fix=fix)


def check_asserts(info: EntryInfo, entry: Entry, symbols: Mapping[str, int], done: set[int]) -> set[int]:
    """Check what can be by now; ``done`` with those that were."""
    now = set(done)
    for i, (left, right, message) in enumerate(entry.asserts):
        if i in done or not (symbols_of(left) | symbols_of(right)) <= symbols.keys():
            continue
        now.add(i)
        try:
            pair = (evaluate(left, symbols), evaluate(right, symbols))
        except ZeroDivisionError:
            pair = (0, 1)
        if pair[0] != pair[1]:
            raise _misfit(info.name, f"{message}: {pair[0]} is not {pair[1]}", "entry")
    return now


def choose(variants: Sequence[Variant], symbols: Mapping[str, int], padded: Sequence[str]) -> Variant:
    """The first variant that holds the sizes."""
    for variant in variants:
        if all(symbols[s] <= n if s in padded else symbols[s] == n for s, n in variant.sizes.items()):
            return variant
    sizes = ", ".join(f"{s}={symbols[s]}" for s in variants[0].sizes)
    have = "; ".join(", ".join(f"{s}={n}" for s, n in v.sizes.items()) for v in variants[-8:])
    raise InputError(
        "bucket-missing",
        where=sizes,
        cause=f"no program of the artifact holds these sizes (there are {have})",
        fix="compile the model for them: --bucket, or wider bounds in --input-shape",
    )
