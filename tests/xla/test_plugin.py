"""Devices behind a PJRT plugin. There is no TPU and no GPU here: a plugin for the CPU stands in for theirs.

What is shown is that plugins are probed, opened, compiled for and run as one of a TPU would be; nothing about a TPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tilewright as tw

from tests.xla import models

pytest.importorskip("jaxlib")

SCRIPT = """
import sys
import numpy as np
from tilewright import runtime
from tilewright.runtime import program_session
from tilewright.runtime.devices import probe, xla

plugin, artifact, kind = sys.argv[1:]
print("devices", sorted(set(probe.devices_of(kind, plugin))))
xla.require_plugin = lambda kind: plugin
program_session._kind = lambda part: kind
program_session._CHIPS["cpu"] = "cpu"
x = np.ones((3, 8), np.float32)
for allow in (True, None):
    session = runtime.load(artifact, "xla-cpu", threads=1, allow_jit=allow)
    y, found = session.run(None, {"x": x})
    print("run", bool(session.jit_seconds), y.tobytes().hex(), found.shape, session.memory({"x": x}).arena >= 0)
"""


@pytest.fixture(scope="module")
def plugin() -> Path:
    package = pytest.importorskip("xla_plugins.xla_cpu_pjrt")
    return next(Path(package.__path__[0]).glob("*.so"))


@pytest.mark.parametrize("kind", ["tpu", "cuda"])
def test_a_plugin_runs_programs_and_keeps_executables(plugin: Path, tmp_path: Path, kind: str) -> None:
    artifact = tmp_path / "m.tw"
    shapes = {"x": ("1..4", models.WIDTH)}
    tw.compile(models.with_host(), ("xla:cpu",), input_shapes=shapes, verify=False).save(artifact)
    environment = {k: v for k, v in os.environ.items() if k != "TILEWRIGHT_ALLOW_JIT"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT, str(plugin), str(artifact), kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    devices, first, second = done.stdout.splitlines()
    assert devices == "devices ['cpu']"
    assert first.startswith("run True") and second.startswith("run False")
    assert first.split()[2:] == second.split()[2:]


def test_a_library_that_is_no_plugin(tmp_path: Path) -> None:
    from tilewright.runtime import DeviceError
    from tilewright.runtime.devices import probe

    (tmp_path / "x.so").write_bytes(b"no library")
    with pytest.raises(DeviceError, match="its plugin does not find it"):
        probe.devices_of("tpu", str(tmp_path / "x.so"))
