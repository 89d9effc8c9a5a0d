"""Tools: the signature is the schema, a model's mistake is an answer, a crash is an error."""

from __future__ import annotations

import ast
import json
import time
from fractions import Fraction
from typing import Annotated, Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field

from agentrl.errors import ConfigError, StoreError, ToolError, ToolsetError
from agentrl.tool import Tool, ToolResult, call_tool, tool
from agentrl.types import ToolCall
from tools.calculator import calculator


@tool
async def paint(
    what: str,
    coats: int = 1,
    colour: Literal["Red", "Blue"] = "Red",
    opacity: Annotated[float, Field(ge=0, le=1, description="From 0 to 1.")] = 1.0,
    *,
    brush: Any,
) -> str:
    """Paint a thing."""
    return brush(what, coats, colour, opacity)


async def call(name: str, arguments: Any, tools: tuple[Tool, ...] = (paint,), **resources: Any) -> ToolResult:
    return await call_tool({t.name: t for t in tools}, ToolCall("c1", name, arguments), resources)


def test_the_signature_is_the_schema() -> None:
    assert paint.schema() == {
        "type": "function",
        "function": {
            "name": "paint",
            "description": "Paint a thing.",
            "parameters": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "what": {"type": "string"},
                    "coats": {"type": "integer", "default": 1},
                    "colour": {"type": "string", "enum": ["Red", "Blue"], "default": "Red"},
                    "opacity": {
                        "type": "number",
                        "minimum": 0,
                        "maximum": 1,
                        "default": 1.0,
                        "description": "From 0 to 1.",
                    },
                },
                "required": ["what"],
            },
        },
    }
    assert paint.resources == ("brush",)


def test_a_function_that_cannot_be_a_tool_is_refused() -> None:
    def sync(x: str) -> str:
        """Do."""
        return x

    async def bare(x: str) -> str:
        return x

    async def untyped(x) -> str:  # type: ignore[no-untyped-def]
        """Do."""
        return x

    async def many(*x: str) -> str:
        """Do."""
        return x[0]

    async def options(**x: str) -> str:
        """Do."""
        return x[""]

    for function, code in (
        (sync, "tool.not_async"),
        (bare, "tool.no_docstring"),
        (untyped, "tool.parameter"),
        (many, "tool.parameter"),
        (options, "tool.parameter"),
    ):
        with pytest.raises(ConfigError) as caught:
            tool(function)  # type: ignore[arg-type]
        assert caught.value.code == code
        assert function.__name__ in caught.value.message


async def test_a_call_runs_with_defaults_and_injected_resources() -> None:
    result = await call("paint", {"what": "door", "coats": 2}, brush=lambda *a: f"painted {a}", rag="unused")
    assert result == ToolResult("c1", "painted ('door', 2, 'Red', 1.0)")


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("pain", {}, "Error: there is no tool 'pain'. Tools: paint."),
        ("paint", {}, "Error: bad arguments for paint: what: field required."),
        ("paint", {"what": "x", "coats": "two"}, "coats: input should be a valid integer"),
        ("paint", {"what": "x", "colour": "red"}, "colour: input should be 'Red' or 'Blue'"),
        ("paint", {"what": "x", "opacity": 2}, "opacity: input should be less than or equal to 1"),
        ("paint", {"what": "x", "brush": 1}, "brush: extra inputs are not permitted"),
        ("paint", {"what": "x", "no such": 1}, "no such: extra inputs are not permitted"),
        (
            "paint",
            {"what": "\ud800"},
            "cannot read the call of paint: the arguments hold text that is not Unicode",
        ),
        (
            "paint",
            {"\udfff": 1},
            "cannot read the call of paint: the arguments hold text that is not Unicode",
        ),
    ],
)
async def test_a_models_mistake_is_an_answer(name: str, arguments: Any, answer: str) -> None:
    result = await call(name, arguments, brush=None)
    assert not result.valid
    assert answer in result.content
    assert result.call_id == "c1"


async def test_without_tools_the_answer_says_so() -> None:
    assert (await call("x", {}, ())).content == "Error: there is no tool 'x'. Tools: none."


async def test_unreadable_arguments_are_an_answer() -> None:
    unreadable = ToolCall("c1", "paint", None, "the call is not valid JSON: line 1")
    result = await call_tool({"paint": paint}, unreadable, {})
    assert (result.valid, result.content) == (
        False,
        "Error: cannot read the call of paint: the call is not valid JSON: line 1.",
    )
    assert "not a JSON object" in (await call("paint", None)).content


@given(
    st.dictionaries(
        st.sampled_from(["what", "coats", "colour", "opacity", "brush", "x"]) | st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
            ),
            max_leaves=3,
        ),
        max_size=4,
    )
)
async def test_no_arguments_whatever_raise(arguments: dict[str, Any]) -> None:
    result = await call("paint", arguments, brush=lambda *a: "done")
    assert isinstance(result.content, str)
    assert result.valid == (result.content == "done")


