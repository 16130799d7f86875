"""Options of commands that quantize, and what they tell of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tilewright.cli import arguments, screen
from tilewright.cli.screen import duration
from tilewright.errors import UsageError

if TYPE_CHECKING:
    from tilewright.quantization.request import Given
    from tilewright.report import GroupFacts, LayerFacts, PrecisionFacts

Line = tuple[str, str]

#: Reasons that a summary counts one by one; the rest are counted together.
REASONS = 4
#: Columns of a reason in a summary.
WIDTH = 56

#: Options that are fields of :class:`tilewright.passes.quantize.base.Settings`: their spelling and arguments of click.
_SETTINGS: Mapping[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "calibrator": (
        ("--calibrator",),
        {
            "type": click.Choice(["minmax", "percentile", "entropy", "mse"]),
            "help": "How ranges of activations are chosen. [default: mse]",
        },
    ),
    "percentile": (
        ("--percentile",),
        {"type": click.FloatRange(50, 100), "help": "For that calibrator. [default: 99.99]"},
    ),
    "symmetric": (("--symmetric/--asymmetric",), {"help": "Activations of static methods. [default: asymmetric]"}),
    "bias_correction": (
        ("--bias-correction/--no-bias-correction",),
        {"help": "Take out the mean error of quantized weights. [default: on]"},
    ),
    "narrow_weights": (
        ("--narrow-weights/--wide-weights",),
        {"help": "8-bit weights in 7 bits, faster without VNNI. [default: wide]"},
    ),
    "smoothing": (
        ("--smoothing",),
        {"type": click.FloatRange(0, 1), "help": "Exponent of smoothquant. [default: one a tensor, tried on the data]"},
    ),
    "algorithm": (
        ("--algorithm",),
        {"type": click.Choice(["rtn", "gptq", "awq"]), "help": "Of weight-only methods. [default: gptq]"},
    ),
    "group": (
        ("--group",),
        {"type": click.IntRange(0), "help": "Inputs that share a scale of weights; 0: a column. [default: 32]"},
    ),
    "activations": (
        ("--activations",),
        {"type": click.Choice(["float", "int8"]), "help": "Beside weights of few bits. [default: float]"},
    ),
}


def quantizing(function: Callable[..., Any]) -> Callable[..., Any]:
    """How to quantize: settings arrive as ``settings`` (only those that were stated), the rest by name."""

    @wraps(function)
    def gathered(*args: Any, **given: Any) -> Any:
        stated = {name: given.pop(name) for name in _SETTINGS}
        return function(*args, settings={n: v for n, v in stated.items() if v is not None}, **given)

    made: Callable[..., Any] = gathered
    for name, (spelling, rest) in reversed(list(_SETTINGS.items())):
        made = click.option(*spelling, name, default=None, **rest)(made)
    made = click.option(
        "--records", type=arguments.FILE, help="Measured times of kernels; they go before predictions."
    )(made)
    made = click.option(
        "--except", "excepted", multiple=True, metavar="LAYER", help="Leave a layer (or all of a pattern) in float."
    )(made)
    made = click.option(
        "--metric",
        type=click.Choice(["cosine", "top1"]),
        default="cosine",
        help="What a drop is of: 1 - mean cosine, or 1 - agreement of the largest. [default: cosine]",
    )(made)
    made = click.option("--max-drop", type=float, metavar="X", help="How much worse outputs may be.")(made)
    return click.option(
        "--calib",
        "calibrations",
        multiple=True,
        metavar="DATA",
        help="Samples: .npz, folder of .npy, random:N (which every report tells); ENTRY=DATA for an entry point.",
    )(made)


def given_by(calibrations: Sequence[str], records: Path | None, entries: Sequence[str]) -> Given:
    """The data of a request. Raises :class:`UsageError` for two of one entry point."""
    from tilewright.quantization.records import Records, read_records
    from tilewright.quantization.request import Given

    sources: dict[str, str] = {}
    for text in calibrations:
        name, equals, path = text.partition("=")
        entry, source = (name, path) if equals and name in entries else (entries[0], text)
        if entry in sources:
            cause, fix = (
                f"entry point {entry!r} has calibration data already",
                "put all samples into one file",
            )
            raise UsageError("calibration-unreadable", where=f"--calib {text}", cause=cause, fix=fix)
        sources[entry] = source
    return Given(sources, None, read_records(records) if records else Records())


# -- what is told --------------------------------------------------------------------------------------------------


def lines(facts: PrecisionFacts) -> Iterator[Line]:
    """The lines of a summary: what was asked, what layers got and why not, accuracy, where samples came from."""
    for group in facts.groups:
        named = f"  on {', '.join(group.targets)}" if len(facts.groups) > 1 else ""
        entry = f"{group.entry}: " if len({g.entry for g in facts.groups}) > 1 else ""
        yield "precision", f"{entry}requested {facts.asked} → actual {counted(group.layers)}{named}"
        if group.cosine is not None:
            yield from (("", text) for text in _quality(group, facts))
        if group.seconds is not None and group.float_seconds is not None:
            times = f"{duration(group.seconds)} a run, {duration(group.float_seconds)} in float"
            yield "", f"predicted, not measured: {times} ({', '.join(group.targets)})"
    for entry, (source, sha256) in facts.calibration.items():
        where = f" of {entry}" if len(facts.calibration) > 1 else ""
        yield "", f"calibration{where}: {source}  sha256 {sha256[:12]}…"
    if facts.random:
        yield "", "CALIBRATED ON RANDOM DATA: ranges and accuracy say nothing of your inputs"
    if facts.records[1]:
        yield "", f"measured times: {facts.records[0]}  sha256 {facts.records[1][:12]}…"


def counted(layers: Sequence[LayerFacts]) -> str:
    """``int8 × int8 168, f32 19 (sensitive 14, slower in int8 5)``."""
    got = Counter(layer.got for layer in layers)
    text = ", ".join(f"{kind} {count}" for kind, count in got.most_common()) or "nothing to quantize"
    reasons = Counter(layer.why.partition(": ")[0] for layer in layers if layer.why)
    if not reasons:
        return text
    told = [f"{_short(why)} {count}" for why, count in reasons.most_common(REASONS)]
    rest = sum(reasons.values()) - sum(count for _, count in reasons.most_common(REASONS))
    return f"{text} ({', '.join(told + ([f'other reasons {rest}'] if rest else []))})"


def _short(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def _quality(group: GroupFacts, facts: PrecisionFacts) -> list[str]:
    assert group.cosine is not None
    parts = [f"cosine {group.cosine:.6f}", f"SNR {group.snr:.1f} dB"]
    if group.top1 is not None:
        parts.append(f"top-1 agreement {group.top1:.2%}")
    if facts.max_drop is not None:
        of = {"given": "your metric"}.get(facts.metric, facts.metric)
        parts.append(f"drop {group.drop:.2g} (may be {facts.max_drop:g}, {of})")
    return ["  ".join(parts), f"on {group.judged}"]


def table(facts: PrecisionFacts) -> None:
    """A row a layer."""
    for group in facts.groups:
        click.echo()
        if len(facts.groups) > 1:
            click.echo(f"{group.entry} on {', '.join(group.targets)}")
        rows = [(r.name, r.op_type, r.asked, r.got, r.why) for r in group.layers]
        screen.table(("layer", "operator", "asked", "got", "why"), rows)
