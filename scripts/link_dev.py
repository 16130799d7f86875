"""Make ``build/dev/tilewright``: links that show the import name ``tilewright`` to tools that cannot follow an editable
install with a folder mapping (mypy, pyright). ``PYTHONPATH=build/dev`` also imports from a checkout without installing.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Make the links that are missing, drop those that are wrong."""
    package = ROOT / "build" / "dev" / "tilewright"
    package.mkdir(parents=True, exist_ok=True)
    sources = [p for p in (ROOT / "compiler").iterdir() if p.name != "__pycache__"]
    wanted = {p.name: os.path.relpath(p, package) for p in [*sources, ROOT / "backends", ROOT / "passes"]}
    for old in package.iterdir():
        # A link that is right stays: another process may be importing through it.
        if old.is_symlink() and wanted.get(old.name) != str(old.readlink()):
            old.unlink()
    for name, target in wanted.items():
        if not (package / name).is_symlink():
            (package / name).symlink_to(target)


if __name__ == "__main__":
    main()
