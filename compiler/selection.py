"""From what a user writes after ``-t`` to targets and the backends that build for them."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import replace

from tilewright.backends.base import Backend, GraphRoute
from tilewright.codegen.toolchain import default_toolchain
from tilewright.errors import UsageError
from tilewright.options import Options
from tilewright.target import F32_PRODUCTS, Target

#: Where each kind of target lives. A package outside this one registers the entry point group ``tilewright.backends``.
BACKENDS: Mapping[str, str] = {
    "ascend": "tilewright.backends.ascend.backend:AscendBackend",
    "cpu": "tilewright.backends.cpu.backend:CpuBackend",
    "cuda": "tilewright.backends.cuda.backend:CudaBackend",
    "tpu": "tilewright.backends.xla.backend:XlaBackend",
    "xla": "tilewright.backends.xla.backend:XlaBackend",
}

#: Where each route of a graph to another compiler lives, by the kind of files that it writes.
ROUTES: Mapping[str, str] = {
    "ge-air": "tilewright.backends.ascend.graph_route.air:AirRoute",
    "onnx-atc": "tilewright.backends.ascend.graph_route.atc:AtcRoute",
}


def find_route(kind: str, spelling: str) -> tuple[GraphRoute, Target]:
    """The route that writes such files, and one of its targets. Raises ``UsageError`` when there is no such thing."""
    if kind not in ROUTES:
        fix = f"use one of {', '.join(ROUTES)}"
        raise UsageError("unknown-route", where=f"--as {kind}", cause="no such files are written", fix=fix)
    module, _, name = ROUTES[kind].partition(":")
    route = getattr(importlib.import_module(module), name)()
    assert isinstance(route, GraphRoute)
    targets = route.targets()
    if spelling not in targets:
        cause, fix = f"--as {kind} is not for it", f"use one of {', '.join(targets)}"
        raise UsageError("unknown-target", where=f"target {spelling!r}", cause=cause, fix=fix)
    return route, targets[spelling]


def resolve_targets(options: Options, build: bool = True) -> list[tuple[Backend, Target]]:
    """Every target meant by the user's spellings, once each, with its backend. Raises ``UsageError`` when none is.

    Backends that are not to ``build`` anything need no C compiler.
    """
    found: dict[str, tuple[Backend, Target]] = {}
    for spelling in options.targets:
        kind = spelling.partition(":")[0].partition("+")[0]
        backend = find_backend(kind, options.cc, build)
        for target in backend.resolve(spelling):
            found.setdefault(target.spelling, (backend, _with_products(target, options)))
    if not found:
        raise UsageError("no-target", where="targets", cause="no target is given", fix="give one, such as cpu")
    return list(found.values())


def _with_products(target: Target, options: Options) -> Target:
    """``target`` with products of f32 in tf32 where that is asked for and the target's data leaves a choice."""
    asked = options.precision.asked if options.precision is not None else ""
    if asked != "tf32" or F32_PRODUCTS not in target.extra:
        return target
    return replace(target, extra={**target.extra, F32_PRODUCTS: asked})


def every_target() -> list[Target]:
    """The data of every target that something can be compiled for, in the order of kinds and spellings."""
    return [
        target
        for kind in backend_kinds()
        for target in find_backend(kind, build=False).targets().values()
        if target.kind == kind
    ]


def backend_kinds() -> dict[str, str]:
    """Every kind of target that there is a backend for, with the backend's place: ours and those of other packages."""
    where = dict(BACKENDS)
    for entry in importlib.metadata.entry_points(group="tilewright.backends"):
        where.setdefault(entry.name, entry.value)
    return where


def find_backend(kind: str, cc: str | None = None, build: bool = True) -> Backend:
    """The backend of a kind of target, using the C compiler ``cc``. Raises ``UsageError`` for an unknown kind."""
    where = BACKENDS if kind in BACKENDS else backend_kinds()  # asking every installed package takes 5 ms
    if kind not in where:
        raise UsageError(
            "unknown-target",
            where=f"target {kind!r}",
            cause="no backend compiles for this kind of target",
            fix=f"use one of {', '.join(where)}; `tilewright targets` lists them",
        )
    module, _, name = where[kind].partition(":")
    backend = getattr(importlib.import_module(module), name)(default_toolchain(cc) if build else None)
    if not isinstance(backend, Backend):
        raise UsageError(
            "not-a-backend",
            where=f"backend {where[kind]}",
            cause=f"{name} is no Backend",
            fix="remove or update the package that registers it in the group tilewright.backends",
        )
    return backend
