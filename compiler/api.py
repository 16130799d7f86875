"""The public functions, as ``import tilewright as tw`` has them."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from numpy.typing import NDArray
from tilewright import sample
from tilewright.errors import ExitCode, UsageError
from tilewright.options import FALLBACKS, Options, Precision

if TYPE_CHECKING:
    import onnx
    from tilewright.artifact import Artifact
    from tilewright.benchmark import Benchmark
    from tilewright.diagnosis.bisection import Bisection
    from tilewright.diagnosis.layers import Layers
    from tilewright.driver import Progress
    from tilewright.quantization.make import QuantizedModel
    from tilewright.quantization.request import Given, Metric
    from tilewright.runtime import Session
    from tilewright.runtime.manifest import EntryInfo
    from tilewright.support import Checked
    from tilewright.verification import Verification

Array = NDArray[Any]
#: What can be compiled: a path, a ``ModelProto``, a ``torch.nn.Module`` or a ``torch.export.ExportedProgram``.
Model = Union[str, "os.PathLike[str]", "onnx.ModelProto", Any]
#: Calibration data (:data:`tilewright.calibration.Source`), or such data by entry point.
Calibrating = Any
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
        fallback=_fallback(fallback),
        ahead=ahead,
        precision=precision_of(precision, method, settings, max_drop, metric, allow_precision, excepted),
    )
    models = entries_of(model)
    given = _given(calibration, metric, records, list(models)) if precision is not None else None
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
    given = _given(calibration, metric, records, ["main"])
    return quantize_model(model, options, given, progress or (lambda stage, detail: None))


def precision_of(
    asked: str | None,
    method: str | None,
    settings: Mapping[str, Any] | None,
    max_drop: float | None,
    metric: str | Metric,
    allowed: Sequence[str],
    excepted: Sequence[str],
) -> Precision | None:
    """The request as an option. Raises :class:`UsageError` for what says how to quantize without a precision."""
    if asked is None:
        if method or settings or max_drop is not None or allowed or excepted:
            cause, fix = "it is said how to quantize, and not to what", "give precision="
            raise UsageError("precision-missing", where="compile", cause=cause, fix=fix)
        return None
    named = metric if isinstance(metric, str) else "given"
    stated = tuple(sorted((settings or {}).items()))
    return Precision(asked, method or "", stated, max_drop, named, tuple(allowed), tuple(excepted))


def _given(
    calibration: Calibrating | None,
    metric: str | Metric,
    records: str | os.PathLike[str] | None,
    entries: Sequence[str],
) -> Given:
    """The data of a request, by entry point; alone, calibration data is that of the first."""
    from tilewright.quantization.records import Records, read_records
    from tilewright.quantization.request import Given

    sources: Mapping[str, Any] = {}
    if calibration is not None:
        sources = calibration if isinstance(calibration, Mapping) else {entries[0]: calibration}
    for name in sources:
        if name not in entries:
            cause, fix = f"there is no entry point {name!r}", f"give data for {', '.join(entries)}"
            raise UsageError("unknown-entry-point", where="calibration", cause=cause, fix=fix)
    read = read_records(Path(records)) if records is not None else Records()
    return Given(sources, None if isinstance(metric, str) else metric, read)


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
    return examine(model, Options(tuple(targets), tuple(shapes.items()), level, fallback=_fallback(fallback)))


def _fallback(asked: str) -> str:
    if asked not in FALLBACKS:
        fix = f"use one of {', '.join(FALLBACKS)}"
        raise UsageError("unknown-fallback", where="fallback", cause=f"there is no {asked!r}", fix=fix)
    return asked


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
        info = _entry(path, entry)
        names, outputs = [i.name for i in info.inputs], [o.name for o in info.outputs]
        for position, name in constant_positions(path, entry):
            names.insert(position, name)
        feed, want = _run_torch(model, example_args, names, outputs)
        (feed,) = _own_inputs(path, entry, [feed])
        reference = f"torch {_torch_version()} in this process"
        return verify_outputs(path, [feed], [want], reference, tolerance=tolerance, entry=entry)


def _entry(artifact: Path | str, name: str | None) -> EntryInfo:
    """What an artifact says of an entry point; of the first when ``None``. Raises :class:`UsageError`."""
    from tilewright.runtime import open_artifact

    entries = {e.name: e for e in open_artifact(artifact).manifest.entries}
    if name is None:
        return next(iter(entries.values()))
    if name not in entries:
        raise UsageError(
            "unknown-entry-point",
            where=str(artifact),
            cause=f"there is no entry point {name!r}",
            fix=f"use one of {', '.join(map(repr, entries))}",
        )
    return entries[name]


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


def _run_torch(
    model: Any, example_args: tuple[Any, ...] | None, names: Sequence[str], outputs: Sequence[str]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Inputs and outputs of one call, by the artifact's names for them."""
    import torch
    from torch.utils import _pytree as tree

    arguments = example_args
    if arguments is None and isinstance(model, torch.export.ExportedProgram):
        arguments = model.example_inputs[0] if model.example_inputs else None
    module = model.module() if isinstance(model, torch.export.ExportedProgram) else model
    flat = [a for a in tree.tree_leaves(arguments or ()) if isinstance(a, torch.Tensor)]
    with torch.no_grad():
        results = [r for r in tree.tree_leaves(module(*(arguments or ()))) if isinstance(r, torch.Tensor)]
    if len(flat) != len(names) or len(results) != len(outputs):
        cause = f"{len(flat)} tensors in and {len(results)} out, the artifact has {len(names)} and {len(outputs)}"
        raise UsageError(
            "torch-signature", where="verify", cause=cause, fix="compile with verify=False and compare yourself"
        )
    feed = {n: a.detach().numpy() for n, a in zip(names, flat, strict=True)}
    return feed, {n: r.numpy() for n, r in zip(outputs, results, strict=True)}


