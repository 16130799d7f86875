"""Runs a state of a graph on this machine, compiled by this compiler: any of its values, sample by sample.

Calibration, sensitivity searches and ``bisect`` read intermediate values of large graphs over many samples. The
reference evaluator takes seconds for each; compiled, a sample takes milliseconds.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray
from tilewright import driver, runtime
from tilewright.errors import UsageError
from tilewright.ir.graph import constant_array, constant_tensor
from tilewright.ir.skeleton import skeleton_bytes
from tilewright.ops.infer import infer_model
from tilewright.options import Options
from tilewright.passes.canonicalize.eliminate_dead_code import EliminateDeadCode

Array = NDArray[Any]
Feed = Mapping[str, Array]

#: Compiled graphs that are kept; each maps a file with its packed weights.
KEPT = 4


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A graph whose outputs are the wanted values. ``weights`` keeps the tensors that are a part of its key alive."""

    session: runtime.Session
    inputs: frozenset[str]
    weights: tuple[ir.TensorProtocol, ...]


class GraphRunner:
    """Runs graphs compiled for this machine (a :class:`tilewright.passes.quantize.base.Runner`).

    Compiles once for each state of a graph and set of values, for every size that the graph's inputs leave open.

    Args:
        level: of optimization; 0 computes every operator by itself.
        threads: of one run; ``None`` for the processors that this process may use.
    """

    def __init__(self, level: int = 2, threads: int | None = None):
        self._options = Options(targets=("cpu:native",), level=level)
        self._threads = threads
        self._compiled: OrderedDict[tuple[Any, ...], _Compiled] = OrderedDict()

    def __call__(self, model: ir.Model, feeds: Sequence[Feed], values: Sequence[str]) -> Iterator[dict[str, Array]]:
        """The named values of ``model`` (inputs, constants, intermediate values, outputs), feed by feed.

        Nothing of a feed is kept when the next one is asked for. ``model`` is not changed, and later changes to it are
        not seen by an iterator that was begun. Raises :class:`UsageError` (``unknown-value``) for a name that the graph
        lacks, at once, what compiling raises, and what running raises for a feed that does not fit.
        """
        wanted = tuple(dict.fromkeys(values))
        known = {str(v.name): v for v in _values(model.graph)}
        for name in wanted:
            if name not in known:
                raise _unknown(model, name, known)
        inputs = {str(v.name) for v in model.graph.inputs}
        constants = {n: constant_array(known[n]) for n in wanted if constant_tensor(known[n]) is not None}
        computed = tuple(n for n in wanted if n not in constants and n not in inputs)
        compiled = self._compile(model, computed) if computed else None
        return _run(compiled, feeds, wanted, constants)

    def close(self) -> None:
        """Give up what was compiled."""
        self._compiled.clear()

    def _compile(self, model: ir.Model, values: tuple[str, ...]) -> _Compiled:
        """The session for ``values``, computed anew unless it is kept."""
        weights = tuple(v.const_value for v in model.graph.initializers.values() if v.const_value is not None)
        key = (skeleton_bytes(model), tuple(map(id, weights)), values)
        found = self._compiled.get(key)
        if found is not None:
            self._compiled.move_to_end(key)
            return found
        while len(self._compiled) >= KEPT:
            self._compiled.popitem(last=False)
        part = cut(model, values)
        names = frozenset(str(v.name) for v in part.graph.inputs)
        compiled = _Compiled(_session(part, self._options, self._threads), names, weights)
        self._compiled[key] = compiled
        return compiled


def cut(model: ir.Model, values: Sequence[str]) -> ir.Model:
    """A copy of ``model`` whose outputs are ``values`` (computed ones) and that computes nothing else.

    Weights are shared. Its inputs are those of ``model``.
    """
    copy = model.clone()
    named = {str(v.name): v for node in copy.graph for v in node.outputs}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(named[name] for name in values)
    EliminateDeadCode().run(copy)
    infer_model(copy)  # symbols that only a run tells may be gone with what was cut off
    return copy


def _session(model: ir.Model, options: Options, threads: int | None) -> runtime.Session:
    """``model``, which is used up, compiled and loaded. The file has no name any more when this returns."""
    artifact = driver.compile(model, options=options)
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        path = Path(folder) / "graph.tw"
        artifact.save(path)
        return runtime.load(path, threads=threads)


def _run(
    compiled: _Compiled | None, feeds: Sequence[Feed], wanted: tuple[str, ...], constants: Mapping[str, Array]
) -> Iterator[dict[str, Array]]:
    for feed in feeds:
        found: dict[str, Array] = {}
        if compiled is not None:
            session = compiled.session
            results = session.run(None, {n: a for n, a in feed.items() if n in compiled.inputs})
            found = {o.name: r for o, r in zip(session.outputs, results, strict=True)}
        yield {n: found[n] if n in found else constants[n] if n in constants else feed[n] for n in wanted}


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from (v for v in node.outputs if v.name)


def _unknown(model: ir.Model, name: str, known: Mapping[str, ir.Value]) -> UsageError:
    near = get_close_matches(name, known, 3)
    return UsageError(
        "unknown-value",
        where=f"graph {model.graph.name or 'model'!r}",
        cause=f"there is no value {name!r}",
        fix=f"is {' or '.join(map(repr, near))} meant?" if near else "name a value of the graph (tilewright inspect)",
    )
