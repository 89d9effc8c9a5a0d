"""The other workers of the same service, reached through their private sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentrl.errors import AgentRLError, EnvError, RequestError
from agentrl.remote.connection import Connection, ConnectionLost
from services._base.session import Caller

__all__ = ["PEER_EXTRA_BYTES", "Peers", "socket_path"]

log = logging.getLogger("agentrl.service")

CONNECT_S = 5.0
PAUSE_S = 0.2
PEER_EXTRA_BYTES = 4096
"""By how much a message grows when it is passed on."""


def socket_path(folder: Path, worker: int) -> Path:
    """Return where a worker listens for the others."""
    return folder / f"worker-{worker}.sock"


class Peers:
    """Passes messages about a session to the worker that has it. Without a folder there are no others."""

    def __init__(
        self, folder: Path | None, worker: int, workers: int, *, timeout_s: float, max_bytes: int
    ) -> None:
        self._folder = folder
        self._worker = worker
        self.workers = workers
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes + PEER_EXTRA_BYTES
        self._open: dict[tuple[int, str | None], Connection] = {}
        self._locks: dict[tuple[int, str | None], asyncio.Lock] = {}

    def file(self, name: str) -> Path | None:
        """Return a file of this worker's own, left to the one started in its place; without a folder None."""
        return None if self._folder is None else self._folder / f"{name}-{self._worker}"

    def worker_of(self, session_id: str) -> int | None:
        """Return which other worker has the session; None if it would be this one, or none."""
        if self._folder is None:
            return None
        number, _, rest = session_id.partition("-")
        if not rest or not (number.isascii() and number.isdecimal()) or len(number) > 4:
            return None
        worker = int(number)
        return worker if worker != self._worker and worker < self.workers else None

    async def ask(
        self, worker: int, caller: Caller, message: Mapping[str, Any], *, patience_s: float = 0.0
    ) -> Any:
        """Return the data of another worker's answer.

        Args:
            patience_s: how long to wait for a worker that is being started; its sessions are lost anyway.

        Raises:
            RequestError: that worker refuses, or is gone, and its sessions with it. EnvError: the environment
                failed there, or the worker does not answer.
        """
        # With an id the message can be sent again where the connection breaks: nothing is done twice.
        request_id = message.get("request_id") or uuid.uuid4().hex
        passed = {**message, "request_id": request_id, "caller": caller.name}
        if caller.name is not None:
            caller.elsewhere.add(worker)
        until, attempts = time.monotonic() + patience_s, 0
        while attempts < 2 or time.monotonic() < until:
            if caller.gone:
                raise EnvError("env.lost", "the client is gone, and nobody would know of the answer")
            try:
                connection = await self._connection(worker, caller.token)
                return await connection.ask(passed, timeout_s=self._timeout_s)
            except ConnectionLost as error:
                log.info("worker not reached", extra={"to": worker, "error": str(error)})
            except TimeoutError:
                raise EnvError(
                    "env.step_timeout", f"worker {worker} did not answer in {self._timeout_s:g} s"
                ) from None
            attempts += 1
            await asyncio.sleep(min(patience_s, PAUSE_S))
        session_id = message.get("session_id") or "of this trajectory"
        raise RequestError(
            "session.ended",
            f"session {session_id} is over: its worker is gone",
            "open a new session",
            {"session_id": message.get("session_id")},
        )

    async def left(self, caller: Caller, *, deliberate: bool) -> None:
        """Tell the workers that a connection spoke to that it is gone."""
        message = {"type": "left", "data": {"deliberate": deliberate}, "caller": caller.name}
        await asyncio.gather(*(self._tell(worker, caller.token, message) for worker in caller.elsewhere))

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(connection.close() for connection in self._open.values()))
        self._open.clear()

    async def _tell(self, worker: int, token: str | None, message: Mapping[str, Any]) -> None:
        # A connection that is lost has told it already.
        connection = self._open.get((worker, token))
        if connection is not None and not connection.lost:
            with contextlib.suppress(AgentRLError, ConnectionLost, TimeoutError):
                await connection.ask(message, timeout_s=CONNECT_S)

    async def _connection(self, worker: int, token: str | None) -> Connection:
        assert self._folder is not None
        place = (worker, token)
        async with self._locks.setdefault(place, asyncio.Lock()):
            connection = self._open.get(place)
            if connection is None or connection.lost:
                connection = await Connection.open(
                    f"worker {worker}",
                    token=token,
                    unix_path=str(socket_path(self._folder, worker)),
                    timeout_s=CONNECT_S,
                    max_bytes=self._max_bytes,
                )
                self._open[place] = connection
            return connection
