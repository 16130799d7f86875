"""The long text of every error code, for ``tilewright explain CODE``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from tilewright.errors import UsageError


@cache
def explanations() -> Mapping[str, str]:
    """Text by code, from ``explain.toml``."""
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return {code: str(told).strip() for code, told in tomllib.loads(text).items()}


def explain(code: str) -> str:
    """The text of a code. Raises :class:`UsageError` for one that does not exist."""
    known = explanations()
    if code not in known:
        near = get_close_matches(code, known, 3)
        fix = f"did you mean {', '.join(near)}?" if near else "tilewright explain --all lists them"
        raise UsageError("unknown-code", where=code, cause="no error has this code", fix=fix)
    return known[code]
