"""The sources are formatted, linted and typed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "compiler").is_dir(), reason="needs the checkout")
CHECKS = {
    "lint": ("ruff", "check", "."),
    "format": ("ruff", "format", "--check", "."),
    "types": ("mypy", "build/dev/tilewright"),
}


@pytest.mark.parametrize("check", CHECKS)
def test_clean(check: str) -> None:
    tool, *arguments = CHECKS[check]
    pytest.importorskip(tool)
    if check == "types":
        subprocess.run([sys.executable, "scripts/link_dev.py"], cwd=ROOT, check=True)
    done = subprocess.run(
        [sys.executable, "-m", tool, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_no_leftovers() -> None:
    """Nothing is left for later, and no path of a developer's machine is in the code."""
    words = ("TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error", "/" + "work/", "/" + "root/")
    for top in ("compiler", "backends", "passes", "scripts", "models", "tests"):
        for path in (ROOT / top).rglob("*"):
            if path.suffix in (".py", ".c", ".h", ".toml"):
                text = path.read_text(encoding="utf-8")
                assert not [w for w in words if w in text], f"{path}: {[w for w in words if w in text]}"
