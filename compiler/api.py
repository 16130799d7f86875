"""The public functions, as ``import tilewright as tw`` has them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from numpy.typing import NDArray
from tilewright import sample
from tilewright.errors import UsageError
from tilewright.options import Options

if TYPE_CHECKING:
    import onnx
    from tilewright.bench import Benchmark
    from tilewright.driver import Artifact, Progress
    from tilewright.verify import Verification

Array = NDArray[Any]
#: What can be compiled: a path, a ``ModelProto``, a ``torch.nn.Module`` or a ``torch.export.ExportedProgram``.
Model = Union[str, "os.PathLike[str]", "onnx.ModelProto", Any]
#: What can be run: a path, or an artifact that was just compiled.
Runnable = Union[str, "os.PathLike[str]", "Artifact"]


def compile(
    model: Model,
    targets: Sequence[str] = ("cpu",),
    *,
    example_args: tuple[Any, ...] | None = None,
    dynamic_shapes: Any = None,
    input_shapes: Mapping[str, Sequence[int | str]] | None = None,
    level: int = 2,
    verify: bool = True,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Compile a model into one artifact.

    Args:
        model: an ONNX file, a ``ModelProto``, a torch module (with ``example_args``) or an ``ExportedProgram``.
        targets: spellings, ``kind[:arch[+feature]]``.
        example_args: arguments of one call of a torch module.
        dynamic_shapes: which of their sizes may vary, as ``torch.export.export`` takes it.
        input_shapes: per input, a size per axis: ``8`` binds, ``"1..32"`` bounds, ``"N"`` names.
        level: 0 (no fusion) to 3.
        verify: compare with a reference, in processes apart.
        tolerance: of that comparison; ``None`` is :data:`tilewright.accuracy.TOLERANCE`.
        progress: told every stage and what it works on.

    Raises:
        CompileError: the model is invalid or unsupported.
        AccuracyError: ``verify`` found an output off by more than the tolerance.
    """
    from tilewright import driver

    source = _onnx(model, example_args, dynamic_shapes)
    shapes = tuple((name, tuple(map(str, sizes))) for name, sizes in (input_shapes or {}).items())
    options = Options(targets=tuple(targets), input_shapes=shapes, level=level)
    artifact = driver.compile(source, options=options, progress=progress or (lambda stage, detail: None))
    if verify:
        globals()["verify"](artifact, source, tolerance=tolerance).require(artifact.report.model.name)
    return artifact


def _onnx(model: Model, example_args: tuple[Any, ...] | None, dynamic_shapes: Any) -> Any:
    """An ONNX path or proto; what comes from torch is exported."""
    if isinstance(model, str | os.PathLike) or type(model).__name__ == "ModelProto":
        return model
    from tilewright.frontend.torch import export_module

    return export_module(model, example_args, dynamic_shapes=dynamic_shapes)


def samples(
    artifact: Path | str, shapes: Mapping[str, Sequence[int]] | None = None, count: int = 2
) -> list[dict[str, Array]]:
    """Made-up inputs for an artifact, without running it.

    Args:
        artifact: a ``.tw`` file.
        shapes: concrete shapes of some inputs; what they leave open gets small unequal sizes within its bounds.
        count: how many samples, at most 2; they differ in sizes and values.
    """
    from tilewright.runtime.artifact import open_artifact

    entry = open_artifact(artifact).manifest.entries[0]
    inputs = [sample.Input(i.name, sample.numpy_dtype(i.dtype), i.shape) for i in entry.inputs]
    bounds = {s.name: (s.min, s.max, s.multiple) for s in entry.symbols}
    bound = sample.bind(inputs, shapes or {})
    made = []
    for seed, sizes in enumerate(sample.SAMPLES[:count]):
        free = {s: _within(sizes[i % len(sizes)], *bounds[s]) for i, s in enumerate(sample.symbols_of(inputs))}
        made.append(sample.make_inputs(inputs, free | bound, seed))
    return made


def _within(size: int, low: int, high: int, multiple: int) -> int:
    return min(max(-(-size // multiple) * multiple, low), high)


@contextmanager
def _file_of(artifact: Runnable) -> Iterator[Path]:
    """A path to an artifact, for as long as it is needed."""
    if isinstance(artifact, str | os.PathLike):
        yield Path(artifact)
        return
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        path = Path(folder) / "model.tw"
        artifact.save(path)
        yield path


@contextmanager
def _onnx_file(model: Model) -> Iterator[Path]:
    if isinstance(model, str | os.PathLike):
        yield Path(model)
        return
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        import onnx

        path = Path(folder) / "model.onnx"
        onnx.save(model, str(path), save_as_external_data=model.ByteSize() > 1 << 30)
        yield path


def verify(
    artifact: Runnable,
    reference: Model,
    *,
    feeds: Sequence[Mapping[str, Array]] | None = None,
    sizes: Mapping[str, Sequence[int]] | None = None,
    tolerance: float | None = None,
    engine: str = "auto",
) -> Verification:
    """Compare an artifact with the ONNX model it was made from, each in a process of its own.

    Args:
        artifact: a path or a compiled artifact.
        reference: an ONNX file or ``ModelProto``.
        feeds: samples, arrays by input name; ``None`` makes some up.
        sizes: concrete shapes of made-up inputs.
        tolerance: largest error relative to the largest reference value; ``None`` is by dtype.
        engine: ``auto``, ``onnxruntime``, ``onnx.reference`` or ``openvino``.
    """
    from tilewright.verify import verify as compare

    with _file_of(artifact) as path, _onnx_file(reference) as model:
        return compare(path, model, feeds or samples(path, sizes), tolerance=tolerance, engine=engine)


def bench(artifact: Runnable, feed: Mapping[str, Array] | None = None, **settings: Any) -> Benchmark:
    """Measure an artifact; ``feed`` and ``settings`` as in :func:`tilewright.bench.bench`, inputs made up by default."""
    from tilewright.bench import bench as measure

    with _file_of(artifact) as path:
        return measure(path, feed if feed is not None else samples(path, count=1)[0], **settings)


def load(artifact: Runnable, device: str = "auto", threads: int | None = None) -> Any:
    """A session that runs an artifact; see :class:`tilewright.runtime.Session`.

    Args:
        artifact: a path or a compiled artifact.
        device: ``auto``, a kind (``cpu``) or a target's spelling.
        threads: per run; ``None`` is what this process may use.
    """
    from tilewright import runtime

    if isinstance(artifact, str | os.PathLike | bytes):
        return runtime.load(artifact, device=device, threads=threads)
    to_bytes = getattr(artifact, "to_bytes", None)
    if to_bytes is None:
        raise UsageError(
            "not-an-artifact", where=type(artifact).__name__, cause="it cannot be run", fix="give a .tw path"
        )
    return runtime.load(to_bytes(), device=device, threads=threads)
