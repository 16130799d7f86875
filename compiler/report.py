"""What a compilation tells: facts for the summary block and ``--json``, never read by the compiler itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model as it was given, ``sha256`` of its file. ``inputs``: name and type, ``("x", "f32[N=1..32, 3]")``;
    ``constants``: inputs that were given while compiling, with their elements, ``("shape", "[3, 224]")``."""

    name: str
    opset: int
    sha256: str
    inputs: tuple[tuple[str, str], ...]
    nodes: int = 0
    constants: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """What was built for one target.

    Attributes:
        spelling: ``kind:arch[+feature]``.
        launches: kernels that one run of every entry point starts.
        distinct: different kernels among them.
        fallback: what runs on the host part instead, each with its reason.
        host: the target of the host part beside a device's kernels; empty where there can be none. host_distinct:
            different kernels in it.
        code_bytes: size of the binary.
        weight_bytes: size of the constants that this target reads.
        arena: size of the temporaries of a run, beside the most that live at a time, at example sizes.
        programs: of a graph target, what is known of each program (:class:`tilewright.backends.base.ProgramFacts`);
            ``launches`` are then nodes, ``distinct`` programs.
        mesh: of a graph target on several devices, how the model lies on them.
        schedules: of a device, different kernels by where their schedule comes from (``heuristic``, ``tuned (date,
            device)``; see :func:`tilewright.tuning.choice.choice_of`).
        predicted: of a device's kernels, what is predicted of a run at example sizes; ``None`` where nothing was.
        passes: how products of f32 are computed on it, where that is not in f32.
    """

    spelling: str
    launches: int
    distinct: int
    fallback: tuple[str, ...] = ()
    code_bytes: int = 0
    weight_bytes: int = 0
    arena: str = ""
    programs: tuple[Any, ...] = ()
    passes: str = ""
    mesh: MeshFacts | None = None
    host: str = ""
    host_distinct: int = 0
    schedules: Mapping[str, int] = field(default_factory=dict)
    predicted: PredictedFacts | None = None


@dataclass(frozen=True, slots=True)
class PredictedFacts:
    """What the kernels of a device should take by a roofline of its data; nothing of it was measured.

    Attributes:
        at: the sizes, ``"N=32"``; empty where none are open.
        seconds: of one run of every entry point: of each launch the larger of its operations at the peak rate and its
            bytes at the bandwidth of the memory. The host part and copies are not in it.
        bound_by: the shares of these seconds that ``memory`` and ``compute`` bind.
        left_out: launches of which nothing is predicted: routines, and those whose sizes are known in a run only.
    """

    at: str
    seconds: float
    bound_by: Mapping[str, float]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class MeshFacts:
    """How a model lies on several devices.

    Attributes:
        sizes: devices along each axis. shard: what was asked to be cut.
        virtual: the devices are parts of one processor: what they show is numbers, not speed.
        weights: what became of each (:class:`tilewright.backends.base.WeightCut`).
        bytes_per_device: of weights.
        notes: what was asked for and cannot be, and why.
    """

    sizes: tuple[int, ...]
    shard: str
    virtual: bool
    weights: tuple[Any, ...]
    bytes_per_device: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """A layer of an entry point on some targets: the precision asked for, what it got, and why where they differ."""

    name: str
    op_type: str
    asked: str
    got: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What targets that share a graph got.

    Attributes:
        targets: their spellings.
        entry: the entry point.
        method: by which layers were quantized; empty where none were.
        layers: a line each.
        drop, cosine, snr, top1: of the quantized graph beside the float one, before it was lowered; ``snr`` in
            decibels. ``None`` where there was nothing to judge on.
        judged: on which samples.
        seconds, float_seconds: predicted for one run on these targets; ``None`` where nothing was predicted.
    """

    targets: tuple[str, ...]
    entry: str
    method: str
    layers: tuple[LayerFacts, ...]
    drop: float | None = None
    cosine: float | None = None
    snr: float | None = None
    top1: float | None = None
    judged: str = ""
    seconds: float | None = None
    float_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class PrecisionFacts:
    """A precision that was asked for, and what came of it.

    Attributes:
        asked: as it was spelled.
        groups: one for each entry point of each graph.
        settings: those that were stated.
        max_drop, metric: the bound.
        calibration: where samples came from, by entry point, with their SHA-256.
        random: the samples were made up.
        records: name and SHA-256 of the file of measured times.
    """

    asked: str
    groups: tuple[GroupFacts, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    max_drop: float | None = None
    metric: str = ""
    calibration: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    random: bool = False
    records: tuple[str, str] = ("", "")

    def provenance(self) -> dict[str, Any]:
        """What decides the bytes of the artifact: what was asked, and the hashes of the data that went with it.

        Numbers that are no integers are text: a manifest has none.
        """
        settings = {name: repr(v) if isinstance(v, float) else v for name, v in self.settings.items()}
        told: dict[str, Any] = {"asked": self.asked, "settings": settings}
        if self.max_drop is not None:
            told |= {"max_drop": repr(float(self.max_drop)), "metric": self.metric}
        if self.calibration:
            told["calibration"] = {entry: sha256 for entry, (_, sha256) in self.calibration.items()}
            told["random_calibration"] = self.random
        if self.records[1]:
            told["records"] = self.records[1]
        return told


@dataclass(frozen=True, slots=True)
class Report:
    """One compilation.

    Attributes:
        model: that of the first entry point.
        entries: the model of each entry point.
        precision: launches by the dtype they compute in.
        requested: what precision was asked for, and what came of it; ``None`` where it was left out.
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
    requested: PrecisionFacts | None = None

    @property
    def build_seconds(self) -> float:
        """All stages together."""
        return sum(self.seconds.values())

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "build_seconds": self.build_seconds}
