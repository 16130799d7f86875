"""Tensors in the memory of a GPU: what runs leave there, and what other libraries have there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from tilewright.runtime import dlpack
from tilewright.runtime.tensors import DTYPES, Array


class Memory(Protocol):
    """What keeps the memory of a tensor, and knows who may still write to it."""

    def ready(self, stream: int | None) -> None:
        """Put what is written to it before what comes into a stream of CUDA (``None``: before the host goes on)."""

    def fetch(self, pointer: int, array: Array) -> None:
        """Copy from ``pointer`` on into an array on the host."""


class DeviceTensor:
    """A dense tensor in row-major order on a GPU: an input of runs, or of any library that takes DLPack.

    ``torch.from_dlpack(tensor)`` and its like make tensors of the same memory, which lives as long as any of them.

    Attributes:
        dtype: element type as signatures spell it, ``f32``.
        shape: sizes.
        device: index of the GPU.
        pointer: address of the first element there.
        memory: what keeps it.
    """

    __slots__ = ("__weakref__", "device", "dtype", "memory", "pointer", "shape")

    def __init__(self, dtype: str, shape: Sequence[int], device: int, pointer: int, memory: Memory):
        self.dtype, self.shape, self.device, self.pointer = dtype, tuple(shape), device, pointer
        self.memory = memory

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * DTYPES[self.dtype][1].itemsize

    def numpy(self) -> Array:
        """A copy on the host, once the run that makes it is over; types that NumPy lacks are bits."""
        array = np.empty(self.shape, DTYPES[self.dtype][1])
        if array.nbytes:
            self.memory.fetch(self.pointer, array)
        return array

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where it lies, as DLPack says it."""
        return (dlpack.CUDA, self.device)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """The tensor for another library. Raises ``BufferError`` for a copy or another device."""
        if copy:
            raise BufferError("it is given as it is; copy it afterwards")
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError(f"it lies on GPU {self.device}, and is given there only")
        if stream == 0:
            raise BufferError("stream 0 is ambiguous: 1 is the default stream (DLPack)")
        if stream != -1:  # the consumer sees to it itself
            self.memory.ready(1 if stream is None else stream)
        versioned = max_version is not None and max_version[0] >= 1
        return dlpack.give(self.pointer, self.shape, self.dtype, self.__dlpack_device__(), self.memory, versioned)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Nothing moves from a GPU in silence."""
        raise TypeError("a tensor on a GPU is no array: take tensor.numpy(), a copy on the host")

    def __repr__(self) -> str:
        return f"DeviceTensor({self.dtype}{list(self.shape)} on GPU {self.device})"
