"""MiniLM as we build it is the model that its authors published."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from models import minilm

SENTENCES = (
    "A man is playing a guitar.",
    "Someone performs music on a string instrument.",
    "The stock market fell sharply on Tuesday after the central bank raised interest rates again.",
    "ok",
)


def feeds(batch: int, sequence: int, vocab: int) -> dict[str, np.ndarray]:
    """Ragged rows: row i has its last i tokens masked."""
    random = np.random.default_rng(1)
    lengths = np.maximum(sequence - np.arange(batch), 1)
    return {
        "input_ids": random.integers(0, vocab, (batch, sequence)),
        "attention_mask": (np.arange(sequence) < lengths[:, None]).astype(np.int64),
        "token_type_ids": np.zeros((batch, sequence), np.int64),
    }


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first, second, other = (minilm.build_small(tmp_path / n, seed=s) for n, s in (("a", 0), ("b", 0), ("c", 1)))
    assert first.read_bytes() == second.read_bytes()
    weights = [p.with_suffix(".weights").read_bytes() for p in (first, second, other)]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


@pytest.mark.parametrize(("batch", "sequence"), [(1, 8), (3, 17)])
def test_small_runs_alike_in_two_engines(tmp_path: Path, batch: int, sequence: int) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = minilm.build_small(tmp_path)
    x = feeds(batch, sequence, minilm.SMALL.vocab_size)
    (got,) = ReferenceEvaluator(str(path)).run(None, x)
    (want,) = onnxruntime.InferenceSession(str(path)).run(None, x)
    assert got.shape == (batch, minilm.SMALL.hidden_size)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    assert np.abs(got - want).max() <= 1e-5


def test_masked_tokens_change_nothing(tmp_path: Path) -> None:
    model = ReferenceEvaluator(str(minilm.build_small(tmp_path)))
    x = feeds(2, 9, minilm.SMALL.vocab_size)
    (before,) = model.run(None, x)
    hidden = x["attention_mask"] == 0
    assert hidden.any()
    x["input_ids"] = np.where(hidden, 7, x["input_ids"])
    (after,) = model.run(None, x)
    np.testing.assert_array_equal(before, after)


def test_weights_are_external_and_on_pages(tmp_path: Path) -> None:
    model = onnx.load(str(minilm.build_small(tmp_path)), load_external_data=False)
    external = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert {t.name for t in external} == set(minilm.SMALL.shapes())
    assert all(int({e.key: e.value for e in t.external_data}["offset"]) % 4096 == 0 for t in external)


def test_other_kinds_of_encoder_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden_act"):
        minilm.Config.of({"model_type": "bert", "hidden_act": "relu"})


@pytest.mark.slow
def test_real_weights_agree_with_torch(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    tokenizers = pytest.importorskip("tokenizers")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    source = minilm.source_folder()
    tokenizer = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(SENTENCES)
    x = {
        "input_ids": np.array([e.ids for e in encoded], np.int64),
        "attention_mask": np.array([e.attention_mask for e in encoded], np.int64),
        "token_type_ids": np.array([e.type_ids for e in encoded], np.int64),
    }
    assert (x["attention_mask"] == 0).any()
    model = transformers.AutoModel.from_pretrained(str(source)).eval()
    with torch.no_grad():
        hidden = model(**{n: torch.from_numpy(v) for n, v in x.items()}).last_hidden_state
        mask = torch.from_numpy(x["attention_mask"])[..., None].float()
        mean = (hidden * mask).sum(1) / mask.sum(1)
        want = torch.nn.functional.normalize(mean, dim=1).numpy()
    (got,) = onnxruntime.InferenceSession(str(minilm.build(tmp_path))).run(None, x)
    assert np.abs(got - want).max() <= 1e-5
