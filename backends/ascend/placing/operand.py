"""What a contraction multiplies: two operands, each read from memory or made by a vector core, and their axes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tilewright.backends.ascend.placing.dequantized import Dequantized, dequantized
from tilewright.backends.ascend.placing.runs import run_length, slope
from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType
from tilewright.kernel.analysis import Product, as_product, offset_of, used_symbols
from tilewright.kernel.expr import Cast, Load, Ref, Value
from tilewright.kernel.schedule import Compute
from tilewright.kernel.tile import Kernel, Scan, Store


@dataclass(frozen=True, slots=True)
class Factor:
    """One operand of a product: a :class:`Load`, or a value over tiles that a vector core computes. ``dtype`` is what
    the cube unit multiplies; ``weights`` says how it is made of integers in memory, where it is."""

    value: Value
    dtype: DType
    axes: frozenset[str]
    weights: Dequantized | None = None


def factor_of(value: Value) -> Factor:
    """The operand below the widening cast to the accumulator's dtype."""
    inner = value.x if isinstance(value, Cast) and _widens(value) else value
    return Factor(inner, inner.dtype, used_symbols(inner), dequantized(value))


def factors_of(a: Value, b: Value) -> tuple[Factor, Factor]:
    """Both operands of a product: integers that are weights take the type of what they are multiplied with, which
    holds them exactly."""
    first, second = factor_of(a), factor_of(b)
    return _alike(first, second.dtype), _alike(second, first.dtype)


def _alike(factor: Factor, other: DType) -> Factor:
    plain = factor.weights is not None and factor.weights.scale is None
    return replace(factor, dtype=other) if plain and other in (DType.F16, DType.BF16) else factor


def sides_of(kernel: Kernel, product: Product) -> Product:
    """``product`` with its operands in the order of the cube unit: the columns are what results are neighbours in
    memory along, so that sums leave by rows."""
    stores = [s for s in kernel.body if isinstance(s, Store)]
    if any(isinstance(s, Scan) for s in kernel.body) or any(not isinstance(i, Expr) for i in stores[0].index):
        return product
    flat = offset_of(kernel.param(stores[0].tensor), tuple(i for i in stores[0].index if isinstance(i, Expr)))
    near = {a for a in (*product.m, *product.n) if run_length((flat,), a) == 0 and slope(flat, a) == 1}
    if not near & set(product.m) or near & set(product.n):
        return product
    return replace(product, a=product.b, b=product.a, m=product.n, n=product.m)


def _widens(value: Cast) -> bool:
    source = value.x.dtype
    exact = (DType.F16, DType.BF16) if value.dtype == DType.F32 else (DType.I8,) if value.dtype == DType.I32 else ()
    return source in exact


def is_contraction(node: Compute) -> bool:
    """Whether the cube unit computes ``node``: a sum of products with an axis of its own on each side."""
    product = as_product(node)
    if product is None or not product.m or not product.n:
        return False
    factors = [factor_of(x) for x in (product.a, product.b)]
    return all(isinstance(f.value, Load | Ref | Cast) or f.weights is not None for f in factors)


def flat_index(kernel: Kernel, load_tensor: str, index: tuple[Expr, ...]) -> Expr:
    """Offset in elements of a row-major tensor at ``index``."""
    return offset_of(kernel.param(load_tensor), index)
