"""What follows a product, computed on its sums while they are in registers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tilewright.backends.cpu.place import Place
from tilewright.backends.cpu.register_tile import Contraction
from tilewright.backends.cpu.values import pointer_type, register_type
from tilewright.codegen.cstyle import C_TYPES, Text
from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType
from tilewright.kernel.analysis import offset_of, refs_of, walk
from tilewright.kernel.expr import Binary, Load, Unary
from tilewright.kernel.schedule import Alloc, Compute, Node, Write

#: Operations of a few instructions: others are spelled once in a loop, not once for each register of the tile.
CHEAP = frozenset(
    "neg abs not isnan isinf floor ceil round sign add sub mul div min max and or eq ne lt le gt ge".split()
)
#: Names that the functions of ``blocked.py`` have for themselves.
RESERVED = frozenset(
    "rows vectors columns first last a b c ahead taps depth shift a_row args sum i j live start bottom spots".split()
)
#: Values in the statements of one element at the most.
MOST_VALUES = 40


def finishing(
    place: Place, c: Contraction, rest: Sequence[Node], uses: Mapping[str, set[int]], *, tiles: bool = False
) -> tuple[Compute | Write, ...] | None:
    """The statements after ``c`` when they are all of ``rest``, cheap, element by element and store in order along the
    columns; with ``tiles`` they may also read tiles that were computed before."""
    statements = tuple(s for s in rest if isinstance(s, Compute | Write))
    if not statements or any(not isinstance(s, Compute | Write | Alloc) for s in rest):
        return None
    made = {c.node.tile}
    for s in statements:
        ops = [v for v in walk(s.value) if isinstance(v, Unary | Binary)]
        if set(s.axes) != set(c.node.axes) or any(v.op not in CHEAP for v in ops):
            return None
        if not tiles and any(r.tile not in made for r in refs_of(s.value)):
            return None
        if isinstance(s, Write) and not _in_order(place, s, c.column):
            return None
        if isinstance(s, Compute):
            if s.reduce is not None:
                return None
            made.add(s.tile)
    inside = {id(c.node), *map(id, statements)}
    if any(not uses.get(tile, set()) <= inside for tile in made):
        return None
    return statements if sum(1 for s in statements for _ in walk(s.value)) <= MOST_VALUES else None


def _in_order(place: Place, s: Write, column: str) -> bool:
    """Whether ``s`` stores consecutive columns beside each other."""
    index = _plain(s)
    return len(index) == len(s.index) and place.vectorized(column).stride(offset_of(place.params[s.tensor], index)) == 1


def _plain(access: Load | Write) -> tuple[Expr, ...]:
    return tuple(i for i in access.index if isinstance(i, Expr))


@dataclass(frozen=True, slots=True)
class Finish:
    """C text that stores what becomes of ``sum``: ``row`` and ``column`` are the identifiers of the two axes, which
    start at ``row_at`` and ``column_at``; ``arguments`` are what else it reads, declared as ``parameters``."""

    row: str
    column: str
    arguments: tuple[str, ...]
    parameters: tuple[str, ...]
    setting: tuple[str, ...]
    addresses: tuple[tuple[str, int], ...]
    body: tuple[str, ...]

    def near(self, out: Text) -> None:
        """Bring near what each row reads and writes."""
        if not self.addresses:
            return
        with out.block("if (last)"):
            out.lines(*self.setting)
            with out.block("TW_UNROLL TW_FOR(i, rows)"):
                out.line(f"const int64_t {self.row} = {self.row}_at + i, {self.column} = {self.column}_at;")
                for address, write in self.addresses:
                    out.line(f"__builtin_prefetch({address}, {write}, 3);")

    def spell(self, out: Text, *, ragged: bool = False) -> None:
        """Append the statements over the whole register tile; a ``ragged`` one may have whole vectors too many."""
        out.lines(*self.setting)
        with out.block("TW_UNROLL TW_FOR(j, vectors) TW_UNROLL TW_FOR(i, rows)"):
            out.line(f"const int64_t {self.row} = {self.row}_at + i, {self.column} = {self.column}_at + j * TW_LANES;")
            if ragged:
                out.line("if (columns <= j * TW_LANES) continue;")
            out.lines(*self.body)


def spell_finish(place: Place, c: Contraction, statements: Sequence[Compute | Write]) -> Finish:
    """The text of ``statements``."""
    assert c.row is not None
    outside, tiles = place.names, place.buffers
    place = replace(
        place,
        names={k: f"{n}_here" if n in RESERVED else n for k, n in outside.items()},
        buffers={k: replace(b, name=f"{b.name}_here") if b.name in RESERVED else b for k, b in tiles.items()},
    )
    text, row, column = Text(), place.names[c.row], place.names[c.column]
    count = place.count(c.column)
    whole = count is not None and count % place.lanes == 0
    if not whole:
        text.line("const int64_t live = columns - j * TW_LANES;")
    values = place.values(c.column, None if whole else "live", text)
    values.local[c.node.tile] = "sum[i][j]"
    addresses: dict[str, int] = {}

    def touch(access: Load | Write, write: int) -> None:
        param = place.params[access.tensor]
        offset = offset_of(param, _plain(access))
        row_moves = c.row in offset.symbols and len(_plain(access)) == len(access.index)
        if row_moves and (isinstance(access, Write) or access.fill is None) and param.dtype is DType.F32:
            addresses.setdefault(f"{place.names[access.tensor]} + {place.index(offset)}", write)

    for s in statements:
        spelled = values.spell(s.value)
        for v in walk(s.value):
            if isinstance(v, Load):
                touch(v, 0)
        if isinstance(s, Write):
            values.store(place.params[s.tensor], _plain(s), spelled)
            touch(s, 1)
        else:
            values.local[s.tile] = values.assign(s.tile, s.value.dtype, spelled)
    body = str(text).splitlines()
    words = set(re.findall(r"[A-Za-z_]\w*", "\n".join([*body, *addresses])))
    kernel = place.scope.kernel
    setting: list[str] = []
    arguments: list[tuple[str, str]] = []
    known = {p.name: n for n, p in enumerate(kernel.params)}
    dims = {name: n for n, (name, _) in enumerate(kernel.facts)}
    for symbol_name, identifier in place.names.items():
        if identifier not in words or identifier in (row, column):
            continue
        if symbol_name in known:
            p = kernel.params[known[symbol_name]]
            pointer = f"{'' if p.role == 'out' else 'const '}{pointer_type(p.dtype)} *"
            setting.append(f"{pointer}const {identifier} = ({pointer})args->buffer[{known[symbol_name]}];")
        elif symbol_name in dims:
            setting.append(f"const int64_t {identifier} = args->dim[{dims[symbol_name]}];")
        else:
            arguments.append((outside[symbol_name], f"int64_t {identifier}"))
    for tile, memory in place.buffers.items():  # several tiles may share their memory
        read = (tiles[tile].name, f"const {C_TYPES[register_type(memory.dtype)]} *{memory.name}")
        if memory.name in words and tile not in values.local and read not in arguments:
            arguments.append(read)
    outer, inner = zip(*arguments, strict=True) if arguments else ((), ())
    return Finish(row, column, outer, inner, tuple(setting), tuple(addresses.items()), tuple(body))
