"""MCP's tools over OpenEnv's JSON-RPC: list, call, and sessions that are opened and closed by hand.

`mcp_server` serves the same tools to MCP's own clients.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from agentrl.errors import AgentRLError, EnvError, RequestError, boundary
from agentrl.remote.wire import as_object
from services._base.answers import next_step
from services._base.desk import Caller, Desk
from services._base.external import ExternalTools
from services._base.service import ServiceTool
from services._base.session import Session

__all__ = ["McpDesk", "bad_arguments", "split_handle", "text_result"]

log = logging.getLogger("agentrl.service")

INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, SERVER_ERROR = -32600, -32601, -32602, -32000


class McpDesk:
    """Answers JSON-RPC about a service's tools, and those of others' servers beside them."""

    def __init__(self, desk: Desk, external: ExternalTools) -> None:
        self._desk = desk
        self._external = external
        self._tools = {tool.name: tool for tool in desk.service.tools}

    def own_tools(self) -> list[dict[str, Any]]:
        """Return the environment's tools as MCP lists them."""
        return [
            {
                "name": tool.name,
                "description": tool.description,
                "inputSchema": tool.arguments.model_json_schema(),
            }
            for tool in self._tools.values()
        ]

    def external_tools(self) -> list[dict[str, Any]]:
        """Return the tools of other servers, which know nothing of sessions, as MCP lists them."""
        described = [tool.schema()["function"] for tool in self._external.tools().values()]
        return [
            {"name": tool["name"], "description": tool["description"], "inputSchema": tool["parameters"]}
            for tool in described
        ]

    def is_external(self, name: str) -> bool:
        """Whether a tool is another server's."""
        return self._external.takes(name)

    async def answer(self, request: Any, caller: Caller, session: Session | None = None) -> dict[str, Any]:
        """Return the JSON-RPC answer to a request.

        Args:
            session: the WebSocket's own; over HTTP a call names one in `params.session_id`.
        """
        asked = as_object(request) or {}
        method = asked.get("method")
        if not isinstance(method, str):
            return _failure(None, INVALID_REQUEST, 'expected {"jsonrpc": "2.0", "id", "method", "params"}')
        name = asked.get("id")
        if not isinstance(name, str | int | float | None):
            name = None
        given = asked.get("params")
        params: Mapping[str, Any] | None = {} if given is None else as_object(given)
        if params is None:
            return _failure(name, INVALID_PARAMS, "params must be an object")
        try:
            with boundary(EnvError, "mcp.failed", f"answering {method[:80]}"):
                result = await self._result(method, params, caller, session)
        except AgentRLError as error:
            self.note(error)
            code = INVALID_PARAMS if error.code.startswith(("wire.", "session.")) else SERVER_ERROR
            detail = {**error.to_json(), "next_step": next_step(error)}
            return _failure(name, code, f"{error.message}; {next_step(error)}", detail)
        if result is None:
            methods = "tools/list, tools/call, openenv/session/create, openenv/session/close"
            return _failure(name, METHOD_NOT_FOUND, f"there is no method {method[:80]!r}: use {methods}")
        return {"jsonrpc": "2.0", "id": name, "result": result}

    def needs_episode(self, request: Any) -> bool:
        """Return whether a request calls a tool and names no session to call it in."""
        asked = as_object(request) or {}
        params = as_object(asked.get("params"))
        if asked.get("method") != "tools/call" or params is None or params.get("session_id") is not None:
            return False
        name = params.get("name")
        return isinstance(name, str) and name in self._tools

    def note(self, error: AgentRLError) -> None:
        """Count an error, and log it unless it is the client's."""
        self._desk.metrics.errors.labels(error.code).inc()
        if not isinstance(error, RequestError):
            log.error(
                "MCP request failed", extra={"code": error.code, "error": error.message}, exc_info=error
            )

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        caller: Caller,
        message: Mapping[str, Any],
        session: Session | None = None,
        also: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Return MCP's result of calling a tool; a wrong call is a result that says so.

        Args:
            message: names the session that an environment's tool acts in, unless there is a `session`.
            also: the names of other tools that this client could have called.

        Raises:
            RequestError: the session is not to be had, or not now.
            EnvError, ToolsetError: the environment, or the other server, failed.
        """
        if self._external.takes(name):
            said, fine = await self._external.call(name, arguments)
            return text_result(said, failed=not fine)
        tool = self._tools.get(name)
        if tool is None:
            known = ", ".join([*also, *self._tools, *self._external.tools()])
            return text_result(f"there is no tool {name[:80]!r}; the tools are {known}", failed=True)
        try:
            action = _action(tool, arguments)
        except ValidationError as error:
            return bad_arguments(name, error)
        if session is not None and session.state["episode_id"] is None:
            await self._desk.answer(caller, {"type": "reset"}, session)
        taken = await self._desk.answer(caller, {**message, "type": "step", "data": action}, session)
        return {
            **text_result(self._desk.service.text(taken["observation"])),
            "structuredContent": {key: taken[key] for key in ("observation", "reward", "done")},
        }

    async def _result(
        self, method: str, params: Mapping[str, Any], caller: Caller, session: Session | None
    ) -> dict[str, Any] | None:
        if method == "tools/list":
            return {"tools": [*self.own_tools(), *self.external_tools()]}
        if method == "openenv/session/create":
            if session is not None:
                return {"session_id": session.session_id}
            data = {key: value for key, value in params.items() if key != "session_id"}
            made = await self._desk.answer(caller, {"type": "reset", "data": data})
            return {
                "session_id": f"{made['session_id']}.{made['session_key']}",
                "observation": made["observation"],
            }
        message = split_handle(params.get("session_id"))
        if method == "openenv/session/close":
            await self._desk.answer(caller, {**message, "type": "close"})
            return {"session_id": params["session_id"], "closed": True}
        if method == "tools/call":
            name, given = params.get("name"), params.get("arguments")
            arguments: Mapping[str, Any] | None = {} if given is None else as_object(given)
            if not isinstance(name, str) or arguments is None:
                return text_result("a call needs a name, and arguments that are an object", failed=True)
            return await self.call(name, arguments, caller, message, session)
        return None


def split_handle(handle: Any) -> dict[str, Any]:
    """Return the `session_id` and `session_key` of `<id>.<key>`, as a message has them."""
    if not isinstance(handle, str):
        return {} if handle is None else {"session_id": handle}
    session_id, _, key = handle.partition(".")
    return {"session_id": session_id, "session_key": key or None}


def bad_arguments(name: str, error: ValidationError) -> dict[str, Any]:
    """Return the result of a call with arguments that do not fit."""
    problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors())
    return text_result(f"bad arguments for {name}: {problems[:500]}", failed=True)


def _action(tool: ServiceTool, arguments: Mapping[str, Any]) -> dict[str, Any]:
    given = tool.arguments.model_validate(dict(arguments))
    return dict(tool.action) if tool.action is not None else given.model_dump()


def text_result(text: str, *, failed: bool = False) -> dict[str, Any]:
    """Return MCP's result that says something."""
    return {"content": [{"type": "text", "text": text}], "isError": failed}


def _failure(name: Any, code: int, message: str, data: Any = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": name, "error": error}
