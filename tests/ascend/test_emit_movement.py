"""Kernels that move data, as Ascend C on the header model: the bits of the simulator, and its faults."""

from __future__ import annotations

from functools import lru_cache

import pytest
from tilewright.backends.ascend.placed.form import Placed
from tilewright.backends.ascend.simulator.machine import check
from tilewright.kernel.tile import Kernel

from tests.ascend.modelled import Modelled, build, same_bits
from tests.ascend.test_vector_movement import EMBEDDING, MOVES, TRANSPOSE, rows_of
from tests.ascend.vector import made, values

TEXTS = {
    **{f"turned_{t}": (TRANSPOSE.format(dtype=t), [{"M": 1, "N": 1}, {"M": 50, "N": 37}]) for t in ("f16", "f32")},
    **{f"move{i}": case for i, (name, case) in enumerate(sorted(MOVES.items()))},
}


@lru_cache(maxsize=1)
def programs() -> dict[str, tuple[Kernel, Placed]]:
    return {name: made(text) for name, (text, _) in TEXTS.items()}


@lru_cache(maxsize=1)
def embedding() -> Placed:
    return made(EMBEDDING)[1]


@lru_cache(maxsize=1)
def library() -> Modelled:
    return build({name: placed for name, (_, placed) in programs().items()}, level="-O0")


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_moves(name: str) -> None:
    kernel, placed = programs()[name]
    for dims in TEXTS[name][1]:
        inputs = values(kernel, dims)
        got, _ = library().run(placed, inputs, dims, symbol=name)
        want = check(placed, inputs, dims).outputs
        assert all(same_bits(v, want[o]) for o, v in got.items()), (name, dims)


@pytest.mark.parametrize("indices", [[0, 49, -1, -50, 7], [1, 50, 2], [3, -51]])
def test_rows_through_an_index(indices: list[int]) -> None:
    placed = embedding()
    alone = build({"embedding": placed}, level="-O0")
    inputs, dims = rows_of(indices, 20), {"M": len(indices), "N": 20}
    got, fault = alone.run(placed, inputs, dims, symbol="embedding")
    want = check(placed, inputs, dims)
    assert fault == want.fault == any(not -50 <= i < 50 for i in indices)
    assert same_bits(got["Y"], want.outputs["Y"])
