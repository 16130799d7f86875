"""Why a kernel has no schedule at all, in words for its user: what of it the tiles of this backend do not take."""

from __future__ import annotations

from tilewright.backends.ascend.placing.dequantized import Dequantized
from tilewright.backends.ascend.placing.operand import factor_of
from tilewright.backends.ascend.schedules.products import Roles, roles_of
from tilewright.backends.ascend.schedules.weights import DEPTHS
from tilewright.kernel.analysis import as_product
from tilewright.kernel.tile import Define, Kernel, Scan
from tilewright.target import Target


def why_none(kernel: Kernel, target: Target) -> str:
    """What to tell where no candidate came: the product that has none, its sizes and its types."""
    body = [d for s in kernel.body for d in (s.body if isinstance(s, Scan) else (s,)) if isinstance(d, Define)]
    for define in body:
        product = as_product(define)
        if product is None or not product.m or not product.n:
            continue
        roles = roles_of(kernel, define, product)
        if roles is None:
            return f"the product {define.tile} is stored where an index points that only a run tells"
        weights = factor_of(roles.right).weights
        if weights is not None:
            return _of_weights(kernel, roles, weights, target)
        left, right = factor_of(roles.left).dtype, factor_of(roles.right).dtype
        where = f"fits the memories of {target.spelling}"
        return f"no tile of the product {_sizes(kernel, roles)} of {left} and {right} {where}"
    axes = ", ".join(f"{a.name}: {a.extent}" for a in kernel.axes)
    return f"no tile over {axes or 'no axes'} was found for {target.spelling}"


def _of_weights(kernel: Kernel, roles: Roles, weights: Dequantized, target: Target) -> str:
    """Narrow weights: integers of 4 bits that are taken out of words come in slices of whole words."""
    tensor, dtype = weights.integers.tensor, weights.integers.dtype
    depth = " * ".join(str(kernel.extent(a)) for a in roles.reduced)
    if dtype.bits == 4 and "cast_i4" not in target.features:
        return (
            f"weights {tensor} of {dtype} are taken out of words here in slices of {', '.join(map(str, DEPTHS[::-1]))} "
            f"of the depth, of which {depth} is no multiple"
        )
    return f"no tile of the product {_sizes(kernel, roles)} with weights {tensor} of {dtype} fits L0C and L1"


def _sizes(kernel: Kernel, roles: Roles) -> str:
    depth = " * ".join(str(kernel.extent(a)) for a in roles.reduced)
    return f"{roles.define.tile} of {kernel.extent(roles.rows)} x {kernel.extent(roles.columns)} over {depth}"
