"""Machines that no one builds: a target with less memory and fewer cores, on which small tensors are large ones.

What takes several pieces, slots of a ring and ragged last tiles at full size does so here at sizes that are simulated
in moments.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

from tilewright.backends.ascend import backend
from tilewright.backends.ascend.backend import AscendBackend
from tilewright.kernel.schedule import Schedule
from tilewright.kernel.tile import Kernel
from tilewright.target import Target

#: Memories of a core that get smaller, and the least bytes that are left of each.
LEAST = {"ub": 8192, "l1": 16384, "l0a": 4096, "l0b": 4096, "l0c": 4096}


@dataclass(frozen=True, slots=True)
class Machine:
    """A target whose unified buffer is ``share`` times smaller, the memories of its cube core ``cube`` times, with
    ``units`` groups of cores (0: as many as it has).

    ``skip`` of the schedules that it would try first are not tried, unless none is left: what another size would get.
    """

    spelling: str
    share: int = 1
    cube: int = 1
    units: int = 0
    skip: int = 0

    @property
    def arch(self) -> str:
        """Another name for another machine, which caches keep apart."""
        sizes = (self.share, self.cube, self.units, self.skip)
        return "".join(f"-{n}" for n in sizes) if sizes != (1, 1, 0, 0) else ""

    def of(self, target: Target) -> Target:
        """The machine, made from the target that it is a smaller one of."""
        memory = {
            name: replace(m, size=self._smaller(name, m.size)) if name in LEAST else m
            for name, m in target.memory.items()
        }
        arch, plus, host = target.arch.partition("+")
        return replace(target, arch=f"{arch}{self.arch}{plus}{host}", memory=memory, units=self.units or target.units)

    def _smaller(self, name: str, size: int) -> int:
        return max(LEAST[name], size // (self.share if name == "ub" else self.cube) // 1024 * 1024)


@contextmanager
def instead(machine: Machine) -> Iterator[None]:
    """While models are compiled: the machine in the place of its target."""
    resolve, schedules = AscendBackend.resolve, backend.schedules

    def smaller(self: AscendBackend, spelling: str) -> tuple[Target, ...]:
        return tuple(machine.of(t) for t in resolve(self, spelling))

    def others(kernel: Kernel, target: Target) -> Iterator[Schedule]:
        first = list(islice(schedules(kernel, target), machine.skip + 3))
        yield from (*first[machine.skip :], *first[: machine.skip])

    AscendBackend.resolve = smaller  # type: ignore[method-assign]
    if machine.skip:
        backend.schedules = others
    try:
        yield
    finally:
        AscendBackend.resolve, backend.schedules = resolve, schedules  # type: ignore[method-assign]
