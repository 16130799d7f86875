"""Tensors of torch as operands, and ours given to torch, on the host: no GPU is needed to speak DLPack."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
from tilewright import runtime
from tilewright.runtime import dlpack
from tilewright.runtime.tensors import as_input

from .sessions import vector

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "i64", "bool", "u8"])
def test_tensors_of_torch_on_the_host(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    names = {"f32": "float32", "f16": "float16", "i64": "int64", "u8": "uint8", "bf16": "bfloat16", "bool": "bool"}
    tensor = torch.arange(6).reshape(2, 3).to(getattr(torch, names[dtype]))
    info = runtime.TensorInfo("x", dtype, (2, 3))
    found = as_input(info, tensor)
    assert found.ctypes.data == tensor.data_ptr() and found.shape == (2, 3)
    np.testing.assert_array_equal(found.view(np.uint8), tensor.view(torch.uint8).numpy())
    assert as_input(info, tensor[:0]).shape == (0, 3)
    if dtype != "bf16":  # which NumPy lacks, so that nothing makes the copy
        np.testing.assert_array_equal(as_input(info, tensor.t()), found.T)
    with pytest.raises(runtime.InputError, match="the model has x: f64"):
        as_input(runtime.TensorInfo("x", "f64", (2, 3)), tensor)


def test_torch_takes_what_we_give() -> None:
    """Capsules of both kinds, on the host: there is no GPU that torch could see."""
    torch = pytest.importorskip("torch")
    array = vector(6)
    for versioned in (False, True):
        owner = _Owner()
        capsule = dlpack.give(array.ctypes.data, (2, 3), "f32", (1, 0), owner, versioned)
        tensor = torch.utils.dlpack.from_dlpack(capsule)
        assert (tensor.shape, tensor.data_ptr()) == ((2, 3), array.ctypes.data)
        gone = weakref.ref(owner)
        del owner, capsule
        assert gone() is not None
        del tensor
        assert gone() is None
    unused = _Owner()
    gone = weakref.ref(unused)
    dlpack.give(array.ctypes.data, (2, 3), "f32", (1, 0), unused, True)
    del unused
    assert gone() is None  # a capsule that nobody took


class _Owner:
    pass
