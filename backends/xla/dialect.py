"""StableHLO through jaxlib's MLIR bindings (``jax`` itself is not imported): a context, types, modules as bytes."""

from __future__ import annotations

from functools import cache
from typing import Any

from tilewright.errors import UsageError
from tilewright.ir.types import DType

#: The version of StableHLO's portable form (VHLO) that is written: what libtpu and plugins of the last years read.
VERSION = "1.0.0"


def bindings() -> Any:
    """``jaxlib.mlir.ir``. Raises :class:`UsageError` where jaxlib is not installed."""
    try:
        from jaxlib.mlir import ir as mlir
    except ImportError as error:
        raise UsageError(
            "jaxlib-missing",
            where="backend xla",
            cause=f"jaxlib cannot be imported ({error})",
            fix="pip install 'tilewright[xla]'",
        ) from error
    return mlir


def stablehlo() -> Any:
    """The functions of the StableHLO dialect."""
    from jaxlib.mlir.dialects import stablehlo as dialect

    return dialect


def chlo() -> Any:
    """The functions of the CHLO dialect, which :func:`portable` legalizes."""
    from jaxlib.mlir.dialects import chlo as dialect

    return dialect


@cache
def context() -> Any:
    """The one MLIR context, with StableHLO and CHLO."""
    mlir = bindings()
    from jaxlib.mlir._mlir_libs import _jax_mlir_ext
    from jaxlib.mlir.dialects import chlo, sdy

    hlo = stablehlo()
    registry = mlir.DialectRegistry()
    _jax_mlir_ext.register_dialects(registry)
    made = mlir.Context()
    made.append_dialect_registry(registry)
    made.load_all_available_dialects()
    hlo.register_dialect(made)
    chlo.register_dialect(made)
    sdy.register_dialect(made)
    hlo.register_stablehlo_passes()
    return made


def element_type(dtype: DType) -> Any:
    """The MLIR type of an element; needs the context to be entered."""
    mlir = bindings()
    if dtype is DType.BOOL:
        return mlir.IntegerType.get_signless(1)
    if dtype.is_integer:
        make = mlir.IntegerType.get_signless if dtype.is_signed else mlir.IntegerType.get_unsigned
        return make(dtype.bits)
    return getattr(mlir, _FLOATS[dtype]).get()


#: Element types that :data:`VERSION` of the portable form does not have.
UNPORTABLE = frozenset((DType.F4E2M1, DType.F8E8M0, DType.I2, DType.U2))

_FLOATS = {
    DType.F16: "F16Type",
    DType.BF16: "BF16Type",
    DType.F32: "F32Type",
    DType.F64: "F64Type",
    DType.F8E4M3: "Float8E4M3FNType",
    DType.F8E4M3FNUZ: "Float8E4M3FNUZType",
    DType.F8E5M2: "Float8E5M2Type",
    DType.F8E5M2FNUZ: "Float8E5M2FNUZType",
    DType.F8E8M0: "Float8E8M0FNUType",
    DType.F4E2M1: "Float4E2M1FNType",
}


def tensor_type(dtype: DType, shape: tuple[int, ...]) -> Any:
    """A ranked tensor of static sizes."""
    return bindings().RankedTensorType.get(list(shape), element_type(dtype))


def portable(module: Any) -> bytes:
    """A module as portable bytes. CHLO is legalized first, in place; shardings become attributes of plain VHLO."""
    from jaxlib import _jax
    from jaxlib.mlir import passmanager

    with context():
        passes = "builtin.module(func.func(chlo-legalize-to-stablehlo),canonicalize,cse)"
        passmanager.PassManager.parse(passes).run(module.operation)
        # serialize_portable_artifact of the dialect would change the module; this one also knows Shardy, and with
        # False writes it so that a reader of VHLO that does not know it can read the bytes.
        return bytes(_jax.mlir.serialize_portable_artifact(str(module), VERSION, False))
