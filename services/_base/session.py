"""One session: a place that plays one episode after another, for one client, one request at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from agentrl.env import Env, EnvSession
from agentrl.errors import AgentRLError, ConfigError, EnvError, RequestError, ToolError, boundary
from agentrl.remote.wire import message_from_json, observation_to_json, step_to_json, task_from_json
from agentrl.types import Step, Task
from services._base.deadline import within
from services._base.refusals import invalid, whole_number
from services._base.service import EnvService
from services._base.settings import ServiceSettings

__all__ = ["NOT_BEGUN", "Caller", "Session"]

log = logging.getLogger("agentrl.service")

T = TypeVar("T")

BAD_TASK = "env.bad_task"
"""What an environment says of a task that is none of its own: the client's mistake."""
RESET = 'send {"type": "reset", "data": {}} first'
MAX_FORGOTTEN = 1024
"""Requests whose answers are no longer kept, but which are still refused a second time."""
STUBBORN_S = 5.0
"""For how long the end of a session waits for a step that was told to stop."""

Answer = dict[str, Any]

NOT_BEGUN: Answer = {"episode_id": None, "step_count": 0}
"""The state of whoever has not begun a session."""


@dataclass(slots=True, eq=False)
class Caller:
    """Who asks: a token's digest, the token itself (to speak to another worker), and the sessions it holds.

    A session held by a connection needs no key on it. A connection has a `name`, by which the other workers
    know it (they are `elsewhere`); `passed_on` says that this is such a stand-in for another worker's client.
    """

    owner: str
    token: str | None = field(default=None, repr=False)
    name: str | None = None
    passed_on: bool = False
    held: dict[str, Session] = field(default_factory=dict[str, "Session"], repr=False)
    elsewhere: set[int] = field(default_factory=set[int])
    waits: set[asyncio.Future[None]] = field(default_factory=set[asyncio.Future[None]], repr=False)
    gone: bool = False


