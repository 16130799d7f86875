"""Which value of a graph is which value of another one that was made from it, by quantization or another rewrite."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import onnx_ir as ir
from tilewright.ir.graph import has_type, is_constant, type_of

#: Operators that change how a number is kept, not which number it is.
_PASSING = frozenset("QuantizeLinear DequantizeLinear Cast Identity".split())

#: Operator and what it reads: two nodes of one graph with equal keys compute the same thing from other constants.
_Key = tuple[str, str, tuple[ir.Value | None, ...]]


def align(reference: ir.Model, other: ir.Model) -> dict[str, str]:
    """Names of computed float values of ``reference``, in order, with the name that each has in ``other``.

    Values of one name (and rank, and known sizes) are one value. What was renamed is found by structure: the same
    operator on the same values, seen through QuantizeLinear, DequantizeLinear and Cast. Several such (the three
    projections of attention) are told apart by the names of the nodes, else by order, where there are as many in both.
    """
    pairs = dict(_inputs(reference, other))
    theirs = {str(v.name): v for v in _computed(other)}
    for value in _computed(reference):
        twin = theirs.get(str(value.name))
        if twin is not None and _alike(value, twin):
            pairs[value] = twin
    _by_structure(reference, other, pairs)
    return {str(v.name): str(pairs[v].name) for v in _computed(reference) if v in pairs and _is_float(v, pairs[v])}


def origin(value: ir.Value) -> ir.Value:
    """The value that ``value`` keeps in another form: what is before QuantizeLinear, DequantizeLinear and Cast."""
    while (node := value.producer()) is not None and node.op_type in _PASSING and node.inputs[0] is not None:
        value = node.inputs[0]
    return value


def _inputs(reference: ir.Model, other: ir.Model) -> Iterator[tuple[ir.Value, ir.Value]]:
    theirs = {str(v.name): v for v in other.graph.inputs}
    for value in reference.graph.inputs:
        if str(value.name) in theirs:
            yield value, theirs[str(value.name)]


def _computed(model: ir.Model) -> Iterator[ir.Value]:
    for node in model.graph:
        yield from (v for v in node.outputs if v.name and has_type(v) and not is_constant(v))


def _alike(a: ir.Value, b: ir.Value) -> bool:
    """Of one kind of element and rank, and of one size where both sizes are known."""
    x, y = type_of(a), type_of(b)
    sizes = zip(x.shape, y.shape, strict=False)
    unequal = any(m.is_constant and n.is_constant and m != n for m, n in sizes)
    return x.rank == y.rank and x.dtype.is_float == y.dtype.is_float and not unequal


def _is_float(a: ir.Value, b: ir.Value) -> bool:
    return type_of(a).dtype.is_float and type_of(b).dtype.is_float


def _by_structure(reference: ir.Model, other: ir.Model, pairs: dict[ir.Value, ir.Value]) -> None:
    """Add to ``pairs`` what has another name in ``other``; from the first node on, as each match leads to further."""
    found = {origin(v) for v in pairs.values()}
    candidates = _by_key(other)
    siblings = _by_key(reference)
    for node in reference.graph:
        key = _translated(_key(node), pairs)
        if key is None or node.outputs[0] in pairs:
            continue
        free = [n for n in candidates.get(key, ()) if n.outputs[0] not in found]
        waiting = [n for n in siblings[_key(node)] if n.outputs[0] not in pairs]
        if len(free) != len(waiting):
            continue
        chosen = [n for n in free if n.name and n.name == node.name] or free
        if len(chosen[0].outputs) == len(node.outputs):
            for mine, twin in zip(node.outputs, chosen[0].outputs, strict=True):
                if has_type(mine) and has_type(twin) and _alike(mine, twin):
                    pairs[mine] = twin
                    found.add(twin)


def _by_key(model: ir.Model) -> Mapping[_Key, list[ir.Node]]:
    found: dict[_Key, list[ir.Node]] = defaultdict(list)
    for node in model.graph:
        if node.op_type not in _PASSING and node.outputs:
            found[_key(node)].append(node)
    return found


def _key(node: ir.Node) -> _Key:
    sources = (None if v is None else origin(v) for v in node.inputs)
    reads = tuple(None if v is None or is_constant(v) else v for v in sources)
    while reads and reads[-1] is None:
        reads = reads[:-1]  # a bias that the other graph adds with another node is no difference
    return node.domain, node.op_type, reads


def _translated(key: _Key, pairs: Mapping[ir.Value, ir.Value]) -> _Key | None:
    """The key that the node's twin has in the other graph; ``None`` where something that it reads has no twin."""
    if key[1] in _PASSING or not key[2] or any(v is not None and v not in pairs for v in key[2]):
        return None
    return key[0], key[1], tuple(None if v is None else origin(pairs[v]) for v in key[2])
