"""What an artifact says it was made from: enough to make it again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tilewright.errors import UsageError
from tilewright.frontend.constants import constant_input
from tilewright.ir.given import recorded
from tilewright.options import Options
from tilewright.runtime.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Recorded:
    """The record of one entry point.

    Attributes:
        compiler: version of Tilewright.
        sha256: of the model.
        options: how it was compiled, with the sizes and states that this entry point has.
        unknown: what else it was compiled with that cannot be done again from the record.
    """

    compiler: str
    sha256: str
    options: Options
    unknown: tuple[str, ...]


#: Options that are read here; what else a record has was decided by data that it does not hold.
_KNOWN = frozenset(("buckets", "input_shapes", "level", "states", "targets"))


def read_record(manifest: Manifest, entry: str | None, where: str) -> Recorded:
    """The record of ``entry`` (the first when ``None``). Raises :class:`UsageError` for an artifact that has none."""
    info = manifest.entries[manifest.entry(entry)]
    try:
        given = manifest.provenance["options"]
        names = {str(m["entry"]): str(m["sha256"]) for m in manifest.provenance["models"]}
        inputs, outputs = {i.name for i in info.inputs}, {o.name for o in info.outputs}
        shapes = ((str(name), tuple(map(str, sizes))) for name, sizes in given["input_shapes"])
        states = ((str(into), str(out)) for into, out in given["states"])
        (constants,) = (m.get("constants", {}) for m in manifest.provenance["models"] if m["entry"] == info.name)
        buckets = {str(name): told for name, told in given.get("buckets", {}).items()}
        options = Options(
            targets=tuple(map(str, given["targets"])),
            input_shapes=tuple((name, sizes) for name, sizes in shapes if name in inputs),
            level=_integer(given["level"]),
            states=tuple((into, out) for into, out in states if into in inputs and out in outputs),
            buckets=tuple((name, tuple(map(_integer, told["sizes"]))) for name, told in buckets.items()),
            exact=tuple(name for name, told in buckets.items() if told["exact"]),
            constants=tuple((name, constant_input(name, array)) for name, array in recorded(constants).items()),
        )
        unknown = sorted(str(k) for k, v in given.items() if k not in _KNOWN and v)
        unknown += ["quantization"] if manifest.provenance.get("precision") else []
        return Recorded(str(manifest.provenance["compiler"]), names[info.name], options, tuple(unknown))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            "no-provenance",
            where=where,
            cause=f"its record of how it was compiled cannot be read ({type(error).__name__}: {error})",
            fix="compile the model again, and bisect what that gives",
        ) from None


def of_part(options: Options) -> Options:
    """Options for a part of a model, which has other inputs and whose sizes are in its types."""
    return replace(options, input_shapes=(), states=(), buckets=(), exact=(), constants=())


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")
    return value
