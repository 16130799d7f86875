"""``tilewright run``: needs the runtime only."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
from tilewright.accuracy import compare
from tilewright.cli import arguments, screen
from tilewright.cli.outcome import Case
from tilewright.errors import AccuracyError, ExitCode, UsageError
from tilewright.package.atomic import atomic_file


@click.command("run", short_help="Load an artifact and run it once.")
@click.argument("artifact", type=arguments.FILE)
@arguments.entry("The entry point to run.")
@click.option("--input", "inputs", multiple=True, metavar="NAME=@FILE", help="A .npy, repeatable. [default: made up]")
@click.option("--data", type=arguments.FILE, help="An .npz of inputs by name.")
@arguments.shapes("Sizes of the made-up inputs: x:2,16.")
@click.option("--output-dir", type=arguments.FOLDER, help="Write each output there as NAME.npy.")
@click.option("--expect", multiple=True, metavar="NAME=@FILE", help="A .npy that an output must equal; exit 5 if not.")
@click.option("--tolerance", type=click.FloatRange(0), help="Of --expect: largest relative error. [default: by dtype]")
@arguments.device
@arguments.threads
@arguments.reports
@click.pass_context
def command(
    ctx: click.Context,
    *,
    artifact: Path,
    entry: str | None,
    inputs: tuple[str, ...],
    data: Path | None,
    shapes: tuple[str, ...],
    output_dir: Path | None,
    expect: tuple[str, ...],
    tolerance: float | None,
    device: str,
    allow_jit: bool,
    cache: bool,
    threads: int | None,
    json_path: Path | None,
    junit: Path | None,
) -> int:
    """Load ARTIFACT, run it once and print its outputs."""
    from tilewright.api import load
    from tilewright.feeds import samples

    outcome = arguments.begin(ctx, json_path, junit)
    feed = arguments.read_samples(data) if data else {}
    feed |= dict(map(arguments.read_array, inputs))
    wanted = dict(map(arguments.read_array, expect))
    start = time.perf_counter()
    session = load(artifact, device, threads, entry, allow_jit=allow_jit or None, cache=cache)
    loaded = time.perf_counter()
    known = [i.name for i in session.inputs]
    for name in feed:
        if name not in known:
            raise UsageError(
                "unknown-input", where=str(artifact), cause=f"no input {name!r}", fix=f"use {', '.join(known)}"
            )
    missing = [name for name in known if name not in feed]
    if missing:
        given = {name: array.shape for name, array in feed.items()} | arguments.read_sizes(shapes)
        (made,) = samples(artifact, given, count=1, entry=entry)
        feed |= {name: made[name] for name in missing}
        click.echo(f"made up: {', '.join(missing)}", err=True)
    names = [o.name for o in session.outputs]
    for name in wanted:
        if name not in names:
            raise UsageError(
                "no-such-output", where=name, cause="no output of this name", fix=f"one of {', '.join(names)}"
            )
    started = time.perf_counter()
    outputs = dict(zip(names, session.run(None, feed), strict=True))
    ended = time.perf_counter()
    for name, array in outputs.items():
        screen.block([(name, f"{array.dtype}{list(array.shape)}  {np.array2string(array.ravel()[:6], precision=6)}")])
    screen.block([("load", screen.duration(loaded - start)), ("first run", screen.duration(ended - started))])
    screen.block([("ran on", session.place)] + ([("", session.note)] if session.note else []))
    if session.jit_seconds:
        screen.block([("compiled", f"{screen.duration(session.jit_seconds)} by {session.jit_by}, here")])
    outcome.data |= {"target": session.target, "device": session.device, "jit_seconds": session.jit_seconds}
    outcome.data |= {"load_seconds": loaded - start, "first_run_seconds": ended - started}
    outcome.data["outputs"] = {n: {"dtype": str(a.dtype), "shape": list(a.shape)} for n, a in outputs.items()}
    if output_dir:
        _save(output_dir, outputs)
    bad = []
    for name, want in wanted.items():
        found = compare(name, outputs[name], want, tolerance)
        told = found.problem or f"relative error {found.relative:.2e} (may be {found.tolerance:.0e})"
        outcome.cases.append(Case(name, failure="" if found.ok else told))
        screen.block([("expect", f"{name}  {told}  {'ok' if found.ok else 'OFF'}")])
        bad += [] if found.ok else [f"{name}: {told}"]
    if bad:
        raise AccuracyError(
            "output-unexpected", where=str(artifact), cause="; ".join(bad), fix="check the inputs, or state --tolerance"
        )
    return ExitCode.OK


def _save(folder: Path, outputs: Mapping[str, arguments.Array]) -> None:
    """Each output as a file, whole or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = "name a folder that can be made"
        raise UsageError("no-such-folder", where=str(folder), cause=(error.strerror or "").lower(), fix=fix) from None
    for name, array in outputs.items():
        with atomic_file(folder / f"{name.replace('/', '_')}.npy") as stream:
            np.save(stream, array)
