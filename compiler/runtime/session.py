"""Load an artifact and run it: the Python interface."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tilewright.runtime.artifact import Artifact, Source, open_artifact
from tilewright.runtime.binding import check_output_names, unknown
from tilewright.runtime.errors import InputError
from tilewright.runtime.manifest import EntryInfo, Manifest, TensorInfo
from tilewright.runtime.tensors import Array


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes of the temporaries' arena for some input shapes, and the most that are live at a time."""

    arena: int
    live_maximum: int


class Session(ABC):
    """A loaded artifact. Any number of threads may run it at a time.

    Attributes:
        manifest: what the artifact says.
        target: spelling of the part that runs here.
        threads: how many work on one run, the calling one among them.
    """

    def __init__(
        self,
        artifact: Artifact,
        target: str,
        threads: int,
        entry: str | None = None,
        entries: Sequence[EntryInfo] | None = None,
    ):
        """``entries`` are those of the part where they are not the artifact's."""
        self.manifest: Manifest = artifact.manifest
        self.target, self.threads = target, threads
        self._where = artifact.where
        self._entries = self.manifest.entries if entries is None else tuple(entries)
        self._entry = self._entry_index(entry)

    @property
    def jit_seconds(self) -> float:
        """What was spent here on compiling programs that the artifact has only in portable form."""
        return 0.0

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Inputs of the entry point: ``.name``, ``.dtype``, ``.shape``."""
        return self._entries[self._entry].inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Outputs of the entry point."""
        return self._entries[self._entry].outputs

    def run(
        self,
        output_names: Sequence[str] | None,
        inputs: Mapping[str, Any],
        *,
        out: Mapping[str, Array] | None = None,
        entry: str | None = None,
    ) -> list[Array]:
        """Run the model once.

        Args:
            output_names: which outputs to return, in this order; all of them when ``None``.
            inputs: an array for each input, of its element type. Contiguous arrays are not copied. ``bf16`` and
                narrower floats are arrays of ml_dtypes or the bits as unsigned integers, integers of less than 8 bits
                are those of ml_dtypes or of 8 bits; outputs are the latter.
            out: arrays that outputs are written to. For a state, the input's own array updates it in place.
            entry: name of the entry point; the first when ``None``.

        Raises:
            InputError: names, types or shapes that do not fit (exit 2).
            ResourceError: no memory (exit 7).
            DeviceError: the device failed, or there is no program for these sizes that may be used (exit 8).
        """
        index = self._index(entry)
        if output_names is not None:
            check_output_names(self._entries[index], output_names, self._where)
        results = self._run(index, inputs, out or {})
        if output_names is None:
            return results
        by_name = {o.name: r for o, r in zip(self._entries[index].outputs, results, strict=True)}
        return [by_name[name] for name in output_names]

    def __call__(self, **inputs: Any) -> dict[str, Array]:
        """Run the model on inputs by name; outputs by name."""
        return {o.name: r for o, r in zip(self.outputs, self.run(None, inputs), strict=True)}

    @abstractmethod
    def profile(
        self, inputs: Mapping[str, Any], *, out: Mapping[str, Array] | None = None, entry: str | None = None
    ) -> list[tuple[str, float]]:
        """Run once and return each kernel launch in order: the kernel's name, and its seconds. Programs are one each.

        ``out`` is as for :meth:`run`: memory that was written before takes no page faults while it is measured.
        """

    @abstractmethod
    def memory(self, inputs: Mapping[str, Any], *, entry: str | None = None) -> MemoryUse:
        """Memory that temporaries need for inputs of these shapes; nothing is run."""

    @abstractmethod
    def close(self) -> None:
        """Give up the artifact; runs that are going on finish."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def _run(self, index: int, inputs: Mapping[str, Any], out: Mapping[str, Array]) -> list[Array]:
        """All outputs of an entry point."""

    def _index(self, entry: str | None) -> int:
        return self._entry if entry is None else self._entry_index(entry)

    def _entry_index(self, name: str | None) -> int:
        names = [e.name for e in self._entries]
        if name is not None and name not in names:
            raise unknown(self._where, "entry point", name, names)
        return 0 if name is None else names.index(name)

    def _closed(self) -> InputError:
        return InputError("session-closed", where=self._where, cause="the session was closed", fix="load it again")


def load(
    source: Source,
    device: str = "auto",
    threads: int | None = None,
    mmap: bool = True,
    *,
    entry: str | None = None,
    allow_jit: bool | None = None,
    cache: bool = True,
) -> Session:
    """Load an artifact.

    Args:
        source: path of a ``.tw`` file, or its bytes.
        device: ``auto``, ``cpu``, ``xla-cpu``, ``tpu``, ``xla-cuda`` or a target's spelling (``cpu:x86-64-v3``). Never
            another one in silence: ``auto`` is this machine's processor through the kernels in the artifact.
        threads: threads of one run; ``None`` for the processors that this process may use (affinity and cgroup quota).
        mmap: map the file; ``False`` reads it, for files that may change meanwhile.
        entry: the entry point that ``run`` means by default; the first when ``None``.
        allow_jit: whether XLA may compile here what the artifact has no executable of for this device. ``None`` is what
            the environment says (``TILEWRIGHT_ALLOW_JIT=1``), else not.
        cache: use the user's folder of programs that were compiled here.

    Raises:
        ArtifactError: damaged, truncated or of another version (exit 9).
        DeviceError: it holds nothing that this machine can run (exit 8).
        InputError: no such file (exit 2).
    """
    if threads is not None and threads < 1:
        raise InputError("bad-threads", where="threads", cause=f"{threads} is not positive", fix="give 1 or more")
    artifact = open_artifact(source, use_mmap=mmap)
    parts = [t for t in artifact.manifest.targets if t.has_programs and device in t.spellings]
    if parts:
        from tilewright.runtime.program_session import load_programs

        allowed = os.environ.get("TILEWRIGHT_ALLOW_JIT") == "1" if allow_jit is None else allow_jit
        return load_programs(artifact, parts, entry, threads, allow_jit=allowed, cache=cache)
    from tilewright.runtime.device import load_plan
    from tilewright.runtime.plan_session import PlanSession

    return PlanSession(load_plan(artifact, device, threads), entry)
