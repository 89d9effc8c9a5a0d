"""A guessing game and a policy for it: small, deterministic, and as hard on the rollout as a test asks."""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fakes import byte_renderer
from pydantic import BaseModel, ConfigDict

from agentrl.env import ExpertReply
from agentrl.errors import ConfigError
from agentrl.policy.base import Completion, SampleRequest
from agentrl.policy.render import Renderer
from agentrl.rollout.episode import Player
from agentrl.rollout.limits import Limits
from agentrl.types import Message, Observation, Step, Task

__all__ = ["GuessEnv", "HashPolicy", "guess_player"]

GUESS = re.compile(r"guess (\d{1,4})")
SIZES = {"train": 40, "valid_unseen": 20}


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    top: int = 9
    fresh_every: int = 0
    """After that many turns the context starts afresh; 0 is never."""


@dataclass(slots=True)
class Faults:
    """What goes wrong, by episode place in the order of `session()` calls; tests set these."""

    start: Callable[[int], Exception | None] = lambda place: None
    step: Callable[[int], Exception | None] = lambda place: None
    close: Callable[[int], Exception | None] = lambda place: None
    open: Callable[[int], Exception | None] = lambda place: None
    hang_in_step: Callable[[int], bool] = lambda place: False
    close_takes_s: Callable[[int], float] = lambda place: 0.0


class GuessEnv:
    """Find a number: the environment says higher or lower."""

    Settings = Settings
    version = "1"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.faults = Faults()
        self.words: dict[str, str] = {}  # what a session says instead
        self.sessions: list[GuessSession] = []

    def tasks(self, split: str) -> Sequence[Task]:
        if split not in SIZES:
            raise ConfigError("guess.split", f"there is no split {split!r}; splits: {', '.join(SIZES)}")
        answers = random.Random(f"{split} {self.settings.top}")
        numbers = [answers.randint(1, self.settings.top) for _ in range(SIZES[split])]
        return [
            Task(f"{split}-{place}", "guess", ("low", "high")[place % 2], split, place, {"answer": number})
            for place, number in enumerate(numbers)
        ]

    def session(self) -> GuessSession:
        place = len(self.sessions)
        if (fault := self.faults.open(place)) is not None:
            raise fault
        self.sessions.append(GuessSession(self, place))
        return self.sessions[-1]

    def expert(self, *, seed: int, slip_rate: float = 0.0) -> GuessExpert:
        return GuessExpert(self.settings.top, seed, slip_rate)


@dataclass(slots=True)
class GuessSession:
    env: GuessEnv
    place: int
    answer: int = 0
    low: int = 1
    high: int = 0
    turn: int = 0
    closed: int = 0
    interrupted: bool = False

    async def start(self, task: Task) -> Observation:
        if (fault := self.env.faults.start(self.place)) is not None:
            raise fault
        self.answer, self.high = task.data["answer"], self.env.settings.top
        return self._observation(
            Message("system", "You guess numbers."), Message("user", f"A number from 1 to {self.high}.")
        )

    async def step(self, reply: Message) -> Step:
        if (fault := self.env.faults.step(self.place)) is not None:
            raise fault
        if self.env.faults.hang_in_step(self.place):
            await asyncio.sleep(3600)
        self.turn += 1
        match = GUESS.fullmatch(reply.content.strip())
        if match is None or not 1 <= int(match[1]) <= self.env.settings.top:
            return Step(self._observation(Message("user", "That is no guess.")), action_valid=False)
        guess = int(match[1])
        if guess == self.answer:
            return Step(None, reward=1.0, terminated=True, correct=True, info={"turns": self.turn})
        if guess < self.answer:
            self.low, word = max(self.low, guess + 1), "Higher."
        else:
            self.high, word = min(self.high, guess - 1), "Lower."
        word = self.env.words.get(word, word)
        return Step(self._observation(Message("user", word)), tool_calls=len(reply.tool_calls), correct=False)

    async def close(self) -> None:
        try:
            await asyncio.sleep(self.env.faults.close_takes_s(self.place))
        except asyncio.CancelledError:
            self.interrupted = True
            raise
        self.closed += 1
        if (fault := self.env.faults.close(self.place)) is not None:
            raise fault

    def _observation(self, *messages: Message) -> Observation:
        every = self.env.settings.fresh_every
        fresh = bool(every and self.turn and self.turn % every == 0)
        if fresh:
            messages = (Message("user", f"So far: {self.low} to {self.high}. {messages[0].content}"),)
        return Observation(messages, {"low": self.low, "high": self.high}, fresh, {"turn": self.turn})


