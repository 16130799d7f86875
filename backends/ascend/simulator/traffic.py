"""How fast global memory is for each tensor of a launch: what L2 holds, and what the cores share.

The model, which is simple on purpose. A byte of a tensor comes from DRAM the first time that any core reads it and from
L2 afterwards, as far as all tensors of the launch together fit L2; of what does not fit, reads miss in proportion.
Inputs are cold when the launch begins, unless the caller says that L2 still holds them: within a model, activations
that the launch before wrote. DRAM is shared by all cores: each gets its part of ``dram`` × units, never more than L2
gives. L2 gives every core its own rate. A workspace stays in L2 while it fits. Conflicts of cores that read one
address at once, and other launches on the device, are not modelled.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from tilewright.backends.ascend.placed.footprint import Geometry
from tilewright.backends.ascend.placed.form import Buffer, Instruction
from tilewright.backends.ascend.placed.stream import Item
from tilewright.target import Target


@dataclass(slots=True)
class Traffic:
    """Bytes that groups of cores read and write, by tensor, their multiply-adds, and how many instructions they run;
    ``vectors`` are tensors that vector cores access."""

    read: dict[str, int] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    macs: int = 0
    instructions: int = 0
    vectors: set[str] = field(default_factory=set)

    def count(self, items: Iterable[Item], known: Mapping[str, Geometry]) -> None:
        """Add what one core does; items without a destination are flags and the like."""
        for item in items:
            if item.dst.empty:
                continue
            self.instructions += 1
            if item.pipe == "M":
                self.macs += item.dst.counts[0] * item.dst.counts[1] * item.reads[0].counts[1]
            for t, sums in ((item.dst, self.written), *((s, self.read) for s in item.reads)):
                g = known.get(t.buffer)
                if g is not None and g.scope == "gm":
                    size = g.element_bytes
                    for n in t.counts:
                        size *= n
                    sums[t.buffer] = sums.get(t.buffer, 0) + size
                    if isinstance(item.node, Instruction) and item.node.core == "vector":
                        self.vectors.add(t.buffer)


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes a cycle of one core by (tensor, "read" or "write"), and how they came about.

    ``working`` is the bytes of all tensors of the launch, ``missed`` the share of reads that DRAM answers.
    """

    by_tensor: Mapping[tuple[str, str], float]
    working: int
    missed: float


def rates(
    traffic: Traffic,
    target: Target,
    buffers: Mapping[str, Buffer],
    known: Mapping[str, Geometry],
    groups: int,
    share: float,
    warm: Collection[str] = (),
) -> Rates:
    """The rates of a launch on ``groups`` groups of cores; ``traffic`` is 1/``share`` of it all.

    ``warm``: tensors that L2 holds when the launch begins.
    """
    cycles = target.extra["cycles"]
    sizes = {name: g.slot_bytes * g.slots for name, g in known.items() if g.scope == "gm"}
    total = {name: round(traffic.read.get(name, 0) * share) for name in sizes}
    written = {name: traffic.written.get(name, 0) * share for name in sizes}
    used = {name: min(size, max(total[name], written[name])) for name, size in sizes.items()}
    used |= {name: size * groups for name, size in sizes.items() if buffers[name].workspace}
    working = round(sum(used.values()))
    overflow = max(0.0, 1 - target.memory["l2"].size / working) if working else 0.0
    # Two vector cores of a group share what one group gets.
    sharers = max(1, int(target.extra["subblocks"]))
    group = cycles["dram"] * target.units / max(1, groups)
    result: dict[tuple[str, str], float] = {}
    missing = 0.0
    for name, size in sizes.items():
        dram = min(float(cycles["l2_read"]), group / (sharers if name in traffic.vectors else 1))
        known_to_l2 = buffers[name].workspace or name in warm or not total[name]
        first = 0.0 if known_to_l2 else min(1.0, size / total[name])
        miss = first + (1 - first) * overflow
        missing += miss * total[name]
        result[name, "read"] = 1 / (miss / dram + (1 - miss) / cycles["l2_read"])
        result[name, "write"] = 1 / (overflow / min(dram, cycles["l2_write"]) + (1 - overflow) / cycles["l2_write"])
    return Rates(result, working, missing / max(1, sum(total.values())))
