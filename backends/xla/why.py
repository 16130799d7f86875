"""What a user can do where a size is known to a run alone."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir
from tilewright.ir.graph import has_type, type_of
from tilewright.ir.late import closure, late_symbols
from tilewright.ir.symbolic import symbol

#: What they give hangs on the shape of their input, not on its elements.
_SIZES = frozenset(("Shape", "Size"))
#: Elements of an input that is a shape, axes, or a number, at most.
_SHORT = 64


def told_by_inputs(model: ir.Model, symbols: Iterable[str]) -> str:
    """That inputs of the model determine these late symbols, and the option that makes them constants; empty where
    sizes hang on other data."""
    late = late_symbols(model)
    read = [late[s] for s in closure(map(symbol, symbols), late) if late[s].element is not None]
    named = {str(v.name): v for v in (*model.graph.inputs, *(v for n in model.graph for v in n.outputs))}
    inputs = dict.fromkeys(n for x in sorted(read, key=lambda x: x.owner) for n in inputs_behind(named.get(x.owner)))
    return _advice(list(inputs))


def computed_from(value: ir.Value | None) -> str:
    """The same for the elements of a value."""
    return _advice(inputs_behind(value))


def _advice(inputs: list[str]) -> str:
    if not inputs:
        return ""
    options = " ".join(f"--constant {name}=…" for name in inputs)
    named = ", ".join(map(repr, inputs))
    return f", which input{'s' * (len(inputs) > 1)} {named} determine{'s' * (len(inputs) == 1)}: fix it with {options}"


def inputs_behind(value: ir.Value | None) -> list[str]:
    """Names of the inputs of the graph that the elements of a value are computed from, where all of them are short."""
    pending, seen, found = [value], {value}, []
    while pending:
        each = pending.pop()
        if each is None:
            continue
        if each.is_graph_input():
            elements = type_of(each).elements if has_type(each) else None
            if elements is None or not elements.is_constant or elements.value > _SHORT:
                return []  # data, not a shape
            found.append(str(each.name))
        producer = each.producer()
        if producer is not None and producer.op_type not in _SIZES:
            more = [v for v in producer.inputs if v not in seen]
            seen.update(more)
            pending += more
    return sorted(found)
