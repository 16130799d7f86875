"""Recurrent layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tilewright.ir.types import DType, TensorType
from tilewright.ops.context import Infer
from tilewright.ops.registry import shape_rule

#: Gates per layer: rows of the weights are ``gates * hidden size``.
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}

#: Activations of a direction, by default.
_DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}

#: Activations in the order of their numbers in routines: which of alpha and beta they take, and the defaults of both.
_ACTIVATIONS: dict[str, tuple[str, float, float]] = {
    "relu": ("", 0.0, 0.0),
    "tanh": ("", 0.0, 0.0),
    "sigmoid": ("", 0.0, 0.0),
    "affine": ("ab", 1.0, 0.0),
    "leakyrelu": ("a", 0.01, 0.0),
    "thresholdedrelu": ("a", 1.0, 0.0),
    "scaledtanh": ("ab", 1.0, 1.0),
    "hardsigmoid": ("ab", 0.2, 0.5),
    "elu": ("a", 1.0, 0.0),
    "softsign": ("", 0.0, 0.0),
    "softplus": ("", 0.0, 0.0),
}


@dataclass(frozen=True, slots=True)
class Activation:
    """A function of one number, by its place in the list of activations, with its constants."""

    number: int
    alpha: float
    beta: float

    @property
    def name(self) -> str:
        """In small letters."""
        return list(_ACTIVATIONS)[self.number]


def activations(attribute: Callable[[str], Any], operator: str, directions: int) -> list[Activation]:
    """Three activations for each direction (what a layer has none of is Tanh). Raises :class:`ValueError`.

    Alpha and beta are taken from their lists in order, by those functions that have them.
    """
    default = _DEFAULTS[operator]
    names = list(attribute("activations") or default * directions)
    if len(names) != len(default) * directions:
        raise ValueError(f"{len(names)} activations, where {len(default)} a direction are needed")
    alphas, betas = iter(attribute("activation_alpha") or ()), iter(attribute("activation_beta") or ())
    found: list[Activation] = []
    for direction in range(directions):
        of_direction = names[direction * len(default) : (direction + 1) * len(default)]
        for name in (*of_direction, *["Tanh"] * (3 - len(default))):
            key = str(name).lower()
            if key not in _ACTIVATIONS:
                raise ValueError(f"no activation is called {name!r}")
            takes, alpha, beta = _ACTIVATIONS[key]
            alpha = float(next(alphas, alpha)) if "a" in takes else alpha
            beta = float(next(betas, beta)) if "b" in takes else beta
            found.append(Activation(list(_ACTIVATIONS).index(key), alpha, beta))
    return found


@shape_rule(*GATES)
def recurrent(ctx: Infer) -> list[TensorType | None]:
    """All states, the last hidden state and (LSTM) the last cell state."""
    x, w, r = ctx.input(0), ctx.input(1), ctx.input(2)
    if x.rank != 3 or w.rank != 3 or r.rank != 3:
        ctx.fail("X, W and R need rank 3")
    gates, hidden = GATES[ctx.node.op_type], r.shape[2]
    direction = ctx.string("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        ctx.fail(f"direction {direction!r}")
    directions = 2 if direction == "bidirectional" else 1
    ctx.equal(r.shape[0], directions)
    ctx.equal(r.shape[1], hidden * gates)
    ctx.equal(w.shape[0], directions)
    ctx.equal(w.shape[1], hidden * gates)
    ctx.equal(w.shape[2], x.shape[2])
    if ctx.attribute("hidden_size") is not None:
        ctx.equal(hidden, ctx.integer("hidden_size"))
    batch_first, clip = ctx.integer("layout", 0), ctx.attribute("clip")
    if batch_first not in (0, 1):
        ctx.fail(f"layout {batch_first}")
    if clip is not None and not clip >= 0:
        ctx.fail(f"clip threshold {clip}")
    batch, sequence = x.shape[:2] if batch_first else x.shape[1::-1]
    last = (batch, directions, hidden) if batch_first else (directions, batch, hidden)
    states = (batch, sequence, directions, hidden) if batch_first else (sequence, directions, batch, hidden)
    _same(ctx, 3, (directions, 2 * gates * hidden))
    _same(ctx, 4, (batch,), DType.I32)
    _same(ctx, 5, last)
    if ctx.node.op_type == "LSTM":
        _same(ctx, 6, last)
        _same(ctx, 7, (directions, 3 * hidden))
    try:
        activations(ctx.attribute, ctx.node.op_type, directions)
    except ValueError as problem:
        ctx.fail(str(problem))
    final = TensorType.of(x.dtype, *last)
    return [TensorType.of(x.dtype, *states), final, final]


def _same(ctx: Infer, index: int, shape: tuple[Any, ...], dtype: DType | None = None) -> None:
    """Require that an optional input has a shape, and an element type."""
    found = ctx.optional(index)
    if found is None:
        return
    if found.rank != len(shape) or (dtype is not None and found.dtype is not dtype):
        ctx.fail(f"input {index} is {found}")
    for have, want in zip(found.shape, shape, strict=True):
        ctx.equal(have, want)
