"""The HTTP routes: OpenEnv's, sessions by id, what operators ask, and the page for people."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Path, Query, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from agentrl.errors import AgentRLError, EnvError, RequestError, boundary
from agentrl.remote.wire import task_to_json
from services._base.answers import JSON
from services._base.desk import Caller, Desk
from services._base.page import play_page
from services._base.session import NOT_BEGUN

__all__ = ["routes"]

SESSION_COOKIE = "agentrl_session"
MAX_TASKS = 1000
LIMITS = ("queue_timeout_s", "step_timeout_s", "max_body_bytes")
"""Settings that a client must know to wait, and to send, as it should."""

SessionId = Annotated[str, Path(max_length=255)]
SessionKey = Annotated[str | None, Header(max_length=255)]
Answer = dict[str, Any]


class Failure(BaseModel):
    """What went wrong."""

    code: str
    message: str
    detail: dict[str, Any]
    next_step: str


class ErrorAnswer(BaseModel):
    """The body of every answer that is not 2xx."""

    error: Failure


class ResetRequest(BaseModel):
    """Which episode to begin: of a `task`, of place `index` of a `split`, by `seed`, or by chance."""

    model_config = ConfigDict(extra="allow")

    seed: int | None = Field(default=None, ge=0, lt=1 << 63, strict=True)
    episode_id: str | None = Field(default=None, max_length=255)
    split: str | None = None
    index: int | None = Field(default=None, ge=0, strict=True)


class StepRequest(BaseModel):
    """One action."""

    action: dict[str, Any]
    request_id: str | None = Field(default=None, min_length=1, max_length=255)
    at: int | None = Field(default=None, ge=0, lt=1 << 63, strict=True)


class StepAnswer(BaseModel):
    """What an action or a reset caused."""

    observation: dict[str, Any]
    reward: float | None
    done: bool


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "not JSON",
        401: "no token, or a wrong one",
        403: "someone else's session, or a page of another site",
        404: "no such session",
        409: "not now: no episode, it is over, or out of order",
        410: "the session is over",
        413: "the body is too large",
        422: "a field is wrong",
        429: "full: see Retry-After",
        503: "being stopped: see Retry-After",
        504: "the environment took too long",
    }.items()
}


def routes(desk: Desk) -> APIRouter:
    """Return the routes of a service."""
    router = APIRouter(responses=REFUSALS, default_response_class=JSON)
    service = desk.service

    async def ask(request: Request, message: Answer) -> Answer:
        caller = Caller(request.state.owner, request.state.token)
        with boundary(EnvError, "env.failed", f"answering {request.method} {request.url.path[:200]}"):
            try:
                answer = await desk.answer(caller, message)
                if message.get("session_id") is None and await request.is_disconnected():
                    # Who gave up while waiting will never know the session, and could not close it.
                    await desk.release(caller, deliberate=True)
            except AgentRLError as error:
                desk.metrics.errors.labels(error.code).inc()
                raise
        return answer

    # --- OpenEnv -------------------------------------------------------------------------------------------

    @router.get("/health", tags=["Health"])
    async def health() -> Answer:
        """Whether the service can play."""
        return {"status": "degraded" if desk.sessions.draining else "healthy"}

    @router.get("/metadata", tags=["Environment Info"])
    async def metadata() -> Answer:
        """What this service plays, and how it is set."""
        return {
            "name": service.name,
            "description": service.description,
            "version": service.env.version,
            "author": "agentrl",
            "settings": service.settings.model_dump(mode="json"),
            "workers": desk.workers,
            "limits": {name: getattr(desk.settings, name) for name in LIMITS},
            **desk.sessions.capacity,
        }

    @router.get("/schema", tags=["Schema"])
    async def schema() -> Answer:
        """JSON schemas of actions, observations and the state."""
        return {
            "action": service.Action.model_json_schema(),
            "observation": service.Observation.model_json_schema(),
            "state": STATE_SCHEMA,
        }

    @router.post("/reset", tags=["Environment Control"], response_model=StepAnswer)
    async def reset(request: Request, asked: Annotated[ResetRequest | None, Body()] = None) -> JSON:
        """Begin an episode in the session of the cookie or of the X-Session headers, or in a new one."""
        message = {**_session_of(request), "type": "reset", "data": _asked(asked)}
        try:
            answer = await ask(request, message)
        except RequestError as error:
            if error.code not in ("session.ended", "session.unknown"):
                raise
            answer = await ask(request, {"type": "reset", "data": _asked(asked)})
        response = JSON({key: answer[key] for key in ("observation", "reward", "done")})
        handle = f"{answer['session_id']}.{answer['session_key']}"
        response.headers["X-Session-Id"] = answer["session_id"]
        response.headers["X-Session-Key"] = answer["session_key"]
        response.set_cookie(SESSION_COOKIE, handle, httponly=True, samesite="strict")
        return response

    @router.post("/step", tags=["Environment Control"], response_model=StepAnswer)
    async def step(request: Request, asked: StepRequest) -> JSON:
        """Act in the session that /reset began: cookie, or X-Session-Id and X-Session-Key."""
        return JSON(await ask(request, {**_session_of(request, need=True), **_step(asked)}))

    @router.get("/state", tags=["State Management"])
    async def state(request: Request) -> JSON:
        """Where the session of the cookie or headers stands; without one, that of a session not begun."""
        named = _session_of(request)
        if not named:
            return JSON(NOT_BEGUN)
        return JSON(await ask(request, {**named, "type": "state"}))

    # --- sessions by id ------------------------------------------------------------------------------------

    @router.post("/sessions", tags=["Sessions"], status_code=201)
    async def open_session(request: Request, asked: Annotated[ResetRequest | None, Body()] = None) -> JSON:
        """Open a session and begin an episode. Keep the session_key: nothing else opens the session."""
        return JSON(await ask(request, {"type": "reset", "data": _asked(asked)}), status_code=201)

    @router.get("/sessions/{session_id}", tags=["Sessions"])
    async def see_session(request: Request, session_id: SessionId, x_session_key: SessionKey = None) -> JSON:
        """Where a session stands."""
        return JSON(await ask(request, {"type": "state", **_named(session_id, x_session_key)}))

    @router.post("/sessions/{session_id}/reset", tags=["Sessions"])
    async def reset_session(
        request: Request,
        session_id: SessionId,
        asked: Annotated[ResetRequest | None, Body()] = None,
        x_session_key: SessionKey = None,
    ) -> JSON:
        """Begin another episode."""
        message = {"type": "reset", "data": _asked(asked), **_named(session_id, x_session_key)}
        return JSON(await ask(request, message))

    @router.post("/sessions/{session_id}/step", tags=["Sessions"], response_model=StepAnswer)
    async def step_session(
        request: Request, session_id: SessionId, asked: StepRequest, x_session_key: SessionKey = None
    ) -> JSON:
        """Act. A repeated request_id gets its first answer again."""
        return JSON(await ask(request, {**_step(asked), **_named(session_id, x_session_key)}))

    @router.delete("/sessions/{session_id}", tags=["Sessions"])
    async def close_session(
        request: Request, session_id: SessionId, x_session_key: SessionKey = None
    ) -> JSON:
        """End a session."""
        return JSON(await ask(request, {"type": "close", **_named(session_id, x_session_key)}))

    @router.get("/tasks", tags=["Environment Info"])
    async def tasks(
        split: str = "train",
        start: Annotated[int, Query(ge=0, lt=1 << 63)] = 0,
        count: Annotated[int, Query(ge=0, le=MAX_TASKS)] = 1,
    ) -> Answer:
        """The tasks of a split from place `start`: what `task` of a reset takes."""
        try:
            listed = service.env.tasks(split)
        except AgentRLError as error:
            raise RequestError(
                error.code, error.message, "use one of the splits that it lists", error.detail
            ) from error
        chosen = range(start, min(start + count, len(listed)))
        return {"total": len(listed), "tasks": [task_to_json(listed[index]) for index in chosen]}

    # --- operators and people ------------------------------------------------------------------------------

    @router.get("/healthz", tags=["Health"])
    async def alive() -> Answer:
        """Whether the process is alive."""
        return {"status": "ok"}

    @router.get("/readyz", tags=["Health"])
    async def ready() -> JSON:
        """Whether a session can be played right now: one is, for a moment."""
        if desk.sessions.draining:
            return JSON({"status": "draining"}, status_code=503)
        try:
            await desk.self_test()
        except AgentRLError as error:
            return JSON({"status": "failed", "error": error.to_json()}, status_code=503)
        return JSON({"status": "ready", **desk.sessions.capacity})

    @router.get("/metrics", tags=["Health"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(desk.metrics.text(), media_type="text/plain; version=0.0.4")

    @router.get("/play", tags=["People"], response_class=HTMLResponse)
    async def play() -> HTMLResponse:
        """A page on which a person plays."""
        page, headers = play_page()
        return HTMLResponse(page, headers=headers)

    return router


STATE_SCHEMA = {
    "type": "object",
    "properties": {
        "session_id": {"type": "string"},
        "episode_id": {"type": ["string", "null"]},
        "step_count": {"type": "integer", "minimum": 0},
        "done": {"type": "boolean"},
        "task_id": {"type": ["string", "null"]},
        "task_kind": {"type": ["string", "null"]},
    },
}


def _asked(asked: ResetRequest | None) -> Answer:
    return {} if asked is None else asked.model_dump(exclude_none=True)


def _step(asked: StepRequest) -> Answer:
    return {"type": "step", "data": asked.action, "request_id": asked.request_id, "at": asked.at}


def _named(session_id: str, key: str | None) -> Answer:
    return {"session_id": session_id, "session_key": key}


def _session_of(request: Request, *, need: bool = False) -> Answer:
    session_id, key = request.headers.get("x-session-id"), request.headers.get("x-session-key")
    if session_id is None:
        session_id, _, key = request.cookies.get(SESSION_COOKIE, "").partition(".")
    if session_id:
        return {"session_id": session_id, "session_key": key or None}
    if need:
        raise RequestError(
            "session.not_reset",
            "this step names no session",
            "POST /reset first, and send back its cookie, or its X-Session-Id and X-Session-Key headers",
        )
    return {}
