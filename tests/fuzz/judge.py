"""One model through the compiler and the runtime, and beside two oracles: what became of it.

A result is wrong when it differs from every oracle that can compute the model. Where only one of two agrees with us,
the oracles differ from one another, which is told but not ours. A difference that is no larger than what inputs changed
by one rounding make in an oracle is the model's own (``unstable``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from tilewright import driver
from tilewright.accuracy import TOLERANCE, compare
from tilewright.errors import CompileError, TilewrightError
from tilewright.options import Options
from tilewright.runtime import load
from tilewright.runtime.errors import RunError

from tests.conformance.execute import LOADING
from tests.fuzz.oracles import ORACLES, Array, Cannot

#: What counts against the compiler.
BAD = ("wrong", "refused", "broken", "crash", "hang")
_EPSILON = {"bf16": 2.0**-7, "f16": 2.0**-10}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a model.

    ``status`` is ``ok``, ``unsupported``, ``unstable``, ``oracles`` (they differ, we agree with one), ``no-oracle``,
    ``assumed`` (a run is refused: sizes that only it tells were taken to be equal, and one of them is 1), or one of
    :data:`BAD`: ``wrong`` numbers, a valid model or run ``refused``, ``broken`` (an internal error).
    """

    status: str
    reason: str = ""


def judge(
    model: onnx.ModelProto,
    runs: Sequence[Mapping[str, Array]],
    target: str = "cpu:native",
    level: int = 2,
    at: Callable[[str], None] = lambda stage: None,
) -> Verdict:
    """Compile, run on every feed that an oracle accepts, compare. ``at`` is told what is about to be done."""
    at("compile")
    try:
        artifact = driver.compile(model, options=_options(model, runs, target, level)).to_bytes()
    except CompileError as error:
        if error.exit_code == 4:
            return Verdict("unsupported", "; ".join(getattr(error, "problems", ()) or [error.cause]))
        return Verdict("refused", told_line(error))
    except Exception as error:
        return Verdict("broken", told_line(error))
    try:
        given: dict[str, Any] = LOADING.get(target, {})
        sessions = [load(artifact, threads=n, **given) for n in (1, 2)]
    except Exception as error:
        return Verdict("broken", told_line(error))
    compared, notes = 0, []
    for number, feeds in enumerate(runs):
        answers = _answers(model, feeds, at)
        if not answers:
            continue
        at("run")
        try:
            results = [dict(zip([o.name for o in s.outputs], s.run(None, dict(feeds)), strict=True)) for s in sessions]
        except (TilewrightError, RunError) as error:
            if re.search(r"needs .+ == .+: ", str(error)):
                notes.append(Verdict("assumed", told_line(error)))
                continue
            return Verdict("refused", f"run {number}: {told_line(error)}")
        except Exception as error:
            return Verdict("broken", f"run {number}: {told_line(error)}")
        compared += 1
        if any(results[0][n].tobytes() != results[1][n].tobytes() for n in results[0]):
            return Verdict("wrong", f"run {number}: other bytes with two threads")
        verdict = compared_with(model, feeds, results[0], answers, at)
        if verdict.status == "wrong":
            return Verdict("wrong", f"run {number}: {verdict.reason}")
        if verdict.status != "ok":
            notes.append(verdict)
    if notes:
        return notes[0]
    return Verdict("ok" if compared else "no-oracle")


def _options(model: onnx.ModelProto, runs: Sequence[Mapping[str, Array]], target: str, level: int) -> Options:
    """How a model is compiled; programs get nothing on the host, and the bounds of what runs ask for."""
    if target not in LOADING:
        return Options(targets=(target,), level=level)
    met: dict[str, list[int]] = {}
    inputs = {i.name: i.type.tensor_type.shape.dim for i in model.graph.input}
    for name, dims in inputs.items():
        for d, dim in enumerate(dims):
            met.setdefault(dim.dim_param, []).extend(feeds[name].shape[d] for feeds in runs)
    bounds = {symbol: f"{symbol}={min(sizes)}..{max(sizes)}" for symbol, sizes in met.items()}
    shapes = {
        name: tuple(bounds[d.dim_param] if d.dim_param else str(d.dim_value) for d in dims)
        for name, dims in inputs.items()
        if any(d.dim_param for d in dims)
    }
    return Options(targets=(target,), level=level, fallback="forbid", input_shapes=tuple(shapes.items()))


