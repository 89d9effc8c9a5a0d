"""An environment that plays in a service: the same protocol, the same episodes, another machine."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, overload
from weakref import WeakKeyDictionary

from agentrl.errors import AgentRLError, ConfigError, EnvError, RequestError
from agentrl.remote.connection import PING_S, Connection, ConnectionLost
from agentrl.remote.wire import (
    MAX_BODY_BYTES,
    message_to_json,
    observation_from_json,
    step_from_json,
    task_from_json,
    task_to_json,
)
from agentrl.types import Message, Observation, Step, Task

__all__ = ["RemoteEnv", "RemoteSession"]

TOKEN_VARIABLE = "AGENTRL_TOKEN"
DEADLINE_S = 30.0
CONNECT_S = 10.0
FIRST_PAUSE_S, MAX_PAUSE_S = 0.05, 2.0
CONNECTIONS_PER_WORKER = 2
RETRIED = ("service.full", "service.draining")
ANSWER_EXTRA_S = 10.0
"""By how much longer than the service itself a client waits for an answer."""
TASKS_PATIENCE = 10
"""How many deadlines a run that is under way waits for its next tasks."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to another host."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


OPENER = urllib.request.build_opener(_NoRedirects)


class RemoteEnv:
    """What `[env] url` puts in place of the environment itself.

    Requests are repeated, with jittered pauses, until `deadline_s` have passed without the service; each has
    an id, so that the service does nothing twice. The token is read from AGENTRL_TOKEN.
    """

    def __init__(
        self,
        url: str,
        settings: Mapping[str, Any],
        *,
        deadline_s: float = DEADLINE_S,
        ping_s: float = PING_S,
    ) -> None:
        """Ask the service what it is.

        Args:
            ping_s: how long a connection may be silent before it counts as lost.

        Raises:
            ConfigError: nothing answers, the token is refused, or it plays by other `settings`.
        """
        self._url = _address(url)
        self._token = os.environ.get(TOKEN_VARIABLE, "").split(",")[0].strip() or None
        self._deadline_s = deadline_s
        metadata = self._get("/metadata", deadline_s)
        self.version = str(metadata.get("version"))
        self._check(settings, metadata.get("settings") or {})
        self._size = CONNECTIONS_PER_WORKER * int(metadata.get("workers") or 1)
        limits: Mapping[str, Any] = metadata.get("limits") or {}
        answer_s = float(limits.get("queue_timeout_s") or 0) + float(limits.get("step_timeout_s") or 0)
        self._answer_s = max(deadline_s, answer_s + ANSWER_EXTRA_S)
        self._options: dict[str, Any] = {
            "token": self._token,
            "timeout_s": CONNECT_S,
            "max_bytes": int(limits.get("max_body_bytes") or MAX_BODY_BYTES),
            "ping_s": ping_s,
        }
        self._numbers = itertools.count()
        # Connections belong to the event loop that opened them; a program may run several in turn.
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = WeakKeyDictionary()

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the tasks of a split; each is fetched when it is looked at.

        Raises:
            ConfigError: the split does not exist, or the service is gone.
        """
        total = int(self._tasks(split, 0, 0)["total"])
        return _RemoteTasks(lambda index: self._task(split, index), range(total))

    def session(self) -> RemoteSession:
        """Return a new, unstarted session."""
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            pool = self._pools[loop] = _Pool(self._url, self._size, self._answer_s, **self._options)
        return RemoteSession(pool, next(self._numbers), self._deadline_s)

    def _task(self, split: str, index: int) -> Task:
        listed = self._tasks(split, index, 1)["tasks"]
        return task_from_json(listed[0])

    def _tasks(self, split: str, start: int, count: int) -> dict[str, Any]:
        query = urllib.parse.urlencode({"split": split, "start": start, "count": count})
        # A run that is under way has nothing to do without its next tasks but to wait for them.
        return self._get(f"/tasks?{query}", self._deadline_s * TASKS_PATIENCE)

    def _check(self, wanted: Mapping[str, Any], has: Mapping[str, Any]) -> None:
        for key, value in json.loads(json.dumps(dict(wanted), default=str)).items():
            if key not in has or has[key] != value:
                raise ConfigError(
                    "remote.settings",
                    f"[env] asks for {key} = {json.dumps(value)}, and the service at {self._url} plays with "
                    f"{key} = {json.dumps(has.get(key))}: start it with env.{key}={json.dumps(value)}, "
                    "or change the config",
                )

    def _get(self, path: str, deadline_s: float) -> dict[str, Any]:
        """Return what the service answers, asking again while it is starting or away."""
        until = time.monotonic() + deadline_s
        pauses = _pauses()
        while True:
            try:
                return self._get_once(path)
            except ConnectionLost as error:
                if time.monotonic() >= until:
                    raise ConfigError(
                        "remote.unreachable",
                        f"{error} (tried for {deadline_s:g} s): is `agentrl serve` running there?",
                    ) from error
                time.sleep(next(pauses))

    def _get_once(self, path: str) -> dict[str, Any]:
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        request = urllib.request.Request(self._url + path, headers=headers)
        try:
            with OPENER.open(request, timeout=CONNECT_S) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            raise _refused(error, self._url) from error
        except (OSError, ValueError, TypeError, http.client.HTTPException) as error:
            raise ConnectionLost(f"nothing that can be read answers at {self._url}: {error}") from error


class RemoteSession:
    """One episode that plays elsewhere."""

    def __init__(self, pool: _Pool, number: int, deadline_s: float) -> None:
        self._pool = pool
        self._number = number
        self._deadline_s = deadline_s
        self._named: dict[str, Any] | None = None
        self._steps = 0

    async def start(self, task: Task) -> Observation:
        """Begin the episode.

        Raises:
            EnvError: the service is gone, full for too long, or cannot play the task.
        """
        asking = asyncio.create_task(self._ask({"type": "reset", "data": {"task": task_to_json(task)}}))
        try:
            answer = await asyncio.shield(asking)
        except asyncio.CancelledError:
            # Whoever waited has gone, and the service may still open the session.
            asking.add_done_callback(self._close_late)
            raise
        self._named = _names(answer)
        return _understood(observation_from_json, answer["observation"])

    async def step(self, reply: Message) -> Step:
        """Apply the reply.

        Raises:
            EnvError: the service or the session is gone; what the reply would have caused, nobody knows.
        """
        if self._named is None:
            raise EnvError("env.no_episode", "cannot take a step: the episode was not started, or is over")
        data = {"reply": message_to_json(reply)}
        answer = await self._ask({"type": "step", "data": data, "at": self._steps, **self._named})
        self._steps += 1
        return _understood(step_from_json, answer["step"])

    async def close(self) -> None:
        """End the session in the service, where it can be reached; else its lease ends it."""
        named, self._named = self._named, None
        if named is not None:
            await self._close(named)

    async def _close(self, named: Mapping[str, Any]) -> None:
        with contextlib.suppress(ConnectionLost, TimeoutError, RequestError, ConfigError):
            connection = await self._pool.connection(self._number)
            await connection.ask({"type": "close", **named}, timeout_s=CONNECT_S)

    def _close_late(self, asking: asyncio.Task[dict[str, Any]]) -> None:
        if not asking.cancelled() and asking.exception() is None:
            self._pool.keep(self._close(_names(asking.result())))

    async def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Ask until there is an answer; the same `request_id` makes a repetition harmless."""
        loop, pool = asyncio.get_running_loop(), self._pool
        message["request_id"] = pool.request_id()
        pauses, until = _pauses(), None
        while True:
            try:
                connection = await pool.connection(self._number)
                return await connection.ask(message, timeout_s=pool.answer_s)
            except (ConnectionLost, ConfigError) as error:  # what was a service before may be one again
                problem: Exception = error
            except TimeoutError as error:
                raise EnvError(
                    "env.unreachable", f"the service at {pool.url} did not answer in {pool.answer_s:g} s"
                ) from error
            except RequestError as error:
                if error.code not in RETRIED:
                    code = error.code if error.code.startswith("env.") else f"env.{error.code}"
                    raise EnvError(code, f"{error.message}; {error.next_step}", error.detail) from error
                problem = error
            until = loop.time() + self._deadline_s if until is None else until
            if loop.time() >= until:
                raise EnvError(
                    "env.unreachable",
                    f"the service at {pool.url} cannot be used, tried for {self._deadline_s:g} s: {problem}",
                ) from problem
            await asyncio.sleep(next(pauses))


