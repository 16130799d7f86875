"""What an artifact says it was made from: enough to make it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tilewright.errors import UsageError
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
_KNOWN = frozenset(("input_shapes", "level", "states", "targets"))


def read_record(manifest: Manifest, entry: str | None, where: str) -> Recorded:
    """The record of ``entry`` (the first when ``None``). Raises :class:`UsageError` for an artifact that has none."""
    info = manifest.entries[manifest.entry(entry)]
    try:
        given = manifest.provenance["options"]
        names = {str(m["entry"]): str(m["sha256"]) for m in manifest.provenance["models"]}
        inputs, outputs = {i.name for i in info.inputs}, {o.name for o in info.outputs}
        shapes = ((str(name), tuple(map(str, sizes))) for name, sizes in given["input_shapes"])
        states = ((str(into), str(out)) for into, out in given["states"])
        options = Options(
            targets=tuple(map(str, given["targets"])),
            input_shapes=tuple((name, sizes) for name, sizes in shapes if name in inputs),
            level=_integer(given["level"]),
            states=tuple((into, out) for into, out in states if into in inputs and out in outputs),
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


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")
    return value
