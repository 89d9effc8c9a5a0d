"""Where every wire's requests are answered: a message in, an answer out, whichever worker has the session."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from agentrl.errors import RequestError
from agentrl.remote.wire import as_object
from services._base.metrics import Metrics
from services._base.peers import Peers
from services._base.refusals import brief, invalid, whole_number
from services._base.service import EnvService
from services._base.session import Caller, Session
from services._base.sessions import Sessions
from services._base.settings import ServiceSettings

__all__ = ["Caller", "Desk"]

MESSAGE_TYPES = ("reset", "step", "state", "attach", "detach", "close")
MAX_ID = 255


class Desk:
    """Answers messages about sessions."""

    def __init__(
        self,
        service: EnvService,
        settings: ServiceSettings,
        sessions: Sessions,
        peers: Peers,
        metrics: Metrics,
    ) -> None:
        self.service = service
        self.settings = settings
        self.sessions = sessions
        self.metrics = metrics
        self.peers = peers
        self.trajectories: Callable[[Caller, Mapping[str, Any]], Awaitable[Any]] | None = None

    @property
    def workers(self) -> int:
        """How many workers this service has."""
        return self.peers.workers

    async def answer(self, caller: Caller, message: Mapping[str, Any], session: Session | None = None) -> Any:
        """Return the data of the answer to a message.

        Args:
            session: the one that the message is about, where the wire knows it.

        Raises:
            RequestError: the message is wrong, or its session is not to be had.
            EnvError: the environment failed.
        """
        kind = message.get("type")
        if kind == "trajectory" and caller.passed_on and self.trajectories is not None:
            return await self.trajectories(caller, message)
        if kind not in MESSAGE_TYPES:
            raise RequestError(
                "wire.unknown_type",
                f"there is no message type {brief(kind)}",
                f"send one of {', '.join(MESSAGE_TYPES)}, mcp, batch",
            )
        given = message.get("data")
        data: Mapping[str, Any] | None = {} if given is None else as_object(given)
        if data is None:
            raise invalid("data", "an object", given)
        request_id = _identifier("request_id", message.get("request_id"))
        if session is None:
            session_id = _identifier("session_id", message.get("session_id"))
            if session_id is None:
                if kind != "reset":
                    raise RequestError(
                        "session.missing",
                        f"a {kind} needs a session and this one names none",
                        "begin an episode with a reset, and name its session_id from then on",
                    )
                session = await self.sessions.open(caller.owner, caller=caller)
            else:
                key = _identifier("session_key", message.get("session_key"))
                worker = self.peers.worker_of(session_id)
                if worker is not None:
                    return await self.peers.ask(worker, caller, message)
                session = caller.held.get(session_id)
                if session is None and kind == "reset":
                    session = await self.sessions.claim(session_id, key, caller.owner, caller)
                elif session is None:
                    session = self.sessions.find(session_id, key, caller.owner)
        elif session.ended is not None:
            session = self.sessions.find(session.session_id, session.key, caller.owner)
        self._hold(caller, session)
        if kind == "step":
            return await self._step(session, data, request_id, message.get("at"))
        if kind == "reset":
            return await self._reset(session, data, request_id)
        if kind == "close":
            await self.sessions.close(session, "closed by its client")
            return {"session_id": session.session_id, "closed": True}
        if kind == "detach":
            self._let_go(session)
        return session.state

    async def release(self, caller: Caller, *, deliberate: bool) -> None:
        """Let go of what a connection held: for good when it was closed, or for `resume_s` when it broke."""
        caller.gone = True
        for place in list(caller.waits):
            place.cancel()
        for session in list(caller.held.values()):
            self._let_go(session)
            if deliberate:
                self.sessions.close_soon(session, "disconnected by its client")
        await self.peers.left(caller, deliberate=deliberate)

    async def self_test(self) -> None:
        """Begin an episode and leave it, outside the table of sessions.

        Raises:
            EnvError: the environment cannot play.
        """
        session = Session("self-test", "", self.service, self.settings)
        try:
            await session.reset({"seed": 0}, None)
        finally:
            await session.close("self-test done")

    def _hold(self, caller: Caller, session: Session) -> None:
        """Note that a caller has the session now; `caller.held` and `session.holder` always agree."""
        session.used_at = time.monotonic()
        if session.holder is not None and session.holder is not caller:
            session.holder.held.pop(session.session_id, None)
        session.holder, session.expires_at = caller, None
        caller.held[session.session_id] = session
        if caller.gone:  # it broke off while this was under way
            self._let_go(session)

    def _let_go(self, session: Session) -> None:
        if session.holder is not None:
            session.holder.held.pop(session.session_id, None)
        session.holder, session.expires_at = None, time.monotonic() + self.settings.resume_s

    async def _reset(
        self, session: Session, data: Mapping[str, Any], request_id: str | None
    ) -> dict[str, Any]:
        try:
            answer = await session.reset(data, request_id)
        finally:
            if not session.begun:
                await self.sessions.close(session, "never begun")
        self.metrics.resets.inc()
        return {**answer, "session_id": session.session_id, "session_key": session.key}

    async def _step(
        self, session: Session, data: Mapping[str, Any], request_id: str | None, at: Any
    ) -> dict[str, Any]:
        began = time.perf_counter()
        if at is not None:
            at = whole_number("at", at)
        answer = await session.step(data, request_id, at)
        self.metrics.steps.inc()
        self.metrics.seconds.observe(time.perf_counter() - began)
        return answer


def _identifier(name: str, value: Any) -> str | None:
    if value is None or (isinstance(value, str) and 0 < len(value) <= MAX_ID):
        return value
    raise invalid(name, f"text of 1 to {MAX_ID} characters", value)
