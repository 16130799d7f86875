"""Decoding with a cache of fixed capacity: one memory throughout, written in place, shared by two entry points."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tilewright as tw
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from tilewright import driver
from tilewright.accuracy import compare
from tilewright.cli.main import main
from tilewright.options import Options
from tilewright.plan.plan import Copy, Plan
from tilewright.runtime.errors import InputError

from models import llama, zoo

Array = NDArray[Any]
SMALL = zoo.small()
STATIC, GROWING, PREFILL = SMALL["llama-decode-static"], SMALL["llama-decode"], SMALL["llama-prefill"]
TOLERANCE = 1e-5  # relative to the largest value
CAPACITY = 24
LENGTHS = (11, 5, 1)  # of the prompts, a row each
STEPS = 4


def caches(batch: int, capacity: int = CAPACITY) -> dict[str, Array]:
    """Empty caches, by the name of their input."""
    shape = (batch, llama.SMALL.num_key_value_heads, capacity, llama.SMALL.head_dim)
    return {given: np.zeros(shape, np.float32) for given, _ in STATIC.states}


def copies(plan: Plan) -> list[int]:
    """How many copies each entry point makes."""
    return [sum(isinstance(i, Copy) for i in entry.code) for entry in plan.entries]


def growing_steps(folder: Path, ids: Array, begin: int) -> list[Array]:
    """Logits of each token of one row from ``begin`` on, by the models that have the cache as it is so far."""
    prefill, decode = (ReferenceEvaluator(str(m.build(folder))) for m in (PREFILL, GROWING))
    feed = {"input_ids": ids[None, :begin], "attention_mask": np.ones((1, begin), np.int64)}
    _, *past = prefill.run(None, feed)
    found = []
    for at in range(begin, len(ids)):
        feed = {"input_ids": ids[None, at : at + 1], "attention_mask": np.ones((1, at + 1), np.int64)}
        logits, *past = decode.run(None, feed | dict(zip((g for g, _ in GROWING.states), past, strict=True)))
        found.append(logits)
    return found


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("llama")
    return {
        "prefill": llama.save_static(folder / "llama-prefill-static.onnx", llama.SMALL, "sequence"),
        "decode": STATIC.build(folder),
    }


@pytest.fixture(scope="module")
def shared(paths: dict[str, Path]) -> Any:
    """A whole prompt and one token as entry points that have weights and caches in common."""
    shapes = dict(STATIC.input_shapes) | {"input_ids": ("batch=1..32", "?")}  # of length 1 in one of them
    return tw.compile(paths, ("cpu:native",), input_shapes=shapes, states=STATIC.in_place, verify=False)


def tokens() -> Array:
    random = np.random.default_rng(3)
    return random.integers(1, llama.SMALL.vocab_size, (len(LENGTHS), max(LENGTHS) + STEPS))


def test_steps_equal_those_of_a_growing_cache(paths: dict[str, Path], shared: Any, tmp_path: Path) -> None:
    """Rows of unequal length side by side, each beside itself alone; a step is checked by ONNX Runtime as well."""
    runtime = pytest.importorskip("onnxruntime").InferenceSession(str(paths["decode"]))
    assert copies(shared.parts[0].plan) == [0, 0]
    session, memory, ids, begin = tw.load(shared), caches(len(LENGTHS)), tokens(), np.array(LENGTHS)
    out = {new: memory[old] for old, new in STATIC.states}
    # What the shorter prompts are filled up with is written too, beyond what their own tokens see, then overwritten.
    prompt = ids[:, : max(LENGTHS)].copy()
    prompt[np.arange(max(LENGTHS)) >= begin[:, None]] = 0
    session.run(None, {"input_ids": prompt, "position": np.zeros_like(begin)} | memory, out=out, entry="prefill")
    want = [growing_steps(tmp_path, row[: n + STEPS], n) for row, n in zip(ids, LENGTHS, strict=True)]
    for step in range(STEPS):
        at = begin + step
        feed = {"input_ids": ids[np.arange(len(ids)), at][:, None], "position": at}
        theirs = dict(zip((o.name for o in runtime.get_outputs()), runtime.run(None, feed | memory), strict=True))
        before = {name: array.copy() for name, array in memory.items()}
        logits, *_ = session.run(None, feed | memory, out=out, entry="decode")
        assert (found := compare("logits", logits, theirs["logits"], TOLERANCE)).ok, (step, found)
        for row in range(len(ids)):
            assert (found := compare("logits", logits[row : row + 1], want[row][step], TOLERANCE)).ok, (step, found)
        for old, new in STATIC.states:
            assert (found := compare(new, memory[old], theirs[new], TOLERANCE)).ok, (step, found)
            changed = (memory[old] != before[old]).any(axis=(1, 3))
            assert [list(np.flatnonzero(row)) for row in changed] == [[n] for n in at], (step, new)


def test_what_lies_beyond_is_not_seen(shared: Any) -> None:
    session, feed = tw.load(shared), STATIC.feed(3, CAPACITY)
    (before,) = session.run(["logits"], feed, entry="decode")
    for given, _ in STATIC.states:
        for row, at in enumerate(feed["position"]):
            feed[given][row, :, at:] = 1e4
    (after,) = session.run(["logits"], feed, entry="decode")
    np.testing.assert_array_equal(before, after)
    feed[STATIC.states[0][0]][0, :, 0] += 1
    assert (session.run(["logits"], feed, entry="decode")[0][0] != before[0]).any()


def test_a_full_cache_is_refused(shared: Any) -> None:
    session, feed = tw.load(shared), STATIC.feed(2, CAPACITY)
    feed["position"][1] = CAPACITY - 1
    session.run(None, feed, entry="decode")
    feed["position"][1] = CAPACITY
    with pytest.raises(InputError, match="an index in the inputs"):
        session.run(None, feed, entry="decode")


def test_entry_points_share_one_layout_of_every_weight(paths: dict[str, Path]) -> None:
    """On all of a CPU's levels, where one row has kernels of its own; and nothing is copied where a state is."""
    shapes = {name: ("1", *map(str, sizes[1:])) for name, sizes in STATIC.input_shapes.items()}
    bound = Options(("cpu",), tuple(shapes.items()))
    opened = replace(bound, input_shapes=tuple({**shapes, "input_ids": ("1", "?")}.items()))
    alone = driver.plan(paths["decode"], options=bound)
    both = driver.plan(paths, options=replace(opened, states=tuple(STATIC.in_place.items())))
    for target, one in alone.items():
        first, second = ({c.name for c in p.built.plan.constants} for p in (one, both[target]))
        assert first == second
        assert len({name.partition("[")[0] for name in first}) == len(first) > 0
        assert copies(one.built.plan) == [len(STATIC.states)]  # of caches that nobody said to be states
        assert copies(both[target].built.plan) == [0, 0]


