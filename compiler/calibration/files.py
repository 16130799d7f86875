"""Array files that nothing is known of: read whole or refused, never unpickled, never more than they hold."""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from tilewright.errors import ResourceError, UsageError

Array = NDArray[Any]

#: Samples at most: an iterable that never ends is an error, not a hang. Ranges are settled long before.
LIMIT = 4096
#: Bytes at most, all samples together.
LIMIT_BYTES = 8 << 30

#: What NumPy and zipfile raise for files that are missing, empty, truncated, damaged or pickles.
_UNREADABLE = (
    *(OSError, ValueError, EOFError, KeyError, TypeError, OverflowError, SyntaxError),
    *(RuntimeError, zipfile.BadZipFile, zlib.error),
)


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of an ``.npz`` by name. Raises :class:`UsageError` (``calibration-unreadable``)."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            require_room(str(path), 0, sum(m.file_size for m in members))
            arrays = {}
            for member in members:
                with archive.open(member) as stream:
                    _require_whole(stream, member.file_size)
                with archive.open(member) as stream:
                    arrays[member.filename.removesuffix(".npy")] = np.lib.format.read_array(stream, allow_pickle=False)
            return arrays
    except _UNREADABLE as error:
        raise _unreadable(path, error, "give an .npz of arrays by input name, a folder of .npy, or random:N") from None


def read_npy(path: Path) -> Array:
    """The array of a ``.npy``. Raises :class:`UsageError` (``calibration-unreadable``)."""
    try:
        with path.open("rb") as stream:
            _require_whole(stream, path.stat().st_size)
            stream.seek(0)
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    except _UNREADABLE as error:
        raise _unreadable(path, error, "give .npy files of plain arrays") from None


def _require_whole(stream: IO[bytes], size: int) -> None:
    """Raise ``ValueError`` for a header that claims more than the file holds: room for it is never asked for."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("pickled objects")
    count = 1
    for extent in shape:
        if extent < 0:
            raise ValueError("a negative size")
        count *= extent
    if count * dtype.itemsize > size:
        raise ValueError(f"the header says {count * dtype.itemsize} bytes, the file holds {size}")


def _unreadable(path: Path, error: BaseException, fix: str) -> UsageError:
    cause = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        cause = error.strerror.lower()
    elif "pickle" in cause:
        cause = "it holds Python objects (pickles), which are never loaded"
    return UsageError("calibration-unreadable", where=str(path), cause=cause, fix=fix)


def require_room(where: str, count: int, size: int) -> None:
    """Raise for more samples than :data:`LIMIT`, or more bytes than :data:`LIMIT_BYTES`."""
    if count > LIMIT:
        raise too_many(where)
    if size > LIMIT_BYTES:
        cause = f"{size / 1e9:.1f} GB of samples, at most {LIMIT_BYTES / 1e9:.1f} GB are read"
        raise ResourceError("calibration-too-large", where=where, cause=cause, fix="give fewer samples: a few hundred")


def too_many(where: str) -> UsageError:
    """The error for more samples than :data:`LIMIT`."""
    cause, fix = f"there are more than {LIMIT} samples", "give fewer: ranges are settled after a few hundred"
    return UsageError("calibration-too-many", where=where, cause=cause, fix=fix)


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key that orders names as a reader does: ``x_2`` before ``x_10``."""
    pieces = re.findall(r"[0-9]{1,18}|[^0-9]+|[0-9]+", name)
    return tuple((0, int(p), p) if p.isdecimal() and p.isascii() and len(p) <= 18 else (1, 0, p) for p in pieces)
