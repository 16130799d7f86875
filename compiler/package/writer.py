"""Writes ``model.tw``: weights, then each target's plan and code, then the manifest that names and hashes them all."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Union

import numpy as np
from tilewright.errors import InternalError
from tilewright.package.archive import Archive
from tilewright.package.atomic import atomic_file
from tilewright.package.checksum import segment_sums
from tilewright.plan.encode import encode_plan
from tilewright.plan.plan import Constant, EntryPoint, Plan, Signature
from tilewright.plan.programs import ProgramEntry, Programs, encode_programs
from tilewright.runtime.format import (
    ABI_VERSION,
    CHECKSUMS,
    FORMAT_VERSION,
    KERNELS,
    MANIFEST,
    MANIFEST_HASH,
    SEGMENT,
    TENSOR_ALIGNMENT,
    WEIGHTS,
)

Array = np.ndarray[Any, np.dtype[Any]]
#: Bytes summed at a time: summing few is as slow as summing many.
_SUMMED = 8 * 2**20
#: A constant's contents in its plan's layout, or what makes them when they are written (one is in memory at a time).
Contents = Union[Array, Callable[[], Array]]


@dataclass(frozen=True, slots=True)
class Part:
    """One target's share of an artifact.

    Attributes:
        target: spelling, ``cpu:x86-64-v3``.
        folder: the target's folder in the artifact, ``cpu/x86-64-v3`` (``Target.folder``).
        plan: what to run; every part has the same entry points and signatures.
        members: binaries by file name inside the folder. A CPU part has ``kernels.so``, and so has any other one with
            a host part.
        family: the processor family of a CPU part, or of the host of a device, as ``uname -m`` says it (``x86_64``,
            ``aarch64``); else empty. Its executor is the member ``cpu/<family>/runtime.so``.
        requires: CPU feature bits (see :func:`cpu_requirements`); all must be present where the part is run.
        apart: its kernels are not the host's: they run on a device with memory of its own.
    """

    target: str
    folder: str
    plan: Plan | Programs
    members: Mapping[str, bytes]
    family: str = ""
    requires: tuple[tuple[str, int, int, int, int], ...] = ()
    apart: bool = False

    @property
    def is_apart(self) -> bool:
        """Whether ``family`` is that of the host beside a device, and not of the part's own kernels."""
        return self.apart or isinstance(self.plan, Programs)


@dataclass(frozen=True, slots=True)
class ArtifactSize:
    """What was written: bytes of the whole file and of the weights in it."""

    total: int
    weights: int


def write_artifact(
    path: str | Path,
    parts: Sequence[Part],
    constants: Mapping[str, Contents],
    runtimes: Mapping[str, bytes],
    provenance: Mapping[str, Any],
) -> ArtifactSize:
    """Write an artifact; ``path`` is replaced as a whole or, whatever happens, not touched.

    Args:
        path: the file.
        parts: one or more targets. Where several CPU parts fit a machine, the one that requires most is run.
        constants: contents by constant name for every constant of every plan. Equal names in several plans are one
            tensor in the file. An array has the constant's bytes in row-major order (types of less than 8 bits:
            several in a byte).
        runtimes: the executor library by processor family, for each family of the parts
            (:func:`tilewright.package.native.build_runtime`).
        provenance: JSON values that say where the artifact comes from (model hash, options, tool versions); no times
            and no paths, so that the same inputs give the same bytes.

    Raises:
        ResourceError: full disk or a folder that cannot be written (exit 7).
        UsageError: no such folder (exit 2).
        InternalError: parts that do not fit together.
    """
    with atomic_file(Path(path)) as stream:
        return compose_artifact(stream, parts, constants, runtimes, provenance)


def artifact_bytes(
    parts: Sequence[Part],
    constants: Mapping[str, Contents],
    runtimes: Mapping[str, bytes],
    provenance: Mapping[str, Any],
) -> bytes:
    """The same in memory; arguments as for :func:`write_artifact`."""
    stream = io.BytesIO()
    compose_artifact(stream, parts, constants, runtimes, provenance)
    return stream.getvalue()


