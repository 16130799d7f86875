"""Routines in C: a file of ``native/routines/`` with the element types of a call filled in.

What a file of routines may rely on is said in ``native/routine.h``.
"""

from __future__ import annotations

import re
from functools import cache

from tilewright.backends.cpu.machine import FOLDER, lanes
from tilewright.codegen.cstyle import C_TYPES
from tilewright.ir.types import DType
from tilewright.kernel.routine import Routine
from tilewright.target import Target

_FOLDER = FOLDER / "native" / "routines"

#: Half precisions are computed in f32; by dtype, the functions that read and write them.
_HALF = {DType.F16: ("tw_from_f16", "tw_to_f16"), DType.BF16: ("tw_from_bf16", "tw_to_bf16")}


@cache
def routines() -> frozenset[str]:
    """Names of the routines there are."""
    return frozenset(p.stem for p in _FOLDER.glob("*.h"))


def emit_routine(routine: Routine, symbol: str, target: Target) -> str:
    """One translation unit that defines ``symbol``. Files that the routine includes are written out in place."""
    text = _text(routine.name)
    lines = [f"#define TW_LANES {lanes(target)}"] if '#include "vec_' in text else []
    lines += ['#include "routine.h"', f"#define ROUTINE {symbol}"]
    for n, dtype in enumerate(routine.dtypes):
        c = C_TYPES[dtype]
        element = f"((T{n} *)BUFFER({n}))[(i)]"
        load, store = _HALF.get(dtype, ("", ""))
        lines.append(f"#define T{n} {c}")
        lines.append(f"#define V{n} {'float' if load else c}")
        lines.append(f"#define GET{n}(i) {load}({element})")
        lines.append(f"#define PUT{n}(i, v) ({element} = {store or f'(T{n})'}(v))")
    return "\n".join(lines) + f"\n{text}"


@cache
def _text(name: str) -> str:
    """A file of routines with the other files of its folder that it includes; others are headers of ``native/``."""
    text = (_FOLDER / f"{name}.h").read_text(encoding="utf-8")
    return re.sub(
        r'^#include "(\w+)\.h"$',
        lambda m: _text(m[1]) if (_FOLDER / f"{m[1]}.h").exists() else m[0],
        text,
        flags=re.MULTILINE,
    )
