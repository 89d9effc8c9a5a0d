"""MCP's own clients: the official SDK in front of the same tools, on the same path as OpenEnv's JSON-RPC.

The SDK keeps nothing between requests, because two requests of one client may reach two workers: what goes
on lives in a session of ours, and its handle travels with the client. Under a protocol with a handshake the
handle is the `Mcp-Session-Id`; under one without, `new_episode` gives it and every other tool takes it back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.types import Message, Receive, Scope, Send

from agentrl import __version__
from agentrl.errors import AgentRLError, ConfigError, EnvError, RequestError, boundary
from agentrl.remote.wire import as_object, decode, encode
from services._base.answers import JSON, next_step
from services._base.desk import Caller, Desk
from services._base.mcp import McpDesk, bad_arguments, split_handle, text_result

__all__ = ["McpServer", "mcp_routes"]

SESSION_HEADER, VERSION_HEADER = "mcp-session-id", "mcp-protocol-version"
NEW_EPISODE = "new_episode"
INSTRUCTIONS = (
    f"Call {NEW_EPISODE} to begin and read the task; then act with the other tools until the episode is "
    f"over. Where the tools take a session, pass the one that {NEW_EPISODE} gave."
)
SESSION = {
    "type": "string",
    "description": f"The session that {NEW_EPISODE} gave, in every call of its episode.",
}
OVER = f"The episode is over. {NEW_EPISODE} begins another."
WHAT_NOW = {
    "session.missing": f"call {NEW_EPISODE} and pass the session that it gives",
    "session.not_reset": f"call {NEW_EPISODE} first",
    "session.episode_done": f"call {NEW_EPISODE} for another",
    "session.ended": f"call {NEW_EPISODE}, without a session, for a new one",
    "session.unknown": f"call {NEW_EPISODE}, without a session, for a new one",
    "session.forbidden": f"pass the session exactly as {NEW_EPISODE} gave it",
}
"""The next step in an MCP client's terms, by the error's code."""
GONE = ("session.ended", "session.unknown", "session.forbidden")


class NewEpisode(BaseModel):
    """Which episode to begin: of place `index` (or `seed`) in a `split`, or by chance."""

    model_config = ConfigDict(extra="forbid")

    split: str | None = Field(default=None, description="A set of tasks, such as train.")
    index: int | None = Field(default=None, ge=0, description="A place in it.")
    seed: int | None = Field(
        default=None, ge=0, lt=1 << 63, description="Chooses the task, in place of an index."
    )


class McpServer:
    """The SDK's server."""

    def __init__(self, desk: Desk, mcp: McpDesk) -> None:
        """Make the server; nothing runs yet.

        Raises:
            ConfigError: a tool of the service has a name that is taken here (its author's mistake).
        """
        for tool in desk.service.tools:
            if tool.name == NEW_EPISODE or "session" in tool.arguments.model_fields:
                raise ConfigError(
                    "service.tool",
                    f"tool {tool.name} of {desk.service.name}: no tool may be called {NEW_EPISODE}, and no "
                    "argument session: both are MCP clients' way to say which episode they mean",
                )
        self._desk = desk
        self._mcp = mcp
        self._manager: StreamableHTTPSessionManager | None = None
        self._server: Server[dict[str, Any]] = Server(
            desk.service.name,
            version=__version__,
            description=desk.service.description,
            instructions=INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            get_tool_input_schema=lambda _: None,  # no argument of ours travels in a header
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Answer requests until the block ends."""
        # The guard has checked origin, token and size already: the SDK's own checks would only refuse hosts
        # that it was not told of.
        self._manager = StreamableHTTPSessionManager(
            self._server,
            json_response=True,
            stateless=True,
            max_request_body_size=self._desk.settings.max_body_bytes,
        )
        async with self._manager.run():
            yield

    def takes(self, request: Request, message: Any) -> bool:
        """Whether a request comes from an MCP client, rather than from one of OpenEnv's."""
        headers = request.headers
        return (
            VERSION_HEADER in headers
            or SESSION_HEADER in headers
            or "text/event-stream" in headers.get("accept", "")
            or (as_object(message) or {}).get("method") == "initialize"
        )

    def answer(self, body: bytes, owner: str, *, begins: bool) -> Response:
        """Return the answer to a request; to one that `begins` it brings a session's handle."""
        assert self._manager is not None
        handle = ".".join(self._desk.sessions.reserve(owner)) if begins else None
        return _SdkAnswer(self._manager, body, handle)

    async def _list_tools(self, context: Any, _: Any) -> ListToolsResult:
        tools = self._mcp.own_tools()
        begin = {
            "name": NEW_EPISODE,
            "description": f"Begin a new episode and read its task. {self._desk.service.description}",
            "inputSchema": NewEpisode.model_json_schema(),
        }
        if SESSION_HEADER not in context.request.headers:
            for tool in tools:
                schema = tool["inputSchema"]
                tool["inputSchema"] = {
                    **schema,
                    "properties": {"session": SESSION, **schema.get("properties", {})},
                    "required": ["session", *schema.get("required", [])],
                }
        listed = [begin, *tools, *self._mcp.external_tools()]
        return ListToolsResult.model_validate({"tools": listed})

    async def _call_tool(self, context: Any, params: CallToolRequestParams) -> CallToolResult:
        request: Request = context.request
        caller = Caller(request.state.owner, request.state.token)
        try:
            with boundary(EnvError, "mcp.failed", f"calling {params.name[:80]}"):
                result = await self._result(
                    params.name, dict(params.arguments or {}), request.headers.get(SESSION_HEADER), caller
                )
                plain = decode(encode(result))
        except AgentRLError as error:
            self._mcp.note(error)
            what_now = WHAT_NOW.get(error.code, next_step(error))
            plain = text_result(f"Error: {error.message}; {what_now}", failed=True)
        return CallToolResult.model_validate(plain)

    async def _result(
        self, name: str, arguments: dict[str, Any], handle: str | None, caller: Caller
    ) -> dict[str, Any]:
        if self._mcp.is_external(name):
            return await self._mcp.call(name, arguments, caller, {})
        given = arguments.pop("session", None)
        if name == NEW_EPISODE:
            return await self._begin(arguments, given, handle, caller)
        message = split_handle(handle if given is None else given)
        result = await self._mcp.call(name, arguments, caller, message, also=(NEW_EPISODE,))
        if result.get("structuredContent", {}).get("done"):
            result["content"].append({"type": "text", "text": OVER})
        return result

    async def _begin(
        self, arguments: dict[str, Any], given: Any, handle: str | None, caller: Caller
    ) -> dict[str, Any]:
        """Begin an episode: in the session that is named, in the connection's, or in a new one."""
        try:
            data = NewEpisode.model_validate(arguments).model_dump(exclude_none=True)
        except ValidationError as error:
            return bad_arguments(NEW_EPISODE, error)
        reset = {"type": "reset", "data": data}
        unnamed = given is None
        try:
            made = await self._desk.answer(caller, {**reset, **split_handle(handle if unnamed else given)})
        except RequestError as error:
            if not unnamed or handle is None or error.code not in GONE:
                raise
            handle = None  # its worker was started again: only a session that is named can go on
            made = await self._desk.answer(caller, reset)
        session = f"{made['session_id']}.{made['session_key']}"
        text = self._desk.service.text(made["observation"])
        if unnamed and handle is None:
            text = f"{text}\n\nsession: {session}\n(pass it as session in every call of this episode)"
        shown = {key: made[key] for key in ("observation", "reward", "done")}
        return {**text_result(text), "structuredContent": {**shown, "session": session}}


class _SdkAnswer(Response):
    """What the SDK answers to a request whose body has been read."""

    def __init__(self, manager: StreamableHTTPSessionManager, body: bytes, handle: str | None) -> None:
        super().__init__()
        self._manager = manager
        self._asked = body
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the SDK answer."""
        asked: bytes | None = self._asked

        async def replay() -> Message:
            nonlocal asked
            if asked is None:
                return await receive()
            body, asked = asked, None
            return {"type": "http.request", "body": body, "more_body": False}

        async def tell(message: Message) -> None:
            if self._handle and message["type"] == "http.response.start" and message["status"] == 200:
                header = (SESSION_HEADER.encode(), self._handle.encode())
                message = {**message, "headers": [*message["headers"], header]}
            await send(message)

        # The body is known to be JSON, and we answer nothing else: the SDK need not insist on the headers.
        kept = [pair for pair in scope["headers"] if pair[0] not in (b"accept", b"content-type")]
        headers = [*kept, (b"accept", b"application/json"), (b"content-type", b"application/json")]
        await self._manager.handle_request({**scope, "headers": headers}, replay, tell)


def mcp_routes(desk: Desk, mcp: McpDesk, server: McpServer) -> APIRouter:
    """Return the routes of both kinds of client."""
    router = APIRouter(tags=["MCP"], default_response_class=JSON)

    @router.post(
        "/mcp",
        responses={
            202: {"description": "a notification, taken note of"},
            400: {"description": "no JSON-RPC message, or a protocol version that is not served"},
            404: {"description": "no such method"},
        },
    )
    async def json_rpc(request: Request) -> Response:
        """MCP over streamable HTTP; and plain JSON-RPC 2.0 with OpenEnv's methods beside MCP's.

        The latter are openenv/session/create and openenv/session/close; tools/call then names its session as
        `params.session_id`.
        """
        body = await request.body()
        try:
            message = decode(body)
        except ValueError:
            message = None
        if server.takes(request, message):
            begins = (as_object(message) or {}).get("method") == "initialize"
            # Sent on as it was understood here, so that nobody reads it differently.
            known = body if message is None else encode(message)
            return server.answer(known, request.state.owner, begins=begins)
        return JSON(await mcp.answer(message, Caller(request.state.owner, request.state.token)))

    @router.delete("/mcp", status_code=204, responses={404: {"description": "no such session"}})
    async def end(request: Request) -> Response:
        """End the session of the Mcp-Session-Id header."""
        named = split_handle(request.headers.get(SESSION_HEADER))
        caller = Caller(request.state.owner, request.state.token)
        try:
            with boundary(EnvError, "mcp.failed", "ending a session"):
                await desk.answer(caller, {**named, "type": "close"})
        except RequestError as error:
            if error.code != "session.not_reset":  # reserved, and never begun
                raise
        return Response(status_code=204)

    return router