def compose_artifact(
    stream: BinaryIO,
    parts: Sequence[Part],
    constants: Mapping[str, Contents],
    runtimes: Mapping[str, bytes],
    provenance: Mapping[str, Any],
    *,
    kernels: Mapping[str, Any] | None = None,
    force_zip64: bool = False,
) -> ArtifactSize:
    """Write an artifact to a seekable stream at offset 0; arguments as for :func:`write_artifact`.

    ``kernels`` are the records of :func:`tilewright.cost.record_of` by kernel name, for whoever looks into the file.
    """
    _check_parts(parts, runtimes)
    archive = Archive(stream, force_zip64=force_zip64)
    layout, total = _place_constants(parts)
    sums = _Sums()
    archive.add(WEIGHTS, sums.through(_weight_chunks(layout, constants)), total)
    archive.add(CHECKSUMS, [sums.finish()], 4 * -(-total // SEGMENT))
    places = _add_code(archive, parts, runtimes)
    if kernels:
        text = _json(kernels)
        archive.add(KERNELS, [text], len(text))
    manifest = {
        "abi": ABI_VERSION,
        "entries": [_entry(e) for e in parts[0].plan.entries],
        "format": FORMAT_VERSION,
        "members": {m.name: {"bytes": m.size, "sha256": m.sha256} for m in archive.members},
        "provenance": provenance,
        "targets": places,
        "weights": {
            "checksums": CHECKSUMS,
            "member": WEIGHTS,
            "segment": SEGMENT,
            "tensors": [_tensor(c, offset) for c, offset in sorted(layout, key=lambda item: item[0].name.encode())],
        },
    }
    text = _json(manifest)
    digest = archive.add(MANIFEST, [text], len(text)).sha256.encode()
    archive.add(MANIFEST_HASH, [digest], len(digest))
    archive.close()
    return ArtifactSize(stream.tell(), total)


def _json(value: Mapping[str, Any]) -> bytes:
    """JSON whose bytes depend on nothing but the value."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def cpu_requirements(facts: Mapping[str, Any]) -> tuple[tuple[str, int, int, int, int], ...]:
    """Feature bits of a CPU target, from its TOML (``Target.extra``), as rows of the manifest.

    A row is name, kind, CPUID leaf, subleaf, bit; kinds are those of ``tilewright.h``: 0 to 3 a CPUID register, 4 a
    bit of XCR0 (what the operating system saves), 5 and 6 the words AT_HWCAP and AT_HWCAP2 of the auxiliary vector.
    """
    registers = ("eax", "ebx", "ecx", "edx")
    rows = [
        (b["name"], registers.index(b["register"]), b["leaf"], b["subleaf"], b["bit"]) for b in facts.get("cpuid", ())
    ]
    mask = facts.get("codegen", {}).get("xcr0", 0)
    rows += [(f"xcr0[{bit}]", 4, 0, 0, bit) for bit in range(64) if mask >> bit & 1]
    for kind, key in ((5, "hwcap"), (6, "hwcap2")):
        rows += [(b["name"], kind, 0, 0, b["bit"]) for b in facts.get(key, ())]
    return tuple(rows)


# -- parts -----------------------------------------------------------------------------------------------------------


def _check_parts(parts: Sequence[Part], runtimes: Mapping[str, bytes]) -> None:
    if not parts:
        raise InternalError("an artifact without targets")
    first = [_entry(e) for e in parts[0].plan.entries]
    for part in parts:
        if [_entry(e) for e in part.plan.entries] != first:
            raise InternalError(f"{part.target} and {parts[0].target} have different signatures")
        library = "kernels.so" in part.members or part.is_apart
        if part.family and (part.family not in runtimes or not library):
            raise InternalError(f"{part.target} has no kernels.so or no runtime for {part.family}")


def _add_code(archive: Archive, parts: Sequence[Part], runtimes: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Add executors, plans and binaries; the targets as the manifest lists them, best first."""
    families = sorted({p.family for p in parts if p.family})
    for family in families:
        archive.add(f"cpu/{family}/runtime.so", [runtimes[family]], len(runtimes[family]))
    listed = []
    # What runs without being asked for by name comes first; programs for other devices are never that.
    for part in sorted(parts, key=lambda p: (p.is_apart, p.family, -len(p.requires), p.target)):
        members = {**_plans(part.plan), **part.members}
        for name in sorted(members):
            archive.add(f"{part.folder}/{name}", [members[name]], len(members[name]))
        entry: dict[str, Any] = {
            "members": {name: f"{part.folder}/{name}" for name in sorted(members)},
            "target": part.target,
        }
        if part.family:
            entry["members"]["runtime.so"] = f"cpu/{part.family}/runtime.so"
            machine = {"family": part.family, "requires": [list(row) for row in part.requires]}
            # A loader takes a part with a family for the whole model in kernels, which a host part is not.
            entry |= {"host": machine} if part.is_apart else machine
        listed.append(entry)
    return listed


def _plans(plan: Plan | Programs) -> dict[str, bytes]:
    """The members that say what to run."""
    if isinstance(plan, Plan):
        return {"plan.bin": encode_plan(plan)}
    host = {} if plan.host is None else {"plan.bin": encode_plan(plan.host)}
    return {"program.json": encode_programs(plan), **host}


def _entry(entry: EntryPoint | ProgramEntry) -> dict[str, Any]:
    return {
        "inputs": [_signature(s) for s in entry.inputs],
        "name": entry.name,
        "outputs": [_signature(s) for s in entry.outputs],
        "states": [[entry.inputs[i].name, entry.outputs[o].name] for i, o in entry.states],
        "symbols": [{"max": r.hi, "min": r.lo, "multiple": r.divisor, "name": n} for n, r in entry.symbols],
    }


def _signature(s: Signature) -> dict[str, Any]:
    return {
        "dtype": str(s.dtype),
        "name": s.name,
        "shape": [d.value if d.is_constant else str(d) for d in s.shape],
    }


# -- weights ---------------------------------------------------------------------------------------------------------


def _byte_size(constant: Constant) -> int:
    elements = 1
    for d in constant.shape:
        elements *= d
    return -(-elements * constant.dtype.bits // 8)


def _place_constants(parts: Sequence[Part]) -> tuple[list[tuple[Constant, int]], int]:
    """Each distinct constant with its offset, in the order in which plans name them, and the bytes of all."""
    distinct: dict[str, Constant] = {}
    for constant in (c for part in parts for c in part.plan.constants):
        if distinct.setdefault(constant.name, constant) != constant:
            raise InternalError(f"constant {constant.name!r} has two types")
    placed, end = [], 0
    for constant in distinct.values():
        offset = -(-end // TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT
        placed.append((constant, offset))
        end = offset + _byte_size(constant)
    return placed, end


def _tensor(constant: Constant, offset: int) -> list[Any]:
    return [constant.name, offset, _byte_size(constant), str(constant.dtype), list(constant.shape)]


def _weight_chunks(
    layout: Sequence[tuple[Constant, int]], constants: Mapping[str, Contents]
) -> Iterator[bytes | memoryview]:
    at = 0
    for constant, offset in layout:
        contents = constants[constant.name]
        array = np.ascontiguousarray(contents() if callable(contents) else contents)
        if array.nbytes != _byte_size(constant):
            raise InternalError(
                f"constant {constant.name!r}: {array.nbytes} bytes, its plan says {_byte_size(constant)}"
            )
        yield bytes(offset - at)
        yield array.reshape(-1).view(np.uint8).data if array.nbytes else b""
        at = offset + array.nbytes


class _Sums:
    """CRC32C of segments of a stream of chunks that end anywhere."""

    def __init__(self) -> None:
        self._sums: list[bytes] = []
        self._rest = bytearray()

    def through(self, chunks: Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        for chunk in chunks:
            data = memoryview(chunk)
            for at in range(0, len(data), _SUMMED):
                self._rest += data[at : at + _SUMMED]
                if len(self._rest) >= _SUMMED:
                    whole = len(self._rest) // SEGMENT * SEGMENT
                    self._sums.append(segment_sums(bytes(self._rest[:whole])))
                    del self._rest[:whole]
            yield chunk

    def finish(self) -> bytes:
        return b"".join(self._sums) + segment_sums(self._rest)
