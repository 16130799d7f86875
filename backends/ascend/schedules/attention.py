"""Schedules of attention as a pipeline over cube and vector cores: rows of a block and keys of a piece."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.backends.ascend.placed.layout import FRACTAL, round_up
from tilewright.backends.ascend.placing.online import PIPELINED, Online
from tilewright.ir.ranges import bounds
from tilewright.kernel.schedule import Loop, Schedule
from tilewright.kernel.tile import Kernel

_ROWS = (128, 64, 32, 16)
_KEYS = (512, 256, 128)
#: Turns between the weights of a piece and their product with the values.
_DELAY = 3


def attention_schedules(kernel: Kernel, online: Online) -> Iterator[Schedule]:
    """Most rows and keys first: what is handed over costs as much for few as for many."""
    facts = dict(kernel.facts)
    rows, keys = (bounds(kernel.extent(a), facts)[1] for a in (online.rows, online.keys))
    for r in _ROWS:
        if r > max(FRACTAL, round_up(rows, FRACTAL)):
            continue
        for k in _KEYS:
            if k > max(_KEYS[-1], round_up(keys, _KEYS[-1])):
                continue
            sizes = dict.fromkeys(online.others, 1) | {online.rows: r}
            loops = tuple(Loop(a, sizes[a], "block") for a in online.store.axes if a in sizes)
            yield Schedule(loops, (Loop(online.keys, k, "pipeline"),), extra=((PIPELINED, _DELAY),))
