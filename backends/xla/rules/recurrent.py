"""Recurrent layers: the inputs of all steps times their weights as one product, then a loop over the steps.

In the formulas of the ONNX operator reference. A sequence that is over keeps its state; its outputs are 0 from there
on. In reverse each sequence starts at its own end. Half precisions are computed in f32 throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tilewright.backends.xla import build, indexing
from tilewright.backends.xla.build import Value, shape_of
from tilewright.backends.xla.dialect import stablehlo
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.ir.types import DType
from tilewright.ops.recurrent import GATES, activations

#: States, and what a step makes of the projected input and of them.
Step = Callable[[Value, list[Value]], list[Value]]


@dataclass(frozen=True, slots=True)
class _Direction:
    """What one direction is computed with.

    Attributes:
        projected: ``X·Wᵀ`` and biases ``[steps, batch, gates * hidden]``.
        r: recurrent weights ``[gates * hidden, hidden]``.
        bias: of the recurrent product, ``[gates * hidden]``, where it is given.
        peephole: ``[3 * hidden]`` (LSTM).
        functions: the activations.
    """

    ctx: Rule
    dtype: DType
    projected: Value
    r: Value
    bias: Value | None
    peephole: Value | None
    functions: Sequence[Callable[[Value], Value]]

    def times(self, state: Value, first: int, last: int, bias: bool = True) -> Value:
        """The recurrent product for gates ``first`` to ``last``, with the bias."""
        hidden = shape_of(self.r)[1]
        rows = indexing.cut_dim(self.r, 0, first * hidden, last * hidden)
        made = build.dot(state, rows, ((), ()), ([1], [1]), self.dtype, self.ctx.policy.precision)
        if self.bias is None or not bias:
            return made
        part = indexing.cut_dim(self.bias, 0, first * hidden, last * hidden)
        return stablehlo().add(made, build.trailing(part, shape_of(made)))

    def gate(self, x: Value, index: int) -> Value:
        """The part of one gate."""
        hidden = shape_of(self.r)[1]
        return indexing.cut_dim(x, 1, index * hidden, (index + 1) * hidden)

    def peeped(self, x: Value, cell: Value, index: int) -> Value:
        """``x`` and the cell state times its weights for a gate."""
        if self.peephole is None:
            return x
        hlo, hidden = stablehlo(), shape_of(self.r)[1]
        part = indexing.cut_dim(self.peephole, 0, index * hidden, (index + 1) * hidden)
        return hlo.add(x, hlo.multiply(cell, build.trailing(part, shape_of(cell))))

    def clipped(self, x: Value) -> Value:
        """``x`` within the limit of the layer."""
        limit = self.ctx.attribute("clip")
        if limit is None:
            return x
        shape = shape_of(x)
        low, high = (build.splat(float(n), self.dtype, shape) for n in (-limit, limit))
        return stablehlo().clamp(low, x, high)


@rule(*GATES, padding=Padding.NONE)
def recurrent(ctx: Rule) -> tuple[Tensor | None, ...]:
    """Each direction by itself, in a loop; then they are put together."""
    x, r = ctx.input(0), ctx.input(2)
    if 0 in (*x.shape, *r.shape):
        raise ctx.unsupported("there is nothing to compute")
    first = bool(ctx.attribute("layout", 0))
    dtype = DType.F32 if x.dtype.bits < 32 else x.dtype
    directions, _, hidden = r.shape
    value = build.transpose(build.convert(x.value, dtype), [1, 0, 2] if first else [0, 1, 2])
    steps, batch, _ = shape_of(value)
    way = str(ctx.attribute("direction", "forward"))
    length = _lengths(ctx, batch)
    states: list[Value] = []
    last: list[list[Value]] = []
    for n in range(directions):
        backwards = way == "reverse" or n == 1
        given = reversed_(value, length) if backwards else value
        initial = [_initial(ctx, i, n, batch, hidden, dtype, first) for i in ((5, 6) if _is_lstm(ctx) else (5,))]
        every, final = _looped(_direction(ctx, n, given, dtype), initial, length)
        states.append(reversed_(every, length) if backwards else every)
        last.append(final)
    hlo = stablehlo()
    shape = (steps, 1, batch, hidden)
    joined = [build.reshape(s, shape) for s in states]
    every = joined[0] if directions == 1 else hlo.concatenate(joined, 1)
    results: list[Tensor | None] = []
    for output, made in enumerate([every, *map(_stacked, zip(*last, strict=True))]):
        if not ctx.wants(output):
            results.append(None)
            continue
        order = [2, 0, 1, 3] if output == 0 else [1, 0, 2]
        turned = build.transpose(made, order) if first else made
        results.append(ctx.result(build.convert(turned, x.dtype), output))
    return tuple(results)


def _is_lstm(ctx: Rule) -> bool:
    return ctx.node.op_type == "LSTM"


def _stacked(parts: Sequence[Value]) -> Value:
    """``[batch, hidden]`` of each direction as ``[directions, batch, hidden]``."""
    spread = [build.reshape(p, (1, *shape_of(p))) for p in parts]
    return spread[0] if len(spread) == 1 else stablehlo().concatenate(spread, 0)


def _lengths(ctx: Rule, batch: int) -> Value | None:
    """``[batch]``: elements of each sequence; ``None`` where all are whole."""
    return build.convert(ctx.input(4).value, DType.I32) if ctx.has(4) else None


def reversed_(x: Value, length: Value | None) -> Value:
    """``[steps, batch, …]`` with the elements of each sequence in reverse; what lies after them stays."""
    hlo = stablehlo()
    if length is None:
        return hlo.reverse(x, [0])
    shape = shape_of(x)[:2]
    at, ends = build.iota(DType.I32, shape, 0), build.broadcast(length, shape, [1])
    back = hlo.subtract(hlo.subtract(ends, build.splat(1, DType.I32, shape)), at)
    at = hlo.select(build.compare(at, ends, "LT", "SIGNED"), back, at)
    return indexing.take_points(x, indexing.points([at, build.iota(DType.I32, shape, 1)]), [0, 1])


def _part(x: Value, n: int) -> Value:
    """What belongs to direction ``n``."""
    return build.reshape(indexing.cut_dim(x, 0, n, n + 1), shape_of(x)[1:])


def _initial(ctx: Rule, index: int, n: int, batch: int, hidden: int, dtype: DType, first: bool) -> Value:
    """An initial state ``[batch, hidden]``; 0 where none is given."""
    if not ctx.has(index):
        return build.splat(0, dtype, (batch, hidden))
    given = build.convert(ctx.input(index).value, dtype)
    return _part(build.transpose(given, [1, 0, 2]) if first else given, n)


def _direction(ctx: Rule, n: int, x: Value, dtype: DType) -> _Direction:
    hlo = stablehlo()
    w, r = (_part(build.convert(ctx.input(i).value, dtype), n) for i in (1, 2))
    rows = shape_of(r)[0]
    projected = build.dot(x, w, ((), ()), ([2], [1]), dtype, ctx.policy.precision)
    bias = peephole = None
    if ctx.has(3):
        both = _part(build.convert(ctx.input(3).value, dtype), n)
        own, bias = indexing.cut_dim(both, 0, 0, rows), indexing.cut_dim(both, 0, rows, 2 * rows)
        projected = hlo.add(projected, build.trailing(own, shape_of(projected)))
    if ctx.has(7):
        peephole = _part(build.convert(ctx.input(7).value, dtype), n)
    directions = ctx.input(2).shape[0]
    chosen = activations(ctx.attribute, ctx.node.op_type, directions)[3 * n : 3 * n + 3]
    functions = [_activation(f.name, f.alpha, f.beta, dtype) for f in chosen]
    return _Direction(ctx, dtype, projected, r, bias, peephole, functions)


def _looped(layer: _Direction, initial: list[Value], length: Value | None) -> tuple[Value, list[Value]]:
    """The hidden state after every step ``[steps, batch, hidden]``, and the states at the end."""
    hlo = stablehlo()
    steps, batch, width = shape_of(layer.projected)
    hidden = shape_of(layer.r)[1]
    step = _STEPS[layer.ctx.node.op_type]
    zeros = build.splat(0, layer.dtype, (steps, batch, hidden))

    def body(turn: Value, carried: list[Value]) -> list[Value]:
        every, *states = carried
        zero = build.splat(0, DType.I32)
        x = build.reshape(hlo.dynamic_slice(layer.projected, [turn, zero, zero], [1, batch, width]), (batch, width))
        made = step(layer, x, states)
        shown = made[0]
        if length is not None:
            going = build.compare(build.broadcast(turn, (batch,), ()), length, "LT", "SIGNED")
            going = build.broadcast(going, (batch, hidden), [0])
            made = [hlo.select(going, new, old) for new, old in zip(made, states, strict=True)]
            shown = hlo.select(going, shown, build.splat(0, layer.dtype, (batch, hidden)))
        row = build.reshape(shown, (1, batch, hidden))
        return [hlo.dynamic_update_slice(every, row, [turn, zero, zero]), *made]

    every, *final = indexing.repeat(steps, [zeros, *initial], body)
    return every, final


def _rnn(layer: _Direction, x: Value, states: list[Value]) -> list[Value]:
    (h,) = states
    f = layer.functions[0]
    return [f(layer.clipped(stablehlo().add(x, layer.times(h, 0, 1))))]


def _gru(layer: _Direction, x: Value, states: list[Value]) -> list[Value]:
    """Gates: update, reset, hidden."""
    hlo = stablehlo()
    (h,) = states
    f, g = layer.functions[:2]
    both = layer.times(h, 0, 2)
    z, r = (f(layer.clipped(hlo.add(layer.gate(x, i), layer.gate(both, i)))) for i in range(2))
    if layer.ctx.attribute("linear_before_reset", 0):
        inner = hlo.multiply(r, layer.times(h, 2, 3))
    else:
        inner = layer.times(hlo.multiply(r, h), 2, 3)
    new = g(layer.clipped(hlo.add(layer.gate(x, 2), inner)))
    one = build.splat(1, layer.dtype, shape_of(z))
    return [hlo.add(hlo.multiply(hlo.subtract(one, z), new), hlo.multiply(z, h))]


def _lstm(layer: _Direction, x: Value, states: list[Value]) -> list[Value]:
    """Gates: input, output, forget, cell; peepholes: input, output, forget."""
    hlo = stablehlo()
    h, c = states
    f, g, k = layer.functions
    all_ = hlo.add(x, layer.times(h, 0, 4))
    i = f(layer.clipped(layer.peeped(layer.gate(all_, 0), c, 0)))
    if layer.ctx.attribute("input_forget", 0):
        forget = hlo.subtract(build.splat(1, layer.dtype, shape_of(i)), i)
    else:
        forget = f(layer.clipped(layer.peeped(layer.gate(all_, 2), c, 2)))
    new = g(layer.clipped(layer.gate(all_, 3)))
    cell = hlo.add(hlo.multiply(forget, c), hlo.multiply(i, new))
    o = f(layer.clipped(layer.peeped(layer.gate(all_, 1), cell, 1)))
    return [hlo.multiply(o, k(cell)), cell]


_STEPS = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}


def _activation(name: str, alpha: float, beta: float, dtype: DType) -> Callable[[Value], Value]:
    """One of the activations of recurrent layers."""
    hlo = stablehlo()

    def number(n: float, like: Value) -> Value:
        return build.splat(n, dtype, shape_of(like))

    def affine(x: Value) -> Value:
        return hlo.add(hlo.multiply(x, number(alpha, x)), number(beta, x))

    def positive(x: Value) -> Value:
        return build.compare(x, number(0, x), "GE", "FLOAT")

    found: dict[str, Callable[[Value], Value]] = {
        "relu": lambda x: hlo.maximum(x, number(0, x)),
        "tanh": hlo.tanh,
        "sigmoid": hlo.logistic,
        "affine": affine,
        "leakyrelu": lambda x: hlo.select(positive(x), x, hlo.multiply(x, number(alpha, x))),
        "thresholdedrelu": lambda x: hlo.select(build.compare(x, number(alpha, x), "GT", "FLOAT"), x, number(0, x)),
        "scaledtanh": lambda x: hlo.multiply(number(alpha, x), hlo.tanh(hlo.multiply(x, number(beta, x)))),
        "hardsigmoid": lambda x: hlo.clamp(number(0, x), affine(x), number(1, x)),
        "elu": lambda x: hlo.select(positive(x), x, hlo.multiply(number(alpha, x), hlo.exponential_minus_one(x))),
        "softsign": lambda x: hlo.divide(x, hlo.add(number(1, x), hlo.abs(x))),
        "softplus": lambda x: hlo.add(
            hlo.maximum(x, number(0, x)), hlo.log_plus_one(hlo.exponential(hlo.negate(hlo.abs(x))))
        ),
    }
    return found[name]
