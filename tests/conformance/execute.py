"""One case through the compiler and what runs an artifact; ``python -m tests.conformance.execute`` is a worker.

What the CPU's kernels compute is run through the artifact's C interface, the programs of a graph target through its own
runtime, with nothing on the host part. A worker reads names of cases, one a line, and answers each with a line of JSON.
It imports neither onnxruntime nor onnx.reference nor jax, and refuses to go on when something did.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx

from tests.conformance.cases import FOLDER, Case, cases, read_values
from tests.conformance.determining import determining

#: What would compute for us.
FORBIDDEN = ("onnxruntime", "onnx.reference", "torch", "jax")

#: How an artifact is loaded, by target, where it is not as usual.
LOADING: dict[str, dict[str, Any]] = {"xla:cpu": {"device": "xla-cpu", "allow_jit": True, "cache": False}}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case.

    Attributes:
        status: ``passed``, ``unsupported`` (the compiler said so), ``wrong`` (other numbers), or ``failed``.
        reason: why it did not pass; one line.
        cpu: processor seconds of compiling it, the C compiler's processes included.
        constants: inputs of the graph that were constants.
    """

    name: str
    status: str
    reason: str = ""
    cpu: float = 0.0
    constants: tuple[str, ...] = ()


def execute(case: Case, target: str = "cpu:native", symbolic: bool = False, constants: bool = False) -> Outcome:
    """Compile a case with every input of the graph as a run-time input, run it on each data set and compare.

    With ``symbolic``, the sizes of the inputs are open: the artifact learns them from the arrays of each run. With
    ``constants``, inputs that determine shapes are constants of the model (:func:`fixed`).
    """
    import tilewright
    from tilewright import driver
    from tilewright.errors import TilewrightError
    from tilewright.options import Options
    from tilewright.runtime.errors import RunError

    started, held = _cpu(), ()
    try:
        model: Any = str(case.folder / "model.onnx")
        if symbolic:
            model = opened(onnx.load(model))
        elif constants:
            model, held = fixed(onnx.load(model), case)
        artifact = driver.compile(model, options=Options(targets=(target,), fallback="forbid"))
    except TilewrightError as error:
        status = "unsupported" if error.exit_code in (3, 4) else "failed"
        return Outcome(case.name, status, _line(error), constants=held)
    except Exception as error:
        return Outcome(case.name, "failed", f"crash: {_line(error)}", constants=held)
    cpu = _cpu() - started
    try:
        session = tilewright.load(artifact, **LOADING.get(target, {}))
        names = given(onnx.load(str(case.folder / "model.onnx"), load_external_data=False))
        for data in case.data:
            inputs, expected = read_values(data, "input"), read_values(data, "output")
            feeds = {n: a for n, a in zip(names, inputs, strict=False) if n in {i.name for i in session.inputs}}
            problem = _difference(expected, session.run(None, feeds), case)
            if problem:
                return Outcome(case.name, "wrong", problem, cpu, held)
    except (TilewrightError, RunError) as error:
        return Outcome(case.name, "failed", _line(error), cpu, held)
    except Exception as error:
        return Outcome(case.name, "failed", f"crash: {_line(error)}", cpu, held)
    return Outcome(case.name, "passed", "", cpu, held)


def fixed(model: onnx.ModelProto, case: Case) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """``model`` with the first data set's arrays for the inputs that determine shapes, and the names of those."""
    arrays = dict(zip(given(model), read_values(case.data[0], "input"), strict=False))
    names = tuple(n for n in determining(model) if arrays.get(n) is not None)
    kept = [i for i in model.graph.input if i.name not in names]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(arrays[n], n) for n in names)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model, names


def given(model: onnx.ModelProto) -> list[str]:
    """Names of what a run is given."""
    weights = {w.name for w in model.graph.initializer}
    return [i.name for i in model.graph.input if i.name not in weights]


def opened(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with a name in place of each size of its inputs.

    Vectors of integers keep their length: it is the rank of a shape, or the number of axes. So do axes of size 0, since
    a named size holds at least one element unless a user says otherwise.
    """
    weights = {w.name for w in model.graph.initializer}
    for n, value in enumerate(model.graph.input):
        t = value.type.tensor_type
        if value.name in weights or (len(t.shape.dim) == 1 and t.elem_type in _INTEGERS):
            continue
        for d, size in enumerate(t.shape.dim):
            if size.dim_value:
                size.dim_param = f"s{n}_{d}"
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return model


_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)


def _difference(expected: list[np.ndarray], got: list[np.ndarray], case: Case) -> str:
    """What the suite's own runner would complain about; its comparison, and its tolerance for bf16."""
    if len(expected) != len(got):
        return f"{len(got)} outputs, not {len(expected)}"
    for i, (want, result) in enumerate(zip(expected, got, strict=True)):
        narrow = want.dtype.name.startswith(("bfloat16", "float8", "float4", "int4", "uint4", "int2", "uint2"))
        # The runtime gives floats as their bits, in unsigned integers.
        bits = narrow and result.dtype.kind == "u" and "int" not in want.dtype.name
        have = result.view(want.dtype) if bits else result.astype(want.dtype) if narrow else result
        if have.dtype != want.dtype:
            return f"output {i} is {have.dtype}, not {want.dtype}"
        if have.shape != want.shape:
            return f"output {i} has shape {list(have.shape)}, not {list(want.shape)}"
        rtol = max(case.rtol, 2**-6) if want.dtype.name == "bfloat16" else case.rtol
        a, b = (x.astype(np.float32) if narrow else x for x in (have, want))
        try:
            np.testing.assert_allclose(a, b, rtol=rtol, atol=case.atol)
        except AssertionError as error:
            return f"output {i}: {_line(error)}"
    return ""


def _line(error: BaseException) -> str:
    """The error on one line, without the folder where the suite lies."""
    text = f"{type(error).__name__}: {error}".replace(f"{FOLDER}/", "")
    return " ".join(line.strip() for line in text.splitlines() if line.strip())[:300]


def _cpu() -> float:
    """Processor seconds of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    """Answer names with outcomes until the input ends.

    The arguments are the target, and ``symbolic``, which opens the sizes of inputs, or ``constants``.
    """
    target, *modes = sys.argv[1:]
    if target in LOADING:
        sys.modules["jax"] = None  # type: ignore[assignment]  # jaxlib looks for it; it is not to be found
    known = cases()
    for line in sys.stdin:
        started = time.perf_counter()
        outcome = execute(known[line.strip()], target, symbolic="symbolic" in modes, constants="constants" in modes)
        loaded = [name for name in FORBIDDEN if sys.modules.get(name) is not None]
        if loaded:
            outcome = Outcome(outcome.name, "failed", f"this process has imported {', '.join(loaded)}")
        print(json.dumps({**asdict(outcome), "seconds": time.perf_counter() - started}), flush=True)
        if loaded:
            sys.exit(1)


if __name__ == "__main__":
    main()