def _answers(
    model: onnx.ModelProto, feeds: Mapping[str, Array], at: Callable[[str], None]
) -> dict[str, dict[str, Array]]:
    found = {}
    for name, oracle in ORACLES.items():
        at(name)
        try:
            found[name] = oracle(model, feeds)
        except Cannot:
            continue
    return found


def compared_with(
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    got: Mapping[str, Array],
    answers: Mapping[str, Mapping[str, Array]],
    at: Callable[[str], None],
    computed: str = "",
) -> Verdict:
    """``got`` beside what the oracles answered; ``computed`` is the narrowest float type that the model computes in,
    where that is none of its outputs'."""
    problems = {oracle: difference(got, want, computed) for oracle, want in answers.items()}
    if not any(problems.values()):
        return Verdict("ok")
    told = "; ".join(f"beside {oracle}: {problem}" for oracle, problem in problems.items() if problem)
    if not all(problems.values()):
        return Verdict("oracles", told)
    if _unstable(model, feeds, got, answers, at, computed):
        return Verdict("unstable", told)
    return Verdict("wrong", told)


def difference(got: Mapping[str, Array], want: Mapping[str, Array], computed: str = "") -> str:
    """The first output that is off by more than its type's tolerance, or nothing.

    The narrowest float type in a model decides, ``computed`` where that is told: an f32 result may come from f16
    values.
    """
    for name, value in want.items():
        narrow = [a.dtype for a in (*got.values(), *want.values()) if a.dtype == np.float16]
        least = computed or ("f16" if narrow else "")
        tolerance = TOLERANCE[least] if least and value.dtype.kind not in "iub" else None
        found = compare(name, got[name], value, tolerance)
        if not found.ok:
            return f"{name}: {found.problem or f'relative error {found.relative:.1e}'}"
    return ""


def _unstable(
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    got: Mapping[str, Array],
    answers: Mapping[str, Mapping[str, Array]],
    at: Callable[[str], None],
    computed: str = "",
) -> bool:
    """Whether inputs that differ by one rounding move an oracle's outputs about as far as ours are away."""
    rng = np.random.default_rng(0)
    for name, want in answers.items():
        if any(got[n].shape != a.shape or got[n].dtype != a.dtype for n, a in want.items()):
            return False
        at(name)
        moved = {}
        for n, a in feeds.items():
            unit = _EPSILON.get(computed, np.finfo(a.dtype).eps) if a.dtype.kind == "f" else 0.0
            moved[n] = (a * (1 + unit * rng.choice([-1.0, 1.0], a.shape))).astype(a.dtype) if unit else a
        try:
            other = ORACLES[name](model, moved)
        except Cannot:
            continue
        if all(_distance(got[n], a) <= 10 * _distance(other[n], a) for n, a in want.items()):
            return True
    return False


def _distance(a: Array, b: Array) -> float:
    if a.shape != b.shape or not a.size:
        return 0.0
    x, y = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        d = np.abs(x - y)
    return float(np.where(np.isfinite(d), d, 0 if np.array_equal(np.isnan(x), np.isnan(y)) else np.inf).max())


def pattern(reason: str) -> str:
    """A reason without the names and numbers of its model, for counting."""
    text = re.sub(r"\(node [^)]*\)|'[^']*'|\[[^\]]*\]", "…", reason)
    return re.sub(r"\b[xvc]?\d+\b", "#", text)[:110].strip()


def told_line(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
