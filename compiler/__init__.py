"""Tilewright: a hardware-portable inference compiler."""

from __future__ import annotations

__version__ = "0.1.0"

if __name__ != "tilewright":
    raise ImportError(f"import tilewright, not {__name__}: a second import name would duplicate every class")
