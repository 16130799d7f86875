"""Calibration data: samples that a model is run on while it is quantized, checked against the model's signature.

What is taken:

* ``random:N``: made up, told as such in every report;
* an ``.npz`` of arrays by input name. Where arrays have one axis more than the inputs, or hold several batches of the
  model, the leading axis is split into samples; names ``0/x``, ``1/x`` … are one sample each, in order of the number
  (or name) before the first slash;
* a folder of ``.npy`` files, each one sample: a subfolder for each input, or files ``x.npy``, ``x_0.npy``, ``x.0.npy``
  or ``x-0.npy``, whose names begin with that of the input; any file names for a model of one input. Order is by name,
  numbers in it by value;
* in Python, an iterable of feeds (arrays by input name; the array alone for a model of one input).

Nothing of it is trusted: pickled objects are never loaded, and what does not fit is refused with its place.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Union

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright import sample
from tilewright.calibration.files import LIMIT, natural, read_npy, read_npz, require_room, too_many
from tilewright.errors import UsageError
from tilewright.ir import facts as model_facts
from tilewright.ir.facts import DEFAULT_RANGE
from tilewright.ir.graph import type_of
from tilewright.passes.quantize.base import Calibration, sample_bytes

Array = NDArray[Any]
Feed = Mapping[str, Array]
#: What calibration data can be given as.
Source = Union[str, "os.PathLike[str]", Calibration, Iterable["Feed | Array"]]

#: Rows of a sample that is cut from an array with an open batch: enough to keep a machine busy, few enough that some
#: can be held out.
ROWS = 32
#: Samples that an array with an open batch should become at least.
PARTS = 8

_RANDOM = re.compile(r"random:(\d{1,5})", re.ASCII)


def calibration_of(source: Source, model: ir.Model) -> Calibration:
    """The samples of ``source``, in the types and shapes of the inputs of ``model``.

    Raises :class:`UsageError`: ``calibration-unreadable``, ``-empty``, ``-names``, ``-shape``, ``-type``,
    ``-not-finite``, ``-too-many``; :class:`ResourceError` ``calibration-too-large``.
    """
    if isinstance(source, Calibration):
        feeds, told, random = list(source.feeds), source.source, source.random
    elif isinstance(source, str) and source.startswith("random"):
        feeds, told, random = _random(source, model), f"{source} (made up, no data of yours)", True
    elif isinstance(source, str | os.PathLike):
        path, random = Path(source), False
        feeds, told = (_folder(path, model) if path.is_dir() else _npz(path, model)), path.name
    else:
        feeds, told, random = _iterated(source, model), "given in Python", False
    checked = _checked(feeds, model, told)
    return Calibration(tuple(checked), told, digest(checked), random)


def digest(feeds: Sequence[Feed]) -> str:
    """SHA-256 of names, types, shapes and contents of all samples, in order."""
    found = hashlib.sha256()
    for feed in feeds:
        for piece in sample_bytes(feed):
            found.update(piece)
    return found.hexdigest()


def inputs_of(model: ir.Model) -> list[sample.Input]:
    """Name, type and shape of each input of an imported graph."""
    types = {str(v.name): type_of(v) for v in model.graph.inputs if v.name not in model.graph.initializers}
    return [
        sample.Input(name, t.dtype.numpy, tuple(s.value if s.is_constant else str(s) for s in t.shape))
        for name, t in types.items()
    ]


def sizes_of(feed: Feed, model: ir.Model) -> dict[str, int]:
    """The dimension symbols of ``model`` for the shapes of a checked sample."""
    return sample.bind(inputs_of(model), {name: array.shape for name, array in feed.items()})


# -- where samples come from ---------------------------------------------------------------------------------------


def _random(text: str, model: ir.Model) -> list[Feed]:
    match = _RANDOM.fullmatch(text)
    if match is None or not 0 < int(match[1]) <= LIMIT:
        cause, fix = "it is not random:N", f"write random:16 for 16 made-up samples (at most {LIMIT}), or name a file"
        raise UsageError("calibration-unreadable", where=text, cause=cause, fix=fix)
    inputs, known = inputs_of(model), model_facts.facts(model)
    symbols = sample.symbols_of(inputs)
    feeds: list[Feed] = []
    for seed in range(int(match[1])):
        sizes = {}
        for i, name in enumerate(symbols):
            r, wanted = known.get(name, DEFAULT_RANGE), sample.SAMPLES[seed % 2][i % 4]
            step = max(r.divisor, 1)
            sizes[name] = min(max(-(-wanted // step) * step, r.lo), r.hi)
        feeds.append(sample.make_inputs(inputs, sizes, seed))
    return feeds


def _npz(path: Path, model: ir.Model) -> list[Feed]:
    arrays = read_npz(path)
    if arrays and all("/" in name for name in arrays):
        groups: dict[str, dict[str, Array]] = {}
        for name, array in arrays.items():
            number, _, rest = name.partition("/")
            groups.setdefault(number, {})[rest] = array
        return [groups[number] for number in sorted(groups, key=natural)]
    return _split(arrays, model, path)


def _folder(path: Path, model: ir.Model) -> list[Feed]:
    names = [i.name for i in inputs_of(model)]
    files: dict[str, list[Path]] = {name: [] for name in names}
    root = path.resolve()
    found = sorted((p for p in path.rglob("*.npy")), key=lambda p: natural(p.relative_to(path).as_posix()))
    for file in found:
        if not file.resolve().is_relative_to(root):
            cause, fix = "it is a link to a file outside the folder", "copy the file into the folder"
            raise UsageError("calibration-unreadable", where=str(file), cause=cause, fix=fix)
        owner = _owner(file.relative_to(path), names)
        if owner is None:
            fix = f"put it into a subfolder, or begin its name, with an input's name: {', '.join(names)}"
            raise UsageError("calibration-names", where=str(file), cause="it belongs to no input", fix=fix)
        files[owner].append(file)
    counts = {name: len(paths) for name, paths in files.items()}
    if len(set(counts.values())) > 1:
        raise _uneven(str(path), counts)
    total = sum(file.stat().st_size for file in found)
    require_room(str(path), len(found) // max(len(names), 1), total)
    return [
        {name: read_npy(file) for name, file in zip(names, row, strict=True)}
        for row in zip(*files.values(), strict=True)
    ]


def _owner(file: Path, names: Sequence[str]) -> str | None:
    """The input whose sample a file is: by its folder, by its own name, or because there is only one input."""
    folder = file.parent.as_posix()
    if folder in names:
        return folder
    if folder == ".":
        fitting = [n for n in names if file.stem == n or re.match(rf"{re.escape(n)}[._-]", file.stem)]
        if fitting:
            return max(fitting, key=len)
        if len(names) == 1:
            return names[0]
    return None


def _iterated(source: object, model: ir.Model) -> list[Feed]:
    if not isinstance(source, Iterable) or isinstance(source, Mapping | bytes):
        cause = f"it is {type(source).__name__}, no iterable of feeds"
        fix = 'give a list of feeds, [{"x": x}, …], a path, or "random:16"'
        raise UsageError("calibration-unreadable", where="calibration", cause=cause, fix=fix)
    names = [i.name for i in inputs_of(model)]
    feeds: list[Feed] = []
    for i, given in enumerate(islice(source, LIMIT + 1)):
        if isinstance(given, Mapping):
            feeds.append({str(name): np.asarray(value) for name, value in given.items()})
        elif len(names) == 1:
            feeds.append({names[0]: np.asarray(given)})
        else:
            cause, fix = f"it is {type(given).__name__}", f"give arrays by input name: {', '.join(names)}"
            raise UsageError("calibration-names", where=f"calibration, sample {i}", cause=cause, fix=fix)
    return feeds


# -- splitting -----------------------------------------------------------------------------------------------------


def _split(arrays: Mapping[str, Array], model: ir.Model, path: Path) -> list[Feed]:
    """Arrays that hold all samples: along an axis of their own, or batch after batch."""
    inputs = inputs_of(model)
    _require_names(arrays, inputs, path.name)
    if not inputs:
        return []
    rows = {i.name: _rows(arrays[i.name], i, model) for i in inputs}
    counts = {name: len(parts) for name, parts in rows.items()}
    if len(set(counts.values())) > 1:
        raise _uneven(path.name, counts)
    return [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]


def _rows(array: Array, given: sample.Input, model: ir.Model) -> Sequence[Array]:
    """The samples in one array."""
    if array.dtype.hasobject or array.ndim not in (len(given.shape), len(given.shape) + 1):
        return [array]  # refused below, with its place
    if array.ndim > len(given.shape):
        return [np.asarray(part) for part in array[: LIMIT + 1]]
    if not given.shape:
        return [array]
    size, total = given.shape[0], array.shape[0]
    if isinstance(size, int):
        whole = size > 0 and total > size and total % size == 0
        return [array[i : i + size] for i in range(0, min(total, size * (LIMIT + 1)), size)] if whole else [array]
    if not _is_batch(model):
        return [array]
    step = max(1, min(ROWS, total // PARTS, model_facts.facts(model).get(size, DEFAULT_RANGE).hi))
    return [array[i : i + step] for i in range(0, min(total, step * (LIMIT + 1)), step)] or [array]


def _is_batch(model: ir.Model) -> bool:
    """Whether the leading axis of every input and output is one open size, so that its positions are independent."""
    shapes = [type_of(v).shape for v in (*model.graph.inputs, *model.graph.outputs)]
    if not all(shapes):
        return False
    first = {str(shape[0]) for shape in shapes}
    return len(first) == 1 and not shapes[0][0].is_constant and str(shapes[0][0]) in shapes[0][0].symbols


# -- checks --------------------------------------------------------------------------------------------------------


def _checked(feeds: Sequence[Feed], model: ir.Model, source: str) -> list[Feed]:
    if len(feeds) > LIMIT:
        raise too_many(source)
    inputs = inputs_of(model)
    if not feeds:
        fix = "give some samples of what the model is to be run on"
        raise UsageError("calibration-empty", where=source, cause="there are no samples", fix=fix)
    known = model_facts.facts(model)
    checked: list[Feed] = []
    for number, feed in enumerate(feeds):
        where = f"{source}, sample {number}"
        _require_names(feed, inputs, where)
        for each in inputs:
            _check(feed[each.name], each, f"{where}, input {each.name!r}")
        _check_sizes(feed, inputs, known, where)
        checked.append({i.name: np.ascontiguousarray(feed[i.name]).reshape(feed[i.name].shape) for i in inputs})
    return checked


def _check(array: Array, given: sample.Input, where: str) -> None:
    if array.dtype.hasobject:
        cause, fix = "it holds Python objects", f"give an array of {given.dtype}"
        raise UsageError("calibration-type", where=where, cause=cause, fix=fix)
    if array.dtype != given.dtype:
        cause = f"it is {array.dtype}, the model takes {given.dtype}"
        raise UsageError("calibration-type", where=where, cause=cause, fix=f"convert it: .astype({str(given.dtype)!r})")
    if array.ndim != len(given.shape):
        shape = f"[{', '.join(map(str, given.shape))}]"
        cause = f"it has the shape {list(array.shape)}, the model takes {shape}"
        raise UsageError("calibration-shape", where=where, cause=cause, fix=f"give arrays of {len(given.shape)} axes")
    if not array.size:
        cause, fix = f"it has no elements (shape {list(array.shape)})", "leave empty samples out"
        raise UsageError("calibration-empty", where=where, cause=cause, fix=fix)
    if given.dtype.kind not in "iub" and "int" not in given.dtype.name:
        finite = np.isfinite(array.astype(np.float32) if array.dtype.isbuiltin != 1 else array)
        if not finite.all():
            at = [int(i) for i in np.unravel_index(int(np.argmin(finite)), array.shape)]
            cause = f"{int((~finite).sum())} of its values are not finite, the first at {at}"
            raise UsageError(
                "calibration-not-finite", where=where, cause=cause, fix="leave such samples out, or mend them"
            )


def _check_sizes(feed: Feed, inputs: Sequence[sample.Input], known: Mapping[str, Any], where: str) -> None:
    try:
        sizes = sample.bind(inputs, {i.name: feed[i.name].shape for i in inputs})
    except UsageError as error:
        name = error.where.rpartition(" of ")[2]
        raise UsageError(
            "calibration-shape",
            where=f"{where}, input {name}",
            cause=error.cause.replace("the file has", "the model has"),
            fix="give arrays of the shapes that the model takes",
        ) from None
    for name, size in sizes.items():
        r = known.get(name, DEFAULT_RANGE)
        if not r.lo <= size <= r.hi or size % max(r.divisor, 1):
            cause = f"{name} would be {size}, the model takes {r.lo} to {r.hi}"
            raise UsageError(
                "calibration-shape", where=where, cause=cause, fix="give samples of sizes within the bounds"
            )


def _require_names(arrays: Mapping[str, Array], inputs: Sequence[sample.Input], where: str) -> None:
    names = {i.name for i in inputs}
    if set(arrays) != names:
        cause = f"it has {_listed(arrays)}, the inputs are {_listed(names)}"
        raise UsageError("calibration-names", where=where, cause=cause, fix="give an array for each input, by its name")


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:8]) + (" …" if len(ordered) > 8 else "") or "nothing"


def _uneven(where: str, counts: Mapping[str, int]) -> UsageError:
    told = ", ".join(f"{name} {count}" for name, count in counts.items())
    fix = "give each input the same number of samples"
    return UsageError(
        "calibration-names", where=where, cause=f"inputs have different numbers of samples: {told}", fix=fix
    )


def held_out(calibration: Calibration) -> tuple[Calibration, tuple[Feed, ...]]:
    """The samples to calibrate on, and those to judge by: every fourth is held out, where there are at least four.

    With fewer, all serve for both, which a report has to say.
    """
    feeds = calibration.feeds
    if len(feeds) < 4:
        return calibration, feeds
    kept = tuple(f for i, f in enumerate(feeds) if i % 4 != 3)
    return Calibration(kept, calibration.source, calibration.sha256, calibration.random), feeds[3::4]