class _Pool:
    """The connections of one event loop; a lost one is opened again, once for all who need it."""

    def __init__(self, url: str, size: int, answer_s: float, **options: Any) -> None:
        self.url = url
        self.answer_s = answer_s
        self._options = options
        self._open: list[asyncio.Task[Connection] | None] = [None] * size
        self._kept: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count()
        self._name = f"{random.SystemRandom().getrandbits(48):012x}"

    def request_id(self) -> str:
        return f"{self._name}-{next(self._numbers)}"

    async def connection(self, number: int) -> Connection:
        """Return a connection.

        Raises:
            ConnectionLost, ConfigError: as `Connection.open`.
        """
        place = number % len(self._open)
        opening = self._open[place]
        if opening is not None and opening.done():
            if not opening.cancelled() and opening.exception() is None and not opening.result().lost:
                return opening.result()
            opening = None
        if opening is None:
            opening = asyncio.create_task(Connection.open(self.url, **self._options))
            opening.add_done_callback(_looked_at)
            self._open[place] = opening
        return await asyncio.shield(opening)

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that nobody waits for."""
        task = asyncio.create_task(work)
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)
        task.add_done_callback(_looked_at)


class _RemoteTasks(Sequence[Task]):
    """The tasks of a split, as places that are filled when asked for."""

    def __init__(self, fetch: Callable[[int], Task], places: range) -> None:
        self._fetch = fetch
        self._places = places
        self._known: dict[int, Task] = {}

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | Sequence[Task]:
        chosen = self._places[index]
        if isinstance(chosen, range):
            return _RemoteTasks(self._fetch, chosen)
        if chosen not in self._known:
            self._known[chosen] = self._fetch(chosen)
        return self._known[chosen]


def _address(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError("remote.url", f"env.url must begin with http:// or https://, got {url!r}")
    if "@" in parts.netloc:  # it would stand in every config and error message
        raise ConfigError(
            "remote.url", "env.url must hold no user and no password: the token is AGENTRL_TOKEN"
        )
    return url.rstrip("/")


def _names(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every later message names the session by."""
    return {"session_id": answer.get("session_id"), "session_key": answer.get("session_key")}


def _looked_at(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _pauses() -> Any:
    """Yield growing pauses, each from half to all of its length, so that clients do not return in step."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s * random.uniform(0.5, 1.0)
        pause_s = min(pause_s * 2, MAX_PAUSE_S)


def _understood(read: Callable[[Any], Any], value: Any) -> Any:
    try:
        return read(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EnvError("env.wire", f"cannot read what the service sent: {error!r}") from error


def _refused(error: urllib.error.HTTPError, url: str) -> AgentRLError | ConnectionLost:
    if error.code in (502, 503, 504):
        return ConnectionLost(f"the service at {url} is not ready (HTTP {error.code})")
    try:
        said = json.load(error)["error"]
        return ConfigError(said["code"], f"{said['message']} (service at {url}); {said['next_step']}")
    except (ValueError, KeyError, TypeError):
        return ConfigError(
            "remote.not_a_service", f"what answers at {url} is no agentrl service (HTTP {error.code})"
        )
