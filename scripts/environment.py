"""The virtual environment of the scripts: made once in ``.venv``, reused while its requirements stay the same.

Standard library only, since it runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def say(text: str) -> None:
    """A progress line."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def prepare(*names: str, optional: tuple[str, ...] = ()) -> dict[str, str]:
    """Install ``requirements-<name>.txt`` for each name, then this project, unless that was done before.

    Args:
        names: requirement files, in order.
        optional: those of ``names`` that may be impossible to install here.

    Returns:
        For each optional name that could not be installed, pip's last line.

    Raises:
        SystemExit: a requirement cannot be installed.
    """
    if not PYTHON.exists():
        say(f"making {VENV.name} with Python {sys.version.split()[0]}")
        venv.create(VENV, with_pip=True, clear=VENV.exists())
    missing: dict[str, str] = {}
    for name in names:
        path = ROOT / "scripts" / f"requirements-{name}.txt"
        flags = ["--no-deps"] if name == "weights" else []
        error = _once(name, path.read_bytes(), f"installing {path.name}", [*flags, "-r", str(path)], name in optional)
        if error:
            missing[name] = error
    own = ["--no-deps", "--no-build-isolation", "-e", str(ROOT)]
    _once(
        "project", (ROOT / "pyproject.toml").read_bytes() + bytes(ROOT), "installing tilewright (editable)", own, False
    )
    return missing


def _once(name: str, content: bytes, doing: str, arguments: list[str], optional: bool) -> str:
    """Run ``pip install`` unless the stamp of an earlier success matches; the failure's last line where it may fail."""
    stamp = VENV / f"installed-{name}"
    digest = hashlib.sha256(content + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return ""
    stamp.unlink(missing_ok=True)
    say(doing)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", *arguments]
    start = time.monotonic()
    done = subprocess.run(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode == 0:
        stamp.write_text(digest)
        say(f"  done in {time.monotonic() - start:.0f} s")
        return ""
    if optional:
        last = (done.stdout.strip().splitlines() or ["pip failed"])[-1]
        say(f"  not available here: {last}")
        return last
    print(done.stdout, file=sys.stderr)
    raise SystemExit(f"{doing} failed: pip left with {done.returncode}")
