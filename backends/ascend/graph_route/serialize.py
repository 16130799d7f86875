"""An ONNX file: weights inside it, or in one file beside it where a message would grow too large."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx_ir as ir

#: Bytes of weights up to which they stay inside; a protobuf message ends at 2 GiB.
INSIDE = 1 << 30
#: Weights beside the file begin at multiples of this many bytes.
ALIGN = 4096
#: Weights below this many bytes stay inside: the parser reads sizes and axes while it builds the graph.
SMALL = 1024

WEIGHTS = "model.weights"

#: A file: its name and its bytes in pieces.
Pieces = tuple[str, Iterable[bytes]]


def onnx_files(model: ir.Model, inside: int = INSIDE) -> Iterator[Pieces]:
    """``model.onnx``, and ``model.weights`` where weights are more than ``inside`` bytes; equal bytes for equal graphs.

    Initializers are written in the order of their names. ``model`` is used up.
    """
    initializers = model.graph.initializers
    ordered = [value for _, value in sorted(initializers.items())]
    initializers.clear()
    contents: list[ir.TensorProtocol] = []
    large = [v for v in ordered if v.const_value is not None and v.const_value.nbytes >= SMALL]
    if sum(v.const_value.nbytes for v in large if v.const_value is not None) > inside:
        position = 0
        for value in large:
            tensor = value.const_value
            assert tensor is not None
            contents.append(tensor)
            value.const_value = ir.ExternalTensor(
                WEIGHTS,
                position,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=str(value.name),
            )
            position += -(-tensor.nbytes // ALIGN) * ALIGN
    for value in ordered:
        if value.const_value is not None and not isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy(), value.const_value.dtype, name=value.name)
        initializers.add(value)
    yield "model.onnx", [ir.to_proto(model).SerializeToString(deterministic=True)]
    if contents:
        yield WEIGHTS, _padded(contents)


def _padded(contents: Sequence[ir.TensorProtocol]) -> Iterator[bytes]:
    for tensor in contents:
        content = tensor.tobytes()
        yield content
        yield bytes(-len(content) % ALIGN)
