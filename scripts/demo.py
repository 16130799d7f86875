"""Prepare the scripts' environment, then compile and run MiniLM in it."""

from __future__ import annotations

import subprocess
import sys

import environment


def main() -> int:
    """Exit status of the demo."""
    environment.prepare("demo", "weights")
    command = [str(environment.PYTHON), str(environment.ROOT / "scripts" / "demo_minilm.py"), *sys.argv[1:]]
    return subprocess.run(command, cwd=environment.ROOT, check=False).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