class Session:
    """A session and its present episode.

    `key` is its secret: whoever does not hold it, or its connection (`holder`), cannot touch it even with its
    id. `expires_at` is set while nobody holds it.
    """

    __slots__ = (
        "_answers",
        "_done",
        "_episode_id",
        "_forgotten",
        "_limit",
        "_lock",
        "_native",
        "_playing",
        "_service",
        "_settings",
        "_steps",
        "_task",
        "begun",
        "ended",
        "expires_at",
        "holder",
        "key",
        "owner",
        "session_id",
        "used_at",
    )

    def __init__(self, session_id: str, owner: str, service: EnvService, settings: ServiceSettings) -> None:
        self.session_id = session_id
        self.owner = owner
        self.key = secrets.token_urlsafe(16)
        self.used_at = time.monotonic()
        self.expires_at: float | None = None
        self.holder: Caller | None = None
        self.begun = False
        self.ended: str | None = None
        self._service = service
        self._settings = settings
        self._lock = asyncio.Lock()
        self._limit: asyncio.Timeout | None = None
        self._answers: OrderedDict[str, asyncio.Future[Answer]] = OrderedDict()
        self._forgotten: OrderedDict[str, None] = OrderedDict()
        self._playing: EnvSession | None = None
        self._task: Task | None = None
        self._native = False
        self._done = False
        self._steps = 0
        self._episode_id: str | None = None

    @property
    def busy(self) -> bool:
        """Whether a request is being worked on."""
        return self._lock.locked()

    @property
    def state(self) -> Answer:
        """What OpenEnv calls the state: which episode, how far, and of which task."""
        task = self._task
        return {
            "session_id": self.session_id,
            "episode_id": self._episode_id,
            "step_count": self._steps,
            "done": self._done,
            "task_id": None if task is None else task.task_id,
            "task_kind": None if task is None else task.kind,
        }

    async def reset(self, data: Mapping[str, Any], request_id: str | None) -> Answer:
        """Begin an episode; of a `task`, or of place `index` (or `seed`, or chance) in a `split`.

        Raises:
            RequestError: what was asked for is not a task of this environment.
            EnvError: the environment failed; the session is still there, and plays nothing.
        """
        return await self._once(request_id, lambda: self._reset(data))

    async def step(self, data: Mapping[str, Any], request_id: str | None, at: int | None = None) -> Answer:
        """Apply one action, or one `reply` of a platform client.

        Args:
            at: how many steps the client has seen answered; a request that comes out of order is refused.

        Raises:
            RequestError: there is no episode, it is over, or the action is not one.
            EnvError: the environment failed or took too long; the episode is over.
        """
        return await self._once(request_id, lambda: self._step(data, at))

    async def close(self, reason: str) -> None:
        """End the session, and at once what it is doing; idempotent.

        Raises:
            EnvError: the environment did not close.
        """
        if self.ended is None:
            self.ended = reason
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(0.0)
        settled = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STUBBORN_S):
                settled = await self._lock.acquire()
        try:
            await self._leave()
        finally:
            self._answers.clear()
            if settled:
                self._lock.release()

    async def _once(self, request_id: str | None, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Do the work, alone; or, where this very request was made before, return what came of it."""
        self.used_at = time.monotonic()
        if request_id is None:
            async with self._lock:
                return await work()
        known = self._answers.get(request_id)
        if known is not None:
            return await asyncio.shield(known)
        answer = self._remember(request_id)
        try:
            async with self._lock:
                result = await work()
        except BaseException as error:
            if isinstance(error, EnvError):
                failed: AgentRLError = error
            else:  # nothing was changed, so the same request may be right another time
                self._answers.pop(request_id, None)
                lost = EnvError("env.lost", f"a request of session {self.session_id} was abandoned")
                failed = error if isinstance(error, AgentRLError) else lost
            answer.set_exception(failed)
            answer.exception()  # whoever waits gets it; nobody need wait
            raise
        answer.set_result(result)
        self.used_at = time.monotonic()
        return result

    def _remember(self, request_id: str) -> asyncio.Future[Answer]:
        if request_id in self._forgotten:
            raise RequestError(
                "session.answer_forgotten",
                f"request {request_id[:80]!r} of session {self.session_id} was answered long ago, and only "
                f"the last {self._settings.remembered_requests} answers are kept",
                "give every new request an id of its own",
            )
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        answers, forgotten = self._answers, self._forgotten
        answers[request_id] = answer
        while len(answers) > self._settings.remembered_requests and next(iter(answers.values())).done():
            forgotten[answers.popitem(last=False)[0]] = None
            if len(forgotten) > MAX_FORGOTTEN:
                forgotten.popitem(last=False)
        return answer

    async def _reset(self, data: Mapping[str, Any]) -> Answer:
        self._check_alive()
        native = "task" in data
        env = self._service.env if native else self._service.plain
        task = self._native_task(data["task"]) if native else _chosen(env, data)
        episode_id = data.get("episode_id")
        if episode_id is not None and not (isinstance(episode_id, str) and len(episode_id) <= 255):
            raise invalid("episode_id", "text of at most 255 characters", episode_id)
        await self._leave_quietly()
        try:
            with boundary(EnvError, "env.start", f"starting task {task.task_id}", task_id=task.task_id):
                self._playing = env.session()
                shown = await self._limited(self._playing.start(task))
                self._check_alive()
                observation = observation_to_json(shown) if native else self._service.show(shown, None)
        except BaseException as error:
            await self._leave_quietly()
            self._check_alive()
            if isinstance(error, EnvError) and error.code == BAD_TASK:
                raise RequestError(BAD_TASK, error.message, "send a task as GET /tasks lists it") from error
            raise
        self._task, self._native, self.begun = task, native, True
        self._episode_id = episode_id or secrets.token_hex(8)
        return {"observation": observation, "reward": None, "done": False}

    async def _step(self, data: Mapping[str, Any], at: int | None) -> Answer:
        self._check_alive()
        playing = self._playing
        if playing is None:
            raise RequestError(
                "session.not_reset", f"session {self.session_id} plays no episode: cannot take a step", RESET
            )
        if self._done:
            raise RequestError(
                "session.episode_done",
                f"episode {self._episode_id} of session {self.session_id} is over after {self._steps} steps",
                'send {"type": "reset"} to play another',
            )
        if at is not None and at != self._steps:
            raise RequestError(
                "session.out_of_order",
                f"session {self.session_id} has taken {self._steps} steps, and this one is meant after {at}",
                "wait for each answer before the next step",
                {"steps": self._steps, "at": at},
            )
        if self._native:
            reply = self._native_reply(data)
        else:
            try:
                action = self._service.Action.model_validate(data)
            except ValidationError as error:
                raise _not_an_action(error, self._service) from None
            reply = self._service.reply(action)
        done = True
        try:
            with boundary(EnvError, "env.step", f"step {self._steps} of session {self.session_id}"):
                step = await self._limited(playing.step(reply))
                self._check_alive()
                self._steps += 1
                done = step.terminated or step.observation is None
                return self._answer(step, done=done)
        except BaseException:
            done = True  # nobody knows what state a failed step left
            self._check_alive()
            raise
        finally:
            self._done = done

    def _answer(self, step: Step, *, done: bool) -> Answer:
        if self._native:
            return {"step": step_to_json(step), "reward": step.reward, "done": done}
        observation = self._service.show(step.observation, step)
        return {"observation": observation, "reward": step.reward, "done": done}

    async def _limited(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the work's result, within the time that a step may take; `close` cuts it short."""
        try:
            return await within(self._settings.step_timeout_s, work, self._note_limit)
        except ToolError as error:  # meant for a model, which is not here to read it
            raise RuntimeError(f"a ToolError escaped the environment: {error}") from error
        finally:
            self._limit = None

    def _note_limit(self, limit: asyncio.Timeout) -> None:
        self._limit = limit

    async def _leave(self) -> None:
        """End the present episode, if there is one."""
        playing, self._playing = self._playing, None
        self._task, self._episode_id, self._done, self._steps = None, None, False, 0
        if playing is not None:
            with boundary(EnvError, "env.close", f"closing an episode of session {self.session_id}"):
                await within(self._settings.step_timeout_s, playing.close())

    async def _leave_quietly(self) -> None:
        try:
            await self._leave()
        except EnvError as error:
            log.warning(
                "an episode did not close", extra={"session_id": self.session_id, "error": error.message}
            )

    def _check_alive(self) -> None:
        if self.ended is not None:
            raise RequestError(
                "session.ended", f"session {self.session_id} is over: {self.ended}", "open a new session"
            )

    def _native_task(self, value: Any) -> Task:
        try:
            return task_from_json(value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise invalid("task", "a task as GET /tasks lists it", value, str(error)) from None

    def _native_reply(self, data: Mapping[str, Any]) -> Any:
        value = data.get("reply")
        try:
            return message_from_json(value)  # pyright: ignore[reportArgumentType]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise invalid("reply", 'a chat message: {"role", "content"}', value, str(error)) from None


def _chosen(env: Env, data: Mapping[str, Any]) -> Task:
    split = data.get("split") or "train"
    if not isinstance(split, str):
        raise invalid("split", "text", split)
    try:
        with boundary(EnvError, "env.tasks", f"listing the tasks of {split[:80]!r}"):
            tasks = env.tasks(split)
    except ConfigError as error:
        raise RequestError(
            error.code, error.message, "use one of the splits that it lists", error.detail
        ) from error
    index, seed = data.get("index"), data.get("seed")
    if index is not None:
        place = whole_number("index", index, len(tasks))
    elif seed is not None:
        place = whole_number("seed", seed) % max(1, len(tasks))
    else:
        place = secrets.randbelow(max(1, len(tasks)))
    with boundary(EnvError, "env.tasks", f"reading task {place} of {split[:80]!r}"):
        return tasks[place]


def _not_an_action(error: ValidationError, service: EnvService) -> RequestError:
    problems = "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'action'}: {item['msg']}" for item in error.errors()
    )
    fields = ", ".join(f'"{name}"' for name in service.Action.model_fields if name != "metadata")
    return RequestError(
        "wire.invalid",
        f"this is not an action of {service.name}: {problems[:500]}",
        f"send an object with {fields}; GET /schema describes it",
    )
