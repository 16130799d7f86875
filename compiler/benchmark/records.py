"""What one run of an artifact does, kernel by kernel: work and prediction without running it, and measured time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tilewright import sample
from tilewright.benchmark.roofline import Roofline
from tilewright.cost import KernelRecord, Rates, device_rates, predict, rates_of, read_record
from tilewright.cost.predict import Level
from tilewright.cost.record import TILE_IR
from tilewright.errors import UsageError
from tilewright.plan.decode import decode_plan
from tilewright.plan.memory import plan_memory
from tilewright.plan.plan import EntryPoint, HostLaunch, Launch, Plan
from tilewright.runtime import open_artifact
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.format import KERNELS
from tilewright.runtime.manifest import TargetInfo
from tilewright.selection import find_backend
from tilewright.target import Target

Array = NDArray[Any]
WARM_RUNS = 3
HOST_PART = "host part"  # source of a kernel that runs beside a device
MEASURED_RUNS = 15  # of each launch the least time counts: other processes only ever add to it


@dataclass(frozen=True, slots=True)
class KernelUse:
    """All launches of one kernel in one run.

    Attributes:
        kind: the kernel's class, of :data:`tilewright.cost.KINDS`.
        source: ``tile-ir``, or the name of a hand-written kernel.
        flops: plain operations, a multiply-add as two.
        calls: of functions that cost several operations.
        bytes: of memory touched, each byte of a launch once.
        dtype: whose arithmetic the operations are.
        predicted: seconds, from the target's data.
        bound: what is predicted to hold the kernel: ``compute``, ``memory`` or ``launch``; of a measured kernel, which
            of the machine's roofs is its limit.
        measured: seconds on this machine.
        limit: the least seconds by this machine's own roofs: operations (a call of a function as one) at the peak, or
            bytes at the rate of a cache that holds them.
    """

    name: str
    kind: str
    source: str
    launches: int
    flops: int
    calls: int
    bytes: int
    conversion: bool
    predicted: float
    bound: str
    measured: float | None = None
    limit: float | None = None
    dtype: str = ""

    @property
    def share(self) -> float | None:
        """The share of its limit that the kernel reaches."""
        return self.limit / self.measured if self.limit is not None and self.measured else None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of an entry point at ``sizes`` on ``threads`` threads of ``target`` (0: all of a device).

    Attributes:
        kernels: in order of first launch.
        constants: bytes of constants that the run touches.
        arena: bytes of temporaries.
        live_maximum: the most bytes of them that are needed at a time.
        machine: this machine's roofs, where they were measured.
    """

    entry: str
    target: str
    threads: int
    sizes: Mapping[str, int]
    kernels: tuple[KernelUse, ...]
    constants: int
    arena: int
    live_maximum: int
    machine: Roofline | None = None

    @property
    def launches(self) -> int:
        """Kernels started by a run."""
        return sum(k.launches for k in self.kernels)

    @property
    def flops(self) -> int:
        """Plain operations of a run."""
        return sum(k.flops for k in self.kernels)

    @property
    def conversions(self) -> int:
        """Launches that only put a tensor's elements in another order."""
        return sum(k.launches for k in self.kernels if k.conversion)

    @property
    def scheduled(self) -> float:
        """The share of all operations that is done by scheduled tile IR."""
        return sum(k.flops for k in self.kernels if k.source == TILE_IR) / self.flops if self.flops else 1.0

    @property
    def arena_ratio(self) -> float:
        """The arena over the least it could be."""
        return self.arena / self.live_maximum if self.live_maximum else 1.0

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        names = ("launches", "flops", "conversions", "scheduled", "arena_ratio")
        kernels = [{**asdict(k), "share": k.share} for k in self.kernels]
        return {**asdict(self), "kernels": kernels, **{n: getattr(self, n) for n in names}}


