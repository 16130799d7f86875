"""What a part of programs does, step by step, for whoever looks into an artifact. Nothing of it is run."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.runtime.artifact import Artifact
from tilewright.runtime.manifest import TargetInfo
from tilewright.runtime.programs import Entry, Step, parse_programs

#: Buckets of a step that are listed.
_LISTED = 8


def described(artifact: Artifact, target: TargetInfo) -> Iterator[str]:
    """A line for each step of each entry point: a program with its buckets, or an entry point of the host part.

    Raises :class:`~tilewright.runtime.errors.ArtifactError` where ``program.json`` is damaged.
    """
    programs = parse_programs(bytes(artifact.checked(target.members["program.json"])), artifact.where)
    if programs.mesh:
        yield f"mesh {'x'.join(map(str, programs.mesh))}"
    for entry in programs.entries:
        for step in entry.steps:
            told = f"host part {step.host}" if step.host else _program(step)
            moved = f"{len(step.inputs)} in, {len(step.outputs)} out"
            yield f"{f'{entry.name}: ' if len(programs.entries) > 1 else ''}{told}  {moved}{_types(entry, step)}"


def _program(step: Step) -> str:
    first = step.variants[0]
    stem = first.module.partition(".")[0]
    ahead = sum(bool(v.executable) for v in step.variants)
    compiled = f", {ahead} compiled ahead" if ahead else ", portable only"
    told = f"program {stem}  {len(step.weights)} weights{compiled}"
    if not first.sizes:
        return told
    names = [f"{name}{'≤' if name in step.padded else '='}" for name in first.sizes]
    buckets = [" ".join(f"{n}{v.sizes[s]}" for n, s in zip(names, first.sizes, strict=True)) for v in step.variants]
    more = f" and {len(buckets) - _LISTED} more" if len(buckets) > _LISTED else ""
    return f"{told}, {len(buckets)} bucket{'s' * (len(buckets) > 1)}: {', '.join(buckets[:_LISTED])}{more}"


def _types(entry: Entry, step: Step) -> str:
    kinds = dict.fromkeys(entry.slots[o].dtype for o in step.outputs)
    return f" ({', '.join(kinds)})" if kinds else ""
