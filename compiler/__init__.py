"""Tilewright: a hardware-portable inference compiler.

``import tilewright as tw`` costs nothing: what is public is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if __name__ != "tilewright":
    raise ImportError(f"import tilewright, not {__name__}: a second import name would duplicate every class")

if TYPE_CHECKING:
    from tilewright.api import bench, bisect, check, compare_layers, compile, load, quantize, verify
    from tilewright.errors import (
        AccuracyError,
        CompileError,
        InternalError,
        PrecisionError,
        TilewrightError,
        UsageError,
    )
    from tilewright.runtime.errors import ArtifactError, InputError

__all__ = [
    "AccuracyError",
    "ArtifactError",
    "CompileError",
    "InputError",
    "InternalError",
    "PrecisionError",
    "TilewrightError",
    "UsageError",
    "bench",
    "bisect",
    "check",
    "compare_layers",
    "compile",
    "load",
    "quantize",
    "verify",
]

_FUNCTIONS = ("bench", "bisect", "check", "compare_layers", "compile", "load", "quantize", "verify")
_HOME = dict.fromkeys(_FUNCTIONS, "tilewright.api")
_HOME |= dict.fromkeys(("ArtifactError", "InputError"), "tilewright.runtime.errors")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME.get(name, "tilewright.errors")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
