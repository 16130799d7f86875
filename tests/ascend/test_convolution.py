"""Convolutions by image to column: placed, proved, simulated beside NumPy, and the same bits from their Ascend C."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pytest
from tilewright.backends.ascend.placed.form import Instruction, Placed, statements
from tilewright.backends.ascend.placing.windows import windows_of
from tilewright.backends.ascend.schedules.convolutions import convolution_schedules
from tilewright.backends.ascend.simulator.machine import check
from tilewright.backends.ascend.synchronization.verify import unproved
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.tile import Define

from tests.ascend import modelled
from tests.ascend.convolutions import Convolution
from tests.ascend.trials import Trial, packed, targets


@dataclass(frozen=True)
class Case:
    """A convolution and the tile it is computed in; 0 is what the schedule takes."""

    convolution: Convolution
    pixels: int = 0
    columns: int = 0
    batch: int = 2
    target: str = "ascend:910b3"
    slices: int = 0
    depth: int = 0


FUSED = "ascend:310p3"
CASES = {
    "3x3": Case(Convolution()),
    "tiles of rows": Case(Convolution((14, 12), filters=48), 24, 16, 3),
    "tiles inside rows": Case(Convolution((5, 24)), 8),
    "tiles across rows": Case(Convolution((9, 9)), 27, 16),
    "tiles that begin inside rows": Case(Convolution((6, 10), channels=32), 15),
    "stride": Case(Convolution((15, 13), stride=(2, 2), channels=32), 14),
    "stride and remainder": Case(Convolution((12, 12), stride=(2, 3), pads=(0, 0, 0, 0)), 5),
    "dilation": Case(Convolution((12, 12), dilation=(2, 3), pads=(2, 3, 2, 3)), 36),
    "asymmetric pads": Case(Convolution((9, 8), kernel=(2, 3), pads=(1, 0, 0, 2)), 24),
    "large pads": Case(Convolution((6, 6), kernel=(5, 5), pads=(4, 4, 4, 4)), 10),
    "one row of the kernel": Case(Convolution((6, 16), kernel=(1, 5), pads=(0, 2, 0, 2)), 16),
    "one column of the kernel": Case(Convolution((16, 6), kernel=(5, 1), pads=(2, 0, 2, 0)), 24),
    "few channels": Case(Convolution((12, 12), channels=8), 48),
    "four channels": Case(Convolution((12, 12), channels=4, kernel=(7, 7), stride=(2, 2), pads=(3, 3, 3, 3)), 12),
    "channels first": Case(
        Convolution((12, 16), 3, 16, (7, 7), (2, 2), pads=(3, 3, 3, 3), planar=True, merged=False), 8
    ),
    "channels first, all of it": Case(Convolution((8, 8), channels=3, planar=True)),
    "channels first, bf16": Case(Convolution((8, 16), channels=4, planar=True, dtype="bf16", stride=(2, 2)), 16),
    "channels first, int8": Case(
        Convolution((12, 16), 3, 32, stride=(2, 2), planar=True, merged=False, dtype="i8", outside=3), 12
    ),
    "an axis of images": Case(Convolution((10, 8), merged=False), 16, 16),
    "residual": Case(Convolution((10, 8), residual=True), 40),
    "no padding": Case(Convolution((10, 10), pads=(0, 0, 0, 0)), 16),
    "pieces of the weights": Case(Convolution((6, 8), channels=32), 16, 16, depth=112),
    "slices of the channels": Case(Convolution((6, 8), channels=64), 16, 16, slices=32, depth=80),
    "int8": Case(Convolution((10, 12), channels=32, dtype="i8", outside=-128), 30),
    "int8 of 64 channels": Case(Convolution((8, 8), channels=64, filters=48, dtype="i8", outside=5), 16, 16),
    "int8 of few channels": Case(
        Convolution((8, 8), channels=16, filters=24, dtype="i8", outside=-7, stride=(2, 2)), 4
    ),
    "fused core": Case(Convolution((14, 12), channels=32, residual=True), 24, target=FUSED),
    "fused core, channels first": Case(
        Convolution((12, 16), 3, 16, (7, 7), (2, 2), pads=(3, 3, 3, 3), planar=True, merged=False), 16, target=FUSED
    ),
    "bf16": Case(Convolution((10, 10), dtype="bf16"), 20),
}


@lru_cache(maxsize=1)
def _placed() -> Mapping[str, tuple[Trial, Placed]]:
    """Every case, placed, under a name of its own."""
    made = {}
    for n, (name, case) in enumerate(CASES.items()):
        trial, placed = case.convolution.placed(
            case.target, case.pixels, case.columns, slices=case.slices, depth=case.depth
        )
        made[name] = trial, replace(placed, kernel=replace(placed.kernel, name=f"convolution_{n}"))
    return made


@lru_cache(maxsize=2)
def _emitted(target: str) -> modelled.Modelled:
    """The Ascend C of all cases of a target, compiled together."""
    return modelled.build([p for name, (_, p) in _placed().items() if CASES[name].target == target])


@pytest.mark.parametrize("name", CASES)
def test_simulated_proved_and_emitted(name: str) -> None:
    case = CASES[name]
    trial, placed = _placed()[name]
    assert any(isinstance(s, Instruction) and s.op == "load_image" for s in statements(placed.body))
    assert not unproved(placed)
    dims = {"batch": case.batch}
    values = trial.values(dims)
    inputs = packed(trial.schedule, values)
    got = check(placed, inputs, dims, groups=2).outputs["y0"]
    want = case.convolution.result(values)
    if case.convolution.dtype == "i8":
        np.testing.assert_array_equal(got.reshape(want.shape), want)
    else:
        error = np.abs(got.reshape(want.shape).astype(np.float32) - want.astype(np.float32)).max()
        assert error <= 5e-3 * np.abs(want.astype(np.float32)).max()
    emitted, _ = _emitted(case.target).run(placed, inputs, dims, 2)
    assert modelled.same_bits(emitted["y0"], got)


def test_weights_of_another_form_are_no_windows() -> None:
    text = """@kernel
