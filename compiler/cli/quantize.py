"""``tilewright quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from tilewright.cli import arguments, precision, screen
from tilewright.cli.screen import size
from tilewright.errors import ExitCode

METHODS = ("auto", "int8", "int8-dynamic", "smoothquant", "int8-weights", "int4", "fp8", "fp16", "bf16")


@click.command("quantize", short_help="Write a quantized ONNX model and tell its accuracy.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=arguments.FILE, help="The ONNX file. [default: MODEL's name with .q.onnx, here]")
@click.option(
    "-t", "--target", "targets", multiple=True, help="Whose kernels absorb it. [default: what all targets can]"
)
@click.option("--method", type=click.Choice(METHODS), required=True, help="auto is the fastest mixture within a bound.")
@precision.quantizing
@arguments.shapes("Bind (x:1x3x224x224) or bound (x:1..32x3) an input's sizes, or with commas (x:1..32,3).")
@click.option("--measure-records", type=arguments.FILE, help="Time kernels here, in float and quantized, into a file.")
@click.option("--progress", type=click.Choice(["auto", "plain", "none"]), default="auto", show_default=True)
@click.option("-q", "--quiet", is_flag=True, help="Neither progress nor summary.")
@arguments.json_option
@click.pass_context
def command(
    ctx: click.Context,
    *,
    model: Path,
    output: Path | None,
    targets: tuple[str, ...],
    method: str,
    calibrations: tuple[str, ...],
    max_drop: float | None,
    metric: str,
    excepted: tuple[str, ...],
    records: Path | None,
    settings: dict[str, Any],
    shapes: tuple[str, ...],
    measure_records: Path | None,
    progress: str,
    quiet: bool,
    json_path: Path | None,
) -> int:
    """Quantize MODEL, an ONNX file, and write it as ONNX, with Q and DQ where kernels absorb them.

    Accuracy is that of the written model beside MODEL, on samples held out of the calibration data.
    """
    from tilewright.frontend.input_shapes import parse_input_shape
    from tilewright.options import Options, Precision
    from tilewright.quantization.make import quantize_model
    from tilewright.quantization.request import precision_of_method

    outcome = arguments.begin(ctx, json_path)
    output = output or Path(f"{model.stem}.q.onnx")
    for path in filter(None, (output, measure_records)):
        arguments.require_folder(path)
    asked = precision_of_method(method)
    stated = tuple(sorted(settings.items()))
    wanted = Precision(asked, "" if asked == "auto" else method, stated, max_drop, metric, (), excepted)
    options = Options(targets, tuple(map(parse_input_shape, shapes)), precision=wanted)
    given = precision.given_by(calibrations, records, ["main"])
    with screen.Progress("none" if quiet else progress) as report_stage:
        if measure_records:
            _measure(model, options, given, measure_records, report_stage)
        made = quantize_model(model, options, given, report_stage)
        report_stage("write", str(output))
        files = made.save(output)
    outcome.data |= made.as_dict()
    if not quiet:
        name, sha256 = made.source
        screen.block([("model", f"{name}  sha256 {sha256[:12]}…")])
        (group,) = made.facts.groups
        screen.block([("targets", ", ".join(group.targets)), ("method", group.method or "none: all of it stays float")])
        screen.block(precision.lines(made.facts))
        written = ", ".join(f"{f} ({size(f.stat().st_size)})" for f in files)
        screen.block([("written", written)])
        precision.table(made.facts)
        click.echo()
        screen.verdict(True)
    return ExitCode.OK


def _measure(model: Path, options: Any, given: Any, path: Path, say: screen.Progress) -> None:
    from tilewright.quantization.measure import measure_records

    count, total = measure_records(model, options, given, path, say)
    say.say(f"{count} kernels measured, {total} records in {path}")
