"""``tilewright doctor``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from tilewright.cli import arguments
from tilewright.errors import ExitCode

COLOURS = {"ok": "green", "missing": "yellow", "broken": "red"}


@click.command("doctor", short_help="What this machine has and lacks.")
@arguments.json_option
@click.pass_context
def command(ctx: click.Context, *, json_path: Path | None) -> int:
    """Check versions, the toolchain, the CPU, optional engines and devices. Exit 8 when compiling cannot work here."""
    from tilewright.doctor import diagnose

    outcome = arguments.begin(ctx, json_path)
    checks = []
    for check in diagnose():
        checks.append(check)
        state = check.state if check.required or check.state != "missing" else "absent"
        mark = click.style(f"{state:<8}", fg=COLOURS[check.state])
        click.echo(f"{mark}{check.name:<14}{check.detail}")
    outcome.data["checks"] = [asdict(check) for check in checks]
    return ExitCode.DEVICE if any(c.required and c.state != "ok" for c in checks) else ExitCode.OK
