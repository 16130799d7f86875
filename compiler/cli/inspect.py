"""``tilewright inspect``: executes what it looks at only when it is told to measure it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tilewright.cli import arguments, plans, programs, screen
from tilewright.cli.screen import size
from tilewright.errors import ExitCode

if TYPE_CHECKING:
    from tilewright.backends.base import ProgramFacts
    from tilewright.runtime.artifact import Artifact
    from tilewright.runtime.manifest import TargetInfo

LARGEST = 5  # weights that are listed


@click.command("inspect", short_help="Look into an artifact or a model; nothing is executed unless asked.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--integrity", is_flag=True, help="Check the SHA-256 of every member of an artifact.")
@click.option("--members", is_flag=True, help="List the members of an artifact.")
@click.option("--nodes", is_flag=True, help="List the nodes of a model as it is imported.")
@click.option("--kernels", is_flag=True, help="What each kernel of an artifact does in a run, and its predicted time.")
@click.option("--plan", is_flag=True, help="What a target of kernels runs, step by step, and how kernels are started.")
@click.option("--measure", is_flag=True, help="--kernels, with the time of each on this machine: runs the artifact.")
@click.option("--entry", help="The entry point to look at with --kernels or --measure. [default: each]")
@click.option("--target", help="What to look at, or to measure. [default: the first; with --measure what runs here]")
@arguments.shapes("Sizes for --kernels and --measure: x:1,128.")
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Of a run, for --kernels and --measure."
)
@arguments.json_option
@click.pass_context
def command(
    ctx: click.Context,
    *,
    file: Path,
    integrity: bool,
    members: bool,
    nodes: bool,
    kernels: bool,
    plan: bool,
    measure: bool,
    entry: str | None,
    target: str | None,
    shapes: tuple[str, ...],
    threads: int,
    json_path: Path | None,
) -> int:
    """Print what is in FILE: an artifact, or an ONNX model as it is imported."""
    outcome = arguments.begin(ctx, json_path)
    if _is_artifact(file):
        from tilewright.runtime import open_artifact

        artifact = open_artifact(file)
        outcome.data["manifest"] = asdict(artifact.manifest)
        found = {t.target: _programs(artifact, t) for t in artifact.manifest.targets}
        outcome.data["programs"] = {target: [asdict(f) for f in facts] for target, facts in found.items() if facts}
        screen.block(_artifact(artifact, file, members, found))
        if integrity:
            artifact.verify()
            screen.block([("integrity", f"{len(artifact.manifest.hashes)} members, every SHA-256 matches")])
        if plan:
            text = plans.shown(artifact, target)
            outcome.data["plan"] = text
            click.echo(text, nl=False)
        if kernels or measure:
            from tilewright.cli.kernels import lines, look

            entries = [entry] if entry else [e.name for e in artifact.manifest.entries]
            records = look(file, entries, arguments.read_sizes(shapes), target, threads, measure)
            outcome.data["runs"] = [r.as_dict() for r in records]
            for record in records:
                screen.block(lines(record))
    else:
        screen.block(_model(file, nodes))
    return ExitCode.OK


def _is_artifact(file: Path) -> bool:
    """By its first bytes (an artifact is a zip, a model never) or, where those are lost, by its name."""
    try:
        with file.open("rb") as stream:
            return stream.read(2) == b"PK" or file.suffix == ".tw"
    except OSError:
        return file.suffix == ".tw"


def _programs(artifact: Artifact, target: TargetInfo) -> tuple[ProgramFacts, ...]:
    """What is known of the programs of a target. Raises :class:`ArtifactError` where that is no such thing."""
    from tilewright.runtime.errors import ArtifactError

    if "facts.json" not in target.members:
        return ()
    try:
        return programs.read(json.loads(bytes(artifact.checked(target.members["facts.json"]))))
    except (ValueError, RecursionError) as error:
        where, fix = f"{target.target}, facts.json", "copy or compile the artifact again"
        raise ArtifactError("artifact-damaged", where=where, cause=str(error), fix=fix) from None


def _artifact(
    artifact: Artifact, file: Path, members: bool, found: Mapping[str, Sequence[ProgramFacts]]
) -> Iterator[tuple[str, str]]:
    from tilewright.runtime import modules
    from tilewright.runtime.manifest import told_models, told_tools
    from tilewright.runtime.placement import described

    manifest = artifact.manifest
    models = told_models(manifest.provenance)
    yield "artifact", f"{file}  {size(file.stat().st_size)}"
    for model in models:
        entry = f"{model.get('entry')}: " if len(models) > 1 else ""
        yield "model", f"{entry}{model.get('name')}  sha256 {str(model.get('sha256'))[:12]}…"
    for info in manifest.entries:
        yield "entry", info.name
        yield from (("  input", str(each)) for each in info.inputs)
        yield from (("  output", str(each)) for each in info.outputs)
        for symbol in info.symbols:
            high = symbol.max if symbol.max < 2**31 else ""
            step = f", a multiple of {symbol.multiple}" if symbol.multiple > 1 else ""
            yield "  size", f"{symbol.name} = {symbol.min}..{high}{step}"
        yield from (("  state", f"{into} and {out} are one memory") for into, out in info.states)
    for target in manifest.targets:
        code = sum(manifest.sizes[member] for member in target.members.values())
        needs = ", ".join(name for name, *_ in (*target.requires, *target.host_requires))
        told = "programs" if target.has_programs else "code"
        host = f"; host part for {target.host_family}" if target.host_family else ""
        yield "target", f"{target.target}  {told} and plan {size(code)}{host}{f'  needs {needs}' if needs else ''}"
        if target.has_programs:
            yield from (("  step", line) for line in described(artifact, target))
        if target.has_modules:
            yield from (("  code", line) for line in modules.described(artifact, target))
        if target.has_sources:
            yield from (("  code", line) for line in plans.sources(artifact, target))
        if target.has_modules or target.has_sources:
            yield from (("  plan", line) for line in plans.counted(artifact, target))
        yield from programs.lines(found[target.target])
    total = sum(weight.size for weight in manifest.weights)
    yield "weights", f"{len(manifest.weights)} tensors, {size(total)}"
    for weight in sorted(manifest.weights, key=lambda w: -w.size)[:LARGEST]:
        yield "", f"{size(weight.size):>9}  {weight.dtype}[{', '.join(map(str, weight.shape))}]  {weight.name}"
    tools = told_tools(manifest.provenance)
    yield (
        "made by",
        f"tilewright {manifest.provenance.get('compiler')}  " + "  ".join(f"{k} {v}" for k, v in tools.items()),
    )
    if members:
        for name, count in manifest.sizes.items():
            yield "member", f"{size(count):>9}  {manifest.hashes[name][:12]}…  {name}"


def _model(file: Path, nodes: bool) -> Iterator[tuple[str, str]]:
    from tilewright.frontend.onnx import import_model
    from tilewright.ir.graph import type_of

    model = import_model(file)
    yield "model", f"{file}  as imported, opset {model.opset_imports['']}"
    yield from (("input", f"{v.name}: {type_of(v)}") for v in model.graph.inputs)
    yield from (("output", f"{v.name}: {type_of(v)}") for v in model.graph.outputs)
    weights = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]
    yield "weights", f"{len(weights)} tensors, {size(sum(w.nbytes for w in weights))}"
    counts = Counter(node.op_type for node in model.graph)
    yield "nodes", f"{sum(counts.values())}: " + ", ".join(f"{op} {n}" for op, n in counts.most_common())
    if nodes:
        for node in model.graph:
            outputs = ", ".join(f"{v.name}: {type_of(v)}" for v in node.outputs)
            yield "", f"{node.op_type}({', '.join(v.name or '' if v else '' for v in node.inputs)}) → {outputs}"
