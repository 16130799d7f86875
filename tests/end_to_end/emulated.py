"""Runs artifacts for aarch64 as exported programs under qemu's user-mode emulation."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tilewright.codegen.toolchain import default_toolchain
from tilewright.package.export import export

Array = NDArray[Any]
TARGET = "cpu:aarch64"
QEMU = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
#: Where Debian's package libc6-arm64-cross puts the C library of the emulated machine.
SYSROOT = Path("/usr/aarch64-linux-gnu")

needs_emulator = pytest.mark.skipif(
    QEMU is None or not SYSROOT.is_dir(),
    reason=f"SKIPPED: needs qemu-aarch64 (Debian: qemu-user) and {SYSROOT} (Debian: libc6-arm64-cross)",
)


def run_emulated(
    artifact: Path, feeds: Mapping[str, Array], *, threads: int = 1, entry: str | None = None
) -> dict[str, Array]:
    """Outputs by name of a program exported from ``artifact``, run on ``feeds``; made beside the artifact once."""
    program = artifact.with_suffix(".aarch64")
    if not program.exists():
        export(artifact, "exe", program, default_toolchain(), family="aarch64")
    folder = artifact.parent / f"{artifact.stem}.run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    command = [str(QEMU), "-L", str(SYSROOT), str(program), "--threads", str(threads), "--output-dir", str(folder)]
    command += ["--entry", entry] if entry is not None else []
    for n, (name, array) in enumerate(feeds.items()):
        np.save(folder / f"in{n}.npy", array)
        command += ["--input", f"{name}={folder}/in{n}.npy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr[-2000:]
    names = [line.split(" [")[0] for line in done.stdout.splitlines()]
    return {name: np.load(folder / f"{name.replace('/', '_')}.npy") for name in names}
