"""XLA's clients through jaxlib, loaded when a part of programs is: buffers, executables.

Only jaxlib's extension is used (``jax`` is not imported); the names that are private there are all in this file.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from tilewright.runtime.devices.mesh import Cut, Mesh
from tilewright.runtime.devices.probe import missing, require_plugin
from tilewright.runtime.devices.spread import Spread, enough, memory_of
from tilewright.runtime.errors import DeviceError, ResourceError, RunError
from tilewright.runtime.tensors import Array

#: What portable bytes begin with (MLIR bytecode). Text would be parsed too, and is nothing that a compiler writes.
BYTECODE = b"ML\xefR"
#: Read by XLA where a client is made: threads of its pool; and where it is loaded: 3 logs only what is fatal.
_THREADS, _LOG = "PJRT_NPROC", "TF_CPP_MIN_LOG_LEVEL"
#: In jaxlib 0.10.2 what XLA hands to YNNPACK reads memory that nobody wrote: the mean over the last image of SqueezeNet
#: was 0 in one load and infinite in the next, from the same program and arguments (tests/xla/test_repeated_loads.py).
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}
_lock = threading.Lock()


class _Aval:
    """What jaxlib asks of the type of an array."""

    weak_type = False

    def __init__(self, array: Array):
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim


@cache
def _client_module() -> Any:
    try:
        with _Environment({_LOG: os.environ.get(_LOG, "3")}):
            from jaxlib import xla_client
    except ImportError as error:
        raise DeviceError(
            "jaxlib-missing",
            where="device xla",
            cause=f"programs for XLA are run through jaxlib, which cannot be imported ({error})",
            fix="pip install 'tilewright[xla]'",
        ) from None
    buffer = xla_client.ArrayImpl
    if not hasattr(buffer, "shape"):  # where jax is installed, jaxlib imports it, and it adds these in its own way
        buffer.shape = property(lambda b: memory_of(b).shape)
        buffer.dtype = property(lambda b: memory_of(b).dtype)
    return xla_client


class _Environment:
    """Variables that a library reads while it starts, put back afterwards."""

    def __init__(self, values: dict[str, str]):
        self._values = values

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._values}
        os.environ.update(self._values)

    def __exit__(self, *exception: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Client:
    """A client of one kind of device, ``cpu``, ``tpu`` or ``cuda``, for programs of one device or of a mesh of them.

    The CPU makes as many devices as are asked for; they are virtual, threads of the one machine. Any number of threads
    may use a client.

    Attributes:
        kind: as it was asked for.
        name: of the devices, as they call themselves.
        version: of what compiles and runs programs: an executable fits no other.
        threads: of the processor that work on a program; 0 where it does not.
    """

    def __init__(self, kind: str, mesh: Mesh = (), threads: int | None = None):
        """Take devices of a kind: ``mesh`` is their number along each axis, empty for one.

        Raises :class:`DeviceError` that says what is missing (exit 8).
        """
        self.kind = kind
        self._xc = _client_module()
        self.threads = 0
        if kind == "cpu":
            self.threads = threads or processors()
            with _lock, _Environment({_THREADS: str(self.threads), _LOG: os.environ.get(_LOG, "3")}):
                self._client = self._xc.make_cpu_client(num_devices=prod(mesh))
        elif kind in ("tpu", "cuda"):
            self._client = _plugin_client(kind)
        else:
            raise missing(kind, "XLA is run on cpu, tpu and cuda", "name a device that the artifact holds")
        self._devices = enough(self._client.local_devices(), mesh, kind)
        self.name = str(self._devices[0].device_kind)
        told = f"{self._client.platform} {self._client.platform_version} jaxlib {_jaxlib_version()}"
        self.version = " ".join(told.split())
        if kind == "cpu":  # code for this processor, as LLVM sees it
            self.version += f" {_processor()} {_CPU_OPTIONS}"
        self._single = _single_device(self._xc)(self._devices[0])
        self._spread = Spread(self._xc, self._devices, mesh) if mesh else None

    def put(self, array: Array, cut: Cut = ()) -> Any:
        """A buffer with the array's contents: its very memory on the CPU where it is aligned to 64 bytes, so that the
        array may not change as long as the buffer is used. On a mesh, its part on each device (:class:`Spread`)."""
        if self._spread is not None:
            return self._spread.put(_Aval(array), array, cut)
        # 64-bit types stay as they are, whatever jax's own setting is.
        where = (self._single, [array], [self._devices[0]])
        return self._xc.batched_device_put(_Aval(array), *where, enable_x64=True)

    def options(self) -> Any:
        """How programs are compiled."""
        options = self._xc.CompileOptions()
        options.num_replicas = options.num_partitions = 1
        if self._spread is not None:
            self._spread.set_options(options)
        if self.kind == "cpu":
            options.env_option_overrides = list(_CPU_OPTIONS.items())
        return options

    def compile(self, module: bytes) -> Any:
        """An executable from portable bytes. Raises what XLA raises."""
        return self._client.compile_and_load(module, self._list(), self.options())

    def serialize(self, executable: Any) -> bytes:
        """An executable as bytes, for :meth:`deserialize` of a client of the same :attr:`version`."""
        return bytes(self._client.serialize_executable(executable))

    def deserialize(self, data: bytes) -> Any:
        """An executable of :meth:`serialize`. It is code: the caller knows where it comes from."""
        return self._client.deserialize_executable(data, self._list(), self.options())

    def execute(self, executable: Any, arguments: Sequence[Any]) -> list[Any]:
        """Start a program; of each result its buffers, one a device. Raises :class:`RunError` for what the device
        reports."""
        try:
            results = executable.execute_sharded(list(arguments)).disassemble_into_single_device_arrays()
        except (self._xc.XlaRuntimeError, ValueError, TypeError) as error:
            raise failed(self.kind, error) from None
        return list(results)

    def fetch(self, shards: Sequence[Any], cut: Cut = ()) -> Array:
        """A result on the host, once it is there; memory that may not be written. On a mesh put together from what
        each device has, as ``cut`` says."""
        try:
            return memory_of(shards[0]) if self._spread is None else self._spread.whole(shards, cut)
        except self._xc.XlaRuntimeError as error:
            raise failed(self.kind, error) from None

    def run(self, executable: Any, arguments: Sequence[Any], cuts: Sequence[Cut] = ()) -> list[Array]:
        """Results on the host; on a mesh put together as ``cuts`` (of each result) say."""
        results = self.execute(executable, arguments)
        return [self.fetch(shards, cut) for shards, cut in zip(results, cuts or [()] * len(results), strict=True)]

    def temporaries(self, executable: Any) -> int:
        """Bytes of device memory that a run of a program takes besides arguments and results; 0 where nobody knows."""
        try:
            return int(executable.get_compiled_memory_stats().temp_size_in_bytes)
        except (self._xc.XlaRuntimeError, AttributeError, TypeError):
            return 0

    def _list(self) -> Any:
        return self._xc.DeviceList(tuple(self._devices))


@cache
def _single_device(xc: Any) -> Any:
    class Whole(xc.SingleDeviceSharding):  # type: ignore[misc]
        """On one device; with what jax would add to the class."""

        memory_kind = None
        is_fully_replicated = True

        def _to_xla_hlo_sharding(self, rank: int) -> Any:
            del rank
            return xc.HloSharding.replicate()

        def shard_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
            return shape

    return Whole


def failed(kind: str, error: Exception) -> RunError:
    """What XLA reported, as an error of ours."""
    text = str(error).strip().splitlines()[0][:500] if str(error).strip() else type(error).__name__
    if "RESOURCE_EXHAUSTED" in text:
        fix = "use smaller inputs, or a device with more memory"
        return ResourceError("out-of-memory", where=f"device {kind}", cause=text, fix=fix)
    return DeviceError("device-failed", where=f"device {kind}", cause=text, fix="see the message")


@cache
def _plugin_client(kind: str) -> Any:
    """The one client of a plugin: a process holds its devices once."""
    xc = _client_module()
    library = require_plugin(kind)
    try:
        if not xc.pjrt_plugin_loaded(kind):
            xc.load_pjrt_plugin_dynamically(kind, library)
        if not xc.pjrt_plugin_initialized(kind):
            xc.initialize_pjrt_plugin(kind)
        return xc.make_c_api_client(kind)
    except (xc.XlaRuntimeError, ValueError) as error:
        raise failed(kind, error) from None


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _jaxlib_version() -> str:
    from jaxlib import version

    return str(version.__version__)


@cache
def _processor() -> str:
    """What tells processors apart for which code differs."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return os.uname().machine
    keys = ("model name", "flags", "cpu family", "model", "stepping", "Features", "CPU implementer", "CPU part")
    first = {k: v for line in reversed(lines) for k, _, v in [line.partition(":")] if k.strip() in keys}
    told = os.uname().machine + "".join(f"{k.strip()}={v.strip()};" for k, v in sorted(first.items()))
    return hashlib.sha256(told.encode()).hexdigest()[:16]
