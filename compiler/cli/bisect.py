"""``tilewright bisect``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tilewright.cli import arguments, screen
from tilewright.cli.summary import accuracy, numbers
from tilewright.errors import ExitCode

if TYPE_CHECKING:
    from tilewright.diagnosis.bisection import Fault


@click.command("bisect", short_help="Find the first tensor that diverges, and what is at fault.")
@click.argument("artifact", type=arguments.FILE)
@click.option("--ref", "reference", type=arguments.FILE, required=True, help="The ONNX model that is right.")
@click.option("--model", type=arguments.FILE, help="What ARTIFACT was compiled from, if quantized from the reference.")
@arguments.entry("The entry point that was made from it.")
@click.option("--data", type=arguments.FILE, multiple=True, help="An .npz of inputs, repeatable. [default: made up]")
@arguments.shapes("Sizes of the made-up inputs: x:2,16.")
@click.option("--tolerance", type=click.FloatRange(0), help="Largest relative error. [default: by dtype]")
@click.option(
    "--min-accuracy", type=click.FloatRange(-1, 1), help="Smallest cosine of a tensor, in place of --tolerance."
)
@click.option("--engine", type=click.Choice(["auto", "onnxruntime", "onnx.reference", "openvino"]), default="auto")
@click.option("-o", "--output", type=arguments.FOLDER, help="Folder of the minimal model. [default: ARTIFACT-bisect]")
@arguments.reports
@click.pass_context
def command(
    ctx: click.Context,
    *,
    artifact: Path,
    reference: Path,
    model: Path | None,
    entry: str | None,
    data: tuple[Path, ...],
    shapes: tuple[str, ...],
    tolerance: float | None,
    min_accuracy: float | None,
    engine: str,
    output: Path | None,
    json_path: Path | None,
    junit: Path | None,
) -> int:
    """Find where ARTIFACT first diverges from its model.

    It is compiled again as it records; every state of the graph, then every kernel, is run on right inputs. A minimal
    model that shows the fault is written as ONNX, with its inputs. Exit code 5 where something diverges.
    """
    from tilewright.api import bisect

    outcome = arguments.begin(ctx, json_path, junit)
    found = bisect(
        artifact,
        reference,
        model=model,
        feeds=[arguments.read_samples(path) for path in data] or None,
        sizes=arguments.read_sizes(shapes),
        tolerance=tolerance,
        min_accuracy=min_accuracy,
        engine=engine,
        entry=entry,
        progress=lambda line: click.echo(line, err=True),
    )
    outcome.data["bisection"] = found.as_dict()
    screen.block(accuracy(found.verification))
    screen.block([("note", note) for note in found.notes])
    if found.fault is None:
        click.echo("no divergence")
        return ExitCode.OK
    screen.block(_fault(found.fault))
    if found.fault.minimal is not None:
        written = found.fault.minimal.save(output or Path(f"{artifact.stem}-bisect"))
        outcome.data["written"] = [str(path) for path in written]
        screen.block([("written", ", ".join(map(str, written)))])
    found.require(str(artifact))
    return ExitCode.OK


def _fault(fault: Fault) -> Iterator[tuple[str, str]]:
    made = f" ({fault.op_type})" if fault.op_type else ""
    yield "diverges", f"{fault.tensor.name}{made}  {numbers(fault.tensor)}"
    yield "fault", " ".join(filter(None, (fault.stage, fault.culprit)))
    yield "", fault.told
    if fault.minimal is None:
        yield "minimal", "no part of the model goes wrong by itself"
    else:
        nodes = f"{fault.minimal.nodes} node{'s' * (fault.minimal.nodes != 1)}"
        yield "minimal", f"{nodes}, off by itself: {numbers(fault.minimal.comparison)}"
