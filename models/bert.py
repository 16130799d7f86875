"""BERT with seeded weights: the encoder of :mod:`models.encoder` with BERT's own outputs.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", arXiv:1810.04805.
"""

from __future__ import annotations

from pathlib import Path

from models.builder import Array, seeded
from models.encoder import Config, save_encoder

BASE = Config(
    hidden_size=768,
    num_attention_heads=12,
    num_hidden_layers=12,
    intermediate_size=3072,
    max_position_embeddings=512,
    type_vocab_size=2,
    vocab_size=30522,
    layer_norm_eps=1e-12,
)
SMALL = Config(
    hidden_size=64,
    num_attention_heads=4,
    num_hidden_layers=2,
    intermediate_size=128,
    max_position_embeddings=128,
    type_vocab_size=2,
    vocab_size=301,
    layer_norm_eps=1e-12,
)


def save(path: Path, config: Config) -> Path:
    """Write the model at ``path``: ids, mask and token types to ``last_hidden_state`` and ``pooler_output``."""
    shapes = config.shapes() | config.pooler_shapes()

    def weight(name: str) -> Array:
        shape = shapes[name]
        # 1.5: scores differ enough for attention to choose, as in a trained model
        scale = 1.0 if "embeddings.weight" in name else 0.1 if len(shape) == 1 else 1.5 * shape[1] ** -0.5
        return seeded(name, shape, scale, 1.0 if name.endswith("LayerNorm.weight") else 0.0)

    return save_encoder(path, config, weight, "states")
