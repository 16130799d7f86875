"""What can go wrong where an artifact is run. Each error says where, what and what to do, and has an exit code."""

from __future__ import annotations

from typing import ClassVar


class RunError(Exception):
    """Base of the errors of loading and running.

    Args:
        code: a stable identifier such as ``artifact-damaged``.
        where: file, input or member.
        cause: what is wrong, in one sentence.
        fix: what to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, *, where: str, cause: str, fix: str):
        super().__init__(f"{where}: {cause} [{code}]\n  fix: {fix}")
        self.code, self.where, self.cause, self.fix = code, where, cause, fix


class InputError(RunError):
    """Inputs or arguments that do not fit the model (exit 2)."""

    exit_code = 2


class ResourceError(RunError):
    """Memory or another limit (exit 7)."""

    exit_code = 7


class DeviceError(RunError):
    """This machine cannot run the artifact (exit 8)."""

    exit_code = 8


class ArtifactError(RunError):
    """An artifact that is damaged, truncated or of an unknown version (exit 9)."""

    exit_code = 9
