"""Tools of MCP servers that others wrote, offered beside the environment's own."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from agentrl.errors import ToolsetError
from agentrl.mcp_tools import McpToolset
from agentrl.tool import Tool, call_tool
from agentrl.types import ToolCall
from services._base.settings import McpServerSettings

__all__ = ["ExternalTools"]

log = logging.getLogger("agentrl.service")

SEPARATOR = "__"
START_WAIT_S = 5.0
"""How long a service waits for other servers before it begins to serve without their tools."""


class ExternalTools:
    """The tools of the operator's MCP servers. One that is away has none, and is looked for again in time."""

    def __init__(self, servers: Sequence[McpServerSettings]) -> None:
        """Say which servers; nothing is opened yet.

        Raises:
            ConfigError: the MCP SDK is not installed.
        """
        self._toolsets = {server.name: _toolset(server) for server in servers}
        self._seeking: dict[str, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Connect to every server until the block ends; nobody waits long for one that does not answer."""
        for name in self._toolsets:
            self._begin_to_seek(name)
        if self._seeking:
            await asyncio.wait(self._seeking.values(), timeout=START_WAIT_S)
        try:
            yield
        finally:
            for seeking in list(self._seeking.values()):
                seeking.cancel()
            await asyncio.gather(*(toolset.close() for toolset in self._toolsets.values()))

    def tools(self) -> Mapping[str, Tool]:
        """Return the tools that are known now, by their full names."""
        out: dict[str, Tool] = {}
        for name, toolset in self._toolsets.items():
            if not toolset.tools:
                self._begin_to_seek(name)
            out |= toolset.tools
        return out

    def takes(self, name: str) -> bool:
        """Whether a tool's name is one of these servers'."""
        server, separator, _ = name.partition(SEPARATOR)
        return bool(separator) and server in self._toolsets

    async def call(self, name: str, arguments: Mapping[str, Any]) -> tuple[str, bool]:
        """Call a tool and return what it says, and whether it did what was asked.

        Raises:
            ToolsetError: its server failed, is away, or took too long.
        """
        toolset = self._toolsets[name.partition(SEPARATOR)[0]]
        if not toolset.tools:
            await toolset.open()
        result = await call_tool(toolset.tools, ToolCall("mcp", name, arguments), {})
        return result.content, result.valid

    def _begin_to_seek(self, name: str) -> None:
        if name not in self._seeking:
            seeking = self._seeking[name] = asyncio.create_task(self._seek(name))
            seeking.add_done_callback(lambda _: self._seeking.pop(name, None))

    async def _seek(self, name: str) -> None:
        try:
            await self._toolsets[name].open()
        except ToolsetError as error:
            log.warning(
                "an MCP server is away: its tools are missing", extra={"server": name, "error": str(error)}
            )


def _toolset(server: McpServerSettings) -> McpToolset:
    return McpToolset(
        url=server.url,
        command=server.command,
        prefix=server.name + SEPARATOR,
        token=None if server.token_variable is None else os.environ[server.token_variable],
        environment={name: os.environ[name] for name in server.pass_environment},
        timeout_s=server.timeout_s,
        start_timeout_s=server.start_timeout_s,
    )
