"""How tensors lie on a mesh of devices: which part of an array each device holds, and an array put together from parts.

A mesh is the number of devices along each axis; device ``i`` stands at the position that ``i`` has in row-major order
(of ``(2, 3)``, device 4 is at ``(1, 1)``). A *cut* lists for each dimension of a tensor the mesh axes (positions in the
mesh) that it is cut along, the slowest first; axes that no dimension names hold copies. On the mesh ``(2, 2)`` a matrix
with the cut ``((), (1,))`` is cut in two along its columns: devices 0 and 2 hold the left half, 1 and 3 the right one;
with ``((0, 1), ())`` each device holds a quarter of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from tilewright.runtime.tensors import Array

Mesh = tuple[int, ...]
#: For each dimension of a tensor, mesh axes. Nothing at all is a tensor of which every device holds the whole.
Cut = tuple[tuple[int, ...], ...]


def is_whole(cut: Cut) -> bool:
    """Whether every device holds the whole tensor."""
    return not any(cut)


def check_cut(cut: Cut, rank: int, mesh: Mesh) -> None:
    """Raise ``ValueError`` for a cut that a tensor of ``rank`` dimensions cannot have on ``mesh``."""
    axes = [axis for dim in cut for axis in dim]
    if cut and len(cut) != rank:
        raise ValueError(f"a cut of {len(cut)} dimensions for a tensor of {rank}")
    if len(set(axes)) != len(axes) or any(not 0 <= axis < len(mesh) for axis in axes):
        raise ValueError(f"a cut along axes {axes} of a mesh of {len(mesh)}")


def parts(cut: Cut, mesh: Mesh) -> tuple[int, ...]:
    """In how many parts each dimension is cut."""
    return tuple(prod(mesh[axis] for axis in dim) for dim in cut)


def shard_shape(shape: tuple[int, ...], cut: Cut, mesh: Mesh) -> tuple[int, ...]:
    """The shape of the part on one device. Raises ``ValueError`` where a size cannot be divided."""
    if is_whole(cut):
        return shape
    counts = parts(cut, mesh)
    if any(size % count for size, count in zip(shape, counts, strict=True)):
        raise ValueError(f"{'×'.join(map(str, shape))} elements cannot be cut in {'×'.join(map(str, counts))} parts")
    return tuple(size // count for size, count in zip(shape, counts, strict=True))


def slices(shape: tuple[int, ...], cut: Cut, mesh: Mesh) -> list[tuple[slice, ...]]:
    """Where the part of each device lies in the whole tensor, in the order of devices."""
    if is_whole(cut):
        return [tuple(slice(0, size) for size in shape)] * prod(mesh)
    sizes = shard_shape(shape, cut, mesh)
    found = []
    for device in range(prod(mesh)):
        at = np.unravel_index(device, mesh)
        index = []
        for axes, size in zip(cut, sizes, strict=True):
            number = 0
            for axis in axes:
                number = number * mesh[axis] + int(at[axis])
            index.append(slice(number * size, (number + 1) * size))
        found.append(tuple(index))
    return found


def assembled(shards: Sequence[Array], cut: Cut, mesh: Mesh) -> Array:
    """The whole tensor from the parts of all devices, in their order."""
    first = shards[0]
    if is_whole(cut):
        return first
    shape = tuple(size * count for size, count in zip(first.shape, parts(cut, mesh), strict=True))
    whole = np.empty(shape, first.dtype)
    done: set[tuple[int, ...]] = set()
    for shard, index in zip(shards, slices(shape, cut, mesh), strict=True):
        place = tuple(s.start for s in index)
        if place not in done:  # the others are copies
            whole[index] = shard
            done.add(place)
    return whole
