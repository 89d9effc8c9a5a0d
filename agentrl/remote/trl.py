"""ALFWorld for TRL's `GRPOTrainer(environment_factory=...)`, played in a service; TRL itself is not imported.

    trainer = GRPOTrainer(
        model, args=GRPOConfig(...), reward_funcs=success,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": ""}], "index": 0}, ...]),
        environment_factory=alfworld_environment("http://127.0.0.1:8000"),
    )

`examples/trl_alfworld.py` is a whole program.
"""

from __future__ import annotations

import os
import random
import time
import uuid
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from agentrl.errors import AgentRLError, ConfigError, EnvError, RequestError
from agentrl.remote.connection import ConnectionLost, answer_error, connect_error, socket_url
from agentrl.remote.wire import decode, encode

__all__ = ["AlfWorldEnvironment", "alfworld_environment", "success"]

TOKEN_VARIABLE = "AGENTRL_TOKEN"
DEADLINE_S = 60.0
CONNECT_S = 10.0
CLOSE_S = 1.0
FIRST_PAUSE_S, MAX_PAUSE_S = 0.05, 2.0
MAX_FRAME_BYTES = 64 << 20
BROKEN = 4000
"""The code that a connection is closed with which is not meant to be: a normal one would end the session."""
RETRIED = ("service.full", "service.draining")
UNREACHABLE = "env.unreachable"
GAME_OVER = "The game is over: the task is done."


