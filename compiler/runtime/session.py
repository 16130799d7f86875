"""Load an artifact and run it: the Python interface."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tilewright.runtime.artifact import Artifact, Source, open_artifact
from tilewright.runtime.binding import check_output_names, unknown
from tilewright.runtime.errors import DeviceError, InputError
from tilewright.runtime.manifest import EntryInfo, Manifest, TensorInfo
from tilewright.runtime.pending import Pending, RunMode, mode_of
from tilewright.runtime.tensors import Array


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes of the temporaries' arena for some input shapes, and the most that are live at a time.

    Of a plan on a GPU these are of its memory, and ``weights`` is what constants take there, ``kept`` what is kept for
    coming runs, ``free`` what is left of all of it, ``total``; else they are 0.
    """

    arena: int
    live_maximum: int
    weights: int = 0
    kept: int = 0
    free: int = 0
    total: int = 0


class Session(ABC):
    """A loaded artifact. Any number of threads may run it at a time.

    Attributes:
        manifest: what the artifact says.
        target: spelling of the part that runs here.
        note: why another one does not, that would have come before it.
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
        self.target, self.threads, self.note = target, threads, ""
        self._where = artifact.where
        self._entries = self.manifest.entries if entries is None else tuple(entries)
        self._entry = self._entry_index(entry)

    #: What compiles them.
    jit_by: ClassVar[str] = "XLA"

    @property
    def jit_seconds(self) -> float:
        """What was spent here on compiling programs that the artifact has only in portable form."""
        return 0.0

    @property
    def device(self) -> str:
        """Where it runs: ``cpu``, ``cuda:0``, or the target of programs."""
        return self.target

    @property
    def place(self) -> str:
        """The part that runs and where, for a reader."""
        return f"{self.target}, {self.threads} thread{'s' * (self.threads > 1)}"

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
        out: Mapping[str, Any] | None = None,
        entry: str | None = None,
        outputs: str = "host",
        stream: Any = None,
    ) -> list[Any]:
        """Run the model once.

        Args:
            output_names: which outputs to return, in this order; all of them when ``None``.
            inputs: an array for each input, of its element type. Contiguous arrays are not copied. ``bf16`` and
                narrower floats are arrays of ml_dtypes or the bits as unsigned integers, integers of less than 8 bits
                are those of ml_dtypes or of 8 bits; outputs are the latter. Tensors of other libraries are taken by
                DLPack, those on the model's GPU as well: their library's work on them comes first.
            out: arrays that outputs are written to; of a model on a GPU also tensors there (of torch, CuPy or ours).
                For a state, the input's own memory updates it in place.
            entry: name of the entry point; the first when ``None``.
            outputs: where the others go: ``host`` (arrays), or ``device`` (of a model on a GPU:
                :class:`~tilewright.runtime.device_tensor.DeviceTensor`).
            stream: of a model on a GPU, the stream of CUDA to run in: a handle, or a stream of torch or CuPy. Without
                one, runs have streams of their own, and those with tensors of other libraries the default stream.

        Raises:
            InputError: names, types or shapes that do not fit (exit 2).
            ResourceError: no memory (exit 7).
            DeviceError: the device failed, or there is no program for these sizes that may be used (exit 8).
        """
        index = self._index(entry)
        if output_names is not None:
            check_output_names(self._entries[index], output_names, self._where)
        results = self._begin(index, inputs, out or {}, mode_of(outputs, stream)).wait()
        if output_names is None:
            return results
        by_name = {o.name: r for o, r in zip(self._entries[index].outputs, results, strict=True)}
        return [by_name[name] for name in output_names]

    def run_async(
        self,
        inputs: Mapping[str, Any],
        *,
        out: Mapping[str, Any] | None = None,
        entry: str | None = None,
        outputs: str = "host",
        stream: Any = None,
        timed: bool = False,
    ) -> Pending:
        """Start a run, of which :meth:`~tilewright.runtime.pending.Pending.wait` gives the outputs; see :meth:`run`.

        On a GPU this returns when the work is in the stream; what is on the host may be changed after that, tensors of
        the GPU after the run. Tensors of ours follow each other in runs; other streams that read what is written here
        wait for the run's ``event``. Elsewhere the run is over by then. ``timed`` takes the device's own time of it.
        """
        mode = replace(mode_of(outputs, stream), timed=timed)
        return self._begin(self._index(entry), inputs, out or {}, mode)

    def __call__(self, **inputs: Any) -> dict[str, Array]:
        """Run the model on inputs by name; outputs by name."""
        return {o.name: r for o, r in zip(self.outputs, self.run(None, inputs), strict=True)}

    @abstractmethod
    def profile(
        self, inputs: Mapping[str, Any], *, out: Mapping[str, Any] | None = None, entry: str | None = None
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
    def _begin(self, index: int, inputs: Mapping[str, Any], out: Mapping[str, Any], mode: RunMode) -> Pending:
        """Start a run of an entry point."""

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
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` (a GPU by its number), ``xla-cpu``, ``tpu``, ``xla-cuda`` or a
            target's spelling (``cpu:x86-64-v3``, ``cuda:sm_90``). Never another one in silence: ``auto`` is a GPU that
            the artifact has machine code for, else this machine's processor, and the session says which.
        threads: threads of one run; ``None`` for the processors that this process may use (affinity and cgroup quota).
        mmap: map the file; ``False`` reads it, for files that may change meanwhile.
        entry: the entry point that ``run`` means by default; the first when ``None``.
        allow_jit: whether XLA, or the driver of a GPU, may compile here what the artifact has no machine code of for
            this device. ``None`` is what the environment says (``TILEWRIGHT_ALLOW_JIT=1``), else not.
        cache: use the user's folder of programs that were compiled here.

    Raises:
        ArtifactError: damaged, truncated or of another version (exit 9).
        DeviceError: it holds nothing that this machine can run (exit 8).
        InputError: no such file (exit 2).
    """
    if threads is not None and threads < 1:
        raise InputError("bad-threads", where="threads", cause=f"{threads} is not positive", fix="give 1 or more")
    artifact = open_artifact(source, use_mmap=mmap)
    allowed = os.environ.get("TILEWRIGHT_ALLOW_JIT") == "1" if allow_jit is None else allow_jit
    parts = [t for t in artifact.manifest.targets if t.has_programs and device in t.spellings]
    if parts:
        from tilewright.runtime.program_session import load_programs

        return load_programs(artifact, parts, entry, threads, allow_jit=allowed, cache=cache)
    if any(t.has_modules for t in artifact.manifest.targets) and re.fullmatch(r"auto|cuda([:-].*)?", device):
        return _on_gpu(artifact, device, threads, entry, allowed)
    return _on_cpu(artifact, device, threads, entry)


def _on_cpu(artifact: Artifact, device: str, threads: int | None, entry: str | None) -> Session:
    from tilewright.runtime.device import load_plan
    from tilewright.runtime.plan_session import PlanSession

    return PlanSession(load_plan(artifact, device, threads), entry)


#: Why ``auto`` goes on to the processor: there is no GPU, or the artifact is for others.
_NO_GPU = ("gpu-missing", "gpu-code-missing", "driver-too-old", "cpu-too-old", "device-missing")


def _on_gpu(artifact: Artifact, device: str, threads: int | None, entry: str | None, allow_jit: bool) -> Session:
    """A session on a GPU; with ``auto`` on the processor where there is no GPU for it, and a part for that."""
    from tilewright.runtime.gpu_session import load_gpu_session

    try:
        return load_gpu_session(artifact, device, threads, entry, allow_jit)
    except DeviceError as error:
        if device != "auto" or error.code not in _NO_GPU:
            raise
        if not any(t.family for t in artifact.manifest.targets):
            raise
        session = _on_cpu(artifact, device, threads, entry)
        session.note = f"no GPU: {error.cause}"
        return session
