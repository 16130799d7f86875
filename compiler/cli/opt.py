"""``tilewright opt``."""

from __future__ import annotations

from pathlib import Path

import click
from tilewright.cli import arguments, screen
from tilewright.errors import ExitCode


@click.command("opt", short_help="Run passes on a model and write it as ONNX.")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("-p", "--passes", "pipeline", help='A list of passes: "fold-constants,fuse-attention". [default: -O2]')
@click.option("-O", "level", type=click.IntRange(0, 3), default=2, show_default=True, help="0 canonicalizes only.")
@click.option("-o", "--output", type=arguments.FILE, help="The ONNX file; weights above 1 kB go beside it.")
@arguments.shapes("Bind (x:1x3x224x224) or bound (x:1..32,3) an input's sizes.")
@click.option("--list", "listing", is_flag=True, help="Name the passes there are.")
@click.option("--verify-each", is_flag=True, help="Check numbers after each pass; name the first that changes them.")
@click.option("--dump-ir", type=arguments.FOLDER, help="The graph after each pass that changed it.")
@click.option("--explain", multiple=True, metavar="PASS", help="Tell why a pass left things alone.")
@click.option("--time-passes", is_flag=True, help="Tell the time of each pass.")
@click.pass_context
def command(
    ctx: click.Context,
    *,
    model: Path | None,
    pipeline: str | None,
    level: int,
    output: Path | None,
    shapes: tuple[str, ...],
    listing: bool,
    verify_each: bool,
    dump_ir: Path | None,
    explain: tuple[str, ...],
    time_passes: bool,
) -> int:
    """Import MODEL, run passes on it, and tell what each did."""
    from tilewright.frontend.input_shapes import parse_input_shape
    from tilewright.frontend.onnx import import_model
    from tilewright.observe import Observer, save_graph
    from tilewright.options import Observation
    from tilewright.passes.pipeline import default_pipeline, parse_pipeline, registry, run_pipeline

    if listing:
        for name, kind in registry().items():
            told = (kind.__doc__ or "").strip().partition("\n")[0]
            screen.block([(f"{name:<34}", told)])
        return ExitCode.OK
    if model is None:
        raise click.UsageError("Missing argument 'MODEL'.", ctx)
    if output:
        arguments.require_folder(output)
    passes = parse_pipeline(pipeline) if pipeline is not None else default_pipeline(level)
    watch = Observation(str(dump_ir) if dump_ir else None, verify_each, explain, None, time_passes)
    observer = Observer(watch, lambda text: click.echo(text, err=True))
    observer.expect(p.name for p in passes)
    graph = import_model(model, dict(map(parse_input_shape, shapes)))
    before = len(graph.graph)
    observer.start(graph)
    run_pipeline(graph, passes, observer)
    observer.finish()
    click.echo(f"changed by  {', '.join(observer.changed) or 'nothing'}")
    click.echo(f"nodes       {before} → {len(graph.graph)}")
    if output:
        save_graph(graph, output)
        click.echo(f"written     {output}")
    return ExitCode.OK
