"""Whatever program.json says: the documented error, never a crash or a hang. A hostile writer gets every hash right."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tilewright as tw
from tilewright import runtime
from tilewright.runtime.errors import RunError

from tests.runtime.rewrite import members, rewrite
from tests.xla import models

pytest.importorskip("jaxlib")

PROGRAM = "xla/cpu/program.json"
X = np.random.default_rng(0).standard_normal((3, models.WIDTH)).astype(np.float32)
#: In place of every value.
GARBAGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2,
    7,
    2**31,
    2**63 - 1,
    2**63,
    10**30,
    1.5,
    float("nan"),
    "",
    "x",
    "$N",
    "$?",
    "+",
    "//",
    "\ud800",
    "\0",
    "main-1",
    "plan.bin",
    "../x",
    [],
    {},
    [[]],
    [1, 2, "+"],
    [1, 0, "//"],
    ["$N"] * 500 + ["*"] * 499,
    {"a": []},
)


@pytest.fixture(scope="module")
def artifact() -> bytes:
    """Two regions of the device with the host part in between, buckets, weights, an assertion."""
    rows = f"float[N, {models.WIDTH}]"
    text = f"""g ({rows} x, float[M, {models.WIDTH}] z) => ({rows} y, int64[2, n] found)
        {{ a = MatMul(x, w) b = Add(a, z) y = Relu(b) found = NonZero(y) }}"""
    shapes = {"x": ("1..4", models.WIDTH), "z": ("1..4", models.WIDTH)}
    model = models.parsed(text, w=models.weight())
    return tw.compile(model, targets=("xla:cpu",), input_shapes=shapes, verify=False).to_bytes()


def program(artifact: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(members(artifact)[PROGRAM])
    return value


def changed(artifact: bytes, value: Any) -> bytes:
    return rewrite(artifact, {PROGRAM: json.dumps(value).encode()})


def outcome(artifact: bytes) -> str:
    """How loading and running ends: the name of the error, or that the numbers are right, or others."""
    try:
        session = runtime.load(artifact, "xla-cpu", threads=1)
        y, found = session.run(None, {"x": X, "z": X})
    except RunError as error:
        return type(error).__name__
    want = np.maximum(X @ models.weight() + X, 0)
    right = y.shape == want.shape and np.allclose(y, want, rtol=1e-5, atol=1e-5)
    return "right" if right and np.array_equal(found, np.nonzero(want)) else "other"


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside."""
    yield path
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value at a path; ``_GONE`` removes it."""
    result = copy.deepcopy(value)
    if not path:
        return new
    inner = result
    for key in path[:-1]:
        inner = inner[key]
    if new is _GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return result


_GONE = object()


def test_it_is_right_as_it_is(artifact: bytes) -> None:
    value = program(artifact)
    assert outcome(changed(artifact, value)) == "right"
    steps = value["entries"][0]["steps"]
    assert ["host" in step for step in steps] == [False, True]


def test_every_field_replaced_by_garbage(artifact: bytes) -> None:
    value = program(artifact)
    generator = random.Random(0)
    told: dict[str, int] = {}
    for path in places(value):
        tried = [_GONE, *generator.sample(GARBAGE, 4)] if path else list(GARBAGE)
        for new in tried:
            if not path and new is _GONE:
                continue
            how = outcome(changed(artifact, put(value, path, new)))
            told[how] = told.get(how, 0) + 1
            # Numbers may become others where the change is a valid program; types and shapes never do.
            assert how in ("ArtifactError", "InputError", "DeviceError", "ResourceError", "right", "other"), (path, new)
    assert told["ArtifactError"] > 0.8 * sum(told.values()), told


def test_bytes_that_are_no_json(artifact: bytes) -> None:
    generator = random.Random(1)
    text = members(artifact)[PROGRAM]
    cases = [b"", b"\xff", b"[" * 100_000, b'{"a":' * 50_000, text[:-1], text + b"x", b"NaN"]
    for _ in range(60):
        mutated = bytearray(text)
        mutated[generator.randrange(len(text))] = generator.randrange(256)
        cases.append(bytes(mutated))
    for case in cases:
        assert outcome(rewrite(artifact, {PROGRAM: case})) in (
            "ArtifactError",
            "InputError",
            "DeviceError",
            "right",
            "other",
        ), case[:80]


def _steps(edit: Callable[[list[Any], dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    return lambda value: edit(value["entries"][0]["steps"], value["entries"][0])


EDITS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a slot read before it is made": (_steps(lambda s, e: s.reverse()), "not made yet"),
    "a slot made twice": (_steps(lambda s, e: s[1].update(outputs=[0])), "made twice"),
    "no such weight": (_steps(lambda s, e: s[0].update(weights=["nothing"])), "no weight 'nothing'"),
    "no such member": (_steps(lambda s, e: s[0]["variants"][0].update(module="nothing")), "no member 'nothing'"),
    "no such host entry": (_steps(lambda s, e: s[1].update(host="nothing")), "no entry point 'nothing'"),
    "another type on the host": (_steps(lambda s, e: e["slots"][s[1]["outputs"][0]].update(dtype="f32")), "type"),
    "a program of terabytes": (
        _steps(lambda s, e: [v["sizes"].update(dict.fromkeys(v["sizes"], 2**50)) for v in s[0]["variants"]]),
        "a tensor of",
    ),
    "sizes that nobody gives": (_steps(lambda s, e: e["slots"][0].update(shape=[[1, "$Q", "*"], [8]])), "Q"),
    "another entry point": (_steps(lambda s, e: e.update(name="other")), "in the manifest"),
    "fewer outputs": (_steps(lambda s, e: e["results"].pop()), "other outputs"),
    "a mesh without cuts": (lambda value: value.update(mesh=[2]), "shardings"),
    "another version": (lambda value: value.update(version=2), "version 2"),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_does_not_fit_is_named(artifact: bytes, name: str) -> None:
    edit, message = EDITS[name]
    value = program(artifact)
    edit(value)
    with pytest.raises(runtime.ArtifactError, match=message):
        runtime.load(changed(artifact, value), "xla-cpu", threads=1)


@pytest.mark.parametrize("factor", [-10, 10, 2**40])
def test_sizes_that_are_wrong_between_buckets_only(artifact: bytes, factor: int) -> None:
    """N + factor·(N - 1)(N - 2)(N - 4): right in every bucket, and not at 3."""
    value = program(artifact)
    entry = value["entries"][0]
    wrong: list[Any] = ["$N", factor]
    for root in (1, 2, 4):
        wrong += ["$N", -root, "+", "*"]
    for output in entry["steps"][0]["outputs"]:
        entry["slots"][output]["shape"][0] = [*wrong, "+"]
    session = runtime.load(changed(artifact, value), "xla-cpu", threads=1)
    with pytest.raises(RunError):
        session.run(None, {"x": X, "z": X})
    with pytest.raises(RunError):
        session.run(None, {"x": X, "z": X}, out={"y": np.zeros_like(X)})


def test_a_module_that_is_none(artifact: bytes) -> None:
    name = next(n for n in members(artifact) if n.endswith(".vhlo"))
    whole = members(artifact)[name]
    every = [n for n in members(artifact) if n.endswith(".vhlo")]
    for data in (b"", b"x", b"module {}", whole[:40], whole[: len(whole) // 2]):
        assert outcome(rewrite(artifact, dict.fromkeys(every, data))) == "ArtifactError", data[:20]


def test_a_module_of_another_signature(artifact: bytes) -> None:
    """Programs of the wrong bucket: XLA refuses arguments of another size, and shapes of results are compared."""
    contents = members(artifact)
    every = sorted(n for n in contents if n.endswith(".vhlo"))
    swapped = dict.fromkeys(every, contents[every[0]])
    assert outcome(rewrite(artifact, swapped)) in ("ArtifactError", "DeviceError")


def test_weights_that_lie_elsewhere(artifact: bytes) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        for tensor in manifest["weights"]["tensors"]:
            tensor[1] = 2**40

    with pytest.raises(runtime.ArtifactError):
        runtime.load(rewrite(artifact, {}, edit), "xla-cpu")
