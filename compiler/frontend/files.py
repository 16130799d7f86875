"""Opening the files of a model: only regular files, external data only inside the model's folder, everything mapped.

Paths in a model come from whoever made the model. They have led out of the folder by ``..`` and absolute names
(CVE-2022-25882), by ``..`` behind a folder (CVE-2024-27318), by links and by a race between check and use
(CVE-2026-27489). So each component is opened relative to the one before, links refused by the kernel, and what was
opened is what is checked and mapped.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from pathlib import Path

from tilewright.errors import CompileError, UsageError

#: Longest accepted relative path of external data; PATH_MAX of Linux.
_PATH_LIMIT = 4096


class ModelFile:
    """A model file, mapped read-only."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        try:
            # Non-blocking, so that opening a FIFO does not wait for a writer.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(
                "model-unreadable", where=str(self.path), cause=_reason(error), fix="check the path of the model"
            ) from None
        except ValueError:
            raise UsageError(
                "model-unreadable", where=repr(path), cause="the path holds a null character", fix="check the path"
            ) from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(
                    "model-unreadable",
                    where=str(self.path),
                    cause=f"it is a {_kind(status.st_mode)}, not a file",
                    fix="give the path of an ONNX file",
                )
            self.data = _mapped(descriptor, status.st_size)
        finally:
            os.close(descriptor)


class ExternalFolder:
    """The folder of a model, from which external data may be mapped. Files are mapped once, on first use."""

    def __init__(self, model: Path):
        self._path = model.parent
        self._open: dict[str, memoryview] = {}

    def read(self, location: str, offset: int, length: int, where: str) -> memoryview:
        """``length`` bytes of the file ``location`` from ``offset``, mapped.

        Raises :class:`CompileError`: ``external-data-unsafe`` for a path that may lead elsewhere,
        ``external-data-missing`` and ``external-data-range`` for what is not there.
        """
        data = self._open.get(location)
        if data is None:
            data = self._open[location] = self._map(location, where)
        if offset < 0 or length < 0 or offset + length > len(data):
            raise CompileError(
                "external-data-range",
                where=where,
                cause=f"bytes {offset} to {offset + length} of {location!r}, which has {len(data)}",
                fix="the data file is truncated or belongs to another model: copy both again",
            )
        return data[offset : offset + length]

    def _map(self, location: str, where: str) -> memoryview:
        parts = location.split("/")
        if not location or len(location) > _PATH_LIMIT or "\0" in location or "\\" in location:
            raise _unsafe(where, f"{location[:80]!r} is not a path")
        if location.startswith("/") or any(p in ("", ".", "..") for p in parts):
            raise _unsafe(where, f"{location!r} is not a plain path inside the model's folder")
        folder = _open_step(os.fspath(self._path) or ".", None, os.O_DIRECTORY, location, where)
        try:
            for part in parts[:-1]:
                inner = _open_step(part, folder, os.O_DIRECTORY | os.O_NOFOLLOW, location, where)
                os.close(folder)
                folder = inner
            descriptor = _open_step(parts[-1], folder, os.O_NOFOLLOW | os.O_NONBLOCK, location, where)
        finally:
            os.close(folder)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _unsafe(where, f"{location!r} is a {_kind(status.st_mode)}, not a file")
            return _mapped(descriptor, status.st_size)
        finally:
            os.close(descriptor)


def _open_step(name: str, folder: int | None, flags: int, location: str, where: str) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and folder is not None and _is_link(name, folder):
            raise _unsafe(where, f"{location!r} leads through a link") from None
        raise CompileError(
            "external-data-missing",
            where=where,
            cause=f"{location!r}: {_reason(error)}",
            fix="put the data file beside the model, under this name",
        ) from None


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _unsafe(where: str, cause: str) -> CompileError:
    return CompileError(
        "external-data-unsafe",
        where=where,
        cause=cause,
        fix="external data must be regular files in the model's folder; if they are links, copy the folder with cp -rL",
    )


def _mapped(descriptor: int, size: int) -> memoryview:
    if not size:
        return memoryview(b"")
    return memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ))


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _kind(mode: int) -> str:
    for test, name in ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "FIFO"), (stat.S_ISSOCK, "socket")):
        if test(mode):
            return name
    return "device"
