"""Import of PyTorch modules and exported programs, by way of PyTorch's own ONNX exporter."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from tilewright.errors import CompileError, UsageError
from tilewright.frontend.input_shapes import InputShapes
from tilewright.frontend.onnx import import_proto
from tilewright.frontend.wire import KEPT_BYTES
from tilewright.options import ConstantInput

if TYPE_CHECKING:
    import torch

#: What the exporter is asked for: attention comes out decomposed, which is the form that the fusions know.
EXPORT_OPSET = 20


def import_module(
    module: torch.nn.Module | torch.export.ExportedProgram,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    input_shapes: InputShapes | None = None,
    constants: Mapping[str, ConstantInput] | None = None,
    every_shape: bool = True,
) -> ir.Model:
    """The canonical graph of a module traced with example ``args``, or of an exported program (which has its own).

    ``dynamic_shapes`` is what ``torch.export.export`` takes: which axes may vary, and their names. ``input_shapes``,
    ``constants`` and ``every_shape`` as in :func:`~tilewright.frontend.onnx.import_model`. The weights stay in the
    module's memory. Raises :class:`CompileError` (``torch-export``) with the exporter's reason, :class:`UsageError`
    (``torch-missing``, ``torch-arguments``), and what the import of ONNX raises.
    """
    program = _exported(module, args, kwargs, dynamic_shapes)
    model: ir.Model = program.model
    weights = _take_initializers(model)
    proto, where = ir.to_proto(model), f"PyTorch {_name(module)}"
    return import_proto(proto, weights, input_shapes or {}, where, constants=constants, every_shape=every_shape)


def _exported(module: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None, dynamic_shapes: Any) -> Any:
    try:
        import torch
    except ImportError:
        raise UsageError(
            "torch-missing", where="import", cause="PyTorch is not installed", fix="pip install torch onnxscript"
        ) from None
    if isinstance(module, torch.nn.Module):
        if not args and not kwargs:
            raise UsageError(
                "torch-arguments",
                where=_name(module),
                cause="a module is traced with example inputs, and none were given",
                fix="pass the arguments of one call, or a torch.export.ExportedProgram",
            )
        module = module.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                module,
                tuple(args),
                kwargs=dict(kwargs or {}),
                dynamic_shapes=dynamic_shapes,
                dynamo=True,
                opset_version=EXPORT_OPSET,
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever the traced module raises
        lines = str(error).strip().splitlines() or [repr(error)]
        raise CompileError(
            "torch-export",
            where=f"PyTorch {_name(module)}",
            cause=f"torch.onnx.export failed: {lines[0][:300]}",
            fix="make torch.onnx.export(module, args, dynamo=True) work; its message says where it stopped",
        ) from error


def _take_initializers(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Take the large initializers out of ``model``, so that they are never serialized."""
    weights: dict[str, ir.TensorProtocol] = {}
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > KEPT_BYTES:
            weights[name] = ir.Tensor(tensor.numpy(), tensor.dtype, name=name)
            del model.graph.initializers[name]
            model.graph.inputs.append(value)
    return weights


def _name(module: Any) -> str:
    return type(module).__name__
