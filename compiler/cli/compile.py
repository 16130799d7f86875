"""``tilewright compile``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tilewright.cli import arguments, precision, screen
from tilewright.cli.outcome import Case, Outcome
from tilewright.cli.summary import summary
from tilewright.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tilewright.artifact import Artifact
    from tilewright.verification import Verification


_HOW = "it is said how to quantize, and not to what"


@click.command("compile", short_help="Compile a model into one file.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=arguments.FILE, help="The artifact. [default: MODEL's name with .tw, here]")
@click.option(
    "-t", "--target", "targets", multiple=True, default=("cpu",), help="KIND[:ARCH[+FEATURE]]. [default: cpu]"
)
@arguments.shapes("Bind (x:1x3x224x224) or bound (x:1..32x3) an input's sizes, or with commas (x:1..32,3).")
@click.option(
    "--entry", "entries", multiple=True, metavar="NAME=MODEL", help="One more entry point, with shared weights."
)
@click.option(
    "--state", "states", multiple=True, metavar="INPUT=OUTPUT", help="An output that is an input's new value."
)
@click.option(
    "--bucket",
    "buckets",
    multiple=True,
    metavar="DIM=SIZES",
    help="Static programs for up to these sizes (sequence=32,128); for just these: sequence==32,128.",
)
@click.option("--mesh", metavar="SIZES", help="Devices of targets of programs, along each axis: 4, 2x2.")
@click.option(
    "--shard",
    type=click.Choice(["auto", "tensor", "batch"]),
    help="What is cut over the mesh; auto: the batch along its first axis, weights along the others.",
)
@click.option(
    "--constant",
    "constants",
    multiple=True,
    metavar="NAME=VALUES",
    help="Fix an input: shape=3,224 or shape=@shape.npy. It is no input of the artifact.",
)
@click.option(
    "--fallback",
    type=click.Choice(["allow", "report", "forbid"]),
    default="report",
    show_default=True,
    help="Nodes that a target leaves to its host part: counted, listed, or an error.",
)
@click.option("--ahead/--no-ahead", default=True, help="Executables for TPUs beside the portable form. [default: on]")
@click.option("-O", "level", type=click.IntRange(0, 3), default=2, show_default=True, help="0 does not fuse.")
@click.option(
    "--precision",
    "asked",
    type=click.Choice(["fp32", "tf32", "bf16", "fp16", "fp8", "int8", "int4", "auto"]),
    help="auto is the fastest mixture within --max-drop. [default: the model's own]",
)
@click.option("--method", help="Of that precision: int8, smoothquant, int8-dynamic, int8-weights.")
@click.option("--allow-precision", "allowed", multiple=True, metavar="TYPE", help="What layers may have instead: f32.")
@precision.quantizing
@click.option("--cc", help="A C compiler command instead of the pinned ziglang.")
@click.option("--verify/--no-verify", default=True, help="Compare with a reference, in processes apart. [default: on]")
@click.option("--data", type=arguments.FILE, help="An .npz to verify MODEL on, instead of made-up inputs.")
@click.option("--tolerance", type=click.FloatRange(0), help="Largest error relative to the largest reference value.")
@click.option("--dump-ir", type=arguments.FOLDER, help="The graph after each pass that changed it, then kernels.")
@click.option("--verify-each", is_flag=True, help="Check numbers after each pass; name the first that changes them.")
@click.option("--explain", multiple=True, metavar="PASS", help="Tell why a pass left things alone.")
@click.option("--stop-after", metavar="PASS", help="Stop after a stage or a pass.")
@click.option("--time-passes", is_flag=True, help="Tell the time of each pass.")
@click.option("--progress", type=click.Choice(["auto", "plain", "none"]), default="auto", show_default=True)
@click.option("-q", "--quiet", is_flag=True, help="Neither progress nor summary.")
@click.option("-v", "--verbose", is_flag=True, help="Add stages and tools to the summary.")
@arguments.reports
@click.pass_context
def command(
    ctx: click.Context,
    *,
    model: Path,
    output: Path | None,
    targets: tuple[str, ...],
    shapes: tuple[str, ...],
    entries: tuple[str, ...],
    states: tuple[str, ...],
    buckets: tuple[str, ...],
    mesh: str | None,
    shard: str | None,
    constants: tuple[str, ...],
    fallback: str,
    ahead: bool,
    level: int,
    asked: str | None,
    method: str | None,
    allowed: tuple[str, ...],
    calibrations: tuple[str, ...],
    max_drop: float | None,
    metric: str,
    excepted: tuple[str, ...],
    records: Path | None,
    settings: dict[str, Any],
    cc: str | None,
    verify: bool,
    data: Path | None,
    tolerance: float | None,
    dump_ir: Path | None,
    verify_each: bool,
    explain: tuple[str, ...],
    stop_after: str | None,
    time_passes: bool,
    progress: str,
    quiet: bool,
    verbose: bool,
    json_path: Path | None,
    junit: Path | None,
) -> int:
    """Compile MODEL, an ONNX file, into one artifact that runs without the compiler.

    MODEL is the entry point main; every --entry adds one beside it.
    """
    from tilewright import driver
    from tilewright.frontend.buckets import parse_bucket
    from tilewright.frontend.constants import constant_input
    from tilewright.frontend.input_shapes import parse_input_shape
    from tilewright.frontend.mesh import parse_mesh
    from tilewright.observe import Stopped
    from tilewright.options import Observation, Options
    from tilewright.request import precision_of

    outcome = arguments.begin(ctx, json_path, junit)
    output = output or Path(f"{model.stem}.tw")
    if stop_after is None:
        arguments.require_folder(output)
    feeds = [arguments.read_samples(data)] if data else None
    watch = Observation(str(dump_ir) if dump_ir else None, verify_each, explain, stop_after, time_passes)
    pairs = arguments.read_pairs(states, "--state", "INPUT=OUTPUT")
    models = _models(model, entries)
    wanted = precision_of(asked, method, settings, max_drop, metric, allowed, excepted)
    given = precision.given_by(calibrations, records, list(models)) if wanted is not None else None
    if wanted is None and (calibrations or records):
        raise UsageError("precision-missing", where="compile", cause=_HOW, fix="say --precision int8, or auto")
    sizes = tuple(map(parse_input_shape, shapes))
    ladders = arguments.once(map(parse_bucket, buckets), "--bucket")
    fixed = arguments.once(map(arguments.read_constant, constants), "--constant")
    options = Options(
        targets,
        sizes,
        level,
        pairs,
        cc=cc,
        precision=wanted,
        fallback=fallback,
        buckets=tuple((name, rungs) for name, rungs, _ in ladders),
        exact=tuple(name for name, _, exactly in ladders if exactly),
        mesh=() if mesh is None else parse_mesh(mesh),
        shard=shard or "",
        constants=tuple((name, constant_input(name, array)) for name, array in fixed),
        ahead=ahead,
        observe=watch,
    )
    with screen.Progress("none" if quiet else progress) as report_stage:
        try:
            artifact = driver.compile(models, options=options, progress=report_stage, given=given)
        except Stopped as stopped:
            report_stage.say(f"{stopped}; nothing was packaged")
            return ExitCode.OK
        outcome.data["report"] = artifact.report.as_dict()
        checked, reason = None, "--no-verify"
        if verify:
            report_stage("verify", "beside a reference, in processes apart")
            checked, reason = _verified(artifact, models, feeds, tolerance)
        if checked:
            record(outcome, checked)
        if checked is None or checked.ok:
            report_stage("write", str(output))
            artifact.save(output)
    if not quiet:
        screen.block(summary(artifact.report, checked, reason, verbose, fallback != "allow"))
        if verbose and artifact.report.requested is not None:
            precision.table(artifact.report.requested)
        screen.verdict(checked is None or checked.ok)
    if checked is not None and not checked.ok:
        click.echo(f"{output} was not written; --no-verify writes it unchecked", err=True)
        checked.require(str(model))
    return ExitCode.OK


def _models(model: Path, entries: tuple[str, ...]) -> dict[str, Path]:
    """The model of each entry point. Raises :class:`UsageError` for a name that is given twice."""
    models = {"main": model}
    for name, path in arguments.read_pairs(entries, "--entry", "NAME=MODEL"):
        if name in models:
            fix = "give every entry point a name of its own; MODEL is main"
            raise UsageError("entry-name", where=f"--entry {name}={path}", cause=f"{name!r} is taken", fix=fix)
        models[name] = Path(path)
    return models


def _verified(
    artifact: Artifact,
    models: Mapping[str, Path],
    feeds: list[dict[str, arguments.Array]] | None,
    tolerance: float | None,
) -> tuple[Verification | None, str]:
    """Check an artifact that is not on disk yet; ``None`` and the reason where nothing can be run to compare."""
    from tilewright.api import verify, verify_quantized
    from tilewright.engines import EngineError
    from tilewright.verification import NO_REFERENCE, together

    checks = {}
    try:
        for entry, model in models.items():
            if artifact.evidence is not None:
                checks[entry] = verify_quantized(artifact, model, feeds=feeds, entry=entry)
            else:
                checks[entry] = verify(artifact, model, feeds=feeds, tolerance=tolerance, entry=entry)
            feeds = None  # those of MODEL; the other entry points get made-up inputs
        return together(checks), ""
    except EngineError as error:
        if error.exit_code != ExitCode.DEVICE and error.code != NO_REFERENCE:
            raise
        return None, error.cause


def record(outcome: Outcome, checked: Verification) -> None:
    """Tell ``--json`` and ``--junit`` of a verification."""
    outcome.data["verification"] = checked.as_dict()
    for part in checked.parts:
        for sample, comparisons in enumerate(part.comparisons):
            for c in comparisons:
                failure = "" if c.ok else c.problem or c.distance
                outcome.cases.append(Case(f"{c.name} on {part.target}, sample {sample}", failure=failure))
