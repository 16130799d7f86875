"""Runs on a GPU that may still go on, and the memory that they leave there."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tilewright.runtime.devices import cuda
from tilewright.runtime.devices.driver import driver
from tilewright.runtime.library import Error
from tilewright.runtime.tensors import Array


class Flight:
    """One run on a GPU, from its start until it was waited for. Any number of threads may use it."""

    def __init__(self, plan: cuda.GpuPlan, handle: ctypes.c_void_p, stream: int | None, keep: Iterable[object]):
        """``keep`` is what the run reads and writes, alive until it is over; ``stream`` the caller's, if it has one."""
        self.plan, self.stream = plan, stream
        self._handle, self._keep = handle, list(keep)
        self._lock = threading.Lock()
        self._error: Error | None = None
        self.over, self.seconds = False, -1.0

    @property
    def done(self) -> bool:
        """Whether the device is done, or has failed."""
        if not self._lock.acquire(blocking=False):
            return False  # somebody waits for it
        try:
            return self.over or bool(self.plan.table.done(self._handle, ctypes.byref(Error())))
        finally:
            self._lock.release()

    @property
    def event(self) -> int | None:
        """The event at its end, until it is over."""
        with self.held() as event:
            return event

    @contextmanager
    def held(self) -> Iterator[int | None]:
        """The event at its end, which stays as long as this lasts; ``None`` when it is over."""
        with self._lock:
            yield None if self.over else self.plan.table.pending_event(self._handle)

    def is_before(self, stream: int | None) -> bool:
        """Whether work that comes into a stream is behind it anyway. Per-thread streams (2) are not told apart."""
        return stream is not None and stream != 2 and stream == self.stream

    def wait(self) -> Error | None:
        """Until it is over; what went wrong."""
        kept: list[object] = []  # given up when the lock is: that may run anybody's code
        with self._lock:
            if not self.over:
                error, table = Error(), self.plan.table
                if table.wait(self._handle, ctypes.byref(error)):
                    self._error = error
                self.seconds = table.pending_seconds(self._handle)
                table.pending_free(self._handle)
                self.over = True
                kept, self._keep = self._keep, []
        kept.clear()
        return self._error

    def __del__(self) -> None:
        self.wait()


class DeviceMemory:
    """Memory of a GPU that tensors of ours lie in, and the runs that may still read or write it.

    A run refers to its tensors and not the other way round: whoever started it has it, and gives it up when it is over.
    """

    def __init__(self, device: int):
        self.device = device
        self._flights: list[tuple[weakref.ref[Flight], bool]] = []
        self._lock = threading.Lock()

    def used_by(self, flight: Flight, writes: bool) -> None:
        """A run has started that reads or writes it."""
        with self._lock:
            going_on = [(ref, w) for ref, w in self._flights if (f := ref()) is not None and not f.over]
            self._flights = [*going_on, (weakref.ref(flight), writes)]

    def before(self, writes: bool) -> Iterator[Flight]:
        """The runs that one must come after that reads, or also ``writes``, it."""
        for ref, wrote in self._flights:
            flight = ref() if wrote or writes else None
            if flight is not None and not flight.over:
                yield flight

    def ready(self, stream: int | None) -> None:
        """Put what is written to it before what comes into a stream of CUDA (``None``: before the host goes on)."""
        for flight in self.before(writes=False):
            if stream is None:
                flight.wait()
            elif not flight.is_before(stream):
                with flight.held() as event:
                    if event is not None:
                        driver(cuda.LIBRARY).wait(self.device, stream, event)

    def fetch(self, pointer: int, array: Array) -> None:
        """Copy from ``pointer`` on into an array on the host."""
        self.ready(None)
        driver(cuda.LIBRARY).fetch(self.device, pointer, array)


class OwnMemory(DeviceMemory):
    """Memory that a run allocated for an output; given back with the last tensor in it, wherever that is by then."""

    def __init__(self, plan: cuda.GpuPlan, pointer: int):
        super().__init__(plan.gpu.index)
        self._plan, self._pointer = plan, pointer

    def __del__(self) -> None:
        self._plan.table.release_device(self._plan.handle, self._pointer)


class LentMemory(DeviceMemory):
    """Memory of another library, for as long as a run needs it."""

    def __init__(self, device: int, owner: Any):
        super().__init__(device)
        self._owner = owner