def describe(
    artifact: Path | str,
    sizes: Mapping[str, int],
    *,
    threads: int = 1,
    entry: str | None = None,
    target: str | None = None,
) -> RunRecord:
    """What a run at these sizes of the dimension symbols does. Nothing of the artifact is executed.

    Raises:
        UsageError: no such target in it, it was written without the work of its kernels, or a size is missing.
    """
    opened = open_artifact(artifact)
    if KERNELS not in opened.members:
        fix = "compile the model again"
        raise UsageError("work-unknown", where=opened.where, cause="it does not say what its kernels do", fix=fix)
    infos = {t.target: t for t in opened.manifest.targets}
    chosen = target or next(iter(infos))
    if chosen not in infos:
        cause, fix = f"it was not compiled for {chosen}", f"use one of {', '.join(infos)}"
        raise UsageError("unknown-target", where=opened.where, cause=cause, fix=fix)
    if infos[chosen].has_programs:
        cause, fix = f"its part for {chosen} is programs, whose work the report of compiling tells", "name a CPU target"
        raise UsageError("work-unknown", where=opened.where, cause=cause, fix=fix)
    plan, point, records = _program(opened, infos[chosen], entry)
    apart = infos[chosen].is_apart
    threads = 0 if apart else threads
    rates = device_rates(target_of(chosen)) if apart else rates_of(target_of(chosen), threads)
    uses, constants = _uses(plan, point, records, rates, sizes)
    layout = plan_memory(point, sizes)
    return RunRecord(point.name, chosen, threads, dict(sizes), uses, constants, layout.size, layout.live_maximum)


def sizes_of(artifact: Path | str, shapes: Mapping[str, Sequence[int]], entry: str | None = None) -> dict[str, int]:
    """The dimension symbols of an entry point for inputs of these shapes. Raises ``UsageError`` for others."""
    manifest = open_artifact(artifact).manifest
    inputs = manifest.entries[manifest.entry(entry)].inputs
    return sample.bind([sample.Input(i.name, sample.numpy_dtype(i.dtype), i.shape) for i in inputs], shapes)


def target_of(spelling: str) -> Target:
    """The data of a target by its spelling."""
    return find_backend(spelling.partition(":")[0]).resolve(spelling)[0]


def measure(record: RunRecord, artifact: Path | str, feed: Mapping[str, Array], machine: Roofline | None) -> RunRecord:
    """``record`` with the time of each kernel on this machine, beside what ``machine`` allows; on a device (``None``)
    beside what its data say. Runs the artifact."""
    from tilewright.runtime import load

    session = load(artifact, record.target, record.threads or None, entry=record.entry)
    infos = session.manifest.entries[session.manifest.entry(record.entry)].outputs
    out = {o.name: a for o, a in zip(infos, session.run(None, feed), strict=True)}
    for _ in range(WARM_RUNS):
        session.run(None, feed, out=out)
    runs = [session.profile(feed, out=out) for _ in range(MEASURED_RUNS)]
    seconds: dict[str, float] = {}
    for launch in zip(*runs, strict=True):
        name = launch[0][0]
        seconds[name] = seconds.get(name, 0.0) + min(took for _, took in launch)
    least = {k.name: k for k in limit(record, artifact, machine).kernels}
    kernels = tuple(
        replace(k, measured=seconds.get(k.name), limit=least[k.name].predicted, bound=least[k.name].bound)
        for k in record.kernels
    )
    return replace(record, kernels=kernels, machine=machine)


def limit(record: RunRecord, artifact: Path | str, machine: Roofline | None) -> RunRecord:
    """``record`` with predictions by this machine's roofs alone (``None``: a device's): the least time."""
    opened = open_artifact(artifact)
    info = next(t for t in opened.manifest.targets if t.target == record.target)
    plan, point, records = _program(opened, info, record.entry)
    target = target_of(record.target)
    rates = device_rates(target) if machine is None else machine_rates(machine, target)
    uses, _ = _uses(plan, point, records, rates, record.sizes)
    return replace(record, kernels=uses)


