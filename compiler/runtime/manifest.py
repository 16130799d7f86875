"""The manifest of an artifact: what it says, checked, as plain values."""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tilewright.runtime.errors import ArtifactError
from tilewright.runtime.format import ABI_VERSION, FORMAT_VERSION, MANIFEST, SEGMENT, is_member_name

#: A feature bit: name, kind, CPUID leaf, subleaf, bit (see ``package.writer.cpu_requirements``).
Requirement = tuple[str, int, int, int, int]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output: ``shape`` has integers and, for symbolic sizes, text such as ``N`` or ``P + 1``."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class SymbolInfo:
    """A dimension symbol and its bounds, both allowed."""

    name: str
    min: int
    max: int
    multiple: int


@dataclass(frozen=True, slots=True)
class EntryInfo:
    """An entry point. ``states`` are pairs (input, output) that are one memory."""

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    states: tuple[tuple[str, str], ...]
    symbols: tuple[SymbolInfo, ...]


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """A target's part: member names in the artifact by file name.

    Attributes:
        target: its spelling.
        family, requires: of a CPU part, the processor family and its features; else empty.
        host_family, host_requires: the same of the host part that goes with programs, where there is one.
    """

    target: str
    family: str
    members: Mapping[str, str]
    requires: tuple[Requirement, ...]
    host_family: str = ""
    host_requires: tuple[Requirement, ...] = ()

    @property
    def has_programs(self) -> bool:
        """Whether programs are run, and not a plan alone."""
        return "program.json" in self.members

    @property
    def has_modules(self) -> bool:
        """Whether its plan is run on a GPU, by the machine code beside it."""
        return "modules.bin" in self.members

    @property
    def has_sources(self) -> bool:
        """Whether its kernels are source text, which a compiler beside the device has still to build."""
        return "launches.json" in self.members and not self.has_modules

    @property
    def is_apart(self) -> bool:
        """Whether a device with memory of its own runs it, or its programs, and no processor alone."""
        return self.has_programs or self.has_modules or self.has_sources

    @property
    def spellings(self) -> tuple[str, ...]:
        """What a user may call the device: ``tpu:v5e``, ``tpu-v5e``, ``tpu``."""
        return (self.target, self.target.replace(":", "-"), self.target.partition(":")[0])


@dataclass(frozen=True, slots=True)
class WeightInfo:
    """A tensor in the weights."""

    name: str
    offset: int
    size: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything the manifest says. ``hashes`` are SHA-256 by member; ``sizes`` their bytes."""

    entries: tuple[EntryInfo, ...]
    targets: tuple[TargetInfo, ...]
    weights: tuple[WeightInfo, ...]
    hashes: Mapping[str, str]
    sizes: Mapping[str, int]
    provenance: Mapping[str, Any]

    def entry(self, name: str | None) -> int:
        """Index of an entry point; the first when ``name`` is ``None``. Raises ``KeyError``."""
        if name is None:
            return 0
        for i, entry in enumerate(self.entries):
            if entry.name == name:
                return i
        raise KeyError(name)


def evaluate_size(size: int | str, values: Mapping[str, int]) -> int:
    """A dimension's value; text is what the compiler prints: sums, products, ``//``, ``%``, ``min`` and ``max``.

    Raises ``ValueError`` for any other text, or a symbol that ``values`` lacks.
    """
    return size if isinstance(size, int) else _evaluate(ast.parse(size, mode="eval").body, values)


_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def _evaluate(node: ast.expr, values: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int(v)):
            return v
        case ast.Name(id=name) if name in values:
            return values[name]
        case ast.UnaryOp(op=ast.USub(), operand=x):
            return -_evaluate(x, values)
        case ast.BinOp(left=a, op=op, right=b) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_evaluate(a, values), _evaluate(b, values))
        case ast.Call(func=ast.Name(id="min" | "max" as name), args=args, keywords=[]):
            return (min if name == "min" else max)(_evaluate(a, values) for a in args)
    raise ValueError(f"not a dimension: {ast.unparse(node)}")


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read a manifest. Raises :class:`ArtifactError` for an unknown version or anything malformed."""
    try:
        raw = json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_float=_no_float, parse_constant=_no_float
        )
        _check_version(raw, where)
        return _manifest(raw)
    except ArtifactError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(
            "artifact-damaged",
            where=f"{where}, {MANIFEST}",
            cause=f"malformed ({type(error).__name__}: {error})",
            fix="copy or compile the artifact again",
        ) from None


