"""How a placed kernel is started: what its launch passes, how many groups of cores, how much workspace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from tilewright.backends.ascend.ascendc.signature import signature
from tilewright.backends.ascend.placed.form import (
    GROUP,
    GROUPS,
    SUBBLOCK,
    Barrier,
    Core,
    CrossFlag,
    Flag,
    Placed,
    program_of,
    statements,
)
from tilewright.backends.ascend.placed.stream import walk
from tilewright.backends.ascend.simulator.timing import launch_time
from tilewright.ir.parse import parse
from tilewright.ir.symbolic import Expr, constant, minimum
from tilewright.kernel.schedule import Schedule
from tilewright.target import Target
from tilewright.tuning.choice import choice_of

#: The file of a :class:`~tilewright.backends.base.Source` that holds the launches.
LAUNCHES = "launches.json"
#: The size that a symbolic dimension has where cycles are modelled, and the most statements of a core for that.
_EXAMPLE, _STATEMENTS = 32, 50_000


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one kernel.

    Attributes:
        kernel: name of the lowered kernel, and of its function.
        target: what it was placed for; ``architecture`` and ``soc`` are what CANN calls that.
        kind: which cores a launch is for (:class:`~tilewright.backends.ascend.ascendc.signature.Signature`).
        arguments: name and kind of each, in call order: addresses, then the values of dimension symbols.
        cores: the kinds of core that have work.
        blocks: independent pieces of work; ``groups``, of cores, that take them in turn. Over the dimension symbols.
        cores_a_block: blocks that a launch counts for each group.
        workspace: bytes of global memory for each group; 0 where none is passed.
        flags, barriers, meetings: statements of the program: flags set, barriers, flags set between cores.
        choice: where the schedule comes from, for people.
        modelled_cycles: that a launch takes on the model of the machine, at the sizes ``modelled_at``, and those cycles
            in nanoseconds; 0 where nothing was modelled. No device was asked.
    """

    kernel: str
    target: str
    architecture: int
    soc: str
    kind: str
    arguments: tuple[tuple[str, str], ...]
    cores: tuple[Core, ...]
    blocks: Expr
    groups: Expr
    cores_a_block: int = 1
    workspace: int = 0
    flags: int = 0
    barriers: int = 0
    meetings: int = 0
    choice: str = "heuristic"
    modelled_cycles: int = 0
    modelled_ns: int = 0
    modelled_at: str = ""


def groups_of(blocks: Expr, target: Target) -> Expr:
    """How many groups of cores work on ``blocks`` pieces: as many as the target has, and none without work."""
    return minimum(blocks, constant(target.units))


def launch_of(placed: Placed, schedule: Schedule) -> Launch:
    """How ``placed`` is started, which was scheduled so."""
    called, target, every = signature(placed), placed.target, list(statements(placed.body))
    sizes = {name: max(r.lo, min(r.hi, _EXAMPLE)) // r.divisor * r.divisor for name, r in placed.kernel.facts}
    cycles = _modelled(placed, sizes)
    return Launch(
        kernel=placed.kernel.name,
        target=target.spelling,
        architecture=int(target.extra["architecture"]),
        soc=str(target.extra["soc"]),
        kind=called.kind,
        arguments=tuple((a.name, a.kind) for a in called.arguments),
        cores=placed.cores,
        blocks=placed.blocks,
        groups=groups_of(placed.blocks, target),
        cores_a_block=called.cores_a_block,
        workspace=called.workspace,
        flags=sum(isinstance(s, Flag) and s.action == "set" for s in every),
        barriers=sum(isinstance(s, Barrier) for s in every),
        meetings=sum(isinstance(s, CrossFlag) and s.action == "set" for s in every),
        choice=choice_of(schedule),
        modelled_cycles=cycles,
        modelled_ns=round(cycles * 1000 / float(target.extra["clock_mhz"])),
        modelled_at=", ".join(f"{name}={value}" for name, value in sizes.items()) if cycles else "",
    )


def _modelled(placed: Placed, sizes: Mapping[str, int]) -> int:
    """Cycles of a launch on the model; 0 where a core runs so many statements that modelling takes seconds."""
    group = {**sizes, str(GROUP): 0, str(GROUPS): max(1, groups_of(placed.blocks, placed.target).evaluate(sizes))}
    for core in placed.cores:
        run = walk(program_of(placed.body, core), {**group, str(SUBBLOCK): 0}, "")
        if sum(1 for _ in islice(run, _STATEMENTS)) == _STATEMENTS:
            return 0
    return round(launch_time(placed, sizes).cycles)


def to_json(launches: Sequence[Launch]) -> str:
    """The launches as readable JSON, one stable text for equal values."""
    told = [{**asdict(x), "blocks": str(x.blocks), "groups": str(x.groups)} for x in launches]
    return json.dumps(told, indent=1) + "\n"


def from_json(text: str) -> tuple[Launch, ...]:
    """Read what :func:`to_json` wrote. Raises ``ValueError``, ``KeyError`` or ``TypeError`` for anything else."""
    return tuple(_launch(d) for d in json.loads(text))


def _launch(d: Mapping[str, Any]) -> Launch:
    given = {**d, "blocks": parse(d["blocks"]), "groups": parse(d["groups"])}
    given["arguments"] = tuple((str(name), str(kind)) for name, kind in d["arguments"])
    given["cores"] = tuple(d["cores"])
    return Launch(**given)