class GuessExpert:
    """Halves the interval that the observations leave; a slip is a word that is no guess."""

    def __init__(self, top: int, seed: int, slip_rate: float) -> None:
        self._low, self._high = 1, top
        self._random, self._slip_rate = random.Random(seed), slip_rate
        self._last = 0

    def act(self, observation: Observation) -> ExpertReply:
        text = observation.messages[-1].content
        if text.endswith("Higher."):
            self._low = self._last + 1
        elif text.endswith("Lower."):
            self._high = self._last - 1
        if self._random.random() < self._slip_rate:
            return ExpertReply("hm", slip=True)
        self._last = (self._low + self._high) // 2
        return ExpertReply(f"guess {self._last}")


@dataclass(slots=True)
class HashPolicy:
    """Sample by hashing (context, seed): guesses, junk bytes and replies that are cut, at any pace.

    It records every context that it was asked about. How long a reply takes is drawn from the clock's
    entropy on purpose, so that episodes meet each other differently in every run.
    """

    renderer: Renderer = field(default_factory=byte_renderer)
    top: int = 9
    max_context_tokens: int = 100_000
    version: int = 3
    fault: Callable[[SampleRequest], Exception | None] = lambda request: None
    hang: Callable[[SampleRequest], bool] = lambda request: False
    end_fault: Exception | None = None
    seen: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    playing: int = 0
    most_playing: int = 0

    async def sample(self, request: SampleRequest) -> Completion:
        if (fault := self.fault(request)) is not None:
            raise fault
        self.seen.setdefault(request.session, []).append(tuple(request.context_ids))
        self.playing += 1
        self.most_playing = max(self.most_playing, self.playing)
        try:
            await asyncio.sleep(3600 if self.hang(request) else random.random() * 2e-3)
        finally:
            self.playing -= 1
        noise = random.Random(hashlib.sha256(repr((request.context_ids, request.seed)).encode()).digest())
        match noise.randrange(8):
            case 0:
                ids = tuple(noise.randrange(5, 200) for _ in range(noise.randrange(1, 6)))
            case 1:
                ids = self.renderer.reply_ids("guess " * 40)
            case _:
                ids = self.renderer.reply_ids(f"guess {noise.randint(1, self.top)}")
        ids = ids[: request.params.max_tokens]
        stopped = ids[-1] in request.params.stop_ids
        logprobs = tuple(math.log(1 - noise.random()) for _ in ids)
        entropies = tuple(noise.random() for _ in ids)
        return Completion(ids, logprobs, entropies, self.version, "stop" if stopped else "length")

    async def score(self, context_ids: Sequence[int], target_ids: Sequence[int]) -> tuple[float, ...]:
        return (-1.0,) * len(target_ids)

    async def end_session(self, session: str) -> None:
        self.ended.append(session)
        if self.end_fault is not None:
            raise self.end_fault

    async def close(self) -> None:
        pass

    async def until_playing(self, count: int) -> None:
        """Wait until that many replies are being sampled at once."""
        while self.playing < count:  # noqa: ASYNC110  an event for each count would say no more
            await asyncio.sleep(0)


def guess_player(
    env: GuessEnv | None = None,
    policy: HashPolicy | None = None,
    *,
    turns: int = 12,
    reply_tokens: int = 24,
    context_tokens: int = 100_000,
    episode_timeout_s: float = 60.0,
    step_timeout_s: float = 10.0,
) -> Player:
    """Return a player of the guessing game with limits that nothing passes unless a test asks for it."""
    policy = policy or HashPolicy()
    limits = Limits(turns, reply_tokens, context_tokens, episode_timeout_s, step_timeout_s)
    return Player(env or GuessEnv(Settings()), policy, policy.renderer, limits, temperature=1.0)
