"""Where each statement of a kernel goes under a schedule: a path of loops.

A statement stands at the shallowest place where every axis it depends on is bound and which encloses all its uses, so
that row statistics are not computed again for every tile of columns, and the operand of a reduction is computed
inside that reduction's loop when nothing else needs it. Blocks run in parallel, so nothing stands between block loops.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tilewright.kernel.analysis import refs_of, used_symbols
from tilewright.kernel.expr import Value
from tilewright.kernel.schedule import Loop, Schedule, ScheduleError
from tilewright.kernel.tile import Define, Kernel, Scan, Statement, Store


@dataclass(frozen=True, slots=True)
class Key:
    """One loop of one owner: the nest (owner ""), a reduction (its tile) or a scan (its axis). A scan whose axis is
    not tiled has one key without a loop."""

    owner: str
    index: int
    loop: Loop | None

    @property
    def axis(self) -> str | None:
        return self.loop.axis if self.loop is not None else None


Path = tuple[Key, ...]


@dataclass(slots=True)
class Placement:
    """``paths``: tile (or scan axis) → where its statement stands; ``inner``: its own reduction or scan loops."""

    kernel: Kernel
    schedule: Schedule
    pinned: dict[str, Path]
    paths: dict[str, Path] = field(default_factory=dict)
    inner: dict[str, Path] = field(default_factory=dict)
    stores: list[tuple[Store, Path]] = field(default_factory=list)
    _uses: dict[str, list[Path]] = field(default_factory=dict)

    def solve(self) -> Placement:
        """Place every statement that is used. Raises :class:`ScheduleError`."""
        for statement in reversed(self.kernel.body):
            self._place(statement, (), frozenset())
        self.stores.reverse()
        return self

    def _place(self, statement: Statement, base: Path, scanned: frozenset[str]) -> None:
        match statement:
            case Store():
                path = tuple(
                    Key("", n, loop) for n, loop in enumerate(self.schedule.loops) if loop.axis in statement.axes
                )
                self.stores.append((statement, path))
                self._use(statement.value, path)
            case Define(tile=tile, axes=axes, value=value, reduce=reduce):
                if tile not in self._uses and tile not in self.pinned:
                    return
                reduced = reduce.axes if reduce is not None else ()
                if tile in self.pinned:
                    path = self.pinned[tile]
                else:
                    path = _hoist(self._uses[tile], (used_symbols(value) | set(axes)) - set(reduced), len(base))
                    self._reject_shared(tile, path, self._uses[tile])
                self._reject_cut(tile, path, reduced)
                loops = [loop for loop in self.schedule.reduce if loop.axis in reduced and loop.axis not in scanned]
                self.paths[tile] = path
                self.inner[tile] = tuple(Key(tile, n, loop) for n, loop in enumerate(loops))
                self._use(value, path + self.inner[tile])
            case Scan():
                self._place_scan(statement)

    def _place_scan(self, scan: Scan) -> None:
        uses = [u for carry in scan.carries for u in self._uses.get(carry.tile, [])]
        if not uses:
            return
        path = _hoist(uses, scan_dependencies(scan), 0)
        self._reject_shared(scan.axis, path, uses)
        self._reject_cut(scan.axis, path, (scan.axis,))
        loops = [loop for loop in self.schedule.reduce if loop.axis == scan.axis]
        inner = tuple(Key(scan.axis, n, loop) for n, loop in enumerate(loops)) or (Key(scan.axis, 0, None),)
        self.paths[scan.axis], self.inner[scan.axis] = path, inner
        outside = {c.tile: self._uses.pop(c.tile, []) for c in scan.carries}
        body = path + inner
        for _, tile in scan.yields:
            self._uses.setdefault(tile, []).append(body)
        for statement in reversed(scan.body):
            self._place(statement, body, frozenset([scan.axis]))
        self._uses.update(outside)

    def _use(self, value: Value, where: Path) -> None:
        for ref in refs_of(value):
            self._uses.setdefault(ref.tile, []).append(where)

    def _reject_shared(self, what: str, path: Path, uses: list[Path]) -> None:
        """Blocks run in parallel: nothing made outside one may be used inside it."""
        for use in uses:
            if any(k.loop is not None and k.loop.kind == "block" for k in use[len(path) :]):
                raise ScheduleError(self.kernel.name, f"{what} is used inside a block loop and outside it")

    def _reject_cut(self, what: str, path: Path, reduced: tuple[str, ...]) -> None:
        for key in path:
            if key.axis in reduced and key.owner == "":
                raise ScheduleError(
                    self.kernel.name,
                    f"{what} needs all of axis {key.axis}, but stands inside the loop over it "
                    f"({', '.join(k.axis for k in path if k.axis)})",
                )


def scan_dependencies(scan: Scan) -> frozenset[str]:
    """Axes that a scan depends on: those of its carries and body that it does not reduce or scan itself."""
    names: set[str] = set()
    own = {c.tile for c in scan.carries} | {d.tile for d in scan.body}
    for carry in scan.carries:
        names.update(carry.axes)
    reduced = {a for d in scan.body if d.reduce is not None for a in d.reduce.axes}
    for d in scan.body:
        names.update((used_symbols(d.value) | set(d.axes)) - reduced)
        names.update(a for r in refs_of(d.value) if r.tile not in own for a in r.axes if a not in reduced)
    return frozenset(names - {scan.axis})


def _hoist(uses: list[Path], depends: frozenset[str] | set[str], least: int) -> Path:
    """The outermost prefix shared by ``uses`` that binds ``depends``, at least ``least`` loops deep and inside all
    shared block loops: what blocks over ``n`` need they compute each for itself."""
    shared = uses[0]
    for other in uses[1:]:
        length = 0
        for a, b in zip(shared, other, strict=False):
            if a != b:
                break
            length += 1
        shared = shared[:length]
    # Blocks run in parallel and share nothing: what several need, each computes.
    depth = max(least, sum(key.loop is not None and key.loop.kind == "block" for key in shared))
    for n, key in enumerate(shared):
        if key.axis in depends:
            depth = max(depth, n + 1)
    return shared[:depth]
