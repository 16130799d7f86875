"""Files that are either whole or not there: written beside their place under no name or another one, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from tilewright.errors import ResourceError, UsageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces ``path`` when the block ends well; otherwise ``path`` is as it was and nothing is left.

    Where the file system can, the file has no name before it is whole, so that not even a killed process leaves one.

    Raises:
        ResourceError: the disk is full or the folder cannot be written (exit 7).
        UsageError: there is no such folder, or ``path`` is one (exit 2).
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        with _unnamed_file(path) or _named_file(path) as stream:
            yield stream
    except OSError as error:
        raise _explained(path, error) from error


def _explained(path: Path, error: OSError) -> Exception:
    where = str(path)
    if error.errno in _FULL:
        fix = "free some space, or write somewhere else"
        return ResourceError("disk-full", where=where, cause=f"no room to write it ({error.strerror})", fix=fix)
    if error.errno in _REFUSED:
        fix = "write to a folder that you may write to"
        return ResourceError("cannot-write", where=where, cause=f"the folder refuses ({error.strerror})", fix=fix)
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
        return UsageError(
            "no-such-folder", where=where, cause=str(error.strerror), fix="name a file in a folder that exists"
        )
    return ResourceError("cannot-write", where=where, cause=f"writing it failed ({error})", fix="write somewhere else")


def _unnamed_file(path: Path) -> contextlib.AbstractContextManager[BinaryIO] | None:
    if not hasattr(os, "O_TMPFILE"):
        return None
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o666)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            return None
        raise
    return _linked_at_end(descriptor, path)


@contextlib.contextmanager
def _linked_at_end(descriptor: int, path: Path) -> Iterator[BinaryIO]:
    with os.fdopen(descriptor, "w+b") as stream:
        yield stream
        _flush(stream)
        temporary = _temporary_name(path)
        root = os.open("/", os.O_RDONLY)
        try:
            # With a descriptor, Python calls linkat with AT_SYMLINK_FOLLOW, which gives an unnamed file a name.
            os.link(f"/proc/self/fd/{stream.fileno()}", temporary, src_dir_fd=root, follow_symlinks=True)
        finally:
            os.close(root)
    _rename(temporary, path)


@contextlib.contextmanager
def _named_file(path: Path) -> Iterator[BinaryIO]:
    temporary = _temporary_name(path)
    with _exit_on_terminate():
        try:
            with temporary.open("xb+") as stream:
                yield stream
                _flush(stream)
            _rename(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _temporary_name(path: Path) -> Path:
    return path.parent / f".{path.name[:100]}.{secrets.token_hex(8)}"


def _flush(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _rename(temporary: Path, path: Path) -> None:
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # the rename lasts through a power cut; some file systems cannot promise it
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def _exit_on_terminate() -> Iterator[None]:
    """Make SIGTERM an exception while a named file exists, unless the program has its own idea of it."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if ours:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
