"""Run the tests in the scripts' environment. Arguments go to pytest; without ``-m``, the slow ones are left out."""

from __future__ import annotations

import os
import subprocess
import sys

import environment
import link_dev


def main() -> int:
    """Exit status of pytest."""
    missing = environment.prepare("demo", "weights", "test", "torch", "xla", optional=("torch", "xla"))
    for name, reason in missing.items():
        environment.say(f"tests that need {name} will be skipped: {reason}")
    link_dev.main()
    arguments = sys.argv[1:]
    workers = ["-n", str(min(os.cpu_count() or 1, 4)), "--dist", "worksteal"] if "-n" not in arguments else []
    chosen = [] if "-m" in arguments else ["-m", "not slow and not device and not emulated"]
    command = [str(environment.PYTHON), "-m", "pytest", "-q", "-rfEs", *workers, *chosen, *arguments]
    environment.say("running the tests")
    return subprocess.run(command, cwd=environment.ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
