"""The tool protocol: an async function with a signature and a docstring is a tool.

    @tool
    async def calculator(expression: str) -> str:
        \"\"\"Evaluate an arithmetic expression.\"\"\"

The signature becomes the JSON schema that the model sees, the docstring the description. Keyword-only
parameters are resources that the environment injects (a sandbox, an index): the model neither sees nor
sets them. A `ToolError` is shown to the model; anything else that escapes ends the episode as an error.

A tool that was written elsewhere (`agentrl.mcp_tools`) brings a JSON schema instead of a signature.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from agentrl.errors import ConfigError, ToolError, ToolsetError, boundary
from agentrl.types import ToolCall

__all__ = ["AnyArguments", "ForeignSchema", "Tool", "ToolResult", "call_tool", "tool"]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the model reads after a call. `valid` is False when the call itself was wrong."""

    call_id: str
    content: str
    valid: bool = True


class AnyArguments(BaseModel):
    """The `arguments` of a tool whose `foreign` schema says what they are."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True, slots=True)
class ForeignSchema:
    """A JSON schema that came from elsewhere, shown to the model word for word."""

    parameters: Mapping[str, Any]
    problem: Callable[[Mapping[str, Any]], str | None]
    """What is wrong with the arguments of a call, in words that the model can act on; None if nothing is."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that a model can call."""

    name: str
    description: str
    arguments: type[BaseModel]
    resources: tuple[str, ...]
    run: Callable[..., Awaitable[str]]
    foreign: ForeignSchema | None = None
    """Takes the place of `arguments`; `run` then gets the arguments as they were written."""

    def schema(self) -> dict[str, Any]:
        """Return the tool in OpenAI's function format."""
        if self.foreign is not None:
            parameters = dict(self.foreign.parameters)
        else:
            parameters = self.arguments.model_json_schema()
            parameters.pop("title", None)
            for properties in parameters.get("properties", {}).values():
                properties.pop("title", None)
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


def tool(function: Callable[..., Awaitable[str]]) -> Tool:
    """Make a tool of an async function that returns text.

    Raises:
        ConfigError: the function is not async, has no docstring, or leaves a parameter without a type
            (the author's mistake).
    """
    name = function.__name__
    if not inspect.iscoroutinefunction(function):
        raise ConfigError("tool.not_async", f"tool {name} must be an async function")
    description = inspect.getdoc(function)
    if not description:
        raise ConfigError("tool.no_docstring", f"tool {name} needs a docstring: the model reads it")
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    resources: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            resources.append(parameter.name)
        elif parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD or parameter.name not in hints:
            raise ConfigError("tool.parameter", f"tool {name}: parameter {parameter.name} needs a plain type")
        else:
            required = parameter.default is inspect.Parameter.empty
            fields[parameter.name] = (hints[parameter.name], ... if required else parameter.default)
    arguments = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
    return Tool(name, description, arguments, tuple(resources), function)


async def call_tool(tools: Mapping[str, Tool], call: ToolCall, resources: Mapping[str, Any]) -> ToolResult:
    """Run one call of the model; every mistake of the model comes back as text it can act on.

    Raises:
        ToolsetError: the tool itself failed or needs a resource that the environment did not give.
    """
    chosen = tools.get(call.name)
    if chosen is None:
        known = ", ".join(sorted(tools)) or "none"
        return ToolResult(
            call.call_id, f"Error: there is no tool {call.name!r}. Tools: {known}.", valid=False
        )
    problem = call.error or _unreadable(call.arguments)
    if problem or call.arguments is None:
        return ToolResult(
            call.call_id, f"Error: cannot read the call of {call.name}: {problem}.", valid=False
        )
    with boundary(ToolsetError, "tool.failed", f"tool {call.name}", tool=call.name):
        values, problem = _values(chosen, call.arguments)
        if problem is not None:
            return ToolResult(call.call_id, f"Error: bad arguments for {call.name}: {problem}.", valid=False)
        given = {name: resources[name] for name in chosen.resources}
        try:
            return ToolResult(call.call_id, await chosen.run(**values, **given))
        except ToolError as error:
            return ToolResult(call.call_id, f"Error: {error}", valid=False)


def _values(tool: Tool, given: Mapping[str, Any]) -> tuple[Mapping[str, Any], str | None]:
    """Return what `run` gets, and what is wrong with it."""
    if tool.foreign is not None:
        return given, tool.foreign.problem(given)
    try:
        arguments = tool.arguments.model_validate(dict(given))
    except ValidationError as error:
        return {}, "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg'][:1].lower()}{e['msg'][1:]}"
            for e in error.errors()
        )
    return {name: getattr(arguments, name) for name in tool.arguments.model_fields}, None


def _unreadable(arguments: Mapping[str, Any] | None) -> str | None:
    if arguments is None:
        return "the arguments are not a JSON object"
    try:
        # JSON can spell half a character ("\ud800"), which no file, socket or tokenizer takes.
        json.dumps(dict(arguments), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "the arguments hold text that is not Unicode (an unpaired surrogate)"
    except RecursionError:
        return "the arguments are nested too deeply"
    return None
