"""The tools of an MCP server that others wrote, as tools of ours.

    async with McpToolset(url="http://127.0.0.1:9000/mcp") as toolset:
        result = await call_tool(toolset.tools, call, {})

Speaks through the official `mcp` SDK, which the extra `serve` installs. The server is a process that we start
(`command`, over its standard input and output) or one that runs already (`url`, over streamable HTTP).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import json
import logging
import re
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from agentrl.errors import ConfigError, ToolError, ToolsetError, boundary
from agentrl.tool import AnyArguments, ForeignSchema, Tool

if TYPE_CHECKING:
    import mcp_types
    from mcp.client.client import Client

__all__ = ["McpToolset"]

log = logging.getLogger("agentrl.mcp")

MAX_PAGES = 100
NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
CLOSE_S = 15.0
"""How long a server may take to end: the SDK asks, then terminates, then kills, and waits after each."""
RETRY_AFTER_S = 5.0
"""How long a server that could not be reached is left alone."""
MAX_PROBLEMS, MAX_PROBLEM_CHARS = 5, 200
# JSON-RPC and MCP codes, written out so that this module imports without the SDK.
INVALID_PARAMS, INVALID_REQUEST, CONNECTION_CLOSED = -32602, -32600, -32000


@dataclass(slots=True)
class _Place:
    """The connection of one event loop."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    connection: _Connection | None = None
    failed: ToolsetError | None = None
    failed_at: float = 0.0
    leaving: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    def leave(self, connection: _Connection) -> None:
        """Close a connection without making anyone wait for it."""
        if self.connection is connection:
            self.connection = None
        task = connection.leave()
        self.leaving.add(task)
        task.add_done_callback(self.leaving.discard)


