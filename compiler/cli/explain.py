"""``tilewright explain``."""

from __future__ import annotations

import click
from tilewright.errors import ExitCode, UsageError


@click.command("explain", short_help="What an error code means.")
@click.argument("code", required=False)
@click.option("--all", "everything", is_flag=True, help="Every code with its text.")
def command(*, code: str | None, everything: bool) -> int:
    """Print what CODE means, how it comes about and what to do."""
    from tilewright.explain import explain, explanations

    if everything:
        for name, text in explanations().items():
            click.echo(f"{name}\n  {text.replace(chr(10), chr(10) + '  ')}\n")
    elif code:
        click.echo(explain(code))
    else:
        raise UsageError("no-code", where="explain", cause="no code given", fix="give a code, or --all")
    return ExitCode.OK
