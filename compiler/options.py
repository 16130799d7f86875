"""Everything that can change the bytes of an artifact, in one frozen value: also the key of caches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Observation:
    """What to look at while compiling. Nothing here may change the output."""

    dump_ir: str | None = None  # folder: the graph after each pass that changed it, then kernels
    verify_each: bool = False  # run the reference evaluator after each pass
    explain: tuple[str, ...] = ()  # pass names whose non-matches are told
    stop_after: str | None = None  # a stage or pass name
    time_passes: bool = False
    watch: Callable[[str, Any], None] | None = None  # given each state of a graph (an ``ir.Model``) and what made it


@dataclass(frozen=True, slots=True)
class Options:
    """How to compile.

    Attributes:
        targets: target spellings, ``kind:arch[+feature]``.
        input_shapes: per input, dimensions as text: ``"8"`` binds, ``"1..32"`` bounds, ``"N"`` names.
        level: 0 (no fusion) to 3.
        states: pairs of an input and the output that is its new value, in every entry point that has both; a caller may
            bind one memory to the two.
        cc: a C compiler command instead of the pinned default; ``None`` is the default.
    """

    targets: tuple[str, ...] = ("cpu",)
    input_shapes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    level: int = 2
    states: tuple[tuple[str, str], ...] = ()
    cc: str | None = None
    observe: Observation = field(default=Observation(), compare=False)
