"""How long an instruction keeps its pipe, and when what it makes is there: cycles from the target's table.

Every number is in the target's ``[cycles]`` with its source; nothing here was measured on a device by this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tilewright.backends.ascend.placed.footprint import Geometry, Touch, covered
from tilewright.backends.ascend.placed.form import Buffer, Instruction
from tilewright.backends.ascend.placed.layout import FRACTAL
from tilewright.backends.ascend.placed.stream import Item, Value
from tilewright.target import Target

_REPEAT, _REPEATS = 256, 255
#: Rows of one block each that a repeat takes.
_ROWS = 8
_FRACTAL_BYTES = 512
#: Instructions that cost what another one does (of block_max and its like no source has a rate apart: those of whole
#: repeats write single elements, which takes them longer), and those whose repeats are counted in what they write.
_AS = {"widen": "cast", "block_sum": "row_sum", "block_max": "row_max", "block_min": "row_min"}
_BY_RESULT = frozenset(["brcb", "duplicate", "iota", "gather", "widen"])


@dataclass(frozen=True, slots=True)
class Cost:
    """Cycles that the pipe is taken for, cycles more until the result is there, and calls that the scalar unit makes.

    ``macs`` are the multiply-adds of a ``mmad``, ``peak`` those that the cube unit could have done in its cycles.
    """

    busy: float
    latency: float
    calls: int = 1
    macs: int = 0
    peak: float = 0.0


class Costs:
    """The costs of one kernel on one target. ``rates``: bytes a cycle of global tensors, read and written."""

    def __init__(
        self,
        target: Target,
        buffers: Mapping[str, Buffer],
        known: Mapping[str, Geometry],
        rates: Mapping[tuple[str, str], float],
    ):
        self.cycles: Mapping[str, Any] = target.extra["cycles"]
        self.buffers, self.known, self.rates = buffers, known, rates
        # The destination is kept with its cost, so that its identity stays its own.
        self._seen: dict[tuple[int, int], tuple[Touch, Cost]] = {}

    def of(self, item: Item) -> Cost:
        """What one instruction costs."""
        key = (id(item.node), id(item.dst))
        found = self._seen.get(key)
        if found is None:
            found = self._seen[key] = (item.dst, self._cost(item))
        return found[1]

    def _cost(self, item: Item) -> Cost:
        node = item.node
        assert isinstance(node, Instruction)
        if item.dst.empty or any(s.empty for s in item.reads):
            return Cost(0, 0)
        match node.pipe:
            case "M":
                return self._product(item)
            case "MTE1":
                return self._load(item, node)
            case "FIX" if node.op == "fixpipe":
                return self._fixpipe(item, node)
            case "FIX":
                return Cost(self._bytes(item.dst) / self.cycles["l1_l0b"] + 1, self.cycles["load_latency"])
            case "V" if node.op == "drain":
                sums = self._bytes(item.reads[0]) / self.cycles["l0c_out"]
                return Cost(sums, self.cycles["vector_latency"])
            case "V":
                return self._vector(item, node)
        return self._transfer(item, node)

    def _bytes(self, t: Touch) -> int:
        counts = covered(t, self.known[t.buffer]) if t.block is not None else t.counts
        return _size(counts) * self.known[t.buffer].element_bytes

    # -- the cube unit -------------------------------------------------------------------------------------------

    def _product(self, item: Item) -> Cost:
        (m, k), n = item.reads[0].counts, item.dst.counts[1]
        depth = int(self.cycles["step"][str(self.buffers[item.reads[0].buffer].dtype)])
        steps = -(-m // FRACTAL) * -(-n // FRACTAL) * -(-k // depth)
        return Cost(steps, self.cycles["mmad_latency"], 1, m * n * k, steps * FRACTAL * FRACTAL * depth)

    def _load(self, item: Item, node: Instruction) -> Cost:
        to = self.known[item.dst.buffer]
        rate = self.cycles["l1_l0a" if to.scope == "l0a" else "l1_l0b"]
        rows, columns = covered(item.dst, to) if item.dst.block is not None else (1, _size(item.dst.counts))
        size = -(-rows * columns * to.element_bytes // _FRACTAL_BYTES) * _FRACTAL_BYTES if to.scope != "bt" else 0
        size = size or self._bytes(item.dst)
        latency = self.cycles["image_latency" if node.op == "load_image" else "load_latency"]
        across, along = -(-rows // FRACTAL), -(-columns * to.element_bytes // 32)
        calls = 1 if to.scope == "bt" or node.op == "load_image" else min(across, along)
        taken = _image_cycles(item) * along if node.op == "load_image" else size / rate
        return Cost(taken + calls, latency, calls)

    def _fixpipe(self, item: Item, node: Instruction) -> Cost:
        rows, columns = item.reads[0].counts
        to = self.known[item.dst.buffer]
        inside = -(-columns // FRACTAL) * FRACTAL * 4 / self.cycles["l0c_out"]
        start = self.cycles["transfer_start"]
        if to.scope != "gm":
            return Cost(start + rows * inside, self.cycles["load_latency"])
        runs, length = _rows(item.dst, to)
        line = runs * _line(length, self.cycles["l2_line"])
        outside, calls = line / self._rate(item.dst, "write"), 1
        if node.parameter("add"):
            # No source says what an addition in L2 costs: it is taken to be a read and a write, one after the other,
            # and to be switched on and off by a call each.
            outside, calls = outside + line / self._rate(item.dst, "read"), 3
        return Cost(start + max(rows * inside, outside), self.cycles["write_latency"], calls)

    # -- transfers -----------------------------------------------------------------------------------------------

    def _rate(self, t: Touch, way: str) -> float:
        return self.rates[t.buffer, way]

    def _transfer(self, item: Item, node: Instruction) -> Cost:
        start, line = self.cycles["transfer_start"], self.cycles["l2_line"]
        to = self.known[item.dst.buffer]
        if not item.reads:
            return Cost(start + self._bytes(item.dst) / self.cycles["gm_l1"], self.cycles["load_latency"])
        source = item.reads[0]
        if node.pipe == "MTE3":
            if to.scope != "gm":
                return Cost(start + self._bytes(source) / self.cycles["ub_l1"], self.cycles["load_latency"])
            runs, length = _rows(item.dst, to)
            rate = min(self._rate(item.dst, "write"), self.cycles["ub_gm"])
            busy = runs * max(1.0, _line(length, line) / rate)
            return Cost(start + busy, self.cycles["write_latency"], _outer(item.dst))
        runs, length = _rows(source, self.known[source.buffer])
        rate = min(self._rate(source, "read"), self.cycles["gm_ub" if to.scope == "ub" else "gm_l1"])
        busy = runs * max(1.0, _line(length, line) / rate)
        return Cost(start + busy, self.cycles["read_latency"], _outer(item.dst) if to.scope == "ub" else 1)

    # -- the vector unit -----------------------------------------------------------------------------------------

    def _vector(self, item: Item, node: Instruction) -> Cost:
        name = "compare" if node.op.startswith("compare_") else _AS.get(node.op, node.op)
        narrow, wide, own = self.cycles["vector"][name]
        measured = item.dst if node.op in _BY_RESULT or not item.reads else item.reads[-1]
        others = [t for t in (*item.reads, item.dst) if t.counts == measured.counts]
        size = max(self.known[t.buffer].element_bytes for t in others)
        counts = list(measured.counts) or [1]
        if node.op.startswith("block_"):
            groups, rows = _size(tuple(counts[:-2])), counts[-2] if len(counts) > 1 else 1
            repeats = groups * -(-rows // _ROWS)
            calls = groups * (-(-rows // (_ROWS * _REPEATS)) + (rows > _ROWS and rows % _ROWS > 0))
            return Cost(repeats * (narrow if size <= 2 else wide), self.cycles["vector_latency"] + own, calls)
        if node.op == "brcb":  # a repeat writes a block for each of eight rows (Ascend C reference, Brcb)
            counts[-2:] = [-(-counts[-2] // _ROWS), _REPEAT // size]
        while len(counts) > 1 and all(_dense(t, len(counts)) for t in others):
            counts = [*counts[:-2], counts[-2] * counts[-1]]
        along = -(-counts[-1] * size // _REPEAT)
        rows = counts[-2] if len(counts) > 1 else 1
        outer = _size(tuple(counts[:-2]))
        repeats = outer * rows * along
        calls = outer * min(rows, along) * -(-max(rows, along) // _REPEATS)
        cycles = narrow if size <= 2 else wide
        return Cost(repeats * cycles, self.cycles["vector_latency"] + own, calls)


def _image_cycles(item: Item) -> float:
    """Cycles of one column of fractals of windows: of each fractal by its rows of the output and the stride across.

    Ascend C best practices, "theoretical performance of LoadData" (2201, L1 to L0A), in bytes a cycle: stride 1 within
    one row of the output 256, over n rows 512 / (n + 2); strides 2, 4 and 8 512 / (2·stride), over n rows 512 /
    (2·stride + n); other strides, and the least of all, 32. A fractal has 512 bytes, so the denominators are its
    cycles; that n is counted within a fractal is read from the least: 16 windows are at most 16 rows.
    """
    values = dict(item.values)
    (_, width), (_, across), (_, stride) = (_pair(values, n) for n in ("image", "kernel", "stride"))
    dilation, pads = _pair(values, "dilation")[1], values.get("pads", (0, 0, 0, 0))
    first = values.get("first", 0)
    assert isinstance(pads, tuple) and isinstance(first, int)
    wide = max(1, (width + pads[1] + pads[3] - dilation * (across - 1) - 1) // stride + 1)
    total = 0
    for top in range(first, first + item.dst.counts[0], FRACTAL):
        rows = (top + FRACTAL - 1) // wide - top // wide + 1
        cycles = (0 if stride == 1 else 2 * stride) + (rows if rows > 1 else 0) + (2 if stride == 1 and rows > 1 else 0)
        total += min(FRACTAL, max(2, cycles)) if stride in (1, 2, 4, 8) else FRACTAL
    return total


def _pair(values: Mapping[str, Value], name: str) -> tuple[int, int]:
    pair = values.get(name, (1, 1))
    assert isinstance(pair, tuple)
    return pair[0], pair[1]


def _size(counts: tuple[int, ...]) -> int:
    total = 1
    for n in counts:
        total *= n
    return total


def _outer(t: Touch) -> int:
    """Calls of a transfer that moves rows at one distance."""
    return _size(t.counts[:-2])


def _line(length: int, line: int) -> int:
    return -(-length // line) * line


def _rows(t: Touch, g: Geometry) -> tuple[int, int]:
    """How many runs of bytes an access to global memory consists of, and how long one is."""
    length, runs = 1, 1
    for n, stride in sorted(zip(t.counts, t.strides, strict=True), key=lambda d: abs(d[1])):
        if n == 1 or stride == 0:
            continue
        if runs == 1 and stride == length:
            length *= n
        else:
            runs *= n
    return runs, length * g.element_bytes


def _dense(t: Touch, dims: int) -> bool:
    """Whether the last two of the first ``dims`` dimensions of a view are one row."""
    if t.block is not None or t.cycle or len(t.counts) < dims:
        return False
    row = _size(t.counts[dims - 1 :])
    return t.strides[-1] == 1 and t.strides[dims - 2] == row
