"""One case through the compiler and the artifact's C interface; ``python -m tests.conformance.execute`` is a worker.

A worker reads names of cases, one a line, and answers each with a line of JSON. It imports neither onnxruntime nor
onnx.reference, and refuses to go on when something did.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np
import onnx

from tests.conformance.cases import FOLDER, Case, cases, read_values

#: What would compute for us.
FORBIDDEN = ("onnxruntime", "onnx.reference", "torch")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case.

    Attributes:
        status: ``passed``, ``unsupported`` (the compiler said so), ``wrong`` (other numbers), or ``failed``.
        reason: why it did not pass; one line.
        cpu: processor seconds of compiling it, the C compiler's processes included.
    """

    name: str
    status: str
    reason: str = ""
    cpu: float = 0.0


def execute(case: Case, target: str = "cpu:native", symbolic: bool = False) -> Outcome:
    """Compile a case with every input of the graph as a run-time input, run it on each data set and compare.

    With ``symbolic``, the sizes of the inputs are open: the artifact learns them from the arrays of each run.
    """
    import tilewright
    from tilewright import driver
    from tilewright.errors import TilewrightError
    from tilewright.options import Options
    from tilewright.runtime.errors import RunError

    started = _cpu()
    try:
        path = str(case.folder / "model.onnx")
        model = opened(onnx.load(path)) if symbolic else path
        artifact = driver.compile(model, options=Options(targets=(target,)))
    except TilewrightError as error:
        status = "unsupported" if error.exit_code in (3, 4) else "failed"
        return Outcome(case.name, status, _line(error))
    except Exception as error:
        return Outcome(case.name, "failed", f"crash: {_line(error)}")
    cpu = _cpu() - started
    try:
        session = tilewright.load(artifact)
        for data in case.data:
            inputs, expected = read_values(data, "input"), read_values(data, "output")
            feeds = {i.name: a for i, a in zip(session.inputs, inputs, strict=True)}
            problem = _difference(expected, session.run(None, feeds), case)
            if problem:
                return Outcome(case.name, "wrong", problem, cpu)
    except (TilewrightError, RunError) as error:
        return Outcome(case.name, "failed", _line(error), cpu)
    except Exception as error:
        return Outcome(case.name, "failed", f"crash: {_line(error)}", cpu)
    return Outcome(case.name, "passed", "", cpu)


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
    """Answer names with outcomes until the input ends; the argument ``symbolic`` opens the sizes of inputs."""
    known, symbolic = cases(), "symbolic" in sys.argv[1:]
    for line in sys.stdin:
        started = time.perf_counter()
        outcome = execute(known[line.strip()], symbolic=symbolic)
        loaded = [name for name in FORBIDDEN if name in sys.modules]
        if loaded:
            outcome = Outcome(outcome.name, "failed", f"this process has imported {', '.join(loaded)}")
        print(json.dumps({**asdict(outcome), "seconds": time.perf_counter() - started}), flush=True)
        if loaded:
            sys.exit(1)


if __name__ == "__main__":
    main()
