"""``tilewright verify``."""

from __future__ import annotations

from pathlib import Path

import click
from tilewright.cli import arguments, screen
from tilewright.cli.compile import record
from tilewright.cli.summary import accuracy, numbers
from tilewright.errors import ExitCode


@click.command("verify", short_help="Compare an artifact with the model it was made from.")
@click.argument("artifact", type=arguments.FILE)
@click.option("--ref", "reference", type=arguments.FILE, required=True, help="The ONNX model.")
@arguments.entry("The entry point that was made from it.")
@click.option("--data", type=arguments.FILE, multiple=True, help="An .npz of inputs, repeatable. [default: made up]")
@arguments.shapes("Sizes of the made-up inputs: x:2,16.")
@click.option("--tolerance", type=click.FloatRange(0), help="Largest relative error. [default: by dtype]")
@click.option(
    "--min-accuracy", type=click.FloatRange(-1, 1), help="Smallest cosine of an output, in place of --tolerance."
)
@click.option("--engine", type=click.Choice(["auto", "onnxruntime", "onnx.reference", "openvino"]), default="auto")
@arguments.reports
@click.pass_context
def command(
    ctx: click.Context,
    *,
    artifact: Path,
    reference: Path,
    entry: str | None,
    data: tuple[Path, ...],
    shapes: tuple[str, ...],
    tolerance: float | None,
    min_accuracy: float | None,
    engine: str,
    json_path: Path | None,
    junit: Path | None,
) -> int:
    """Run ARTIFACT and a reference on the same inputs, in processes apart, and compare every output."""
    from tilewright.api import verify

    outcome = arguments.begin(ctx, json_path, junit)
    feeds = [arguments.read_samples(path) for path in data] or None
    sizes = arguments.read_sizes(shapes)
    limits = {"tolerance": tolerance, "min_accuracy": min_accuracy}
    checked = verify(artifact, reference, feeds=feeds, sizes=sizes, engine=engine, entry=entry, **limits)
    record(outcome, checked)
    for part in checked.parts:
        screen.block([("target", part.target)])
        for sample, comparisons in enumerate(part.comparisons):
            rows = [(f"  sample {sample}", f"{c.name}  {numbers(c)}  {'ok' if c.ok else 'OFF'}") for c in comparisons]
            screen.block(rows)
        if len(part.comparisons) > 1:
            screen.block([("  all", f"{c.name}  {numbers(c)}") for c in part.totals])
    screen.block(accuracy(checked))
    screen.verdict(checked.ok)
    checked.require(str(artifact))
    return ExitCode.OK
