"""``tilewright export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import click
from tilewright.cli import arguments, precision, screen
from tilewright.errors import ExitCode, UsageError

NAMES = {"dir": "{0}", "so": "lib{0}.so", "exe": "{0}"}

#: Kinds that are made of a model, not of an artifact: the graph for another compiler.
GRAPHS = ("onnx-atc", "ge-air")


@click.command("export", short_help="What a C program links, a program, or a graph for another compiler.")
@click.argument("artifact", metavar="FILE", type=arguments.FILE)
@click.option(
    "--as",
    "kind",
    type=click.Choice([*NAMES, *GRAPHS]),
    required=True,
    help="Folder, library or program of an artifact; of an ONNX model, a folder with what CANN takes.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="[default: FILE's name, here]")
@click.option("--family", help="Processor family (x86_64, aarch64), where the artifact has several.")
@click.option("--cc", help="A C compiler command instead of the pinned ziglang.")
@click.option("-t", "--target", "targets", multiple=True, help="Of a graph: the chip (ascend:910b3).")
@arguments.shapes("Of a graph: bind (x:1x3x224x224) or bound (x:1..32,3) an input's sizes.")
@click.option(
    "--bucket",
    "buckets",
    multiple=True,
    metavar="DIM=SIZES",
    help="Of a graph: gears, the sizes that a dimension has (batch=1,8).",
)
@click.option("--constant", "constants", multiple=True, metavar="NAME=VALUES", help="Of a graph: fix an input.")
@click.option(
    "--precision", "asked", type=click.Choice(["fp16", "bf16"]), help="Of a graph. [default: the model's own]"
)
@click.option("--allow-precision", "allowed", multiple=True, metavar="TYPE", help="What layers may have instead: f32.")
@click.option("--except", "excepted", multiple=True, metavar="LAYER", help="Leave a layer (or a pattern) in float.")
@click.option("--calib", "calibrations", multiple=True, metavar="DATA", help="Samples, to see what fits 16 bits.")
@arguments.json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    artifact: Path,
    kind: str,
    output: Path | None,
    family: str | None,
    cc: str | None,
    targets: tuple[str, ...],
    json_path: Path | None,
    **graph: Any,
) -> int:
    """Write FILE, an artifact, as a folder with its C header, as one shared library, or as one program. Every member's
    SHA-256 is checked before.

    With --as onnx-atc FILE is an ONNX model, and the folder has it as ATC takes it, with the target's command line;
    with --as ge-air it has it in the operators of CANN's graph engine.
    """
    outcome = arguments.begin(ctx, json_path)
    if kind in GRAPHS:
        output = output or Path(f"{artifact.stem}.{kind}")
        arguments.require_folder(output)
        files = _graph(artifact, kind, output, targets, cc, **graph)
    else:
        given = [f"--{n}" for n, v in {"target": targets, **graph}.items() if v]
        if given:
            cause = (
                f"{', '.join(_OPTIONS.get(o, o) for o in given)} is for graphs, and an artifact was compiled already"
            )
            raise UsageError("export-options", where=f"--as {kind}", cause=cause, fix="leave it out, or compile again")
        output = output or Path(NAMES[kind].format(artifact.stem))
        arguments.require_folder(output)
        files = _artifact(artifact, cast(Literal["dir", "so", "exe"], kind), output, family, cc)
    outcome.data["files"] = [str(file) for file in files]
    for file in files:
        screen.block([("written", f"{file}  {screen.size(file.stat().st_size)}")])
    return ExitCode.OK


_OPTIONS = {
    "--shapes": "--input-shape",
    "--buckets": "--bucket",
    "--constants": "--constant",
    "--asked": "--precision",
    "--allowed": "--allow-precision",
    "--excepted": "--except",
    "--calibrations": "--calib",
}


def _artifact(
    artifact: Path, kind: Literal["dir", "so", "exe"], output: Path, family: str | None, cc: str | None
) -> list[Path]:
    from tilewright.codegen.toolchain import default_toolchain
    from tilewright.package.export import export
    from tilewright.runtime import open_artifact

    open_artifact(artifact).verify()
    return export(artifact, kind, output, default_toolchain(cc), family=family)


def _graph(
    model: Path,
    kind: str,
    output: Path,
    targets: tuple[str, ...],
    cc: str | None,
    *,
    shapes: tuple[str, ...],
    buckets: tuple[str, ...],
    constants: tuple[str, ...],
    asked: str | None,
    allowed: tuple[str, ...],
    excepted: tuple[str, ...],
    calibrations: tuple[str, ...],
) -> list[Path]:
    from tilewright.frontend.buckets import parse_bucket
    from tilewright.frontend.constants import constant_input
    from tilewright.frontend.input_shapes import parse_input_shape
    from tilewright.graph_export import export_graph
    from tilewright.options import Options
    from tilewright.request import precision_of

    wanted = precision_of(asked, None, {}, None, "cosine", allowed, excepted)
    given = precision.given_by(calibrations, None, ["main"]) if wanted is not None else None
    ladders = arguments.once(map(parse_bucket, buckets), "--bucket")
    fixed = arguments.once(map(arguments.read_constant, constants), "--constant")
    options = Options(
        targets,
        tuple(map(parse_input_shape, shapes)),
        cc=cc,
        precision=wanted,
        buckets=tuple((name, sizes) for name, sizes, _ in ladders),
        exact=tuple(name for name, _, _ in ladders),
        constants=tuple((name, constant_input(name, array)) for name, array in fixed),
    )
    return export_graph(model, kind, output, options, given=given)
