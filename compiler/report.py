"""What a compilation tells: facts for the summary block and ``--json``, never read by the compiler itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model as it was given, ``sha256`` of its file. ``inputs``: name and type, ``("x", "f32[N=1..32, 3]")``."""

    name: str
    opset: int
    sha256: str
    inputs: tuple[tuple[str, str], ...]
    nodes: int = 0


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """What was built for one target.

    Attributes:
        spelling: ``kind:arch[+feature]``.
        launches: kernels that one run of every entry point starts.
        distinct: different kernels among them.
        fallback: what runs on the host part instead, each with its reason.
        code_bytes: size of the binary.
        weight_bytes: size of the constants that this target reads.
        arena: size of the temporaries of a run, beside the most that live at a time, at example sizes.
    """

    spelling: str
    launches: int
    distinct: int
    fallback: tuple[str, ...] = ()
    code_bytes: int = 0
    weight_bytes: int = 0
    arena: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """One compilation.

    Attributes:
        model: that of the first entry point.
        entries: the model of each entry point.
        precision: launches by the dtype they compute in.
        seconds: of each stage, in order.
        peak_rss: highest resident memory of the compiling process, bytes.
        artifact_bytes, sha256: of the file.
        tools: version by tool.
    """

    model: ModelFacts
    targets: tuple[TargetFacts, ...]
    entries: Mapping[str, ModelFacts] = field(default_factory=dict)
    precision: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_rss: int = 0
    artifact_bytes: int = 0
    weight_bytes: int = 0
    sha256: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)

    @property
    def build_seconds(self) -> float:
        """All stages together."""
        return sum(self.seconds.values())

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "build_seconds": self.build_seconds}
