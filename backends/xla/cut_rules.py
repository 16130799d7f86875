"""How a cut goes through each operator (:mod:`tilewright.backends.xla.cuts`), by one table; elementwise ones here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache

import onnx_ir as ir
from tilewright.backends.xla.cuts import Step
from tilewright.backends.xla.rule import Padding, find_rule
from tilewright.ir.graph import type_of
from tilewright.ops.elementwise import BROADCAST, UNARY

CutRule = Callable[[Step], None]

_RULES: dict[str, CutRule] = {}
_POINTWISE = frozenset(UNARY) | frozenset(BROADCAST) | frozenset(
    "Abs Add And Cast CastLike Clip Div Dropout Equal Greater GreaterOrEqual Identity IsInf IsNaN Less LessOrEqual Max "
    "Min Mod Mul Neg Not Or PRelu Sub Sum Where Xor".split()
)  # fmt: skip


def find_cut_rule(node: ir.Node) -> CutRule:
    """The rule of a node: its own, that of elementwise operators, or that it takes nothing cut."""
    _load()
    if node.domain not in ("", "ai.onnx"):
        return _whole
    if node.op_type in _RULES:
        return _RULES[node.op_type]
    entry = find_rule(node.domain, node.op_type)
    if node.op_type in _POINTWISE or (entry is not None and entry.padding is Padding.POINTWISE):
        return _pointwise
    return _whole


@cache
def _load() -> None:
    for name in ("cut_products", "cut_movement"):
        importlib.import_module(f"tilewright.backends.xla.{name}")


def cut_rule(*names: str) -> Callable[[CutRule], CutRule]:
    """Register the rule of operators of the ONNX domain."""

    def register(lower: CutRule) -> CutRule:
        _RULES.update(dict.fromkeys(names, lower))
        return lower

    return register


def _whole(step: Step) -> None:
    step.whole()


@cut_rule("Shape", "Size")
def _nothing(step: Step) -> None:
    """Sizes are those of the whole."""


def _pointwise(step: Step) -> None:
    """Cuts have to lie along the same dimension of the result; what is whole is taken in parts."""
    sources = step.any_cut()
    if not sources:
        return
    rank = step.result().rank
    dims = {a.dim + rank - step.type(i).rank for i in range(len(step.inputs)) if (a := step.cut(i)) is not None}
    if len(dims) > 1:
        step.fails(sources, f"{step.node.op_type} {step.node.name!r} reads operands cut along different dimensions")
    (dim,) = dims
    for i, value in enumerate(step.inputs):
        if value is None or step.cut(i) is not None:
            continue
        own = dim - (rank - type_of(value).rank)
        if own < 0 or type_of(value).shape[own] == 1:
            continue
        if not step.is_fixed(i) and _is_residual(step, value):
            step.fails(sources, "its result is added to a stream that stays whole")
        step.follow(i, own, sources)
    step.passes(dim, sources)


def _is_residual(step: Step, whole: ir.Value) -> bool:
    """Whether a whole operand and a cut one are computed from one another: a residual and its branch."""
    others = [v for i, v in enumerate(step.inputs) if v is not None and step.cut(i) is not None]
    ancestors = step.walk.ancestors
    return any(ancestors.computes(whole, v) or ancestors.computes(v, whole) for v in others)