class AlfWorldEnvironment:
    """One place to play, which TRL resets again and again; made by `alfworld_environment`.

    Its tool is `act`. Reward functions read `done`, `won`, `reward` (what the service gave, summed), `steps`,
    `invalid_steps` and `error`: the failure that ended the episode, if the service lost it.
    """

    _url: ClassVar[str]
    _split: ClassVar[str]
    _deadline_s: ClassVar[float]

    def __init__(self) -> None:
        self._line = _Line(self._url, self._deadline_s)
        # TRL keeps these objects and never closes them: the end of each is the end of its session.
        weakref.finalize(self, self._line.hang_up)
        self._named: dict[str, Any] = {}
        self._clear()

    def reset(
        self, index: int | None = None, seed: int | None = None, split: str | None = None, **_: Any
    ) -> str:
        """Begin the game of place `index` of the split (or of `seed`) and return what it shows first.

        A row of the data set brings the arguments; what else it holds is left alone. If the service fails to
        begin the game, the episode is one with an `error`.

        Raises:
            ConfigError: the row names no game, or one that does not exist (the data set's fault).
            EnvError: the service is gone, or was full for all of the deadline.
        """
        chosen = {"index": index} if index is not None else {"seed": seed}
        if index is None and seed is None:
            raise ConfigError(
                "remote.row",
                "cannot begin a game: give each row of the data set an `index` (or a `seed`); with one the "
                "rollouts of a group play the same game, without they cannot be compared",
            )
        self._clear()
        request = {"type": "reset", "data": {**chosen, "split": split or self._split}}
        try:
            answer = self._begin(request)
            text = str(answer["observation"]["text"])
            named = {name: answer[name] for name in ("session_id", "session_key")}
        except RequestError as error:
            raise ConfigError(
                "remote.row", f"cannot begin the game of {chosen}: {error.message}; {error.next_step}"
            ) from error
        except EnvError as error:
            if error.code == UNREACHABLE:
                raise
            self.error = error
            return ""
        except (KeyError, TypeError) as error:
            raise ConfigError(
                "remote.not_alfworld", f"what plays at {self._url} is no ALFWorld: its answer has no {error}"
            ) from error
        self._named = named
        return text

    def act(self, command: str) -> str:
        """
        Give the game one command and read what happens.

        Args:
            command: The command, for example: go to fridge 1

        Returns:
            What the game says.
        """
        # TRL shows the model whatever is raised here. Only what is no fault of the model's is an `error`.
        if self.error is not None:
            raise self.error
        if self.done:
            return GAME_OVER
        if not isinstance(command, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # models write anything
            raise TypeError(f"command must be text such as `go to fridge 1`, got {command!r}")
        sendable = command.encode("utf-8", "replace").decode()
        request = {"type": "step", "data": {"command": sendable}, "at": self.steps, **self._named}
        try:
            answer = self._line.ask(request)
            shown, reward, done = answer["observation"], float(answer["reward"]), bool(answer["done"])
            text, valid, won = str(shown["text"]), bool(shown["valid"]), bool(shown["won"])
        except RequestError as error:
            if error.code.startswith("wire."):
                raise
            self.error = EnvError(f"env.{error.code}", f"{error.message}; {error.next_step}", error.detail)
            raise self.error from error
        except AgentRLError as error:
            self.error = error
            raise
        except (KeyError, TypeError, ValueError) as error:
            self.error = EnvError("env.wire", f"cannot read what the service at {self._url} sent: {error!r}")
            raise self.error from error
        self.steps += 1
        self.invalid_steps += not valid
        self.reward += reward
        self.done, self.won = done, won
        return text

    def _clear(self) -> None:
        self.done = False
        self.won = False
        self.reward = 0.0
        self.steps = 0
        self.invalid_steps = 0
        self.error: AgentRLError | None = None

    def _begin(self, request: Mapping[str, Any]) -> Any:
        """Reset the session that is there, or a new one if it has ended meanwhile."""
        if self._named:
            try:
                return self._line.ask({**request, **self._named})
            except RequestError as error:
                if not error.code.startswith("session."):
                    raise
                self._named = {}
        return self._line.ask(request)


def alfworld_environment(
    url: str, *, split: str = "train", deadline_s: float = DEADLINE_S
) -> type[AlfWorldEnvironment]:
    """Return the class to hand to TRL as `environment_factory`.

    Each object plays in one session of the service at `url`, which must have a place for every completion of
    a generation batch. A request is repeated, over a new connection if need be, until `deadline_s` have
    passed; the service does nothing twice. The token is read from AGENTRL_TOKEN.

    Raises:
        ConfigError: the address is none.
    """
    socket_url(url)

    class Environment(AlfWorldEnvironment):
        _url = url.rstrip("/")
        _split = split
        _deadline_s = deadline_s

    Environment.__name__ = Environment.__qualname__ = AlfWorldEnvironment.__name__
    return Environment


def success(environments: Sequence[AlfWorldEnvironment], **_: Any) -> list[float | None]:
    """Reward function: 1 for a game won, 0 for one that was not, None where the service lost the episode.

    TRL leaves a rollout without a reward out of its group's baseline, and learns nothing from it.
    """
    return [None if environment.error else float(environment.won) for environment in environments]


class _Line:
    """The connection of one environment object: opened when it is needed, and again when it breaks."""

    def __init__(self, url: str, deadline_s: float) -> None:
        self._url = url
        self._deadline_s = deadline_s
        self._socket: ClientConnection | None = None
        self._open = ExitStack()

    def ask(self, message: Mapping[str, Any]) -> Any:
        """Return the data of the answer; the same `request_id` makes a repetition harmless.

        Raises:
            RequestError: the service refuses. EnvError: the environment failed, or nothing answers in time.
            ConfigError: what answers is no service of ours, or refuses the token.
        """
        until = time.monotonic() + self._deadline_s
        named = {**message, "request_id": uuid.uuid4().hex}
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return self._ask_once(named, until)
            except ConnectionLost as error:
                problem: Exception = error
            except RequestError as error:
                if error.code not in RETRIED:
                    raise
                problem = error
            if time.monotonic() >= until:
                raise EnvError(
                    UNREACHABLE,
                    f"the service at {self._url} cannot be used, tried for {self._deadline_s:g} s: {problem}",
                ) from problem
            time.sleep(min(pause_s * random.uniform(0.5, 1.0), max(until - time.monotonic(), 0.0)))
            pause_s = min(pause_s * 2, MAX_PAUSE_S)

    def hang_up(self) -> None:
        """Close the connection, and with it the session in the service; idempotent."""
        self._socket = None
        self._open.close()

    def _ask_once(self, message: Mapping[str, Any], until: float) -> Any:
        raw = encode(message).decode()
        socket = self._socket or self._connect(until)
        # Whoever says nothing for half of the deadline may be gone, and there is time to ask once more.
        silent_at = min(until, time.monotonic() + self._deadline_s / 2)
        try:
            socket.send(raw)
            while True:
                frame = decode(socket.recv(timeout=max(silent_at - time.monotonic(), 0.001)))
                if frame.get("request_id") == message["request_id"]:
                    break
        except (OSError, WebSocketException, ValueError) as error:
            self._drop()
            raise ConnectionLost(
                f"the connection to {self._url} broke: {str(error) or type(error).__name__}"
            ) from error
        if frame["type"] == "error":
            raise answer_error(frame["data"])
        return frame["data"]

    def _drop(self) -> None:
        """Give the connection up in a way that leaves the session to be found again."""
        if self._socket is not None:
            self._socket.close(BROKEN)
        self.hang_up()

    def _connect(self, until: float) -> ClientConnection:
        token = os.environ.get(TOKEN_VARIABLE, "").split(",")[0].strip()
        try:
            opening = connect(
                socket_url(self._url),
                additional_headers={"Authorization": f"Bearer {token}"} if token else None,
                compression=None,
                max_size=MAX_FRAME_BYTES,
                open_timeout=max(min(CONNECT_S, until - time.monotonic()), 0.001),
                close_timeout=CLOSE_S,
                ping_interval=None,  # the service pings; our own would break connections of a busy trainer
            )
            self._socket = self._open.enter_context(opening)
        except (OSError, TimeoutError, WebSocketException) as error:
            raise connect_error(error, self._url) from error
        return self._socket
