"""Many index expressions as one Python function, for programs that run statement by statement."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tilewright.ir.symbolic import Atom, Expr, Symbol


def compiled(expressions: tuple[Expr, ...]) -> Callable[[Mapping[str, int]], tuple[int, ...]]:
    """A function from the values of the symbols to the values of ``expressions``.

    It raises ``KeyError`` for a symbol without a value and ``ZeroDivisionError`` as the expressions do.
    """
    if all(e.is_constant for e in expressions):
        numbers = tuple(e.value for e in expressions)
        return lambda env: numbers
    # Names are quoted, never spelled: a symbol may be called anything.
    text = ", ".join(_text(e) for e in expressions)
    function: Callable[[Mapping[str, int]], tuple[int, ...]] = eval(
        f"lambda env: ({text},)", {"__builtins__": {}, "min": min, "max": max}
    )
    return function


def _text(e: Expr) -> str:
    parts: list[str] = []
    for monomial, coefficient in e.terms:
        factors = [str(coefficient)] if coefficient != 1 or not monomial else []
        for atom, power in monomial:
            factors += [_atom(atom)] * power
        parts.append("*".join(factors))
    return f"({' + '.join(parts) or '0'})"


def _atom(atom: Atom) -> str:
    if isinstance(atom, Symbol):
        return f"env[{atom.name!r}]"
    arguments = [_text(a) for a in atom.args]
    if atom.op in ("min", "max"):
        return f"{atom.op}({', '.join(arguments)})"
    return f"({arguments[0]} {atom.op} {arguments[1]})"
