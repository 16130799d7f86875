"""The memory of one case on a device: several sets of its buffers, so that no launch finds its operands in a cache."""

from __future__ import annotations

from collections.abc import Mapping
from ctypes import c_int32, c_int64, c_uint64
from dataclasses import dataclass, field
from typing import Any

from tilewright.backends.cuda.timing import recipes
from tilewright.backends.cuda.timing.modules import (
    DIM32,
    DIM64,
    FAULT,
    GLOBAL_SCRATCH,
    PROFILE_SCRATCH,
    WORKSPACE,
    Code,
)

#: Bytes at most that the sets of a case take together, and how many sets at most.
_ROOM, _SETS = 4 << 30, 64
#: What outputs hold before a launch: what a kernel does not write shows.
POISON = 0xA5


@dataclass(slots=True)
class Buffers:
    """Sets of addresses for a case. ``device`` is a :class:`~.driver.Driver` or stands for one."""

    device: Any
    case: Mapping[str, Any]
    sizes: list[int] = field(default_factory=list)
    sets: list[list[int]] = field(default_factory=list)
    owned: list[int] = field(default_factory=list)
    packs: dict[tuple[int, str], list[int]] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)
    workspace: int = 0
    scratch: int = 0
    profile: int = 0
    fault: int = 0

    def make(self) -> None:
        """Allocate and fill. The contents of every set are equal."""
        told = self.case["buffers"]
        for n, b in enumerate(told):
            self.elements.append(None if b["role"] == "out" else recipes.codes(b, seed=n + 1))
            self.sizes.append(_bytes_of(b))
        total = max(1, sum(self.sizes))
        sets = max(1, min(_SETS, -(-2 * self.device.l2_bytes // total), _ROOM // total))
        contents = [
            bytes([POISON]) * size if e is None else recipes.stored(e, b["dtype"])
            for e, b, size in zip(self.elements, told, self.sizes, strict=True)
        ]
        for _ in range(sets):
            self.sets.append(self._set(contents))
        candidates = self.case["candidates"]
        self.workspace, self.scratch, self.profile = (
            self._new(bytes(size)) if (size := max((c[name] for c in candidates), default=0)) else 0
            for name in ("workspace", "scratch", "profile")
        )
        self.fault = self._new(bytes(4))

    def _set(self, contents: list[bytes]) -> list[int]:
        addresses: list[int] = []
        for b, data in zip(self.case["buffers"], contents, strict=True):
            addresses.append(self._new(data) if b["alias"] is None else addresses[b["alias"]])
        return addresses

    def of(self, candidate: Mapping[str, Any], number: int) -> list[int]:
        """The addresses of a set for a candidate, whose constants may have layouts of their own."""
        addresses = list(self.sets[number])
        for at, pack in candidate["packs"].items():
            key = (int(at), repr(sorted(pack.items())))
            if key not in self.packs:
                b = self.case["buffers"][int(at)]
                data = recipes.stored(recipes.packed(self.elements[int(at)], b["shape"], pack), b["dtype"])
                self.packs[key] = [self._new(data) for _ in self.sets]
            addresses[int(at)] = self.packs[key][number]
        return addresses

    def arguments(self, candidate: Mapping[str, Any], code: Code, number: int) -> list[Any]:
        """The values of a launch, in the order of the parameters of the kernel."""
        addresses, dims = self.of(candidate, number), self.case["dims"]
        own = {
            GLOBAL_SCRATCH: self.scratch,
            WORKSPACE: self.workspace,
            FAULT: self.fault,
            PROFILE_SCRATCH: self.profile,
        }
        values: list[Any] = []
        for kind, at in code.parameters:
            if kind in (DIM32, DIM64):
                values.append((c_int32 if kind == DIM32 else c_int64)(dims[at]))
            else:
                values.append(c_uint64(own[kind] if kind in own else addresses[at]))
        return values

    def reset(self, candidate: Mapping[str, Any], code: Code) -> None:
        """The first set and the workspace as they are before a first launch."""
        for n, b in enumerate(self.case["buffers"]):
            if b["role"] != "out":
                continue
            if b["alias"] is not None:  # an output in the place of an input starts as that
                self.device.write(self.sets[0][n], recipes.stored(self.elements[b["alias"]], b["dtype"]))
            else:
                self.device.fill(self.sets[0][n], POISON, self.sizes[n])
        if code.counters:
            self.device.fill(self.workspace, 0, code.counters)
        self.device.fill(self.fault, 0, 4)

    def outputs(self) -> list[bytes]:
        """What the outputs of the first set hold."""
        told = enumerate(self.case["buffers"])
        return [self.device.read(self.sets[0][n], self.sizes[n]) for n, b in told if b["role"] == "out"]

    def free(self) -> None:
        """Give everything back."""
        for address in self.owned:
            self.device.free(address)
        self.owned.clear()

    def _new(self, data: bytes) -> int:
        address: int = self.device.allocate(len(data))
        self.owned.append(address)
        self.device.write(address, data)
        return address


def _bytes_of(b: Mapping[str, Any]) -> int:
    count = 1
    for n in b["shape"]:
        count *= n
    return -(-count * recipes.BITS[b["dtype"]] // 8)
