"""Convolutions, pools and resampled images in every form: the operator, its attributes, and its inputs at two sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Union

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]

#: Sizes of the named dimensions in each run.
RUNS = ({"N": 2, "H": 7, "W": 9, "P": 4}, {"N": 1, "H": 11, "W": 6, "P": 7}, {"N": 0, "H": 8, "W": 6, "P": 5})


@dataclass(frozen=True)
class Image:
    """One operator.

    Attributes:
        inputs: shapes of tensors of random numbers, arrays (constants; run-time inputs when in ``late``), ``None``.
        opset: of the model.
        outputs: how many.
        dtype: of the random numbers.
        late: arrays that are inputs of the graph, not constants.
        reference: whether the reference evaluator says what is right, where ONNX Runtime cannot or differs.
        scale: random numbers are multiplied by it, an entry an input.
    """

    op: str
    inputs: Sequence[Union[tuple[Union[int, str], ...], Array, None]]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 21
    outputs: int = 1
    dtype: str = "float32"
    late: tuple[int, ...] = ()
    reference: bool = False
    scale: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.op}-{self.opset}-{self.dtype}-{self.attributes}"


def _f(*values: float) -> Array:
    return np.array(values, np.float32)


def _weights(*shape: int) -> Array:
    return np.random.default_rng(2).standard_normal(shape).astype(np.float32)


X = ("N", 4, "H", "W")
_SAME = ("SAME_UPPER", "SAME_LOWER")

CONVOLUTIONS = [
    Image("Conv", [X, (6, 2, 3, 2), (6,)], {"group": 2, "pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]}),
    Image("Conv", [X, (4, 1, 3, 3)], {"group": 4, "auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    Image("Conv", [("N", 3, "W"), (5, 3, 4)], {"auto_pad": "VALID", "strides": [2]}),
    Image("Conv", [(2, 2, 4, "H", 5), (3, 2, 2, 3, 2)], {"auto_pad": "SAME_UPPER", "strides": [1, 2, 1]}),
    Image("Conv", [X, (6, 4, 3, 3)], {"pads": [1, 1, 1, 1]}, dtype="float16", reference=True),
    Image("Conv", [X, (6, 4, 3, 3)], {"pads": [1, 1, 1, 1]}, dtype="float64", reference=True),
    Image("ConvTranspose", [X, (4, 3, 3, 4), (3,)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Image("ConvTranspose", [X, (4, 3, 4, 4)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Image("ConvTranspose", [X, (4, 3, 2, 2)], {"strides": [2, 2]}),
    Image("ConvTranspose", [X, (4, 3, 3, 3)], {"strides": [2, 3], "output_padding": [1, 2], "pads": [1, 0, 2, 1]}),
    Image("ConvTranspose", [X, (4, 3, 3, 3)], {"strides": [2, 3], "dilations": [2, 2]}),
    *(Image("ConvTranspose", [X, (4, 3, 3, 4)], {"strides": [3, 2], "group": 2, "auto_pad": a}) for a in _SAME),
    Image("ConvTranspose", [("N", 4, 6, 5), (4, 3, 3, 4)], {"strides": [3, 2], "output_shape": [20, 13]}),
    Image("ConvTranspose", [("N", 4, "W"), (4, 1, 5)], {"group": 4, "strides": [2]}),
    Image("ConvTranspose", [("N", 2, 3, "H", 4), (2, 3, 2, 3, 2)], {"strides": [2, 1, 2]}),
    Image("ConvTranspose", [X, (4, 3, 3, 3)], {"strides": [2, 2]}, dtype="float64", reference=True),
    *(
        Image("ConvTranspose", [shape, _weights(4, 3, *kernel), _weights(3)], attributes)
        for shape, kernel, attributes in (
            (X, (3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
            (X, (4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
            (X, (2, 2), {"strides": [2, 2]}),
            (X, (3, 4), {"strides": [2, 3], "pads": [2, 0, 1, 3]}),
            (X, (3, 2), {"dilations": [2, 1], "pads": [1, 0, 2, 1]}),
            (X, (3, 3), {"strides": [2, 3], "auto_pad": "SAME_UPPER"}),
            (("N", 4, 6, 5), (3, 4), {"strides": [3, 2], "output_shape": [20, 13]}),
            (("N", 4, "W"), (5,), {"strides": [2], "pads": [1, 2]}),
            (("N", 4, 3, "H", 4), (2, 3, 2), {"strides": [2, 1, 2]}),
        )
    ),
    Image("ConvTranspose", [X, _weights(4, 3, 3, 4), _weights(6)], {"group": 2, "strides": [2, 2]}),
    Image("ConvTranspose", [X, _weights(4, 1, 4, 4)], {"group": 4, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Image("DeformConv", [("N", 4, 7, 8), (6, 2, 3, 3), ("N", 36, 3, 3), (6,), ("N", 18, 3, 3)],
          {"group": 2, "offset_group": 2, "strides": [2, 3], "pads": [1, 1, 0, 2]}, opset=19, scale=(1, 1, 2)),
    *(
        Image("Col2Im", [("N", 18, 20), np.array([9, 12]), np.array([2, 3])],
              {"strides": [2, 2], "dilations": [2, 1]}, opset=18, late=late)
        for late in ((), (1, 2))
    ),
    Image("Col2Im", [("N", 10, 15), np.array([5, 5]), np.array([1, 5])], {"pads": [0, 1, 0, 1], "strides": [1, 1]},
          opset=18, late=(1, 2)),
]  # fmt: skip

POOLS = [
    *(
        Image("MaxPool", [X], {"kernel_shape": [3, 2], "strides": [2, 1], "storage_order": o, "pads": [1, 0, 1, 1]},
              outputs=2)
        for o in (0, 1)
    ),
    Image("MaxPool", [("N", 2, 4, "H", 5)], {"kernel_shape": [2, 3, 2], "storage_order": 1}, outputs=2),
    Image("MaxPool", [("N", 3, "W")], {"kernel_shape": [3], "dilations": [2], "ceil_mode": 1}, outputs=2),
    *(
        Image("MaxPool", [X], {"kernel_shape": [2, 2], "auto_pad": a}, dtype=t)
        for a in _SAME for t in ("int8", "uint8")
    ),
    Image("MaxPool", [X], {"kernel_shape": [2, 2], "strides": [2, 2]}, dtype="float16", reference=True),
    *(Image("LpPool", [X], {"kernel_shape": [2, 3], "p": p, "strides": [2, 1]}) for p in (1, 2, 3)),
    Image("LpPool", [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "dilations": [2, 1], "ceil_mode": 1}),
    *(Image("GlobalLpPool", [X], {"p": p}) for p in (1, 2, 3)),
    Image("AveragePool", [("N", 2, 4, "H", 5)], {"kernel_shape": [2, 3, 2], "pads": [1, 1, 0, 0, 1, 1]}),
    Image("AveragePool", [("N", 2, "W")], {"kernel_shape": [3], "auto_pad": "SAME_UPPER", "strides": [2]}),
    Image("MaxUnpool", [(1, 1, 2, 2), np.array([[[[5, 7], [13, 15]]]])], {"kernel_shape": [2, 2], "strides": [2, 2]},
          late=(1,)),
    Image("MaxUnpool", [(1, 1, 2, 2), np.array([[[[5, 7], [13, 15]]]]), np.array([1, 1, 5, 6])],
          {"kernel_shape": [2, 2], "strides": [2, 2]}, late=(1, 2), reference=True),
]  # fmt: skip

_COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
_ROI = _f(0, 0, 0.2, 0.4, 1, 1, 0.6, 1.2)


def _resize(scales: Array | None, sizes: Array | None = None, roi: Array | None = None, **rest: Any) -> Image:
    """By default an image of which two dimensions change, and what tells how much known while compiling."""
    more = {k: rest.pop(k) for k in ("late", "reference", "dtype", "opset") if k in rest}
    shape = rest.pop("shape", ("N", 2, "H", "W") if sizes is None or len(sizes) < 4 else (1, 2, "H", "W"))
    return Image("Resize", [shape, roi, scales, sizes], rest, **{"opset": 19, **more})


RESIZES = [
    *(
        _resize(_f(1, 1, 2, 3), mode=m, coordinate_transformation_mode=c)
        for m in ("nearest", "linear", "cubic")
        for c in _COORDINATES
    ),
    *(
        _resize(_f(1, 1, 0.6, 1.7), mode=m, coordinate_transformation_mode=c)
        for m in ("nearest", "linear", "cubic")
        for c in _COORDINATES
        if c not in ("align_corners", "half_pixel_symmetric")  # ONNX Runtime takes sizes as rounded
    ),
    *(
        _resize(_f(1, 1, 0.6, 1.7), mode="linear", coordinate_transformation_mode=c, reference=True)
        for c in ("align_corners", "half_pixel_symmetric")
    ),
    *(
        _resize(_f(1, 1, 0.5, 2.5), nearest_mode=n, coordinate_transformation_mode="half_pixel")
        for n in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    ),
    *(
        _resize(None, np.array([1, 2, 5, 4]), _ROI, mode=m, coordinate_transformation_mode="tf_crop_and_resize",
                extrapolation_value=10.0, late=late)
        for m, late in (("linear", ()), ("nearest", (1,)), ("linear", (1, 3)))
    ),
    _resize(_f(1, 1, 0.7, 1.3), mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5),
    *(
        _resize(_f(0.6, 0.3), mode=m, antialias=1, exclude_outside=e, axes=[2, 3], reference=True, late=late)
        for m in ("linear", "cubic") for e in (0, 1) for late in ((), (2,))
    ),
    *(_resize(_f(1, 1, 1.5, 0.7), mode=m, late=(2,), shape=X) for m in ("nearest", "linear", "cubic")),
    *(_resize(None, np.array([8, 3]), mode=m, axes=[3, 2], late=(3,)) for m in ("nearest", "linear")),
    _resize(None, np.array([1, 2, 8, 3]), mode="cubic", late=(3,)),
    *(
        _resize(None, np.array([7, 8]), mode=m, axes=[2, 3], keep_aspect_ratio_policy=p, late=late, reference=True)
        for m in ("nearest", "linear") for p in ("not_larger", "not_smaller") for late in ((), (3,))
    ),
    _resize(None, np.array([2, 3, 7, 3, 8]), mode="linear", shape=(2, 3, 4, "H", 6), reference=True),
    _resize(_f(1, 1, 1.5, 2.5), mode="cubic", dtype="uint8", reference=True, shape=(1, 1, 5, 6)),
    _resize(_f(1, 1, 1.5, 2.5), mode="linear", dtype="float64", reference=True),
    Image("Resize", [X, _f(1, 1, 0.6, 2.5)], {"mode": "nearest"}, opset=10),
    Image("Resize", [X, _f(1, 1, 0.6, 2.5)], {"mode": "nearest"}, opset=10, late=(1,)),
    Image("Resize", [X, _f(1, 1, 2, 2.5)], {"mode": "linear"}, opset=10),
    Image("Resize", [X, _f(), _f(1, 1, 2, 3)], {"coordinate_transformation_mode": "tf_half_pixel_for_nn"}, opset=11),
    Image("Upsample", [X, _f(1, 1, 2, 2.5)], {"mode": "linear"}, opset=9),
    Image("Upsample", [X], {"scales": [1.0, 1.0, 2.0, 3.0]}, opset=7),
]  # fmt: skip

_REGIONS = (np.abs(np.random.default_rng(1).standard_normal((5, 4))) * 4).astype(np.float32)
_REGIONS[:, 2:] += _REGIONS[:, :2]
_OF = np.array([0, 1, 1, 0, 1])
_BATCHED = np.concatenate([_OF[:, None].astype(np.float32), _REGIONS], 1)

SAMPLED = [
    *(
        Image("GridSample", [("N", 3, "H", "W"), ("N", "P", 5, 2)],
              {"mode": m, "padding_mode": p, "align_corners": a}, opset=20, scale=(1, 1.3))
        for m in ("nearest", "linear", "cubic") for p in ("zeros", "border", "reflection") for a in (0, 1)
    ),
    *(
        Image("GridSample", [("N", 3, 4, "H", "W"), ("N", "P", 2, 5, 3)], {"mode": m, "padding_mode": p}, opset=20)
        for m in ("nearest", "linear") for p in ("zeros", "border", "reflection")
    ),
    Image("GridSample", [("N", 3, "H", "W"), ("N", "P", 5, 2)], {"mode": "bilinear"}, opset=16),
    *(
        Image("AffineGrid", [(2, 2, 3), np.array([2, 3, 5, 6])], {"align_corners": a}, opset=20, late=(1,))
        for a in (0, 1)
    ),
    Image("AffineGrid", [(2, 3, 4), np.array([2, 3, 4, 5, 6])], {}, opset=20),
    *(
        Image("RoiAlign", [(2, 3, "H", "W"), _REGIONS, _OF], {
            "mode": m, "coordinate_transformation_mode": c, "output_height": 3, "output_width": 2,
            "sampling_ratio": s, "spatial_scale": 0.7}, opset=16, late=(1, 2))
        for m in ("avg", "max") for c in ("half_pixel", "output_half_pixel") for s in (0, 2)
    ),
    Image("RoiAlign", [(2, 3, "H", "W"), _REGIONS, _OF], {"output_height": 2, "output_width": 2}, opset=10,
          late=(1, 2)),
    Image("MaxRoiPool", [(2, 3, "H", "W"), _BATCHED], {"pooled_shape": [2, 3], "spatial_scale": 0.7}, late=(1,)),
]  # fmt: skip

GROUPS = {"convolutions": CONVOLUTIONS, "pools": POOLS, "resizes": RESIZES, "sampled": SAMPLED}


def model_of(case: Image, prefix: str = "") -> onnx.ModelProto:
    """A model of the one operator; names of everything begin with ``prefix``, named dimensions too."""
    names, infos, constants = [], [], []
    for n, given in enumerate(case.inputs):
        names.append("" if given is None else f"{prefix}x{n}")
        if isinstance(given, np.ndarray) and n not in case.late:
            constants.append(numpy_helper.from_array(given, names[-1]))
        elif isinstance(given, np.ndarray):
            element = helper.np_dtype_to_tensor_dtype(given.dtype)
            infos.append(helper.make_tensor_value_info(names[-1], element, given.shape))
        elif given is not None:
            shape = [f"{prefix}{s}" if isinstance(s, str) else s for s in given]
            element = helper.np_dtype_to_tensor_dtype(np.dtype(case.dtype))
            infos.append(helper.make_tensor_value_info(names[-1], element, shape))
    outputs = [f"{prefix}y{n}" for n in range(case.outputs)]
    node = helper.make_node(case.op, names, outputs, name=f"{prefix}n", **case.attributes)
    first = helper.np_dtype_to_tensor_dtype(np.dtype(case.dtype))
    types = [first, onnx.TensorProto.INT64]
    results = [helper.make_tensor_value_info(o, t, None) for o, t in zip(outputs, types, strict=False)]
    graph = helper.make_graph([node], "g", infos, results, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=9)


def feeds_of(case: Image, sizes: dict[str, int], prefix: str = "") -> dict[str, Array]:
    """Numbers for the inputs of a case."""
    rng = np.random.default_rng(0)
    feeds = {}
    for n, given in enumerate(case.inputs):
        if isinstance(given, np.ndarray):
            if n in case.late:
                feeds[f"{prefix}x{n}"] = given
        elif given is not None:
            values = rng.standard_normal([sizes.get(s, 0) if isinstance(s, str) else s for s in given])
            values = values * (case.scale[n] if n < len(case.scale) else 1)
            whole = np.dtype(case.dtype).kind in "iu"
            feeds[f"{prefix}x{n}"] = (np.abs(values * 50) if whole else values).astype(case.dtype)
    return feeds
