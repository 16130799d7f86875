"""Cases compiled for a GPU that is not there: plans, device code, and their numbers in Triton's interpreter.

A case counts when its plan has no host launch and every kernel of it compiles. Kernels of all cases go to the toolchain
together: equal ones once, many in a process, and what was compiled before is read from the cache of compiled kernels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
from tilewright import driver
from tilewright.backends.base import Source
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.backends.cuda.build import compile_source
from tilewright.backends.cuda.launch import LAUNCHES, from_json, to_json
from tilewright.build import TargetPlan
from tilewright.errors import InternalError, TilewrightError
from tilewright.options import Options
from tilewright.target import Target

from tests.conformance.cases import Case, cases
from tests.conformance.execute import Outcome, _line, fixed

#: Kernels that go to the toolchain at once; one that it refuses is found by halving.
BATCH = 32


@dataclass(slots=True)
class Prepared:
    """A case up to its device code. ``outcome`` is passed until something says otherwise."""

    outcome: Outcome
    plan: TargetPlan | None = None
    source: Source | None = None
    kernels: tuple[str, ...] = ()


@dataclass(slots=True)
class Toolchain:
    """What the toolchain said of each kernel, by name: the reason why it refused one, empty where it did not."""

    target: Target
    said: dict[str, str] = field(default_factory=dict)

    def compile(self, sources: Iterable[Source], told: Callable[[int, int], None]) -> None:
        """Compile every distinct kernel of ``sources``; ``told`` hears how many are done."""
        texts: dict[str, tuple[str, Any]] = {}
        for source in sources:
            for launch in from_json(source.files[LAUNCHES]):
                texts.setdefault(launch.kernel, (source.files[f"{launch.kernel}.py"], launch))
        names = sorted(texts)
        for n in range(0, len(names), BATCH):
            self._batch({name: texts[name] for name in names[n : n + BATCH]})
            told(min(n + BATCH, len(names)), len(names))

    def _batch(self, texts: Mapping[str, tuple[str, Any]]) -> None:
        files = {f"{name}.py": text for name, (text, _) in texts.items()}
        files[LAUNCHES] = to_json([launch for _, launch in texts.values()])
        try:
            compile_source(Source(files, {name: name for name in texts}), self.target)
        except InternalError as error:
            if len(texts) == 1:
                self.said[next(iter(texts))] = _last(error)
                return
            names = list(texts)
            for part in (names[: len(names) // 2], names[len(names) // 2 :]):
                self._batch({name: texts[name] for name in part})
            return
        self.said.update(dict.fromkeys(texts, ""))


def compile_cases(
    names: Sequence[str], target: str, constants: bool, told: Callable[[int, int], None]
) -> list[Outcome]:
    """Outcomes of these cases for a target; ``told`` hears how many are planned, then how many kernels are compiled."""
    known, found = cases(), CudaBackend().targets()[target]
    prepared = []
    for n, name in enumerate(names):
        prepared.append(prepare(known[name], found, constants))
        told(n + 1, len(names))
    return compiled(prepared, found, told)


def prepare(case: Case, target: Target, constants: bool) -> Prepared:
    """Plan a case and emit its device code; what would run on the host makes it unsupported."""
    started, held = time.process_time(), tuple[str, ...]()
    name = case.name
    try:
        model: Any = str(case.folder / "model.onnx")
        if constants:
            model, held = fixed(onnx.load(model), case)
        options = Options(targets=(target.spelling,), fallback="forbid")
        plan = driver.plan(model, options=options)[target.spelling]
        source = CudaBackend().emit(plan.kernels, target)
    except TilewrightError as error:
        status = "unsupported" if error.exit_code in (3, 4) else "failed"
        return Prepared(Outcome(name, status, _line(error), constants=held))
    except Exception as error:
        return Prepared(Outcome(name, "failed", f"crash: {_line(error)}", constants=held))
    kernels = tuple(x.kernel for x in from_json(source.files[LAUNCHES]))
    return Prepared(Outcome(name, "passed", "", time.process_time() - started, held), plan, source, kernels)


def compiled(prepared: Sequence[Prepared], target: Target, told: Callable[[int, int], None]) -> list[Outcome]:
    """Outcomes once every kernel has gone through the toolchain."""
    toolchain = Toolchain(target)
    toolchain.compile([p.source for p in prepared if p.source is not None], told)
    outcomes = []
    for p in prepared:
        refused = next((toolchain.said[k] for k in p.kernels if toolchain.said[k]), "")
        outcomes.append(replace(p.outcome, status="failed", reason=refused) if refused else p.outcome)
    return outcomes


def _last(error: InternalError) -> str:
    """What Triton said last, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[-3:])[-300:]
