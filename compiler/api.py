"""The public functions, as ``import tilewright as tw`` has them."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from numpy.typing import NDArray
from tilewright.errors import ExitCode, UsageError
from tilewright.feeds import entry_of, own_inputs, require_feeds, samples
from tilewright.options import Options
from tilewright.request import Calibrating, fallback_of, given_of, precision_of
from tilewright.torch_reference import run_torch, torch_version

if TYPE_CHECKING:
    import onnx
    from tilewright.artifact import Artifact
    from tilewright.benchmark import Benchmark
    from tilewright.diagnosis.bisection import Bisection
    from tilewright.diagnosis.layers import Layers
    from tilewright.driver import Progress
    from tilewright.quantization.make import QuantizedModel
    from tilewright.quantization.request import Metric
    from tilewright.runtime import Session
    from tilewright.support import Checked
    from tilewright.verification import Verification

Array = NDArray[Any]
#: What can be compiled: a path, a ``ModelProto``, a ``torch.nn.Module`` or a ``torch.export.ExportedProgram``.
Model = Union[str, "os.PathLike[str]", "onnx.ModelProto", Any]
#: What can be run: a path, or an artifact that was just compiled.
Runnable = Union[str, "os.PathLike[str]", "Artifact"]


def compile(
    model: Model | Mapping[str, Model],
    targets: Sequence[str] = ("cpu",),
    *,
    example_args: tuple[Any, ...] | None = None,
    dynamic_shapes: Any = None,
    input_shapes: Mapping[str, Sequence[int | str]] | None = None,
    states: Mapping[str, str] | None = None,
    buckets: Mapping[str, Sequence[int]] | None = None,
    exact: Sequence[str] = (),
    mesh: Sequence[int] = (),
    shard: str | None = None,
    constants: Mapping[str, Any] | None = None,
    fallback: str = "report",
    ahead: bool = True,
    level: int = 2,
    verify: bool = True,
    tolerance: float | None = None,
    progress: Progress | None = None,
    precision: str | None = None,
    calibration: Calibrating | None = None,
    max_drop: float | None = None,
    metric: str | Metric = "cosine",
    method: str | None = None,
    settings: Mapping[str, Any] | None = None,
    allow_precision: Sequence[str] = (),
    excepted: Sequence[str] = (),
    records: str | os.PathLike[str] | None = None,
) -> Artifact:
    """Compile a model into one artifact.

    Args:
        model: an ONNX file, a ``ModelProto``, a torch module (with ``example_args``) or an ``ExportedProgram``; or
            several of them by the names of their entry points, ``{"prefill": a, "decode": b}``, which share weights.
            Among several, what comes from torch is an ``ExportedProgram``.
        targets: spellings, ``kind[:arch[+feature]]``.
        example_args: arguments of one call of a torch module.
        dynamic_shapes: which of their sizes may vary, as ``torch.export.export`` takes it.
        input_shapes: per input, a size per axis: ``8`` binds, ``"1..32"`` bounds, ``"N"`` names.
            They apply to every entry point that has the input.
        states: per input that is a state, the output that is its new value; ``run`` takes one array for the two.
        buckets: for targets of static programs, the sizes that a named dimension gets programs for:
            ``{"sequence": (32, 128)}``; smaller sizes are padded. The artifact takes none that are larger.
        mesh: for targets of programs, devices along each axis, such as ``(2, 2)``; one device without it.
        shard: how tensors are cut over the mesh: ``auto`` (the batch along the first axis, weights along the others),
            ``tensor`` (weights) or ``batch``.
        exact: the dimensions among ``buckets`` that are met at just these sizes, never padded.
        constants: arrays (or lists of numbers) for inputs, which are then no inputs of the artifact: shapes, axes,
            and what else a target of static programs has to know.
        fallback: of targets of programs, whether nodes may be left to the host part: ``report`` or ``allow`` (the
            report lists them), or ``forbid``.
        ahead: targets of programs get executables beside the portable form, where their compiler is installed.
        level: 0 (no fusion) to 3.
        verify: compare with a reference, in processes apart.
        tolerance: of that comparison; ``None`` is :data:`tilewright.accuracy.TOLERANCE`.
        progress: told every stage and what it works on.
        precision: ``fp32``, ``tf32``, ``bf16``, ``fp16``, ``fp8``, ``int8``, ``int4`` or ``auto``; ``None`` is the
            model's own. Nothing is quantized without it.
        calibration: samples, as :mod:`tilewright.calibration` takes them; for several entry points a mapping of their
            names to samples.
        max_drop, metric, method, settings, excepted, records: as for :func:`quantize`.
        allow_precision: types that layers may have instead of what was asked for (``"f32"``).

    Raises:
        CompileError: the model is invalid or unsupported.
        PrecisionError: layers did not get ``precision``, and nothing allowed that.
        AccuracyError: ``verify`` found an output off by more than the tolerance, or ``max_drop`` cannot be kept.
    """
    from tilewright import driver
    from tilewright.entries import entries_of
    from tilewright.frontend.constants import constant_input

    shapes = {name: tuple(map(str, sizes)) for name, sizes in (input_shapes or {}).items()}
    options = Options(
        targets=tuple(targets),
        input_shapes=tuple(shapes.items()),
        level=level,
        states=tuple((states or {}).items()),
        buckets=tuple((name, tuple(rungs)) for name, rungs in (buckets or {}).items()),
        exact=tuple(exact),
        mesh=tuple(mesh),
        shard=shard or "",
        constants=tuple((name, constant_input(name, value)) for name, value in (constants or {}).items()),
        fallback=fallback_of(fallback),
        ahead=ahead,
        precision=precision_of(precision, method, settings, max_drop, metric, allow_precision, excepted),
    )
    models = entries_of(model)
    given = given_of(calibration, metric, records, list(models)) if precision is not None else None
    if len(models) > 1 and (example_args is not None or dynamic_shapes is not None):
        cause, fix = "example arguments are those of one model", "give each model as a torch.export.ExportedProgram"
        raise UsageError("torch-arguments", where="compile", cause=cause, fix=fix)
    sources = {}
    for name, each in models.items():
        sources[name] = each
        if not _is_onnx(each):
            from tilewright.frontend.torch import import_module

            every = len(models) == 1
            sources[name] = import_module(
                each,
                example_args or (),
                dynamic_shapes=dynamic_shapes,
                input_shapes=shapes,
                constants=dict(options.constants),
                every_shape=every,
            )
    artifact = driver.compile(sources, options=options, progress=progress or (lambda stage, detail: None), given=given)
    if verify:
        for name, each in models.items():
            _require_equal(artifact, name, each, example_args, tolerance)
    return artifact


def quantize(
    model: Model,
    targets: Sequence[str] | None = None,
    *,
    method: str = "auto",
    calibration: Calibrating | None = None,
    max_drop: float | None = None,
    metric: str | Metric = "cosine",
    settings: Mapping[str, Any] | None = None,
    excepted: Sequence[str] = (),
    records: str | os.PathLike[str] | None = None,
    input_shapes: Mapping[str, Sequence[int | str]] | None = None,
    progress: Progress | None = None,
) -> QuantizedModel:
    """A quantized ONNX model and its accuracy beside the float one.

    Args:
        model: an ONNX file or a ``ModelProto``.
        targets: whose kernels absorb what is quantized; what all targets can when ``None``.
        method: ``int8``, ``int8-dynamic``, ``smoothquant``, ``int8-weights``, ``int4``, ``fp8``, ``fp16``, ``bf16``, or
            ``auto``: the fastest mixture within ``max_drop``.
        calibration: a path (``.npz``, or a folder of ``.npy``), ``"random:16"``, or an iterable of feeds; see
            :mod:`tilewright.calibration`. Every fourth sample is held out and judges.
        max_drop: how much worse outputs may be: one minus their mean cosine to those of the float model, or what
            ``metric`` says.
        metric: ``cosine``, ``top1`` (one minus the agreement of the largest element of rows), or a function of the
            outputs of all samples, more being better: the drop is then its loss.
        settings: fields of :class:`tilewright.passes.quantize.base.Settings`: ``{"calibrator": "entropy"}``.
        excepted: patterns of names of layers that stay in float.
        records: a file of measured times, which go before predictions.
        input_shapes: as for :func:`compile`.
        progress: told every stage and what it works on.

    Raises:
        UsageError: arguments or data that make no sense; a method that needs calibration data without any.
        AccuracyError: ``max_drop`` cannot be kept; told with the best that could.
    """
    from tilewright.quantization.make import quantize_model
    from tilewright.quantization.request import precision_of_method

    if not _is_onnx(model):
        cause, fix = "only ONNX models are quantized", "export it (torch.onnx.export), or compile it with precision="
        raise UsageError("check-what", where=type(model).__name__, cause=cause, fix=fix)
    shapes = {name: tuple(map(str, sizes)) for name, sizes in (input_shapes or {}).items()}
    asked = precision_of_method(method)
    options = Options(
        targets=tuple(targets or ()),
        input_shapes=tuple(shapes.items()),
        precision=precision_of(asked, None if asked == "auto" else method, settings, max_drop, metric, (), excepted),
    )
    given = given_of(calibration, metric, records, ["main"])
    return quantize_model(model, options, given, progress or (lambda stage, detail: None))


def check(
    model: Model,
    targets: Sequence[str] = ("cpu",),
    *,
    input_shapes: Mapping[str, Sequence[int | str]] | None = None,
    fallback: str = "report",
    level: int = 2,
) -> Checked:
    """Which operators of a model are supported on each target, with a reason and a way round for what is not.

    Nothing is built. ``model`` is an ONNX file or a ``ModelProto``; the other arguments are those of :func:`compile`.
    Nodes on the host part of a target of programs are in ``on_host`` of the result, and not supported where
    ``fallback`` is ``forbid``.
    Raises :class:`CompileError` for an invalid model; unsupported operators are in the result.
    """
    from tilewright.support import check as examine

    if not _is_onnx(model):
        cause, fix = "only ONNX models can be checked", "export it (torch.onnx.export), or compile it"
        raise UsageError("check-what", where=type(model).__name__, cause=cause, fix=fix)
    shapes = {name: tuple(map(str, sizes)) for name, sizes in (input_shapes or {}).items()}
    return examine(model, Options(tuple(targets), tuple(shapes.items()), level, fallback=fallback_of(fallback)))


def _require_equal(
    artifact: Artifact, entry: str, model: Model, example_args: tuple[Any, ...] | None, tolerance: float | None
) -> None:
    from tilewright.engines import EngineError
    from tilewright.verification import NO_REFERENCE

    name = artifact.report.entries[entry].name
    try:
        if artifact.evidence is not None and _is_onnx(model):
            checked = verify_quantized(artifact, model, entry=entry)
        elif _is_onnx(model):
            checked = verify(artifact, model, tolerance=tolerance, entry=entry)
        else:
            checked = verify_torch(artifact, model, example_args, tolerance=tolerance, entry=entry)
    except EngineError as error:
        if error.exit_code != ExitCode.DEVICE and error.code != NO_REFERENCE:
            raise
        warnings.warn(f"{name} was compiled but not verified: {error.cause}", stacklevel=3)
        return
    for target, reason in checked.unchecked:
        warnings.warn(f"{name} was not verified on {target}: {reason}", stacklevel=3)
    checked.require(name)


def _is_onnx(model: Model) -> bool:
    """A path or a ``ModelProto``; everything else comes from torch."""
    return isinstance(model, str | os.PathLike) or type(model).__name__ == "ModelProto"


def verify_torch(
    artifact: Runnable,
    model: Any,
    example_args: tuple[Any, ...] | None = None,
    *,
    tolerance: float | None = None,
    entry: str | None = None,
) -> Verification:
    """Compare an artifact with the torch module it was made from, run here on its example inputs.

    Args:
        artifact: a path or a compiled artifact.
        model: a torch module, or an ``ExportedProgram``.
        example_args: inputs; an ``ExportedProgram`` has its own.
        tolerance: largest error relative to the largest reference value; ``None`` is by dtype.
        entry: the entry point that was made from it; the first when ``None``.
    """
    from tilewright.verification import constant_positions, verify_outputs

    with _file_of(artifact) as path:
        info = entry_of(path, entry)
        names, outputs = [i.name for i in info.inputs], [o.name for o in info.outputs]
        for position, name in constant_positions(path, entry):
            names.insert(position, name)
        feed, want = run_torch(model, example_args, names, outputs)
        (feed,) = own_inputs(path, entry, [feed])
        reference = f"torch {torch_version()} in this process"
        return verify_outputs(path, [feed], [want], reference, tolerance=tolerance, entry=entry)


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
    min_accuracy: float | None = None,
    engine: str = "auto",
    entry: str | None = None,
) -> Verification:
    """Compare an artifact with the ONNX model it was made from, each in a process of its own.

    Args:
        artifact: a path or a compiled artifact.
        reference: an ONNX file or ``ModelProto``.
        feeds: samples, arrays by input name; ``None`` makes some up.
        sizes: concrete shapes of made-up inputs.
        tolerance: largest error relative to the largest reference value; ``None`` is by dtype.
        min_accuracy: smallest cosine of each output of each sample; decides in place of the tolerance.
        engine: ``auto``, ``onnxruntime``, ``onnx.reference`` or ``openvino``.
        entry: the entry point that was made from the model; the first when ``None``.
    """
    from tilewright.verification import require_inputs, with_constants
    from tilewright.verification import verify as compare

    with _file_of(artifact) as path, _onnx_file(reference) as model:
        given = own_inputs(path, entry, feeds) if feeds else samples(path, sizes, entry=entry)
        info = entry_of(path, entry)
        require_feeds(path, info, given)
        require_inputs(model, with_constants(path, entry, given)[0])
        return compare(path, model, given, tolerance=tolerance, minimum=min_accuracy, engine=engine, entry=entry)


def compare_layers(
    model: Model,
    reference: Model,
    *,
    feeds: Sequence[Mapping[str, Array]] | None = None,
    sizes: Mapping[str, Sequence[int]] | None = None,
    tolerance: float | None = None,
    min_accuracy: float | None = None,
) -> Layers:
    """Compare a quantized ONNX model with the float model it was made from, layer by layer.

    Each layer alone (fed with what the reference gives it) and as the model runs; both are compiled for this machine.

    Args:
        model: an ONNX file or ``ModelProto``, quantized (or rewritten otherwise).
        reference: the model that it was made from; the inputs are the same.
        feeds: samples, arrays by input name; ``None`` makes some up, which the result tells.
        sizes: concrete shapes of made-up inputs.
        tolerance, min_accuracy: what outputs are judged by, as for :func:`verify`.
    """
    from tilewright.diagnosis.layers import compare_layers as compare
    from tilewright.diagnosis.samples import made_up, require_fitting
    from tilewright.frontend.onnx import import_model
    from tilewright.runner import GraphRunner

    with _onnx_file(model) as path, _onnx_file(reference) as beside:
        ours, theirs = import_model(path), import_model(beside)
        given = made_up(theirs, sizes or {}) if feeds is None else feeds
        require_fitting(theirs, given, str(beside))
        source = "made up" if feeds is None else "given"
        return compare(ours, theirs, given, GraphRunner(), source, limits=(tolerance, min_accuracy))


def bisect(
    artifact: Runnable,
    reference: Model,
    *,
    model: Model | None = None,
    feeds: Sequence[Mapping[str, Array]] | None = None,
    sizes: Mapping[str, Sequence[int]] | None = None,
    tolerance: float | None = None,
    min_accuracy: float | None = None,
    engine: str = "auto",
    entry: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Bisection:
    """Find the first tensor where an artifact diverges from its model, the pass or kernel at fault, a minimal model.

    Args:
        artifact: a path or a compiled artifact; it is compiled again with the options that it records.
        reference: an ONNX file or ``ModelProto`` that is right.
        model: what the artifact was compiled from, where that was made from the reference: quantized.
        feeds, sizes, engine, entry: as for :func:`verify`.
        tolerance, min_accuracy: how far a tensor may be from its reference, as for :func:`verify`.
        progress: takes a line.
    """
    from tilewright.diagnosis.bisection import bisect as search
    from tilewright.diagnosis.states import Limits
    from tilewright.verification import require_inputs, with_constants

    made_from = reference if model is None else model
    with _file_of(artifact) as path, _onnx_file(reference) as right, _onnx_file(made_from) as source:
        given = samples(path, sizes, entry=entry) if feeds is None else own_inputs(path, entry, feeds)
        if not given:
            fix = "give at least one sample"
            raise UsageError("no-samples", where="bisect", cause="no inputs to compare on", fix=fix)
        require_feeds(path, entry_of(path, entry), given)
        for each in (right, source):
            require_inputs(each, with_constants(path, entry, given)[0])
        return search(
            path,
            right,
            given,
            model=None if model is None else source,
            limits=Limits(tolerance, min_accuracy),
            engine=engine,
            entry=entry,
            say=progress or (lambda line: None),
        )


def verify_quantized(
    artifact: Artifact, reference: Model, *, feeds: Sequence[Mapping[str, Array]] | None = None, entry: str
) -> Verification:
    """Compare an artifact that was quantized while it was compiled with the float model, by the bound that was asked.

    Also with its own quantized graph; see :mod:`tilewright.quantization.verification`. ``feeds`` are samples; the held
    out ones of the calibration data when ``None``, made-up inputs where there are none.
    """
    from tilewright.quantization.verification import verify_quantized as compare
    from tilewright.verification import require_inputs, with_constants

    assert artifact.evidence is not None
    with _file_of(artifact) as path, _onnx_file(reference) as model:
        told = f"{len(feeds)} samples that were given" if feeds else artifact.evidence.told.get(entry, "")
        given = feeds or artifact.evidence.feeds.get(entry)
        if not given:
            given = samples(path, entry=entry)
            told = f"{len(given)} made-up inputs"
        given = own_inputs(path, entry, given)
        require_feeds(path, entry_of(path, entry), given)
        require_inputs(model, with_constants(path, entry, given)[0])
        return compare(path, model, artifact.evidence, given, told, entry)


def bench(artifact: Runnable, feed: Mapping[str, Array] | None = None, **settings: Any) -> Benchmark:
    """Measure an artifact; arguments as of :func:`tilewright.benchmark.bench`, inputs made up by default."""
    from tilewright.benchmark import bench as measure

    with _file_of(artifact) as path:
        made = feed if feed is not None else samples(path, count=1, entry=settings.get("entry"))[0]
        return measure(path, made, **settings)


def load(
    artifact: Runnable,
    device: str = "auto",
    threads: int | None = None,
    entry: str | None = None,
    *,
    allow_jit: bool | None = None,
    cache: bool = True,
) -> Session:
    """A session that runs an artifact; see :class:`tilewright.runtime.Session`.

    Args:
        artifact: a path or a compiled artifact.
        device: ``auto`` (a GPU that it has machine code for, else this processor), a kind (``cpu``, ``cuda``, ``tpu``),
            a GPU by its number (``cuda:1``) or a target's spelling (``xla:cpu``, ``xla-cpu``, ``cuda:sm_90``).
        threads: per run; ``None`` is what this process may use.
        entry: the entry point that ``run`` means by default; the first when ``None``.
        allow_jit, cache: as of :func:`tilewright.runtime.load`.
    """
    from tilewright import runtime

    settings: dict[str, Any] = {"device": device, "threads": threads, "entry": entry}
    settings |= {"allow_jit": allow_jit, "cache": cache}
    if isinstance(artifact, str | os.PathLike | bytes):
        return runtime.load(artifact, **settings)
    to_bytes = getattr(artifact, "to_bytes", None)
    if to_bytes is None:
        cause, fix = "it cannot be run", "give the path of a .tw file"
        raise UsageError("not-an-artifact", where=type(artifact).__name__, cause=cause, fix=fix)
    return runtime.load(to_bytes(), **settings)
