"""Picks the part of an artifact that this machine runs, and makes its plan ready."""

from __future__ import annotations

import ctypes
import platform
import sys
from ctypes import c_void_p
from typing import Any, TypeVar

import numpy as np
from tilewright.runtime.artifact import Artifact, aligned_copy
from tilewright.runtime.errors import ArtifactError, DeviceError, InputError, ResourceError, RunError
from tilewright.runtime.format import CHECKSUMS, SEGMENT, TENSOR_ALIGNMENT, WEIGHTS
from tilewright.runtime.library import (
    Error,
    Runtime,
    Weight,
    Weights,
    kernel_table,
    load_library,
    runtime_table,
)
from tilewright.runtime.manifest import TargetInfo

_ERRORS: dict[int, tuple[type[RunError], str, str]] = {
    2: (InputError, "input-mismatch", "give inputs that fit the model's signature"),
    7: (ResourceError, "out-of-memory", "use smaller inputs, or a machine with more memory"),
    8: (DeviceError, "device-failed", "see the message"),
    9: (ArtifactError, "artifact-damaged", "compile the model again"),
}


def raise_error(error: Error, where: str) -> None:
    """Raise what the executor reported."""
    kind, code, fix = _ERRORS.get(error.code, (RunError, "internal", "report this"))
    # The executor names the entry point, for C programs; here `where` does already.
    cause = error.text.decode("utf-8", "replace").removeprefix(f"{where.rpartition(', ')[2]}: ")
    raise kind(code, where=where, cause=cause, fix=fix)


class LoadedPlan:
    """A plan in the executor, with everything it points to. Freed with the last run that uses it."""

    def __init__(self, artifact: Artifact, target: TargetInfo, table: Runtime, threads: int):
        self.artifact, self.target, self.table = artifact, target, table
        self.handle = c_void_p()
        plan = artifact.checked(_member(artifact, target, "plan.bin"))
        self.weights = _checked_weights(artifact, table, threads)
        weights = _weight_table(artifact, self.weights)
        error = Error()
        if self._create(np.frombuffer(plan, np.uint8).ctypes.data, len(plan), weights, threads, error):
            raise_error(error, artifact.where)

    def _create(self, plan: int, size: int, weights: Weights, threads: int, error: Error) -> int:
        """Have the executor read a plan of ``size`` bytes; its code, which is not 0 where it failed."""
        kernels, count = self.kernels()
        code: int = self.table.create(
            ctypes.byref(self.handle),
            *(plan, size, ctypes.byref(weights), kernels, count, threads),
            ctypes.byref(error),
        )
        return code

    def kernels(self) -> tuple[int, int]:
        """Address and length of the table of the processor's kernels."""
        name = _member(self.artifact, self.target, "kernels.so")
        where = f"{self.artifact.where}, {name}"
        library = load_library(self.artifact.checked(name), self.artifact.manifest.hashes[name], where)
        return kernel_table(library, where)

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.table.destroy(self.handle)


def load_plan(artifact: Artifact, device: str, threads: int | None) -> LoadedPlan:
    """The plan of the best part that this machine can run.

    Args:
        artifact: an opened artifact.
        device: ``auto``, ``cpu``, or a target's spelling to run exactly that one.
        threads: ``None`` for the processors that this process may use.

    Raises:
        DeviceError: the artifact holds nothing for this machine, or not for ``device`` (exit 8).
    """
    family = _family()
    targets = artifact.manifest.targets
    offered = [t for t in targets if device == "auto" or device in t.spellings]
    apart = [t for t in targets if t.has_programs or t.has_modules]
    mine = [t for t in offered if t.family == family and not t.is_apart and sys.platform == "linux"]
    if not mine:
        sources = [t.target for t in offered if t.has_sources]
        if sources and (device != "auto" or len(sources) == len(targets)):
            raise _not_built(artifact, sources)
        held = ", ".join(t.target for t in targets) or "nothing"
        named = " or ".join(f"--device {t.target.replace(':', '-')}" for t in apart)
        raise DeviceError(
            "device-missing",
            where=artifact.where,
            cause=f"it holds {held}; none of it is for device {device!r} on {sys.platform} {family}",
            fix=f"name the device ({named})" if named and device == "auto" else _COMPILE,
        )
    table = executor(artifact, mine[0], Runtime)
    return LoadedPlan(artifact, _first_that_runs(artifact, mine, table), table, threads or table.threads_default())


