"""Models that are quantized already: what they mean, and how far two right implementations of one may be apart.

A value that lies near the middle between two steps is rounded one way by one and the other way by the other, since sums
in another order differ in their last bits. That moves it by a whole step, where quantizing moves every value by up to
half a step: so the difference of two right implementations stays below what all the rounding does to the outputs
(:mod:`tilewright.quantization.verification` has the argument in numbers). That is measured: the model is run with its
QuantizeLinear → DequantizeLinear pairs left out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from tilewright.accuracy import compare
from tilewright.frontend.onnx import operators

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]
Values = Mapping[str, Array]

#: Operators on integers. ONNX Runtime adds pairs of their products in 16 bits on machines without VNNI, where they do
#: not all fit, whether it fuses or not.
INTEGER = frozenset("MatMulInteger ConvInteger QLinearMatMul QLinearConv".split())
#: Operators that round to steps of 8 bits.
ROUNDING = INTEGER | {"QuantizeLinear", "DynamicQuantizeLinear"}
#: What ONNX Runtime fuses into MatMulNBits, whose activations it rounds to 8 bits where nobody asks for that
#: (session.qdq_matmulnbits_accuracy_level, 4 by default).
_DEQUANTIZING = frozenset(["DequantizeLinear"])
#: What the outputs may be apart where steps are inside of operators and cannot be left out: one of 127.
STEP = 1 / 127


def is_rounded(model: Path) -> bool:
    """Whether a model rounds values to steps of 8 bits on the way."""
    return bool(operators(model) & ROUNDING)


def engines_for(model: Path) -> tuple[str, str] | None:
    """Engines that compute what a quantized model means, the first choice first; ``None`` for one that is not."""
    found = operators(model)
    if found & INTEGER:
        return "onnx.reference", "onnxruntime.plain"
    return ("onnxruntime.plain", "onnx.reference") if found & (ROUNDING | _DEQUANTIZING) else None


@contextmanager
def unrounded(model: Path) -> Iterator[Path | None]:
    """A copy of a model without QuantizeLinear → DequantizeLinear pairs, as long as it is needed; ``None`` for none."""
    import onnx

    proto = onnx.load(str(model))
    if not leave_out_pairs(proto):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        path = Path(folder) / "unrounded.onnx"
        onnx.save(proto, str(path), save_as_external_data=proto.ByteSize() > 1 << 30)
        yield path


def leave_out_pairs(proto: onnx.ModelProto) -> bool:
    """Let what reads a value that was quantized and dequantized read the value itself; whether there was any."""
    made = {o: n for n in proto.graph.node for o in n.output}
    instead: dict[str, str] = {}
    for node in proto.graph.node:
        before = made.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if before is not None and before.op_type == "QuantizeLinear" and before.input[1] == node.input[1]:
            instead[node.output[0]] = instead.get(before.input[0], before.input[0])  # nodes are in order
    for node in proto.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = instead.get(name, name)
    return bool(instead)


def tolerances(rounded: Sequence[Values], plain: Sequence[Values] | None) -> dict[str, float]:
    """What each output of a quantized model may be off by, relative to its largest: at least what its type allows.

    ``rounded`` are its outputs on some samples, ``plain`` those of :func:`unrounded`. Only floats and bytes are moved
    by steps; other integers (indices) are exact.
    """
    found: dict[str, float] = {}
    for i, outputs in enumerate(rounded):
        for name, array in outputs.items():
            limit = compare(name, array, array).tolerance
            if array.dtype.kind == "f" or array.dtype.itemsize == 1:
                c = None if plain is None else compare(name, array, plain[i][name])
                limit = max(limit, STEP if c is None or c.problem else c.relative)
            found[name] = max(found.get(name, 0.0), limit)
    return found
