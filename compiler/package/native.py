"""Builds the executor library of an artifact from the C files of the runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import tilewright.runtime.format

#: Where the C files are.
NATIVE = Path(tilewright.runtime.format.__file__).parent / "native"
HEADERS = ("kernel_abi.h", "tilewright.h", "executor.h")
SOURCES = (
    "bind.c",
    "cpu.c",
    "crc32c.c",
    "error.c",
    "execute.c",
    "expr.c",
    "layout.c",
    "pool.c",
    "read.c",
    "runtime.c",
    "verify.c",
)
#: Least that a processor of a family is taken to have: the executor runs before anything is known of the machine.
BASELINE = {"x86_64": "x86_64", "aarch64": "generic"}
_FLAGS = ("-O2", "-std=c11", "-D_GNU_SOURCE", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")


class CompilesC(Protocol):
    """What is needed of a C toolchain (``tilewright.codegen.toolchain.Toolchain`` is one)."""

    @property
    def is_zig(self) -> bool:
        """Whether ``-target`` and ``-mcpu`` select the machine."""

    def compile(
        self, text: str, flags: Sequence[str], *, name: str = ..., headers: Mapping[str, str] | None = None
    ) -> bytes:
        """The object file of C text."""

    def link(self, objects: Mapping[str, bytes], flags: Sequence[str], *, libraries: Sequence[str] = ()) -> bytes:
        """A shared library of objects."""


def machine_flags(toolchain: CompilesC, triple: str) -> list[str]:
    """Flags that select the baseline processor of a target triple (``x86_64-linux-gnu.2.17``)."""
    family = triple.partition("-")[0]
    return ["-target", triple, f"-mcpu={BASELINE[family]}"] if toolchain.is_zig else []


def build_runtime(toolchain: CompilesC, triple: str) -> bytes:
    """The executor library for a target triple; it runs on every processor of the family. Cached by the toolchain."""
    flags = [*machine_flags(toolchain, triple), *_FLAGS]
    headers = {name: (NATIVE / name).read_text(encoding="utf-8") for name in HEADERS}
    objects = {}
    for name in SOURCES:
        text = (NATIVE / name).read_text(encoding="utf-8")
        objects[Path(name).stem] = toolchain.compile(text, flags, name=Path(name).stem, headers=headers)
    return toolchain.link(objects, flags, libraries=("pthread",))
