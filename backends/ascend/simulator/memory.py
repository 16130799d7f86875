"""The refusal of a placed program."""

from __future__ import annotations

from tilewright.errors import InternalError


class Refused(InternalError):
    """The checker refuses a placed program. ``kind`` names the rule; ``first`` and ``second`` the statements."""

    def __init__(self, kind: str, message: str, first: str = "", second: str = ""):
        text = f"{kind}: {message}"
        if first:
            text += f"\n  first:  {first}"
        if second:
            text += f"\n  second: {second}"
        super().__init__(text)
        self.kind, self.first, self.second = kind, first, second
