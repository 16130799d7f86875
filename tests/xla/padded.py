"""Models whose sizes are opened, run at their true sizes in programs of larger ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from tests.xla.run import Array, Program, compiled

#: How much larger the program is than the run, by turns.
EXTRA = (3, 1, 2)


def padded_program(model: onnx.ModelProto, feeds: Mapping[str, Array], only: int | None = None) -> Program:
    """The program for sizes a little larger than those of ``feeds``; sizes 0 and 1 stay as they are.

    A size of 1 is not opened, since it is repeated where the other operand has more; vectors of integers keep their
    length, which is a rank. With ``only`` the sizes of that number alone are opened, under one name: many operators
    need heads or channels to be known, and what they are equal to. Raises :class:`tests.xla.run.OnHost` and what the
    import raises.
    """
    opened, shapes, buckets = _opened(model, feeds, only)
    return compiled(opened, shapes, buckets)


def _opened(
    model: onnx.ModelProto, feeds: Mapping[str, Array], only: int | None
) -> tuple[onnx.ModelProto, dict[str, tuple[int | str, ...]], dict[str, tuple[int, ...]]]:
    """``model`` with names for the sizes of its inputs, their ranges, and one bucket each."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    weights = {w.name for w in opened.graph.initializer}
    shapes: dict[str, tuple[int | str, ...]] = {}
    buckets: dict[str, tuple[int, ...]] = {}
    for n, value in enumerate(v for v in opened.graph.input if v.name not in weights):
        array = np.asarray(feeds[value.name])
        if array.ndim == 1 and array.dtype in (np.int32, np.int64):
            continue
        sizes: list[int | str] = []
        for d, size in enumerate(array.shape):
            if size < 2 or only not in (None, size):
                sizes.append(size)
                continue
            name = f"s{n}_{d}" if only is None else "s"
            value.type.tensor_type.shape.dim[d].dim_param = name
            buckets.setdefault(name, (size + EXTRA[len(buckets) % len(EXTRA)],))
            sizes.append(f"{name}=2..{buckets[name][0]}")
        shapes[value.name] = tuple(sizes)
    for value in opened.graph.output:
        value.type.tensor_type.ClearField("shape")
    return opened, shapes, buckets
