"""OpenEnv's WebSocket for MCP: a JSON-RPC request in each frame, and one session for the socket."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.websockets import WebSocket

from agentrl.errors import AgentRLError
from agentrl.remote.wire import decode, encode
from services._base.answers import next_step
from services._base.desk import Caller, Desk
from services._base.mcp import McpDesk
from services._base.sending import hang_up, send
from services._base.session import Session

__all__ = ["serve_mcp_socket"]

NORMAL_CLOSURE = (1000, 1001)
PARSE_ERROR, INVALID_REQUEST, SERVER_ERROR = -32700, -32600, -32000


async def serve_mcp_socket(websocket: WebSocket, desk: Desk, mcp: McpDesk, caller: Caller) -> None:
    """Answer one client until it goes."""
    await websocket.accept()
    deliberate = False
    try:
        deliberate = await _serve(websocket, desk, mcp, caller)
    finally:
        await asyncio.shield(_end(websocket, desk, caller, deliberate=deliberate))


async def _serve(websocket: WebSocket, desk: Desk, mcp: McpDesk, caller: Caller) -> bool:
    """Read until the client goes; return whether it meant to."""
    own: Session | None = None
    while True:
        event = await websocket.receive()
        if event["type"] == "websocket.disconnect":
            return event.get("code") in NORMAL_CLOSURE
        raw = event.get("text")
        if raw is None:
            raw = event["bytes"]
        answer: dict[str, Any]
        if len(raw) > desk.settings.max_body_bytes:
            limit = desk.settings.max_body_bytes
            answer = _failure(
                INVALID_REQUEST, f"this message is longer than the {limit:,} bytes that are read"
            )
        else:
            try:
                request = decode(raw)
                if own is None and mcp.needs_episode(request):
                    begun = await desk.answer(caller, {"type": "reset"})
                    own = caller.held.get(begun["session_id"])
                answer = await mcp.answer(request, caller, own)
            except ValueError as error:
                answer = _failure(PARSE_ERROR, f"this is not JSON: {error}")
            except AgentRLError as error:
                desk.metrics.errors.labels(error.code).inc()
                detail = {**error.to_json(), "next_step": next_step(error)}
                answer = _failure(SERVER_ERROR, f"{error.message}; {next_step(error)}", detail)
        if not await send(websocket, encode(answer), desk.settings.send_timeout_s):
            return False


async def _end(websocket: WebSocket, desk: Desk, caller: Caller, *, deliberate: bool) -> None:
    await desk.release(caller, deliberate=deliberate)
    await hang_up(websocket)


def _failure(code: int, message: str, data: Any = None) -> dict[str, Any]:
    error = {"code": code, "message": message}
    return {"jsonrpc": "2.0", "id": None, "error": error if data is None else {**error, "data": data}}
