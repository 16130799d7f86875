"""Make ``build/dev/tilewright``: links that show the import name ``tilewright`` to tools that cannot follow an editable
install with a folder mapping (mypy, pyright). ``PYTHONPATH=build/dev`` also imports from a checkout without installing.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Write the links anew."""
    package = ROOT / "build" / "dev" / "tilewright"
    package.mkdir(parents=True, exist_ok=True)
    for old in package.iterdir():
        if old.is_symlink():
            old.unlink()
    sources = [p for p in (ROOT / "compiler").iterdir() if p.name != "__pycache__"]
    for source in [*sources, ROOT / "backends", ROOT / "passes"]:
        (package / source.name).symlink_to(os.path.relpath(source, package))


if __name__ == "__main__":
    main()
