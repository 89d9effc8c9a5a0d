"""What the tests of MCP share: the official client of a service, and plain requests."""

from __future__ import annotations

from typing import Any

import httpx2
from mcp.client.client import Client
from mcp_types import CallToolResult
from service_process import ServiceProcess

SMALL = ("env.size=small", "drain_s=0")
MODES = ["auto", "legacy", "2026-07-28"]
OWN = ["new_episode", "act", "look", "inventory"]
MCP_HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
WAIT_S = 60.0


def client_of(service: ServiceProcess, mode: str = "auto") -> Client:
    return Client(f"{service.url}/mcp", mode=mode, read_timeout_seconds=WAIT_S)


def said(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if block.type == "text")


def shown(result: CallToolResult) -> dict[str, Any]:
    assert not result.is_error, said(result)
    assert isinstance(result.structured_content, dict)
    return result.structured_content


async def begin(client: Client, **which: Any) -> dict[str, Any]:
    """Begin an episode and return its session, as the argument that names it."""
    return {"session": shown(await client.call_tool("new_episode", which))["session"]}


def session_state(service: ServiceProcess, handle: str) -> dict[str, Any]:
    session_id, _, key = handle.partition(".")
    answer = httpx2.get(f"{service.url}/sessions/{session_id}", headers={"X-Session-Key": key})
    assert answer.status_code == 200, answer.text
    return answer.json()


def rpc(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
