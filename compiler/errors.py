"""Errors: what the user can mend, apart from what is our own bug.

Every user error carries a code (``tilewright explain CODE`` prints more), where it happened, what happened and what
to do next, and belongs to one documented exit code. :class:`InternalError` is a bug in Tilewright.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    INVALID_MODEL = 3
    UNSUPPORTED = 4
    ACCURACY = 5
    PERFORMANCE = 6
    RESOURCE = 7
    DEVICE = 8
    ARTIFACT = 9
    PRECISION = 10
    BASELINE = 11


class TilewrightError(Exception):
    """Base of every error a user can mend.

    Args:
        code: a stable identifier such as ``model-truncated``; the key of ``tilewright explain``.
        where: file, node, operator or tensor, with shapes where they matter.
        cause: what is wrong, in one sentence.
        fix: what to do next.
    """

    exit_code: ExitCode = ExitCode.USAGE

    def __init__(self, code: str, *, where: str, cause: str, fix: str):
        super().__init__(f"{where}: {cause} [{code}]\n  fix: {fix}")
        self.code, self.where, self.cause, self.fix = code, where, cause, fix


class UsageError(TilewrightError):
    """Options or arguments that make no sense (exit 2)."""


class CompileError(TilewrightError):
    """The model cannot be compiled as asked (exit 3 unless a subclass says otherwise)."""

    exit_code = ExitCode.INVALID_MODEL


class UnsupportedError(CompileError):
    """Operators or features that the target lacks (exit 4). ``problems`` lists every one of them."""

    exit_code = ExitCode.UNSUPPORTED

    def __init__(self, code: str, *, where: str, cause: str, fix: str, problems: tuple[str, ...] = ()):
        super().__init__(code, where=where, cause=cause, fix=fix)
        self.problems = problems


class ResourceError(TilewrightError):
    """Disk, memory or another limit (exit 7)."""

    exit_code = ExitCode.RESOURCE


class AccuracyError(TilewrightError):
    """Numbers differ from the reference by more than allowed (exit 5)."""

    exit_code = ExitCode.ACCURACY


class PrecisionError(TilewrightError):
    """Layers did not get the precision that was asked for (exit 10). ``problems`` lists every one of them."""

    exit_code = ExitCode.PRECISION

    def __init__(self, code: str, *, where: str, cause: str, fix: str, problems: tuple[str, ...] = ()):
        super().__init__(code, where=where, cause=cause, fix=fix)
        self.problems = problems


class DeviceError(TilewrightError):
    """A device or its driver is missing (exit 8)."""

    exit_code = ExitCode.DEVICE


class InternalError(Exception):
    """A bug in Tilewright (exit 1). ``bundle`` is the folder that reproduces it, when one was written."""

    exit_code = ExitCode.INTERNAL

    def __init__(self, message: str, bundle: str | None = None):
        super().__init__(message)
        self.bundle = bundle
