"""``python -m tilewright.runtime``."""

from __future__ import annotations

import sys

from tilewright.runtime.command import main

if __name__ == "__main__":
    sys.exit(main())
