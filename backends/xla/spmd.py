"""Shardings in the program: what XLA's partitioner (Shardy) reads. The axes of the mesh are called ``x0``, ``x1``, …"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tilewright.backends.xla.build import Value
from tilewright.backends.xla.dialect import bindings
from tilewright.plan.programs import Sharding

_MESH = "mesh"


def annotate(module: Any, function: Any, mesh: tuple[int, ...], shardings: Sequence[Sharding]) -> None:
    """Declare the mesh in ``module`` and say how the arguments, then the results of ``function`` lie on it."""
    mlir = bindings()
    from jaxlib.mlir.dialects import sdy

    axes = [sdy.MeshAxisAttr.get(_axis(i), size) for i, size in enumerate(mesh)]
    with mlir.InsertionPoint.at_block_begin(module.body):
        sdy.MeshOp(_MESH, sdy.MeshAttr.get(axes))
    number = mlir.IntegerType.get_signless(32)
    module.operation.attributes["mhlo.num_partitions"] = mlir.IntegerAttr.get(number, prod(mesh))
    module.operation.attributes["mhlo.num_replicas"] = mlir.IntegerAttr.get(number, 1)
    told = [mlir.DictAttr.get({"sdy.sharding": _attribute(s.dims)}) for s in shardings]
    count = len(function.type.inputs)
    function.arg_attrs = mlir.ArrayAttr.get(told[:count])
    function.operation.attributes["res_attrs"] = mlir.ArrayAttr.get(told[count:])


def constrain(x: Value, dims: Sequence[tuple[int, ...] | None]) -> Value:
    """``x``, lying on the mesh as ``dims`` says; the partitioner decides about a dimension that is ``None``."""
    from jaxlib.mlir.dialects import sdy

    return sdy.ShardingConstraintOp(x, _attribute(dims)).result


def _attribute(dims: Sequence[tuple[int, ...] | None]) -> Any:
    from jaxlib.mlir.dialects import sdy

    found = [
        sdy.DimensionShardingAttr.get([sdy.AxisRefAttr.get(_axis(i)) for i in axes or ()], is_closed=axes is not None)
        for axes in dims
    ]
    return sdy.TensorShardingAttr.get(_MESH, found)


def _axis(index: int) -> str:
    return f"x{index}"
