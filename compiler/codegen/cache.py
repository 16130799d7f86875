"""A bounded, content-addressed folder of compiled bytes, shared by processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: Bytes kept by default; a model's kernels take a few hundred kilobytes.
DEFAULT_LIMIT = 256 * 2**20


def default_cache_folder() -> Path:
    """The platform's folder for files that may be deleted at any time, plus ``tilewright``."""
    home = Path.home() if "HOME" in os.environ or sys.platform == "win32" else Path(tempfile.gettempdir())
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "tilewright"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home)) / "tilewright" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "tilewright"


def content_key(parts: Iterable[str | bytes]) -> str:
    """A SHA-256 over the parts and their lengths."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class CompileCache:
    """Files named by content key. A folder that cannot be written makes every lookup a miss, never an error.

    Attributes:
        folder: where the files lie; made on first use.
        limit: bytes kept; the least recently used go first. Between two looks, what was added may be over it.
    """

    folder: Path
    limit: int = DEFAULT_LIMIT

    def get(self, key: str) -> bytes | None:
        """The bytes under ``key``, now the most recently used; ``None`` when there are none or they are damaged."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            with contextlib.suppress(OSError):
                os.utime(path)
        except OSError:
            return None
        digest, payload = data[:32], data[32:]
        if hashlib.sha256(payload).digest() != digest:
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        return payload

    def put(self, key: str, payload: bytes) -> None:
        """Store ``payload`` by rename; at times drop what is over the limit."""
        path = self._path(key)
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            Path(temporary).replace(path)
        except OSError:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
            return
        # Counting takes a look at every file, longer than compiling a kernel: one addition in 64 does, by its key.
        if int(key[:2], 16) % 64 == 0:
            self._evict()

    def _path(self, key: str) -> Path:
        return self.folder / "objects" / key[:2] / key[2:]

    def _evict(self) -> None:
        entries = []
        for path in (self.folder / "objects").glob("*/*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                entries.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        if total > self.limit:
            room = self.limit // 8  # so that the next ones need no eviction of their own
            for _, size, path in sorted(entries):
                with contextlib.suppress(OSError):
                    path.unlink()
                total -= size
                if total <= self.limit - room:
                    break