async def test_a_tool_error_is_told_to_the_model() -> None:
    def refuse(*_: Any) -> str:
        raise ToolError("the wall is wet")

    result = await call("paint", {"what": "wall"}, brush=refuse)
    assert (result.valid, result.content) == (False, "Error: the wall is wet")


async def test_a_crash_is_a_toolset_error() -> None:
    def crash(*_: Any) -> str:
        raise KeyError("paint")

    with pytest.raises(ToolsetError, match="tool paint failed: KeyError: 'paint'") as caught:
        await call("paint", {"what": "wall"}, brush=crash)
    assert (caught.value.code, caught.value.detail["tool"]) == ("tool.failed", "paint")


async def test_a_crash_that_is_already_classified_passes() -> None:
    def crash(*_: Any) -> str:
        raise StoreError("store.full", "full")

    with pytest.raises(StoreError):
        await call("paint", {"what": "wall"}, brush=crash)


async def test_a_missing_resource_is_the_platforms_fault() -> None:
    with pytest.raises(ToolsetError, match="brush"):
        await call("paint", {"what": "wall"})


# The calculator --------------------------------------------------------------------------------------------


async def compute(expression: str) -> str:
    return (await call("calculator", {"expression": expression}, (calculator,))).content


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        (" -2 ** 2 ", "-4"),
        ("2 ** -2", "1/4 (about 0.25)"),
        ("0.1 + 0.2", "3/10 (about 0.3)"),
        ("1/3", "1/3 (about 0.3333333333)"),
        ("1e3 - .5e3", "500"),
        ("1_000 * 1_000", "1000000"),
        ("9007199254740993.0", "9007199254740993"),
        ("0.1234567890123456789012345 * 1e25", "1234567890123456789012345"),
        ("2**64 * 2**64", "340282366920938463463374607431768211456"),
    ],
)
async def test_the_calculator_is_exact(expression: str, value: str) -> None:
    assert await compute(expression) == value


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> str:
    if depth == 0 or draw(st.booleans()):
        whole, decimals = draw(st.integers(0, 999)), draw(st.integers(0, 99))
        return draw(st.sampled_from([str(whole), f"{whole}.{decimals:02d}"]))
    left, right = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    return f"({draw(st.sampled_from(['', '-']))}{left} {draw(st.sampled_from('+-*/'))} {right})"


def by_fractions(node: ast.AST) -> Fraction:
    match node:
        case ast.Expression(body=body):
            return by_fractions(body)
        case ast.Constant(value=value):
            return Fraction(str(value))
        case ast.UnaryOp(operand=operand):
            return -by_fractions(operand)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = by_fractions(left), by_fractions(right)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
    raise AssertionError(ast.dump(node))


@given(expressions())
async def test_the_calculator_agrees_with_fractions(expression: str) -> None:
    answer = await compute(expression)
    try:
        expected = by_fractions(ast.parse(expression, mode="eval"))
    except ZeroDivisionError:
        assert answer == "Error: division by zero"
    else:
        assert Fraction(answer.partition(" (about")[0]) == expected


ATOMS = st.sampled_from(
    ["9", "1e999", "0.1", "(", ")", "**", "*", "/", "+", "-", "x", "'", "[", "lambda:", ".", " "]
)


@given(st.lists(ATOMS, max_size=60).map("".join) | st.text(max_size=250))
@example("10**10**10")
@example("9**9**9**9")
@example("((((((1/9)**64)**64)**64)**64)**64)**64")
@example("*".join(["9999999999999999999**64"] * 8))
@example("9999999999999999999**64/7")
@example("1e999999999")
@example("1e-999999999")
@example("1e" + "9" * 190)
@example("9" * 199 + "." + "9" * 400)
@example("(" * 199)
@example("(" * 99 + "1" + ")" * 99)
@example("-" * 199 + "1")
@example("__import__('os').system('true')")
@example("().__class__")
@example("'a' * 9999999999")
@example("[1] * 9999999999")
@example("True + 1")
@example("1j")
@example("1 if 1 else 2")
@example("(x := 1)")
@example("f'{1}'")
@example("1 % 2")
@example("1 << 99999999")
@example("0 ** -1")
@example("\0")
@example("\ud800")
@example("1\n+1")
async def test_hostile_expressions_are_answered_at_once(expression: str) -> None:
    began_s = time.perf_counter()
    answer = await compute(expression)
    assert time.perf_counter() - began_s < 1.0
    assert len(answer) < 6000
    number = answer.partition(" (about")[0]
    assert answer.startswith("Error: ") or isinstance(Fraction(number), Fraction)


def test_the_calculators_schema_is_what_a_model_reads() -> None:
    function = json.loads(json.dumps(calculator.schema()))["function"]
    assert function["name"] == "calculator"
    assert function["parameters"]["required"] == ["expression"]
