"""What the store hands out besides episodes: runs, their statistics, commits, credit and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["Commit", "CreditRun", "EpisodeCredit", "EpisodeSummary", "Metric", "Run", "RunStats", "RunStatus"]


def _no_terms() -> Mapping[str, tuple[float | None, ...]]:
    return {}


class RunStatus(StrEnum):
    """How far a run has come. Nothing but this ever changes in a store."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Run:
    """One training, evaluation or import. `created` is ISO 8601 in UTC."""

    run_id: str
    name: str
    created: str
    env: str
    config: Mapping[str, Any]
    config_hash: str
    software: Mapping[str, Any]
    parent_run_id: str | None
    status: RunStatus


@dataclass(frozen=True, slots=True)
class RunStats:
    """Counts over the episodes of a run that count; `judged` are those whose correctness is known."""

    episodes: int = 0
    turns: int = 0
    failed: int = 0
    judged: int = 0
    correct: int = 0
    batches: int = 0

    @property
    def success_rate(self) -> float | None:
        """Share of the judged episodes that were correct; None when nobody judged any."""
        return self.correct / self.judged if self.judged else None


@dataclass(frozen=True, slots=True)
class EpisodeSummary:
    """An episode without its turns, for lists of thousands."""

    episode_id: str
    group_id: str
    task_id: str
    env: str
    batch: int
    num_turns: int
    ret: float
    correct: bool | None
    stop_reason: str
    error_code: str | None
    parent_episode_id: str | None


@dataclass(frozen=True, slots=True)
class Commit:
    """The checkpoint at `checkpoint` holds the update that used batch `batch`."""

    batch: int
    checkpoint: str
    created: str


@dataclass(frozen=True, slots=True)
class CreditRun:
    """One assignment of credit to episodes of a run, under one configuration."""

    credit_run_id: str
    run_id: str
    created: str
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EpisodeCredit:
    """The credit of one episode; every sequence has one entry per turn.

    An advantage of None means that the turn was not credited, which is not the same as 0. The terms of
    a turn sum to its advantage; `terms` may be empty where nobody kept them. `channels` holds the
    advantage of each reward channel.
    """

    episode_id: str
    advantages: tuple[float | None, ...]
    terms: tuple[Mapping[str, float], ...] = ()
    channels: Mapping[str, tuple[float | None, ...]] = field(default_factory=_no_terms)


@dataclass(frozen=True, slots=True)
class Metric:
    """One value of one name at one training step; NaN where it was undefined."""

    step: int
    name: str
    value: float
