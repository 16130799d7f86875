"""Every guard is needed: a tree that lacks any one of them faults or computes something else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered, run_scheduled
from tilewright.kernel.machine import KernelFault
from tilewright.kernel.schedule import Compute, For, Node, Scheduled, Write

from tests.kernel.trial_cases import CASES, SCHEDULES, TOLERANCE, error
from tests.kernel.trial_kernels import TRIALS

#: Sizes that divide nothing, so that every piece that can be ragged is.
RAGGED = [
    *(("matmul", s) for s in ("ragged", "cpu", "cpu-ragged", "triton", "two-level", "whole-k")),
    *(("conv", s) for s in ("ragged", "cpu", "rows")),
    *(("softmax", s) for s in ("ragged", "tiled", "recomputed", "staged", "triton")),
    *(("attention", s) for s in ("scan", "triton", "deep")),
]


def without_one_guard(body: tuple[Node, ...]) -> Iterator[tuple[str, tuple[Node, ...]]]:
    """Every copy of ``body`` in which one guard of one statement is gone."""
    for n, node in enumerate(body):
        if isinstance(node, For):
            for what, inner in without_one_guard(node.body):
                yield what, (*body[:n], replace(node, body=inner), *body[n + 1 :])
        elif isinstance(node, Compute | Write):
            name = node.tile if isinstance(node, Compute) else node.tensor
            for guard in node.guards:
                fewer = replace(node, guards=tuple(g for g in node.guards if g != guard))
                yield f"{name} ?{guard}", (*body[:n], fewer, *body[n + 1 :])


@pytest.mark.parametrize(("name", "schedule"), RAGGED)
def test_each_guard_is_necessary(name: str, schedule: str) -> None:
    kernel, x = TRIALS[name](), CASES[name][0]()
    tree = apply(kernel, SCHEDULES[name][schedule])
    expected = run_lowered(kernel, x)
    mutants = list(without_one_guard(tree.body))
    assert mutants
    survivors = []
    for what, body in mutants:
        try:
            results = run_scheduled(Scheduled(kernel, tree.schedule, body), x)
        except KernelFault:
            continue
        if all(error(results[k], expected[k]) < TOLERANCE["float32"] for k in results):
            survivors.append(what)
    assert survivors == []


@pytest.mark.parametrize(("name", "schedule"), RAGGED)
def test_the_whole_tree_is_needed(name: str, schedule: str) -> None:
    """Dropping any fill, computation, rotation or write is seen."""
    kernel, x = TRIALS[name](), CASES[name][0]()
    tree = apply(kernel, SCHEDULES[name][schedule])
    expected = run_lowered(kernel, x)
    survivors = []
    for what, body in without_one_node(tree.body):
        try:
            results = run_scheduled(Scheduled(kernel, tree.schedule, body), x)
        except (KernelFault, KeyError):
            continue
        if all(error(results[k], expected[k]) < TOLERANCE["float32"] for k in results):
            survivors.append(what)
    assert survivors == []


def without_one_node(body: tuple[Node, ...]) -> Iterator[tuple[str, tuple[Node, ...]]]:
    for n, node in enumerate(body):
        if isinstance(node, For):
            for what, inner in without_one_node(node.body):
                yield what, (*body[:n], replace(node, body=inner), *body[n + 1 :])
        else:
            yield str(node)[:60], (*body[:n], *body[n + 1 :])
