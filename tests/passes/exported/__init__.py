"""Exported decoders, kept as files; ``tests/passes/decoders.py`` made them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import onnx

OPSETS = (20, 23, 24)
#: Family, and whether there is a cache of keys and values.
MODELS = (("llama", True), ("llama", False), ("gpt2", True), ("qwen3", True))


def file_of(family: str, past: bool, opset: int) -> Path:
    """Where an export is kept."""
    return Path(__file__).parent / f"{family}-{'decode' if past else 'prefill'}-{opset}.onnx"


@cache
def exported(family: str, past: bool, opset: int) -> onnx.ModelProto:
    """A kept export."""
    return onnx.load(str(file_of(family, past, opset)))
