"""Programs on a device: executables of the artifact, of the user's cache or compiled here, and the weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tilewright.runtime.artifact import Artifact, aligned_copy
from tilewright.runtime.devices.cache import ExecutableCache, key_of
from tilewright.runtime.devices.mesh import Cut
from tilewright.runtime.devices.xla import BYTECODE, Client
from tilewright.runtime.errors import ArtifactError, DeviceError, RunError
from tilewright.runtime.format import TENSOR_ALIGNMENT, WEIGHTS
from tilewright.runtime.manifest import TargetInfo, TensorInfo
from tilewright.runtime.programs import Step, Variant
from tilewright.runtime.tensors import DTYPES, PACKED, Array, dtype_of, unpacked

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(slots=True)
class JitClock:
    """Seconds that were spent on compiling here so far; it outlives what was compiled."""

    seconds: float = 0.0


class LoadedPrograms:
    """What entry points and buckets share. Any number of threads may use it."""

    def __init__(
        self,
        artifact: Artifact,
        target: TargetInfo,
        client: Client,
        cache: ExecutableCache,
        allow_jit: bool,
        weights: Bytes | None,
    ):
        """``weights`` are those that the host part checked already; without one their SHA-256 is checked here."""
        self.client, self.clock = client, JitClock()
        self._artifact, self._target, self._cache, self._allowed = artifact, target, cache, allow_jit
        self._weights = _checked(artifact) if weights is None else weights
        self._infos = {w.name: w for w in artifact.manifest.weights}
        self._resident: dict[tuple[str, Cut], Any] = {}
        self._executables: dict[str, Any] = {}
        self._refused: dict[str, str] = {}  # executables of the artifact that do not fit this machine, and why
        self._lock = threading.Lock()

    def require(self, steps: Iterable[Step]) -> None:
        """Raise :class:`DeviceError` for a step of which no program can be run without compiling, where that is not
        allowed."""
        if self._allowed:
            return
        for step in steps:
            if step.variants and not any(self._is_there(v) for v in step.variants):
                raise self._missing(step.variants[0])

    def executable(self, variant: Variant) -> Any:
        """The program of a bucket, loaded. Raises :class:`DeviceError` where it would have to be compiled, and may
        not be."""
        with self._lock:
            found = self._executables.get(variant.module)
            if found is None:
                found = self._executables[variant.module] = self._load(variant)
            return found

    def weight(self, name: str, cut: Cut = ()) -> Any:
        """A weight on the device; on a mesh cut as is asked."""
        with self._lock:
            if (name, cut) not in self._resident:
                self._resident[name, cut] = self.client.put(self._argument(name), cut)
            return self._resident[name, cut]

    def constant(self, name: str) -> Array:
        """A weight on the host, in the form of inputs and outputs; memory that may not be written."""
        weight = self._infos[name]
        info = TensorInfo(name, weight.dtype, weight.shape)
        data = self._weights[weight.offset : weight.offset + weight.size]
        if weight.dtype in PACKED:
            return unpacked(info, data, weight.shape)
        array: Array = data.view(dtype_of(info)[1]).reshape(weight.shape)
        array.flags.writeable = False
        return array

    def _argument(self, name: str) -> Array:
        """A weight as programs take it: types of less than 8 bits as the bytes that hold them."""
        weight = self._infos[name]
        if weight.dtype in PACKED:
            return self._weights[weight.offset : weight.offset + weight.size]
        return for_device(self.constant(name), weight.dtype)

    def _is_there(self, variant: Variant) -> bool:
        if self._from_artifact(variant) is not None:
            return True
        return self._cache.has(self._key(variant))

    def _load(self, variant: Variant) -> Any:
        found = self._from_artifact(variant)
        if found is None:
            found = self._from_cache(variant)
        if found is None:
            found = self._compiled(variant)
        return found

    def _from_artifact(self, variant: Variant) -> Any:
        if not variant.executable or variant.executable in self._refused:
            return None
        if variant.module in self._executables:
            return self._executables[variant.module]
        data = bytes(self._artifact.checked(self._target.members[variant.executable]))
        try:
            self._executables[variant.module] = self.client.deserialize(data)
        except Exception as error:  # of another version or chip; jaxlib raises what it likes
            self._refused[variant.executable] = str(error).strip().partition("\n")[0][:200]
            return None
        return self._executables[variant.module]

    def _from_cache(self, variant: Variant) -> Any:
        data = self._cache.get(self._key(variant))
        if data is None:
            return None
        try:
            return self.client.deserialize(data)
        except Exception:  # as if it were not there
            return None

    def _compiled(self, variant: Variant) -> Any:
        if not self._allowed:
            raise self._missing(variant)
        module = self._module(variant)
        start = time.perf_counter()
        try:
            made = self.client.compile(module)
        except RunError:
            raise
        except Exception as error:
            raise self._uncompiled(variant, error) from None
        self.clock.seconds += time.perf_counter() - start
        try:
            data = self.client.serialize(made)
        except Exception:  # not every client can
            return made
        self._cache.put(self._key(variant), data)
        return made

    def _module(self, variant: Variant) -> bytes:
        name = self._target.members[variant.module]
        module = bytes(self._artifact.checked(name))
        if not module.startswith(BYTECODE):
            raise self._artifact.damaged(name, "it is no portable program")
        return module

    def _key(self, variant: Variant) -> str:
        digest = self._artifact.manifest.hashes.get(self._target.members[variant.module], "")
        return key_of((digest, self.client.version, self.client.name, self.client.options().SerializeAsString()))

    def _missing(self, variant: Variant) -> DeviceError:
        name = self._target.members[variant.module]
        why = self._refused.get(variant.executable, "")
        told = f"; the one it has does not load ({why})" if why else ""
        return DeviceError(
            "executable-missing",
            where=f"{self._artifact.where}, {name}",
            cause=f"there is no executable of this program for {self.client.name!r} ({self.client.version}){told}",
            fix="let XLA compile it here, once: --allow-jit, allow_jit=True or TILEWRIGHT_ALLOW_JIT=1",
        )

    def _uncompiled(self, variant: Variant, error: Exception) -> RunError:
        where = f"{self._artifact.where}, {self._target.members[variant.module]}"
        text = str(error).strip()
        cause = f"XLA does not compile it: {text.splitlines()[0][:500] if text else type(error).__name__}"
        if "parse" in text or "MLIR" in text or "StableHLO" in text:
            return ArtifactError("artifact-damaged", where=where, cause=cause, fix="compile the model again")
        return DeviceError("device-failed", where=where, cause=cause, fix="see the message, or use another device")


def _checked(artifact: Artifact) -> Bytes:
    """The weights where they lie, after their SHA-256 was compared: the executor, which has the faster sums of parts,
    is only in artifacts with kernels."""
    weights = np.frombuffer(artifact.checked(WEIGHTS), np.uint8)
    return aligned_copy(weights.data) if weights.ctypes.data % TENSOR_ALIGNMENT else weights


def for_device(array: Array, dtype: str) -> Array:
    """An array in the form of inputs and outputs, in the type that says what its bits mean."""
    kind = device_type(dtype)
    if array.dtype == kind:
        return array
    return array.astype(kind) if array.dtype.kind == "i" else array.view(kind)


def from_device(array: Array, dtype: str) -> Array:
    """The reverse of :func:`for_device`."""
    plain = DTYPES[dtype][1]
    if array.dtype == plain:
        return array
    return array.astype(plain) if plain.kind == "i" else array.view(plain)


def device_type(dtype: str) -> np.dtype[Any]:
    """The NumPy type of a device's arrays of a type."""
    _, plain, names = DTYPES[dtype]
    if not names:
        return plain
    import ml_dtypes  # jaxlib needs it too

    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, names[0]))
    return found
