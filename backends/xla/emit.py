"""A region of a graph as a StableHLO module of static shapes.

The function ``main`` takes the region's inputs, then the true size of each padded symbol (``i32`` scalars), then the
weights (those of less than 8 bits packed, :mod:`tilewright.backends.xla.narrow`); it returns the region's outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
from tilewright.backends.xla import build, spmd
from tilewright.backends.xla.dialect import UNPORTABLE, bindings, context, portable, tensor_type
from tilewright.backends.xla.narrow import packed_type, unpacked
from tilewright.backends.xla.rule import Padding, Policy, Rule, Tensor, find_rule
from tilewright.backends.xla.sharding import Shardings
from tilewright.backends.xla.sizes import Sizes, Unmaskable
from tilewright.errors import UnsupportedError
from tilewright.ir.facts import facts
from tilewright.ir.graph import body_of, constant_array, is_constant, type_of
from tilewright.ir.types import DType, TensorType
from tilewright.ops.infer import infer_body
from tilewright.passes.place import Region

#: Constants of at most this many elements are written into the program; others are arguments.
LITERAL_ELEMENTS = 16


class Unplaceable(Exception):
    """A node that has no form in this program, and why; ``exact`` are symbols of whose exact sizes it may have one."""

    def __init__(self, node: ir.Node, reason: str, exact: frozenset[str] = frozenset()):
        super().__init__(f"{node.op_type} {node.name!r}: {reason}")
        self.node, self.reason, self.exact = node, reason, exact


@dataclass(frozen=True, slots=True)
class Emitted:
    """A program.

    Attributes:
        module: portable bytes (VHLO).
        sizes: symbols whose true size is an operand, in order.
        weights: constants that are arguments, in order.
        text: StableHLO, for whoever looks into it.
    """

    module: bytes
    sizes: tuple[str, ...]
    weights: tuple[ir.Value, ...]
    text: str


def emit(
    model: ir.Model,
    region: Region,
    bucket: Mapping[str, int],
    padded: Sequence[str],
    policy: Policy,
    shardings: Shardings | None = None,
) -> Emitted:
    """The program of ``region`` for one bucket.

    Args:
        model: the graph that the region is of.
        region: what to compute.
        bucket: static size of every symbol that occurs.
        padded: the symbols whose true size may be less.
        policy: precision where the graph leaves it open.
        shardings: how values lie on a mesh of devices; ``None`` for one device.

    Raises:
        Unplaceable: a node has no form here.
    """
    mlir = bindings()
    weights = _weights(region)
    with context(), mlir.Location.unknown():
        from jaxlib.mlir.dialects import func

        module = mlir.Module.create()
        plain = Sizes(bucket, {})
        inputs = [_tensor_type(type_of(v), plain) for v in region.inputs]
        arguments = (
            inputs
            + [tensor_type(DType.I32, ())] * len(padded)
            + [_tensor_type(packed_type(type_of(v)), plain) for v in weights]
        )
        results = [_tensor_type(type_of(v), plain) for v in region.outputs]
        with mlir.InsertionPoint(module.body):
            function = func.FuncOp("main", (arguments, results))
            block = function.add_entry_block()
        with mlir.InsertionPoint(block):
            given = list(block.arguments)
            operands = dict(zip(padded, given[len(inputs) : len(inputs) + len(padded)], strict=True))
            sizes = Sizes(bucket, operands, facts(model))
            values = {v: Tensor(a, type_of(v), source=v) for v, a in zip(region.inputs, given, strict=False)}
            held = given[len(inputs) + len(padded) :]
            values |= {
                v: Tensor(unpacked(a, type_of(v)), type_of(v), source=v) for v, a in zip(weights, held, strict=True)
            }
            emitter = _Emitter(model, sizes, policy, values, shardings)
            for node in region.nodes:
                emitter.node(node)
            func.ReturnOp([emitter.value(v).value for v in region.outputs])
        if shardings is not None:
            spmd.annotate(module, function, shardings.mesh, shardings.listed(region, len(padded), weights))
        module.operation.verify()
        data = portable(module)
        return Emitted(data, tuple(padded), tuple(weights), str(module))


def _tensor_type(type_: TensorType, sizes: Sizes) -> Any:
    return tensor_type(type_.dtype, sizes.shape(type_.shape))


def _weights(region: Region) -> list[ir.Value]:
    """Constants that are arguments, in the order of first use."""
    read = [v for node in region.nodes for v in node.inputs if v is not None]
    found = [v for v in (*read, *region.outputs) if is_constant(v)]
    return [v for v in dict.fromkeys(found) if type_of(v).elements.value > LITERAL_ELEMENTS]


class _Emitter:
    """Values of the program so far."""

    def __init__(
        self,
        model: ir.Model,
        sizes: Sizes,
        policy: Policy,
        values: dict[ir.Value, Tensor],
        shardings: Shardings | None = None,
    ):
        self.model, self.sizes, self.policy, self.values = model, sizes, policy, values
        self.specs = shardings.inner if shardings is not None else {}

    def value(self, value: ir.Value) -> Tensor:
        """A value that was computed, given, or is a short constant."""
        if value not in self.values:
            type_ = type_of(value)
            self.values[value] = Tensor(build.literal(constant_array(value), type_.dtype), type_, source=value)
        return self.values[value]

    def node(self, node: ir.Node) -> None:
        """Compute a node."""
        if all(is_constant(o) for o in node.outputs):
            return
        inputs = [None if v is None else self.value(v) for v in node.inputs]
        types = [type_of(o) if o.name else None for o in node.outputs]
        try:
            results = self._lower(node, inputs, types, {})
        except Unplaceable as error:
            if error.node is node:
                raise
            reason = f"{error.node.op_type} inside: {error.reason}"  # only nodes of the graph are placed
            raise Unplaceable(node, reason, error.exact) from error
        for output, result in zip(node.outputs, results, strict=False):
            if output.name and result is not None:
                spec = self.specs.get(output)
                self.values[output] = (
                    result if spec is None else replace(result, value=spmd.constrain(result.value, spec))
                )

    def _lower(
        self,
        node: ir.Node,
        inputs: Sequence[Tensor | None],
        types: Sequence[TensorType | None],
        known: Mapping[ir.Value, Any],
    ) -> Sequence[Tensor | None]:
        body = body_of(self.model, node)
        if body is not None:
            return self._body(node, body, inputs)
        entry = find_rule(node.domain, node.op_type)
        if entry is None:
            raise Unplaceable(node, "it has no form in StableHLO")
        if young := [t.dtype for t in types if t is not None and t.dtype in UNPORTABLE]:  # in a function's body
            raise Unplaceable(node, f"{young[0]} is younger than StableHLO's portable form")
        rule = Rule(self.model, node, inputs, types, self.sizes, self.policy, known)
        held = [x.type for x in inputs if x is not None]
        try:
            followed = rule.followed()
            if followed is not None:
                return followed
            for type_ in held:
                self.sizes.shape(type_.shape)
            if entry.padding is Padding.NONE:
                for x in (x for x in inputs if x is not None):
                    rule.refuse_padding(x)
            made = entry.lower(rule)
        except Unmaskable as error:
            padded = frozenset(self.sizes.operands)
            exact = error.symbols or {s for t in (*held, *types) if t is not None for e in t.shape for s in e.symbols}
            raise Unplaceable(node, str(error), padded & exact) from error
        except UnsupportedError as error:
            raise Unplaceable(node, error.cause) from error
        except (build.Misfit, bindings().MLIRError) as error:
            open_ = {s for t in (*held, *types) if t is not None for e in t.shape for s in e.symbols}
            if not open_:
                raise
            # What the node halves or groups may be odd in a bucket, where no run is.
            told = f"its sizes do not fit together in a program ({str(error).splitlines()[-1].strip()})"
            raise Unplaceable(node, told, frozenset(self.sizes.operands) & open_) from error
        return (made,) if isinstance(made, Tensor) else made

    def _body(self, node: ir.Node, body: ir.Function, inputs: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The operators of a fused node, one by one."""
        scope = infer_body(self.model, node)
        inner: dict[ir.Value, Tensor | None] = dict(zip(body.inputs, inputs, strict=False))
        for child in body:
            if child.op_type == "Constant":
                array = child.attributes["value"].as_tensor().numpy()
                type_ = TensorType.of(DType.from_numpy(array.dtype), *array.shape)
                inner[child.outputs[0]] = Tensor(build.literal(array, type_.dtype), type_, source=child.outputs[0])
                continue
            given = [None if v is None else inner.get(v) for v in child.inputs]
            types = [scope.type_of(o) for o in child.outputs]
            inner |= dict(zip(child.outputs, self._lower(child, given, types, scope.known), strict=False))
        return [inner[v] for v in body.outputs]
