"""The WebSocket: OpenEnv's messages, one session for a socket, and our batches, many sessions in a frame."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from starlette.websockets import WebSocket

from agentrl.errors import AgentRLError, EnvError, RequestError, boundary
from agentrl.remote.wire import MAX_BATCH, as_list, as_object, decode, encode
from services._base.answers import socket_error
from services._base.deadline import telling
from services._base.desk import Caller, Desk
from services._base.mcp import McpDesk
from services._base.mcp_actions import McpActions
from services._base.peers import PEER_EXTRA_BYTES
from services._base.refusals import invalid
from services._base.sending import hang_up, send
from services._base.session import NOT_BEGUN, Session

__all__ = ["serve_socket"]

log = logging.getLogger("agentrl.service")

MAX_UNSENT_BYTES = 8 << 20
"""Of answers, above which a connection is read no further."""
FRAME_BYTES = 1 << 20
"""Above which the answers of a batch begin another frame."""
MAX_TAG = 255
NORMAL_CLOSURE = (1000, 1001)
EXAMPLE = '{"type": "reset", "data": {}}'
ANSWERING = "answering a message"


async def serve_socket(websocket: WebSocket, desk: Desk, mcp: McpDesk, caller: Caller) -> None:
    """Answer one client until it goes."""
    await websocket.accept()
    caller.name = secrets.token_hex(8)
    line = _Line(websocket, desk, mcp, caller)
    deliberate = False
    try:
        deliberate = await line.serve()
    finally:
        await asyncio.shield(line.end(deliberate=deliberate))


class _Line:
    """One connection. Single messages are answered in their order, the items of a batch each when it is done.

    What was begun is finished even where the client goes meanwhile: it may come back and ask again.
    """

    def __init__(self, websocket: WebSocket, desk: Desk, mcp: McpDesk, caller: Caller) -> None:
        self._websocket = websocket
        self._desk = desk
        self._mcp = mcp
        self._actions = McpActions(desk)
        self._caller = caller
        self._own: Session | None = None
        """The session of a plain OpenEnv client."""
        self._items: set[asyncio.Task[None]] = set()
        self._outbox: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._sending: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._over = False
        server = websocket.scope.get("server")
        self._is_worker = desk.workers > 1 and server is not None and server[1] is None
        """Whether another worker speaks here, on the private socket, for clients of its own."""
        self._clients: dict[str, Caller] = {}

    async def serve(self) -> bool:
        """Read until the client goes; return whether it meant to."""
        receive, limit = self._websocket.receive, self._desk.settings.max_body_bytes
        if self._is_worker:
            limit += PEER_EXTRA_BYTES
        while not self._over:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                return event.get("code") in NORMAL_CLOSURE
            raw = event.get("text")
            if raw is None:
                raw = event["bytes"]
            try:
                message = _read(raw, limit)
                if message.get("type") == "batch":
                    self._begin_batch(message)
                    await self._make_room()
                    continue
                if message.get("type") == "close" and "session_id" not in message:
                    return True
                answer = await self._answer(message)
            except AgentRLError as error:
                answer = self._error(error, {})
            await self._send(self._encoded(answer))
        return False

    async def end(self, *, deliberate: bool) -> None:
        """Let the sessions go, and hang up."""
        self._over = True
        if self._sending is not None:
            self._sending.cancel()
        for caller in (self._caller, *self._clients.values()):
            await self._desk.release(caller, deliberate=deliberate)
        await hang_up(self._websocket)

    async def _answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        kind = message.get("type")
        try:
            if kind == "mcp":
                if self._own is None and self._mcp.needs_episode(message.get("data")):
                    await self._begin()
                data = await self._mcp.answer(message.get("data"), self._caller, self._own)
                return _frame("mcp", data, message)
            called = kind == "step" and self._actions.takes(message.get("data"))
            if "session_id" in message:
                session = None
            else:
                if called and self._own is None and self._actions.needs_episode(message["data"]):
                    await self._begin()
                session = self._own
                if session is not None and session.ended is not None and kind == "reset":
                    session = None
                if session is None and kind == "state":
                    return _frame("state", NOT_BEGUN, message)
                if session is None and kind == "step" and not called:
                    raise RequestError(
                        "session.not_reset", "a step before the first reset", f"send {EXAMPLE}"
                    )
            with boundary(EnvError, "env.failed", ANSWERING):
                if called:
                    data = await self._actions.answer(message, self._caller, session)
                else:
                    data = await self._desk.answer(self._caller, message, session)
            if kind == "reset" and "session_id" not in message:
                self._own = self._caller.held.get(data["session_id"])
        except AgentRLError as error:
            return self._error(error, message)
        return _frame("observation" if kind in ("reset", "step") else "state", data, message)

    async def _begin(self) -> None:
        """Begin an episode by chance: OpenEnv's MCP clients call tools and never reset."""
        with boundary(EnvError, "env.failed", "beginning an episode"):
            data = await self._desk.answer(self._caller, {"type": "reset"})
        self._own = self._caller.held.get(data["session_id"])

    def _error(self, error: AgentRLError, message: Mapping[str, Any]) -> dict[str, Any]:
        self._desk.metrics.errors.labels(error.code).inc()
        if not isinstance(error, RequestError):
            log.error("request failed", extra={"code": error.code, "error": error.message}, exc_info=error)
        return _frame("error", socket_error(error), message)

    def _begin_batch(self, frame: Mapping[str, Any]) -> None:
        items = as_list(frame.get("items"))
        if items is None or len(items) > MAX_BATCH:
            raise invalid("items", f"a list of at most {MAX_BATCH} messages", frame.get("items"))
        self._begin_items(iter(items))

    def _begin_items(self, items: Iterator[Any]) -> None:
        task = asyncio.create_task(self._answer_items(items))
        self._items.add(task)
        task.add_done_callback(self._item_done)

    async def _answer_items(self, items: Iterator[Any]) -> None:
        """Answer one after another, as long as none has to wait: then another task goes on with the rest."""
        try:
            for item in items:
                while self._unsent_bytes >= MAX_UNSENT_BYTES and not self._over:
                    self._room.clear()
                    await self._room.wait()
                await telling(self._answer_item(item), lambda: self._begin_items(items))
        except Exception:
            self._begin_items(items)
            raise

    def _item_done(self, item: asyncio.Task[None]) -> None:
        self._items.discard(item)
        self._room.set()

    async def _make_room(self) -> None:
        """Read no more while too much is under way, or waits for a client that reads slowly."""
        while not self._over and (len(self._items) >= MAX_BATCH or self._unsent_bytes >= MAX_UNSENT_BYTES):
            self._room.clear()
            await self._room.wait()

    async def _answer_item(self, item: Any) -> None:
        message = as_object(item) or {}
        try:
            if not isinstance(item, dict):
                raise invalid("items", "messages, each an object", item)
            kind = message.get("type")
            with boundary(EnvError, "env.failed", ANSWERING):
                if not self._is_worker:
                    data = await self._desk.answer(self._caller, message)
                elif kind == "left":
                    data = await self._let_client_go(message)
                else:
                    data = await self._desk.answer(self._client(message), message)
            answer = _frame("observation" if kind in ("reset", "step") else "state", data, message)
        except AgentRLError as error:
            answer = self._error(error, message)
        if self._over:
            return
        raw = self._encoded(answer)
        self._outbox.append(raw)
        self._unsent_bytes += len(raw)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_batches())

    def _client(self, message: Mapping[str, Any]) -> Caller:
        """Return the stand-in for a client of another worker."""
        name = message.get("caller")
        known = self._clients.get(name) if isinstance(name, str) else None
        if known is None:
            known = Caller(self._caller.owner, self._caller.token, passed_on=True)
            if isinstance(name, str):
                self._clients[name] = known
        return known

    async def _let_client_go(self, message: Mapping[str, Any]) -> dict[str, Any]:
        client = self._clients.pop(str(message.get("caller")), None)
        if client is not None:
            await self._desk.release(client, deliberate=bool(message["data"]["deliberate"]))
        return {}

    async def _send_batches(self) -> None:
        try:
            while self._outbox and not self._over:
                items, size = list[bytes](), 0
                while self._outbox and size < FRAME_BYTES:
                    items.append(self._outbox.popleft())
                    size += len(items[-1])
                await self._send(b'{"type":"batch","items":[' + b",".join(items) + b"]}")
                self._unsent_bytes -= size
                self._room.set()
        finally:
            self._sending = None

    def _encoded(self, answer: dict[str, Any]) -> bytes:
        try:
            return encode(answer)
        except AgentRLError as error:
            return encode(self._error(error, answer))

    async def _send(self, raw: bytes) -> None:
        if not await send(self._websocket, raw, self._desk.settings.send_timeout_s):
            self._over = True
            self._room.set()


def _read(raw: str | bytes, limit: int) -> Mapping[str, Any]:
    if len(raw) > limit:
        raise RequestError(
            "wire.too_large",
            f"this message has {len(raw):,} bytes, more than the {limit:,} that are read",
            "send less at once, or raise max_body_bytes",
        )
    try:
        value = decode(raw)
    except ValueError as error:
        raise RequestError(
            "wire.invalid_json", f"this is not JSON: {error}", f"send for example {EXAMPLE}"
        ) from None
    message = as_object(value)
    if message is None:
        raise invalid("message", f"an object such as {EXAMPLE}", value)
    return message


def _frame(kind: str, data: Any, message: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer; `request_id` and `tag` are those of the message."""
    frame = {"type": kind, "data": data}
    for name in ("request_id", "tag"):
        if name in message:
            value = message[name]
            if isinstance(value, int) or (isinstance(value, str) and len(value) <= MAX_TAG):
                frame[name] = value
    return frame