def _program(
    opened: Artifact, target: TargetInfo, entry: str | None
) -> tuple[Plan, EntryPoint, dict[str, KernelRecord]]:
    """A target's plan, an entry point of it, and the work of kernels by name."""
    plan = decode_plan(bytes(opened.checked(target.members["plan.bin"])))
    records = {name: read_record(r) for name, r in json.loads(bytes(opened.checked(KERNELS))).items()}
    return plan, plan.entries[opened.manifest.entry(entry)], records


def machine_rates(machine: Roofline, target: Target) -> Rates:
    """The roofs of a machine as rates without shares. Dtypes but f32 and 8-bit integers are not measured: they are in
    proportion to the peaks of ``target``."""
    operations = {d: machine.operations * p / target.peak["f32"] for d, p in target.peak.items()}
    if machine.integers:
        operations["i8"] = machine.integers
    near = tuple(Level(f"{size >> 10} KiB", size, bandwidth) for size, bandwidth in machine.near)
    return Rates(operations, (*near, Level("memory", 0, machine.bandwidth)), {}, {}, {}, 0.0)


def _uses(
    plan: Plan, point: EntryPoint, records: Mapping[str, KernelRecord], rates: Rates, sizes: Mapping[str, int]
) -> tuple[tuple[KernelUse, ...], int]:
    """The kernels of a run in order of first launch, and the bytes of constants that it touches."""
    launches = [i for i in point.code if isinstance(i, Launch)]
    given = [_dims(records[plan.kernels[i.kernel]], i, sizes) for i in launches]
    resident = sum(
        records[plan.kernels[i.kernel]].work.constants.evaluate(d) for i, d in zip(launches, given, strict=True)
    )
    uses: dict[int, KernelUse] = {}
    for launch, dims in zip(launches, given, strict=True):
        name = plan.kernels[launch.kernel]
        work, source = records[name].work, records[name].source
        amount, found = work.at(dims), predict(work, rates, dims, resident)
        one = KernelUse(
            name=name,
            kind=work.kind,
            source=source,
            launches=1,
            flops=amount.flops,
            calls=sum(amount.functions.values()),
            bytes=amount.bytes,
            conversion=work.conversion,
            predicted=found.seconds,
            bound=found.bound,
            dtype=work.dtype,
        )
        uses[launch.kernel] = _added(uses[launch.kernel], one) if launch.kernel in uses else one
    return (*uses.values(), *_on_host(plan, point)), resident


def _on_host(plan: Plan, point: EntryPoint) -> Iterator[KernelUse]:
    """The kernels of a host part beside a device's; nothing is predicted of them."""
    counts = Counter(plan.host_kernels[i.kernel] for i in point.code if isinstance(i, HostLaunch))
    for name, count in counts.items():
        yield KernelUse(name, "host", HOST_PART, count, 0, 0, 0, False, 0.0, "host")


def _dims(record: KernelRecord, launch: Launch, sizes: Mapping[str, int]) -> dict[str, int]:
    if record.source != TILE_IR:
        return {}
    try:
        return {n: d.evaluate(sizes) for n, d in zip(record.symbols, launch.dims, strict=True)}
    except KeyError as error:
        cause = f"the size {error.args[0]} of a launch comes from the values of a tensor"
        fix = "give every size of the inputs; a model with such sizes can be run and measured as a whole"
        raise UsageError("size-unknown", where="kernels", cause=cause, fix=fix) from None


def _added(a: KernelUse, b: KernelUse) -> KernelUse:
    summed = {n: getattr(a, n) + getattr(b, n) for n in ("launches", "flops", "calls", "bytes", "predicted")}
    return replace(a, **summed)


def totals(kernels: Sequence[KernelUse]) -> dict[str, tuple[float, float]]:
    """Predicted and measured seconds by class of kernel, of those that were measured."""
    found: dict[str, tuple[float, float]] = {}
    for k in kernels:
        if k.measured is not None:
            predicted, measured = found.get(k.kind, (0.0, 0.0))
            found[k.kind] = (predicted + k.predicted, measured + k.measured)
    return found
