"""A torch module as the reference of an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from tilewright.errors import UsageError

Array = NDArray[Any]


def torch_version() -> str:
    """Of the torch that is installed."""
    import torch

    return str(torch.__version__)


def run_torch(
    model: Any, example_args: tuple[Any, ...] | None, names: Sequence[str], outputs: Sequence[str]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Inputs and outputs of one call, by the artifact's names for them."""
    import torch
    from torch.utils import _pytree as tree

    arguments = example_args
    if arguments is None and isinstance(model, torch.export.ExportedProgram):
        arguments = model.example_inputs[0] if model.example_inputs else None
    module = model.module() if isinstance(model, torch.export.ExportedProgram) else model
    flat = [a for a in tree.tree_leaves(arguments or ()) if isinstance(a, torch.Tensor)]
    with torch.no_grad():
        results = [r for r in tree.tree_leaves(module(*(arguments or ()))) if isinstance(r, torch.Tensor)]
    if len(flat) != len(names) or len(results) != len(outputs):
        cause = f"{len(flat)} tensors in and {len(results)} out, the artifact has {len(names)} and {len(outputs)}"
        raise UsageError(
            "torch-signature", where="verify", cause=cause, fix="compile with verify=False and compare yourself"
        )
    feed = {n: a.detach().numpy() for n, a in zip(names, flat, strict=True)}
    return feed, {n: r.numpy() for n, r in zip(outputs, results, strict=True)}