def _check_version(raw: Any, where: str) -> None:
    version, abi = _integer(raw["format"]), _integer(raw["abi"])
    if version != FORMAT_VERSION or abi != ABI_VERSION:
        raise ArtifactError(
            "artifact-version",
            where=where,
            cause=f"format {version}, interface {abi}; this runtime reads {FORMAT_VERSION} and {ABI_VERSION}",
            fix="use the version of Tilewright that wrote it, or compile the model again",
        )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_float(text: str) -> Any:
    raise ValueError(f"{text}: only integers occur here")


def told_models(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The models that an artifact says it was made of. Nothing runs by it: what is no such record tells of none."""
    found = provenance.get("models")
    return [m for m in found if isinstance(m, dict)] if isinstance(found, list) else []


def told_tools(provenance: Mapping[str, Any]) -> Mapping[str, Any]:
    """The versions of the tools that made an artifact, as far as it tells them."""
    found = provenance.get("tools")
    return found if isinstance(found, dict) else {}


def _manifest(raw: Any) -> Manifest:
    members = raw["members"]
    hashes = {_text(name): _text(m["sha256"]) for name, m in members.items()}
    if not all(is_member_name(name) and len(h) == 64 for name, h in hashes.items()):
        raise ValueError("a member's name or hash is malformed")
    if _integer(raw["weights"]["segment"]) != SEGMENT:
        raise ValueError("another segment size")
    manifest = Manifest(
        entries=tuple(map(_entry, _list(raw["entries"]))),
        targets=tuple(map(_target, _list(raw["targets"]))),
        weights=tuple(map(_weight, _list(raw["weights"]["tensors"]))),
        hashes=hashes,
        sizes={name: _size(m["bytes"]) for name, m in members.items()},
        provenance=dict(raw["provenance"].items()),
    )
    names = [w.name.encode() for w in manifest.weights]
    if any(a >= b for a, b in pairwise(names)) or not manifest.entries:
        raise ValueError("weights out of order, or no entry point")
    return manifest


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError(f"{value!r} is no text")
    value.encode()  # a lone surrogate raises
    return value


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise TypeError(f"{value!r} is no integer")
    return value


def _size(value: Any) -> int:
    if _integer(value) < 0:
        raise ValueError(f"{value} is negative")
    return int(value)


def _tensor(raw: Any) -> TensorInfo:
    shape = tuple(_text(d) if isinstance(d, str) else _size(d) for d in _list(raw["shape"]))
    return TensorInfo(_text(raw["name"]), _text(raw["dtype"]), shape)


def _entry(raw: Any) -> EntryInfo:
    symbols = tuple(
        SymbolInfo(_text(s["name"]), _integer(s["min"]), _integer(s["max"]), _integer(s["multiple"]))
        for s in _list(raw["symbols"])
    )
    return EntryInfo(
        name=_text(raw["name"]),
        inputs=tuple(map(_tensor, _list(raw["inputs"]))),
        outputs=tuple(map(_tensor, _list(raw["outputs"]))),
        states=tuple((_text(i), _text(o)) for i, o in _list(raw["states"])),
        symbols=symbols,
    )


def _target(raw: Any) -> TargetInfo:
    members = {_text(name): _text(member) for name, member in raw["members"].items()}
    family, requires = _machine(raw)
    return TargetInfo(_text(raw["target"]), family, members, requires, *_machine(dict(raw.get("host", {}).items())))


def _machine(raw: Mapping[str, Any]) -> tuple[str, tuple[Requirement, ...]]:
    """A processor family and the features that code needs."""
    rows = tuple(
        (_text(n), _size(k), _size(a), _size(b), _size(bit)) for n, k, a, b, bit in _list(raw.get("requires", []))
    )
    if any(max(row[1:]) >= 2**32 for row in rows):
        raise ValueError("a feature bit is out of range")
    return _text(raw.get("family", "")), rows


def _weight(raw: Any) -> WeightInfo:
    name, offset, size, dtype, shape = _list(raw)
    return WeightInfo(_text(name), _size(offset), _size(size), _text(dtype), tuple(map(_size, _list(shape))))
