"""Models of the zoo with all their sizes open, in padded programs, with NaN and garbage wherever there is padding."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from models import zoo
from tests.xla.run import compiled

pytest.importorskip("jaxlib")

#: By name, one check each in every run of the tests; the others are slow. In decode, past and sequence meet.
MODELS = ("gpt2", "llama-prefill", "llama-decode", "llama-decode-static", "bert-base")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


def check(name: str, folder: Path, sizes: tuple[zoo.Size, ...]) -> None:
    model = zoo.small()[name]
    path = model.build(folder)
    program = compiled(path, model.input_shapes)
    assert program.compiled is not None and len(program.compiled.padded) == 2
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options)
    names = [o.name for o in session.get_outputs()]
    for batch, length in sizes:
        feed = model.feed(batch, length)
        got = program.run(feed)
        for output, want in zip(names, session.run(None, feed), strict=True):
            off = np.abs(got[output] - want).max() / np.abs(want).max()
            assert off <= 1e-5, f"{output} at batch {batch}, length {length}: off by {off:.2g}"  # NaN fails as well


@pytest.mark.parametrize("name", MODELS)
def test_padded(name: str, folder: Path) -> None:
    check(name, folder, ((3, 17),))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_at_every_size(name: str, folder: Path) -> None:
    check(name, folder, zoo.small()[name].checks)