def k(x0: f16[batch, 8, 8, 16], x1: const[f16[16, 16, {weights}]], y0: out[f16[64*batch, 16]]):
    where(1 <= batch <= 8)
    m: 64*batch
    n: 16
    k: 3
    k1: 3
    c: 16
    acc[m, n] = sum((k, k1, c), f32((x0[m // 64, (m // 8) % 8 + k - 1, m % 8 + k1 - 1, c] or 0)) * f32(x1[n, c, {at}]))
    y0[m, n] = f16(acc[m, n])
"""
    for weights, at, taken in (("3, 3", "k, k1", True), ("3", "k", False), ("2, 3, 3", "1, k, k1", False)):
        kernel = parse_kernel(text.format(weights=weights, at=at))
        define = next(s for s in kernel.body if isinstance(s, Define))
        assert (windows_of(kernel, define) is not None) == taken


def test_what_the_instruction_cannot_count_to_is_not_scheduled() -> None:
    target = targets()["ascend:910b3"]
    for pads, taken in ((90, True), (200, False)):  # 181 and 401 rows of windows around three rows of the image
        kernel = Convolution((3, 3), pads=(pads,) * 4).build()
        define = next(s for s in kernel.body if isinstance(s, Define))
        assert bool(list(convolution_schedules(kernel, define, target))) == taken


@pytest.mark.parametrize(
    "convolution",
    [
        Convolution((12, 12), channels=24),  # rows in L1 would end with lanes that nobody wrote
        Convolution((1, 1), kernel=(1, 1), pads=(0, 0, 0, 0)),  # one pixel: a product of matrices
        Convolution((12, 12), outside=1),  # only integers have another value outside
    ],
)
def test_what_the_instruction_does_not_make(convolution: Convolution) -> None:
    kernel = convolution.build()
    assert windows_of(kernel, next(s for s in kernel.body if isinstance(s, Define))) is None
