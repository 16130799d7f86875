"""A user's folder of programs that were compiled on this machine, so that the next start needs no compiler."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: Bytes kept; the least recently used go first.
LIMIT = 4 * 2**30


def default_folder() -> Path | None:
    """``$XDG_CACHE_HOME/tilewright/xla``, below ``~/.cache`` where that is not set; ``None`` without a home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():
        return Path(base) / "tilewright" / "xla"
    try:
        return Path.home() / ".cache" / "tilewright" / "xla"
    except RuntimeError:
        return None


def key_of(parts: Iterable[str | bytes]) -> str:
    """A SHA-256 over the parts and their lengths."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class ExecutableCache:
    """Files named by key, each its SHA-256 and then the bytes.

    What lies there is code that will run: a folder or a file that others own or may write is not read. Nothing here is
    an error: a folder that cannot be used makes every look a miss.

    Attributes:
        folder: where they lie, made with mode 0700; ``None`` keeps nothing.
        limit: bytes kept.
    """

    folder: Path | None
    limit: int = LIMIT

    def get(self, key: str) -> bytes | None:
        """The bytes under ``key``; ``None`` when there are none, or they are damaged or not ours."""
        if self.folder is None or not _private(self.folder):
            return None
        path = self.folder / key
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or not _ours(status):
                    return None
                data = file.read()
        except OSError:
            return None
        digest, payload = data[:32], data[32:]
        if hashlib.sha256(payload).digest() != digest:
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return payload

    def has(self, key: str) -> bool:
        """Whether there is something under ``key``; :meth:`get` may still find it damaged."""
        return self.folder is not None and _private(self.folder) and (self.folder / key).is_file()

    def put(self, key: str, payload: bytes) -> None:
        """Keep ``payload``, written aside and renamed."""
        if self.folder is None:
            return
        temporary = None
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _private(self.folder):
                return
            descriptor, temporary = tempfile.mkstemp(dir=self.folder, prefix=".new-")  # mode 0600
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            Path(temporary).replace(self.folder / key)
        except OSError:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
            return
        self._evict(self.folder)

    def _evict(self, folder: Path) -> None:
        entries = []
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                status = path.lstat()
                entries.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size


def _private(folder: Path) -> bool:
    try:
        status = folder.stat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and _ours(status)


def _ours(status: os.stat_result) -> bool:
    """Owned by this user (or by root), and writable by nobody else."""
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & 0o022
