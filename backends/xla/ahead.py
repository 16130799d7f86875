"""What a target's own compiler makes of programs before they are loaded anywhere, and what is predicted of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

from tilewright.backends.base import CompiledRegion, ProgramFacts, ProgramSettings
from tilewright.backends.xla.aot import Compiled, Job, compile_jobs, installed
from tilewright.errors import UsageError
from tilewright.target import Target

#: Element types as StableHLO spells them, by the names of a target's peak rates.
_RATES = {"f8E4M3FN": "f8e4m3", "f8E5M2": "f8e5m2", "ui8": "i8", "ui4": "i4"}


def ahead(made: CompiledRegion, target: Target, settings: ProgramSettings) -> CompiledRegion:
    """The programs of a region with executables where the target's compiler is installed, and their facts completed.

    The table ``[ahead]`` of a target says how its compiler is told; without one nothing is compiled here: XLA's CPU
    client would take seconds for counts that say nothing of a device.

    Raises: as :func:`tilewright.backends.xla.aot.compile_jobs`; :class:`UsageError` for a mesh that no topology has.
    """
    if reason := why_not(target, settings):
        return replace(made, facts=tuple(_noted(facts, reason) for facts in made.facts))
    topology = topology_of(target, prod(settings.mesh))
    jobs = [
        Job(_described(facts), made.members[variant.module], *topology)
        for facts, variant in zip(made.facts, made.variants, strict=True)
    ]
    compiled = compile_jobs(jobs)
    names = [f"{facts.name}.pjrt" for facts in made.facts]
    return replace(
        made,
        members={**made.members, **{n: c.executable for n, c in zip(names, compiled, strict=True)}},
        variants=tuple(replace(v, executable=n) for n, v in zip(names, made.variants, strict=True)),
        facts=tuple(facts_of(f, c, target) for f, c in zip(made.facts, compiled, strict=True)),
    )


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
        note="; ".join(filter(None, (known.note, told["uncounted"]))),
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
        passes: int = target.extra["precision"]["passes"][precision or "DEFAULT"]
        return target.peak["bf16"] / passes
    return target.peak.get(_RATES.get(dtype, dtype), target.peak["f32"])


def _described(facts: ProgramFacts) -> str:
    sizes = ", ".join(f"{name} {size}" for name, size in facts.sizes.items())
    return f"{facts.name} ({sizes})" if sizes else facts.name


def _noted(facts: ProgramFacts, reason: str) -> ProgramFacts:
    return replace(facts, note=f"{facts.note}; {reason}" if facts.note else reason)
