"""One WebSocket to a service, shared by many sessions: their requests of one moment travel in one frame."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Mapping
from typing import Any

from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException

from agentrl.errors import AgentRLError, ConfigError, EnvError, RequestError
from agentrl.remote.wire import MAX_BATCH, MAX_BODY_BYTES, as_list, as_object, decode, encode

__all__ = ["Connection", "ConnectionLost", "answer_error", "connect_error", "socket_url"]

MAX_FRAME_BYTES = 64 << 20
FRAME_EXTRA_BYTES = 64
"""What a frame holds beside its messages."""
SEND_TIMEOUT_S = 30.0
CLOSE_S = 2.0
PING_S = 10.0


class ConnectionLost(ConnectionError):
    """The connection ended while an answer was due; whether the request was done, nobody knows."""


class Connection:
    """An open connection. Requests from any number of tasks; answers come in any order."""

    def __init__(self, socket: ClientConnection, max_bytes: int) -> None:
        self._socket = socket
        self._max_bytes = max_bytes
        self._due: dict[int, asyncio.Future[Any]] = {}
        self._outbox: deque[bytes] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._tags = itertools.count()
        self._lost: str | None = None
        self._reader = asyncio.create_task(self._read(), name="agentrl-remote-reader")

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        token: str | None = None,
        unix_path: str | None = None,
        timeout_s: float = 10.0,
        max_bytes: int = MAX_BODY_BYTES,
        ping_s: float = PING_S,
    ) -> Connection:
        """Connect to a service.

        Args:
            max_bytes: how long a frame the service reads.
            ping_s: a service that answers no ping for so long is gone.

        Raises:
            ConnectionLost: nothing answers there (the service is down or starting).
            ConfigError: what answers is no service of ours, or refuses the token.
        """
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        options: dict[str, Any] = {
            "additional_headers": headers,
            "compression": None,
            "max_size": MAX_FRAME_BYTES,
            "open_timeout": timeout_s,
            "close_timeout": CLOSE_S,
            "ping_interval": ping_s,
            "ping_timeout": ping_s,
        }
        try:
            if unix_path is not None:
                socket = await unix_connect(unix_path, uri="ws://localhost/ws", **options)
            else:
                socket = await connect(socket_url(url), **options)
        except (OSError, TimeoutError, WebSocketException) as error:
            raise connect_error(error, url) from error
        return cls(socket, max_bytes)

    @property
    def lost(self) -> bool:
        """Whether it can no longer be used."""
        return self._lost is not None

    async def ask(self, message: Mapping[str, Any], *, timeout_s: float) -> Any:
        """Send a message and return the data of its answer.

        Raises:
            ConnectionLost: the connection ended first. TimeoutError: there was no answer in time.
            RequestError: the service refuses. EnvError: the environment failed there, or the message cannot
                be sent.
        """
        if self._lost is not None:
            raise ConnectionLost(self._lost)
        # The tag is ours alone: a request_id may be on its way twice, or be another session's too.
        tag = next(self._tags)
        raw = encode({**message, "tag": tag})
        if len(raw) + FRAME_EXTRA_BYTES > self._max_bytes:
            raise EnvError(
                "env.too_large",
                f"a message of {len(raw):,} bytes is longer than the {self._max_bytes:,} that the service "
                "reads: shorten it, or serve with a larger max_body_bytes",
            )
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._due[tag] = answer
        self._outbox.append(raw)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send(), name="agentrl-remote-sender")
        timer = loop.call_later(timeout_s, _expire, answer)
        try:
            return await answer
        finally:
            timer.cancel()
            del self._due[tag]

    async def close(self) -> None:
        """Close the connection; idempotent."""
        self._reader.cancel()
        await asyncio.wait([self._reader])

    async def _send(self) -> None:
        try:
            while self._outbox:
                items, size = list[bytes](), FRAME_EXTRA_BYTES
                while self._outbox and len(items) < MAX_BATCH:
                    size += len(self._outbox[0]) + 1
                    if items and size > self._max_bytes:
                        break
                    items.append(self._outbox.popleft())
                frame = b'{"type":"batch","items":[' + b",".join(items) + b"]}"
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await self._socket.send(frame, text=True)
        except (OSError, TimeoutError, WebSocketException) as error:
            self._fail(f"the connection broke: {str(error) or type(error).__name__}")
            self._reader.cancel()
        finally:
            self._sending = None

    async def _read(self) -> None:
        try:
            async for raw in self._socket:
                frame = as_object(decode(raw)) or {}
                for item in as_list(frame.get("items", [frame])) or []:
                    self._deliver(as_object(item) or {})
            self._fail("the service closed the connection")
        except (OSError, WebSocketException, ValueError) as error:
            self._fail(f"the connection broke: {str(error) or type(error).__name__}")
        finally:
            self._fail("the connection was closed")
            try:
                await self._socket.close()
            except asyncio.CancelledError:  # in a hurry
                self._socket.transport.abort()
                raise

    def _deliver(self, item: Mapping[str, Any]) -> None:
        answer = self._due.get(item.get("tag", -1))
        if answer is None or answer.done():
            return
        if item.get("type") == "error":
            answer.set_exception(answer_error(item.get("data") or {}))
        else:
            answer.set_result(item.get("data"))

    def _fail(self, why: str) -> None:
        if self._lost is None:
            self._lost = why
        self._outbox.clear()
        for answer in self._due.values():
            if not answer.done():
                answer.set_exception(ConnectionLost(why))


def _expire(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


def answer_error(data: Mapping[str, Any]) -> AgentRLError:
    """Return the error that a service sent, as the class that it was there."""
    error: Mapping[str, Any] = data.get("error") or {"code": "env.remote", **data}
    code, message = str(error.get("code")), str(error.get("message") or "the service gave no reason")
    if "next_step" in error:
        return RequestError(code, message, str(error["next_step"]), error.get("detail"))
    return EnvError(code, message, error.get("detail"))


def socket_url(url: str) -> str:
    """Return the WebSocket address of a service's address."""
    for ours, theirs in (
        ("http://", "ws://"),
        ("https://", "wss://"),
        ("ws://", "ws://"),
        ("wss://", "wss://"),
    ):
        if url.startswith(ours):
            return theirs + url[len(ours) :].rstrip("/") + "/ws"
    raise ConfigError("remote.url", f"env.url must begin with http:// or https://, got {url!r}")


def connect_error(error: Exception, url: str) -> ConfigError | ConnectionLost:
    """Return why no connection could be opened: for good (`ConfigError`), or for now."""
    if isinstance(error, InvalidURI):
        return ConfigError("remote.url", f"cannot connect to {url!r}: {error}")
    if not isinstance(error, InvalidHandshake):
        return ConnectionLost(f"nothing answers at {url}: {str(error) or type(error).__name__}")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return ConfigError(
            "remote.refused",
            f"the service at {url} refuses the token (HTTP {status}): set AGENTRL_TOKEN to the one "
            "that it was started with",
        )
    if status is not None and status < 500:
        return ConfigError(
            "remote.not_a_service",
            f"what answers at {url} has no /ws (HTTP {status}): is it an agentrl service?",
        )
    return ConnectionLost(f"no WebSocket at {url}: {error}")
