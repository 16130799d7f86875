"""Sizes of a static program: what each symbol is padded to, and its true size while the program runs.

**The contract of padding.** A value's shape is a tuple of expressions over symbols. In a program each expression has
its *static* size (symbols replaced by the bucket's sizes) and its *true* size (symbols replaced by operands of the
program, one ``i32`` scalar a symbol). The valid elements of a value are those whose index is below the true size along
every dimension: always a prefix. What lies beyond is undefined (it may be NaN or infinite): a rule that lets elements
along a padded dimension meet (reduction, softmax, contraction, window, sort, gather from the end) masks them with its
identity first (:meth:`tilewright.backends.xla.rule.Rule.masked`), or refuses (:class:`Unmaskable`). A size that may be
larger in a run than it is in the program (``8 - S``) is refused as well (:mod:`tilewright.backends.xla.rising`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tilewright.backends.xla import build
from tilewright.backends.xla.dialect import bindings, stablehlo
from tilewright.backends.xla.rising import holds
from tilewright.ir.ranges import Range, bounds
from tilewright.ir.symbolic import Expr, Operation, Symbol
from tilewright.ir.types import DType


class Unmaskable(Exception):
    """A node that cannot work on padded dimensions; it gets programs of exact sizes, or runs on the host.

    ``symbols`` are those that would have to be exact; all of the node's when there are none.
    """

    def __init__(self, reason: str, symbols: Iterable[str] = ()):
        super().__init__(reason)
        self.symbols = frozenset(symbols)


class Sizes:
    """The sizes of one program.

    Args:
        bucket: the static size of each symbol.
        operands: the true size of each symbol that is padded, an ``i32`` scalar; the others are exactly of the bucket's
            size.
        known: what is known of the symbols.
    """

    def __init__(
        self, bucket: Mapping[str, int], operands: Mapping[str, Any], known: Mapping[str, Range] | None = None
    ):
        self.bucket, self.operands, self._ranges = dict(bucket), dict(operands), known or {}
        self._static: dict[Expr, int] = {}
        self._made: dict[Expr, Any] = {}
        # Sizes are computed before this operation, in front of everything that may use them in any inner region.
        self._anchor = build.splat(0, DType.I32).owner if operands else None

    def static(self, expr: Expr) -> int:
        """The size in the program. Raises :class:`Unmaskable` where a run may have a larger one."""
        if expr.is_constant:
            return expr.value
        if expr not in self._static:
            self._require_known(expr)
            if not holds(expr, self.bucket, self.operands.keys(), self._ranges):
                open_ = expr.symbols & self.operands.keys()
                told = ", ".join(sorted(open_))
                raise Unmaskable(f"the size {expr} may be larger where {told} is smaller", open_)
            self._static[expr] = expr.evaluate(self.bucket)
        return self._static[expr]

    def _require_known(self, expr: Expr) -> None:
        """Raise :class:`Unmaskable` for symbols that the program does not have: only a run tells them."""
        if late := expr.symbols - self.bucket.keys():
            raise Unmaskable(f"only a run tells {', '.join(sorted(late))}")

    def shape(self, shape: tuple[Expr, ...]) -> tuple[int, ...]:
        """Static sizes."""
        return tuple(map(self.static, shape))

    def is_padded(self, expr: Expr) -> bool:
        """Whether the true size may be less than the static one."""
        return any(s in self.operands for s in expr.symbols)

    def true(self, expr: Expr) -> Any:
        """The true size: an ``i32`` scalar, computed once where the outermost block can see it."""
        if not self.is_padded(expr):
            self._require_known(expr)
            return build.splat(self._narrow(expr, expr.evaluate(self.bucket)), DType.I32)
        if expr not in self._made:
            self._require_known(expr)
            within = {s: Range(self._least(s), n) for s, n in self.bucket.items()}
            self._narrow(expr, max(map(abs, bounds(expr, within))))
            with bindings().InsertionPoint(self._anchor):
                self._made[expr] = self._compute(expr)
        return self._made[expr]

    def _least(self, name: str) -> int:
        return max(self._ranges[name].lo, 0) if name in self._ranges and name in self.operands else 0

    def _narrow(self, expr: Expr, value: int) -> int:
        """``value``; raises :class:`Unmaskable` where it is none of 32 bits."""
        if not -(2**31) <= value < 2**31:
            raise Unmaskable(f"{expr} may be beyond 32 bits")
        return value

    def _compute(self, expr: Expr) -> Any:
        hlo = stablehlo()

        fixed = expr.substitute({n: s for n, s in self.bucket.items() if n not in self.operands})
        total: Any = None
        for monomial, coefficient in fixed.terms:
            term = build.splat(coefficient, DType.I32) if coefficient != 1 or not monomial else None
            for atom, power in monomial:
                for _ in range(power):
                    value = self._atom(atom)
                    term = value if term is None else hlo.multiply(term, value)
            total = term if total is None else hlo.add(total, term)
        return build.splat(0, DType.I32) if total is None else total

    def _atom(self, atom: Symbol | Operation) -> Any:
        hlo = stablehlo()

        if isinstance(atom, Symbol):
            return self.operands[atom.name]
        arguments = [self.true(a) for a in atom.args]
        if atom.op in ("min", "max"):
            found = arguments[0]
            for other in arguments[1:]:
                found = hlo.minimum(found, other) if atom.op == "min" else hlo.maximum(found, other)
            return found
        left, right = arguments
        remainder = hlo.remainder(hlo.add(hlo.remainder(left, right), right), right)  # divisors are positive
        return remainder if atom.op == "%" else hlo.divide(hlo.subtract(left, remainder), right)
