"""Inputs of a model that were given while compiling, as they are recorded: in a graph's metadata and in an artifact."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.ir.types import DType

Array = NDArray[Any]

#: Bytes of a constant input at most: it is in the record of the artifact, and weights are weights.
MOST_BYTES = 1 << 16

_CONSTANTS = "tilewright.constants"


def set_constant_inputs(model: ir.Model, values: Mapping[str, Array], positions: Mapping[str, int]) -> None:
    """Record which inputs a graph was given, and where among its inputs each was."""
    if values:
        told = {n: _told(a) | {"position": positions[n]} for n, a in sorted(values.items())}
        model.metadata_props[_CONSTANTS] = json.dumps(told)


def constant_record(model: ir.Model) -> dict[str, Any]:
    """The same for the artifact's record: element type, shape, base64 of the bytes and position, by name."""
    return dict(json.loads(model.metadata_props.get(_CONSTANTS, "{}")))


def constant_texts(model: ir.Model) -> dict[str, str]:
    """The same for a reader: ``{"shape": "[3, 224]"}``."""
    return {name: listed(array) for name, array in recorded(constant_record(model)).items()}


def recorded(record: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays of a record. Raises ``ValueError`` for anything but what :func:`constant_record` gives."""
    found = {}
    for name, told in record.items():
        try:
            dtype, shape = DType.parse(told["dtype"]), tuple(told["shape"])
            data = base64.b64decode(told["data"], validate=True)
            if any(not isinstance(n, int) or n < 0 for n in shape) or len(data) > MOST_BYTES:
                raise ValueError(f"shape {shape}")
            if math.prod(shape) * dtype.numpy.itemsize != len(data):
                raise ValueError(f"{len(data)} bytes for {shape}")
            found[str(name)] = np.frombuffer(data, dtype.numpy).reshape(shape)
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
            raise ValueError(f"constant input {name!r}: {error}") from None
    return found


def _told(array: Array) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"data": data, "dtype": str(DType.from_numpy(array.dtype)), "shape": list(array.shape)}


def listed(array: Array) -> str:
    """Elements for a reader; of many the type and the shape."""
    return str(array.tolist()) if array.size <= 16 else f"{DType.from_numpy(array.dtype)}{list(array.shape)}"
