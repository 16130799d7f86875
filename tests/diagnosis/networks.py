"""Small networks from ONNX text, in float and quantized, for tests that look for what goes wrong in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import parser

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)


def model(text: str, **weights: Array) -> onnx.ModelProto:
    """A model from ONNX text, with weights."""
    made = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')
    made.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items())
    onnx.checker.check_model(made, full_check=True)
    return made


W1, W2, W3 = (RNG.standard_normal((16, 16)).astype(np.float32) / 4 for _ in range(3))
FLOAT = model(
    """net (float[N,16] x) => (float[N,16] y) {
      a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) d = Add(c, b) y = MatMul(d, w3)
    }""",
    w1=W1, w2=W2, w3=W3,
)  # fmt: skip


def weights(*arrays: Array) -> dict[str, Array]:
    """Each matrix in i8 with one scale a column."""
    found = {}
    for i, w in enumerate(arrays, start=1):
        scale = np.abs(w).max(0) / np.float32(127)
        found |= {f"q{i}": np.rint(w / scale).astype(np.int8), f"s{i}": scale}
    return found


def quantized(c_range: float = 8.0, renamed: str = "") -> onnx.ModelProto:
    """``FLOAT`` in QDQ form. The range of ``c`` is given; other ranges are good. Names get ``renamed`` after them."""
    n = renamed
    scales = {"sa": 4.0 / 255, "sc": 2 * c_range / 255, "sd": 16.0 / 255, "sx": 8.0 / 255}
    parameters = {k: np.float32(v) for k, v in scales.items()}
    zeros = {"zero": np.uint8(0), "mid": np.uint8(128)}
    return model(
        f"""net (float[N,16] x) => (float[N,16] y) {{
          xi = QuantizeLinear(x, sx, mid) xf = DequantizeLinear(xi, sx, mid)
          f1 = DequantizeLinear<axis=1>(q1, s1) f2 = DequantizeLinear<axis=1>(q2, s2)
          f3 = DequantizeLinear<axis=1>(q3, s3)
          b{n} = MatMul(xf, f1)
          bi = QuantizeLinear(b{n}, sa, zero) bf = DequantizeLinear(bi, sa, zero) bg = DequantizeLinear(bi, sa, zero)
          c{n} = MatMul(bf, f2)
          ci = QuantizeLinear(c{n}, sc, mid) cf = DequantizeLinear(ci, sc, mid)
          d{n} = Add(cf, bg)
          di = QuantizeLinear(d{n}, sd, mid) df = DequantizeLinear(di, sd, mid)
          y = MatMul(df, f3)
        }}""",
        **weights(W1, W2, W3), **parameters, **zeros,
    )  # fmt: skip
