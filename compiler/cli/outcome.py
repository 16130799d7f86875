"""What a command comes to: its exit code, and the same told to machines (``--json``, ``--junit``)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from tilewright.errors import ExitCode

SCHEMA = 1


@dataclass(slots=True)
class Case:
    """One check, as a JUnit test case. ``failure`` is empty when it passed."""

    name: str
    seconds: float = 0.0
    failure: str = ""


@dataclass(slots=True)
class Outcome:
    """Filled in by a command, written by :meth:`finish` however the command ended."""

    command: str = ""
    json: Path | None = None
    junit: Path | None = None
    data: dict[str, Any] = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)

    def finish(self, code: int, error: BaseException | None) -> None:
        """Write the files that were asked for."""
        told = None
        if error is not None:
            told = {"code": getattr(error, "code", type(error).__name__), "message": str(error)}
            told |= {k: getattr(error, k) for k in ("where", "cause", "fix", "bundle") if hasattr(error, k)}
        if self.json:
            status = "PASSED" if code == ExitCode.OK else "FAILED"
            whole = {"schema": SCHEMA, "command": self.command, "status": status, "exit_code": int(code), "error": told}
            text = json.dumps(_plain(whole | self.data), indent=2, allow_nan=False)
            self.json.write_text(text + "\n", encoding="utf-8")
        if self.junit:
            cases = self.cases or [Case(self.command)]
            if error is not None and not any(c.failure for c in cases):
                cases = [*self.cases, Case(self.command, failure=str(error))]
            self.junit.write_text(_junit(self.command, cases), encoding="utf-8")


def _plain(value: Any) -> Any:
    """The same as JSON knows it: strings for paths, ``null`` for what is not a finite number."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def _junit(command: str, cases: list[Case]) -> str:
    failures = sum(bool(c.failure) for c in cases)
    lines = ['<?xml version="1.0" encoding="UTF-8"?>']
    lines.append(f'<testsuite name="tilewright {command}" tests="{len(cases)}" failures="{failures}" errors="0">')
    for case in cases:
        head = f'  <testcase classname="tilewright.{command}" name={quoteattr(case.name)} time="{case.seconds:.3f}"'
        lines.append(f"{head}><failure message={quoteattr(case.failure)}/></testcase>" if case.failure else f"{head}/>")
    return "\n".join([*lines, "</testsuite>", ""])
