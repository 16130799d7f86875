"""Kernels of convolutions as lowering makes them, and what they compute, in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tilewright.backends.ascend.placed.form import Placed
from tilewright.backends.ascend.placing.convolution import DEPTH, RESIDENT
from tilewright.backends.ascend.placing.place import place
from tilewright.backends.ascend.schedules.convolutions import convolution_schedules
from tilewright.kernel.apply import apply
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.schedule import Loop
from tilewright.kernel.tile import Define, Kernel

from tests.ascend.trials import Trial, targets

Array = np.ndarray[Any, Any]

TEXT = """
@kernel
def convolution(x0: {t}[{image}], x1: const[{t}[{n}, {c}, {kh}, {kw}]], {more}y0: out[{t}[{out}]]):
    where(1 <= batch <= 32)
    {axes}
    n: {n}
{reduced}    acc[{at}, n] = sum({over}, {w}(({read})) * {w}(x1[n, c, {y}, {x}]))
    y0[{at}, n] = {value}
"""


@dataclass(frozen=True)
class Convolution:
    """Sizes of one: image, channels, filters, kernel, and so on; each pair is (down, across). ``merged``: images and
    pixels are one axis. ``planar``: channels first. ``outside`` is what is read there."""

    image: tuple[int, int] = (12, 12)
    channels: int = 16
    filters: int = 32
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dtype: str = "f16"
    merged: bool = True
    planar: bool = False
    outside: int = 0
    residual: bool = False

    @property
    def steps(self) -> tuple[int, int]:
        """Output rows and columns."""
        sizes = zip(self.image, self.kernel, self.stride, self.dilation, self.pads[:2], self.pads[2:], strict=True)
        high, wide = ((n + a + b - d * (k - 1) - 1) // s + 1 for n, k, s, d, a, b in sizes)
        return high, wide

    @property
    def pointwise(self) -> bool:
        """Whether each pixel is a window."""
        one = (1, 1)
        return (self.kernel, self.stride, self.pads, self.merged, self.planar) == (one, one, (0, 0, 0, 0), True, False)

    def build(self) -> Kernel:
        """The kernel, with a row of biases and a relu, or for i8 the requantization."""
        (oh, ow), n, t = self.steps, self.filters, self.dtype
        p = oh * ow
        names = ["k" if self.kernel[0] > 1 else "0", "k1" if self.kernel[1] > 1 else "0"]
        row, column = (f"(m // {ow}) % {oh}" if self.merged else f"m // {ow}"), f"m % {ow}"
        place = [
            f"{k}*{d} + {s}*({at}) - {a}"
            for k, d, s, at, a in zip(names, self.dilation, self.stride, (row, column), self.pads[:2], strict=True)
        ]
        order = ["c", *place] if self.planar else [*place, "c"]
        read = f"x0[{f'm // {p}' if self.merged else 'b'}, {', '.join(order)}] or {self.outside}"
        sizes = [self.channels, *self.image] if self.planar else [*self.image, self.channels]
        out = f"{p}*batch, {n}" if self.merged else f"batch, {p}, {n}"
        if self.pointwise:  # rows of a product, as lowering sees them
            read, sizes = "x0[m, c]", []
        at = "m" if self.merged else "b, m"
        axes = f"m: {p}*batch" if self.merged else f"b: batch\n    m: {p}"
        reduced = [(a, k) for a, k in zip(names, self.kernel, strict=True) if a != "0"] + [("c", self.channels)]
        if t == "i8":
            more = f"scale: const[f32[{n}]], zero: const[i32[{n}]], "
            inner = f"round((f32(acc[{at}, n] - zero[n]) * scale[n]) * f32(0.01))"
            value = f"i8(min(max({inner} + f32(3.0), f32(-128.0)), f32(127.0)))"
        else:
            more = f"x2: const[{t}[{n}]], "
            total = f"{t}(acc[{at}, n]) + x2[n]"
            if self.residual:
                more += f"x3: {t}[{out}], "
                total = f"x3[{at}, n] + ({total})"
            value = f"{t}(max(f32({total}), f32(0.0)))"
        return parse_kernel(
            TEXT.format(
                t=t,
                w="i32" if t == "i8" else "f32",
                image=f"batch, {', '.join(map(str, sizes))}" if sizes else f"{p}*batch, {self.channels}",
                n=n,
                c=self.channels,
                kh=self.kernel[0],
                kw=self.kernel[1],
                more=more,
                out=out,
                axes=axes,
                at=at,
                reduced="".join(f"    {a}: {size}\n" for a, size in reduced),
                over="(" + ", ".join(a for a, _ in reduced) + ")" if len(reduced) > 1 else "c",
                read=read,
                y=names[0],
                x=names[1],
                value=value,
            )
        )

    def placed(
        self, target: str = "ascend:910b3", pixels: int = 0, columns: int = 0, *, slices: int = 0, depth: int = 0
    ) -> tuple[Trial, Placed]:
        """Placed under the first schedule with a tile of ``pixels`` and ``columns`` (0: any), ``slices`` of so many
        channels, and weights in pieces of ``depth``."""
        kernel = self.build()
        define = next(s for s in kernel.body if isinstance(s, Define))
        schedule = next(iter(convolution_schedules(kernel, define, targets()[target])))
        sizes = {loop.axis: loop.size for loop in schedule.loops}
        sizes |= {"m": pixels or sizes["m"], "n": columns or sizes["n"]}
        loops = tuple(replace(loop, size=sizes[loop.axis]) for loop in schedule.loops)
        extra = tuple(e for e in schedule.extra if e[0] != RESIDENT or (sizes["n"] >= self.filters and not depth))
        if depth:
            extra = ((DEPTH, depth),)
        reduce = (Loop("c", slices, "pipeline"),) if slices else schedule.reduce
        schedule = replace(schedule, loops=loops, extra=extra, reduce=reduce)
        return Trial(kernel, schedule, {"batch": 2}), place(apply(kernel, schedule), targets()[target])

    def reference(self, values: Mapping[str, Array]) -> Array:
        """The same in f64 (integers exactly), by position of the window; before what comes after the sum."""
        x = values["x0"].astype(np.float64)
        x = x.transpose(0, 2, 3, 1) if self.planar else x
        a, b = self.pads[:2], self.pads[2:]
        x = np.pad(x, ((0, 0), (a[0], b[0]), (a[1], b[1]), (0, 0)), constant_values=self.outside)
        high, wide = self.steps
        total = np.zeros((x.shape[0], high, wide, self.filters))
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                y, z = i * self.dilation[0], j * self.dilation[1]
                taken = x[:, y :: self.stride[0], z :: self.stride[1]][:, :high, :wide]
                total += taken @ values["x1"][:, :, i, j].astype(np.float64).T
        return total.reshape(-1, self.filters)

    def result(self, values: Mapping[str, Array]) -> Array:
        """What the kernel gives, each step rounded as it says."""
        total = self.reference(values)
        if self.dtype == "i8":
            scaled = (total - values["zero"]).astype(np.float32) * values["scale"]
            rounded = np.rint(scaled * np.float32(0.01)) + np.float32(3)
            return np.clip(rounded, -128, 127).astype(np.int8)
        kind = values["x0"].dtype
        y = total.astype(np.float32).astype(kind) + values["x2"]
        if self.residual:
            y = values["x3"].reshape(y.shape) + y
        return np.maximum(y.astype(np.float32), 0).astype(kind)
