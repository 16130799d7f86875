"""A small compiled encoder, and the command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from models import minilm

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Compiled:
    """A model and the artifact that ``tilewright compile`` made of it, with what that printed."""

    model: Path
    artifact: Path
    done: subprocess.CompletedProcess[str]


def tilewright(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line; output is captured, so nothing is a terminal."""
    command = [sys.executable, "-m", "tilewright", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "100"}
    if "PYTHONPATH" in environment:  # relative entries are meant from here, the child may start elsewhere
        paths = environment["PYTHONPATH"].split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(p).absolute()) for p in paths if p)
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


@pytest.fixture(scope="session")
def cli() -> Run:
    return tilewright


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    folder = tmp_path_factory.mktemp("cli")
    model, artifact = minilm.build_small(folder), folder / "small.tw"
    done = tilewright("compile", model, "-o", artifact, "-t", "cpu:native", "--json", folder / "compile.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return Compiled(model, artifact, done)
