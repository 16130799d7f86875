"""What it takes to compile and to launch one emitted kernel: the part of the source that is not program text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tilewright.ir.parse import parse
from tilewright.ir.symbolic import ZERO, Expr

#: The file of a :class:`~tilewright.backends.base.Source` that holds the launches.
LAUNCHES = "launches.json"


Role = Literal["own", "workspace", "fault"]


@dataclass(frozen=True, slots=True)
class Argument:
    """One run-time argument: ``type`` as Triton spells it (``*fp16``, ``i32``), ``divisor`` of the value or address.

    ``role``: ``own`` for a parameter or dimension symbol of the kernel, in their order; ``workspace`` for the launch's
    workspace; ``fault`` for the ``i32`` in which a kernel stores 1 when an index of a run lies outside its tensor.
    """

    name: str
    type: str
    divisor: int = 1
    role: Role = "own"

    @property
    def is_pointer(self) -> bool:
        return self.type.startswith("*")


@dataclass(frozen=True, slots=True)
class Launch:
    """How to compile and start one kernel.

    Attributes:
        kernel: name of the lowered kernel; ``<kernel>.py`` holds its text.
        entry: symbol of the compiled function.
        arguments: pointers in the kernel's parameter order, then the dimension symbols; the launch passes two more
            pointers (global and profile scratch) that Triton appends.
        grid: number of programs, along the first grid dimension; an expression over the dimension symbols.
        num_warps: warps of 32 threads in a block.
        num_stages: how many iterations of the innermost loop have loads in flight.
        workspace: bytes of device memory that the launch has besides, over the dimension symbols; launches in stream
            order share it.
        counters: bytes at its start that are 0 when a kernel begins, and are 0 again when it ends.
        choice: where the schedule comes from (:func:`tilewright.tuning.choice.choice_of`), for people.
    """

    kernel: str
    entry: str
    arguments: tuple[Argument, ...]
    grid: Expr
    num_warps: int
    num_stages: int
    workspace: Expr = ZERO
    counters: int = 0
    choice: str = "heuristic"


def to_json(launches: Sequence[Launch]) -> str:
    """The launches as readable JSON, one stable text for equal values."""
    told = [{**asdict(x), "grid": str(x.grid), "workspace": str(x.workspace)} for x in launches]
    return json.dumps(told, indent=1, default=str) + "\n"


def from_json(text: str) -> tuple[Launch, ...]:
    """Read what :func:`to_json` wrote."""
    return tuple(_launch(d) for d in json.loads(text))


def _launch(d: Mapping[str, Any]) -> Launch:
    arguments = tuple(Argument(**a) for a in d["arguments"])
    return Launch(
        d["kernel"],
        d["entry"],
        arguments,
        parse(d["grid"]),
        d["num_warps"],
        d["num_stages"],
        parse(d["workspace"]),
        d["counters"],
        d.get("choice", "heuristic"),
    )
