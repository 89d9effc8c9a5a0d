"""What a set of episodes shows: success with its uncertainty by task kind, pass@k, lengths, errors."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentrl.types import Episode

__all__ = ["KindReport", "Report", "pass_at_k", "report", "wilson_interval"]

Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class KindReport:
    """Success of one kind of task (or of all): counts, rate and a 95 % Wilson interval, in [0, 1]."""

    kind: str
    episodes: int
    successes: int
    low: float
    high: float
    mean_turns: float

    @property
    def rate(self) -> float:
        """Share of successes."""
        return self.successes / self.episodes if self.episodes else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """A summary of episodes. Failed ones (`errors`, by code) count as episodes and not as successes."""

    overall: KindReport
    kinds: tuple[KindReport, ...]
    pass_at: Mapping[int, float]
    mean_return: float
    valid_action_share: float
    stop_reasons: Mapping[str, int]
    errors: Mapping[str, int]


def wilson_interval(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion.

    centre = (p + z²/2n) / (1 + z²/n), half = z/(1 + z²/n) · sqrt(p(1-p)/n + z²/4n²); (0, 1) for n = 0.
    """
    if trials == 0:
        return 0.0, 1.0
    p, n = successes / trials, trials
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def pass_at_k(samples: int, successes: int, k: int) -> float:
    """Return 1 - C(n-c, k)/C(n, k), the unbiased chance that one of k succeeds (2107.03374, eq. 1)."""
    if samples - successes < k:
        return 1.0
    return 1.0 - math.comb(samples - successes, k) / math.comb(samples, k)


def report(episodes: Iterable[Episode]) -> Report:
    """Summarise episodes; pass@k for k = 1, 2, 4, … up to the smallest group's size, mean over groups."""
    played = list(episodes)
    by_kind: dict[str, list[Episode]] = defaultdict(list)
    by_group: dict[str, list[Episode]] = defaultdict(list)
    for episode in played:
        by_kind[str(episode.metadata.get("task_kind") or "(none)")].append(episode)
        by_group[episode.group_id].append(episode)
    turns = [turn for episode in played for turn in episode.turns]
    return Report(
        overall=_kind("all", played),
        kinds=tuple(_kind(kind, by_kind[kind]) for kind in sorted(by_kind)),
        pass_at=_pass_at(list(by_group.values())),
        mean_return=sum(e.ret for e in played) / max(1, len(played)),
        valid_action_share=sum(t.action_valid for t in turns) / max(1, len(turns)),
        stop_reasons=dict(Counter(str(e.stop_reason) for e in played)),
        errors=dict(Counter(str(e.error["code"]) for e in played if e.error is not None)),
    )


def _solved(episode: Episode) -> bool:
    return episode.error is None and bool(episode.correct)


def _kind(kind: str, episodes: Sequence[Episode]) -> KindReport:
    successes = sum(_solved(e) for e in episodes)
    low, high = wilson_interval(successes, len(episodes))
    mean_turns = sum(len(e.turns) for e in episodes) / max(1, len(episodes))
    return KindReport(kind, len(episodes), successes, low, high, mean_turns)


def _pass_at(groups: Sequence[Sequence[Episode]]) -> dict[int, float]:
    smallest = min((len(group) for group in groups), default=0)
    counts = [(len(group), sum(_solved(e) for e in group)) for group in groups]
    return {
        k: sum(pass_at_k(n, c, k) for n, c in counts) / len(counts)
        for k in (2**power for power in range(smallest.bit_length()))
        if k <= smallest
    }
