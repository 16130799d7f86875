"""Constants and tensors made from a few numbers: windows, spectra."""

from __future__ import annotations

import numpy as np
from tilewright.ir import graph
from tilewright.ir.symbolic import constant
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


@shape_rule("BlackmanWindow", "HammingWindow", "HannWindow")
def signal_window(ctx: Infer) -> TensorType:
    """A vector of ``size`` coefficients."""
    (size,) = ctx.known_list(0, "size")
    return TensorType(ctx.dtype("output_datatype", DType.F32), (size,))


@shape_rule("MelWeightMatrix")
def mel_weight_matrix(ctx: Infer) -> TensorType:
    """``[dft_length // 2 + 1, num_mel_bins]``."""
    (bins,), (length,) = ctx.known_list(0, "num_mel_bins"), ctx.known_list(1, "dft_length")
    return TensorType(ctx.dtype("output_datatype", DType.F32), (length // 2 + 1, bins))


@shape_rule("DFT")
def dft(ctx: Infer) -> TensorType:
    """Complex numbers are pairs along the last axis."""
    x = ctx.input(0)
    axes = ctx.known_ints(2, "axis") if ctx.has(2) else [ctx.integer("axis", -2)]
    axis = ctx.axis(axes[0], x.rank)
    length = ctx.known_list(1, "dft_length")[0] if ctx.has(1) else x.shape[axis]
    onesided, inverse = ctx.integer("onesided", 0), ctx.integer("inverse", 0)
    if onesided and inverse:
        length = length if ctx.has(1) else (x.shape[axis] - 1) * 2
    elif onesided:
        length = length // 2 + 1
    pair = constant(1 if onesided and inverse else 2)
    return TensorType(x.dtype, (*x.shape[:axis], length, *x.shape[axis + 1 : -1], pair))


@shape_rule("STFT")
def stft(ctx: Infer) -> TensorType:
    """``[batch, frames, bins, 2]``."""
    x = ctx.input(0)
    (step,) = ctx.known_ints(1, "frame_step")
    length = ctx.known_list(3, "frame_length")[0] if ctx.has(3) else ctx.input(2).shape[0]
    if step < 1:
        ctx.fail(f"frame_step is {step}")
    bins = length // 2 + 1 if ctx.integer("onesided", 1) else length
    return TensorType(x.dtype, (x.shape[0], (x.shape[1] - length) // step + 1, bins, constant(2)))


@shape_rule("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
def random_numbers(ctx: Infer) -> TensorType:
    """Refused: an artifact gives the same bytes for the same inputs."""
    ctx.unsupported("its results are random; draw them outside the model and give them as an input")
