"""What padding costs: how much of a program's arithmetic is on elements that no run asked for.

Counted from the graph: products by their multiplications, everything else by the elements that it reads or writes,
whichever are more. These are shares of work, not of time: what is small may wait for memory or for the launch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import onnx_ir as ir
from tilewright.backends.xla.buckets import Bucket
from tilewright.ir.graph import has_type, type_of
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import ZERO, Expr, constant
from tilewright.ir.symbolic import product as multiplied
from tilewright.passes.place import Region

#: Sizes of each symbol that an average is taken over.
SAMPLES = 5


@dataclass(frozen=True, slots=True)
class Waste:
    """Of one program: the share of its work that is padding at ``worst`` and on average (``mean``) over the sizes that
    run in it, each as often; ``share`` is that of these sizes among all in range."""

    worst: float
    mean: float
    share: float


def waste_of(region: Region, buckets: Sequence[Bucket], known: Mapping[str, Range]) -> list[Waste]:
    """The waste of each of a region's programs. At worst a run is just too large for the next smaller bucket."""
    work = _collected(region)
    rungs = {s: sorted({b.sizes[s] for b in buckets}) for b in buckets[:1] for s in b.sizes}
    counts = []
    found = []
    for b in buckets:
        least = {s: _least(s, b, rungs[s], known) for s in b.padded if s not in b.bound}
        count, total = 1.0, _evaluated(work, b.sizes)
        for s, low in least.items():
            count *= b.sizes[s] - low + 1
        each = []
        for sizes in product(*(_sampled(low, b.sizes[s], known[s].divisor) for s, low in least.items())):
            true = {**b.sizes, **dict(zip(least, sizes, strict=True))}
            true |= {s: e.evaluate(true) for s, e in b.bound.items()}
            each.append(1 - _evaluated(work, true) / total if total > 0 else 0.0)
        counts.append(count)
        found.append((each[0], sum(each) / len(each)))
    return [Waste(w, m, n / sum(counts)) for (w, m), n in zip(found, counts, strict=True)]


def _least(s: str, bucket: Bucket, rungs: Sequence[int], known: Mapping[str, Range]) -> int:
    """The least size of a symbol that no smaller bucket holds."""
    below = [n for n in rungs if n < bucket.sizes[s]]
    step = known[s].divisor
    return min(max(-(-(below[-1] + 1) // step) * step if below else 0, known[s].lo), bucket.sizes[s])


def _sampled(low: int, high: int, step: int) -> list[int]:
    """Sizes from ``low`` to ``high``, evenly spaced."""
    count = min(SAMPLES, (high - low) // step + 1)
    if count < 2:
        return [high]
    return [low + (high - low) * i // (count - 1) // step * step for i in range(count)]


def _collected(region: Region) -> dict[Expr, int]:
    """Expressions of work, and how often each occurs: the layers of a model are alike."""
    found: dict[Expr, int] = {}
    for node in region.nodes:
        e = operations(node)
        found[e] = found.get(e, 0) + 1
    return found


def _evaluated(work: Mapping[Expr, int], sizes: Mapping[str, int]) -> float:
    return float(sum(e.evaluate(sizes) * n for e, n in work.items()))


def operations(node: ir.Node) -> Expr:
    """The multiplications of a product, the elements that another operator goes through; 0 where sizes hang on data."""
    values = [v for v in (*node.inputs, *node.outputs) if v is not None and v.name and has_type(v)]
    shapes = {v: type_of(v).shape for v in values}
    made = [shapes[v] for v in node.outputs if v in shapes]
    read = [() if v is None or v not in shapes else shapes[v] for v in node.inputs]
    if not made:
        return ZERO
    match node.op_type:
        case "MatMul" | "MatMulInteger" if read[0]:
            return multiplied(made[0]) * read[0][-1]
        case "Gemm":
            transposed = node.attributes.get("transA")
            return multiplied(made[0]) * read[0][0 if transposed is not None and transposed.value else 1]
        case "Conv" | "ConvInteger":
            return multiplied(made[0]) * multiplied(read[1][1:])
        case "ConvTranspose":
            return multiplied(read[0]) * multiplied(read[1][1:])
        case "Attention" if len(read[0]) == 4:
            keys = made[1][2] if len(made) > 1 else read[1][2]
            return multiplied(read[0]) * keys * 2
        case "Attention":
            return multiplied(read[0]) * (made[1][2] if len(made) > 1 else read[1][1]) * 2
    # The larger of two sums is not known before sizes are; that of the outputs stands for both.
    counts = [multiplied(shape) for shape in (*made, *read)]
    degree = [sum(p for m, _ in e.terms[-1:] for _, p in m) for e in counts]
    return counts[degree.index(max(degree))] if counts else constant(0)
