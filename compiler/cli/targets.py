"""``tilewright targets``."""

from __future__ import annotations

from pathlib import Path

import click
from tilewright.cli import arguments, screen
from tilewright.errors import ExitCode


@click.command("targets", short_help="What can be compiled for.")
@arguments.json_option
@click.pass_context
def command(ctx: click.Context, *, json_path: Path | None) -> int:
    """List every target, with what the compiler knows of it."""
    from tilewright.selection import every_target

    outcome = arguments.begin(ctx, json_path)
    found = {}
    for target in every_target():
        memory = ", ".join(f"{m.name} {screen.size(m.size)}" if m.size else m.name for m in target.memory.values())
        peak = ", ".join(f"{dtype} {_rate(rate)}" for dtype, rate in target.peak.items())
        vector = f"{target.vector_bytes * 8}-bit vectors, " if target.vector_bytes else ""
        device = f"{target.extra['device']}: " if "device" in target.extra else ""
        screen.block([(f"{target.spelling:<24}", f"{device}{vector}{memory}; peak {peak}")])
        found[target.spelling] = {
            "device": target.extra.get("device", ""),
            "host": target.host,
            "features": sorted(target.features),
            "memory": {m.name: {"size": m.size, "bandwidth": m.bandwidth} for m in target.memory.values()},
            "peak": dict(target.peak),
        }
    outcome.data["targets"] = found
    return ExitCode.OK


def _rate(rate: float) -> str:
    """Operations a second for a reader."""
    return f"{rate / 1e12:.0f} T/s" if rate >= 1e13 else f"{rate / 1e9:.0f} G/s"
