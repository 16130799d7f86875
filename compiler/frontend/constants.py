"""``--constant``: inputs of a model that are given while compiling and are no inputs of what is compiled.

A target of static programs needs to know shapes; an input that says one (the new shape of a Reshape, the starts of a
Slice) can be fixed so. The values stay in the artifact's record, since a reference that it is compared with still has
these inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.errors import UsageError
from tilewright.ir.given import MOST_BYTES, constant_record, listed
from tilewright.ir.types import DType
from tilewright.options import ConstantInput

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]


def constant_input(name: str, value: Any) -> ConstantInput:
    """``value`` (an array, a number, nested lists) as an option. Raises :class:`UsageError` (``constant-value``)."""
    try:
        array = np.asarray(value)
        dtype = DType.from_numpy(array.dtype)
    except (KeyError, ValueError):
        cause, fix = f"{str(value)[:60]} is no array of numbers", "give an array, or a list of numbers"
        raise _error(name, cause, fix) from None
    if array.nbytes > MOST_BYTES:
        raise _error(name, f"it has {array.nbytes} bytes, {MOST_BYTES} at most are kept", "save the model with it")
    return ConstantInput(str(dtype), array.shape, np.ascontiguousarray(array).tobytes())


def bind_constants(proto: onnx.ModelProto, constants: Mapping[str, ConstantInput]) -> dict[str, Array]:
    """Turn inputs of ``proto`` into initializers, in place; those that it lacks are passed over.

    Named dimensions of such an input are bound wherever they occur. Gives the values in the inputs' types. Raises
    :class:`UsageError` (``constant-type``, ``constant-shape``) for what an input cannot hold.
    """
    from onnx import numpy_helper

    own = {i.name for i in proto.graph.initializer}
    inputs = {v.name: v for v in proto.graph.input if v.name not in own}
    bound: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    for name, constant in constants.items():
        if name in inputs:
            bound[name] = _fitting(name, array_of(constant), inputs[name], sizes)
    for name, array in bound.items():
        proto.graph.input.remove(inputs[name])
        tensor = numpy_helper.from_array(array, name)
        proto.graph.initializer.append(tensor)
    for value in proto.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    return bound


def array_of(constant: ConstantInput) -> Array:
    """The elements."""
    return np.frombuffer(constant.data, DType.parse(constant.dtype).numpy).reshape(constant.shape)


def _fitting(name: str, array: Array, value: onnx.ValueInfoProto, sizes: dict[str, int]) -> Array:
    """The array in an input's type; its named dimensions are added to ``sizes``."""
    type_ = value.type.tensor_type
    try:
        dtype = DType.from_onnx(type_.elem_type)
    except (KeyError, ValueError):
        raise _error(name, "the input is no tensor of numbers", "leave it an input", "constant-type") from None
    array = _converted(name, array, dtype)
    if not type_.HasField("shape"):
        return array
    dims = list(type_.shape.dim)
    if array.size == 1 and array.ndim < 2 and len(dims) < 2:
        array = array.reshape((1,) * len(dims))  # a number and a list of one number are written alike
    told = ", ".join(d.dim_param or str(d.dim_value or "?") for d in dims)
    fits = len(dims) == array.ndim
    for d, size in zip(dims, array.shape, strict=False):
        wanted = (
            d.dim_value if d.HasField("dim_value") else sizes.setdefault(d.dim_param, size) if d.dim_param else size
        )
        fits = fits and wanted == size
    if not fits:
        cause = f"it has the shape {list(array.shape)}, the input is [{told}]"
        raise _error(name, cause, "give an array of the input's shape", "constant-shape")
    return array


def _converted(name: str, array: Array, dtype: DType) -> Array:
    """The array as another type that can say the same; floats may be rounded to a narrower type."""
    if array.dtype == dtype.numpy:
        return array
    with np.errstate(all="ignore"):
        converted = array.astype(dtype.numpy)
        back = converted.astype(array.dtype)
    rounded = array.dtype.kind == "f" and dtype.is_float and bool(np.isfinite(converted.astype(np.float64)).all())
    boolean = (array.dtype.kind == "b") == (dtype is DType.BOOL)
    if array.size and not (rounded or (boolean and np.array_equal(back, array))):
        cause = f"the input is {dtype}, which cannot hold {DType.from_numpy(array.dtype)} {listed(array)}"
        raise _error(name, cause, f"give an array of {dtype}", "constant-type")
    return converted


def require_known(names: Iterable[str], models: Iterable[ir.Model]) -> None:
    """Raise :class:`UsageError` (``constant-name``) for a constant that no model took."""
    models = list(models)
    taken = {name for model in models for name in constant_record(model)}
    for name in names:
        if name not in taken:
            inputs = dict.fromkeys(str(v.name) for model in models for v in model.graph.inputs)
            fix = f"the inputs are {', '.join([*inputs, *sorted(taken)])}"
            raise _error(name, "the model has no such input", fix, "constant-name")


def _error(name: str, cause: str, fix: str, code: str = "constant-value") -> UsageError:
    return UsageError(code, where=f"--constant {name}", cause=cause, fix=fix)
