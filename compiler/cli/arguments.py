"""Options that several commands share, spelled once."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
from numpy.typing import NDArray
from tilewright.cli.outcome import Outcome
from tilewright.errors import UsageError

Array = NDArray[Any]
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--json F``."""
    return click.option("--json", "json_path", type=FILE, help="Write the result as JSON.")(function)


def reports(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--json F`` and ``--junit F``."""
    return click.option("--junit", type=FILE, help="Write the checks as JUnit XML.")(json_option(function))


def threads(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--threads``, where a file is run."""
    text = "Worker threads. [default: what the process may use]"
    return click.option("--threads", type=click.IntRange(1), help=text)(function)


def device(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--device``, and what may be done to run there."""
    where = click.option(
        "--device",
        default="auto",
        show_default=True,
        help="auto, or what the file has: cpu, cuda (cuda:1), xla-cpu, tpu, xla-cuda.",
    )
    told = "Let XLA or the driver compile what the file has no code of."
    allow = click.option("--allow-jit", is_flag=True, help=told)
    cache = click.option(
        "--cache/--no-cache", default=True, help="Keep what was compiled here for the next start. [default: on]"
    )
    return where(allow(cache(function)))


def entry(help_text: str = "The entry point.") -> Decorator:
    """``--entry``, one of those that an artifact has."""
    return click.option("--entry", metavar="NAME", help=f"{help_text} [default: the first]")


def shapes(help_text: str) -> Decorator:
    """``--input-shape``, repeatable."""
    return click.option("--input-shape", "shapes", multiple=True, metavar="NAME:SIZES", help=help_text)


def begin(ctx: click.Context, json_path: Path | None = None, junit: Path | None = None) -> Outcome:
    """The outcome of this run of the command, told where to write it."""
    for path in (json_path, junit):
        if path is not None:
            require_folder(path)
    outcome = ctx.find_object(Outcome) or Outcome()
    outcome.command, outcome.json, outcome.junit = str(ctx.info_name), json_path, junit
    return outcome


def require_folder(path: Path) -> None:
    """Raise :class:`UsageError` where ``path`` cannot be made since its folder is not there: told before any work."""
    if not path.parent.is_dir():
        fix = "name a file in a folder that exists"
        raise UsageError("no-such-folder", where=str(path), cause=f"there is no folder {str(path.parent)!r}", fix=fix)


def read_array(text: str) -> tuple[str, Array]:
    """``x=@x.npy`` or ``x=1.5``: a name and its array. Raises :class:`UsageError`."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise UsageError(
            "input-syntax", where=text, cause="it is not NAME=@FILE.npy", fix="write for instance x=@x.npy"
        )
    if not value.startswith("@"):
        try:
            return name, np.asarray(float(value))
        except ValueError:
            raise UsageError(
                "input-syntax", where=text, cause=f"{value!r} is no number", fix="a file is written x=@x.npy"
            ) from None
    try:
        array = np.load(value[1:], allow_pickle=False)
    except _UNREADABLE as error:
        raise UsageError("input-unreadable", where=value[1:], cause=_reason(error), fix="give a .npy file") from None
    if not isinstance(array, np.ndarray):
        array.close()
        cause = "it holds several arrays (.npz), one is needed"
        raise UsageError(
            "input-unreadable", where=value[1:], cause=cause, fix="give a .npy file, or this one as --data"
        )
    return name, array


def read_constant(text: str) -> tuple[str, Array]:
    """``shape=3,224``, ``axis=1``, ``on=true`` or ``x=@x.npy``: a name and its array. Raises :class:`UsageError`."""
    name, equals, value = text.partition("=")
    if value.startswith("@"):
        return read_array(text)
    parts = [part.strip() for part in value.strip("[] ").split(",")] if value.strip("[] ") else []
    for convert in (_BOOLEANS.__getitem__, int, float):
        try:
            numbers = np.asarray([convert(part) for part in parts])
        except (KeyError, ValueError, OverflowError):
            continue
        if name and equals and value and numbers.dtype != object:
            return name, numbers if parts else numbers.astype(np.int64)
    fix = "write for instance shape=3,224 or shape=@shape.npy"
    raise UsageError("input-syntax", where=f"--constant {text!r}", cause="it is not NAME=VALUES", fix=fix)


_BOOLEANS = {"true": True, "false": False}


def read_samples(path: Path) -> dict[str, Array]:
    """Arrays by name of an ``.npz`` file. Raises :class:`UsageError`."""
    try:
        data = np.load(path, allow_pickle=False)
        if isinstance(data, np.ndarray):
            raise ValueError("it is one array without a name")
        with data:
            return {name: data[name] for name in data.files}
    except _UNREADABLE as error:
        raise UsageError(
            "input-unreadable", where=str(path), cause=_reason(error), fix="give an .npz file of arrays by input name"
        ) from None


#: What NumPy raises for files that are missing, empty, truncated, damaged or pickles.
_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = str(error)
    return "it is no array file, or holds Python objects, which are never loaded" if "pickle" in text else text


#: Sizes between commas or ``x``; more digits than these no array can have.
_SIZES = r"(\d{1,15}(?:[x,]\d{1,15})*)"


def read_pairs(texts: Sequence[str], option: str, form: str) -> tuple[tuple[str, str], ...]:
    """Texts of the form ``NAME=VALUE``. Raises :class:`UsageError`, which names ``option`` and the wanted ``form``."""
    pairs = []
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value:
            fix = f"write {option} {form}"
            raise UsageError("pair-syntax", where=f"{option} {text!r}", cause=f"it is not {form}", fix=fix)
        pairs.append((name, value))
    return tuple(pairs)


Named = TypeVar("Named", bound=tuple[Any, ...])


def once(values: Iterable[Named], option: str) -> tuple[Named, ...]:
    """Values whose first element is a name. Raises :class:`UsageError` for a name that is given twice."""
    found: dict[str, Named] = {}
    for value in values:
        if value[0] in found:
            fix = "give everything of one name together"
            raise UsageError("name-twice", where=f"{option} {value[0]!r}", cause="it is given twice", fix=fix)
        found[value[0]] = value
    return tuple(found.values())


def read_sizes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Concrete shapes by input name: ``x:1x3x224``, ``x:1,3,224`` or ``x[1,3,224]``. Raises :class:`UsageError`."""
    shapes = {}
    for text in texts:
        match = re.fullmatch(rf"(.+?)(?::(?:{_SIZES})?|\[(?:{_SIZES})?\])", text.replace(" ", ""), re.ASCII)
        if not match:
            fix = "write for instance x:1,3,224,224"
            raise UsageError("input-shape-syntax", where=text, cause="it is not NAME:SIZES", fix=fix)
        shapes[match[1]] = tuple(int(size) for size in re.split("[x,]", match[2] or match[3] or "") if size)
    return shapes
