"""XLA's clients through jaxlib, loaded when a part of programs is: buffers, executables and their cache.

Only jaxlib's extension is used (``jax`` is not imported); the names that are private there are all in this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np
from tilewright.runtime.devices.mesh import Cut, Mesh
from tilewright.runtime.devices.spread import Spread, enough
from tilewright.runtime.errors import DeviceError
from tilewright.runtime.tensors import Array


class _Aval:
    """What jaxlib asks of the type of an array."""

    weak_type = False

    def __init__(self, array: Array):
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim


@cache
def _client_module() -> Any:
    try:
        from jaxlib import xla_client
    except ImportError as error:
        raise DeviceError(
            "jaxlib-missing",
            where="device xla",
            cause=f"programs for XLA are run through jaxlib, which cannot be imported ({error})",
            fix="pip install 'tilewright[xla]'",
        ) from None
    return xla_client


@cache
def _wide_types() -> Callable[[], None]:
    """What tells jaxlib to leave 64-bit types as they are."""
    from jaxlib import _jax

    setting = _jax.config.Config("tilewright_enable_x64", True, include_in_jit_key=True)
    return lambda: _jax.jax_jit.set_enable_x64_state(setting)


class Client:
    """A client of one kind of device, ``cpu``, for programs of one device or of a mesh of them.

    The CPU makes as many devices as are asked for; they are virtual, threads of the one machine.
    """

    def __init__(self, kind: str, mesh: Mesh = ()):
        """``mesh`` is the number of devices along each axis; empty for one device."""
        self._xc = _client_module()
        if kind != "cpu":
            raise DeviceError("device-missing", where=kind, cause="only cpu so far", fix="run it elsewhere")
        self._client = self._xc.make_cpu_client(num_devices=prod(mesh))
        self._devices = enough(self._client.local_devices(), mesh, kind)
        self._single = _single_device(self._xc)(self._devices[0])
        self._spread = Spread(self._xc, self._devices, mesh) if mesh else None

    def put(self, array: Array, cut: Cut = ()) -> Any:
        """A buffer with the array's contents; on a mesh, with its part on each device (:class:`Spread`)."""
        # Where jax is installed, jaxlib imports it during the first run, and its own setting replaces ours.
        _wide_types()()
        if self._spread is not None:
            return self._spread.put(_Aval(array), array, cut)
        return self._xc.batched_device_put(_Aval(array), self._single, [array], [self._devices[0]])

    def compile(self, module: bytes) -> Any:
        """An executable from portable bytes, for all devices."""
        options = self._xc.CompileOptions()
        if self._spread is not None:
            self._spread.set_options(options)
        return self._client.compile_and_load(module, self._xc.DeviceList(tuple(self._devices)), options)

    def run(self, executable: Any, arguments: Sequence[Any], cuts: Sequence[Cut] = ()) -> list[Array]:
        """Results on the host; on a mesh put together as ``cuts`` (of each result) say."""
        results = executable.execute_sharded(list(arguments)).disassemble_into_single_device_arrays()
        if self._spread is not None:
            return [self._spread.whole(shards, cut) for shards, cut in zip(results, cuts, strict=True)]
        return [np.asarray(shards[0]) for shards in results]


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
