"""Programs on a mesh of devices through jaxlib: how XLA is to spread them, arrays in parts, and back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np
from tilewright.runtime.devices.mesh import Cut, Mesh, assembled, is_whole, parts, slices
from tilewright.runtime.errors import DeviceError
from tilewright.runtime.tensors import Array


def enough(devices: Sequence[Any], mesh: Mesh, kind: str) -> list[Any]:
    """The devices that a mesh takes, of those there are. Raises :class:`DeviceError` where they are too few."""
    wanted = prod(mesh)
    if len(devices) < wanted:
        raise DeviceError(
            "device-missing",
            where=f"device {kind}",
            cause=f"the programs are for a mesh of {'x'.join(map(str, mesh))}: they need {wanted} devices, "
            f"found {len(devices)}",
            fix="run it where there are as many, or compile it for a smaller --mesh",
        )
    return list(devices[:wanted])


class Spread:
    """The devices of a mesh, in row-major order. Any number of threads may use it."""

    def __init__(self, xc: Any, devices: Sequence[Any], mesh: Mesh):
        """``xc`` is ``jaxlib.xla_client``; ``devices`` are as many as the mesh has."""
        self.mesh = mesh
        self._xc, self._devices = xc, list(devices)
        self._list = xc.DeviceList(tuple(devices))

    def set_options(self, options: Any) -> None:
        """Say in ``CompileOptions`` that the program is one for all devices, spread by XLA's partitioner (Shardy)."""
        options.num_replicas, options.num_partitions = 1, len(self._devices)
        numbers = np.array([device.id for device in self._devices]).reshape(1, len(self._devices))
        options.device_assignment = self._xc.DeviceAssignment.create(numbers)
        options.executable_build_options.use_spmd_partitioning = True
        options.executable_build_options.use_shardy_partitioner = True

    def put(self, aval: Any, array: Array, cut: Cut) -> Any:
        """A buffer with the array's contents: each device gets its part, the only one that is copied to it.

        ``aval`` is what jaxlib asks of the type. Raises ``ValueError`` where a size cannot be divided.
        """
        shards = [array[index] for index in slices(array.shape, cut, self.mesh)]
        sharding = _sharding_class()(self._list, hlo_sharding(self._xc, cut, self.mesh))
        return self._xc.batched_device_put(aval, sharding, shards, self._devices, enable_x64=True)

    def whole(self, shards: Sequence[Any], cut: Cut) -> Array:
        """A result on the host from the buffers of all devices."""
        if is_whole(cut):
            return memory_of(shards[0])
        return assembled(list(map(memory_of, shards)), cut, self.mesh)


def memory_of(buffer: Any) -> Array:
    """What a buffer holds, once it is there; memory that may not be written."""
    array: Array = buffer._single_device_array_to_np_array_did_copy()[0]
    return array


def hlo_sharding(xc: Any, cut: Cut, mesh: Mesh) -> Any:
    """A cut as XLA writes it: the parts of each dimension, then the copies, over a reordering of the devices."""
    if is_whole(cut):
        return xc.HloSharding.replicate()
    along = [axis for dim in cut for axis in dim]
    others = [axis for axis in range(len(mesh)) if axis not in along]
    counts, copies = list(parts(cut, mesh)), prod(mesh[axis] for axis in others)
    types = [xc.OpSharding.Type.REPLICATED] if copies > 1 else []
    if copies > 1:
        counts.append(copies)
    return xc.HloSharding.iota_tile(
        counts, reshape_dims=list(mesh), transpose_perm=along + others, subgroup_types=types
    )


@cache
def _sharding_class() -> Any:
    from jaxlib import _jax

    class Sharding(_jax.GSPMDSharding):  # type: ignore[misc]
        """As jaxlib has it, with what jax would add to the class."""

        memory_kind = None

        def _to_xla_hlo_sharding(self, rank: int) -> Any:
            del rank
            return self._hlo_sharding

    return Sharding
