"""Targets are data: one TOML file each, read without the device being present.

A target is spelled ``kind:arch[+feature]``: ``cpu:x86-64-v4+vnni``, ``cuda:sm_90``, ``ascend:910b3``. The file name is
the spelling after the kind with ``+`` kept (``backends/cpu/targets/x86-64-v4+vnni.toml``).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilewright.errors import InternalError

#: The entry of ``extra`` that says how products of f32 are computed, where a target has more ways than one: ``ieee``
#: (in f32), ``tf32x3`` (three products of tf32, about as exact) or ``tf32``.
F32_PRODUCTS = "f32_products"


@dataclass(frozen=True, slots=True)
class Memory:
    """One memory level. ``size`` in bytes (0: unbounded), ``bandwidth`` in bytes a second for the whole device."""

    name: str
    size: int
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Target:
    """What legality, scheduling and the cost model know of a device.

    Attributes:
        kind: ``cpu``, ``cuda``, ``tpu``, ``ascend`` …
        arch: the rest of the spelling, with features.
        units: parallel execution units (cores, SMs).
        vector_bytes: bytes of one vector register (0 where there is none).
        memory: levels by name, fastest first.
        peak: operations a second of the whole device by dtype spelling (a multiply-add is two).
        features: capability names that legality may ask for.
        host: spelling of the CPU target of the host part.
        extra: whatever only this kind's backend reads.
    """

    kind: str
    arch: str
    units: int
    vector_bytes: int
    memory: Mapping[str, Memory]
    peak: Mapping[str, float]
    features: frozenset[str]
    host: str
    extra: Mapping[str, Any]

    @property
    def spelling(self) -> str:
        """``kind:arch``."""
        return f"{self.kind}:{self.arch}"

    @property
    def triple(self) -> str:
        """The C compiler's name of the machine, for targets whose code is C; else empty."""
        return str(self.extra.get("codegen", {}).get("triple", ""))

    @property
    def family(self) -> str:
        """The processor family of :attr:`triple` as ``uname -m`` says it, or empty."""
        return self.triple.partition("-")[0]

    @property
    def folder(self) -> str:
        """The target's folder inside an artifact; the one place that turns a spelling into a file name."""
        return f"{self.kind}/{self.arch.replace('=', '-')}"


def load_targets(folder: Path, kind: str) -> dict[str, Target]:
    """Read every ``*.toml`` of ``folder``; keys are spellings, in file-name order."""
    return {t.spelling: t for t in (_read(path, kind) for path in sorted(folder.glob("*.toml")))}


def _read(path: Path, kind: str) -> Target:
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    try:
        return Target(
            kind=data.pop("kind", kind),
            arch=path.stem,
            units=data.pop("units"),
            vector_bytes=data.pop("vector_bytes", 0),
            memory={n: Memory(n, int(m["size"]), float(m["bandwidth"])) for n, m in data.pop("memory").items()},
            peak={k: float(v) for k, v in data.pop("peak").items()},
            features=frozenset(data.pop("features", ())),
            host=data.pop("host", "cpu"),
            extra=data,
        )
    except (KeyError, TypeError) as error:
        raise InternalError(f"{path.name}: missing or malformed {error}") from error
