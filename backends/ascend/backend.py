"""Ascend NPUs: tile IR to placed programs to Ascend C. Compiles on machines without a device and without CANN."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import ClassVar

from tilewright.backends.ascend.ascendc.emit import Form, Spelling, spelled
from tilewright.backends.ascend.ascendc.emit import emit as emit_sources
from tilewright.backends.ascend.ascendc.signature import signature
from tilewright.backends.ascend.build import build_sources
from tilewright.backends.ascend.groups import merged_groups
from tilewright.backends.ascend.launch import LAUNCHES, groups_of, launch_of, to_json
from tilewright.backends.ascend.placed.form import Placed
from tilewright.backends.ascend.placed.text import text_of
from tilewright.backends.ascend.placing.place import place
from tilewright.backends.ascend.schedules.reasons import why_none
from tilewright.backends.ascend.schedules.schedule import schedules
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.base import Binary, Code, KernelBackend, LaunchSize, Source, Support
from tilewright.errors import UnsupportedError, UsageError
from tilewright.kernel.apply import apply
from tilewright.kernel.routine import Routine
from tilewright.kernel.schedule import Schedule, Scheduled, ScheduleError
from tilewright.kernel.tile import Kernel
from tilewright.target import Target

#: What ``ascend`` stands for: the chip of most servers with this architecture.
DEFAULT = "ascend:910b3"
#: What ``+host=`` takes besides the spellings of CPU targets: the least that servers of that kind have.
HOSTS: Mapping[str, str] = {"x86-64": "x86-64-v3", "aarch64": "aarch64"}
#: The forms of Ascend C that CANN 9 and CANN 8 build.
FORMS: tuple[Form, ...] = ("asc", "launch")
#: Schedules of a kernel that are tried before it is given to the host part.
_TRIED = 16


@dataclass(frozen=True, slots=True)
class Placement:
    """The first schedule of a kernel that a target can run, and the kernel under it, also in Ascend C."""

    schedule: Schedule
    placed: Placed
    spelling: Spelling


class AscendBackend(KernelBackend):
    """Tile IR through the placed form; what cannot be placed goes to the host part, with the reason."""

    name: ClassVar[str] = "ascend"
    apart: ClassVar[bool] = True
    textual: ClassVar[bool] = True
    folder: ClassVar[Path] = Path(__file__).parent

    def __init__(self, tools: object = None):
        """``tools``, the C compiler, is for the host part; a device's kernels stay source text here."""
        del tools
        self._found: dict[tuple[str, Kernel], Placement | Support] = {}

    def resolve(self, spelling: str) -> tuple[Target, ...]:
        """Also ``ascend``, and ``ascend:910b3+host=x86-64`` for another processor beside the device."""
        name, mark, host = spelling.partition("+host=")
        (target,) = super().resolve(DEFAULT if name == self.name else name)
        if not mark:
            return (target,)
        if host not in HOSTS:
            raise UsageError(
                "unknown-target",
                where=f"target {spelling!r}",
                cause=f"there is no host {host!r} for Ascend devices",
                fix=f"use one of {', '.join(f'{name}+host={h}' for h in HOSTS)}",
            )
        return (replace(target, arch=f"{target.arch}+host={host}", host=f"cpu:{HOSTS[host]}"),)

    def prepared(self, kernel: Kernel, target: Target) -> Kernel:
        """Weights in groups are multiplied by their scales before the product, not after it."""
        return merged_groups(kernel, target)

    def supports(self, kernel: Kernel | Routine, target: Target) -> Support:
        """No where no schedule of the kernel can be placed and synchronised; the reason is that of the last one."""
        if isinstance(kernel, Routine):
            return Support(False, f"routine {kernel.name} has no form on the cores")
        found = self._placement(kernel, target)
        return found if isinstance(found, Support) else Support(True)

    def schedules(self, kernel: Kernel, target: Target) -> Iterable[Schedule]:
        """The schedule under which the kernel was placed."""
        found = self._placement(kernel, target)
        return () if isinstance(found, Support) else (found.schedule,)

    def launch(self, scheduled: Scheduled, target: Target) -> LaunchSize:
        """Groups of cores, and the workspace of all of them together."""
        placed = self._placed(scheduled, target)
        groups = groups_of(placed.blocks, target)
        return LaunchSize(groups, groups * signature(placed).workspace)

    def emit(self, kernels: Sequence[Code], target: Target) -> Source:
        """Ascend C in both forms that CANN builds, how each kernel is launched, and its placed form, for people."""
        scheduled = [code for code in kernels if isinstance(code, Scheduled)]
        made = [self._made(code, target) for code in scheduled]
        placed = [m.placed for m in made]
        launches = [launch_of(p, s.schedule) for p, s in zip(placed, scheduled, strict=True)]
        files = {f"{p.kernel.name}.placed.txt": text_of(p) for p in placed}
        done = {m.placed.kernel.name: m.spelling for m in made}
        for form in FORMS:
            files |= emit_sources(placed, form, done).files
        files[LAUNCHES] = to_json(launches)
        return Source(files, {x.kernel: x.kernel for x in launches})

    def build(self, source: Source, target: Target) -> Binary:
        """The artifact's members: sources and launches. There is no compiler for the cores here."""
        return build_sources(source, target)

    def _placed(self, scheduled: Scheduled, target: Target) -> Placed:
        return self._made(scheduled, target).placed

    def _made(self, scheduled: Scheduled, target: Target) -> Placement:
        """The placement of a kernel under its own name; of another schedule than ours, made anew."""
        found = self._placement(scheduled.kernel, target)
        if isinstance(found, Support) or found.schedule != scheduled.schedule:
            placed = place(scheduled, target)
            return Placement(scheduled.schedule, placed, spelled(placed))
        return replace(found, placed=replace(found.placed, kernel=scheduled.kernel, target=target))

    def _placement(self, kernel: Kernel, target: Target) -> Placement | Support:
        """The same for kernels whose own names alone differ, and for hosts of every kind; placing takes its time."""
        nameless = replace(self.prepared(kernel, target), name="")
        key = (target.arch.partition("+")[0], nameless)
        if key not in self._found:
            self._found[key] = _first_placement(self.prepared(kernel, target), target)
        return self._found[key]


def _first_placement(kernel: Kernel, target: Target) -> Placement | Support:
    """The first schedule that is placed and can be spelled, or why there is none: what of the kernel is not supported,
    if a candidate said so, rather than what the tiles of the last one lacked."""
    reason = lacking = ""
    for schedule in islice(schedules(kernel, target), _TRIED):
        try:
            placed = place(apply(kernel, schedule), target)
            return Placement(schedule, placed, spelled(placed))
        except UnsupportedError as error:
            lacking = lacking or error.cause
        except ScheduleError as error:
            reason = error.cause
        except Refused as error:
            reason = str(error).partition("\n")[0]
    return Support(False, lacking or reason or why_none(kernel, target))
