"""The CPU backend: tile IR to C to one shared library of kernels for each target."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from tilewright.backends.base import Binary, Code, KernelBackend, LaunchSize, Source, Support, name_of
from tilewright.backends.cpu import machine, schedule
from tilewright.backends.cpu.emit import emit_kernel, launch
from tilewright.backends.cpu.routine import emit_routine, routines
from tilewright.codegen.cstyle import C_TYPES, identifier
from tilewright.codegen.toolchain import Toolchain, default_toolchain
from tilewright.kernel.routine import Routine
from tilewright.kernel.schedule import Schedule, Scheduled
from tilewright.kernel.tile import Kernel
from tilewright.target import Target

#: The member of an artifact's target folder that holds the kernels.
LIBRARY = "kernels.so"
_TABLE = "table.c"


class CpuBackend(KernelBackend):
    """C with vector types for x86-64 and aarch64."""

    name: ClassVar[str] = "cpu"
    folder: ClassVar[Path] = machine.FOLDER

    def __init__(self, tools: Toolchain | None = None):
        """``tools`` compiles; the pinned default, made at the first build, when ``None``."""
        self._tools = tools

    def supports(self, kernel: Kernel | Routine, target: Target) -> Support:
        """Every kernel and every routine of ordinary element types."""
        if isinstance(kernel, Routine) and kernel.name not in routines():
            return Support(False, f"there is no CPU routine {kernel.name}")
        dtypes = kernel.dtypes if isinstance(kernel, Routine) else [p.dtype for p in kernel.params]
        strange = sorted({str(d) for d in dtypes if d not in C_TYPES})
        if strange:
            return Support(False, f"element type {', '.join(strange)} has no CPU kernels")
        return Support(True)

    def schedules(self, kernel: Kernel, target: Target) -> Iterator[Schedule]:
        """See :func:`tilewright.backends.cpu.schedule.schedules`."""
        return schedule.schedules(kernel, target)

    def emit(self, kernels: Sequence[Code], target: Target) -> Source:
        """One file a kernel and a table of their functions in the given order."""
        files: dict[str, str] = {}
        symbols: dict[str, str] = {}
        order: list[str] = []
        for code in kernels:
            symbol = f"tw_{identifier(name_of(code))}"
            while f"{symbol}.c" in files:
                symbol += "_"
            files[f"{symbol}.c"] = (
                emit_routine(code, symbol, target)
                if isinstance(code, Routine)
                else emit_kernel(code, target, symbol).text
            )
            symbols[name_of(code)] = symbol
            order.append(symbol)
        files[_TABLE] = _table(order)
        return Source(files, symbols)

    def build(self, source: Source, target: Target) -> Binary:
        """Compile each file (a text compiled before comes from the cache) and link once."""
        tools = self._tools = self._tools or default_toolchain()
        bare = tools.bare
        options = machine.flags(target, bare)
        headers = machine.headers()

        def compiled(item: tuple[str, str]) -> tuple[str, bytes]:
            stem = Path(item[0]).stem
            return stem, bare.compile(item[1], options, name=stem, headers=headers)

        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with ThreadPoolExecutor(cpus) as pool:  # threads that only wait: each compiler is a process
            objects = dict(pool.map(compiled, source.files.items()))
        if any('libm.h"' in text for text in source.files.values()):
            library = tools.link(objects, machine.flags(target, tools), libraries=("m", "c"))
        else:
            library = bare.link(objects, options)
        return Binary({LIBRARY: library}, {"cc": tools.version})

    def project(self, source: Source, target: Target) -> Mapping[str, str]:
        """Also the headers, and ``options.json``: a compiler's options by processor family, ``common`` of all."""
        options = {"common": ["-O3", *machine.FLAGS], target.family: machine.march_of(target)}
        return {**source.files, **machine.headers(), "options.json": json.dumps(options, indent=1) + "\n"}

    def resolve(self, spelling: str) -> tuple[Target, ...]:
        """Also ``cpu``, the portable set, and ``cpu:native``."""
        return machine.resolve(spelling)

    def launch(self, scheduled: Scheduled, target: Target) -> LaunchSize:
        """Number of blocks and scratch bytes of a worker; see :func:`tilewright.backends.cpu.emit.launch`."""
        return LaunchSize(*launch(scheduled, target))


def _table(symbols: Sequence[str]) -> str:
    """The two symbols that a kernel library exports; see ``runtime/native/kernel_abi.h``."""
    lines = ['#include "kernel_abi.h"', ""]
    lines += [f"void {s}(const tw_args *args, int64_t begin, int64_t end);" for s in symbols]
    export = '__attribute__((visibility("default")))'
    lines += ["", f"{export} const tw_kernel tw_kernels_v1[] = {{"]
    lines += [f"    {s}," for s in symbols] + ["};"] if symbols else ["    0};"]
    lines.append(f"{export} const uint32_t tw_kernel_count_v1 = {len(symbols)};")
    return "\n".join(lines) + "\n"
