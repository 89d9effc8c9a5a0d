"""Build the FastAPI application of an environment service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from pathlib import Path

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from agentrl import __version__
from agentrl.errors import AgentRLError, EnvError, RequestError
from services._base.answers import JSON, error_response, on_agentrl_error
from services._base.desk import Caller, Desk
from services._base.external import ExternalTools
from services._base.guard import Guard, tokens_from_environment
from services._base.http import routes
from services._base.mcp import McpDesk
from services._base.mcp_server import McpServer, mcp_routes
from services._base.mcp_socket import serve_mcp_socket
from services._base.metrics import Metrics
from services._base.peers import Peers
from services._base.service import EnvService
from services._base.sessions import Sessions
from services._base.settings import ServiceSettings
from services._base.socket import serve_socket
from services._base.verl_tool import verl_tool_route

__all__ = ["create_env_app"]

log = logging.getLogger("agentrl.service")

CLOSE_S = 2.0
"""What the sessions have to close when the service stops."""


def create_env_app(
    service: EnvService,
    settings: ServiceSettings,
    *,
    worker: int = 0,
    workers: int = 1,
    peer_folder: Path | None = None,
) -> FastAPI:
    """Return the application that serves an environment on every wire.

    Args:
        worker: this process's number among `workers`, which reach each other through `peer_folder`.
    """
    metrics = Metrics(service.name)
    sessions = Sessions(service, settings, metrics, worker)
    peers = Peers(
        peer_folder,
        worker,
        workers,
        timeout_s=settings.step_timeout_s + settings.queue_timeout_s,
        max_bytes=settings.max_body_bytes,
    )
    desk = Desk(service, settings, sessions, peers, metrics)
    external = ExternalTools(settings.mcp_servers)
    mcp = McpDesk(desk, external)
    mcp_server = McpServer(desk, mcp)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        reaper = asyncio.create_task(sessions.reap())
        try:
            async with external.running(), mcp_server.running():
                yield
        finally:
            reaper.cancel()
            await sessions.close_all("the service was stopped", timeout_s=CLOSE_S)
            await peers.close()

    app = FastAPI(
        title=f"agentrl {service.name}",
        version=__version__,
        description=service.description,
        lifespan=lifespan,
        docs_url=None,  # its scripts come from another host, and would run beside the sessions
        redoc_url=None,
    )
    app.state.sessions = sessions
    app.add_middleware(Guard, settings=settings, tokens=tokens_from_environment())
    app.add_exception_handler(AgentRLError, on_agentrl_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    app.include_router(routes(desk))
    app.include_router(mcp_routes(desk, mcp, mcp_server))
    app.include_router(verl_tool_route(desk))

    @app.websocket("/ws")
    async def socket(websocket: WebSocket) -> None:
        caller = Caller(websocket.state.owner, websocket.state.token)
        await serve_socket(websocket, desk, mcp, caller)

    @app.websocket("/mcp")
    async def mcp_socket(websocket: WebSocket) -> None:
        caller = Caller(websocket.state.owner, websocket.state.token)
        await serve_mcp_socket(websocket, desk, mcp, caller)

    return app


async def _on_invalid(_: Request, error: Exception) -> JSON:
    assert isinstance(error, RequestValidationError)
    problems = [(".".join(str(part) for part in item["loc"]), str(item["msg"])) for item in error.errors()]
    said = "; ".join(f"{place}: {message}" for place, message in problems)
    return error_response(
        RequestError("wire.invalid", said[:1000], "correct these fields; GET /openapi.json describes them")
    )


async def _on_http(request: Request, error: Exception) -> JSON:
    assert isinstance(error, HTTPException)
    code = {404: "http.not_found", 405: "http.method"}.get(error.status_code, "http.bad")
    return error_response(
        RequestError(
            code, f"{request.method} {request.url.path[:200]}: {error.detail}", "see GET /openapi.json"
        ),
        error.headers,
    )


async def _on_bug(request: Request, error: Exception) -> JSON:
    """Answer in our words too where a bug of ours struck; the server logs it with its traceback."""
    doing = f"answering {request.method} {request.url.path[:200]}"
    return error_response(EnvError("env.failed", f"{doing} failed: {type(error).__name__}"))
