"""Artifacts of hand-made plans, sessions on the mock GPU, and tensors of another library in its memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from tilewright import runtime
from tilewright.package.writer import Part, artifact_bytes
from tilewright.plan.plan import Plan
from tilewright.runtime import dlpack
from tilewright.runtime.gpu_session import GpuSession

from tests.cuda.mock import plans
from tests.cuda.mock.driver import NAMES, Mock, modules
from tests.runtime import programs

Array = np.ndarray[Any, np.dtype[Any]]


def part(plan: Plan, arch: int = 90, *, ptx: bool = False) -> Part:
    members = {"modules.bin": modules(arch=arch, ptx=ptx)}
    if plan.host_kernels:
        members["kernels.so"] = programs.kernels_library()
    target, folder = f"cuda:sm_{arch}", f"cuda/sm_{arch}"
    return Part(target, folder, replace(plan, kernels=NAMES), members, programs.FAMILY, apart=True)


def artifact(plan: Plan | None = None, archs: tuple[int, ...] = (90,), cpu: bool = False, ptx: bool = False) -> bytes:
    plan = plan or plans.twice()
    parts = [part(plan, arch, ptx=ptx) for arch in archs]
    parts += [programs.part(replace(plan, kernels=programs.KERNELS))] if cpu else []
    weights = programs.weights() if plan.constants else {}
    runtimes = {programs.FAMILY: programs.runtime_library()}
    return artifact_bytes(parts, weights, runtimes, {"tools": {"ptxas": "12.9.86"}})


def load(plan: Plan | None = None, **settings: Any) -> GpuSession:
    session = runtime.load(artifact(plan), "cuda", 1, **settings)
    assert isinstance(session, GpuSession)
    return session


def vector(n: int = 64, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


class Foreign:
    """A tensor of another library in the mock's memory."""

    def __init__(
        self, mock: Mock, array: Array, dtype: str = "f32", device: tuple[int, int] = (2, 0), *, old: bool = False
    ):
        with mock.context():
            self.pointer = mock.to_device(array)
        self.mock, self.shape, self.dtype, self.device, self.old = mock, array.shape, dtype, device, old
        self.streams: list[int | None] = []
        self.held = 0

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: int | None, **more: Any) -> object:
        if self.old and more:
            raise TypeError("unexpected keyword argument")
        self.streams.append(stream)
        self.held += 1
        return dlpack.give(self.pointer, self.shape, self.dtype, self.device, _Hold(self), "max_version" in more)

    def numpy(self) -> Array:
        with self.mock.context():
            return self.mock.from_device(self.pointer, np.empty(self.shape, np.float32))

    def free(self) -> None:
        with self.mock.context():
            self.mock.free(self.pointer)


class _Hold:
    def __init__(self, tensor: Foreign):
        self.tensor = tensor

    def __del__(self) -> None:
        self.tensor.held -= 1
