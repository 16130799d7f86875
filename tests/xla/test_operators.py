"""Every case of the lowering rules as one program of XLA, at sizes inside a padded bucket."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("jaxlib")

from tests.end_to_end.test_operators import all_cases, check_cases
from tests.ops.test_lowering import SIZES
from tests.xla.run import compiled


def test_all_operators_with_padding() -> None:
    model, feeds, expected = all_cases()
    shapes: dict[str, tuple[Any, ...]] = {}
    for value in model.graph.input:
        dims = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        if any(isinstance(d, str) for d in dims):
            shapes[value.name] = tuple(f"{d}=1..8" if isinstance(d, str) else d for d in dims)
    program = compiled(model, shapes, dict.fromkeys(SIZES, (8,)))
    got = program.run(feeds)
    check_cases({name: np.asarray(got[name]) for name in expected}, expected)