def samples(
    artifact: Path | str,
    shapes: Mapping[str, Sequence[int]] | None = None,
    count: int = 2,
    entry: str | None = None,
) -> list[dict[str, Array]]:
    """Made-up inputs for an artifact, without running it.

    Args:
        artifact: a ``.tw`` file.
        shapes: concrete shapes of some inputs; what they leave open gets small unequal sizes within its bounds.
        count: how many samples, at most 2; they differ in sizes and values.
        entry: of which entry point; the first when ``None``.
    """
    info = _entry(artifact, entry)
    inputs, bound = _bound(info, shapes or {})
    exact = _exact(artifact)
    return [
        sample.make_inputs(inputs, _free(info, inputs, sizes, exact) | bound, seed)
        for seed, sizes in enumerate(sample.SAMPLES[:count])
    ]


def sizes(
    artifact: Path | str, shapes: Mapping[str, Sequence[int]] | None = None, entry: str | None = None
) -> dict[str, int]:
    """The dimension symbols of the first of :func:`samples`: what ``shapes`` say, small sizes for the others."""
    info = _entry(artifact, entry)
    inputs, bound = _bound(info, shapes or {})
    return _free(info, inputs, sample.SAMPLES[0], _exact(artifact)) | bound


def _free(
    entry: EntryInfo, inputs: Sequence[sample.Input], sizes: Sequence[int], exact: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """Every symbol at one of ``sizes``, in turn, within its bounds; at one of its own where only these are run."""
    bounds = {s.name: (s.min, s.max, s.multiple) for s in entry.symbols}
    found = {s: sample.within(sizes[i % len(sizes)], *bounds[s]) for i, s in enumerate(sample.symbols_of(inputs))}
    return {s: next((e for e in exact.get(s, ()) if e >= n), n) for s, n in found.items()}


def _exact(artifact: Path | str) -> dict[str, list[int]]:
    """The sizes of symbols that an artifact was compiled for exactly, as its record says; rising."""
    from tilewright.runtime import open_artifact

    found: dict[str, list[int]] = {}
    options = open_artifact(artifact).manifest.provenance.get("options")
    buckets = options.get("buckets") if isinstance(options, dict) else None
    for told in buckets.values() if isinstance(buckets, dict) else ():
        if isinstance(told, dict) and told.get("exact") is True:
            sizes, symbols = told.get("sizes"), told.get("symbols")
            if isinstance(sizes, list) and isinstance(symbols, list):
                found |= {str(s): [n for n in sizes if isinstance(n, int)] for s in symbols}
    return found


def _bound(entry: EntryInfo, shapes: Mapping[str, Sequence[int]]) -> tuple[list[sample.Input], dict[str, int]]:
    """The inputs, and the sizes of symbols that ``shapes`` say. Raises ``UsageError`` where the artifact takes none."""
    inputs = [sample.Input(i.name, sample.numpy_dtype(i.dtype), i.shape) for i in entry.inputs]
    bound = sample.bind(inputs, shapes)
    for s in entry.symbols:
        size = bound.get(s.name, s.min)
        if not s.min <= size <= s.max or size % s.multiple:
            step = f" in steps of {s.multiple}" if s.multiple > 1 else ""
            cause = f"{s.name} would be {size}, the artifact takes {s.min} to {s.max}{step}"
            fix = "give sizes that the file takes"
            raise UsageError("input-shape-conflict", where=f"entry {entry.name!r}", cause=cause, fix=fix)
    return inputs, bound


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
        given = _own_inputs(path, entry, feeds) if feeds else samples(path, sizes, entry=entry)
        info = _entry(path, entry)
        _check_feeds(path, info, given)
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
        given = samples(path, sizes, entry=entry) if feeds is None else _own_inputs(path, entry, feeds)
        if not given:
            fix = "give at least one sample"
            raise UsageError("no-samples", where="bisect", cause="no inputs to compare on", fix=fix)
        _check_feeds(path, _entry(path, entry), given)
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
        given = _own_inputs(path, entry, given)
        _check_feeds(path, _entry(path, entry), given)
        require_inputs(model, with_constants(path, entry, given)[0])
        return compare(path, model, artifact.evidence, given, told, entry)


def _own_inputs(path: Path, entry: str | None, feeds: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """Samples without inputs that the entry point was given while it was compiled, which data may still have.

    Raises :class:`UsageError` where these have other values.
    """
    from tilewright.verification import constant_inputs

    constants = constant_inputs(path, entry)
    for feed in feeds:
        for name, value in constants.items():
            if name in feed and not np.array_equal(feed[name], value):
                cause = f"{name} is {value.tolist()} in the artifact, and another in the data"
                fix = f"leave {name!r} out, or compile the model with that value"
                raise UsageError("data-names", where=str(path), cause=cause, fix=fix)
    return [{n: a for n, a in feed.items() if n not in constants} for feed in feeds]


def _check_feeds(path: Path, entry: EntryInfo, feeds: Sequence[Mapping[str, Array]]) -> None:
    names = {i.name for i in entry.inputs}
    for feed in feeds:
        if set(feed) != names:
            cause = f"the data has {', '.join(sorted(feed))}, the inputs are {', '.join(sorted(names))}"
            raise UsageError(
                "data-names", where=str(path), cause=cause, fix="give an array for each input, by its name"
            )
        _bound(entry, {name: array.shape for name, array in feed.items()})


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
