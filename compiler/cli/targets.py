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
    from tilewright.selection import backend_kinds, find_backend

    outcome = arguments.begin(ctx, json_path)
    found = {}
    for kind in backend_kinds():
        for spelling, target in find_backend(kind).targets().items():
            if spelling in found:  # a backend of several kinds
                continue
            memory = ", ".join(f"{m.name} {screen.size(m.size)}" if m.size else m.name for m in target.memory.values())
            peak = ", ".join(f"{dtype} {rate / 1e9:.0f} G/s" for dtype, rate in target.peak.items())
            vector = f"{target.vector_bytes * 8}-bit vectors, " if target.vector_bytes else ""
            screen.block([(f"{spelling:<24}", f"{vector}{memory}; peak {peak}")])
            found[spelling] = {"host": target.host, "features": sorted(target.features), "peak": dict(target.peak)}
    outcome.data["targets"] = found
    return ExitCode.OK
