"""What every request passes first: an id, the token, the size of its body, where a browser page came from."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import logging
import os
import time
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentrl.errors import RequestError
from agentrl.remote.wire import decode
from services._base.answers import error_response
from services._base.settings import TOKEN_VARIABLE, ServiceSettings

__all__ = ["Guard", "tokens_from_environment"]

log = logging.getLogger("agentrl.access")

OPEN_PATHS = ("/healthz",)
MAX_REQUEST_ID = 128
MAX_LOGGED = 200
BODY_TIMEOUT_S = 30.0


def tokens_from_environment(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the tokens that clients may use; none means that no token is asked for."""
    return tuple(token.strip() for token in environment.get(TOKEN_VARIABLE, "").split(",") if token.strip())


class Guard:
    """ASGI middleware. Puts `owner` (the token's digest), `token` and `request_id` into the scope's state."""

    def __init__(self, app: ASGIApp, settings: ServiceSettings, tokens: tuple[str, ...]) -> None:
        self._app = app
        self._settings = settings
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = headers.get("x-request-id", "")
        if not (0 < len(request_id) <= MAX_REQUEST_ID and request_id.isascii() and request_id.isprintable()):
            request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        began, answered = time.perf_counter(), _Answered()

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered.status = message["status"]
                header = (b"x-request-id", request_id.encode())
                message = {**message, "headers": [*message["headers"], header]}
            await send(message)

        try:
            scope["state"]["token"], scope["state"]["owner"] = self._owner(scope["path"], headers)
            self._check_origin(headers, scope.get("server"))
            body = None if scope["type"] == "websocket" else await self._body(headers, receive)
        except RequestError as error:
            await self._refuse(error, scope, receive, tell)
        else:
            await self._app(scope, receive if body is None else _replay(body, receive), tell)
        if scope["type"] == "http":
            log.info(
                "request",
                extra={
                    "request_id": request_id,
                    "method": scope["method"],
                    "path": scope["path"][:MAX_LOGGED],
                    "status": answered.status,
                    "seconds": round(time.perf_counter() - began, 6),
                },
            )

    def _owner(self, path: str, headers: Mapping[str, str]) -> tuple[str | None, str]:
        if not self._tokens:
            return None, ""
        if path in OPEN_PATHS:
            return None, ""
        given = _token(headers.get("authorization", ""))
        if given is None:
            raise RequestError(
                "auth.missing",
                "this service asks for a token",
                'send "Authorization: Bearer <token>", or the token as the password of HTTP basic auth '
                "(http://user:TOKEN@host)",
            )
        for token in self._tokens:
            if hmac.compare_digest(token.encode(), given.encode("utf-8", "replace")):
                return token, hashlib.sha256(token.encode()).hexdigest()[:16]
        raise RequestError(
            "auth.wrong", "this token is not one that the service knows", "send one of AGENTRL_TOKEN's"
        )

    def _check_origin(self, headers: Mapping[str, str], server: Any) -> None:
        """Refuse a page of another site: a browser would let it play here without anyone asking for it."""
        origin, host = headers.get("origin"), headers.get("host", "")
        if not origin:
            return
        try:
            same = urlsplit(origin).netloc == host
        except ValueError:
            same = False
        if same and not self._tokens and server is not None and _is_local(str(server[0])):
            # A foreign name may be made to lead here (DNS rebinding): its pages are strangers all the same.
            same = _is_local(host)
        if not same:
            raise RequestError(
                "auth.origin",
                f"a page of {origin[:100]} may not use this service from a browser",
                "open the service's own page at its address, or send no Origin header",
            )

    async def _body(self, headers: Mapping[str, str], receive: Receive) -> bytes | None:
        limit = self._settings.max_body_bytes
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise _too_large(length, limit)
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return None
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    if size > limit:
                        raise _too_large(f"more than {limit:,}", limit)
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise RequestError(
                "wire.too_slow", f"the body did not come within {BODY_TIMEOUT_S:g} s", "send it again"
            ) from None
        body = b"".join(chunks)
        if body and "json" in headers.get("content-type", "json"):
            # Text that no later step could send on again, such as half a character, ends here.
            try:
                decode(body)
            except ValueError as error:
                raise RequestError(
                    "wire.invalid_json", f"the body is not JSON: {error}", "send a JSON object"
                ) from None
        return body

    async def _refuse(self, error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
        response = error_response(error)
        if scope["type"] == "http":
            await response(scope, receive, send)
            return
        # Before a WebSocket is accepted its refusal is an HTTP answer.
        await send(
            {
                "type": "websocket.http.response.start",
                "status": response.status_code,
                "headers": response.raw_headers,
            }
        )
        await send({"type": "websocket.http.response.body", "body": response.body})


class _Answered:
    __slots__ = ("status",)

    def __init__(self) -> None:
        self.status = 0


def _token(authorization: str) -> str | None:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip() or None
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2] or None
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


def _is_local(host: str) -> bool:
    """Return whether a host, with or without a port, is this machine by its own name or address."""
    try:
        name = urlsplit(f"//{host}").hostname or host
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _too_large(length: str, limit: int) -> RequestError:
    return RequestError(
        "wire.too_large",
        f"the body has {length} bytes, more than the {limit:,} that are read",
        "send less at once, or raise max_body_bytes",
    )


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> dict[str, Any]:
        nonlocal given
        if given:
            return dict(await receive())
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
