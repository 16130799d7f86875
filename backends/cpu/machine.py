"""From a CPU target to compiler options, and from this machine to the targets that it can run."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tilewright.codegen.toolchain import Toolchain
from tilewright.errors import UsageError
from tilewright.target import Target, load_targets

FOLDER = Path(__file__).parent

#: What ``cpu`` stands for on x86-64: one file that runs on Haswell and later, with VNNI where there is some.
PORTABLE = ("cpu:x86-64-v3", "cpu:x86-64-v4+vnni")

#: Options of every target. No instruction of the machine that compiles, no path and no time may enter the result.
#: Contraction is allowed (fma), reassociation is not: sums keep the order that the source gives them.
FLAGS = (
    "-std=gnu11",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fwrapv",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fno-ident",
    "-w",
)


def headers() -> dict[str, str]:
    """The header files that generated kernels include, by name: ours, and the calling convention of the runtime.

    The convention is read as a file, where the runtime lies; nothing of the runtime is imported.
    """
    runtime = find_spec("tilewright.runtime")
    assert runtime is not None and runtime.submodule_search_locations is not None
    abi = Path(runtime.submodule_search_locations[0]) / "native" / "kernel_abi.h"
    return {p.name: p.read_text(encoding="utf-8") for p in [abi, *sorted((FOLDER / "native").glob("*.h"))]}


@cache
def targets() -> Mapping[str, Target]:
    """The CPU targets by spelling."""
    return load_targets(FOLDER / "targets", "cpu")


def codegen(target: Target) -> Mapping[str, Any]:
    """The ``[codegen]`` table of a target."""
    table: Mapping[str, Any] = target.extra["codegen"]
    return table


def lanes(target: Target) -> int:
    """32-bit elements of one vector register."""
    return target.vector_bytes // 4


def march_of(target: Target) -> list[str]:
    """The options that choose the machine, for clang and gcc."""
    first, *more = str(codegen(target)["march"]).split()
    return [f"-march={first}", *more]


def flags(target: Target, tools: Toolchain) -> tuple[str, ...]:
    """Compiler options of a target for a toolchain.

    A bare clang is given what ``zig cc -O3`` gives it: -O2, frame pointers, and no tuning for one processor.
    """
    table = codegen(target)
    march = tuple(march_of(target))
    if tools.linker:
        triple = target.triple.partition(".")[0]  # without the version of the C library
        tuning = ("-mtune=generic", "-O2", "-fno-omit-frame-pointer")
        machine: tuple[str, ...] = ("-target", triple, *march, *tuning)
    elif tools.is_zig:
        machine = ("-target", target.triple, f"-mcpu={table['mcpu']}", "-fno-sanitize=all", "-O3")
    else:
        machine = (*march, "-O3")
    return (*machine, *FLAGS, *table["flags"])


def features_of_this_machine(cpuinfo: str | None = None) -> frozenset[str]:
    """Feature names as Linux prints them (``avx2``, ``asimd``). Empty where there is no ``/proc/cpuinfo``."""
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return frozenset()
    for line in cpuinfo.splitlines():
        key, _, words = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(words.split())
    return frozenset()


def needed_features(target: Target) -> frozenset[str]:
    """Names of the feature bits that a loader must find."""
    return frozenset(bit["name"] for key in ("cpuid", "hwcap") for bit in target.extra.get(key, ()))


def runnable(cpuinfo: str | None = None, machine: str | None = None) -> tuple[Target, ...]:
    """Targets that this machine can run, the most capable last."""
    here = features_of_this_machine(cpuinfo)
    machine = machine or platform.machine().lower()
    family = "aarch64" if machine in ("aarch64", "arm64") else "x86" if machine in ("x86_64", "amd64") else machine
    able = [t for t in targets().values() if t.arch.startswith(family) and needed_features(t) <= here]
    return tuple(sorted(able, key=lambda t: len(needed_features(t))))


def resolve(spelling: str) -> tuple[Target, ...]:
    """The targets of ``cpu`` (portable), ``cpu:native`` or one full spelling.

    Raises:
        UsageError: no such target, or none that this machine can run.
    """
    known = targets()
    if spelling == "cpu":
        return tuple(known[s] for s in PORTABLE)
    if spelling == "cpu:native":
        able = runnable()
        if not able:
            raise UsageError(
                "target-native",
                where=spelling,
                cause=f"no CPU target fits this machine ({platform.machine()})",
                fix=f"name one of {', '.join(known)}",
            )
        return able[-1:]
    if spelling in known:
        return (known[spelling],)
    raise UsageError(
        "unknown-target",
        where=spelling,
        cause="no such CPU target",
        fix=f"name one of cpu, cpu:native, {', '.join(known)}",
    )
