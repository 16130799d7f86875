"""What one instruction computes from the lanes that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tilewright.backends.ascend.placed.footprint import Geometry, Touch
from tilewright.backends.ascend.placed.form import Instruction
from tilewright.backends.ascend.placed.stream import Item, Value
from tilewright.backends.ascend.simulator.elementwise import iota, vector
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.ascend.simulator.number import F16, F32, FLOATS, Array, cast, narrowed, number
from tilewright.backends.ascend.simulator.products import (
    Quantization,
    columns_of_image,
    fixpipe,
    kept_scale,
    mmad,
    of_words,
)

#: Instructions that move bytes, undefined ones included; any other use of an undefined byte is refused.
MOVES = frozenset(["load", "drain"])
#: Instructions that carry lanes from a matrix to a view or back.
_TRANSFERS = frozenset(["nd2nz", "copy_nz", "copy_in", "copy_out", "ub2l1", "load_scales", "load"])

Load = Callable[[Touch], Array]


def compute(item: Item, load: Load, dtypes: Mapping[str, np.dtype[Any]], geometry: Mapping[str, Geometry]) -> Array:
    """The new lanes of the destination, in the shape of its access. ``load`` gives the lanes of a source."""
    node = item.node
    assert isinstance(node, Instruction)
    dst, dtype = item.dst, dtypes[item.dst.buffer]
    values = dict(item.values)
    sources = [load(s) for s in item.reads]
    if node.op == "zero_l1":
        return np.full(dst.counts, values.get("value", 0), dtype)
    if node.op in _TRANSFERS:
        return shaped(sources[0].swapaxes(0, 1) if node.transpose else sources[0], dst)
    match node.op:
        case "load_bias":
            row = sources[0].reshape(dst.counts)
            return row if row.dtype == dtype else cast(row, dtype)
        case "mmad":
            return mmad(sources[0], sources[1], _start(item, sources, load))
        case "fixpipe":
            by = _quantization(values, sources)
            out = shaped(fixpipe(sources[0], dtype, bool(values.get("relu")), by), dst)
            return vector("add", [load(dst), out], dtype, "rint", 0) if values.get("add") else out
        case "drain":
            return shaped(_drained(sources[0], dtype, values), dst)
        case "load_image":
            return _windows(item, sources[0], values, geometry[item.reads[0].buffer])
        case "gather":
            return _gathered(sources[1], load, item, dtype)
        case "iota":
            return np.broadcast_to(iota(_number(item.sources[0]), dst.counts[-1], dtype), dst.counts)
    return _vector(item, node, sources, dtype, values)


def _vector(
    item: Item, node: Instruction, sources: list[Array], dtype: np.dtype[Any], values: dict[str, Value]
) -> Array:
    kind = sources[-1].dtype if sources else dtype
    try:
        numbers = [number(_number(s), kind) for s in item.sources if not isinstance(s, Touch)]
    except ValueError as error:
        raise Refused("number", str(error), "", item.text) from error
    operands: list[Array] = [*sources, *numbers]
    mode, by = str(values.get("round", "rint")), values.get("by", 0)
    assert isinstance(by, int)
    result = vector(node.op, operands, dtype, mode, by)
    if node.op.startswith(("row_", "block_")):
        return result.reshape(item.dst.counts)
    return np.broadcast_to(result, item.dst.counts)


def _number(value: Touch | float | int) -> float | int:
    assert not isinstance(value, Touch)
    return value


def shaped(values: Array, t: Touch) -> Array:
    """Lanes of a matrix or a view in the shape of ``t``: element (r, q) of a block is ``[q // c, r, q % c]``."""
    if t.block is None and len(t.counts) == 3 and values.ndim == 2:
        blocks, rows, lanes = t.counts
        return values.reshape(rows, blocks, lanes).swapaxes(0, 1)
    if t.block is not None and values.ndim == 3:
        return values.swapaxes(0, 1).reshape(values.shape[1], -1)
    return values if t.whole else values.reshape(t.counts)


def _start(item: Item, sources: list[Array], load: Load) -> Array | None:
    node = item.node
    assert isinstance(node, Instruction)
    if node.init is not None and item.init != 0:
        return load(item.dst)
    return np.broadcast_to(sources[2].reshape(-1), item.dst.counts) if len(sources) > 2 else None


def _quantization(values: dict[str, Value], sources: list[Array]) -> Quantization | None:
    if "quant" not in values:
        return None
    if len(sources) > 1:
        return of_words(sources[1].reshape(-1))
    scale, offset = values.get("scale", 1.0), values.get("offset", 0)
    assert isinstance(scale, int | float) and isinstance(offset, int)
    return Quantization(kept_scale(np.asarray([scale], F32)), offset)


def _drained(sums: Array, dtype: np.dtype[Any], values: dict[str, Value]) -> Array:
    if sums.dtype not in FLOATS and dtype == F16:
        scale = values.get("scale", 1.0)
        assert isinstance(scale, int | float)
        return fixpipe(sums, dtype, False, Quantization(narrowed(np.asarray([scale], np.float64), F16).astype(F32)))
    return narrowed(sums, dtype) if dtype in FLOATS else sums


def _pair(values: dict[str, Value], name: str, default: int) -> tuple[int, int]:
    pair = values.get(name, (default, default))
    assert isinstance(pair, tuple)
    return pair[0], pair[1]


def _windows(item: Item, source: Array, values: dict[str, Value], g: Geometry) -> Array:
    height, width = _pair(values, "image", 1)
    pads = values.get("pads", (0, 0, 0, 0))
    first, column, value = values.get("first", 0), values.get("column", 0), values.get("value", 0)
    assert isinstance(pads, tuple) and isinstance(first, int) and isinstance(column, int)
    assert isinstance(value, int | float)
    return columns_of_image(
        source.reshape(height, width, -1),
        _pair(values, "kernel", 1),
        _pair(values, "stride", 1),
        _pair(values, "dilation", 1),
        (pads[0], pads[1], pads[2], pads[3]),
        block=_lanes_of_pixel(values) or 32 // g.element_bytes,
        rows=(first, item.dst.counts[0]),
        columns=(column, item.dst.counts[1]),
        value=value,
    )


def _lanes_of_pixel(values: dict[str, Value]) -> int:
    lanes = values.get("channels", 0)
    assert isinstance(lanes, int)
    return lanes


def _gathered(offsets: Array, load: Load, item: Item, dtype: np.dtype[Any]) -> Array:
    """Elements at byte offsets from the beginning of the source's slot; refuses those outside it."""
    source = item.reads[0]
    row = load(_flat(source))
    low, size = source.offset * row.dtype.itemsize, min(4, dtype.itemsize)
    row = np.ascontiguousarray(row).view(np.uint8)
    first = offsets.astype(np.int64)
    if (first < low).any() or (first + size > low + row.size).any() or (first % size).any():
        raise Refused("bounds", f"an offset outside {source.buffer}, or between its elements", "", item.text)
    at = first[..., None] - low + np.arange(size)
    taken = np.ascontiguousarray(row[at])
    return taken.reshape(*item.dst.counts, -1).view(dtype)[..., 0]


def _flat(t: Touch) -> Touch:
    """From the first to the last element of a view with rising strides, gaps included."""
    last = sum((n - 1) * s for n, s in zip(t.counts, t.strides, strict=True))
    return Touch(t.buffer, t.slot, t.offset, (last + 1,), (1,))
