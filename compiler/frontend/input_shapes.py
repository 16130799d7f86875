"""``--input-shape``: what the user says about the sizes of inputs, and the dimension symbols of a model."""

from __future__ import annotations

import difflib
import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from tilewright.errors import CompileError, UsageError
from tilewright.ir import facts as model_facts
from tilewright.ir import graph
from tilewright.ir.facts import DEFAULT_RANGE
from tilewright.ir.parse import parse
from tilewright.ir.ranges import POSITIVE_INFINITY, Range
from tilewright.ir.symbolic import Expr, Symbol, constant, symbol

#: Per input name, one text per axis: ``8`` binds, ``1..32`` bounds, ``N`` names, ``N=1..32`` both, ``?`` leaves alone.
InputShapes = Mapping[str, Sequence[str | int]]

_SIZE = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)(?:=|$))?(?P<lo>\d{1,18})?(?P<dots>\.\.)?(?P<hi>\d{1,18})?", re.ASCII)


def parse_input_shape(text: str) -> tuple[str, tuple[str, ...]]:
    """Read ``x:1x3x224x224``, ``x:1..32x3``, ``x[1,3]`` or ``x:1,3`` into the input's name and its sizes as text.

    Sizes between ``x`` may not have an ``x`` in their name; the form with commas has no such limit.
    """
    bracketed = re.fullmatch(r"(.+)\[([^\[\]]*)\]", text)
    name, _, sizes = (bracketed[1], "", bracketed[2]) if bracketed else text.rpartition(":")
    parts = re.split("," if "," in sizes or bracketed else "x", sizes) if sizes.strip() else []
    dims = tuple(p.strip() for p in parts)
    if not name or not (dims or bracketed):
        raise UsageError(
            "input-shape-syntax",
            where=f"--input-shape {text!r}",
            cause="it is not NAME:SIZES",
            fix="write for instance x:1x3x224x224, x:1..32x3x224x224 or x[1,3]",
        )
    for dim in dims:
        _parse_size(dim, name)
    return name, dims


@dataclass(frozen=True, slots=True)
class _Size:
    name: str | None
    lo: int | None
    hi: int | None


def _parse_size(text: str | int, name: str) -> _Size:
    text = str(text).strip()
    if text in ("?", "*"):
        return _Size(None, None, None)
    match = _SIZE.fullmatch(text)
    if match and text:
        lo, hi = (int(match[g]) if match[g] else None for g in ("lo", "hi"))
        if match["dots"] and (lo is not None or hi is not None):
            lo, hi = lo if lo is not None else 1, hi if hi is not None else POSITIVE_INFINITY
            if lo <= hi:
                return _Size(match["name"], lo, hi)
        elif not match["dots"] and hi is None and (lo is not None) != (match["name"] is not None and "=" not in text):
            return _Size(match["name"], lo, lo)
    raise UsageError(
        "input-shape-syntax",
        where=f"--input-shape of {name!r}",
        cause=f"{text!r} is no size",
        fix="a size is a number (8), a range (1..32), a name (N), a name with a range (N=1..32) or ?",
    )


# -- the model's own dimensions --------------------------------------------------------------------------------------


def name_dimensions(model: ir.Model) -> None:
    """Give every open size of the graph's inputs a symbol: the model's name as an identifier, or the input's name.

    Equal names stay equal. A name that reads as an expression of other names (``past + new``) is taken as that.
    """
    names = _Names()
    declared = {_text(d) for v in model.graph.inputs for d in v.shape or () if not isinstance(d, int)} - {None}
    plain = {d for d in declared if d is not None and _expression(d, declared) is None}
    for name in sorted(plain):
        names.identifier(name)
    for value in model.graph.inputs:
        sizes: list[Expr] = []
        for axis, dim in enumerate(value.shape or ()):
            named = _text(dim)
            if isinstance(dim, int):
                if dim < 0:
                    raise _negative(value, dim)
                sizes.append(constant(dim))
            elif named is None:
                sizes.append(symbol(names.fresh(f"{value.name}_{axis}")))
            else:
                expression = _expression(named, declared)
                sizes.append(
                    symbol(names.identifier(named))
                    if expression is None
                    else expression.substitute({n: symbol(names.identifier(n)) for n in expression.symbols})
                )
        value.shape = graph.ir_shape(tuple(sizes))
    used = {s for v in model.graph.inputs for size in graph.type_of(v).shape for s in size.symbols}
    known = model_facts.facts(model)
    model_facts.set_facts(model, {s: known.get(s, DEFAULT_RANGE) for s in sorted(used)})
    model_facts.set_dimension_names(model, {s: names.original[s] for s in sorted(used)})


