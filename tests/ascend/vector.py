"""Kernels of vector cores as text, placed with their own schedule and compared with the lowered interpreter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from tilewright.accuracy import compare
from tilewright.backends.ascend.placed.form import Instruction, Placed, statements
from tilewright.backends.ascend.placing.place import place
from tilewright.backends.ascend.schedules.schedule import first_fit
from tilewright.backends.ascend.simulator.machine import Result, check
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.schedule import Schedule
from tilewright.kernel.tile import Kernel

from tests.ascend.trials import targets

Array = np.ndarray[Any, Any]


def some(names: Iterable[str], *quick: str) -> list[Any]:
    """Cases for ``parametrize``: all but ``quick`` are slow tests."""
    return [pytest.param(n, marks=() if n in quick else pytest.mark.slow) for n in names]


@lru_cache(maxsize=64)
def made(text: str, schedule: Schedule | None = None, target: str = "ascend:910b3") -> tuple[Kernel, Placed]:
    """A kernel from its text, placed; without a schedule with the first that fits."""
    kernel = parse_kernel(f"@kernel\n{text}")
    found = targets()[target]
    return kernel, place(apply(kernel, schedule or first_fit(kernel, found)), found)


def values(kernel: Kernel, dims: Mapping[str, int], seed: int = 0, high: int = 100) -> dict[str, Array]:
    """Normal values, integers below ``high`` in size, truth values."""
    random = np.random.default_rng(seed)
    result: dict[str, Array] = {}
    for p in kernel.params:
        if p.role == "out":
            continue
        shape = [e.evaluate(dims) for e in p.shape]
        if p.dtype.is_float:
            drawn = random.standard_normal(shape)
        elif p.dtype.is_integer:
            drawn = random.integers(-high if p.dtype.is_signed else 0, high, shape)
        else:
            drawn = random.integers(0, 2, shape)
        result[p.name] = np.asarray(drawn).astype(p.dtype.numpy)
    return result


def assert_right(
    text: str,
    dims: Mapping[str, int],
    inputs: Mapping[str, Array] | None = None,
    schedule: Schedule | None = None,
    target: str = "ascend:910b3",
    exact: bool = False,
) -> Result:
    """Place, run on the model of the machine, and compare every output; with ``exact`` to the bit."""
    kernel, program = made(text, schedule, target)
    given = dict(inputs) if inputs is not None else values(kernel, dims)
    result = check(program, given, dims)
    want = run_lowered(kernel, given, dims)
    for name, got in result.outputs.items():
        if exact or not kernel.param(name).dtype.is_float:
            np.testing.assert_array_equal(got, want[name], err_msg=f"{kernel.name} {dims} {name}")
        else:
            compared = compare(name, np.asarray(got), want[name])
            assert compared.ok, f"{kernel.name} {dims}: {compared}"
    return result


def operations(program: Placed) -> list[str]:
    """The names of the instructions of a program, in order."""
    return [n.op for n in statements(program.body) if isinstance(n, Instruction)]
