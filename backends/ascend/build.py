"""The members of an Ascend part: sources that a machine with CANN compiles, and how each kernel is launched."""

from __future__ import annotations

from tilewright.backends.base import Binary, Source
from tilewright.target import Target

#: Texts for people that a source has beside what is compiled.
_SHOWN = ".placed.txt"


def build_sources(source: Source, target: Target) -> Binary:
    """Sources and launches as members, the sources in a folder of their own. Nothing is compiled."""
    del target
    kept = {name: text for name, text in source.files.items() if not name.endswith(_SHOWN)}
    members = {name if name.endswith(".json") else f"kernels/{name}": text.encode() for name, text in kept.items()}
    return Binary(members, {})