class _Names:
    """Identifiers for the names of a model, one each and never shared."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self.original: dict[str, str] = {}

    def identifier(self, text: str) -> str:
        """The identifier that stands for ``text``."""
        if text not in self._known:
            self._known[text] = self.fresh(text)
        return self._known[text]

    def fresh(self, text: str) -> str:
        """An identifier like ``text`` that nothing else has."""
        base = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_") or "dim"
        if base[0].isdigit():
            base = f"dim_{base}"
        if keyword.iskeyword(base) or base in ("min", "max"):
            base += "_"
        candidate, count = base[:64], 1
        while candidate in self.original:
            count += 1
            candidate = f"{base[:64]}_{count}"
        self.original[candidate] = text
        return candidate


def _text(dim: int | ir.SymbolicDim) -> str | None:
    return None if isinstance(dim, int) else (dim.value or None)


def _expression(text: str, declared: set[str | None]) -> Expr | None:
    """``text`` as an expression over other declared names; ``None`` when it is a name itself, as ``batch-1`` is."""
    if text.isidentifier() or re.search(r"\S-\S", text):
        return None
    try:
        expression = parse(text)
    except (ValueError, RecursionError, MemoryError):
        return None
    return expression if expression.symbols and expression.symbols <= declared else None


def _negative(value: ir.Value, dim: int) -> CompileError:
    return CompileError(
        "invalid-model",
        where=f"input {value.name!r}",
        cause=f"size {dim}",
        fix="a size that is open needs a name (dim_param) instead",
    )


# -- what the user says ----------------------------------------------------------------------------------------------


def apply_input_shapes(model: ir.Model, shapes: InputShapes) -> None:
    """Bind, bound and rename the dimensions of the inputs. Call :func:`name_dimensions` before.

    Raises :class:`UsageError`: ``input-shape-name`` and ``input-shape-rank`` for what does not fit the model,
    ``input-shape-conflict`` for a size that would have to be two things.
    """
    inputs = {v.name or "": v for v in model.graph.inputs}
    binding = _Binding(model_facts.facts(model), model_facts.dimension_names(model))
    for name, sizes in shapes.items():
        if name not in inputs:
            raise unknown_input(name, inputs)
        current = graph.type_of(inputs[name]).shape
        if len(sizes) != len(current):
            raise UsageError(
                "input-shape-rank",
                where=f"--input-shape of {name!r}",
                cause=f"{len(sizes)} sizes for an input of {len(current)} axes ({', '.join(map(str, current))})",
                fix="give one size per axis; ? leaves one as it is",
            )
        for axis, (size, text) in enumerate(zip(current, sizes, strict=True)):
            binding.apply(size, _parse_size(text, name), f"--input-shape of {name!r}, axis {axis}")
    for value in model.graph.inputs:
        value.shape = graph.ir_shape(tuple(binding.current(s) for s in graph.type_of(value).shape))
    used = {s for v in model.graph.inputs for size in graph.type_of(v).shape for s in size.symbols}
    model_facts.set_facts(model, {s: binding.ranges[s] for s in sorted(used)})
    model_facts.set_dimension_names(model, {s: binding.names.get(s, s) for s in sorted(used)})


class _Binding:
    """What the user's sizes have made of the model's dimensions so far."""

    def __init__(self, ranges: dict[str, Range], names: dict[str, str]):
        self.ranges = ranges
        self.names = names
        self._replaced: dict[str, Expr] = {}

    def current(self, size: Expr) -> Expr:
        """``size`` with bound and renamed dimensions replaced; a renamed one may be bound later."""
        return size.substitute(self._replaced).substitute(self._replaced)

    def apply(self, size: Expr, wanted: _Size, where: str) -> None:
        """Make one axis what the user wants."""
        size = self.current(size)
        if wanted == _Size(None, None, None):
            return
        if size.is_constant:
            _require_fixed(size.value, wanted, where)
            return
        atom = size.atoms[0]
        if not (isinstance(atom, Symbol) and size == symbol(atom.name)):
            raise _conflict(where, f"the size is {size}", "give the dimensions it is made of, on the other inputs")
        name = atom.name
        if wanted.name is not None and wanted.name != name:
            self._rename(name, wanted.name, where)
            name = wanted.name
        if wanted.lo is None or wanted.hi is None:
            return
        given = Range(wanted.lo, wanted.hi)
        now = self.ranges[name]
        self.ranges[name] = given if now == DEFAULT_RANGE else _intersection(now, given, where)
        if wanted.lo == wanted.hi:
            self._replaced[name] = constant(wanted.lo)

    def _rename(self, old: str, new: str, where: str) -> None:
        self.ranges[new] = _intersection(self.ranges.get(new, DEFAULT_RANGE), self.ranges.pop(old), where)
        self.names[new] = self.names.get(old, new)
        self._replaced[old] = symbol(new)


def _require_fixed(size: int, wanted: _Size, where: str) -> None:
    if wanted.lo is None or wanted.hi is None or not wanted.lo <= size <= wanted.hi:
        raise _conflict(where, f"the size is {size}", "a fixed size cannot be opened: export it as dynamic")


def _intersection(a: Range, b: Range, where: str) -> Range:
    lo, hi = max(a.lo, b.lo), min(a.hi, b.hi)
    if lo > hi:
        raise _conflict(where, f"{a.lo}..{a.hi} and {b.lo}..{b.hi} are both asked for", "give one range per dimension")
    return Range(lo, hi)


def _conflict(where: str, cause: str, fix: str) -> UsageError:
    return UsageError("input-shape-conflict", where=where, cause=cause, fix=fix)


def unknown_input(name: str, inputs: Iterable[str]) -> UsageError:
    """The error for sizes of an input that is not among ``inputs``."""
    known = list(inputs)
    close = [k for k in known if k.casefold() == name.casefold()] or difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return UsageError(
        "input-shape-name",
        where=f"--input-shape of {name!r}",
        cause=f"the model has no such input{hint}",
        fix=f"its inputs are {', '.join(known)}",
    )
