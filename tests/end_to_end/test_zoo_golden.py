"""What each model of the zoo becomes: launches, layout conversions and arena, held in tables of their own.

A change to a table needs its reason in the commit that makes it. Nothing is built or run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tilewright import driver
from tilewright.cost import work_of
from tilewright.options import Options
from tilewright.plan.memory import plan_memory

from models import zoo

GOLDEN = Path(__file__).parent / "golden"
TARGET = "cpu:x86-64-v3"  # launches and temporaries hang on the graph, not on the level
#: The arena over the most bytes that live at a time, at every size of the tables.
BOUND = 1.10
#: (batch, length or cached tokens); images have the one size of their model.
SMALL_SIZES = ((1, 8), (2, 33), (8, 64))
FULL_SIZES = ((1, 128), (8, 128), (4, 512))


def rows(model: zoo.Model, folder: Path, sizes: tuple[zoo.Size, ...]) -> Iterator[tuple[str, float]]:
    """A line for each size, and the ratio in it."""
    shapes = tuple((name, tuple(map(str, dims))) for name, dims in model.input_shapes.items())
    options = Options(targets=(TARGET,), input_shapes=shapes, states=tuple(model.in_place.items()))
    found = driver.plan(model.build(folder), options=options)[TARGET]
    (entry,) = found.built.plan.entries
    conversions = sum(work_of(found.kernels[i].kernel).conversion for i in found.launches)
    for batch, length in sizes:
        values = {name: batch if name == "batch" else length for name, _ in entry.symbols}
        layout = plan_memory(entry, values)
        ratio = layout.size / layout.live_maximum
        at = " ".join(f"{name}={value}" for name, value in values.items())
        line = (
            f"{model.name:14} {at:22} {len(found.launches):4} launches, {len(found.kernels):3} distinct, "
            f"{conversions:3} conversions, arena {layout.size:11}, live {layout.live_maximum:11}, {ratio:.3f}"
        )
        yield line, ratio


def check(name: str, path: Path, found: list[tuple[str, float]], update: bool) -> None:
    """Compare the lines of one model with those in the table."""
    lines = list(dict.fromkeys(line for line, _ in found))
    kept = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if update:
        path.parent.mkdir(exist_ok=True)
        others = [line for line in kept if line.split()[0] != name]
        path.write_text("\n".join(sorted(others + lines)) + "\n", encoding="utf-8")
        return
    assert sorted(lines) == sorted(line for line in kept if line.split()[0] == name)


@pytest.mark.parametrize("name", sorted(zoo.small()))
def test_small(name: str, tmp_path: Path, update_golden: bool) -> None:
    found = list(rows(zoo.small()[name], tmp_path, SMALL_SIZES))
    check(name, GOLDEN / "zoo-small.txt", found, update_golden)
    assert max(ratio for _, ratio in found) <= BOUND


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(zoo.zoo()))
def test_full(name: str, tmp_path: Path, update_golden: bool) -> None:
    found = list(rows(zoo.zoo()[name], tmp_path, FULL_SIZES))
    check(name, GOLDEN / "zoo-full.txt", found, update_golden)
    assert max(ratio for _, ratio in found) <= BOUND
