"""Builds the executor library of an artifact from the C files of the runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import tilewright.runtime.format

#: Where the C files are.
NATIVE = Path(tilewright.runtime.format.__file__).parent / "native"
HEADERS = (
    "kernel_abi.h",
    "tilewright.h",
    "executor.h",
    "cuda_driver.h",
    "device.h",
    "npy.h",
    "crc32c.h",
)
#: What a program with ``tilewright_pjrt.h`` includes.
PJRT_HEADERS = ("crc32c.h", "npy.h", "pjrt.h", "tilewright.h", "tilewright_pjrt.h")
SOURCES = (
    "bind.c",
    "cpu.c",
    "crc32c.c",
    "cuda_device.c",
    "cuda_driver.c",
    "cuda_graph.c",
    "cuda_launch.c",
    "cuda_memory.c",
    "cuda_modules.c",
    "cuda_run.c",
    "error.c",
    "execute.c",
    "expr.c",
    "layout.c",
    "modules.c",
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

    def link(
        self,
        objects: Mapping[str, bytes],
        flags: Sequence[str],
        *,
        libraries: Sequence[str] = ...,
        program: bool = ...,
    ) -> bytes:
        """A shared library or a program of objects."""


def machine_flags(toolchain: CompilesC, triple: str) -> list[str]:
    """Flags that select the baseline processor of a target triple (``x86_64-linux-gnu.2.17``)."""
    family = triple.partition("-")[0]
    return ["-target", triple, f"-mcpu={BASELINE[family]}"] if toolchain.is_zig else []


@lru_cache(maxsize=8)
def build_runtime(toolchain: CompilesC, triple: str) -> bytes:
    """The executor library for a target triple; it runs on every processor of the family.

    Kept by the toolchain's cache, and in this process.
    """
    flags = [*machine_flags(toolchain, triple), *_FLAGS]
    return toolchain.link(
        _compile(toolchain, flags, {n: read_native(n) for n in SOURCES}), flags, libraries=("pthread", "dl")
    )


def build_stub(toolchain: CompilesC, triple: str, sources: Mapping[str, str], *, program: bool) -> bytes:
    """A library or program with the executor and ``sources`` (C text by file name), to which an artifact is added."""
    flags = [*machine_flags(toolchain, triple), *_FLAGS]
    texts = {**{n: read_native(n) for n in SOURCES}, "embed.c": read_native("embed.c"), **sources}
    return toolchain.link(_compile(toolchain, flags, texts), flags, libraries=("m", "pthread", "dl"), program=program)


def build_pjrt_program(toolchain: CompilesC, triple: str) -> bytes:
    """The program that runs an artifact's programs on a PJRT plugin; it opens an artifact by its path."""
    flags = [*machine_flags(toolchain, triple), *_FLAGS]
    headers = {name: read_native(name) for name in PJRT_HEADERS}
    program = toolchain.compile(read_native("pjrt_run.c"), flags, name="pjrt_run", headers=headers)
    return toolchain.link({"pjrt_run": program}, flags, libraries=("m", "pthread", "dl"), program=True)


def build_pjrt_stub(toolchain: CompilesC, triple: str) -> bytes:
    """The same with the executor for steps on the host, to which an artifact is added."""
    flags = [*machine_flags(toolchain, triple), *_FLAGS]
    objects = _compile(toolchain, flags, {n: read_native(n) for n in SOURCES})
    headers = {name: read_native(name) for name in (*HEADERS, *PJRT_HEADERS)}
    text = read_native("embed.c") + read_native("pjrt_run.c")  # one unit: both look into tilewright.h
    objects["pjrt_run"] = toolchain.compile(text, flags, name="pjrt_run", headers=headers)
    return toolchain.link(objects, flags, libraries=("m", "pthread", "dl"), program=True)


def read_native(name: str) -> str:
    """The text of a C file of the runtime."""
    return (NATIVE / name).read_text(encoding="utf-8")


def _compile(toolchain: CompilesC, flags: Sequence[str], sources: Mapping[str, str]) -> dict[str, bytes]:
    headers = {name: read_native(name) for name in HEADERS}
    stems = {name: Path(name).stem for name in sources}
    return {stems[n]: toolchain.compile(t, flags, name=stems[n], headers=headers) for n, t in sources.items()}
