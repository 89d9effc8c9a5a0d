"""The environment protocol: what a file in `envs/` implements, and the check that it does.

An `Env` is built once per run and shared by every episode (parsed games, catalogues, indexes live
there); an `EnvSession` is one episode, single use, with no reset. Reward and success are computed
inside; the model reaches neither them nor the task's data. A bad *action* is never an exception: it is
a `Step` with reward 0 and `action_valid=False`. Whatever a session raises ends only its episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel

from agentrl.types import Message, Observation, Step, Task

__all__ = ["Demonstrator", "Env", "EnvPlugin", "EnvSession", "Expert", "ExpertReply"]


class EnvSession(Protocol):
    """One episode: `start` once, `step` until a step is terminated, `close` any number of times."""

    async def start(self, task: Task) -> Observation:
        """Pose the task and return the first observation (instructions included)."""
        ...

    async def step(self, reply: Message) -> Step:
        """Apply the model's reply and return what it caused."""
        ...

    async def close(self) -> None:
        """Release whatever the session holds; idempotent."""
        ...


@runtime_checkable
class Env(Protocol):
    """An environment: what a plug-in's class makes of its settings, or a service that plays elsewhere."""

    @property
    def version(self) -> str:
        """What episodes are stamped with; another one may play differently."""
        ...

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the tasks of a split: deterministic in (settings, split), cheap to index.

        Raises:
            ConfigError: the split does not exist (the user's fault; the message lists those that do).
        """
        ...

    def session(self) -> EnvSession:
        """Return a new, unstarted session."""
        ...


class EnvPlugin(Protocol):
    """What an environment's file exports: one class, named by `__all__`, built from its own settings."""

    Settings: ClassVar[type[BaseModel]]

    def __call__(self, settings: Any) -> Env:
        """Return the environment."""
        ...


@dataclass(frozen=True, slots=True)
class ExpertReply:
    """What an expert says. A slip is a deliberate mistake, shown so that recovery can be learned."""

    text: str
    slip: bool = False


class Expert(Protocol):
    """Plays one episode from what the observations show and from nothing else."""

    def act(self, observation: Observation) -> ExpertReply:
        """Return the next reply, written as the environment's style asks."""
        ...


@runtime_checkable
class Demonstrator(Protocol):
    """An environment that brings a scripted expert (what behaviour cloning needs)."""

    def expert(self, *, seed: int, slip_rate: float = 0.0) -> Expert:
        """Return a fresh expert whose slips are a function of the seed."""
        ...
