"""A model quantized into an ONNX file, without compiling it for a target."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from tilewright.calibration import calibration_of
from tilewright.entries import digest_of, name_of
from tilewright.frontend.onnx import import_model
from tilewright.options import Options
from tilewright.package.atomic import atomic_file
from tilewright.passes.pipeline import canonicalization, run_pipeline
from tilewright.passes.quantize.base import Calibration, Capability, Runner
from tilewright.quantization import request
from tilewright.quantization.apply import Quantizer
from tilewright.quantization.plan import group_facts, stated
from tilewright.quantization.request import Given
from tilewright.quantization.trials import Quantize
from tilewright.report import PrecisionFacts
from tilewright.selection import every_target, resolve_targets
from tilewright.target import Target

if TYPE_CHECKING:
    import onnx
    from tilewright.frontend.onnx import Source

#: Bytes of weights above which they go into a file beside the model: well below protobuf's 2 GB.
EXTERNAL_BYTES = 256 << 20

Progress = Callable[[str, str], None]


@dataclass(frozen=True)
class QuantizedModel:
    """A quantized model in memory.

    Attributes:
        model: the graph, valid ONNX.
        facts: what every layer got, accuracy, where the samples came from.
        source: name and SHA-256 of the model that it was made from.
    """

    model: ir.Model
    facts: PrecisionFacts
    source: tuple[str, str]

    def save(self, path: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Write the model, whole or not at all; large weights go into ``PATH.data`` beside it. Returns the files."""
        return write_model(self.model, Path(path))

    def proto(self) -> onnx.ModelProto:
        """The model as a message."""
        return ir.to_proto(self.model)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        name, sha256 = self.source
        return {"model": {"name": name, "sha256": sha256}, "precision": asdict(self.facts)}


def quantize_model(
    model: Source,
    options: Options,
    given: Given,
    progress: Progress,
    runner: Runner | None = None,
    quantize: Quantize | None = None,
) -> QuantizedModel:
    """Import ``model`` and quantize it as ``options.precision`` says, for all of its targets in one graph.

    Errors as of :func:`tilewright.api.quantize`.
    """
    precision = options.precision
    assert precision is not None
    request.check(precision)
    targets = targets_of(options)
    progress("import", name_of(model))
    graph = import_model(model, dict(options.input_shapes))
    run_pipeline(graph, canonicalization())
    source = given.calibration.get("main")
    data = calibration_of(source, graph) if source is not None else None
    request.require_data(precision, data, name_of(model))
    if runner is None:
        from tilewright.runner import GraphRunner

        runner = GraphRunner(options.level)
    progress("quantize", f"{precision.method or precision.asked}{_on(data)}")
    maker = Quantizer(graph, precision, data, runner, given, lambda line: progress("search", line), quantize)
    found = maker.quantized(Capability.common(targets), targets, options.level)
    facts = PrecisionFacts(
        asked=precision.asked,
        groups=(group_facts(targets, "main", found),),
        settings=stated(precision),
        max_drop=precision.max_drop,
        metric=precision.metric,
        calibration={"main": (data.source, data.sha256)} if data else {},
        random=data.random if data else False,
        records=(given.records.source, given.records.sha256),
    )
    return QuantizedModel(found.model, facts, (name_of(model), digest_of(model)))


def _on(data: Calibration | None) -> str:
    return "" if data is None else f", {len(data.feeds)} samples from {data.source}"


def targets_of(options: Options) -> list[Target]:
    """The targets that were named, or all that there are. Raises :class:`UsageError` for an unknown one."""
    if options.targets:
        return [target for _, target in resolve_targets(options, build=False)]
    return every_target()


def write_model(model: ir.Model, path: Path) -> tuple[Path, ...]:
    """Write a graph as ONNX by renaming finished files; weights beside it where there are many."""
    proto = ir.to_proto(model)
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    if size <= EXTERNAL_BYTES:
        with atomic_file(path) as stream:
            stream.write(proto.SerializeToString(deterministic=True))
        return (path,)
    data = path.with_name(f"{path.name}.data")
    with atomic_file(data) as stream:
        offset = 0
        for tensor in proto.graph.initializer:
            offset += _put(tensor, model, stream, data.name, offset)
    with atomic_file(path) as stream:
        stream.write(proto.SerializeToString(deterministic=True))
    return path, data


def _put(tensor: Any, model: ir.Model, stream: Any, name: str, offset: int) -> int:
    """Move an initializer above a kilobyte into ``stream``; the bytes that it takes, padded to 64."""
    value = model.graph.initializers[tensor.name].const_value
    if value is None or value.nbytes <= 1024:
        return 0
    content = value.tobytes()
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = 1  # TensorProto.EXTERNAL
    for key, text in (("location", name), ("offset", str(offset)), ("length", str(len(content)))):
        tensor.external_data.add(key=key, value=text)
    padding = -len(content) % 64
    stream.write(content + bytes(padding))
    return len(content) + padding
