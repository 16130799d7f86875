"""Artifacts without their large weights, for a way that carries little; noise like them takes their place.

``weightless.py empty model.tw -o model.empty`` keeps everything but large float and 8-bit weights, of which it keeps
mean and deviation; ``weightless.py fill model.empty -o model.tw`` puts seeded noise there. What such a model computes
means nothing; how long it takes does, and it is the same file on every machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tilewright.ir.types import DType
from tilewright.package.archive import Archive
from tilewright.package.atomic import atomic_file
from tilewright.package.checksum import segment_sums
from tilewright.runtime.format import CHECKSUMS, MANIFEST, MANIFEST_HASH, SEGMENT, WEIGHTS

#: Constants of fewer bytes stay as they are, and so do all integers of 16 bits and more: they say places and sizes.
KEPT_BYTES = 64 << 10
#: Elements of noise that are made; tensors start at different ones of them.
BLOCK = 1 << 22
_SAMPLE = 1 << 20
_DATE = (1980, 1, 1, 0, 0, 0)


def empty(artifact: Path, output: Path) -> None:
    """Write an artifact without its large weights."""
    with zipfile.ZipFile(artifact) as source, zipfile.ZipFile(output, "w") as out:
        manifest = json.loads(source.read(MANIFEST))
        place = source.getinfo(WEIGHTS)
        with artifact.open("rb") as file:
            weights = np.memmap(file, np.uint8, "r", _data_offset(file, place), (place.file_size,))
            kept, told = bytearray(), []
            for name, offset, size, dtype, _ in sorted(manifest["weights"]["tensors"], key=lambda t: t[1]):
                data = weights[offset : offset + size]
                noise = _described(data, DType.parse(dtype)) if size >= KEPT_BYTES else None
                told.append({"name": name, "offset": offset, "size": size, "dtype": dtype, "noise": noise})
                kept += b"" if noise else data.tobytes()
        _add(out, "tensors.json", json.dumps({"bytes": place.file_size, "tensors": told}).encode())
        _add(out, "kept", bytes(kept))
        for name in source.namelist():
            if name not in (WEIGHTS, CHECKSUMS, MANIFEST_HASH):
                _add(out, name, source.read(name))


def fill(path: Path, output: Path) -> None:
    """Write the artifact that ``path`` is, with noise for weights."""
    with zipfile.ZipFile(path) as source, atomic_file(output) as stream:
        told = json.loads(source.read("tensors.json"))
        manifest = json.loads(source.read(MANIFEST))
        archive = Archive(stream)
        sums = bytearray()
        archive.add(WEIGHTS, _summed(_weights(told, source.read("kept")), sums), told["bytes"])
        archive.add(CHECKSUMS, [bytes(sums)], len(sums))
        for name in source.namelist():
            if name not in ("tensors.json", "kept", MANIFEST):
                data = source.read(name)
                archive.add(name, [data], len(data))
        manifest["members"] = {m.name: {"bytes": m.size, "sha256": m.sha256} for m in archive.members}
        text = json.dumps(manifest, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
        digest = archive.add(MANIFEST, [text], len(text)).sha256.encode()
        archive.add(MANIFEST_HASH, [digest], len(digest))
        archive.close()


def _described(data: Any, dtype: DType) -> list[float] | None:
    """Mean and deviation of floats, least and largest of 8-bit integers, of a sample; ``None`` for what is kept."""
    if dtype.is_float and dtype.bits >= 8:
        values = data.view(dtype.numpy)
        values = np.asarray(values[:: max(1, values.size // _SAMPLE)], np.float32)
        mean, deviation = float(values.mean()), float(values.std())
        return [mean, deviation] if np.isfinite([mean, deviation]).all() else None
    if dtype.is_integer and dtype.bits <= 8:
        sample = data.view(np.int8)[:: max(1, data.size // _SAMPLE)]
        return [float(sample.min()), float(sample.max())]
    return None


def _weights(told: dict[str, Any], kept: bytes) -> Iterator[bytes]:
    normal = np.random.Generator(np.random.PCG64(0)).standard_normal(BLOCK, dtype=np.float32)
    octets = np.random.Generator(np.random.PCG64(1)).integers(0, 256, BLOCK, dtype=np.int64)
    at = used = 0
    for number, t in enumerate(told["tensors"]):
        yield bytes(t["offset"] - at)
        at = t["offset"] + t["size"]
        if t["noise"] is None:
            yield kept[used : used + t["size"]]
            used += t["size"]
            continue
        dtype, (first, second) = DType.parse(t["dtype"]), t["noise"]
        if dtype.is_float:
            block = (normal * np.float32(second) + np.float32(first)).astype(dtype.numpy).view(np.uint8)
        else:
            block = (octets * int(second - first + 1) // 256 + int(first)).astype(np.int8).view(np.uint8)
        block = np.roll(block, -4096 * number)
        for done in range(0, t["size"], block.size):
            yield block[: min(block.size, t["size"] - done)].tobytes()
    yield bytes(told["bytes"] - at)


def _summed(chunks: Iterator[bytes], sums: bytearray) -> Iterator[bytes]:
    """The chunks, in pieces of whole segments whose sums are added to ``sums``."""
    rest = bytearray()
    for chunk in chunks:
        rest += chunk
        whole = len(rest) // SEGMENT * SEGMENT
        if whole >= BLOCK:
            piece = bytes(rest[:whole])
            del rest[:whole]
            sums += segment_sums(piece)
            yield piece
    sums += segment_sums(bytes(rest))
    yield bytes(rest)


def _data_offset(file: Any, place: zipfile.ZipInfo) -> int:
    file.seek(place.header_offset + 26)
    name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return place.header_offset + 30 + name + extra


def _add(out: zipfile.ZipFile, name: str, data: bytes) -> None:
    out.writestr(zipfile.ZipInfo(name, _DATE), data, zipfile.ZIP_DEFLATED)


def main() -> int:
    """Empty or fill one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["empty", "fill"])
    parser.add_argument("source", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    (empty if given.what == "empty" else fill)(given.source, given.output)
    print(f"{given.output}: {given.output.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
