"""One model in one engine: ours, or another that serves as reference or as a peer to measure against.

``python -m tilewright.engines`` runs a model once in a process of its own, so that its memory and a crash are its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tilewright.errors import DeviceError, ExitCode, InternalError, TilewrightError
from tilewright.sample import numpy_dtype

Array = NDArray[Any]

MENDABLE = 3  # exit status of a child that tells an error on stdout


@dataclass(frozen=True, slots=True)
class Engine:
    """A loaded model.

    Attributes:
        run: takes arrays by input name and gives arrays by output name.
        jit_seconds: what our own runtime has spent on compiling so far, ``jit_by`` by what.
        target, place: the part that our own runtime runs, and where; ``note`` why not elsewhere.
        on_device: the device's own seconds of a run whose inputs and outputs stay there, of our own runtime on a GPU.
    """

    name: str
    version: str
    run: Callable[[Mapping[str, Array]], dict[str, Array]]
    jit_seconds: Callable[[], float] = float
    jit_by: str = ""
    target: str = ""
    place: str = ""
    note: str = ""
    on_device: Callable[[Mapping[str, Array], float], list[float]] | None = None


class EngineError(TilewrightError):
    """What an engine in a process of its own found the user could mend; exit code and text are the engine's."""

    def __init__(self, code: str, *, where: str, cause: str, fix: str, exit_code: int):
        super().__init__(code, where=where, cause=cause, fix=fix)
        self.exit_code = ExitCode(exit_code)


def _tilewright(
    path: Path,
    threads: int | None,
    device: str = "auto",
    entry: str | None = None,
    allow_jit: bool | None = None,
    cache: bool = True,
) -> Engine:
    from tilewright import __version__
    from tilewright.runtime import load

    session = load(path, device=device, threads=threads, entry=entry, allow_jit=allow_jit, cache=cache)
    outputs = session.outputs

    def run(x: Mapping[str, Array]) -> dict[str, Array]:
        return {o.name: _numbers(o.dtype, y) for o, y in zip(outputs, session.run(None, x), strict=True)}

    return Engine(
        "tilewright",
        __version__,
        run,
        lambda: session.jit_seconds,
        session.jit_by,
        session.target,
        session.place,
        session.note,
        _on_device(session, entry),
    )


def _on_device(session: Any, entry: str | None) -> Callable[[Mapping[str, Array], float], list[float]] | None:
    """What measures the device's own time of a session that has one."""
    if not hasattr(session, "gpu"):
        return None
    from tilewright.runtime.device_time import device_seconds

    return lambda feed, seconds: device_seconds(session, feed, seconds, entry)


def _numbers(spelling: str, array: Array) -> Array:
    """An output of our runtime, which needs no more than NumPy, in a dtype that says what its bits mean."""
    dtype = numpy_dtype(spelling)
    if dtype == array.dtype:
        return array
    return array.astype(dtype) if "int" in dtype.name else array.view(dtype)


def _onnxruntime(path: Path, threads: int | None, fused: bool = True) -> Engine:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads = threads or 0, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return Engine(
        "onnxruntime", onnxruntime.__version__, lambda x: dict(zip(names, session.run(None, dict(x)), strict=True))
    )


def _onnx_reference(path: Path, threads: int | None) -> Engine:
    import onnx
    from onnx.reference import ReferenceEvaluator

    del threads  # NumPy's own
    model = ReferenceEvaluator(str(path))
    return Engine(
        "onnx.reference",
        onnx.__version__,
        lambda x: dict(zip(model.output_names, map(np.asarray, model.run(None, dict(x))), strict=True)),
    )


def _openvino(path: Path, threads: int | None) -> Engine:
    import openvino

    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.compile_model(str(path), "CPU", settings)
    request, names = compiled.create_infer_request(), [o.get_any_name() for o in compiled.outputs]

    def run(x: Mapping[str, Array]) -> dict[str, Array]:
        results = request.infer(dict(x), share_inputs=True, share_outputs=True)
        return {name: results[i] for i, name in enumerate(names)}

    return Engine("openvino", openvino.__version__.partition("-")[0], run)


