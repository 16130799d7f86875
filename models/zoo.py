"""Every model of the zoo, full size and small, with the sizes to compile it for, to check it at and to measure it at.

``python models/zoo.py FOLDER [NAME ...]`` writes them there. Weights are seeded: the same bytes on every machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

if __package__ in (None, ""):  # run as a file: the checkout is not on the path then
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models import bert, encoder, gpt2, llama, mobilenet, resnet, vit
from models.builder import Array

#: Batch and length (tokens, cached tokens, room of a cache, or pixels) of one run.
Size = tuple[int, int]
PEERS = ("onnxruntime", "openvino")


@dataclass(frozen=True, slots=True)
class Model:
    """One model.

    Attributes:
        name: also the stem of its file.
        save: writes it at a path.
        input_shapes: as for ``--input-shape``: the whole range that one artifact serves.
        make_feed: inputs for a batch, a length and a seed.
        checks: three batches × two lengths (of images: their one size).
        benches: what is worth measuring.
        states: pairs of an input and the output that is its new value.
        grows: whether the new value of a state is longer than the old one, so that it cannot be the same memory.
        peers: the engines that it is measured beside; ONNX Runtime is also its reference.
    """

    name: str
    save: Callable[[Path], Path]
    input_shapes: Mapping[str, tuple[int | str, ...]]
    make_feed: Callable[[int, int, int], dict[str, Array]]
    checks: tuple[Size, ...]
    benches: tuple[Size, ...]
    states: tuple[tuple[str, str], ...] = ()
    grows: bool = False
    peers: tuple[str, ...] = PEERS

    @property
    def in_place(self) -> dict[str, str]:
        """The states that a compiled model updates where they lie: ``states`` of ``tw.compile``."""
        return {} if self.grows else dict(self.states)

    def build(self, folder: Path) -> Path:
        """Write the model into ``folder`` (made if need be) and return the path of its ``.onnx`` file."""
        return self.save(folder / f"{self.name}.onnx")

    def feed(self, batch: int, length: int, seed: int = 0) -> dict[str, Array]:
        """Inputs of these sizes, in distribution like those of a real run; masks have absent tokens."""
        return self.make_feed(batch, length, seed)


def zoo() -> dict[str, Model]:
    """The models at their published sizes, by name."""
    return _models(resnet.Config(), mobilenet.Config(), vit.Config(), bert.BASE, gpt2.Config(), llama.Config(), 2048)


def small() -> dict[str, Model]:
    """The same graphs, two layers or blocks deep and narrow, by the same names: seconds in a test."""
    return _models(resnet.SMALL, mobilenet.SMALL, vit.SMALL, bert.SMALL, gpt2.SMALL, llama.SMALL, 128)


def _models(
    resnet_: resnet.Config,
    mobilenet_: mobilenet.Config,
    vit_: vit.Config,
    bert_: encoder.Config,
    gpt2_: gpt2.Config,
    llama_: llama.Config,
    context: int,
) -> dict[str, Model]:
    models = (
        _images("resnet50", partial(resnet.save, config=resnet_), resnet_.image_size),
        _images("mobilenetv2", partial(mobilenet.save, config=mobilenet_), mobilenet_.image_size),
        _images("vit-b16", partial(vit.save, config=vit_), vit_.image_size),
        _tokens(
            "bert-base",
            partial(bert.save, config=bert_),
            bert_.vocab_size,
            bert_.max_position_embeddings,
            kinds=bert_.type_vocab_size,
        ),
        _tokens("gpt2", partial(gpt2.save, config=gpt2_), gpt2_.vocab_size, gpt2_.n_positions),
        _tokens("llama-prefill", partial(llama.save_prefill, config=llama_), llama_.vocab_size, context),
        _decode("llama-decode", llama_, context),
        _decode_static("llama-decode-static", llama_, context),
    )
    return {m.name: m for m in models}


BATCHES = (1, 3, 8)
LENGTHS = (17, 64)
CHECKS = tuple((b, s) for b in BATCHES for s in LENGTHS)
BATCH = "batch=1..32"


def _images(name: str, save: Callable[[Path], Path], size: int) -> Model:
    def feed(batch: int, length: int, seed: int) -> dict[str, Array]:
        return {"image": _random(batch, length, seed).standard_normal((batch, 3, length, length), dtype=np.float32)}

    checks, benches = tuple((b, size) for b in BATCHES), tuple((b, size) for b in (1, 4, 16))
    return Model(name, save, {"image": (BATCH, 3, size, size)}, feed, checks, benches)


def _tokens(name: str, save: Callable[[Path], Path], vocabulary: int, longest: int, kinds: int = 0) -> Model:
    def feed(batch: int, length: int, seed: int) -> dict[str, Array]:
        random = _random(batch, length, seed)
        lengths = np.maximum(length - np.arange(batch), 1)  # row i has its last i tokens absent
        made = {
            "input_ids": random.integers(0, vocabulary, (batch, length)),
            "attention_mask": (np.arange(length) < lengths[:, None]).astype(np.int64),
        }
        return made | ({"token_type_ids": random.integers(0, kinds, (batch, length))} if kinds else {})

    names = ("input_ids", "attention_mask", *(("token_type_ids",) if kinds else ()))
    shapes = dict.fromkeys(names, (BATCH, f"sequence=1..{longest}"))
    return Model(name, save, shapes, feed, CHECKS, ((1, 8), (1, 32), (1, 128), (1, 512), (8, 64), (8, 128)))


def _decode(name: str, config: llama.Config, context: int) -> Model:
    caches = _caches(config)

    def feed(batch: int, length: int, seed: int) -> dict[str, Array]:
        random = _random(batch, length, seed)
        absent = np.minimum(np.arange(batch), length)  # row i has its first i tokens absent: prompts end together
        made = {
            "input_ids": random.integers(0, config.vocab_size, (batch, 1)),
            "attention_mask": (np.arange(length + 1) >= absent[:, None]).astype(np.int64),
        }
        return made | _past(config, batch, length, random)

    past = (BATCH, config.num_key_value_heads, f"past=1..{context - 1}", config.head_dim)
    shapes: dict[str, tuple[int | str, ...]] = {"input_ids": (BATCH, 1)}
    shapes |= {f"past_key_values.{c}": past for c in caches}
    states = tuple((f"past_key_values.{c}", f"present.{c}") for c in caches)
    save, benches = partial(llama.save_decode, config=config), ((1, 32), (1, 128), (1, 512), (8, 128))
    return Model(name, save, shapes, feed, CHECKS, benches, states, grows=True)


def _decode_static(name: str, config: llama.Config, context: int) -> Model:
    caches = _caches(config)

    def feed(batch: int, length: int, seed: int) -> dict[str, Array]:
        random = _random(batch, length, seed)
        made = {
            "input_ids": random.integers(0, config.vocab_size, (batch, 1)),
            "position": np.maximum(length * 3 // 4 - np.arange(batch), 0),  # rows of unequal length, with room left
        }
        return made | _past(config, batch, length, random)

    past = (BATCH, config.num_key_value_heads, f"capacity=1..{context}", config.head_dim)
    shapes: dict[str, tuple[int | str, ...]] = {"input_ids": (BATCH, 1), "position": (BATCH,)}
    shapes |= {f"past_key_values.{c}": past for c in caches}
    states = tuple((f"past_key_values.{c}", f"present.{c}") for c in caches)
    save, benches = partial(llama.save_static, config=config), ((1, 32), (1, 128), (1, 512), (8, 128))
    # OpenVINO 2026.4.1 has no TensorScatter.
    return Model(name, save, shapes, feed, CHECKS, benches, states, peers=("onnxruntime",))


def _caches(config: llama.Config) -> list[str]:
    return [f"{layer}.{part}" for layer in range(config.num_hidden_layers) for part in ("key", "value")]


def _past(config: llama.Config, batch: int, length: int, random: np.random.Generator) -> dict[str, Array]:
    shape = (batch, config.num_key_value_heads, length, config.head_dim)
    return {f"past_key_values.{c}": random.standard_normal(shape, dtype=np.float32) for c in _caches(config)}


def _random(batch: int, length: int, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, batch, length])


def main(arguments: Sequence[str]) -> None:
    """Write the named models, or all, into the folder that is named first."""
    models = zoo()
    for name in arguments[1:] or models:
        print(models[name].build(Path(arguments[0])))


if __name__ == "__main__":
    main(sys.argv[1:])
