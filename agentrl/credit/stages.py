"""What the five stages hand to each other, and what a method's file must look like.

    select(batch, *, options)                   -> Selection   which episodes are compared at all
    reward(batch, *, options)                   -> Scores      what happened, in numbers
    estimator(scores, batch, *, options)        -> Estimate    how much better than comparable turns
    shaper(shaped, scores, batch, *, options)   -> Shaped      combine, clip, accumulate, mask
    preset(*, options)                          -> Spec        a whole pipeline under one name

Each is a pure function in a file of its own, named like it, in `select/`, `rewards/`, `estimators/`,
`shapers/` or `presets/`. Keyword-only parameters are its options: the annotation is checked when a config
is read and the default is the vetted setting. The names `id`, `name`, `weight` and `of` belong to the
pipeline. A function that declares a keyword `memory` is given what it returned as `memory` the last time
({} at first): plain JSON, keyed by task. Returning None as memory keeps what was there. What a method
needs beyond turns and rewards it declares with `@traits(needs=...)`, so that a batch without it is refused
before anything is computed (`traits.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.segments import BoolArray, FloatArray, episode_sums

__all__ = ["Estimate", "Memory", "Metrics", "Scores", "Selection", "Shaped", "Spec"]

Memory: TypeAlias = Mapping[str, Any]
Metrics: TypeAlias = Mapping[str, float]
Spec: TypeAlias = Mapping[str, Any]
"""A pipeline as a config spells it out: `channel`, and where needed `select` and `loss_term`."""


def _no_metrics() -> Metrics:
    return {}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which episodes are credited and counted in the statistics of their group, [E]."""

    keep_E: BoolArray
    metrics: Metrics = field(default_factory=_no_metrics)
    memory: Memory | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """What the rewards of a channel say about each turn and each episode; rewards add up.

    `turn_N` was earned at a turn and enters the returns of earlier turns; `episode_E` judges a whole
    episode; `local_N` corrects one turn's own score and goes nowhere else. `member_N` marks the turns that
    a reward speaks about (None: all of them): the others have no reward, which is not a reward of 0.
    """

    turn_N: FloatArray
    episode_E: FloatArray
    local_N: FloatArray
    member_N: BoolArray | None = None
    metrics: Metrics = field(default_factory=_no_metrics)
    memory: Memory | None = None

    @classmethod
    def of_turns(cls, batch: Batch, turn_N: FloatArray, **rest: Any) -> Scores:
        """Build from a reward paid turn by turn; an episode's score is their sum."""
        return cls(turn_N, episode_sums(turn_N, batch.offsets_E1), np.zeros(batch.size_N), **rest)

    @classmethod
    def of_episodes(cls, batch: Batch, episode_E: FloatArray, **rest: Any) -> Scores:
        """Build from a verdict on whole episodes; as a turn's reward it is paid at the end."""
        turn_N = np.where(batch.last_N, episode_E[batch.episode_N], 0.0)
        return cls(turn_N, episode_E, np.zeros(batch.size_N), **rest)

    @classmethod
    def of_local(cls, batch: Batch, local_N: FloatArray, **rest: Any) -> Scores:
        """Build from a correction of single turns."""
        return cls(np.zeros(batch.size_N), np.zeros(len(batch)), local_N, **rest)

    @classmethod
    def total(cls, batch: Batch, scores: Sequence[tuple[float, Scores]]) -> Scores:
        """Add weighted scores; a turn is a member if any reward that names its members names it."""
        named = [score.member_N for _, score in scores if score.member_N is not None]
        return cls(
            sum((weight * score.turn_N for weight, score in scores), np.zeros(batch.size_N)),
            sum((weight * score.episode_E for weight, score in scores), np.zeros(len(batch))),
            sum((weight * score.local_N for weight, score in scores), np.zeros(batch.size_N)),
            np.logical_or.reduce(named) if named else None,
        )

    def row_N(self, batch: Batch) -> FloatArray:
        """Return the score of each turn as a judgement of its whole episode: R_i + local_{i,t}."""
        return self.episode_E[batch.episode_N] + self.local_N


@dataclass(frozen=True, slots=True)
class Estimate:
    """One term of the advantage, per turn. `token_T` adds to single trainable tokens (None: 0)."""

    turn_N: FloatArray
    token_T: FloatArray | None = None
    metrics: Metrics = field(default_factory=_no_metrics)
    memory: Memory | None = None


@dataclass(frozen=True, slots=True)
class Shaped:
    """A channel's advantage as named terms whose sum it is, and the turns that its loss covers.

    A shaper returns new terms: a linear one changes each, any other adds a term that holds the difference.
    """

    terms: Mapping[str, FloatArray]
    credited_N: BoolArray
    token_T: FloatArray | None = None
    metrics: Metrics = field(default_factory=_no_metrics)
    memory: Memory | None = None

    def total_N(self) -> FloatArray:
        """Return the sum of the terms, added in order."""
        return sum(self.terms.values(), np.zeros(len(self.credited_N)))
