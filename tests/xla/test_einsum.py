"""Einstein sums that stay operators of their own."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jaxlib")

from tests.xla.reference import agree, normal

CASES = [
    ("bii->bi", ["2,3,3"]),
    ("ii", ["4,4"]),
    ("i,j->ij", ["3", "4"]),
    ("bi,bi->bi", ["2,3", "2,3"]),
    ("ij,ij->ij", ["1,4", "3,4"]),
    ("...ij,...jk->...ik", ["2,1,3,4", "5,4,6"]),
    ("bij,jk,ik->b", ["2,3,4", "4,5", "3,5"]),
    ("ijj,j->i", ["3,4,4", "4"]),
]


@pytest.mark.parametrize("equation, shapes", CASES)
def test_equations(equation: str, shapes: list[str]) -> None:
    feeds = {f"x{n}": normal(*map(int, s.split(",")), seed=n) for n, s in enumerate(shapes)}
    inputs = ", ".join(f"float[{s}] x{n}" for n, s in enumerate(shapes))
    want = np.einsum(equation, *(a.astype(np.float64) for a in feeds.values())).astype(np.float32)
    rank = ",".join("?" * want.ndim)
    result = f"float[{rank}] y" if rank else "float y"
    agree(f'g ({inputs}) => ({result}) {{ y = Einsum<equation="{equation}">({", ".join(feeds)}) }}', feeds, want=[want])


def test_padded_sums() -> None:
    x, y = normal(2, 3, 3), normal(3, 5, seed=1)
    want = np.einsum("bii,ik->bk", x, y)
    agree(
        'g (float[B,I,I] x, float[I,K] y) => (float[B,K] z) { z = Einsum<equation="bii,ik->bk">(x, y) }',
        {"x": x, "y": y},
        {"x": ("B=1..4", "I=1..8", "I"), "y": ("I", "K=1..6")},
        {"B": (4,), "I": (8,), "K": (6,)},
        want=[want],
    )
