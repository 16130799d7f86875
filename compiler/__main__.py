"""``python -m tilewright`` and the command ``tilewright``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; without click, say what to install (exit 2)."""
    try:
        import click  # noqa: F401
    except ModuleNotFoundError:
        print(
            "tilewright: the command line needs more than NumPy\n"
            "  fix: pip install 'tilewright[compile]', or python -m tilewright.runtime to run an artifact",
            file=sys.stderr,
        )
        sys.exit(2)
    from tilewright.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
