"""Sending to a WebSocket whose client may be slow, or gone; and ending it without waiting for either."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from services._base.deadline import within

__all__ = ["SocketProtocol", "hang_up", "send"]

log = logging.getLogger("agentrl.service")

EXTENSION = "agentrl.abort"
CLOSE_S = 5.0
GONE = (WebSocketDisconnect, RuntimeError, OSError)
"""What starlette and uvicorn raise where the client went first."""


class SocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's, with an ASGI extension that ends the connection at once.

    Closing it would first send what is buffered, and wait for ever for a client that does not read.
    """

    def handle_connect(self, event: Request) -> None:
        """Begin to serve a WebSocket."""
        super().handle_connect(event)
        if hasattr(self, "scope"):  # absent where the handshake was refused
            self.scope["extensions"][EXTENSION] = {"abort": self.transport.abort}  # pyright: ignore

    def keepalive_timeout(self) -> None:
        """End the connection of a client that did not answer a ping."""
        super().keepalive_timeout()
        self.transport.abort()


async def send(websocket: WebSocket, raw: bytes, timeout_s: float) -> bool:
    """Send text; return whether the connection goes on. A client that does not read is hung up on."""
    try:
        await within(timeout_s, websocket.send({"type": "websocket.send", "text": raw.decode()}))
    except TimeoutError:
        log.warning("client does not read its answers: hanging up", extra={"after_s": timeout_s})
        _abort(websocket)
    except GONE:
        log.info("client went before its answer")
    else:
        return True
    return False


async def hang_up(websocket: WebSocket) -> None:
    """Close the connection, where it is still open."""
    with contextlib.suppress(*GONE):
        if websocket.client_state is WebSocketState.CONNECTED:
            try:
                async with asyncio.timeout(CLOSE_S):
                    await websocket.close()
            except TimeoutError:
                _abort(websocket)


def _abort(websocket: WebSocket) -> None:
    extension = websocket.scope.get("extensions", {}).get(EXTENSION)
    if extension is not None:
        extension["abort"]()
