"""Convolutions of all shapes through the C compiler, against the lowered interpreter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from tilewright.backends.cpu import machine
from tilewright.backends.cpu.emit import emit_kernel
from tilewright.backends.cpu.runs import POINTERS
from tilewright.backends.cpu.schedule import choose, schedules
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered, run_scheduled
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.tile import Kernel
from tilewright.kernel.verify import verify_kernel
from tilewright.ops.flatten import flatten_axes, name_axes

from tests.cpu.harness import LEVELS, compile_kernel

#: Tiles of 16 lanes run where only 8 are, in twice as many instructions.
WIDE = ("cpu:x86-64-v4", "x86_64_v3")


@dataclass(frozen=True)
class Conv:
    """A convolution with ``size`` (its image's height and width, dimension names or numbers), channels last or, with
    ``planes``, read channels first; ``groups`` are an axis of their own."""

    name: str
    height: str = "9"
    width: str = "10"
    ci: int = 12
    co: int = 40
    window: tuple[int, int] = (3, 3)
    stride: int = 1
    dilation: int = 1
    pad: tuple[int, int, int, int] = (1, 1, 1, 1)
    planes: bool = False
    residual: str = ""
    groups: int = 1
    table: bool = True

    def out(self, dim: int) -> str:
        """Size of a dimension of the result."""
        size, window = (self.height, self.width)[dim], self.window[dim]
        taken = (window - 1) * self.dilation + 1 - self.pad[dim] - self.pad[dim + 2]
        return f"(({size}) - {taken}) // {self.stride} + 1"

    def kernel(self) -> Kernel:
        """As the lowering of a fused operator leaves it."""
        place = [
            f"{o}*{self.stride} + {k}*{self.dilation} - {p}"
            for o, k, p in zip(("oh", "ow"), ("kh", "kw"), self.pad, strict=False)
        ]
        g, channel = ("g, ", f"g*{self.ci} + i") if self.groups > 1 else ("", "i")
        read = f"X[b, {channel}, {place[0]}, {place[1]}]" if self.planes else f"X[b, {place[0]}, {place[1]}, {channel}]"
        read = f"({read} or 0)" if any(self.pad) else read
        channels = self.ci * self.groups
        image = (
            f"{channels}, {self.height}, {self.width}" if self.planes else f"{self.height}, {self.width}, {channels}"
        )
        result = f"f32[B, {self.out(0)}, {self.out(1)}, {self.co * self.groups}]"
        o = f"g*{self.co} + o" if self.groups > 1 else "o"
        added = {"": "", "R": f" + R[b, oh, ow, {o}]", "X": f" + X[b, oh, ow, {o}]"}[self.residual]
        return name_axes(flatten_axes(parse_kernel(f"""
@kernel
def conv(X: f32[B, {image}], filter: const[f32[{self.co * self.groups}, {self.ci}, {self.window[0]}, {self.window[1]}]],
         bias: const[f32[{self.co * self.groups}]], {f"R: {result}, " if self.residual == "R" else ""}Y: out[{result}]):
    where(1 <= B <= 64{"".join(f", 5 <= {n} <= 640" for n in (self.height, self.width) if n.isalpha())})
    b: B
    {f"g: {self.groups}" if self.groups > 1 else ""}
    oh: {self.out(0)}
    ow: {self.out(1)}
    o: {self.co}
    kh: {self.window[0]}
    kw: {self.window[1]}
    i: {self.ci}
    acc[b, {g}oh, ow, o] = sum((kh, kw, i), {read} * filter[{o}, i, kh, kw])
    Y[b, oh, ow, {o}] = max(acc[b, {g}oh, ow, o] + bias[{o}]{added}, f32(0.0))
""")), ("m", "n"))  # fmt: skip


CASES = [
    Conv("same"),
    Conv("stride-2", stride=2),
    Conv("stride-3-dilation-2", height="19", width="17", stride=3, dilation=2, pad=(2, 1, 0, 3)),
    Conv("uneven-window", window=(1, 5), pad=(0, 2, 0, 2)),
    Conv("pad-wider-than-image", height="5", width="5", window=(5, 5), pad=(4, 4, 4, 4), ci=5),
    Conv("no-pad", pad=(0, 0, 0, 0)),
    Conv("one-channel", ci=1, co=7),
    Conv("narrow", ci=3, co=5),
    Conv("wide", ci=33, co=100, residual="R"),
    Conv("image-is-residual", ci=24, co=24, residual="X"),
    Conv("point", window=(1, 1), pad=(0, 0, 0, 0), residual="R", table=False),
    Conv("point-stride-2", window=(1, 1), pad=(0, 0, 0, 0), stride=2),
    Conv("point-stride-2-planes", "29", "11", 3, 2, (1, 1), 2, pad=(0, 0, 0, 0), planes=True, table=False),
    Conv("point-padded", window=(1, 1), ci=20),
    Conv("planes", height="23", width="21", ci=3, co=64, window=(7, 7), stride=2, pad=(3, 3, 3, 3), planes=True),
    Conv("planes-dilated", ci=3, co=16, dilation=2, pad=(2, 2, 2, 2), planes=True, table=False),
    Conv("groups", ci=8, co=8, groups=3, table=False),
    Conv("groups-stride-2", ci=9, co=16, groups=2, stride=2, table=False),
    Conv("free-size", height="H", width="W"),
    Conv("free-size-stride-2", height="H", width="W", stride=2, residual="R"),
    Conv("free-size-no-pad", height="H", width="W", pad=(0, 0, 0, 0)),
    Conv("free-size-planes", height="H", width="W", ci=3, planes=True),
]


LEVEL_CASES = [
    *(pytest.param(c, LEVELS[-1], None, id=c.name) for c in CASES),
    *(pytest.param(c, *WIDE, id=f"wide-{c.name}") for c in CASES if c.name in ("wide", "planes", "point-stride-2")),
    *(pytest.param(c, *WIDE, id=f"wide-{c.name}", marks=pytest.mark.slow) for c in CASES),
    *(
        pytest.param(c, level, None, id=f"{level}-{c.name}", marks=pytest.mark.slow)
        for c in CASES
        for level in LEVELS[:-1]
    ),
]


def _sizes(case: Conv) -> list[dict[str, int]]:
    free = case.height.isalpha()
    sizes = [{"B": b} for b in (1, 3)]
    return [{**s, "H": h, "W": w} for s in sizes for h, w in ((5, 7), (16, 11))] if free else sizes


def _tensors(kernel: Kernel, dims: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(sum(dims.values()))
    shapes = {p.name: [s.evaluate(dims) for s in p.shape] for p in kernel.params if p.role != "out"}
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def _check(got: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(got - expected).max() <= 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("case, level, mcpu", LEVEL_CASES)
def test_numbers(case: Conv, level: str, mcpu: str | None) -> None:
    kernel = case.kernel()
    verify_kernel(kernel)
    compiled = compile_kernel(kernel, level, mcpu=mcpu)
    for dims in _sizes(case):
        tensors = _tensors(kernel, dims)
        _check(compiled(tensors, dims)["Y"], run_lowered(kernel, tensors, dims)["Y"])


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_tree(case: Conv) -> None:
    """The scheduled tree means the same, and reads nothing undefined."""
    kernel = case.kernel()
    scheduled = apply(kernel, choose(kernel, machine.targets()[LEVELS[-1]]))
    assert any(s.space == POINTERS for s in scheduled.schedule.stages) == case.table
    dims = _sizes(case)[0]
    tensors = _tensors(kernel, dims)
    _check(run_scheduled(scheduled, tensors, dims)["Y"], run_lowered(kernel, tensors, dims)["Y"])


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("wide", "planes")], ids=lambda c: c.name)
def test_every_schedule_gives_the_numbers(case: Conv) -> None:
    kernel, dims = case.kernel(), _sizes(case)[-1]
    tensors = _tensors(kernel, dims)
    expected = run_lowered(kernel, tensors, dims)["Y"]
    for schedule in schedules(kernel, machine.targets()[LEVELS[-1]]):
        _check(compile_kernel(kernel, LEVELS[-1], schedule)(tensors, dims)["Y"], expected)


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("same", "planes", "free-size")], ids=lambda c: c.name)
def test_bytes_depend_on_neither_batch_nor_blocks(case: Conv) -> None:
    kernel = case.kernel()
    compiled = compile_kernel(kernel, LEVELS[-1])
    dims = {**_sizes(case)[-1], "B": 7}
    tensors = _tensors(kernel, dims)
    whole = compiled(tensors, dims)["Y"]
    np.testing.assert_array_equal(compiled(tensors, dims, tuple(range(1, 50)))["Y"], whole)
    for b in range(7):
        one = {**tensors, "X": tensors["X"][b : b + 1]}
        alone = compiled(one, {**dims, "B": 1})["Y"]
        np.testing.assert_array_equal(alone.reshape(-1), np.split(whole.reshape(-1), 7)[b])


@pytest.mark.parametrize("level", LEVELS)
def test_sums_of_a_padded_convolution_stay_in_registers(level: str) -> None:
    kernel = CASES[0].kernel()
    target = machine.targets()[level]
    text = emit_kernel(apply(kernel, choose(kernel, target)), target).text
    assert "9, 12, 0, args, row, column);" in text  # one call: nine taps, twelve channels, then what is stored
