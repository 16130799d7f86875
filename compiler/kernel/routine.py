"""A routine: a kernel that a backend has in its own language, for what the tile IR cannot say (a sort, a recurrence).

It is launched as any other kernel: buffers, integers, scratch memory. The element types of its buffers are part of its
identity, so that a backend writes it once for all types.
"""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.ir.types import DType


@dataclass(frozen=True, slots=True)
class Routine:
    """``name`` is the backend's file; ``dtypes`` those of the buffers, in order; the last ``outputs`` are written.
    ``dims`` integers are passed."""

    name: str
    dtypes: tuple[DType, ...]
    outputs: int = 1
    dims: int = 0

    @property
    def identity(self) -> str:
        """A name for this routine on these types and so many integers."""
        return "_".join((self.name, *map(str, self.dtypes), str(self.dims)))
