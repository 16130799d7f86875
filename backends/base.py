"""What a backend is. Adding one is a folder here and a line in :data:`tilewright.selection.BACKENDS`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Union

from tilewright.errors import UsageError
from tilewright.ir.symbolic import ZERO, Expr
from tilewright.kernel.routine import Routine
from tilewright.kernel.schedule import Schedule, Scheduled
from tilewright.kernel.tile import Kernel
from tilewright.target import Target, load_targets


@dataclass(frozen=True, slots=True)
class Support:
    """Whether a target runs something; ``reason`` is shown to the user when it does not."""

    ok: bool
    reason: str = ""


#: What ends up as one function of a binary.
Code = Union[Scheduled, Routine]


def name_of(code: Code) -> str:
    """The name under which a plan and a binary know a kernel or a routine."""
    return code.kernel.name if isinstance(code, Scheduled) else code.identity


@dataclass(frozen=True, slots=True)
class Source:
    """Generated text, by file name. ``symbols`` maps each kernel's name to its symbol."""

    files: Mapping[str, str]
    symbols: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Binary:
    """What a toolchain made: members to put under the target's folder in the artifact, by file name."""

    members: Mapping[str, bytes]
    tools: Mapping[str, str]  # tool → version, for provenance


@dataclass(frozen=True, slots=True)
class LaunchSize:
    """``grid`` independent blocks, and ``scratch`` bytes for each worker, both over the kernel's dimension symbols."""

    grid: Expr
    scratch: Expr = ZERO


class Backend(ABC):
    """A kind of target."""

    name: ClassVar[str]
    folder: ClassVar[Path]

    def targets(self) -> Mapping[str, Target]:
        """Targets by spelling, from ``targets/*.toml`` beside the backend."""
        return load_targets(self.folder / "targets", self.name)

    def resolve(self, spelling: str) -> tuple[Target, ...]:
        """The targets that a user's spelling means. Raises ``UsageError`` that lists what there is."""
        targets = self.targets()
        if spelling not in targets:
            raise UsageError(
                "unknown-target",
                where=f"target {spelling!r}",
                cause="there is no such target",
                fix=f"use one of {', '.join(targets)}",
            )
        return (targets[spelling],)

    @abstractmethod
    def supports(self, kernel: Kernel | Routine, target: Target) -> Support:
        """Whether ``target`` can run a lowered kernel or a routine, and why not."""


class KernelBackend(Backend):
    """A backend fed with tile IR."""

    @abstractmethod
    def schedules(self, kernel: Kernel, target: Target) -> Iterable[Schedule]:
        """Candidate schedules, best guess first; a tuner reads on."""

    @abstractmethod
    def launch(self, scheduled: Scheduled, target: Target) -> LaunchSize:
        """How a scheduled kernel is launched."""

    @abstractmethod
    def emit(self, kernels: Sequence[Code], target: Target) -> Source:
        """Target source text. Needs no device and no toolchain."""

    @abstractmethod
    def build(self, source: Source, target: Target) -> Binary:
        """Run the toolchain. A compile error here is our bug: raises ``InternalError`` with a bundle."""
