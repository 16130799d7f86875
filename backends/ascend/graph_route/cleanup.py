"""What is run after operators were replaced by older ones or by definitions; none of it recognises a younger one."""

from __future__ import annotations

from tilewright.passes.base import Pass
from tilewright.passes.canonicalize.canonicalize_casts import CanonicalizeCasts
from tilewright.passes.canonicalize.eliminate_common_subexpressions import EliminateCommonSubexpressions
from tilewright.passes.canonicalize.eliminate_dead_code import EliminateDeadCode
from tilewright.passes.canonicalize.eliminate_identity import EliminateIdentity
from tilewright.passes.canonicalize.fold_constants import FoldConstants


def cleanup_passes() -> list[Pass]:
    """The passes, in order."""
    return [
        CanonicalizeCasts(),
        FoldConstants(),
        EliminateIdentity(),
        EliminateCommonSubexpressions(),
        EliminateDeadCode(),
    ]
