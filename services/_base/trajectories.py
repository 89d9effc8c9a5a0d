"""Trajectories: sessions under names that a trainer chose, each kept by one worker, which all can tell."""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentrl.errors import AgentRLError, EnvError, RequestError, boundary
from agentrl.remote.wire import as_object, encode
from services._base.desk import Caller, Desk

__all__ = ["Trajectories"]

MAX_OVER = 20_000
"""Trajectories that are over and are still refused, before the first of them are forgotten."""
UNUSED = "its session was not used for too long"
WORKER_START_S = 15.0
CHOICES = ("seed", "index", "split", "episode_id")
"""What `extra_fields` may say about the episode; the rest is the trainer's own."""


class Trajectories:
    """Keeps which session each client's trajectory plays in.

    What was begun once is never begun again unseen: a trajectory whose session is lost is over, and says so,
    also after its worker was started again (`record`). It may begin anew after `finish` or a last step.
    """

    def __init__(self, desk: Desk, record: Path | None) -> None:
        self._desk = desk
        self._sessions: dict[str, Mapping[str, Any]] = {}
        self._over: OrderedDict[str, str] = OrderedDict()
        self._acting: dict[str, tuple[str, asyncio.Future[dict[str, Any]]]] = {}
        self._record = None if record is None else _Record(record)
        for name in () if self._record is None else self._record.begun():
            self._note_over(name, "its worker was started again")

    async def observe(self, caller: Caller, message: Mapping[str, Any]) -> dict[str, Any]:
        """Apply an action and return `obs`, `done` and `valid`; the first action of a trajectory begins it.

        Raises:
            RequestError: no session is to be had, what `extra_fields` ask for does not exist, or the
                trajectory is over.
            EnvError: the environment failed.
        """
        data = message["data"]
        place = f"{caller.owner}/{data['trajectory_id']}"
        worker = zlib.crc32(place.encode("utf-8", "replace")) % self._desk.workers
        if worker != self._desk.sessions.worker:
            return await self._desk.peers.ask(worker, caller, message, patience_s=WORKER_START_S)
        name = hashlib.sha256(place.encode("utf-8", "replace")).hexdigest()[:32]
        if data.get("finish"):
            await self._end(caller, name)
            return {"obs": "", "done": True, "valid": False}
        said = str(data["action"])
        acting = self._acting.get(name)
        if acting is not None:
            if acting[0] != said:
                raise RequestError(
                    "session.out_of_order",
                    f"trajectory {data['trajectory_id'][:80]!r} is being acted in",
                    "wait for each observation before the next action",
                )
            return await asyncio.shield(acting[1])  # the same request again: it is done once
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._acting[name] = said, answer
        try:
            result = await self._act(caller, name, data, message.get("request_id"))
            answer.set_result(result)
            return result
        except BaseException as error:
            lost = EnvError("env.lost", "an action was abandoned")
            answer.set_exception(error if isinstance(error, AgentRLError) else lost)
            answer.exception()
            raise
        finally:
            del self._acting[name]

    async def _act(
        self, caller: Caller, name: str, data: Mapping[str, Any], request_id: Any
    ) -> dict[str, Any]:
        named = self._sessions.get(name)
        if named is not None and not self._desk.sessions.lives(str(named["session_id"])):
            self._note_over(name, UNUSED)
        if name in self._over:
            raise RequestError(
                "session.ended",
                f"trajectory {str(data['trajectory_id'])[:80]!r} is over: {self._over[name]}",
                "choose another trajectory_id, or finish this one to begin it anew",
            )
        if named is None:
            extra = as_object(data.get("extra")) or {}
            chosen = {key: extra[key] for key in CHOICES if extra.get(key) is not None}
            begun = await self._desk.answer(caller, {"type": "reset", "data": chosen})
            named = {"session_id": begun["session_id"], "session_key": begun["session_key"]}
            self._sessions[name] = named
            self._note_ended()
            if self._record is not None:
                self._record.write("+", name)
        service = self._desk.service
        step = {"type": "step", "data": service.parse(str(data["action"])), "request_id": request_id, **named}
        try:
            taken = await self._desk.answer(caller, step)
            with boundary(EnvError, "env.failed", "putting an observation into words"):
                text = service.text(taken["observation"])
                encode({"text": text})  # what cannot be sent must not cost the others theirs
        except EnvError as error:
            await self._close(caller, name)
            self._note_over(name, error.message)
            raise
        observation, done = taken["observation"], bool(taken["done"])
        if data.get("last"):
            await self._end(caller, name)
        elif done:
            await self._close(caller, name)
            self._note_over(name, "its episode is done")
        return {"obs": text, "done": done, "valid": bool(observation.get("valid", True))}

    async def _end(self, caller: Caller, name: str) -> None:
        """End a trajectory and forget that it was."""
        await self._close(caller, name)
        self._over.pop(name, None)
        if self._record is not None:
            self._record.write("-", name)

    async def _close(self, caller: Caller, name: str) -> None:
        named = self._sessions.pop(name, None)
        if named is not None and self._desk.sessions.lives(str(named["session_id"])):
            await self._desk.answer(caller, {"type": "close", **named})

    def _note_ended(self) -> None:
        """Forget the sessions that ended by themselves, now and then."""
        if len(self._sessions) > 2 * self._desk.settings.max_sessions:
            for name, named in list(self._sessions.items()):
                if not self._desk.sessions.lives(str(named["session_id"])):
                    self._note_over(name, UNUSED)

    def _note_over(self, name: str, reason: str) -> None:
        self._sessions.pop(name, None)
        self._over[name] = reason
        if len(self._over) > MAX_OVER:
            self._over.popitem(last=False)


class _Record:
    """Remembers which trajectories a worker began, for the worker that is started in its place."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a+", encoding="ascii")

    def begun(self) -> list[str]:
        """Return those that were begun and not ended, at most the last `MAX_OVER`."""
        self._file.seek(0)
        names: dict[str, None] = {}
        for line in self._file:
            if line.startswith("+"):
                names[line[1:].strip()] = None
            else:
                names.pop(line[1:].strip(), None)
        return list(names)[-MAX_OVER:]

    def write(self, sign: str, name: str) -> None:
        """Note that a trajectory began (+) or ended (-)."""
        self._file.write(f"{sign}{name}\n")
        self._file.flush()
