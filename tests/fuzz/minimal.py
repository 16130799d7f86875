"""Reducing a model that fails to the smallest one that fails alike, and keeping those as text.

A file of ``minimal/`` is JSON: the model as ONNX text (a line an element), what is fed, and what was wrong once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.fuzz.oracles import ORACLES, Array, Cannot

FOLDER = Path(__file__).parent / "minimal"

Run = Mapping[str, Array]
Fails = Callable[[onnx.ModelProto, Sequence[Run]], bool]
Case = tuple[onnx.ModelProto, list[dict[str, Array]]]


def shrink(model: onnx.ModelProto, runs: Sequence[Run], fails: Fails) -> Case:
    """The smallest model found for which ``fails`` still holds: steps are taken while one of them helps."""
    best: Case = (model, [dict(r) for r in runs])
    progress = True
    while progress:
        progress = False
        for candidate in _smaller(*best):
            if _size(*candidate) >= _size(*best):
                continue
            try:
                onnx.checker.check_model(candidate[0])
            except onnx.checker.ValidationError:
                continue
            if fails(*candidate):
                best, progress = candidate, True
                break
    return best


def _size(model: onnx.ModelProto, runs: Sequence[Run]) -> tuple[int, ...]:
    """What a step has to make less of; that it does is why shrinking ends."""
    nodes, inputs = model.graph.node, model.graph.input
    open_sizes = sum(bool(d.dim_param) for v in inputs for d in v.type.tensor_type.shape.dim)
    attributes = sum(len(n.attribute) for n in nodes)
    return len(nodes), len(model.graph.output), len(runs), attributes, open_sizes


def _smaller(model: onnx.ModelProto, runs: list[dict[str, Array]]) -> Iterator[Case]:
    """Models with a little less in them, the boldest first."""
    if len(runs) > 1:
        for run in runs:
            yield model, [run]
    graph = model.graph
    if len(graph.output) > 1:
        for output in graph.output:
            yield _pruned(model, list(graph.node), [output.name], runs)
    made = _all_values(model, runs)
    for node in reversed(graph.node):  # up to this one only
        yield _pruned(model, list(graph.node), [n for n in node.output if n][:1], runs)
    if made is not None:
        for node in graph.node:  # without this one: its outputs are given
            rest = [n for n in graph.node if n is not node]
            if rest:
                more = [
                    {**run, **{n: values[n] for n in node.output if n}} for run, values in zip(runs, made, strict=True)
                ]
                yield _pruned(model, rest, [o.name for o in graph.output], more)
    for i, node in enumerate(graph.node):
        for attribute in node.attribute:
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            kept = [a for a in node.attribute if a.name != attribute.name]
            del copy.graph.node[i].attribute[:]
            copy.graph.node[i].attribute.extend(kept)
            yield copy, runs
    for value in graph.input:  # named sizes become numbers
        if len(runs) == 1 and any(d.dim_param for d in value.type.tensor_type.shape.dim):
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            for v in copy.graph.input:
                for d, n in zip(v.type.tensor_type.shape.dim, runs[0][v.name].shape, strict=True):
                    d.dim_value = n
            yield copy, runs
            break


def _pruned(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], outputs: list[str], runs: list[dict[str, Array]]
) -> Case:
    """The part of a graph that some outputs need; what no node makes is an input."""
    made = {n: node for node in nodes for n in node.output if n}
    needed, pending = set(), [o for o in outputs if o in made]
    while pending:
        name = pending.pop()
        if name not in needed:
            needed.add(name)
            pending += [n for n in made[name].input if n] if name in made else []
    kept = [n for n in nodes if any(o in needed for o in n.output)]
    constants = [c for c in model.graph.initializer if c.name in needed]
    weights, old = {c.name for c in constants}, {v.name: v for v in model.graph.input}
    inputs = []
    for name in sorted(needed - set(made) - weights):
        array = runs[0][name]
        several = len({r[name].shape for r in runs}) > 1
        shape = [f"{name}_{i}" if several else n for i, n in enumerate(array.shape)]
        info = helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)
        inputs.append(old.get(name, info))
    known = {o.name: o for o in model.graph.output}
    types = {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    outs = []
    for name in [o for o in outputs if o in made]:
        info = known.get(name) or types.get(name) or helper.make_empty_tensor_value_info(name)
        kind = info.type.tensor_type
        outs.append(helper.make_tensor_value_info(name, kind.elem_type, [None] * len(kind.shape.dim)))
    graph = helper.make_graph(kept, model.graph.name, inputs, outs, constants)
    small = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return small, [{v.name: r[v.name] for v in inputs} for r in runs]


def _all_values(model: onnx.ModelProto, runs: list[dict[str, Array]]) -> list[dict[str, Array]] | None:
    """Every value of each run, by an oracle that can."""
    copy = onnx.ModelProto()
    copy.CopyFrom(onnx.shape_inference.infer_shapes(model))
    types = {v.name: v for v in [*copy.graph.value_info, *copy.graph.output]}
    names = [n for node in model.graph.node for n in node.output if n and n in types]
    del copy.graph.output[:]
    copy.graph.output.extend(types[n] for n in names)
    found = []
    for run in runs:
        for oracle in ORACLES.values():
            try:
                found.append(oracle(copy, run))
            except Cannot:
                continue
            break
    return found if len(found) == len(runs) else None


# -- files -----------------------------------------------------------------------------------------------------------


def keep(model: onnx.ModelProto, runs: Sequence[Run], name: str, found: str) -> Path:
    """Write a case to :data:`FOLDER`. ``found`` says what was wrong."""
    case = {
        "found": found,
        "model": onnx.printer.to_text(model).splitlines(),
        "runs": [{n: _as_json(a) for n, a in run.items()} for run in runs],
    }
    weights = {c.name: _as_json(numpy_helper.to_array(c)) for c in model.graph.initializer}
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps({**case, "weights": weights}, indent=1) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> Case:
    """A case as it was kept."""
    case = json.loads(path.read_text(encoding="utf-8"))
    model = onnx.parser.parse_model("\n".join(case["model"]))
    weights = [numpy_helper.from_array(_as_array(a), n) for n, a in case["weights"].items()]
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)
    return model, [{n: _as_array(a) for n, a in run.items()} for run in case["runs"]]


def _as_json(array: Array) -> dict[str, Any]:
    return {"dtype": array.dtype.name, "shape": list(array.shape), "values": array.reshape(-1).tolist()}


def _as_array(value: Mapping[str, Any]) -> Array:
    return np.array(value["values"], value["dtype"]).reshape(value["shape"])
