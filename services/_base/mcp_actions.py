"""OpenEnv's MCP actions: a step that lists the tools or calls one, as `MCPToolClient` sends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from services._base.desk import Caller, Desk
from services._base.refusals import invalid
from services._base.session import Session

__all__ = ["McpActions"]

LIST, CALL = "list_tools", "call_tool"


class McpActions:
    """Answers those steps. Such a client never resets: see `needs_episode`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._tools = {tool.name: tool for tool in desk.service.tools}
        self._taken = "type" not in desk.service.Action.model_fields

    def takes(self, data: Any) -> bool:
        """Return whether a step's data is an MCP action; never where the service's actions have a `type`."""
        return self._taken and isinstance(data, Mapping) and data.get("type") in (LIST, CALL)

    def needs_episode(self, data: Mapping[str, Any]) -> bool:
        """Return whether the action must have an episode to act in."""
        name = data.get("tool_name")
        return data["type"] == CALL and isinstance(name, str) and name in self._tools

    async def answer(
        self, message: Mapping[str, Any], caller: Caller, session: Session | None
    ) -> dict[str, Any]:
        """Return the data of the answer to a step with an MCP action.

        Raises:
            RequestError: the message is wrong, or there is no episode to act in.
            EnvError: the environment failed.
        """
        data = message["data"]
        if data["type"] == LIST:
            return _answer({"tools": [self._described(name) for name in self._tools]})
        name, arguments = data.get("tool_name"), data.get("arguments", {})
        if not isinstance(name, str):
            raise invalid("tool_name", "text", name)
        tool = self._tools.get(name)
        if tool is None:
            known = ", ".join(self._tools)
            return _failed(
                name[:80], "tool_not_found", f"there is no tool {name[:80]!r}; the tools are {known}"
            )
        try:
            given = tool.arguments.model_validate(arguments)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, item['loc'])) or 'arguments'}: {item['msg']}" for item in error.errors()
            )
            return _failed(name, "invalid_args", f"bad arguments for {name}: {problems[:500]}")
        action = dict(tool.action) if tool.action is not None else given.model_dump()
        taken = await self._desk.answer(caller, {**message, "data": action}, session)
        text = self._desk.service.text(taken["observation"])
        result = {
            "content": [{"type": "text", "text": text}],
            "structured_content": {key: taken[key] for key in ("observation", "reward", "done")},
            "data": text,
            "is_error": False,
        }
        shown = {"tool_name": name, "result": result, "error": None}
        return _answer(shown, taken["reward"], done=taken["done"])

    def _described(self, name: str) -> dict[str, Any]:
        tool = self._tools[name]
        schema = tool.arguments.model_json_schema()
        return {"name": name, "description": tool.description, "input_schema": schema}


def _answer(
    observation: dict[str, Any], reward: float | None = None, *, done: bool = False
) -> dict[str, Any]:
    return {"observation": observation, "reward": reward, "done": done}


def _failed(name: str, kind: str, message: str) -> dict[str, Any]:
    return _answer({"tool_name": name, "result": None, "error": {"error_type": kind, "message": message}})