def test_prefill_that_gives_its_cache_away(paths: dict[str, Path], tmp_path: Path) -> None:
    """The prefill without a cache beside the decoder: the caller puts its keys and values into the memory."""
    models = {"prefill": PREFILL.build(paths["decode"].parent), "decode": paths["decode"]}
    shapes = dict(STATIC.input_shapes) | {"input_ids": ("batch=1..32", "?")}
    artifact = tw.compile(models, ("cpu:native",), input_shapes=shapes, states=STATIC.in_place, verify=False)
    names = {name.partition("[")[0] for name in artifact.constants}
    assert len(names) == len(artifact.constants) and copies(artifact.parts[0].plan) == [0, 0]
    session, memory, ids = tw.load(artifact), caches(1), tokens()[:1]
    begin = LENGTHS[0]
    feed = {"input_ids": ids[:, :begin], "attention_mask": np.ones((1, begin), np.int64)}
    _, *past = session.run(None, feed, entry="prefill")
    for array, part in zip(memory.values(), past, strict=True):
        array[:, :, :begin] = part
    for at, want in enumerate(growing_steps(tmp_path, ids[0], begin), begin):
        feed = {"input_ids": ids[:, at : at + 1], "position": np.array([at])} | memory
        logits, *_ = session.run(None, feed, out={new: memory[old] for old, new in STATIC.states}, entry="decode")
        assert (found := compare("logits", logits, want, TOLERANCE)).ok, (at, found)


# -- the command line ------------------------------------------------------------------------------------------------


def test_an_entry_point_on_the_command_line(shared: Any, tmp_path: Path) -> None:
    file, feed = tmp_path / "llama.tw", STATIC.feed(2, 9)
    shared.save(file)
    np.savez(tmp_path / "feed.npz", **feed)
    (want,) = tw.load(file).run(["logits"], feed, entry="decode")
    np.save(tmp_path / "want.npy", want)
    given = ["--entry", "decode", "--data", str(tmp_path / "feed.npz")]
    expected = ["--expect", f"logits=@{tmp_path / 'want.npy'}", "--tolerance", "0"]
    done = CliRunner().invoke(main, ["run", str(file), *given, *expected], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert f"{want.dtype}{list(want.shape)}" in done.output
    trace = tmp_path / "trace.json"
    done = CliRunner().invoke(
        main, ["bench", str(file), *given, "--seconds", "0.1", "--profile", str(trace)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert "input_ids[2,1]" in done.output and "tensor_scatter" in trace.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["run", "bench"])
def test_the_entry_point_is_the_first_or_the_one_named(command: str, shared: Any, tmp_path: Path) -> None:
    """Made-up inputs have the sizes of that entry point; another name is refused with those that there are."""
    file = tmp_path / "llama.tw"
    shared.save(file)
    seconds = ["--seconds", "0.05"] if command == "bench" else []
    sizes = ["--input-shape", "input_ids:2,7", "--input-shape", "past_key_values.0.key:2,2,9,16"]
    for entry, code in (([], 0), (["--entry", "prefill"], 0), (["--entry", "decode"], 2), (["--entry", "other"], 2)):
        done = CliRunner().invoke(main, [command, str(file), *entry, *sizes, *seconds])
        assert done.exit_code == code, (entry, done.output)
    assert "unknown-entry-point" in done.output and "'prefill', 'decode'" in done.output.replace('"', "'")
