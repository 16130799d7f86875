"""A model as files for somebody else's compiler: imported, quantized when asked, made of operators that it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir
from tilewright.backends.base import GraphRoute, GraphSource
from tilewright.entries import MAIN, Model, import_entries, name_of
from tilewright.errors import UsageError
from tilewright.frontend.buckets import by_symbol
from tilewright.frontend.expand import expand_unknown
from tilewright.options import Options
from tilewright.package.atomic import atomic_file
from tilewright.passes.pipeline import canonicalization, run_pipeline
from tilewright.selection import ROUTES, find_route
from tilewright.target import Target

if TYPE_CHECKING:
    from tilewright.quantization.request import Given

#: The kinds of files there are.
KINDS: Sequence[str] = tuple(ROUTES)


def export_graph(
    model: Model,
    kind: str,
    folder: Path,
    options: Options,
    *,
    given: Given | None = None,
    say: Callable[[str, str], None] = lambda stage, detail: None,
) -> list[Path]:
    """Write a model as files of ``kind`` for the one target of ``options`` into ``folder``, which is made if need be.

    Sizes, buckets, constants and a precision are those of ``options``, the rest of it is not for graphs. Equal models
    and options give equal bytes. Returns the files.

    Raises:
        UsageError: no such kind or target, several targets, sizes that cannot be said.
        UnsupportedError: nodes that the other compiler does not take, all of them (exit 4).
        PrecisionError: layers did not get the precision that was asked for.
        CompileError, ResourceError: as compiling does.
    """
    if len(options.targets) != 1:
        raise UsageError(
            "one-target",
            where=f"--as {kind}",
            cause=f"it is for one target, and {len(options.targets)} are named",
            fix="name one with -t, and export once for each",
        )
    route, target = find_route(kind, options.targets[0])
    say("import", name_of(model))
    graph = import_entries({MAIN: model}, options)[MAIN]
    source = GraphSource(name_of(model), _names(graph))
    run_pipeline(graph, canonicalization())
    if options.precision is not None:
        graph = _quantized(graph, route, target, options, given, say)
    say("export", f"{kind} for {target.spelling}")
    run_pipeline(graph, route.passes())
    expand_unknown(graph, route.knows)
    run_pipeline(graph, route.cleanup())
    buckets = by_symbol([graph], dict(options.buckets))
    return _written(folder, route, graph, target, buckets, source)


def _names(graph: ir.Model) -> frozenset[str]:
    values = [*graph.graph.inputs, *graph.graph.initializers.values(), *(o for n in graph.graph for o in n.outputs)]
    return frozenset(str(v.name) for v in values) | {str(n.name) for n in graph.graph}


def _quantized(
    graph: ir.Model,
    route: GraphRoute,
    target: Target,
    options: Options,
    given: Given | None,
    say: Callable[[str, str], None],
) -> ir.Model:
    from tilewright.quantization.plan import PrecisionPlan  # it runs graphs, which takes most of the compiler

    assert options.precision is not None
    able = replace(target, extra={**target.extra, "quantize": {"floats": sorted(route.floats(target))}})
    plan = PrecisionPlan(options.precision, given, options.level, say)
    (group,) = plan.quantized({MAIN: graph}, [able])
    plan.check_graphs(group, group.graphs, route.computes)
    plan.require()
    return group.graphs[MAIN]


def _written(
    folder: Path,
    route: GraphRoute,
    graph: ir.Model,
    target: Target,
    buckets: dict[str, tuple[int, ...]],
    source: GraphSource,
) -> list[Path]:
    if folder.exists() and not folder.is_dir():
        raise UsageError("no-such-folder", where=str(folder), cause="it is a file", fix="name a folder")
    found = []
    for name, pieces in route.files(graph, target, buckets, source):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fix = "name a folder that can be made"
            raise UsageError("no-such-folder", where=str(folder), cause=str(error.strerror), fix=fix) from error
        with atomic_file(folder / name) as stream:
            for piece in pieces:
                stream.write(piece)
        found.append(folder / name)
    return found
