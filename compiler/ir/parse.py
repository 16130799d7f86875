"""Reading the printed form of an expression."""

from __future__ import annotations

import ast

from tilewright.ir.symbolic import BUILDERS, Expr, constant, symbol


def parse(text: str) -> Expr:
    """Read the text that ``str(expr)`` prints. Raises ``ValueError`` on anything else."""
    try:
        return _from_ast(ast.parse(text, mode="eval").body)
    except (SyntaxError, ZeroDivisionError, RecursionError) as error:
        raise ValueError(f"not a dimension expression: {text!r}") from error


def _from_ast(node: ast.expr) -> Expr:
    match node:
        case ast.Constant(value=int(v)) if not isinstance(v, bool):
            return constant(v)
        case ast.Name(id=name):
            return symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=x):
            return -_from_ast(x)
        case ast.BinOp(left=a, op=op, right=b):
            left, right = _from_ast(a), _from_ast(b)
            match op:
                case ast.Add():
                    return left + right
                case ast.Sub():
                    return left - right
                case ast.Mult():
                    return left * right
                case ast.FloorDiv():
                    return left // right
                case ast.Mod():
                    return left % right
        case ast.Call(func=ast.Name(id="min" | "max" as name), args=args, keywords=[]) if args:
            return BUILDERS[name](*map(_from_ast, args))
    raise ValueError(f"not a dimension expression: {ast.dump(node)}")
