"""How a run is made, and one that may still go on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from tilewright.runtime.errors import InputError
from tilewright.runtime.library import ProfileBuffer

PLACES = ("host", "device")


@dataclass(frozen=True, slots=True)
class RunMode:
    """How a run is made.

    Attributes:
        outputs: where outputs go for which no memory is given: ``host`` or ``device``.
        stream: the caller's stream of CUDA; ``None`` for one of the run's own.
        timed: the device's time is taken. profile: that of each launch.
    """

    outputs: str = "host"
    stream: int | None = None
    timed: bool = False
    profile: ProfileBuffer | None = None


#: Outputs on the host, in the run's own time and stream.
PLAIN = RunMode()


def mode_of(outputs: str, stream: Any) -> RunMode:
    """What a caller asks for. Raises :class:`InputError` for what is no place or no stream."""
    if outputs == "host" and stream is None:
        return PLAIN
    if outputs not in PLACES:
        fix = f"use one of {', '.join(PLACES)}"
        raise InputError("output-place", where="outputs", cause=f"{outputs!r} is no place", fix=fix)
    return RunMode(outputs, stream_of(stream))


def stream_of(stream: Any) -> int | None:
    """The handle of a stream: itself, or what streams of torch, CuPy and CUDA's own Python packages have."""
    if stream is None or (isinstance(stream, int) and not isinstance(stream, bool) and 0 <= stream < 1 << 64):
        return stream
    handle = getattr(stream, "cuda_stream", getattr(stream, "ptr", None))
    if handle is None and hasattr(stream, "__cuda_stream__"):
        handle = stream.__cuda_stream__()[1]
    if isinstance(handle, int) and 0 <= handle < 1 << 64:
        return handle
    cause, fix = f"{type(stream).__name__} is no stream", "give a raw handle, or a stream of torch or CuPy"
    raise InputError("bad-stream", where="stream", cause=cause, fix=fix)


def require_host(mode: RunMode, where: str) -> None:
    """Raise :class:`InputError` for a mode that needs a plan on a GPU; ``where`` it was asked for."""
    if mode.outputs != "host" or mode.stream is not None:
        asked = "outputs on a device" if mode.outputs != "host" else "a stream"
        cause, fix = f"{asked} can be had of a plan on a GPU only", "load the model with device='cuda'"
        raise InputError("output-place", where=where, cause=cause, fix=fix)


class Pending(ABC):
    """A run that may still go on. Dropped, it is waited for: what it reads and writes stays until it is over."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether the device is done; :meth:`wait` is short then. It tells what failed."""

    @property
    @abstractmethod
    def event(self) -> int | None:
        """The CUevent at the end of the run, for streams to wait on; ``None`` once it is over, or without a GPU."""

    @property
    @abstractmethod
    def seconds(self) -> float | None:
        """Between the first and the last work on the device, of a run that was timed and waited for."""

    @abstractmethod
    def wait(self) -> list[Any]:
        """All outputs, once the run is over. Raises what :meth:`tilewright.runtime.Session.run` does."""


class Finished(Pending):
    """A run that was over when it returned."""

    def __init__(self, results: list[Any]):
        self._results = results

    @property
    def done(self) -> bool:
        """It is."""
        return True

    @property
    def event(self) -> int | None:
        """There is none."""
        return None

    @property
    def seconds(self) -> float | None:
        """There was no device."""
        return None

    def wait(self) -> list[Any]:
        """All outputs."""
        return self._results
