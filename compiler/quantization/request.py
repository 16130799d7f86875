"""What a user asks for, made into settings of methods; what is refused before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args, get_type_hints

from numpy.typing import NDArray
from tilewright.errors import UsageError
from tilewright.options import Precision
from tilewright.passes.quantize.base import Calibration, Method, Settings
from tilewright.quantization.records import Records

Array = NDArray[Any]
#: A metric of one's own: outputs of every sample by name → a number, of which more is better.
Metric = Callable[[Sequence[Mapping[str, Array]]], float]

#: Methods of each precision, the usual one first. fp32 and tf32 change no graph: they are asked of the kernels.
METHODS: Mapping[str, tuple[Method, ...]] = {
    "fp32": (),
    "tf32": (),
    "bf16": ("bf16",),
    "fp16": ("fp16",),
    "fp8": ("fp8",),
    "int8": ("int8", "smoothquant", "int8-dynamic", "int8-weights"),
    "int4": ("int4",),
    "auto": (),
}
PRECISIONS = tuple(METHODS)

#: How the types of kernels are spelled for each precision.
SPELLED: Mapping[str, frozenset[str]] = {
    "fp32": frozenset(["f32", "f64"]),
    "tf32": frozenset(["tf32"]),
    "bf16": frozenset(["bf16"]),
    "fp16": frozenset(["f16"]),
    "fp8": frozenset(["f8e4m3", "f8e5m2"]),
    "int8": frozenset(["i8", "u8"]),
    "int4": frozenset(["i8", "u8", "i4", "u4"]),
}

#: Methods that need calibration data whatever their settings; int4 needs it for all but plain rounding, and weights of
#: 8 bits are rounded plainly without it, which the report says.
CALIBRATED = frozenset(["int8", "smoothquant", "fp8"])
WEIGHT_ONLY = frozenset(["int8-weights", "int4"])

#: What ``auto`` chooses among, by what a target must absorb for it.
CANDIDATES: tuple[Method, ...] = ("int8", "int8-dynamic", "int8-weights", "int4", "fp8", "fp16", "bf16")


@dataclass(frozen=True, slots=True)
class Given:
    """What goes with a request and is no option: data, like the model itself.

    Attributes:
        calibration: where samples come from, by entry point (:data:`tilewright.calibration.Source`).
        metric: instead of a named one.
        records: measured times of kernels.
    """

    calibration: Mapping[str, Any] = field(default_factory=dict)
    metric: Metric | None = None
    records: Records = field(default_factory=Records)


def precision_of_method(method: str) -> str:
    """The precision that a method serves (``auto`` its own). Raises :class:`UsageError` for an unknown one."""
    if method == "auto":
        return "auto"
    for precision, methods in METHODS.items():
        if method in methods:
            return precision
    known = ("auto", *get_args(Method))
    raise UsageError(
        "unknown-method",
        where=f"method {method!r}",
        cause="there is no such method",
        fix=f"use one of {', '.join(known)}",
    )


def settings_of(precision: Precision) -> Settings:
    """How to quantize for a fixed precision. Raises :class:`UsageError` for methods and settings that there are not."""
    methods = METHODS[precision.asked]
    method = precision.method or methods[0]
    if method not in methods:
        cause, fix = f"{method} is no way to {precision.asked}", f"use one of {', '.join(methods)}"
        raise UsageError("unknown-method", where=f"precision {precision.asked}", cause=cause, fix=fix)
    return _with(Settings(method), precision.settings)


def settings_for(precision: Precision, method: Method) -> Settings:
    """What ``auto`` tries as ``method``, with the settings that were asked for."""
    return _with(Settings(method), precision.settings)


def _with(settings: Settings, given: Sequence[tuple[str, Any]]) -> Settings:
    hints = get_type_hints(Settings)
    known = {f.name for f in fields(Settings)} - {"method", "layers"}
    for name, value in given:
        where = f"setting {name} = {value!r}"
        if name not in known:
            raise UsageError("quantize-setting", where=where, cause="there is no such setting", fix=_listed(known))
        choices = get_args(hints[name])
        if choices and isinstance(choices[0], str) and value not in choices:
            raise UsageError("quantize-setting", where=where, cause="there is no such choice", fix=_listed(choices))
        _require_number(name, value, where)
    return replace(settings, **dict(given))


#: Bounds of numbers among the settings, inclusive.
_BOUNDS = {"percentile": (50.0, 100.0), "smoothing": (0.0, 1.0)}
_GROUPS = (0, 16, 32, 64, 128, 256)


def _require_number(name: str, value: Any, where: str) -> None:
    if name in _BOUNDS:
        low, high = _BOUNDS[name]
        if not isinstance(value, int | float) or not low <= value <= high:
            fix = f"give a number from {low:g} to {high:g}"
            raise UsageError("quantize-setting", where=where, cause="it is out of range", fix=fix)
    if name == "group" and value not in _GROUPS:
        raise UsageError(
            "quantize-setting", where=where, cause="there is no such group", fix=_listed(map(str, _GROUPS))
        )


def _listed(names: Any) -> str:
    return f"use one of {', '.join(sorted(names) if isinstance(names, set | frozenset) else names)}"


def check(precision: Precision) -> None:
    """Raise :class:`UsageError` for a request that makes no sense, whatever the model."""
    if precision.asked not in METHODS:
        cause, fix = "there is no such precision", f"use one of {', '.join(PRECISIONS)}"
        raise UsageError("unknown-precision", where=f"precision {precision.asked!r}", cause=cause, fix=fix)
    if precision.metric not in ("cosine", "top1", "given"):
        cause, fix = "there is no such metric", "use cosine or top1, or hand a function to tw.quantize"
        raise UsageError("quantize-setting", where=f"metric {precision.metric!r}", cause=cause, fix=fix)
    if precision.max_drop is not None and precision.max_drop != precision.max_drop:
        raise UsageError("quantize-setting", where="max drop", cause="it is not a number", fix="give one such as 0.01")
    if precision.asked == "auto":
        if precision.method:
            cause, fix = "auto chooses the method", "leave the method out, or ask for its precision"
            raise UsageError("unknown-method", where=f"method {precision.method}", cause=cause, fix=fix)
        if precision.max_drop is None:
            cause, fix = "auto has no bound", "say how much worse outputs may be: --max-drop 0.01 (max_drop=0.01)"
            raise UsageError("auto-needs", where="precision auto", cause=cause, fix=fix)
    elif METHODS[precision.asked]:
        settings_of(precision)
    elif precision.method or precision.settings:
        fix = "leave them out"
        raise UsageError(
            "unknown-method", where=f"precision {precision.asked}", cause="it has no methods or settings", fix=fix
        )


def require_data(precision: Precision, calibration: Calibration | None, where: str) -> None:
    """Raise :class:`UsageError` where a method needs calibration data and there is none."""
    if calibration is not None:
        return
    fix = "give samples with --calib (calibration=): an .npz, a folder of .npy; or random:16, which every report tells"
    if precision.asked == "auto":
        raise UsageError("auto-needs", where=where, cause="auto needs calibration data to search on", fix=fix)
    if not METHODS[precision.asked]:
        return
    settings = settings_of(precision)
    if settings.method in CALIBRATED:
        cause = f"{settings.method} takes ranges from calibration data, and there is none"
        raise UsageError("calibration-missing", where=where, cause=cause, fix=fix)
    if settings.method == "int4" and settings.algorithm != "rtn":
        cause = f"{settings.method} with {settings.algorithm} needs calibration data, and there is none"
        raise UsageError(
            "calibration-missing", where=where, cause=cause, fix=f"{fix}; or round plainly: --algorithm rtn"
        )
    if precision.max_drop is not None:
        cause = "a bound is judged on calibration data, and there is none"
        raise UsageError("calibration-missing", where=where, cause=cause, fix=fix)
