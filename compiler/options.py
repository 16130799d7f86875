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
class Precision:
    """A precision that is asked for. The calibration data and records that go with it are data, like the model.

    Attributes:
        asked: ``fp32``, ``tf32``, ``bf16``, ``fp16``, ``fp8``, ``int8``, ``int4`` or ``auto``.
        method: how that precision is come by, of :data:`tilewright.quantization.request.METHODS`; empty for the usual.
        settings: fields of :class:`tilewright.passes.quantize.base.Settings` that differ from what is usual.
        max_drop: how much worse outputs may be, in the terms of ``metric``; ``None`` sets no bound.
        metric: ``cosine`` (one minus the mean cosine of outputs) or ``top1`` (share of rows whose largest element is
            another); ``given`` where Python hands a function in.
        allowed: types that layers may have instead of what is asked (``f32``).
        excepted: patterns of names of layers that are to stay as they are.
    """

    asked: str
    method: str = ""
    settings: tuple[tuple[str, str | int | float | bool], ...] = ()
    max_drop: float | None = None
    metric: str = "cosine"
    allowed: tuple[str, ...] = ()
    excepted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConstantInput:
    """Elements of an input that is given while compiling: element type (``i64``), shape, bytes in row-major order."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


#: What may be done about nodes that a target of programs leaves to its host part.
FALLBACKS = ("allow", "report", "forbid")


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
        precision: what is quantized, and how well; ``None`` leaves the model its own precision.
        fallback: what to do about nodes that a target of programs leaves to its host part: ``report`` tells them,
            ``allow`` says only how many, ``forbid`` makes them an error.
        buckets: for targets of programs, the sizes of a dimension to make programs for: ``("sequence", (32, 128))``. No
            target then takes a larger one.
        exact: the dimensions among them that are met at just these sizes, never padded.
        constants: inputs that get a value while compiling, and are no inputs of the artifact.
        mesh: for targets of programs, devices along each axis; empty for one device. ``shard`` says how tensors are cut
            over it: ``auto``, ``tensor`` or ``batch``; empty is ``auto``.
        ahead: targets of programs are compiled to executables where their compiler is installed.
    """

    targets: tuple[str, ...] = ("cpu",)
    input_shapes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    level: int = 2
    states: tuple[tuple[str, str], ...] = ()
    cc: str | None = None
    precision: Precision | None = None
    fallback: str = "report"
    buckets: tuple[tuple[str, tuple[int, ...]], ...] = ()
    exact: tuple[str, ...] = ()
    constants: tuple[tuple[str, ConstantInput], ...] = ()
    mesh: tuple[int, ...] = ()
    shard: str = ""
    ahead: bool = True
    observe: Observation = field(default=Observation(), compare=False)
