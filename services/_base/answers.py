"""How an error looks on each wire: an HTTP status, or the code that OpenEnv's clients know."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from agentrl.errors import AgentRLError, RequestError
from agentrl.remote.wire import encode

__all__ = ["JSON", "error_response", "next_step", "socket_error", "status_of"]

log = logging.getLogger("agentrl.service")

STATUS = {
    "auth.missing": 401,
    "auth.wrong": 401,
    "auth.origin": 403,
    "session.forbidden": 403,
    "session.unknown": 404,
    "http.not_found": 404,
    "http.method": 405,
    "wire.too_slow": 408,
    "session.ended": 410,
    "session.not_reset": 409,
    "session.episode_done": 409,
    "session.out_of_order": 409,
    "session.answer_forgotten": 409,
    "wire.too_large": 413,
    "wire.invalid": 422,
    "env.unknown_split": 422,
    "env.bad_task": 422,
    "service.full": 429,
    "service.draining": 503,
    "env.step_timeout": 504,
    "env.start_timeout": 504,
}
"""HTTP status by error code. Other refusals are 400, other failures of the environment 500."""

OPENENV_CODE = {
    "wire.invalid_json": "INVALID_JSON",
    "wire.unknown_type": "UNKNOWN_TYPE",
    "wire.invalid": "VALIDATION_ERROR",
    "env.unknown_split": "VALIDATION_ERROR",
    "env.bad_task": "VALIDATION_ERROR",
    "service.full": "CAPACITY_REACHED",
    "session.episode_done": "EPISODE_DONE",
}
"""OpenEnv's code by ours. Other `session.*` are SESSION_ERROR, the rest EXECUTION_ERROR."""

RETRY = "retry, and look at the service's log if it goes on"


class JSON(Response):
    """A JSON response that carries what the wire does."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return encode(content)


def next_step(error: AgentRLError) -> str:
    """Return what the client can do about it."""
    return error.next_step if isinstance(error, RequestError) else RETRY


def status_of(error: AgentRLError) -> int:
    """Return the HTTP status."""
    return STATUS.get(error.code, 400 if isinstance(error, RequestError) else 500)


def error_response(error: AgentRLError, headers: Mapping[str, str] | None = None) -> JSON:
    """Return the HTTP answer: `{"error": {"code", "message", "detail", "next_step"}}`."""
    status = status_of(error)
    given = dict(headers or {})
    if status == 401:
        given["WWW-Authenticate"] = 'Basic realm="agentrl", charset="UTF-8"'
    if "retry_after_s" in error.detail:
        given["Retry-After"] = str(max(1, round(error.detail["retry_after_s"])))
    body = {"error": {**error.to_json(), "next_step": next_step(error)}}
    return JSON(body, status_code=status, headers=given)


def socket_error(error: AgentRLError) -> dict[str, Any]:
    """Return the data of an error frame: OpenEnv's `code` and `message`, and our error beside them."""
    code = OPENENV_CODE.get(error.code)
    if code is None:
        code = "SESSION_ERROR" if error.code.startswith("session.") else "EXECUTION_ERROR"
    ours = error.to_json()
    return {
        "message": error.message,
        "code": code,
        "next_step": next_step(error),
        "error": ours,
        **_counts(error),
    }


async def on_agentrl_error(_: Request, error: Exception) -> JSON:
    """Answer a request that was refused or failed."""
    assert isinstance(error, AgentRLError)
    if not isinstance(error, RequestError):
        log.error("request failed", extra={"code": error.code, "error": error.message}, exc_info=error)
    return error_response(error)


def _counts(error: AgentRLError) -> dict[str, Any]:
    names = ("active_sessions", "max_sessions", "retry_after_s")
    return {name: error.detail[name] for name in names if name in error.detail}
