"""How a placed kernel is started: what its launch passes, how many groups of cores, how much workspace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tilewright.backends.ascend.placed.form import Barrier, Core, CrossFlag, Flag, Placed, Read, statements
from tilewright.backends.ascend.placed.layout import round_up
from tilewright.codegen.cstyle import identifier
from tilewright.ir.parse import parse
from tilewright.ir.symbolic import Expr, constant, minimum
from tilewright.target import Target
from tilewright.tuning.choice import choice_of

#: The file of a :class:`~tilewright.backends.base.Source` that holds the launches.
LAUNCHES = "launches.json"
#: Bytes that the start of a buffer in a workspace is a multiple of: a fractal of L0, the widest unit of any transfer.
_WORKSPACE_ALIGNMENT = 512


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one kernel.

    Attributes:
        kernel: name of the lowered kernel; ``entry`` is the symbol of its function.
        target: what it was placed for.
        buffers: parameters, in the order in which the launch passes their addresses, with their element types.
        dims: dimension symbols, in the order in which the launch passes their values as 64-bit integers.
        cores: the kinds of core that have work.
        blocks: independent pieces of work; ``groups``, of cores, that take them in turn. Over ``dims``.
        workspace: bytes of global memory for each group; no workspace is passed where it is 0.
        fault: whether the launch passes the word in which a kernel stores 1 for an index outside its tensor.
        flags, barriers, meetings: statements of the program: flags set, barriers, flags set between cores.
        choice: where the schedule comes from, for people.
    """

    kernel: str
    entry: str
    target: str
    buffers: tuple[tuple[str, str], ...]
    dims: tuple[str, ...]
    cores: tuple[Core, ...]
    blocks: Expr
    groups: Expr
    workspace: int = 0
    fault: bool = False
    flags: int = 0
    barriers: int = 0
    meetings: int = 0
    choice: str = "heuristic"

    @property
    def scratch(self) -> Expr:
        """Bytes of workspace of all groups together."""
        return self.groups * self.workspace


def entry_of(kernel: str) -> str:
    """The symbol of a kernel's function."""
    return f"tw_{identifier(kernel)}"


def groups_of(blocks: Expr, target: Target) -> Expr:
    """How many groups of cores work on ``blocks`` pieces: as many as the target has, and none without work."""
    return minimum(blocks, constant(target.units))


def workspace_layout(placed: Placed) -> tuple[dict[str, int], int]:
    """Offset in bytes of each workspace buffer in the region of a group, and the size of that region.

    Buffers lie in the order of ``placed.buffers``. Raises ``ValueError`` for one of symbolic size.
    """
    offsets: dict[str, int] = {}
    end = 0
    for buffer in placed.buffers:
        if buffer.workspace:
            offsets[buffer.name] = end
            end = round_up(end + buffer.slots * buffer.slot_bytes, _WORKSPACE_ALIGNMENT)
    return offsets, end


def launch_of(placed: Placed, schedule: Any = None) -> Launch:
    """How ``placed`` is started; ``schedule`` is told where it is given."""
    every = list(statements(placed.body))
    kernel = placed.kernel
    return Launch(
        kernel=kernel.name,
        entry=entry_of(kernel.name),
        target=placed.target.spelling,
        buffers=tuple((p.name, str(p.dtype)) for p in kernel.params),
        dims=tuple(name for name, _ in kernel.facts),
        cores=placed.cores,
        blocks=placed.blocks,
        groups=groups_of(placed.blocks, placed.target),
        workspace=workspace_layout(placed)[1],
        fault=any(isinstance(s, Read) for s in every),
        flags=sum(isinstance(s, Flag) and s.action == "set" for s in every),
        barriers=sum(isinstance(s, Barrier) for s in every),
        meetings=sum(isinstance(s, CrossFlag) and s.action == "set" for s in every),
        choice="heuristic" if schedule is None else choice_of(schedule),
    )


def to_json(launches: Sequence[Launch]) -> str:
    """The launches as readable JSON, one stable text for equal values."""
    told = [{**asdict(x), "blocks": str(x.blocks), "groups": str(x.groups)} for x in launches]
    return json.dumps(told, indent=1) + "\n"


def from_json(text: str) -> tuple[Launch, ...]:
    """Read what :func:`to_json` wrote. Raises ``ValueError``, ``KeyError`` or ``TypeError`` for anything else."""
    return tuple(_launch(d) for d in json.loads(text))


def _launch(d: Mapping[str, Any]) -> Launch:
    given = {**d, "blocks": parse(d["blocks"]), "groups": parse(d["groups"])}
    given["buffers"] = tuple((str(name), str(dtype)) for name, dtype in d["buffers"])
    given["dims"], given["cores"] = tuple(d["dims"]), tuple(d["cores"])
    return Launch(**given)
