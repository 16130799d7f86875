"""``tilewright export``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click
from tilewright.cli import arguments, screen
from tilewright.errors import ExitCode

NAMES = {"dir": "{0}", "so": "lib{0}.so", "exe": "{0}"}


@click.command("export", short_help="What a C program links, or a program that runs by itself.")
@click.argument("artifact", type=arguments.FILE)
@click.option(
    "--as", "kind", type=click.Choice(["dir", "so", "exe"]), required=True, help="Folder, library or program."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="[default: ARTIFACT's name, here]")
@click.option("--family", help="Processor family (x86_64, aarch64), where the artifact has several.")
@click.option("--cc", help="A C compiler command instead of the pinned ziglang.")
@arguments.json_option
@click.pass_context
def command(
    ctx: click.Context,
    *,
    artifact: Path,
    kind: Literal["dir", "so", "exe"],
    output: Path | None,
    family: str | None,
    cc: str | None,
    json_path: Path | None,
) -> int:
    """Write ARTIFACT as a folder with its C header, as one shared library, or as one program.

    Every member's SHA-256 is checked before.
    """
    from tilewright.codegen.toolchain import default_toolchain
    from tilewright.package.export import export
    from tilewright.runtime import open_artifact

    outcome = arguments.begin(ctx, json_path)
    open_artifact(artifact).verify()
    output = output or Path(NAMES[kind].format(artifact.stem))
    arguments.require_folder(output)
    files = export(artifact, kind, output, default_toolchain(cc), family=family)
    outcome.data["files"] = [str(file) for file in files]
    for file in files:
        screen.block([("written", f"{file}  {screen.size(file.stat().st_size)}")])
    return ExitCode.OK
