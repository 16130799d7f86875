"""``--mesh`` and ``--shard``: the devices of a target of programs, and how tensors are cut over them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod

from tilewright.errors import UsageError

#: How tensors are cut.
WAYS = ("auto", "tensor", "batch")
#: Axes and devices at most; slices of TPUs have up to 9,216 chips.
MOST_AXES, MOST_DEVICES = 8, 16384


def parse_mesh(text: str) -> tuple[int, ...]:
    """Devices along each axis: of ``2x4``, ``(2, 4)``. Raises :class:`UsageError` (``mesh-syntax``)."""
    if not re.fullmatch(r"\s*\d{1,9}(x\d{1,9})*\s*", text, re.ASCII):
        raise _malformed(text, "it is not SIZExSIZE")
    return tuple(map(int, text.strip().split("x")))


def check_mesh(mesh: Sequence[int], shard: str, graph_targets: Sequence[str]) -> None:
    """Raise :class:`UsageError` for a mesh that means nothing, or that no target could use.

    ``shard`` is empty where nobody asked for a way; ``graph_targets`` are the targets that are compiled to programs.
    """
    text = "x".join(map(str, mesh))
    if shard and shard not in WAYS:
        fix = f"say one of {', '.join(WAYS)}"
        raise UsageError("mesh-shard", where=f"--shard {shard}", cause="there is no such way to cut tensors", fix=fix)
    if not mesh:
        if shard:
            fix = "say which devices as well, such as --mesh 2x2"
            raise UsageError("mesh-shard", where=f"--shard {shard}", cause="there is no mesh to cut over", fix=fix)
        return
    if not all(isinstance(size, int) and size >= 1 for size in mesh) or prod(mesh) < 2:
        raise _malformed(text, "it has less than two devices")
    if len(mesh) > MOST_AXES or prod(mesh) > MOST_DEVICES:
        raise _malformed(text, f"more than {MOST_AXES} axes or {MOST_DEVICES} devices")
    if not graph_targets:
        raise UsageError(
            "mesh-target",
            where=f"--mesh {text}",
            cause="no target is one of programs that run on several devices",
            fix="compile for one that is (-t tpu:v5e, -t xla:cpu), or leave --mesh out",
        )


def _malformed(text: str, cause: str) -> UsageError:
    fix = "write devices along each axis, such as 4, 2x2 or 2x4"
    return UsageError("mesh-syntax", where=f"--mesh {text}", cause=cause, fix=fix)