def _torch(path: Path, threads: int | None) -> Engine:
    """A ``.pt2`` archive of ``torch.export.save``; its inputs are taken in the order of the feeds."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    module = torch.export.load(path).module()

    def run(x: Mapping[str, Array]) -> dict[str, Array]:
        with torch.inference_mode():
            outputs = module(*(torch.from_numpy(v) for v in x.values()))
        outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
        return {f"output{i}": o.numpy() for i, o in enumerate(outputs)}

    return Engine("torch", torch.__version__, run)


OPENERS: dict[str, Callable[[Path, int | None], Engine]] = {
    "tilewright": _tilewright,
    "onnxruntime": _onnxruntime,
    "onnxruntime.plain": partial(_onnxruntime, fused=False),
    "onnx.reference": _onnx_reference,
    "openvino": _openvino,
    "torch": _torch,
}


def available(name: str) -> bool:
    """Whether the package of an engine is installed."""
    return find_spec(name.partition(".")[0]) is not None


def open_engine(
    name: str,
    path: Path,
    threads: int | None = None,
    entry: str | None = None,
    *,
    device: str = "auto",
    allow_jit: bool | None = None,
    cache: bool = True,
) -> Engine:
    """Load a model into an engine of :data:`OPENERS`.

    Args:
        name: key of :data:`OPENERS`.
        path: an artifact for ``tilewright``, a ``.pt2`` archive for ``torch``, an ONNX file for the others.
        threads: for one run; ``None`` is the engine's default.
        entry: of an artifact, the entry point to run; the first when ``None``.
        device, allow_jit, cache: of an artifact, as of :func:`tilewright.runtime.load`.

    Raises:
        DeviceError: the engine is not installed.
    """
    if not available(name):
        raise DeviceError(
            "engine-missing",
            where=name,
            cause="this engine is not installed",
            fix=f"pip install {name.partition('.')[0]}",
        )
    if name == "tilewright":
        return _tilewright(path, threads, device, entry, allow_jit, cache)
    return OPENERS[name](path, threads)


@dataclass(frozen=True, slots=True)
class Runs:
    """What an engine made of some inputs in a process of its own. ``seconds`` per run, ``peak_rss`` in bytes;
    ``jit_seconds`` of all were spent on compiling by ``jit_by``, which our own runtime is allowed to here."""

    engine: str
    version: str
    load_seconds: float
    seconds: tuple[float, ...]
    peak_rss: int
    outputs: tuple[dict[str, Array], ...]
    jit_seconds: float = 0.0
    jit_by: str = ""


def run_apart(
    name: str, path: Path, feeds: Sequence[Mapping[str, Array]], device: str = "auto", entry: str | None = None
) -> Runs:
    """Run a model on every element of ``feeds`` in a child process; ``device`` and ``entry`` are for our own engine.

    Raises:
        EngineError: what the user can mend, with the engine's own exit code (a missing device, inputs that do not fit,
            a damaged artifact).
        InternalError: the child failed; the message has the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        names = list(feeds[0])
        for i, feed in enumerate(feeds):
            _save(Path(folder) / f"in{i}.npz", [feed[n] for n in names])
        task = {"engine": name, "path": str(path), "folder": folder, "device": device, "entry": entry, "inputs": names}
        child = [sys.executable, "-m", "tilewright.engines", json.dumps(task | {"count": len(feeds)})]
        done = subprocess.run(child, capture_output=True, text=True, check=False)
        told = json.loads((done.stdout.splitlines() or ["{}"])[-1]) if done.returncode in (0, MENDABLE) else {}
        if done.returncode == MENDABLE:
            raise EngineError(**told)
        if done.returncode:
            said = "\n".join(done.stderr.strip().splitlines()[-8:])
            raise InternalError(f"{name} could not run {path.name} (status {done.returncode}):\n{said}")
        outputs = tuple(
            dict(zip(told["outputs"], _arrays(Path(folder) / f"out{i}.npz"), strict=True)) for i in range(len(feeds))
        )
    return Runs(
        name,
        told["version"],
        told["load_seconds"],
        tuple(told["seconds"]),
        told["peak_rss"],
        outputs,
        told["jit_seconds"],
        told["jit_by"],
    )


def _save(path: Path, arrays: Sequence[Array]) -> None:
    """Write arrays; of types that NumPy lacks, and its files do not tell apart, bits and the type's name."""
    arrays = [np.asarray(a) for a in arrays]
    names = np.array(["" if a.dtype.isbuiltin == 1 else a.dtype.name for a in arrays])
    plain = [a if not n else a.view(f"u{a.dtype.itemsize}") for n, a in zip(names, arrays, strict=True)]
    np.savez(path, *plain, names=names)


def _arrays(path: Path) -> list[Array]:
    import ml_dtypes

    with np.load(path) as data:
        arrays = [(str(name), data[f"arr_{i}"]) for i, name in enumerate(data["names"])]
    return [a.view(getattr(ml_dtypes, name)) if name else a for name, a in arrays]


def _child(task: Mapping[str, Any]) -> dict[str, Any]:
    name, folder = task["engine"], Path(task["folder"])
    if available(name):
        import_module(
            "tilewright.runtime" if name == "tilewright" else name.removesuffix(".plain")
        )  # not a part of loading
    start = time.perf_counter()
    path = Path(task["path"])
    ours = name == "tilewright"
    if ours:  # what is checked has to run: compiling it is allowed, and told
        engine = _tilewright(path, None, task["device"], task["entry"], allow_jit=True)
    else:
        engine = open_engine(name, path)
    told: dict[str, Any] = {"version": engine.version, "load_seconds": time.perf_counter() - start}
    seconds = []
    for i in range(task["count"]):
        feed = dict(zip(task["inputs"], _arrays(folder / f"in{i}.npz"), strict=True))
        start = time.perf_counter()
        outputs = engine.run(feed)
        seconds.append(time.perf_counter() - start)
        told["outputs"] = list(outputs)
        _save(folder / f"out{i}.npz", list(outputs.values()))
    compiled = {"jit_seconds": engine.jit_seconds(), "jit_by": engine.jit_by}
    return told | {"seconds": seconds, "peak_rss": peak_rss()} | compiled


def peak_rss() -> int:
    """Highest resident memory of this process, bytes.

    Not ``ru_maxrss`` where it can be helped: on Linux that keeps the parent's peak through fork and exec.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    try:
        print(json.dumps(_child(json.loads(sys.argv[1]))))
    except Exception as error:
        parts = {name: getattr(error, name, None) for name in ("code", "where", "cause", "fix", "exit_code")}
        if None in parts.values():
            raise
        print(json.dumps({**parts, "exit_code": int(parts["exit_code"] or 1)}))
        sys.exit(MENDABLE)
