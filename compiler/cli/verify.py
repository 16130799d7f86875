"""``tilewright verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from tilewright.cli import arguments, screen
from tilewright.cli.compile import record
from tilewright.cli.outcome import Case, Outcome
from tilewright.cli.summary import accuracy, decibels, numbers
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
@click.option("--layers", is_flag=True, help="ARTIFACT is a quantized ONNX model: tell what each layer loses.")
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
    layers: bool,
    json_path: Path | None,
    junit: Path | None,
) -> int:
    """Run ARTIFACT and a reference on the same inputs, in processes apart, and compare every output.

    With --layers ARTIFACT is a quantized ONNX model and the reference the float model that it came from: every layer is
    told by itself, fed with the reference's values, and as the model runs.
    """
    from tilewright.api import verify

    outcome = arguments.begin(ctx, json_path, junit)
    feeds = [arguments.read_samples(path) for path in data] or None
    sizes = arguments.read_sizes(shapes)
    limits = {"tolerance": tolerance, "min_accuracy": min_accuracy}
    if layers:
        return _by_layer(outcome, artifact, reference, feeds=feeds, sizes=sizes, **limits)
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


def _by_layer(outcome: Outcome, model: Path, reference: Path, **settings: Any) -> int:
    """Tell what each layer loses; judge the outputs where a bound is given."""
    from tilewright.api import compare_layers

    found = compare_layers(model, reference, **settings)
    outcome.data["layers"] = found.as_dict()
    names = max((len(x.name) for x in found.losing), default=0)
    screen.block(
        [("layers", f"{len(found.losing)} of {len(found.layers)} lose something; alone, then as the model runs")]
    )
    for x in found.losing:
        alone, runs = (f"{decibels(c):>9}  cosine {c.cosine:.6f}" for c in (x.alone, x.accumulated))
        click.echo(f"  {x.name:<{names}}  {x.op_type:<18}  {alone}   {runs}")
    screen.block([("worst", f"{x.name} ({x.op_type})  {decibels(x.alone)} alone") for x in found.worst()])
    if found.unmatched:
        screen.block([("unmatched", f"{len(found.unmatched)}: {', '.join(found.unmatched[:8])}")])
    screen.block([("outputs", f"{c.name}  {numbers(c)}") for c in found.outputs])
    screen.block([("samples", f"{found.samples}, {found.source}")])
    if settings["tolerance"] is None and settings["min_accuracy"] is None:
        return ExitCode.OK
    outcome.cases += [Case(c.name, failure="" if c.ok else c.problem or c.distance) for c in found.outputs]
    screen.verdict(all(c.ok for c in found.outputs))
    found.require(str(model))
    return ExitCode.OK
