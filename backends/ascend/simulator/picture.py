"""What the pipes did, as a picture: the whole launch, a window of it, and what was waited for. Needs matplotlib."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tilewright.backends.ascend.placed.stream import PIPE_ORDER
from tilewright.backends.ascend.simulator.times import Span, Timing
from tilewright.errors import UsageError

#: Colours that are told apart with every kind of colour blindness (Okabe and Ito), by pipe; waiting is grey.
_COLOURS = {
    "M": "#D55E00",
    "V": "#009E73",
    "MTE2": "#0072B2",
    "MTE1": "#56B4E9",
    "MTE3": "#CC79A7",
    "FIX": "#E69F00",
    "S": "#000000",
}
_STALL, _INK = "#DDDDDD", "#333333"
#: Pieces that the whole launch is cut into.
_BINS = 240


def draw(timing: Timing, title: str, path: Path, window: tuple[float, float] | None = None) -> None:
    """Write the picture of a launch whose ``spans`` were kept.

    ``window`` are the cycles that are shown pipe by pipe; by default a stretch from the middle. Raises
    :class:`UsageError` where matplotlib is not installed.
    """
    try:
        figures = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise UsageError(
            "ascend-picture",
            where=f"the picture {path.name}",
            cause="matplotlib, which draws it, is not installed",
            fix="pip install matplotlib, or take the trace, which ui.perfetto.dev draws",
        ) from error
    lanes = _lanes(timing)
    low, high = window or _middle(timing)
    figure = figures.Figure(figsize=(13, 2.6 + 0.62 * len(lanes)), layout="constrained")
    grid = figure.add_gridspec(3, 1, height_ratios=[0.42 * len(lanes) + 0.3, 0.62 * len(lanes) + 0.4, 1.5])
    _whole(figure.add_subplot(grid[0]), timing, lanes, (low, high))
    _window(figure.add_subplot(grid[1]), timing, lanes, (low, high))
    _reasons(figure.add_subplot(grid[2]), timing)
    cube = f", {timing.utilisation:.1%} of the cube units' multiply-adds" if timing.peak else ""
    figure.suptitle(
        f"{title}: {timing.cycles:,.0f} cycles, {timing.microseconds:,.1f} µs at {timing.mhz:.0f} MHz{cube}"
        f"\nmodelled, {timing.simulated} of {timing.groups} groups of cores simulated, {timing.blocks} blocks",
        fontsize=11,
        color=_INK,
    )
    figure.savefig(path, dpi=130)


def _lanes(timing: Timing) -> list[tuple[int, str]]:
    """The pipes that do something, of the first group, in the order in which data goes through them."""
    order = [p for p in ("MTE2", "MTE1", "M", "FIX", "V", "MTE3") if p in PIPE_ORDER]
    used = {(s.core, s.pipe) for s in timing.spans if not s.stall}
    first = len(timing.cores) // max(1, timing.simulated)
    return [(core, pipe) for core in range(first) for pipe in order if (core, pipe) in used]


def _middle(timing: Timing) -> tuple[float, float]:
    """A stretch in which the busiest pipe starts some dozens of instructions."""
    starts = sorted(s.start for s in timing.spans if not s.stall and s.core == 0)
    if len(starts) < 240:
        return 0.0, timing.cycles
    at = len(starts) // 2
    return starts[at], starts[min(len(starts) - 1, at + 120)]


def _whole(axes: Any, timing: Timing, lanes: Sequence[tuple[int, str]], window: tuple[float, float]) -> None:
    import numpy as np

    width = timing.cycles / _BINS
    shares = np.zeros((len(lanes), _BINS))
    rows = {lane: n for n, lane in enumerate(lanes)}
    for s in timing.spans:
        row = rows.get((s.core, s.pipe))
        if row is None or s.stall:
            continue
        first, last = int(s.start // width), min(_BINS - 1, int(s.end // width))
        for b in range(first, last + 1):
            shares[row, b] += max(0.0, min(s.end, (b + 1) * width) - max(s.start, b * width)) / width
    edges = np.arange(_BINS) * width
    for row, (_, pipe) in enumerate(lanes):
        base = len(lanes) - 1 - row
        axes.fill_between(edges, base, base + 0.9 * np.clip(shares[row], 0, 1), step="post", color=_COLOURS[pipe], lw=0)
    if window != (0.0, timing.cycles):
        axes.axvspan(*window, color="#000000", alpha=0.12, lw=0)
    _labels(axes, timing, lanes, centre=0.45)
    axes.set_xlim(0, timing.cycles)
    axes.set_ylim(0, len(lanes))
    axes.set_title(
        "Share of each pipe that works, over the whole launch; shaded, where only a part is shown below", **_TITLE
    )


def _window(axes: Any, timing: Timing, lanes: Sequence[tuple[int, str]], window: tuple[float, float]) -> None:
    low, high = window
    for row, lane in enumerate(lanes):
        base = len(lanes) - 1 - row
        spans = [s for s in timing.spans if (s.core, s.pipe) == lane and s.end > low and s.start < high]
        stalls = [(s.start, s.end - s.start) for s in spans if s.stall]
        work = [(s.start, s.end - s.start) for s in spans if not s.stall]
        axes.broken_barh(stalls, (base + 0.05, 0.8), facecolors=_STALL, lw=0)
        axes.broken_barh(work, (base + 0.05, 0.8), facecolors=_COLOURS[lane[1]], edgecolors="white", lw=0.5)
        for s in spans:
            _inside(axes, s, base, window)
    _labels(axes, timing, lanes, centre=0.45)
    axes.set_xlim(low, high)
    axes.set_ylim(0, len(lanes))
    axes.set_xlabel("cycles", color=_INK, fontsize=9)
    axes.set_title("Instructions (coloured) and waiting (grey, with what is waited for)", **_TITLE)


def _inside(axes: Any, s: Span, base: float, window: tuple[float, float]) -> None:
    """The name of a span where there is room for it."""
    low, high = max(s.start, window[0]), min(s.end, window[1])
    letters = int((high - low) / (window[1] - window[0]) * 165)
    text = s.name.removeprefix("waits for ") if s.stall else s.name
    if letters < min(len(text), 9):
        return
    text = text if len(text) <= letters else text[: letters - 1] + "…"
    colour = "#555555" if s.stall else "white"
    axes.text((low + high) / 2, base + 0.45, text, ha="center", va="center", fontsize=6.5, color=colour, clip_on=True)


def _labels(axes: Any, timing: Timing, lanes: Sequence[tuple[int, str]], centre: float) -> None:
    names = [f"{timing.cores[core]} {core}  {pipe}" if len(timing.cores) > 1 else pipe for core, pipe in lanes]
    axes.set_yticks([len(lanes) - 1 - n + centre for n in range(len(lanes))], names, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _reasons(axes: Any, timing: Timing) -> None:
    """The longest waits in words, first those of the pipe that does the work."""
    axes.axis("off")
    lines = [f"{share:6.1%}  {kind} {pipe} waits for {reason}" for kind, pipe, reason, share in timing.waits[:7]]
    text = "What is waited for, share of the time of a core:\n" + "\n".join(lines)
    axes.text(0, 1, text, va="top", fontsize=8, family="monospace", color=_INK, transform=axes.transAxes)


_TITLE = {"loc": "left", "fontsize": 9, "color": _INK}
