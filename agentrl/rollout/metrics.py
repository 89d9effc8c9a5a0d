"""Figures of a batch of episodes, under the names that users of verl and verl-agent know."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from agentrl.types import Episode

__all__ = ["episode_metrics"]


def episode_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """Return success, return, length, tool-call and token figures of a batch.

    Failed episodes count in `episode/success_rate` (as no success) and `episode/error_rate` only.
    """
    clean = [episode for episode in episodes if episode.error is None]
    turns = [turn for episode in clean for turn in episode.turns]
    solved = [episode.error is None and bool(episode.correct) for episode in episodes]
    failed = [episode.error is not None for episode in episodes]
    figures = {
        "episode/success_rate": fmean(solved) if episodes else 0.0,
        "episode/error_rate": fmean(failed) if episodes else 0.0,
    }
    if not clean or not turns:
        return figures
    returns = [episode.ret for episode in clean]
    lengths = [len(episode.turns) for episode in clean]
    prompt = [sum(len(t.prompt_ids or ()) for t in e.turns) for e in clean]
    response = [sum(t.num_tokens or 0 for t in e.turns) for e in clean]
    return figures | {
        "episode/reward/mean": fmean(returns),
        "episode/reward/max": max(returns),
        "episode/reward/min": min(returns),
        "episode/length/mean": fmean(lengths),
        "episode/length/max": max(lengths),
        "episode/length/min": min(lengths),
        "episode/tool_call_count/mean": fmean(sum(t.tool_calls for t in e.turns) for e in clean),
        "episode/valid_action_ratio": fmean(t.action_valid for t in turns),
        "episode/truncated_rate": fmean(e.truncated for e in clean),
        "prompt_length/mean": fmean(prompt),
        "response_length/mean": fmean(response),
    }
