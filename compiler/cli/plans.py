"""The plan of a target of kernels, for a reader."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tilewright.cli.screen import size
from tilewright.errors import UsageError

if TYPE_CHECKING:
    from tilewright.plan.plan import Plan
    from tilewright.runtime.artifact import Artifact
    from tilewright.runtime.manifest import TargetInfo


def counted(artifact: Artifact, target: TargetInfo) -> Iterator[str]:
    """A line for each entry point of a part with memory of its own: what runs on the device, on the host, and between
    them."""
    from tilewright.plan.plan import Copy, HostLaunch, Launch

    plan = _plan(artifact, target)
    for entry in plan.entries:
        launches, beside = ([i for i in entry.code if isinstance(i, kind)] for kind in (Launch, HostLaunch))
        crossing = sum(
            isinstance(i, Copy) and entry.buffers[i.source].space != entry.buffers[i.target].space for i in entry.code
        )
        names = sorted({plan.host_kernels[i.kernel] for i in beside if isinstance(i, HostLaunch)})
        host = f", {len(beside)} on the host ({', '.join(names)})" if beside else ""
        moved = f", {crossing} copies between the two" if crossing else ""
        yield f"{entry.name}: {len(launches)} launches on the device{host}{moved}"


def shown(artifact: Artifact, name: str | None) -> str:
    """The plan of a target as text, and of a GPU's how each kernel is started. The first such target when unnamed.

    Raises :class:`UsageError` where the artifact has no plan of that name.
    """
    from tilewright.plan.print import print_plan

    targets = {t.target: t for t in artifact.manifest.targets if "plan.bin" in t.members}
    if (name or next(iter(targets), "")) not in targets:
        cause = f"it holds no plan for {name}" if name else "it holds programs only"
        fix = f"use one of {', '.join(targets)}" if targets else "look at the steps that inspect lists"
        raise UsageError("unknown-target", where=artifact.where, cause=cause, fix=fix)
    target = targets[name or next(iter(targets))]
    return print_plan(_plan(artifact, target)) + "".join(f"{line}\n" for line in _started(artifact, target))


def _started(artifact: Artifact, target: TargetInfo) -> Iterator[str]:
    from tilewright.runtime.modules import read_modules

    if target.has_sources:
        yield "source text, to be compiled where the device's toolkit is:"
        yield from (f"  {_source_line(k)}" for k in _launches(artifact, target))
    if not target.has_modules:
        return
    modules, chosen = read_modules(artifact, target), _choices(artifact, target)
    yield f"machine code for sm_{modules.arch}:"
    for k in modules.kernels:
        ptx = f", PTX {size(k.ptx_bytes)}" if k.ptx_bytes else ""
        shared = f", {size(k.shared)} of shared memory" if k.shared else ""
        choice = f"; {chosen[k.entry]}" if k.entry in chosen else ""
        yield f"  {k.entry}: blocks of {k.threads} threads{shared}; code {size(k.cubin_bytes)}{ptx}{choice}"


def sources(artifact: Artifact, target: TargetInfo) -> Iterator[str]:
    """A line on the kernels of a part that is source text: how many, on which cores, and their synchronisation."""
    launches = _launches(artifact, target)
    cores = Counter(" and ".join(k["cores"]) for k in launches)
    told = ", ".join(f"{count} on {kinds} cores" for kinds, count in cores.most_common())
    flags, barriers, meetings = (sum(k[name] for k in launches) for name in ("flags", "barriers", "meetings"))
    counts = f"{flags} flags, {barriers} barriers, {meetings} flags between cores"
    yield f"{len(launches)} kernels as source: {told}; {counts}"


def _source_line(k: Mapping[str, Any]) -> str:
    workspace = f", {size(k['workspace'])} of workspace a group" if k["workspace"] else ""
    fault = ", a word for faults" if any(kind == "fault" for _, kind in k["arguments"]) else ""
    counts = f"{k['flags']} flags, {k['barriers']} barriers, {k['meetings']} flags between cores"
    where = f"{' and '.join(k['cores'])} cores, {k['groups']} groups"
    took = f"{k['modelled_cycles']} cycles ({k['modelled_ns'] / 1000:.1f} µs) modelled"
    at = f" at {k['modelled_at']}" if k["modelled_at"] else ""
    modelled = f"; {took}{at}" if k["modelled_cycles"] else ""
    return f"{k['kernel']}: {where}{workspace}{fault}; {counts}; {k['choice']}{modelled}"


def _launches(artifact: Artifact, target: TargetInfo) -> list[dict[str, Any]]:
    """The launches of a part that is source text, in the plan's order."""
    member = target.members["launches.json"]
    kinds = {"kernel": str, "groups": str, "choice": str, "workspace": int, "cores": list, "arguments": list}
    kinds |= dict.fromkeys(("flags", "barriers", "meetings", "modelled_cycles", "modelled_ns"), int)
    kinds["modelled_at"] = str
    try:
        told = json.loads(bytes(artifact.checked(member)))
        for launch in told:
            if not all(isinstance(launch[name], kind) for name, kind in kinds.items()):
                raise TypeError("a launch is malformed")
            if not all(0 <= launch[name] < 2**63 for name, kind in kinds.items() if kind is int):
                raise ValueError("a number of a launch is out of range")
            launch["cores"] = [str(c) for c in launch["cores"]]
            launch["arguments"] = [(str(name), str(kind)) for name, kind in launch["arguments"]]
        return list(told)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise artifact.damaged(member, f"it is no list of launches ({error})") from None


def _choices(artifact: Artifact, target: TargetInfo) -> dict[str, str]:
    """Where the schedule of each kernel comes from, as far as ``launches.json`` says so."""
    if "launches.json" not in target.members:
        return {}
    member = target.members["launches.json"]
    try:
        told = json.loads(bytes(artifact.checked(member)))
        return {str(k["entry"]): str(k["choice"]) for k in told if "choice" in k}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise artifact.damaged(member, f"it is no list of launches ({error})") from None


def _plan(artifact: Artifact, target: TargetInfo) -> Plan:
    """The decoded plan. Raises :class:`~tilewright.runtime.errors.ArtifactError` for bytes that are none."""
    from tilewright.plan.decode import checked_plan

    member = target.members.get("plan.bin", "")
    try:
        return checked_plan(bytes(artifact.checked(member)))
    except ValueError as error:
        raise artifact.damaged(member, str(error)) from None