class McpToolset:
    """The tools of one MCP server, each a `Tool` under `prefix` and its own name.

    An event loop that uses them has a connection of its own (with `command`: a process of its own), opened at
    the first use, opened again at the next one when it broke, and closed by `close`.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        command: Sequence[str] | None = None,
        prefix: str = "",
        token: str | None = None,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        start_timeout_s: float = 30.0,
        max_result_chars: int = 100_000,
    ) -> None:
        """Say where the server is; nothing is opened yet.

        Args:
            token: a bearer token for `url`.
            environment: variables that the process of `command` gets beside HOME, PATH and the like; it
                inherits no others, so no secret of ours.
            timeout_s: how long a call may take.
            start_timeout_s: how long the server may take to answer for the first time.
            max_result_chars: how much of a result the model reads.

        Raises:
            ConfigError: the SDK is not installed, or not exactly one of `url` and `command` is given.
        """
        if (url is None) == (command is None) or command == ():
            raise ConfigError("mcp.server", "an MCP server needs either a url or a command")
        try:
            importlib.import_module("mcp.client.client")
        except ImportError as error:
            raise ConfigError(
                "mcp.not_installed",
                f"the tools of MCP servers need the mcp package ({error}): install agentrl[serve]",
            ) from error
        self.where = url if url is not None else " ".join(command or ())
        self._url = url
        self._command = tuple(command or ())
        self._prefix = prefix
        self._token = token
        self._environment = dict(environment or {})
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._max_result_chars = max_result_chars
        self._tools: Mapping[str, Tool] = MappingProxyType({})
        # Connections belong to the event loop that opened them; a program may run several in turn.
        self._places: WeakKeyDictionary[asyncio.AbstractEventLoop, _Place] = WeakKeyDictionary()

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The tools as the server listed them when it was last connected to; none before."""
        return self._tools

    async def __aenter__(self) -> McpToolset:
        """Open the connection and list the tools."""
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection."""
        await self.close()

    async def open(self) -> None:
        """Connect and list the tools, unless that was done.

        Raises:
            ToolsetError: the server cannot be started or reached, or what answers is no MCP server.
        """
        await self._connection()

    async def close(self) -> None:
        """Close this event loop's connection and end its process; idempotent."""
        place = self._places.pop(asyncio.get_running_loop(), None)
        if place is None:
            return
        async with place.lock:
            if place.connection is not None:
                place.leave(place.connection)
        if place.leaving:
            await asyncio.wait(place.leaving, timeout=CLOSE_S)

    async def _connection(self) -> _Connection:
        place = self._places.setdefault(asyncio.get_running_loop(), _Place())
        async with place.lock:
            if place.connection is not None and not place.connection.lost:
                return place.connection
            if place.failed is not None and time.monotonic() - place.failed_at < RETRY_AFTER_S:
                raise ToolsetError(place.failed.code, place.failed.message, place.failed.detail)
            connection = _Connection(self._client(), self.where)
            try:
                listed = await connection.open(self._start_timeout_s)
            except BaseException as error:
                place.leave(connection)
                if isinstance(error, ToolsetError):
                    place.failed, place.failed_at = error, time.monotonic()
                raise
            place.connection, place.failed = connection, None
            tools = [tool for tool in map(self._tool, listed) if tool is not None]
            self._tools = MappingProxyType({tool.name: tool for tool in tools})
            return connection

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncGenerator[Client]:
        """Connect; whichever revision of the protocol the server speaks."""
        from mcp.client.client import Client
        from mcp.client.stdio import StdioServerParameters, stdio_client
        from mcp.client.streamable_http import streamable_http_client

        async with contextlib.AsyncExitStack() as stack:
            if self._url is None:
                process = StdioServerParameters(
                    command=self._command[0], args=list(self._command[1:]), env=self._environment
                )
                transport = stdio_client(process, errlog=sys.__stderr__ or sys.stderr)
            else:
                httpx = importlib.import_module("httpx2")
                headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
                # No time-out on reading: it would end the whole connection and the other calls on it, where
                # a call's own ends only that call.
                limits = httpx.Timeout(self._start_timeout_s, read=None)
                http = await stack.enter_async_context(httpx.AsyncClient(headers=headers, timeout=limits))
                transport = streamable_http_client(self._url, http_client=http)
            yield await stack.enter_async_context(Client(transport, cache=None))

    def _tool(self, listed: mcp_types.Tool) -> Tool | None:
        """Return the tool, or None where its name or schema is of no use to a model."""

        async def run(**arguments: Any) -> str:
            return await self._call(listed.name, arguments)

        said = {"server": self.where, "tool": listed.name[:MAX_PROBLEM_CHARS]}
        if not NAME.fullmatch(listed.name):
            log.warning("left out a tool of an MCP server: no model can write its name", extra=said)
            return None
        try:
            foreign = ForeignSchema(listed.input_schema, _checker(listed.input_schema))
        except ValueError as error:
            log.warning("left out a tool of an MCP server", extra={**said, "error": str(error)})
            return None
        description = listed.description or listed.title or ""
        return Tool(self._prefix + listed.name, description, AnyArguments, (), run, foreign)

    async def _call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Call a tool and return its result as text.

        Raises:
            ToolError: the server says that the call was wrong. ToolsetError: the server failed.
        """
        connection = await self._connection()
        try:
            result = await connection.call(name, arguments, self._timeout_s)
        except ToolsetError:
            # Idle now and it answered nothing: whatever is wrong with it, the next call begins afresh.
            place = self._places.get(asyncio.get_running_loop())
            if place is not None and (connection.lost or connection.calls == 0):
                place.leave(connection)
            raise
        except ToolError as error:
            raise ToolError(self._cut(str(error))) from error
        text = self._cut(_text(result))
        if result.is_error:
            raise ToolError(text or "the tool failed and gave no reason")
        return text

    def _cut(self, text: str) -> str:
        left_out = len(text) - self._max_result_chars
        return text if left_out <= 0 else f"{text[:-left_out]}\n[cut: {left_out:,} more characters]"


class _Connection:
    """An open client, held by a task of its own: the SDK wants to be left by the task that entered it."""

    def __init__(self, client: contextlib.AbstractAsyncContextManager[Client], where: str) -> None:
        self._where = where
        self._leave = asyncio.Event()
        self._ready: asyncio.Future[tuple[Client, list[mcp_types.Tool]]] = (
            asyncio.get_running_loop().create_future()
        )
        self._broken = False
        self.calls = 0
        self._task = asyncio.create_task(self._hold(client), name="agentrl-mcp")
        self._task.add_done_callback(_retrieve)

    @property
    def lost(self) -> bool:
        """Whether it can no longer be used."""
        return self._broken or self._task.done()

    async def open(self, timeout_s: float) -> list[mcp_types.Tool]:
        """Wait until the server has listed its tools."""
        await asyncio.wait({self._task, self._ready}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self._ready.done():
            return self._ready.result()[1]
        why = f"no answer in {timeout_s:g} s" if not self._task.done() else self._reason()
        raise ToolsetError(
            "mcp.unreachable", f"cannot use the MCP server {self._where}: {why}", {"server": self._where}
        )

    async def call(
        self, name: str, arguments: Mapping[str, Any], timeout_s: float
    ) -> mcp_types.CallToolResult:
        """Call a tool."""
        from mcp.shared.exceptions import MCPError

        doing, detail = f"tool {name} of the MCP server {self._where}", {"server": self._where, "tool": name}
        client, _ = self._ready.result()
        asked = asyncio.create_task(client.call_tool(name, dict(arguments)), name="agentrl-mcp-call")
        self.calls += 1
        try:
            await asyncio.wait({asked, self._task}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done() or asked.cancelled():
                if not self._task.done():
                    raise ToolsetError("mcp.timeout", f"{doing} gave no answer in {timeout_s:g} s", detail)
                raise ToolsetError("mcp.lost", f"{doing}: the connection broke: {self._reason()}", detail)
            try:
                with boundary(ToolsetError, "mcp.failed", doing, **detail):
                    return asked.result()
            except ToolsetError as error:
                cause = error.__cause__
                if not isinstance(cause, MCPError):
                    raise
                if cause.code == INVALID_PARAMS:
                    raise ToolError(cause.message) from cause
                # The SDK says "invalid request" of a session that the server no longer knows.
                self._broken = cause.code in (CONNECTION_CLOSED, INVALID_REQUEST)
                code = "mcp.lost" if self._broken else "mcp.failed"
                raise ToolsetError(code, f"{doing} failed: {cause.message}", detail) from cause
        finally:
            self.calls -= 1
            asked.cancel()
            asked.add_done_callback(_retrieve)

    def leave(self) -> asyncio.Task[None]:
        """Begin to close, and return the task that ends when it is closed; idempotent."""
        self._broken = True
        self._leave.set()
        if not self._ready.done():
            self._task.cancel()
        return self._task

    async def _hold(self, client: contextlib.AbstractAsyncContextManager[Client]) -> None:
        async with client as opened:
            self._ready.set_result((opened, await _listed(opened)))
            await self._leave.wait()

    def _reason(self) -> str:
        if self._task.cancelled():
            return "it was closed"
        error: BaseException | None = self._task.exception()
        while isinstance(error, BaseExceptionGroup):
            error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
        return "it was closed" if error is None else f"{type(error).__name__}: {error}".rstrip(": ")


async def _listed(client: Client) -> list[mcp_types.Tool]:
    """Return all tools of all pages."""
    out: list[mcp_types.Tool] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        out += page.tools
        cursor = page.next_cursor
        if not cursor:
            return out
    raise ToolsetError("mcp.pages", f"the server lists its tools on more than {MAX_PAGES} pages")


def _checker(schema: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], str | None]:
    """Return what says how arguments do not fit the schema.

    Raises:
        ValueError: the schema is none.
    """
    validators = importlib.import_module("jsonschema.validators")
    exceptions = importlib.import_module("jsonschema.exceptions")
    registry = importlib.import_module("referencing").Registry()
    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except (exceptions.SchemaError, RecursionError) as error:
        raise ValueError(f"no JSON schema: {str(error)[:MAX_PROBLEM_CHARS]}") from error
    # An empty registry: a schema of someone else's must not make us fetch what it refers to.
    validator = kind(schema, registry=registry)

    def problem(arguments: Mapping[str, Any]) -> str | None:
        try:
            errors: Iterator[Any] = validator.iter_errors(dict(arguments))
            found = list(itertools.islice(errors, MAX_PROBLEMS))
        except RecursionError:
            return "they are nested too deeply"
        said = [
            f"{'.'.join(map(str, error.absolute_path)) or 'arguments'}: {error.message[:MAX_PROBLEM_CHARS]}"
            for error in found
        ]
        return "; ".join(said) or None

    return problem


def _text(result: mcp_types.CallToolResult) -> str:
    """Return a result as a model reads it: what is no text is named."""
    parts: list[str] = []
    for block in result.content:
        if block.type == "text":
            parts.append(block.text)
        elif block.type == "resource":
            inside = block.resource
            parts.append(getattr(inside, "text", None) or f"[resource {inside.uri}]")
        elif block.type == "resource_link":
            parts.append(f"[resource {block.uri}]")
        else:
            parts.append(f"[{block.type}, {block.mime_type}]")
    if not parts and result.structured_content is not None:
        parts.append(json.dumps(result.structured_content, ensure_ascii=False))
    return "\n".join(parts)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Look at an error that nobody waits for."""
    if not task.cancelled():
        task.exception()
