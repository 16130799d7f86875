"""aarch64 under emulation: the numbers of kernels and executor, not their speed. ``./scripts/test -m emulated``."""

from __future__ import annotations

from pathlib import Path

import pytest
from tilewright import driver
from tilewright.options import Options

from tests.end_to_end.emulated import TARGET, needs_emulator, run_emulated
from tests.end_to_end.test_operators import all_cases, check_cases

pytestmark = [pytest.mark.emulated, needs_emulator]


@pytest.mark.parametrize("threads", [1, 3])
def test_all_operators(operators: Path, threads: int) -> None:
    _, feeds, expected = all_cases()
    check_cases(run_emulated(operators, feeds, threads=threads), expected)


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with every lowering case."""
    path = tmp_path_factory.mktemp("aarch64") / "operators.tw"
    path.write_bytes(driver.compile(all_cases()[0], options=Options(targets=(TARGET,))).to_bytes())
    return path
