"""Where element (row, column) of a matrix lies in a buffer: row-major and the fractal formats of the cube unit.

A fractal is 16 rows of 32 bytes (``c0 = 32 / element size`` columns). Capital letter: order of the fractals (Z: along
rows first, N: along columns first); small letter: order inside a fractal. L1 holds NZ, L0A zZ, L0B nZ, L0C NZ with 16
columns of 32-bit sums (Ascend C architecture pages). NC1HWC0 is NZ without the padding of rows: an image with a pixel a
row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

FRACTAL = 16
BLOCK_BYTES = 32

#: The layout that each scope of the cube unit is read and written in; ``gm`` and ``ub`` are row-major.
SCOPE_LAYOUT = {"gm": "ND", "ub": "ND", "bt": "ND", "fb": "ND", "l1": "NZ", "l0a": "zZ", "l0b": "nZ", "l0c": "NZ"}
#: What L1 also holds: rows of bias and scales, images (pixels × channels) for ``load_image``, and 32-bit matrices whose
#: fractals lie side by side in pairs, for loads that turn them.
OTHER_LAYOUTS = {"l1": frozenset(["ND", "NC1HWC0", "zZ"])}


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple that is not below ``value``."""
    return -(-value // multiple) * multiple


def fractal_columns(layout: str, element_bytes: int, scope: str) -> tuple[int, int]:
    """Rows and columns of one fractal of a matrix: (16, c0), or (c0, 16) for nZ whose fractals stand on end."""
    c0 = FRACTAL if scope == "l0c" else BLOCK_BYTES // element_bytes
    return (c0, FRACTAL) if layout == "nZ" else (FRACTAL, c0)


def square(element_bytes: int) -> int:
    """Rows and columns of the least square of fractals: loads into L0 move whole ones, so panes begin with one."""
    return max(FRACTAL, BLOCK_BYTES // element_bytes)


def padded_shape(layout: str, element_bytes: int, scope: str, rows: int, columns: int) -> tuple[int, int]:
    """The shape in whole fractals that a ``rows × columns`` matrix takes."""
    if layout == "ND":
        return rows, columns
    r, c = fractal_columns(layout, element_bytes, scope)
    return rows if layout == "NC1HWC0" else round_up(rows, r), round_up(columns, c)


def element_offsets(
    layout: str, element_bytes: int, scope: str, shape: tuple[int, int], *, rows: Any, columns: Any
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Offsets in elements of ``rows × columns`` (index arrays) in a buffer whose matrix is ``shape`` elements large."""
    r = np.asarray(rows, dtype=np.int64)[:, None]
    c = np.asarray(columns, dtype=np.int64)[None, :]
    height, width = padded_shape(layout, element_bytes, scope, *shape)
    if layout == "ND":
        return r * width + c
    fr, fc = fractal_columns(layout, element_bytes, scope)
    size = fr * fc
    if layout == "NZ":
        return ((c // fc) * (height // fr) + r // fr) * size + (r % fr) * fc + c % fc
    if layout == "NC1HWC0":
        return ((c // fc) * height + r) * fc + c % fc
    if layout == "zZ":
        return ((r // fr) * (width // fc) + c // fc) * size + (r % fr) * fc + c % fc
    if layout == "nZ":
        return ((r // fr) * (width // fc) + c // fc) * size + (c % fc) * fr + r % fr
    raise KeyError(layout)
