"""One model through the Ascend backend: every launch in the simulator of the cores, beside two oracles.

What the simulator refuses is a defect of the backend, as is a wrong number, another bit of the Ascend C, or an
exception that no one was meant to see. A kernel that goes to the host part is none; its reason is kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tilewright as tw
from tilewright.errors import CompileError

from tests.ascend import modelled
from tests.ascend.machines import Machine, instead
from tests.ascend.session import SimulatedSession, Started, recorded
from tests.fuzz.ascend import AscendGraph, grow
from tests.fuzz.judge import Verdict, compared_with, told_line
from tests.fuzz.oracles import ORACLES, Array, Cannot

HOST = "+host=x86-64"
SPELLINGS = ("ascend:910b3", "ascend:910b3", "ascend:310p3", "ascend:310p3", "ascend:910b1", "ascend:910b4")
#: How much smaller memories are, how many groups of cores a machine has (0: its own), and how many are simulated.
SHARES, UNITS, GROUPS = (1, 1, 4, 8, 16), (0, 0, 2, 3, 5), (1, 2, 2, 3, 5)
#: How many of the best schedules are left out.
SKIPS = (0, 0, 0, 1, 2, 4, 7)
#: What floats of a model in f32 become.
PRECISIONS = ("", "", "fp16", "bf16")
#: One seed of so many is also compared with its Ascend C.
BITS = 4


@dataclass(frozen=True, slots=True)
class Settings:
    """How a seed is compiled and run. ``precision`` is what becomes of f32; ``bits`` also runs the Ascend C."""

    machine: Machine
    groups: int
    precision: str
    level: int
    bits: bool

    def __str__(self) -> str:
        m = self.machine
        told = (
            f"{m.spelling} share {m.share} {m.cube} units {m.units} skip {m.skip} groups {self.groups} -O{self.level}"
        )
        return f"{told} {self.precision}".strip()


@dataclass(frozen=True, slots=True)
class Told:
    """A verdict with its counts: launches on the device, those whose bits were compared, reasons of host launches."""

    verdict: Verdict
    launches: int = 0
    compared: int = 0
    kernels: int = 0
    host: tuple[str, ...] = ()


def settings(seed: int) -> Settings:
    """Those of a seed."""
    rng = np.random.default_rng([seed, 2])

    def pick(items: Sequence[Any]) -> Any:
        return items[int(rng.integers(len(items)))]

    machine = Machine(pick(SPELLINGS), pick(SHARES), pick(SHARES), pick(UNITS), pick(SKIPS))
    precision = pick(PRECISIONS)
    if "310p" in machine.spelling:
        precision = "fp16"  # it multiplies no other floats
    return Settings(machine, pick(GROUPS), precision, pick((2, 2, 2, 3, 1, 0)), seed % BITS == 0)


def made(seed: int, avoid: frozenset[str] = frozenset()) -> tuple[onnx.ModelProto, list[dict[str, Array]]] | None:
    """The model of a seed and its feeds, or ``None`` where nothing came of it."""
    graph = AscendGraph(seed, avoid)
    grow(graph)
    return (graph.model(), graph.feeds()) if graph.nodes else None


def answer(seed: int, at: Callable[[str], None]) -> dict[str, Any]:
    """What became of a seed; a seed may be too large for the oracles."""
    at("generate")
    model = made(seed)
    own = settings(seed)
    if model is None:
        return {"status": "empty", "reason": "", "operators": [], "settings": str(own)}
    told = judge(*model, own, at)
    return {
        "status": told.verdict.status,
        "reason": told.verdict.reason,
        "operators": [n.op_type for n in model[0].graph.node],
        "settings": str(own),
        "launches": told.launches,
        "compared": told.compared,
        "kernels": told.kernels,
        "host": list(told.host),
    }


def judge(
    model: onnx.ModelProto,
    runs: Sequence[Mapping[str, Array]],
    own: Settings,
    at: Callable[[str], None] = lambda s: None,
) -> Told:
    """Compile for a machine, run on every feed that an oracle accepts, compare."""
    target = own.machine.spelling + HOST
    with tempfile.TemporaryDirectory() as folder, instead(own.machine):
        path = Path(folder) / "model.tw"
        at("compile")
        try:
            if own.precision and not _narrow(model):
                model = tw.quantize(model, (target,), method=own.precision).proto()
            with recorded() as placed:
                artifact = tw.compile(
                    model, (target,), verify=False, level=own.level, input_shapes=_shapes(model, runs)
                )
            artifact.save(path)
        except CompileError as error:
            status = "unsupported" if error.exit_code == 4 else "refused"
            return Told(Verdict(status, told_line(error)))
        except Exception as error:
            return Told(Verdict("broken", told_line(error)))
        (facts,) = artifact.report.targets
        host = tuple(line.partition(": ")[2] for line in facts.fallback)
        check = _Check(own, modelled.build_each(list(placed.values())) if own.bits else {})
        session = SimulatedSession(path, placed, check.see, own.groups)
        verdict = _run(model, runs, session, at)
        return Told(verdict, check.launches, check.compared, len(placed), host)


def _computed(model: onnx.ModelProto) -> str:
    """The narrowest float type of a model, if it is narrower than f32."""
    kinds = {c.data_type for c in model.graph.initializer}
    kinds |= {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    kinds |= {a.i for n in model.graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to"}
    if onnx.TensorProto.BFLOAT16 in kinds:
        return "bf16"
    return "f16" if onnx.TensorProto.FLOAT16 in kinds else ""


def _narrow(model: onnx.ModelProto) -> bool:
    """Whether a model has a precision already: types of 16 bits, or quantized nodes."""
    kinds = {i.type.tensor_type.elem_type for i in (*model.graph.input, *model.graph.output)}
    kinds |= {c.data_type for c in model.graph.initializer}
    quantized = any("Linear" in n.op_type for n in model.graph.node)
    return quantized or onnx.TensorProto.FLOAT16 in kinds or onnx.TensorProto.FLOAT not in kinds


def _shapes(model: onnx.ModelProto, runs: Sequence[Mapping[str, Array]]) -> dict[str, list[int | str]]:
    """Open sizes between 1 and the largest that is met."""
    result: dict[str, list[int | str]] = {}
    for i in model.graph.input:
        dims = i.type.tensor_type.shape.dim
        if any(d.dim_param for d in dims):
            most: dict[str, int] = {}
            for other in model.graph.input:
                for n, d in enumerate(other.type.tensor_type.shape.dim):
                    most[d.dim_param] = max(most.get(d.dim_param, 1), *(run[other.name].shape[n] for run in runs))
            result[i.name] = [f"{d.dim_param}=1..{most[d.dim_param]}" if d.dim_param else d.dim_value for d in dims]
    return result


class Different(Exception):
    """The Ascend C of a launch gave other bits, or was refused; the message says which."""


class _Check:
    """Counts launches, and compares each with its Ascend C on another number of groups."""

    def __init__(self, own: Settings, libraries: Mapping[str, modelled.Modelled | str]):
        self.own, self.libraries = own, libraries
        self.launches = self.compared = 0

    def see(self, launch: Started) -> None:
        """Raises :class:`Different`."""
        self.launches += 1
        name = launch.placed.kernel.name
        library = self.libraries.get(name)
        if library is None:
            return
        if isinstance(library, str):
            raise Different(f"Ascend C of {name}: {library}")
        try:
            outputs, fault = library.run(launch.placed, launch.inputs, launch.dims, 1 + self.own.groups % 3)
        except modelled.ModelRefusedError as error:
            raise Different(f"Ascend C of {name}: {error}") from None
        self.compared += 1
        for n, value in outputs.items():
            if fault or not modelled.same_bits(value, launch.outputs[n]):
                raise Different(f"Ascend C of {name}: {n} has other bits than in the simulator")


def _run(
    model: onnx.ModelProto, runs: Sequence[Mapping[str, Array]], session: SimulatedSession, at: Callable[[str], None]
) -> Verdict:
    compared, notes = 0, []
    for number, feeds in enumerate(runs):
        answers = {}
        for name, oracle in ORACLES.items():
            at(name)
            try:
                answers[name] = oracle(model, feeds)
            except Cannot:
                continue
        if not answers:
            continue
        at("run")
        try:
            result = session.run(feeds)
        except Exception as error:
            return Verdict("broken", f"run {number}: {told_line(error)}")
        compared += 1
        verdict = compared_with(model, feeds, result, answers, at, _computed(model))
        if verdict.status == "wrong":
            return Verdict("wrong", f"run {number}: {verdict.reason}")
        if verdict.status != "ok":
            notes.append(verdict)
    return notes[0] if notes else Verdict("ok" if compared else "no-oracle")