_COMPILE = "compile the model for this machine, or name a device that the artifact holds"


def _not_built(artifact: Artifact, targets: list[str]) -> DeviceError:
    """What is raised for parts whose kernels are source text."""
    return DeviceError(
        "device-not-built",
        where=artifact.where,
        cause=f"its kernels for {', '.join(targets)} are source text, which only the device's own toolkit compiles "
        "(CANN, for Ascend NPUs): this runtime has none",
        fix=f"write the project with `tilewright export {artifact.where} --as dir -o FOLDER`, and build and run it "
        "where toolkit and device are (its README has the commands); or name another device in the artifact",
    )


def load_host(artifact: Artifact, target: TargetInfo, threads: int | None) -> LoadedPlan:
    """The plan of the host part of a part of programs.

    Raises:
        DeviceError: its kernels are not for this machine (exit 8).
    """
    require_host(artifact, target)
    table = executor(artifact, target, Runtime)
    return LoadedPlan(artifact, target, table, threads or table.threads_default())


def require_host(artifact: Artifact, target: TargetInfo) -> None:
    """Raise :class:`DeviceError` where the host part of a part is not for this machine."""
    family = _family()
    if target.host_family != family or sys.platform != "linux":
        raise DeviceError(
            "device-missing",
            where=artifact.where,
            cause=f"the host part of {target.target} is for linux {target.host_family}, not {sys.platform} {family}",
            fix=_COMPILE,
        )
    table = executor(artifact, target, Runtime)
    needed = target.host_requires if "kernels.so" in target.members else ()
    missing = [name for name, *bit in needed if not table.cpu_has(*bit)]
    if missing:
        raise DeviceError(
            "cpu-too-old",
            where=artifact.where,
            cause=f"the host part of {target.target} needs {', '.join(missing)}, which this CPU lacks",
            fix="run it beside a newer CPU",
        )


_Table = TypeVar("_Table", bound=Runtime)


def executor(artifact: Artifact, target: TargetInfo, kind: type[_Table]) -> _Table:
    """The functions of a part's executor, which is loaded into this process."""
    name = _member(artifact, target, "runtime.so")
    library = load_library(artifact.checked(name), artifact.manifest.hashes[name], f"{artifact.where}, {name}")
    return runtime_table(library, f"{artifact.where}, {name}", kind)


def _family() -> str:
    machine = platform.machine()
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def _first_that_runs(artifact: Artifact, targets: list[TargetInfo], table: Runtime) -> TargetInfo:
    lacking = []
    for target in targets:
        missing = [name for name, *bit in target.requires if not table.cpu_has(*bit)]
        if not missing:
            return target
        lacking.append(f"{target.target} needs {', '.join(missing)}")
    raise DeviceError(
        "cpu-too-old",
        where=artifact.where,
        cause=f"this CPU lacks features of every part: {'; '.join(lacking)}",
        fix="compile the model for this CPU: -t cpu:native on it, or a lower level",
    )


def _member(artifact: Artifact, target: TargetInfo, name: str) -> str:
    if name not in target.members:
        raise artifact.damaged("manifest.json", f"{target.target} has no {name}")
    return target.members[name]


def _checked_weights(artifact: Artifact, table: Runtime, threads: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The weights where they lie, after their checksums were compared."""
    weights = np.frombuffer(artifact.bytes_of(WEIGHTS), np.uint8)
    if weights.ctypes.data % TENSOR_ALIGNMENT:
        weights = aligned_copy(weights.data)
    sums = np.frombuffer(artifact.checked(CHECKSUMS), np.uint8)
    bad = table.check_crc(weights.ctypes.data, len(weights), sums.ctypes.data, threads)
    if bad >= 0:
        raise artifact.damaged(WEIGHTS, f"the checksum of its bytes from {bad * SEGMENT} on does not match")
    return weights


def _weight_table(artifact: Artifact, data: np.ndarray[Any, np.dtype[np.uint8]]) -> Weights:
    tensors = artifact.manifest.weights
    table = (Weight * len(tensors))(*(Weight(w.name.encode(), w.offset, w.size) for w in tensors))
    return Weights(data.ctypes.data, len(data), table, len(tensors))
