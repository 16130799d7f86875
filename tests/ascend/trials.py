"""The trial kernels on Ascend at sizes that run several blocks, slots and ragged edges, each placed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tilewright.backends import ascend
from tilewright.backends.ascend.placed.form import Placed
from tilewright.backends.ascend.placing.place import place
from tilewright.kernel.apply import apply
from tilewright.kernel.schedule import Loop, Schedule
from tilewright.kernel.tile import Kernel
from tilewright.target import Target, load_targets

from tests.kernel.trial_kernels import conv3x3_residual_relu, flash_attention, matmul_bias_gelu, row_softmax

Array = np.ndarray[Any, Any]


@lru_cache(maxsize=1)
def targets() -> Mapping[str, Target]:
    """The Ascend targets by spelling."""
    return load_targets(Path(ascend.__path__[0]) / "targets", "ascend")


@dataclass(frozen=True)
class Trial:
    """A kernel, a schedule with small tiles, and dimensions under which every loop runs more than twice."""

    kernel: Kernel
    schedule: Schedule
    dims: Mapping[str, int]

    def inputs(self, dims: Mapping[str, int] | None = None, seed: int = 0) -> dict[str, Array]:
        """Normal values; constants are scaled so that sums stay near 1."""
        random = np.random.default_rng(seed)
        result = {}
        for p in self.kernel.params:
            if p.role != "out":
                shape = [e.evaluate(dims or self.dims) for e in p.shape]
                scale = 0.1 if p.role == "const" else 1.0
                result[p.name] = (random.standard_normal(shape) * scale).astype(p.dtype.numpy)
        return result


def _block(*loops: tuple[str, int]) -> tuple[Loop, ...]:
    return tuple(Loop(axis, size, "block") for axis, size in loops)


TRIALS = {
    "matmul": Trial(
        matmul_bias_gelu("f16", k=96, n=64),
        Schedule(_block(("m", 32), ("n", 32)), (Loop("k", 32, "pipeline"),)),
        {"M": 75},
    ),
    "convolution": Trial(
        conv3x3_residual_relu(3, 9, ci=32, co=32, dtype="f16"),
        Schedule(_block(("b", 1), ("oh", 1), ("o", 32)), (Loop("kh", 1), Loop("kw", 1), Loop("c", 32, "pipeline"))),
        {"B": 2},
    ),
    "softmax": Trial(row_softmax("f16"), Schedule(_block(("m", 8))), {"M": 75, "N": 37}),
    "attention": Trial(
        flash_attention("f16", depth=32, mask="causal"),
        Schedule(_block(("b", 1), ("h", 1), ("i", 32)), (Loop("t", 32, "pipeline"),)),
        {"B": 1, "H": 1, "S": 90, "T": 80},
    ),
}


@lru_cache(maxsize=8)
def placed(name: str) -> Placed:
    """A trial, placed and synchronised for ascend:910b3."""
    trial = TRIALS[name]
    return place(apply(trial.kernel, trial.schedule), targets()["ascend:910b3"])
