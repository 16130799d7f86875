"""Sentences with queries that ask for them, by topic: some to calibrate on, the others to judge an encoder by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models import minilm
from models.builder import Array

FILE = Path(__file__).with_suffix(".txt")
LONGEST = 256


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence and a query that restates it or asks for it."""

    topic: str
    sentence: str
    query: str


def read(part: str) -> list[Pair]:
    """The pairs of one part, ``calibration`` or ``test``; the parts have no topic in common."""
    pairs, current, topic = [], "", ""
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            current, _, topic = line[1:].partition("] ")
        elif line and not line.startswith("#") and current == part:
            sentence, _, query = line.partition(" | ")
            pairs.append(Pair(topic, sentence, query))
    return pairs


def texts(part: str) -> list[str]:
    """Every sentence of a part, then every query."""
    pairs = read(part)
    return [p.sentence for p in pairs] + [p.query for p in pairs]


def encode(sentences: Sequence[str]) -> dict[str, Array]:
    """Tokens of sentences, padded to the longest."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm.source_folder() / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(LONGEST)
    encoded = tokenizer.encode_batch(list(sentences))
    return {
        "input_ids": np.array([e.ids for e in encoded], np.int64),
        "attention_mask": np.array([e.attention_mask for e in encoded], np.int64),
        "token_type_ids": np.array([e.type_ids for e in encoded], np.int64),
    }


@dataclass(frozen=True, slots=True)
class Batches:
    """Sentences in batches of equal numbers of tokens, so that none is padded: ``order[i]`` is where row ``i`` of all
    batches, one after the other, stands among the sentences.
    """

    feeds: tuple[dict[str, Array], ...]
    order: Array

    def in_order(self, rows: Iterator[Array]) -> Array:
        """Results of the batches, a row for each sentence, in the order of the sentences."""
        stacked = np.concatenate(list(rows))
        result = np.empty_like(stacked)
        result[self.order] = stacked
        return result


def batches(sentences: Sequence[str], size: int = 32) -> Batches:
    """``sentences`` in :class:`Batches` of at most ``size``."""
    whole = encode(sentences)
    lengths = whole["attention_mask"].sum(1)
    feeds, order = [], []
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        for some in np.split(rows, range(size, len(rows), size)):
            feeds.append({name: array[some, :length] for name, array in whole.items()})
            order.append(some)
    return Batches(tuple(feeds), np.concatenate(order))


@dataclass(frozen=True, slots=True)
class Judgement:
    """Embeddings beside those of the float model.

    Attributes:
        cosine, least: of each embedding to the float one: the mean, and the least of all.
        agreement: share of the queries whose nearest sentence is the one that the float model finds.
        found: share of the queries whose nearest sentence is their own.
    """

    cosine: float
    least: float
    agreement: float
    found: float


def judge(embeddings: Array, floats: Array) -> Judgement:
    """Judge embeddings of :func:`texts`, a row each, of unit length; ``floats`` are those of the float model."""
    cosines = (embeddings * floats).sum(1) / (np.linalg.norm(embeddings, axis=1) * np.linalg.norm(floats, axis=1))
    queries = len(floats) // 2

    def nearest(rows: Array) -> Array:
        return np.asarray((rows[queries:] @ rows[:queries].T).argmax(1))

    ours, theirs = nearest(embeddings), nearest(floats)
    found = float((ours == np.arange(queries)).mean())
    return Judgement(float(cosines.mean()), float(cosines.min()), float((ours == theirs).mean()), found)
