"""All sessions of one worker: who may begin one, who holds which, and when one ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
import time
from collections import OrderedDict, deque

from agentrl.errors import AgentRLError, RequestError
from services._base.metrics import Metrics
from services._base.service import EnvService
from services._base.session import Caller, Session
from services._base.settings import ServiceSettings

__all__ = ["Sessions"]

log = logging.getLogger("agentrl.service")

REMEMBERED_ENDS = 10_000
"""Ended sessions whose end can still be told from a session that never was."""


class Sessions:
    """The table of live sessions, its waiting room and its reaper.

    Session ids are `<worker>-<random>`: whoever is asked for a session knows which worker has it.
    """

    def __init__(self, service: EnvService, settings: ServiceSettings, metrics: Metrics, worker: int) -> None:
        self.worker = worker
        self.draining = False
        self._service = service
        self._settings = settings
        self._metrics = metrics
        self._live: dict[str, Session] = {}
        self._taken = 0
        """Places in use; one is given back when its session has closed, and goes first to whoever waits."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._ending: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._ends: OrderedDict[str, str] = OrderedDict()
        self._secret = secrets.token_bytes(32)

    def __len__(self) -> int:
        return len(self._live)

    @property
    def capacity(self) -> dict[str, int]:
        """How many live, may live, wait, and may wait."""
        return {
            "active_sessions": len(self._live),
            "max_sessions": self._settings.max_sessions,
            "waiting": len(self._waiting),
            "queue": self._settings.queue,
        }

    def lives(self, session_id: str) -> bool:
        """Whether this worker has the session."""
        return session_id in self._live

    def reserve(self, owner: str) -> tuple[str, str]:
        """Return the id and key of a session that takes no place until it is claimed."""
        session_id = f"{self.worker}-{secrets.token_hex(8)}"
        return session_id, self._reserved_key(session_id, owner)

    async def claim(
        self, session_id: str, key: str | None, owner: str, caller: Caller | None = None
    ) -> Session:
        """Return the session; a reserved one is opened where it does not live, as often as it ends.

        Raises:
            RequestError: as `find` and `open` do.
        """
        if session_id not in self._live and self._is_reserved(session_id, key, owner):
            return await self.open(owner, reserved=(session_id, key or ""), caller=caller)
        return self.find(session_id, key, owner)

    async def open(
        self, owner: str, *, reserved: tuple[str, str] | None = None, caller: Caller | None = None
    ) -> Session:
        """Return a new session, waiting for a place if need be.

        Args:
            reserved: the id and key that it is to have.
            caller: who waits, and stops to wait when its connection is gone.

        Raises:
            RequestError: the queue is full, the wait took too long, or the service is being stopped.
        """
        self._check_open()
        if self._taken >= self._settings.max_sessions:
            await self._evict_abandoned()
        if self._taken < self._settings.max_sessions:
            self._taken += 1
        else:
            await self._wait(caller)
        session_id = f"{self.worker}-{secrets.token_hex(8)}" if reserved is None else reserved[0]
        if session_id in self._live:  # claimed twice at once, and this one waited
            self._give_back()
            return self._live[session_id]
        session = Session(session_id, owner, self._service, self._settings)
        if reserved is not None:
            session.key = reserved[1]
            self._ends.pop(session_id, None)
        self._live[session_id] = session
        self._empty.clear()
        self._metrics.sessions.set(len(self._live))
        self._metrics.opened.inc()
        return session

    def find(self, session_id: str, key: str | None, owner: str) -> Session:
        """Return the session, for whoever holds its key.

        Raises:
            RequestError: there is none, it has ended, or it belongs to someone else.
        """
        session = self._live.get(session_id)
        if session is None:
            raise self._absent(session_id, reserved=self._is_reserved(session_id, key, owner))
        mine = hmac.compare_digest((key or "").encode("utf-8", "replace"), session.key.encode())
        if not mine or session.owner != owner:
            raise RequestError(
                "session.forbidden",
                f"session {session_id} needs its session_key, which only the answer to its opening has",
                "send the session_key (header X-Session-Key), or open a session of your own",
                {"session_id": session_id},
            )
        return session

    async def close(self, session: Session, reason: str) -> None:
        """End a session and let the next in the queue have its place; idempotent."""
        if self._live.pop(session.session_id, None) is None:
            return
        self._ends[session.session_id] = reason
        if len(self._ends) > REMEMBERED_ENDS:
            self._ends.popitem(last=False)
        if session.holder is not None:
            session.holder.held.pop(session.session_id, None)
            session.holder = None
        self._metrics.sessions.set(len(self._live))
        self._metrics.ended.labels(reason.split(" ")[0]).inc()
        try:
            await session.close(reason)
        except AgentRLError as error:
            log.warning(
                "session did not close", extra={"session_id": session.session_id, "error": error.message}
            )
        finally:
            self._give_back()
            if not self._live:
                self._empty.set()

    def close_soon(self, session: Session, reason: str) -> None:
        """End a session without waiting for it."""
        ending = asyncio.create_task(self.close(session, reason))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def close_all(self, reason: str, timeout_s: float) -> None:
        """End every session; those that take too long are left."""
        for session in list(self._live.values()):
            self.close_soon(session, reason)
        if self._ending:
            await asyncio.wait(self._ending, timeout=timeout_s)

    async def reap(self) -> None:
        """End what is idle or was left by its client, for ever."""
        idle_s, step_s = self._settings.idle_timeout_s, self._settings.step_timeout_s
        pause_s = min(max(min(idle_s, self._settings.resume_s) / 4, 0.05), 5.0)
        while True:
            await asyncio.sleep(pause_s)
            now = time.monotonic()
            for session in list(self._live.values()):
                if now - session.used_at > idle_s + (step_s if session.busy else 0.0):
                    self.close_soon(session, f"idle for more than {idle_s:g} seconds")
                elif session.expires_at is not None and now >= session.expires_at and not session.busy:
                    self.close_soon(session, "abandoned by its client")

    async def drained(self) -> None:
        """Begin nothing new, and wait until nothing lives or `drain_s` have passed."""
        self.draining = True
        for place in self._waiting:
            if not place.done():
                place.set_exception(self._draining())
        if self._live:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.drain_s):
                    await self._empty.wait()

    async def _evict_abandoned(self) -> None:
        """A client that is here comes before one that may come back."""
        left = [session for session in self._live.values() if session.expires_at is not None]
        if left:
            first = min(left, key=lambda session: session.expires_at or 0.0)
            await self.close(first, "abandoned by its client, and its place was needed")

    async def _wait(self, caller: Caller | None) -> None:
        """Return when a place is ours."""
        if len(self._waiting) >= self._settings.queue:
            self._metrics.refused.inc()
            raise self._full(f"and {len(self._waiting)} callers wait already")
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._metrics.waiting.set(len(self._waiting))
        if caller is not None:
            caller.waits.add(place)
        try:
            async with asyncio.timeout(self._settings.queue_timeout_s):
                await place
            self._check_open()
        except BaseException as error:
            if place.done() and not place.cancelled() and place.exception() is None:
                self._give_back()  # it was granted too late
            if not isinstance(error, TimeoutError):
                raise
            self._metrics.refused.inc()
            raise self._full(f"and none ended in {self._settings.queue_timeout_s:g} s") from None
        finally:
            if caller is not None:
                caller.waits.discard(place)
            with contextlib.suppress(ValueError):
                self._waiting.remove(place)
            self._metrics.waiting.set(len(self._waiting))

    def _give_back(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._taken -= 1

    def _check_open(self) -> None:
        if self.draining:
            raise self._draining()

    def _draining(self) -> RequestError:
        return RequestError(
            "service.draining",
            "this service is being stopped and begins nothing new",
            "ask again in a few seconds, or ask another one",
            {"retry_after_s": max(1.0, self._settings.drain_s)},
        )

    def _full(self, why: str) -> RequestError:
        return RequestError(
            "service.full",
            f"all {self._settings.max_sessions} sessions are in use {why}",
            "ask again after retry_after_s, close sessions you no longer need, or raise max_sessions",
            {**self.capacity, "retry_after_s": 1},
        )

    def _reserved_key(self, session_id: str, owner: str) -> str:
        said = f"{owner} {session_id}".encode("utf-8", "replace")
        return hmac.digest(self._secret, said, "sha256").hex()[:32]

    def _is_reserved(self, session_id: str, key: str | None, owner: str) -> bool:
        """Whether we reserved it; nobody else could have computed the key."""
        given = (key or "").encode("utf-8", "replace")
        return hmac.compare_digest(given, self._reserved_key(session_id, owner).encode())

    def _absent(self, session_id: str, *, reserved: bool) -> RequestError:
        reason = self._ends.get(session_id)
        if reason is not None:
            return RequestError(
                "session.ended",
                f"session {session_id} is over: {reason}",
                "open a new session",
                {"session_id": session_id},
            )
        if reserved:
            return RequestError(
                "session.not_reset",
                f"session {session_id} plays no episode",
                "begin one with a reset",
                {"session_id": session_id},
            )
        return RequestError(
            "session.unknown",
            f"there is no session {session_id[:80]!r} here: it never was, or its worker was restarted",
            "open a new session",
            {"session_id": session_id[:80]},
        )
