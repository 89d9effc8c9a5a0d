"""The tool protocol: an async function with a signature and a docstring is a tool.

    @tool
    async def calculator(expression: str) -> str:
        \"\"\"Evaluate an arithmetic expression.\"\"\"

The signature becomes the JSON schema that the model sees, the docstring the description. Keyword-only
parameters are resources that the environment injects (a sandbox, an index): the model neither sees nor
sets them. A `ToolError` is shown to the model; anything else that escapes ends the episode as an error.
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

__all__ = ["Tool", "ToolResult", "call_tool", "tool"]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the model reads after a call. `valid` is False when the call itself was wrong."""

    call_id: str
    content: str
    valid: bool = True


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that a model can call."""

    name: str
    description: str
    arguments: type[BaseModel]
    resources: tuple[str, ...]
    run: Callable[..., Awaitable[str]]

    def schema(self) -> dict[str, Any]:
        """Return the tool in OpenAI's function format."""
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
    try:
        arguments = chosen.arguments.model_validate(dict(call.arguments))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg'][:1].lower()}{e['msg'][1:]}"
            for e in error.errors()
        )
        return ToolResult(call.call_id, f"Error: bad arguments for {call.name}: {problems}.", valid=False)
    with boundary(ToolsetError, "tool.failed", f"tool {call.name}", tool=call.name):
        given = {name: resources[name] for name in chosen.resources}
        values = {name: getattr(arguments, name) for name in chosen.arguments.model_fields}
        try:
            return ToolResult(call.call_id, await chosen.run(**values, **given))
        except ToolError as error:
            return ToolResult(call.call_id, f"Error: {error}", valid=False)


def _unreadable(arguments: Mapping[str, Any] | None) -> str | None:
    if arguments is None:
        return "the arguments are not a JSON object"
    try:
        # JSON can spell half a character ("\ud800"), which no file, socket or tokenizer takes.
        json.dumps(dict(arguments), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "the arguments hold text that is not Unicode (an unpaired surrogate)"
    return None
