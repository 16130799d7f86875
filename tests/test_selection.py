"""Targets and levels that make no sense are refused before anything is compiled."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest
from tilewright import selection
from tilewright.errors import UsageError
from tilewright.options import Options
from tilewright.passes.pipeline import default_pipeline


def test_no_target() -> None:
    with pytest.raises(UsageError, match="no-target"):
        selection.resolve_targets(Options(targets=()))


def test_a_target_is_built_once_however_it_is_spelled() -> None:
    found = selection.resolve_targets(Options(targets=("cpu:x86-64-v3", "cpu:x86-64-v3")))
    assert [target.spelling for _, target in found] == ["cpu:x86-64-v3"]


@pytest.mark.parametrize("level", [-1, 4])
def test_levels(level: int) -> None:
    with pytest.raises(UsageError, match="bad-level"):
        default_pipeline(level)


def test_a_package_that_registers_no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    def registered(**_: Any) -> list[EntryPoint]:
        return [EntryPoint("odd", "builtins:list", "tilewright.backends"), EntryPoint("cpu", "builtins:list", "")]

    monkeypatch.setattr(selection.importlib.metadata, "entry_points", registered)
    assert selection.backend_kinds()["cpu"] == selection.BACKENDS["cpu"]
    monkeypatch.setattr(selection, "default_toolchain", lambda cc: ())
    with pytest.raises(UsageError, match="not-a-backend"):
        selection.find_backend("odd")
