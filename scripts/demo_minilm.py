"""MiniLM with its real weights: compiled, checked beside ONNX Runtime, run on sentences, measured in turns with it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import tilewright as tw  # noqa: E402
from tilewright.benchmark import bench  # noqa: E402
from tilewright.cli import screen  # noqa: E402
from tilewright.cli.bench import DISTURBED  # noqa: E402
from tilewright.cli.summary import summary  # noqa: E402
from tilewright.engines import open_engine  # noqa: E402

from models import minilm  # noqa: E402

SENTENCES = (
    "A man is playing a guitar on the street.",
    "Somebody performs music in front of passers-by.",
    "The stock market fell sharply on Tuesday.",
    "Shares lost value after the bank raised its rates.",
    "Der Zug nach Basel fährt um acht Uhr ab.",
    "How do I bake bread without yeast?",
    "A recipe for a loaf that needs no leaven.",
    "The compiler turns a model into one file.",
    "A program translates a network into machine code.",
    "The cat sleeps on the warm windowsill.",
)
SHAPES = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), ("1..32", "1..256"))


def encode(sentences: Sequence[str]) -> dict[str, Any]:
    """Tokens of sentences, padded to the longest."""
    tokenizer = Tokenizer.from_file(str(minilm.source_folder() / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(256)
    encoded = tokenizer.encode_batch(list(sentences))
    return {
        "input_ids": np.array([e.ids for e in encoded], np.int64),
        "attention_mask": np.array([e.attention_mask for e in encoded], np.int64),
        "token_type_ids": np.array([e.type_ids for e in encoded], np.int64),
    }


def neighbours(ours: Any, theirs: Any) -> None:
    """Print each sentence with the one nearest to it, and how near: by us and by ONNX Runtime."""
    near, same = ours @ ours.T, theirs @ theirs.T
    np.fill_diagonal(near, -1)
    for i, j in enumerate(near.argmax(1)):
        print(f"  {SENTENCES[i]:<52} {near[i, j]:.6f}  {same[i, j]:.6f}  {SENTENCES[j]}")


def measure(artifact: Path, model: Path, feed: dict[str, Any], title: str) -> None:
    """Print times beside ONNX Runtime, both at the same number of threads."""
    result = bench(artifact, feed, against={"onnxruntime": model}, seconds=2)
    (peer,) = result.peers
    ours, theirs = (screen.duration(latency["p50"]) for latency in (result.load.latency, peer.latency))
    spread = f"p10–p90 {peer.ratio.low:.2f}–{peer.ratio.high:.2f}"
    shape = "×".join(map(str, result.shapes["input_ids"]))
    print(
        f"  {title} ({shape} tokens, {result.threads} threads): {ours}, onnxruntime {peer.version} {theirs},", end=" "
    )
    print(f"time ratio {peer.ratio.median:.2f} ({spread}), outputs differ by {peer.max_error:.1e}")
    if result.others is not None and result.others > DISTURBED:
        print(f"    (other processes kept {result.others:.1f} CPUs busy meanwhile: not the times of a quiet machine)")


def main() -> int:
    """Run the demo; 0 when the numbers agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "demo", help="where the model and artifact go")
    folder = parser.parse_args().folder
    path = folder / "minilm.tw"
    with screen.Progress("auto") as progress:
        progress("model", "MiniLM as ONNX, from its config and safetensors")
        model = minilm.build(folder)
        artifact = tw.compile(model, input_shapes=SHAPES, verify=False, progress=progress)
        progress("write", str(path))
        artifact.save(path)
        progress("verify", "beside ONNX Runtime, on real sentences, in processes apart")
        samples = [encode(SENTENCES), encode(SENTENCES[:1]), encode([" ".join(SENTENCES)] * 2)]
        checked = tw.verify(path, model, feeds=samples)
    session = tw.load(path)
    (ours,) = session.run(None, encode(SENTENCES))
    theirs = open_engine("onnxruntime", model).run(encode(SENTENCES))["sentence_embedding"]
    print("\nnearest neighbours: similarity by tilewright, by onnxruntime")
    neighbours(ours, theirs)
    print("\ntimes")
    measure(path, model, encode(SENTENCES[:1]), "one sentence")
    measure(path, model, encode(SENTENCES), "all at once")
    print()
    screen.block(summary(artifact.report, checked))
    screen.verdict(checked.ok)
    return 0 if checked.ok else 5


if __name__ == "__main__":
    sys.exit(main())
