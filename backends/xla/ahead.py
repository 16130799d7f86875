"""What a target's own compiler makes of programs before they are loaded anywhere, and what is predicted of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from tilewright.backends.base import ProgramFacts, ProgramSettings
from tilewright.backends.xla.aot import Compiled, Job, compile_jobs, installed
from tilewright.errors import UsageError
from tilewright.target import Target

#: Element types as StableHLO spells them, by the names of a target's peak rates.
_RATES = {"f8E4M3FN": "f8e4m3", "f8E5M2": "f8e5m2", "ui8": "i8", "ui4": "i4"}


@dataclass(frozen=True, slots=True)
class Ahead:
    """An executable, empty where there is none, and what is known of the program."""

    executable: bytes
    facts: ProgramFacts


def ahead(
    modules: Mapping[str, bytes], known: Sequence[ProgramFacts], target: Target, settings: ProgramSettings
) -> list[Ahead]:
    """Executables of portable programs where the target's compiler is installed, and the facts completed by it.

    Args:
        modules: portable bytes by the name of the program.
        known: what is known of each already, in the same order.
        target: where they are to run. Its table ``[ahead]`` says how its compiler is told; without one, nothing is
            compiled: XLA's CPU client would take seconds for a count that says nothing of a device.
        settings: the mesh, and whether to compile at all.

    Raises: as :func:`tilewright.backends.xla.aot.compile_jobs`; :class:`UsageError` for a mesh that no topology has.
    """
    if reason := why_not(target, settings):
        return [Ahead(b"", _noted(facts, reason)) for facts in known]
    topology = topology_of(target, prod(settings.mesh))
    jobs = [Job(name, module, *topology) for name, module in modules.items()]
    made = compile_jobs(jobs)
    return [Ahead(c.executable, facts_of(f, c, target)) for f, c in zip(known, made, strict=True)]


def why_not(target: Target, settings: ProgramSettings) -> str:
    """Why nothing is compiled ahead of time; empty where it is."""
    if "ahead" not in target.extra:
        return "compiled where it is loaded"
    if not settings.compile:
        return "not compiled ahead of time (--no-ahead): compiled where it is loaded"
    missing = [name for name in ("jaxlib", "libtpu") if name not in installed()]
    if missing:
        return f"not compiled ahead of time: {' and '.join(missing)} missing (pip install 'tilewright[tpu]')"
    return ""


def topology_of(target: Target, devices: int) -> tuple[str, tuple[int, ...], str, int]:
    """The smallest topology with so many devices: its name, the chips of a host, the configuration, and ``devices``.

    Raises :class:`UsageError` where no topology of one host has as many.
    """
    table = target.extra["ahead"]
    for dims in table["topologies"]:
        if prod(dims) * table["devices_per_chip"] >= devices:
            bounds = (*dims, *[1] * (3 - len(dims)))
            return f"{table['topology']}:{'x'.join(map(str, dims))}", bounds, table["config"], devices
    most = prod(table["topologies"][-1]) * table["devices_per_chip"]
    raise UsageError(
        "mesh-too-large",
        where=f"target {target.spelling}",
        cause=f"the mesh has {devices} devices, and one host has {most}",
        fix="use a smaller --mesh, or leave executables out (--no-ahead)",
    )


def facts_of(known: ProgramFacts, compiled: Compiled, target: Target) -> ProgramFacts:
    """The facts of a program completed by what libtpu said of it, on each device."""
    told = compiled.facts
    memory = told["arguments"] + told["results"] - told["aliased"] + told["temporaries"] + told["code"]
    return replace(
        known,
        flops=told["flops"],
        bytes=told["bytes"],
        memory=memory,
        arguments=told["arguments"],
        results=told["results"],
        temporaries=told["temporaries"],
        aliased=told["aliased"],
        fits=max(memory, told["peak"]) <= target.extra["ahead"]["available"],
        code_bytes=len(compiled.executable),
        collectives=told["collectives"],
        products=told["products"],
        predicted_seconds=predicted(told, target),
        compile_seconds=told["seconds"],
        cached=compiled.cached,
    )


def predicted(told: Mapping[str, Any], target: Target) -> float:
    """Seconds by the roofline of the target's data: operations at the peak rates of the types that are multiplied, or
    bytes at the bandwidth of its memory, whichever takes longer.

    Operations that are no products are taken at the same rates: there are few. Nothing is measured here.
    """
    products: Mapping[str, float] = told["products"]
    total = sum(products.values())
    slow = sum(work / total / rate(kind, target) for kind, work in products.items()) if total else 0.0
    *_, memory = target.memory.values()
    return max(float(told["flops"]) * slow, float(told["bytes"]) / memory.bandwidth)


def rate(kind: str, target: Target) -> float:
    """Operations a second of products of one type (``bf16``, ``f32:HIGH``); of a type without a rate that of f32."""
    dtype, _, precision = kind.partition(":")
    if dtype == "f32" and "precision" in target.extra:
        return target.peak["bf16"] / target.extra["precision"]["passes"][precision or "DEFAULT"]
    return target.peak.get(_RATES.get(dtype, dtype), target.peak["f32"])


def _noted(facts: ProgramFacts, reason: str) -> ProgramFacts:
    return replace(facts, note=f"{facts.note}; {reason}" if facts.note else reason)
