"""``modules.bin``, the machine code of a part for NVIDIA GPUs, as far as anyone looks into it without a GPU.

The layout is that of :mod:`tilewright.backends.cuda.modules`; the executor in C reads and checks the rest of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tilewright.runtime.artifact import Artifact
from tilewright.runtime.manifest import TargetInfo

#: The member that says that a part is a plan for a GPU.
MODULES = "modules.bin"
_MAGIC, _VERSION = 0x444D5754, 1
_HEADER = struct.Struct("<6IQ")
_ALIGNMENT = 64
#: Words of a kernel before those of its parameters.
_FIXED = struct.Struct("<6I4Q1I")


@dataclass(frozen=True, slots=True)
class ModuleInfo:
    """A kernel: its symbol, threads of a block, bytes of dynamic shared memory, of machine code and of PTX."""

    entry: str
    threads: int
    shared: int
    cubin_bytes: int
    ptx_bytes: int


@dataclass(frozen=True, slots=True)
class Modules:
    """The kernels of a part in the plan's order, and the architecture (90 for sm_90) that they are machine code for."""

    arch: int
    kernels: tuple[ModuleInfo, ...]

    @property
    def has_ptx(self) -> bool:
        """Whether a driver could compile all of it for other GPUs."""
        return all(k.ptx_bytes for k in self.kernels)


def read_modules(artifact: Artifact, target: TargetInfo) -> Modules:
    """The modules of a part, checked against its hash and its name.

    Raises :class:`~tilewright.runtime.errors.ArtifactError` for what no compiler writes.
    """
    member = target.members[MODULES]
    data = artifact.checked(member)
    try:
        modules = _parse(data)
        if target.target != f"cuda:sm_{modules.arch}":
            raise ValueError(f"it is for sm_{modules.arch}, the part is called {target.target}")
    except (ValueError, struct.error) as error:
        raise artifact.damaged(member, str(error)) from None
    return modules


def _parse(data: memoryview) -> Modules:
    magic, version, arch, kernels, words, string_bytes, blob_bytes = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        raise ValueError(f"it is no list of modules of version {_VERSION}")
    strings = _HEADER.size + 4 * words
    blobs = -(-(strings + string_bytes) // _ALIGNMENT) * _ALIGNMENT
    if blobs + blob_bytes != len(data):
        raise ValueError("its parts are longer or shorter than it is")
    names = bytes(data[strings : strings + string_bytes])
    found = tuple(_kernels(data[_HEADER.size : strings], kernels, names, blob_bytes))
    return Modules(arch, found)


def _kernels(words: memoryview, count: int, names: bytes, blob_bytes: int) -> Iterator[ModuleInfo]:
    at = 0
    for _ in range(count):
        name, threads, shared, *_, cubin, cubin_bytes, ptx, ptx_bytes, parameters = _FIXED.unpack_from(words, at)
        at += _FIXED.size + 4 * parameters
        end = names.find(b"\0", name)
        if at > len(words) or end < 0:
            raise ValueError("a kernel's words or its name reach outside")
        if cubin + cubin_bytes > blob_bytes or ptx + ptx_bytes > blob_bytes:
            raise ValueError("a kernel's code reaches outside")
        yield ModuleInfo(names[name:end].decode("ascii", "backslashreplace"), threads, shared, cubin_bytes, ptx_bytes)
    if at != len(words):
        raise ValueError("there are more words than its kernels have")


def described(artifact: Artifact, target: TargetInfo) -> Iterator[str]:
    """Lines about the code of a part for a GPU. Nothing of it is run."""
    modules = read_modules(artifact, target)
    cubins, ptx = (sum(getattr(k, f"{form}_bytes") for k in modules.kernels) for form in ("cubin", "ptx"))
    told = f"{len(modules.kernels)} kernels: machine code for sm_{modules.arch} {cubins} bytes"
    if not modules.kernels:
        yield "no kernels for the GPU: all is on the host part"
    elif modules.has_ptx:
        yield f"{told}, PTX {ptx} bytes (later GPUs compile it where that is allowed)"
    else:
        yield f"{told}, no PTX"
