"""Constants."""

from __future__ import annotations

import numpy as np
from tilewright.ir import graph
from tilewright.ir.types import DType, TensorType
from tilewright.ops.context import Infer, type_name
from tilewright.ops.registry import shape_rule


@shape_rule("Constant")
def constant_node(ctx: Infer) -> TensorType:
    """A tensor in an attribute."""
    tensor = graph.constant_tensor(ctx.node.outputs[0])
    if tensor is None:
        ctx.unsupported("a constant that is text, sparse or a parameter of a function")
    try:
        dtype = DType.from_onnx(tensor.dtype.value)
    except KeyError:
        ctx.unsupported(f"element type {type_name(tensor.dtype.value)}")
    ctx.set_known(graph.known_value(ctx.node.outputs[0]))
    return TensorType.of(dtype, *np.shape(tensor))


@shape_rule("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
def random_numbers(ctx: Infer) -> TensorType:
    """Never: an artifact gives the same bytes for the same inputs."""
    ctx.unsupported("random numbers, where equal inputs have to give equal outputs; make them an input of the model")


@shape_rule("ImageDecoder")
def image_decoder(ctx: Infer) -> TensorType:
    """Never: formats of files are no arithmetic."""
    ctx.unsupported("compressed images; decode them before the model, whose input is then the pixels")
