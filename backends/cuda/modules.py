"""``modules.bin``: the machine code of a part and how each kernel is started, as the executor in C reads it.

Little-endian: a header (magic ``TWMD``, version, architecture, kernels, words, bytes of strings: 32 bits each; bytes of
blobs: 64 bits), the words, zero-terminated strings, and from the next multiple of 64 on the blobs. The words of a
kernel are :data:`FIELDS` and a word for each parameter: its kind, and from bit 8 on the position among the buffers or
the dimensions of the launch.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tilewright.backends.cuda.launch import Argument, Launch
from tilewright.errors import InternalError

MAGIC, VERSION = 0x444D5754, 1
_HEADER = "<6IQ"
_ALIGNMENT = 64

#: Kinds of parameters: a buffer, a dimension in 32 and in 64 bits, Triton's scratch memory (of a program) and that of
#: its profiler, the workspace of the launch, the word for faults.
BUFFER, DIM32, DIM64, GLOBAL_SCRATCH, PROFILE_SCRATCH, WORKSPACE, FAULT = range(7)

#: What a kernel's words say, in order; 64-bit values take two. Sizes are in bytes.
FIELDS = (
    "entry",
    "threads",
    "shared",
    "global_scratch",
    "profile_scratch",
    "counters",
    *("cubin_offset", "cubin_offset_high", "cubin_bytes", "cubin_bytes_high"),
    *("ptx_offset", "ptx_offset_high", "ptx_bytes", "ptx_bytes_high"),
    "parameters",
)
_WARP = 32


@dataclass(frozen=True, slots=True)
class Module:
    """One kernel's machine code.

    Attributes:
        launch: how it is started.
        cubin: for the architecture. ptx: its portable form, empty where there is none.
        shared: bytes of dynamic shared memory that a launch asks for.
        parameters: PTX types (``u64``, ``u32`` …) of everything a launch passes, scratch pointers included.
        scratch: bytes a program needs behind the global and the profile scratch pointer (0: null is passed).
        warps: of a block, where the compiler added some for reads alone; 0: those of ``launch``.
    """

    launch: Launch
    cubin: bytes
    ptx: str
    shared: int
    parameters: tuple[str, ...]
    scratch: tuple[int, int]
    warps: int = 0

    @property
    def threads(self) -> int:
        """Of a block."""
        return _WARP * (self.warps or self.launch.num_warps)

    def without_ptx(self) -> Module:
        """The same with machine code alone."""
        return replace(self, ptx="")


def encode_modules(modules: Sequence[Module], arch: int) -> bytes:
    """The bytes of ``modules`` for ``sm_<arch>``; equal machine code is there once."""
    strings, blobs = _Pool(1), _Pool(_ALIGNMENT)
    words: list[int] = []
    for m in modules:
        kinds = parameter_kinds(m)
        text = m.ptx.encode()
        cubin, ptx = blobs.add(m.cubin), blobs.add(text + b"\0") if text else 0
        words += [strings.add(m.launch.entry.encode() + b"\0"), m.threads, m.shared, *m.scratch]
        words += [m.launch.counters, *_wide(cubin), *_wide(len(m.cubin)), *_wide(ptx), *_wide(len(text))]
        words += [len(kinds), *kinds]
    body = struct.pack(f"<{len(words)}I", *words) + bytes(strings.data)
    counts = (MAGIC, VERSION, arch, len(modules), len(words), len(strings.data), len(blobs.data))
    head = struct.pack(_HEADER, *counts) + body
    return head + bytes(-len(head) % _ALIGNMENT) + bytes(blobs.data)


def parameter_kinds(m: Module) -> list[int]:
    """The word of each parameter, from the arguments that were emitted, checked against the parameters of the PTX.

    Raises ``InternalError`` where they do not fit together.
    """
    buffers = dims = 0
    kinds: list[int] = []
    for a in m.launch.arguments:
        kinds.append(_kind(a, buffers, dims))
        buffers += a.is_pointer and a.role == "own"
        dims += not a.is_pointer
    kinds += [GLOBAL_SCRATCH, PROFILE_SCRATCH]  # Triton appends both, whatever their size
    expected = [_PTX_TYPES[k & 0xFF] for k in kinds]
    if expected != [t[1:] for t in m.parameters]:
        raise InternalError(f"{m.launch.kernel}: the compiled kernel takes {m.parameters}, the plan passes {expected}")
    return kinds


#: Bits of a parameter by its kind.
_PTX_TYPES = {BUFFER: "64", DIM32: "32", DIM64: "64"} | dict.fromkeys(range(GLOBAL_SCRATCH, FAULT + 1), "64")


def _kind(a: Argument, buffers: int, dims: int) -> int:
    if a.role != "own":
        return {"workspace": WORKSPACE, "fault": FAULT}[a.role]
    if a.is_pointer:
        return BUFFER | buffers << 8
    return (DIM64 if a.type == "i64" else DIM32) | dims << 8


def _wide(value: int) -> tuple[int, int]:
    return value & 0xFFFFFFFF, value >> 32


class _Pool:
    """Bytes after each other, equal ones once."""

    def __init__(self, alignment: int):
        self._alignment, self._offsets = alignment, dict[bytes, int]()
        self.data = bytearray()

    def add(self, data: bytes) -> int:
        if data not in self._offsets:
            self.data += bytes(-len(self.data) % self._alignment)
            self._offsets[data] = len(self.data)
            self.data += data
        return self._offsets[data]


def launches_told(modules: Mapping[str, Module]) -> list[dict[str, object]]:
    """What ``launches.json`` says of each kernel besides its launch, for people."""
    return [
        {"kernel": name, "parameters": list(m.parameters), "scratch": list(m.scratch), "shared": m.shared}
        for name, m in modules.items()
    ]
