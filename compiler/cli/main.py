"""The group of commands, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from tilewright import __version__
from tilewright.cli.bundle import write_bundle
from tilewright.cli.outcome import Outcome
from tilewright.errors import ExitCode

COMMANDS = (
    *("compile", "check", "quantize", "run", "bench", "verify", "bisect", "inspect", "export", "opt"),
    *("targets", "doctor", "explain"),
)
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
EPILOG = (
    "Exit codes: 0 ok, 1 internal error, 2 usage, 3 invalid or unsafe model, 4 unsupported on the target, 5 accuracy, "
    "6 performance, 7 resource limit, 8 device missing, 9 artifact damaged or untrusted, 10 precision not honoured, "
    "11 baseline missing."
)


class Commands(click.Group):
    """Imports a command when it is used, and turns errors into exit codes wherever it is called from."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a user's way, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"tilewright.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> None:
        """Run a command and leave with its exit code."""
        del standalone_mode
        outcome = Outcome()
        arguments = list(sys.argv[1:] if args is None else args)
        error: BaseException | None = None
        code: int = ExitCode.OK
        try:
            result = super().main(arguments, prog_name or "tilewright", complete_var, False, obj=outcome, **extra)
            code = result if isinstance(result, int) else ExitCode.OK
        except BaseException as caught:
            error = caught
            code = report_error(caught, arguments)
        try:
            outcome.finish(code, error)
        except OSError as caught:
            code = max(code, report_error(caught, arguments))
        sys.exit(int(code))


def report_error(error: BaseException, arguments: Sequence[str]) -> int:
    """Print an error for a reader, with where, cause and fix, and give its exit code."""
    if isinstance(error, click.exceptions.Exit):
        return int(error.exit_code)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(bool(error.code))
    if isinstance(error, click.ClickException):
        error.show()
        return ExitCode.USAGE
    if isinstance(error, KeyboardInterrupt | click.Abort):
        click.echo("interrupted: nothing was written", err=True)
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        sys.stdout = None  # nobody reads on: nothing to flush at exit
        return ExitCode.OK
    if isinstance(error, MemoryError):
        return _told("memory", "this process", "out of memory", "use smaller sizes, or a machine with more memory", 7)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT):
        where = str(error.filename or "output")
        return _told("cannot-write", where, error.strerror or "", "free the disk or choose another folder", 7)
    if isinstance(error, OSError) and _was_given(error.filename, arguments):
        fix = "name a file or folder that can be read and written"
        return _told("path-unusable", str(error.filename), (error.strerror or "").lower(), fix, 2)
    if all(hasattr(error, name) for name in ("code", "where", "cause", "fix", "exit_code")):
        for problem in getattr(error, "problems", ()):
            click.echo(f"  {problem}", err=True)
        return _told(error.code, error.where, error.cause, error.fix, error.exit_code)  # type: ignore[attr-defined]
    bundle = getattr(error, "bundle", None) or write_bundle(error, arguments)
    click.echo("".join(traceback.format_exception_only(error)).rstrip(), err=True)
    click.secho("This is a bug in tilewright.", fg="red", err=True)
    click.echo(f"  a bundle that reproduces it: {bundle}", err=True)
    return ExitCode.INTERNAL


def _was_given(name: object, arguments: Sequence[str]) -> bool:
    """Whether a file is one that the command line names, or lies in a folder that it names."""
    if not isinstance(name, str | bytes | os.PathLike):
        return False
    path = Path(os.fsdecode(name))
    given = [Path(a.rpartition("=")[2].removeprefix("@")) for a in arguments if a and not a.endswith("=")]
    return any(g == path or (g.name and g in path.parents) for g in given)


def _told(code: str, where: str, cause: str, fix: str, exit_code: int) -> int:
    click.secho(f"error[{code}]", fg="red", nl=False, err=True)
    click.echo(f" {where}: {cause}\n  fix: {fix}\n  more: tilewright explain {code}", err=True)
    return int(exit_code)


@click.command(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tilewright")
def main() -> None:
    """Compile a trained model into one file that runs without the compiler."""
