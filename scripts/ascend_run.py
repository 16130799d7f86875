"""A model compiled for an Ascend target, run with no NPU: outputs, launches, and the bits of its Ascend C."""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tilewright as tw
from resumable_table import Row
from tilewright.backends.ascend.placed.form import Placed
from zoo_rows import ROOT, Array

sys.path.insert(0, str(ROOT))

from tests.ascend import modelled
from tests.ascend.session import GROUPS, SimulatedSession, Started, recorded

#: The processor of this machine, on which the host part runs here.
HOST = "+host=x86-64"
#: What computes the numbers of a row beside the artifact: the arithmetic, the simulator, the header model.
_MACHINE = ("backends/ascend/placed", "backends/ascend/simulator", "tests/ascend/model")


@dataclass
class Bits:
    """Compares each launch with its Ascend C. ``refused``: what the header model refused, by kernel.

    ``limit``: seconds after which a launch is given up; none where it is 0.
    """

    made: Mapping[str, modelled.Modelled | str]
    limit: float = 0.0
    same: int = 0
    late: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    differ: Counter[str] = field(default_factory=Counter)

    def see(self, launch: Started) -> None:
        """Run the launch by its Ascend C."""
        name = launch.placed.kernel.name
        kernel = self.made[name]
        try:
            if isinstance(kernel, str):
                raise RuntimeError(kernel)
            same = _apart(kernel, launch, self.limit) if self.limit else _same(kernel, launch)
        except (modelled.ModelRefusedError, RuntimeError) as error:
            lines = str(error).splitlines() or ["?"]
            self.refused[name] = next((line.partition("error: ")[2] for line in lines if "error: " in line), lines[0])
            return
        self.same += same is True
        self.late += same is None
        if same is False:
            self.differ[name] += 1

    @property
    def told(self) -> str:
        """What became of all launches, in one cell."""
        parts = [f"same in {self.same} launches"] if self.same or not self.late else []
        parts += [f"{self.late} not run: more than {self.limit:.0f} s"] if self.late else []
        parts += [f"**{count} of {name} differ**" for name, count in self.differ.items()]
        parts += [f"**{name} refused: {why}**" for name, why in self.refused.items()]
        return "; ".join(parts).replace("|", "/")


def _same(kernel: modelled.Modelled, launch: Started) -> bool:
    outputs, _ = kernel.run(launch.placed, launch.inputs, launch.dims, GROUPS)
    return all(modelled.same_bits(value, launch.outputs[n]) for n, value in outputs.items())


def _apart(kernel: modelled.Modelled, launch: Started, limit: float) -> bool | None:
    """The same in a process that can be ended; ``None`` where it took too long."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def work() -> None:
        try:
            theirs.send(_same(kernel, launch))
        except modelled.ModelRefusedError as error:
            theirs.send(str(error))

    process = context.Process(target=work)
    process.start()
    try:
        answer = ours.recv() if ours.poll(limit) else None
    except EOFError:
        answer = "the compiled kernel ended the process"
    process.kill()
    process.join()
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return answer


@dataclass(frozen=True)
class Ran:
    """What a run gave. ``device`` and ``host``: cells of what is placed and why the rest is not."""

    outputs: list[dict[str, Array]]
    device: str
    host: str
    bits: str
    seconds: float
    launches: tuple[Started, ...]


class Compiled:
    """An artifact for an Ascend target, written into ``folder``, with its placed kernels.

    ``identity`` is the start of a hash of the artifact and of what computes numbers from it here.
    """

    def __init__(self, model: Path, target: str, folder: Path, **options: Any):
        with recorded() as placed:
            artifact = tw.compile(str(model), targets=(target + HOST,), verify=False, **options)
        self.path, self.placed = folder / "model.tw", dict(placed)
        artifact.save(self.path)
        (self.facts,) = artifact.report.targets
        total = hashlib.sha256(self.path.read_bytes())
        for name in _MACHINE:
            for source in sorted((ROOT / name).iterdir()):
                if source.suffix in (".py", ".h"):
                    total.update(source.read_bytes())
        self.identity = total.hexdigest()[:8]

    def run(self, feeds: Iterable[Mapping[str, Array]], limit: float = 0.0) -> Ran:
        """Every launch in the simulator and by its Ascend C, which is given up after ``limit`` seconds."""
        used: list[Placed] = list(self.placed.values())
        bits = Bits(modelled.build_each(used), limit)
        launches: list[Started] = []

        def watch(launch: Started) -> None:
            launches.append(launch)
            bits.see(launch)

        session = SimulatedSession(self.path, self.placed, watch)
        outputs = [session.run(feed) for feed in feeds]
        on_host = len(self.facts.fallback)
        device = f"{self.facts.launches - on_host} of {self.facts.launches} launches, {self.facts.distinct} kernels"
        return Ran(outputs, device, _reasons(self.facts.fallback), bits.told, session.seconds, tuple(launches))


def _reasons(fallback: Row) -> str:
    counts = Counter(line.partition(": ")[2] for line in fallback)
    return "; ".join(f"{count} × {why}" for why, count in counts.most_common()).replace("|", "/") or "none"
