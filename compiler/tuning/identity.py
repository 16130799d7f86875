"""What records know a kernel by: exactly, and as one of a family that differs in sizes alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tilewright.cost.kind import kind_of
from tilewright.ir.ranges import bounds
from tilewright.kernel.analysis import loads_of, transform, walk
from tilewright.kernel.canonical import canonical, fingerprint
from tilewright.kernel.expr import Binary, Const, Load, Unary, Value
from tilewright.kernel.print import print_kernel
from tilewright.kernel.tile import Define, Kernel, Scan, Statement, Store


@dataclass(frozen=True, slots=True)
class Identity:
    """What a kernel is, at some sizes.

    Attributes:
        kernel: fingerprint of its tile IR, without literals and the ranges of its sizes.
        family: the same without any number: kernels of one family differ in sizes alone.
        extents: of all axes, in order. bucket: its open sizes, each raised to a power of two.
        kind: its class (:data:`tilewright.cost.KINDS`). dtypes: of its parameters. layout: ranks and roles of them.
        epilogue: what it computes after its last reduction.
    """

    kernel: str
    family: str
    extents: tuple[int, ...]
    bucket: tuple[int, ...]
    kind: str
    dtypes: str
    layout: str
    epilogue: str


def identity_of(kernel: Kernel, sizes: Mapping[str, int] | None = None) -> Identity:
    """The identity of ``kernel`` at ``sizes`` of its dimension symbols, or at the largest that they may be."""
    facts = dict(kernel.facts)
    at = dict(sizes) if sizes is not None else {name: limits.hi for name, limits in facts.items()}
    extents = tuple(
        int(a.extent.evaluate(at)) if sizes is not None else int(bounds(a.extent, facts)[1]) for a in kernel.axes
    )
    plain = replace(without_literals(kernel), facts=())
    text = print_kernel(canonical(plain))
    blanked = re.sub(r"\b(?:d\d+|\d+)\b", "#", text)
    return Identity(
        kernel=fingerprint(plain),
        family=hashlib.sha256(blanked.encode()).hexdigest(),
        extents=extents,
        bucket=tuple(power_of_two(int(at[name])) for name, _ in kernel.facts),
        kind=kind_of(kernel),
        dtypes=",".join(str(p.dtype) for p in kernel.params),
        layout=",".join(f"{p.role}{len(p.shape)}" for p in kernel.params),
        epilogue=" ".join(_epilogue(kernel)),
    )


def power_of_two(n: int) -> int:
    """The smallest power of two that is not below ``n``."""
    return 1 << max(0, n - 1).bit_length()


def without_literals(kernel: Kernel) -> Kernel:
    """``kernel`` with every literal 0: scales and zero points change with calibration data, the time does not."""

    def blank(value: Value) -> Value:
        if isinstance(value, Const):
            return replace(value, value=0)
        if isinstance(value, Load) and value.fill is not None:
            return replace(value, fill=0)
        return value

    def define(s: Define) -> Define:
        return replace(s, value=transform(s.value, blank))

    def statement(s: Statement) -> Statement:
        match s:
            case Define():
                return define(s)
            case Store():
                return replace(s, value=transform(s.value, blank))
            case Scan():
                return replace(s, body=tuple(map(define, s.body)))

    return replace(kernel, body=tuple(map(statement, kernel.body)))


def _epilogue(kernel: Kernel) -> list[str]:
    """Names of the operations after the last reduction, and ``+tensor`` for each that is read there."""
    last = max((n for n, s in enumerate(kernel.body) if _reduces(s)), default=-1)
    found: list[str] = []
    for s in kernel.body[last + 1 :]:
        if not isinstance(s, Define | Store):
            continue
        found += [f"+tensor{len(load.index)}" for load in loads_of(s.value)]
        found += [v.op for v in walk(s.value) if isinstance(v, Binary | Unary)]
    return found


def _reduces(s: Statement) -> bool:
    return isinstance(s, Scan) or (isinstance(s, Define) and s.reduce is not None)
