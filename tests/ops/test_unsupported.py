"""What cannot be compiled is named, all of it."""

from __future__ import annotations

import pytest
from onnx import parser
from tilewright import driver
from tilewright.errors import UnsupportedError
from tilewright.options import Options


def test_every_unsupported_node_is_named() -> None:
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[N,4] x) => (float[N,4] y, int32[N,1] z) '
        "{ a = RandomNormalLike(x) y = Add(a, x) b = Relu(x) z = Multinomial(b) }"
    )
    with pytest.raises(UnsupportedError) as found:
        driver.compile(model, options=Options(targets=("cpu:native",)))
    assert [p.split(":")[0] for p in found.value.problems] == ["Multinomial", "RandomNormalLike"]
