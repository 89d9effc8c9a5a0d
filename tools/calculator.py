"""Exact arithmetic for models: a small expression language, parsed, never evaluated as Python."""

from __future__ import annotations

import ast
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from agentrl.errors import ToolError
from agentrl.tool import tool

__all__ = ["calculator"]

BINARY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}
MAX_CHARACTERS = 200
MAX_EXPONENT = 64
MAX_BITS = 4096
"""Of any numerator or denominator on the way: what fits is computed in microseconds."""


@tool
async def calculator(expression: str) -> str:
    """Evaluate an arithmetic expression with + - * / ** and parentheses, exactly."""
    if len(expression) > MAX_CHARACTERS:
        raise ToolError(f"the expression is longer than {MAX_CHARACTERS} characters")
    source = expression.strip()
    try:
        value = _value(ast.parse(source, mode="eval").body, source)
    except (SyntaxError, ValueError, InvalidOperation, RecursionError, MemoryError):
        raise ToolError(f"cannot read {expression!r} as arithmetic") from None
    except ZeroDivisionError:
        raise ToolError("division by zero") from None
    if value.denominator == 1:
        return str(value.numerator)
    return f"{value} (about {Decimal(value.numerator) / Decimal(value.denominator):.10g})"


def _value(node: ast.expr, source: str) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            value = _number(number, source, node)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = -_value(operand, source)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            base, exponent = _value(left, source), _value(right, source)
            if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT or _bits(base) > 64:
                raise ToolError(f"powers need a whole exponent up to {MAX_EXPONENT} and a small base")
            value = base ** int(exponent)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
            value = BINARY[type(op)](_value(left, source), _value(right, source))
        case _:
            raise ToolError("only numbers, + - * / ** and parentheses are understood")
    if _bits(value) > MAX_BITS:
        raise ToolError("a number on the way is too large")
    return value


def _number(number: float, source: str, node: ast.expr) -> Fraction:
    if isinstance(number, int):
        return Fraction(number)
    # As it was written: a float has only 17 digits. Its exponent is looked at before it is expanded.
    written = Decimal(ast.get_source_segment(source, node) or "")
    if abs(written.adjusted()) > MAX_BITS:
        raise ToolError("a number is too large or too small")
    return Fraction(written)


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())
